"""What a consumer instance commits: what it is told to, and what auto commit owes."""

import logging
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from threading import Condition, Lock, Thread
from typing import NamedTuple

from kafka_http.broker_protocols import Broker
from kafka_http.consumers.assignment_state import AssignmentState
from kafka_http.consumers.offset_tracker import OffsetTracker
from kafka_http.consumers.read_lease import ReadLeaseQueue
from kafka_http.errors import KafkaHttpError, RetriableBrokerError
from kafka_http.records import Commits, CommittedOffset, Definition, RecordPlace, ReleaseCallback, TopicPartition

_log = logging.getLogger(__name__)

AUTO_COMMIT_SECONDS = 4.5
"""From the delivery on: with a call each half second, what was delivered is committed within five seconds."""
_TIMEOUT = 5.0
_AUTO_COMMIT_TIMEOUT = 1.0
_PAUSE = 0.1


class Parts(NamedTuple):
    """What an instance consists of, and the condition that is held to look at it."""

    changed: Condition
    standing: AssignmentState
    lending: ReadLeaseQueue
    bookmarks: OffsetTracker


class OffsetCommitter:
    """Commits for one instance, one commit after the other. Any thread may call, none while it holds `changed`, but
    for `note_debt` and `pay_before`.

    What was delivered of a topic is not committed to another of its name: before a commit the topics' ids are compared.
    """

    def __init__(
        self,
        definition: Definition,
        broker: Broker,
        parts: Parts,
        save: Callable[[], None],
        clock: Callable[[], float],
    ) -> None:
        """`save` is called after each commit; `clock` says when auto commit is due."""
        self._group = definition.group
        self._name = definition.name
        self._is_automatic = definition.settings.auto_commit
        self._isolation = definition.settings.isolation
        self._broker = broker
        self._changed, self._standing, self._lending, self._bookmarks = parts
        self._save = save
        self._clock = clock
        self._turn = Lock()
        self._owing_since: float | None = None

    def commit(self, places: Sequence[RecordPlace] | None, until: float) -> None:
        """Commit behind these records, or (None) what was delivered; again and again while the group is sharing out its
        partitions, `until` then of the monotonic clock."""
        while True:
            try:
                offsets = self._wanted(places, until)
                if places is None:
                    offsets = self._current(offsets, _TIMEOUT)
                self._commit(offsets, _TIMEOUT, self._ends(offsets))
                return
            except RetriableBrokerError:
                if time.monotonic() + _PAUSE > until:
                    raise
                with self._changed:
                    self._changed.wait(_PAUSE)

    def check_topics(self, topics: Collection[str], timeout: float | None = None) -> set[str]:
        """Those of the topics that were deleted since they were read, and perhaps created again. What was read of them
        is forgotten."""
        with self._changed:
            known = {topic: topic_id for topic, topic_id in self._bookmarks.ids.items() if topic in topics}
        ids = self._broker.log.topic_ids(topics, timeout)
        gone = {each for each in topics if each not in ids or ids[each] != known.get(each, ids[each])}
        if gone:
            instance = f"{self._name} of {self._group}"
            _log.info("Topics were deleted; %s forgets its offsets in them: %s", instance, ", ".join(sorted(gone)))
            with self._changed:
                self._bookmarks.forget_topics(gone)
                if (lent := self._lending.current) is not None:
                    lent.held = {each for each in lent.held if each.topic not in gone}
        return gone

    def pay_before(self, release: ReleaseCallback) -> None:
        """Call `release` with what auto commit owes. Does not wait."""
        if owed := self._owed():
            Thread(target=self._release, args=(release, owed), name="release", daemon=True).start()
        else:
            release({})

    def _release(self, release: ReleaseCallback, owed: Commits) -> None:
        current: Commits = {}
        try:
            with self._warning():
                current = self._current(owed, _AUTO_COMMIT_TIMEOUT)
        finally:
            release(current)

    def _owed(self) -> Commits:
        return _commits(self._bookmarks.owed()) if self._is_automatic else {}

    def _current(self, offsets: Commits, timeout: float) -> Commits:
        """Without those of topics that are gone."""
        gone = self.check_topics({each.topic for each in offsets}, timeout) if offsets else set()
        return {place: at for place, at in offsets.items() if place.topic not in gone}

    def _ends(self, offsets: Commits) -> Mapping[TopicPartition, int]:
        """The ends of logs that have no record behind these offsets, but control records, or gaps of compaction."""
        if offsets:
            with suppress(KafkaHttpError):
                positions = {place: each.offset for place, each in offsets.items()}
                return self._broker.log.trailing_ends(positions, self._isolation)
        return {}

    def note_debt(self) -> None:
        """Something was delivered."""
        if self._owing_since is None and self._bookmarks.owed():
            self._owing_since = self._clock()

    def auto_commit(self) -> None:
        """Commit what is owed where that is due."""
        if self._owing_since is None or self._clock() - self._owing_since < AUTO_COMMIT_SECONDS:
            return
        with self._changed:
            offsets = self._owed() if self._standing.partitions is not None else {}
            self._owing_since = self._clock() - AUTO_COMMIT_SECONDS + _AUTO_COMMIT_TIMEOUT  # should this one fail
        with self._warning():
            self._commit(self._current(offsets, _AUTO_COMMIT_TIMEOUT), _AUTO_COMMIT_TIMEOUT)

    def pay(self) -> None:
        """Commit what is owed before the partitions go for good."""
        if not self._is_automatic:
            return
        with self._changed:
            self._lending.settle()
            offsets = self._owed()
        if offsets:
            with self._warning():
                self.commit(None, time.monotonic() + _TIMEOUT)

    def _wanted(self, places: Sequence[RecordPlace] | None, until: float) -> Commits:
        with self._changed:
            if places is None:
                self._lending.settle()
            self._standing.settle(until)
            if places is None:
                return _commits(self._bookmarks.delivered)
        return {TopicPartition(p.topic, p.partition): CommittedOffset(p.offset + 1, p.metadata) for p in places}

    def _commit(self, offsets: Commits, timeout: float, ends: Mapping[TopicPartition, int] | None = None) -> None:
        """Commit these offsets; in place of them, `ends` where there are any."""
        if not offsets:
            return
        reaching = {
            place: CommittedOffset((ends or {}).get(place, each.offset), each.metadata)
            for place, each in offsets.items()
        }
        with self._turn:
            if (membership := self._standing.membership) is not None:
                membership.commit(reaching, timeout)
            else:
                self._broker.groups.commit_offsets(self._group, reaching)
            with self._changed:
                self._bookmarks.paid({place: at.offset for place, at in offsets.items()})
                self._owing_since = self._clock() if self._bookmarks.owed() else None
        self._save()

    @contextmanager
    def _warning(self) -> Iterator[None]:
        try:
            yield
        except KafkaHttpError as error:
            _log.warning("Auto commit for the group %s: %s", self._group, error.message)


def _commits(offsets: Mapping[TopicPartition, int]) -> Commits:
    return {place: CommittedOffset(at) for place, at in offsets.items()}
