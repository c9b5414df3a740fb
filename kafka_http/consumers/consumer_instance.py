"""One consumer instance of the v2 dialect."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from threading import Condition, Lock

from msgspec.structs import replace

from kafka_http.broker_protocols import Broker
from kafka_http.consumers.assignment_state import AssignmentState
from kafka_http.consumers.instance_service import ReadLease
from kafka_http.consumers.instance_store import InstanceStore
from kafka_http.consumers.offset_committer import OffsetCommitter, Parts
from kafka_http.consumers.offset_tracker import OffsetTracker
from kafka_http.consumers.read_lease import LeasedRead, ReadLeaseQueue
from kafka_http.errors import IllegalState, InstanceNotFound, Unavailable
from kafka_http.read.start_offsets import check_partitions, find_offsets, find_starts
from kafka_http.records import Definition, InstanceProgress, OffsetAt, RecordPlace, ReleaseCallback, TopicPartition
from kafka_http.topics import Matches, TopicMatcher, compile_pattern

_log = logging.getLogger(__name__)


class ConsumerInstance:
    """Any thread may call; no call holds the instance for longer than it takes to look at it, but a loan."""

    def __init__(
        self,
        definition: Definition,
        progress: InstanceProgress,
        broker: Broker,
        store: InstanceStore,
        clock: Callable[[], float],
    ) -> None:
        self.definition = definition
        self._broker = broker
        self._store = store
        self._clock = clock
        self._changed = Condition()
        self._saving = Lock()
        self._defining = Lock()
        self._saved = progress
        self._matches: Matches | None = None if definition.pattern is None else compile_pattern(definition.pattern)
        self._bookmarks = OffsetTracker(progress)
        self._standing = AssignmentState(self._changed, self._bookmarks, self._pay_before, self._fence)
        self._lending = ReadLeaseQueue(self._changed, clock, self._loan_ended)
        self._committer = OffsetCommitter(
            definition,
            broker,
            Parts(self._changed, self._standing, self._lending, self._bookmarks),
            self._save,
            clock,
        )
        self._topics: list[str] = []
        self._gone = False
        self._used = clock()
        self._standing.is_expecting = self.is_subscribed
        if definition.partitions:
            with self._changed:
                self._standing.assign(definition.partitions)

    # Its life

    @property
    def is_gone(self) -> bool:
        return self._gone

    @property
    def loan_id(self) -> str | None:
        """Of the loan that is out now."""
        with self._changed:
            self._lending.end_overdue()
            return None if self._lending.current is None else self._lending.current.id

    def use(self) -> None:
        """Count a call. Raises `InstanceNotFound` where the instance has ended."""
        if self._gone:
            raise InstanceNotFound
        self._used = self._clock()

    def is_idle(self, seconds: float) -> bool:
        return self.loan_id is None and self._clock() - self._used > seconds

    def end(self, *, commit: bool) -> None:
        """Leave the group and forget everything, for `commit` not without committing what auto commit owes."""
        if commit:
            self._committer.pay()
        self.close(leave=True)
        self._store.delete(self.definition.group, self.definition.name)

    def commit_owed(self) -> None:
        """Commit what auto commit owes. A failure is logged."""
        self._committer.pay()

    def close(self, *, leave: bool = False) -> None:
        """End in this process; without `leave`, another one finds everything as it was."""
        with self._changed:
            self._gone = True
            membership = self._standing.end()
            self._lending.end()
        if membership is not None:
            (membership.leave if leave else membership.close)()

    def _fence(self) -> None:
        _log.warning("Another process has taken over %s of %s.", self.definition.name, self.definition.group)
        self._gone = True
        self._lending.end()

    def _pay_before(self, release: ReleaseCallback) -> None:
        self._committer.pay_before(release)

    # What it reads

    @property
    def is_subscribed(self) -> bool:
        return bool(self.definition.topics) or self.definition.pattern is not None

    def subscribe(self, topics: Sequence[str], pattern: str | None, names: TopicMatcher) -> None:
        if self.definition.partitions:
            raise _exclusive()
        matches = None if pattern is None else compile_pattern(pattern)
        with self._defining:
            self._define(topics=tuple(dict.fromkeys(topics)), pattern=pattern)
            self._matches = matches
        self.look_up(names)

    def look_up(self, names: TopicMatcher) -> None:
        """Subscribe to those of its topics that are there now. Raises `Unavailable` where there is no room to join."""
        matches = self._matches
        topics = names.existing(self.definition.topics) if matches is None else names.matching(matches)
        ended = None
        with self._changed:
            has_joined = self._standing.membership is not None
            is_done = topics == self._topics and (has_joined or self._standing.partitions is not None)
            if self._gone or not self.is_subscribed or is_done:
                return
            self._topics = topics
            if topics:
                join = partial(self._broker.memberships.join, self.definition.group, self.definition.member_id)
                self._standing.want(topics, join)
            else:
                ended = self._standing.end()
                self._standing.assign(())
        if ended is not None:
            ended.leave()

    def unsubscribe(self) -> None:
        self._committer.pay()
        with self._defining:
            self._define(topics=(), pattern=None, partitions=())
        with self._changed:
            membership = self._standing.end()
            self._bookmarks.keep(())
            self._topics = []
        if membership is not None:
            membership.leave()
        self._save()

    def subscription(self) -> list[str]:
        return list(self.definition.topics) if self.definition.pattern is None else list(self._topics)

    def assign(self, partitions: Sequence[TopicPartition]) -> None:
        if self.is_subscribed:
            raise _exclusive()
        check_partitions(self._broker.log, partitions, missing_topics=True)
        with self._defining:
            self._define(partitions=tuple(dict.fromkeys(partitions)))
        with self._changed:
            self._bookmarks.keep(partitions)
            self._standing.assign(partitions)
        self._save()

    def assignments(self) -> list[TopicPartition]:
        return sorted(self._standing.partitions or ())

    def _define(self, **changes: object) -> None:
        definition = replace(self.definition, **changes)
        self._store.update(definition)
        self.definition = definition

    # Where it reads

    def seek(self, places: Mapping[TopicPartition, int]) -> None:
        self._wait_for_all(places)
        with self._changed:
            self._bookmarks.positions.update(places)
            if self._lending.current is not None:
                self._lending.current.sought.update(places)
        self._save()

    def seek_to(self, places: Mapping[TopicPartition, OffsetAt]) -> None:
        """As `seek`, to an end or a time."""
        self._wait_for_all(places)
        self.seek(find_offsets(self._broker.log, places, self.definition.settings.isolation))

    def _wait_for_all(self, partitions: Mapping[TopicPartition, object]) -> None:
        """Wait for the assignment. Raises `IllegalState` where these are not in it."""
        with self._changed:
            there = self._standing.settle(time.monotonic() + self.definition.settings.timeout)
        for each in partitions:
            if there is None or each not in there:
                raise IllegalState(f"Illegal state: No current assignment for partition {each.topic}-{each.partition}")

    # What it has read

    def commit(self, places: Sequence[RecordPlace] | None) -> None:
        if places is not None:
            check_partitions(self._broker.log, [TopicPartition(each.topic, each.partition) for each in places])
        self._committer.commit(places, time.monotonic() + self.definition.settings.timeout)

    def committed(self, partitions: Sequence[TopicPartition]) -> list[RecordPlace]:
        found = self._broker.groups.committed_offsets(self.definition.group, partitions)
        return [RecordPlace(*place, *found[place]) for place in partitions if place in found]

    # Its loans

    def borrow(self, timeout: float) -> ReadLease:
        until = time.monotonic() + timeout
        with self._changed:
            self._standing.lent = lent = self._lending.take(timeout, self._check_reading)
        try:
            self._committer.auto_commit()
            return self._lend(lent, until)
        except BaseException:
            self._drop(lent.id)
            raise

    def renew(
        self, loan: ReadLease, positions: Sequence[RecordPlace], timeout: float, recreated: Sequence[str]
    ) -> ReadLease:
        self.use()
        if recreated:
            self._committer.check_topics(recreated)
        with self._changed:
            lent = self._lending.find(loan.id)
            self._lending.extend(lent, timeout)
            self._bookmarks.read_on(lent.read_on(positions))
            self._committer.note_debt()
            lent.lend(())
            self._standing.give_up()
        self._committer.auto_commit()
        return self._lend(lent, time.monotonic() + timeout, some=True)

    def give_back(self, loan: ReadLease, positions: Sequence[RecordPlace], delivered: Sequence[RecordPlace]) -> None:
        with self._changed:
            if (lent := self._lending.current) is None or lent.id != loan.id:
                return
            self._used = self._clock()
            self._bookmarks.hand_out(lent.read_on(positions), lent.handed_out(delivered))
            self._committer.note_debt()
        self._save()
        self._drop(loan.id)

    def drop(self, loan: ReadLease) -> None:
        self._drop(loan.id)

    def _drop(self, loan_id: str) -> None:
        with self._changed:
            if self._lending.current is not None and self._lending.current.id == loan_id:
                self._lending.end()

    def _loan_ended(self) -> None:
        self._standing.lent = None
        self._standing.give_up()

    def _check_reading(self) -> None:
        if self._gone:
            raise InstanceNotFound
        if not self.is_subscribed and not self.definition.partitions:
            raise IllegalState("Illegal state: Consumer is not subscribed to any topics or assigned any partitions")

    def _lend(self, lent: LeasedRead, until: float, *, some: bool = False) -> ReadLease:
        missing: set[str] = set()
        while True:
            with self._changed:
                self._check_reading()
                there = self._standing.wait(until, some=some)
                self._lending.find(lent.id)
                starting = [each for each in there or () if each not in self._bookmarks.positions]
                topics = {each.topic for each in there or ()}
                unknown = topics - self._bookmarks.ids.keys() - missing
                if not starting and not unknown:
                    positions = {each: self._bookmarks.positions[each] for each in there or ()}
                    lent.lend(positions)
                    places = [RecordPlace(*place, at) for place, at in positions.items()]
                    ids = {topic: topic_id for topic, topic_id in self._bookmarks.ids.items() if topic in topics}
                    return ReadLease(lent.id, self.definition.settings, places, joining=there is None, ids=ids)
            if unknown:  # before the offsets: those of a later topic are out of the log or begin it
                found = self._broker.log.topic_ids(unknown)
                missing |= unknown - found.keys()
                with self._changed:
                    self._bookmarks.ids = found | self._bookmarks.ids
            starts = find_starts(self._broker, self.definition.group, self.definition.settings, starting)
            with self._changed:
                for place, at in starts.items():
                    if place in (self._standing.partitions or ()):
                        self._bookmarks.positions.setdefault(place, at)

    # What is kept of it

    def _save(self) -> None:
        with self._saving:
            with self._changed:
                progress = self._bookmarks.progress()
                if self._gone or progress == self._saved:
                    return
            try:
                self._store.save(self.definition.group, self.definition.name, progress)
                self._saved = progress
            except Unavailable as error:
                _log.error("The progress of %s is not saved: %s", self.definition.name, error.message)


def _exclusive() -> IllegalState:
    return IllegalState("Illegal state: Subscription to topics, partitions and pattern are mutually exclusive")
