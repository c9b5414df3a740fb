"""One consumer instance of the v2 dialect."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from threading import Condition, Lock

from msgspec.structs import replace

from kafka_http.core.bookmarks import Bookmarks
from kafka_http.core.broker import Broker
from kafka_http.core.instance_store import InstanceStore
from kafka_http.core.instances import Loan
from kafka_http.core.lending import Lending, Lent
from kafka_http.core.standing import Standing
from kafka_http.core.starts import find_offsets, find_starts
from kafka_http.core.topic_names import Matches, TopicNames, compile_pattern
from kafka_http.errors import (
    IllegalState,
    InstanceNotFound,
    KafkaHttpError,
    PartitionNotFound,
    RetriableBrokerError,
    Unavailable,
)
from kafka_http.records import Commits, CommittedOffset, Definition, OffsetAt, Place, Progress, TopicPartition

_log = logging.getLogger(__name__)

AUTO_COMMIT_SECONDS = 4.5
"""From the delivery on: with a call each half second, what was delivered is committed within five seconds."""
_COMMIT_TIMEOUT = 5.0
_AUTO_COMMIT_TIMEOUT = 1.0
_PAUSE = 0.1


class Instance:
    """Any thread may call; no call holds the instance for longer than it takes to look at it, but a loan."""

    def __init__(
        self,
        definition: Definition,
        progress: Progress,
        broker: Broker,
        store: InstanceStore,
        clock: Callable[[], float],
    ) -> None:
        self.definition = definition
        self._broker = broker
        self._store = store
        self._clock = clock
        self._changed = Condition()
        self._committing = Lock()
        self._saving = Lock()
        self._defining = Lock()
        self._saved = progress
        self._matches: Matches | None = None if definition.pattern is None else compile_pattern(definition.pattern)
        self._bookmarks = Bookmarks(progress)
        self._standing = Standing(self._changed, self._bookmarks, self._commits_on_loss, self._fence)
        self._lending = Lending(self._changed, clock, self._loan_ended)
        self._owing_since: float | None = None
        self._topics: list[str] = []
        self._gone = False
        self._used = clock()
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
            self._pay()
        self.close(leave=True)
        self._store.delete(self.definition.group, self.definition.name)

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

    # What it reads

    @property
    def is_subscribed(self) -> bool:
        return bool(self.definition.topics) or self.definition.pattern is not None

    def subscribe(self, topics: Sequence[str], pattern: str | None, names: TopicNames) -> None:
        if self.definition.partitions:
            raise _exclusive()
        matches = None if pattern is None else compile_pattern(pattern)
        with self._defining:
            self._define(topics=tuple(dict.fromkeys(topics)), pattern=pattern)
            self._matches = matches
        self.look_up(names)

    def look_up(self, names: TopicNames) -> None:
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
        self._pay()
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
        for topic in dict.fromkeys(each.topic for each in partitions):
            there = {each.partition for each in self._broker.log.partitions(topic)}
            for each in partitions:
                if each.topic == topic and each.partition not in there:
                    raise PartitionNotFound(topic, each.partition, len(there))
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
            there = self._standing.wait(time.monotonic() + self.definition.settings.timeout)
        if there is None and self.is_subscribed:
            raise _not_yet()
        for each in partitions:
            if there is None or each not in there:
                raise IllegalState(f"Illegal state: No current assignment for partition {each.topic}-{each.partition}")

    # What it has read

    def commit(self, places: Sequence[Place] | None) -> None:
        self._commit_by(time.monotonic() + self.definition.settings.timeout, places)

    def _commit_by(self, until: float, places: Sequence[Place] | None) -> None:
        """Commit, again and again while the group is sharing out its partitions."""
        while True:
            try:
                self._commit(self._wanted(places, until), _COMMIT_TIMEOUT)
                return
            except RetriableBrokerError:
                if time.monotonic() + _PAUSE > until:
                    raise
                with self._changed:
                    self._changed.wait(_PAUSE)

    def _wanted(self, places: Sequence[Place] | None, until: float) -> Commits:
        with self._changed:
            if places is None:
                self._lending.settle()
            there = self._standing.wait(until)
            if there is None and self.is_subscribed:
                raise _not_yet()
            if places is None:
                return _commits(self._bookmarks.delivered)
        return {TopicPartition(p.topic, p.partition): CommittedOffset(p.offset + 1, p.metadata) for p in places}

    def _commit(self, offsets: Commits, timeout: float) -> None:
        if not offsets:
            return
        with self._committing:
            membership = self._standing.membership
            if membership is not None:
                membership.commit(offsets, timeout)
            else:
                self._broker.groups.commit_offsets(self.definition.group, offsets)
            with self._changed:
                self._bookmarks.paid({place: at.offset for place, at in offsets.items()})
                self._owing_since = self._clock() if self._bookmarks.owed() else None
        self._save()

    def _commits_on_loss(self) -> Commits:
        """What auto commit owes."""
        return _commits(self._bookmarks.owed()) if self.definition.settings.auto_commit else {}

    def _pay(self) -> None:
        """Commit what auto commit owes, before the partitions go for good."""
        if not self.definition.settings.auto_commit:
            return
        with self._changed:
            self._lending.settle()
            offsets = self._commits_on_loss()
        if offsets:
            with self._warning():
                self._commit_by(time.monotonic() + _COMMIT_TIMEOUT, None)

    @contextmanager
    def _warning(self) -> Iterator[None]:
        try:
            yield
        except KafkaHttpError as error:
            _log.warning("Auto commit for the group %s: %s", self.definition.group, error.message)

    def committed(self, partitions: Sequence[TopicPartition]) -> list[Place]:
        found = self._broker.groups.committed_offsets(self.definition.group, partitions)
        return [Place(*place, *found[place]) for place in partitions if place in found]

    # Its loans

    def borrow(self, timeout: float) -> Loan:
        until = time.monotonic() + timeout
        with self._changed:
            self._standing.lent = lent = self._lending.take(timeout, self._check_reading)
        try:
            self._auto_commit()
            return self._lend(lent, until)
        except BaseException:
            self._drop(lent.id)
            raise

    def renew(self, loan: Loan, positions: Sequence[Place], timeout: float) -> Loan:
        self.use()
        with self._changed:
            lent = self._lending.find(loan.id)
            self._lending.extend(lent, timeout)
            self._bookmarks.positions.update(lent.read_on(positions))
            lent.lend(())
            self._standing.give_up()
        self._auto_commit()
        return self._lend(lent, time.monotonic() + timeout, some=True)

    def give_back(self, loan: Loan, positions: Sequence[Place], delivered: Sequence[Place]) -> None:
        with self._changed:
            if (lent := self._lending.current) is None or lent.id != loan.id:
                return
            self._used = self._clock()
            self._bookmarks.positions.update(lent.read_on(positions))
            self._bookmarks.delivered.update(lent.handed_out(delivered))
            if self._owing_since is None and self._bookmarks.owed():
                self._owing_since = self._clock()
        self._save()
        self._drop(loan.id)

    def drop(self, loan: Loan) -> None:
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

    def _auto_commit(self) -> None:
        since = self._owing_since
        if since is not None and self._clock() - since >= AUTO_COMMIT_SECONDS:
            with self._changed:
                offsets = self._commits_on_loss() if self._standing.partitions is not None else {}
            self._owing_since = self._clock() - AUTO_COMMIT_SECONDS + _AUTO_COMMIT_TIMEOUT  # should this one fail
            with self._warning():
                self._commit(offsets, _AUTO_COMMIT_TIMEOUT)

    def _lend(self, lent: Lent, until: float, *, some: bool = False) -> Loan:
        while True:
            with self._changed:
                self._check_reading()
                there = self._standing.wait(until, some=some)
                self._lending.find(lent.id)
                starting = [each for each in there or () if each not in self._bookmarks.positions]
                if not starting:
                    positions = {each: self._bookmarks.positions[each] for each in there or ()}
                    lent.lend(positions)
                    places = [Place(*place, at) for place, at in positions.items()]
                    return Loan(lent.id, self.definition.settings, places, joining=there is None)
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


def _commits(offsets: Mapping[TopicPartition, int]) -> Commits:
    return {place: CommittedOffset(at) for place, at in offsets.items()}


def _exclusive() -> IllegalState:
    return IllegalState("Illegal state: Subscription to topics, partitions and pattern are mutually exclusive")


def _not_yet() -> Unavailable:
    return Unavailable("The group has not given this consumer instance its partitions yet: try again in a moment.")
