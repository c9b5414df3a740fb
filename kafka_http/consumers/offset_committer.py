"""The commits of a consumer instance: those that clients request, and auto-commit."""

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
from kafka_http.records import (
    Commits,
    CommittedOffset,
    InstanceDefinition,
    RecordPlace,
    ReleaseCallback,
    TopicPartition,
)

_log = logging.getLogger(__name__)

AUTO_COMMIT_SECONDS = 4.5
"""The time from a delivery to its commit. With a call every half second, it is committed within five seconds."""
_TIMEOUT = 5.0
_AUTO_COMMIT_TIMEOUT = 1.0
_RETRY_PAUSE_SECONDS = 0.1


class InstanceState(NamedTuple):
    """The parts of an instance, and the condition that locks them."""

    changed: Condition
    assignment: AssignmentState
    leases: ReadLeaseQueue
    offsets: OffsetTracker


class OffsetCommitter:
    """Commits the offsets of one instance, one commit at a time. The instance creates it.

    Any thread may call. `note_delivery` and `commit_and_release` are called with the lock on `changed`, all other
    methods without it. Before a commit, the ids of the topics are compared, so that offsets of a deleted topic are not
    committed to a new topic of its name.
    """

    def __init__(
        self,
        definition: InstanceDefinition,
        broker: Broker,
        state: InstanceState,
        save: Callable[[], None],
        clock: Callable[[], float],
    ) -> None:
        """`save` is called after each commit. `clock` tells when auto-commit is due."""
        self._group = definition.group
        self._name = definition.name
        self._is_automatic = definition.settings.auto_commit
        self._isolation = definition.settings.isolation
        self._broker = broker
        self._changed, self._assignment, self._leases, self._offsets = state
        self._save = save
        self._clock = clock
        self._committing = Lock()
        self._uncommitted_since: float | None = None

    def commit(self, places: Sequence[RecordPlace] | None, until: float) -> None:
        """Commit the offsets after these records, or after the delivered records (None).

        During a rebalance this retries until `until` (monotonic clock).
        """
        while True:
            try:
                offsets = self._requested(places, until)
                if places is None:
                    offsets = self._without_deleted_topics(offsets, _TIMEOUT)
                self._commit(offsets, _TIMEOUT, self._caught_up_ends(offsets))
                return
            except RetriableBrokerError:
                if time.monotonic() + _RETRY_PAUSE_SECONDS > until:
                    raise
                with self._changed:
                    self._changed.wait(_RETRY_PAUSE_SECONDS)

    def drop_deleted_topics(self, topics: Collection[str], timeout: float | None = None) -> set[str]:
        """Drop the offsets of topics that were deleted, and perhaps created again. Return these topics."""
        with self._changed:
            known = {topic: topic_id for topic, topic_id in self._offsets.ids.items() if topic in topics}
        ids = self._broker.log.topic_ids(topics, timeout)
        deleted = {each for each in topics if each not in ids or ids[each] != known.get(each, ids[each])}
        if deleted:
            instance = f"{self._name} of {self._group}"
            _log.info("Offsets of deleted topics dropped for %s: %s", instance, ", ".join(sorted(deleted)))
            with self._changed:
                self._offsets.drop_topics(deleted)
                if (lease := self._leases.current) is not None:
                    lease.held = {each for each in lease.held if each.topic not in deleted}
        return deleted

    def commit_and_release(self, release: ReleaseCallback) -> None:
        """Call `release` with the offsets that auto-commit has not committed yet. Does not block."""
        if offsets := self._uncommitted():
            Thread(target=self._release, args=(release, offsets), name="release", daemon=True).start()
        else:
            release({})

    def _release(self, release: ReleaseCallback, offsets: Commits) -> None:
        current: Commits = {}
        try:
            with self._logged_errors():
                current = self._without_deleted_topics(offsets, _AUTO_COMMIT_TIMEOUT)
        finally:
            release(current)

    def note_delivery(self) -> None:
        """Start the auto-commit interval if there are uncommitted offsets."""
        if self._uncommitted_since is None and self._offsets.uncommitted():
            self._uncommitted_since = self._clock()

    def auto_commit_if_due(self) -> None:
        """Commit the delivered offsets if the auto-commit interval is over. Errors are logged."""
        if self._uncommitted_since is None or self._clock() - self._uncommitted_since < AUTO_COMMIT_SECONDS:
            return
        with self._changed:
            offsets = self._uncommitted() if self._assignment.partitions is not None else {}
            # If this commit fails, the next is due soon.
            self._uncommitted_since = self._clock() - AUTO_COMMIT_SECONDS + _AUTO_COMMIT_TIMEOUT
        with self._logged_errors():
            current = self._without_deleted_topics(offsets, _AUTO_COMMIT_TIMEOUT)
            self._commit(current, _AUTO_COMMIT_TIMEOUT)

    def auto_commit(self) -> None:
        """Commit the delivered offsets if auto-commit is on, before the instance loses its partitions.

        Errors are logged.
        """
        if not self._is_automatic:
            return
        with self._changed:
            self._leases.wait_for_delivery()
            offsets = self._uncommitted()
        if offsets:
            with self._logged_errors():
                self.commit(None, time.monotonic() + _TIMEOUT)

    def _uncommitted(self) -> Commits:
        return _commits(self._offsets.uncommitted()) if self._is_automatic else {}

    def _without_deleted_topics(self, offsets: Commits, timeout: float) -> Commits:
        deleted = self.drop_deleted_topics({each.topic for each in offsets}, timeout) if offsets else set()
        return {place: at for place, at in offsets.items() if place.topic not in deleted}

    def _caught_up_ends(self, offsets: Commits) -> Mapping[TopicPartition, int]:
        """Return the ends of logs that have only control records or gaps of compaction after these offsets."""
        if offsets:
            with suppress(KafkaHttpError):
                positions = {place: each.offset for place, each in offsets.items()}
                return self._broker.log.caught_up_ends(positions, self._isolation)
        return {}

    def _requested(self, places: Sequence[RecordPlace] | None, until: float) -> Commits:
        with self._changed:
            if places is None:
                self._leases.wait_for_delivery()
            self._assignment.require(until)
            if places is None:
                return _commits(self._offsets.delivered)
        return {TopicPartition(p.topic, p.partition): CommittedOffset(p.offset + 1, p.metadata) for p in places}

    def _commit(self, offsets: Commits, timeout: float, ends: Mapping[TopicPartition, int] | None = None) -> None:
        """Commit these offsets, or their `ends` instead."""
        if not offsets:
            return
        commits = {
            place: CommittedOffset((ends or {}).get(place, each.offset), each.metadata)
            for place, each in offsets.items()
        }
        with self._committing:
            if (membership := self._assignment.membership) is not None:
                membership.commit(commits, timeout)
            else:
                self._broker.groups.commit_offsets(self._group, commits)
            with self._changed:
                # Not the ends in `commits`: `uncommitted` compares with the delivered offsets.
                self._offsets.mark_committed({place: at.offset for place, at in offsets.items()})
                self._uncommitted_since = self._clock() if self._offsets.uncommitted() else None
        self._save()

    @contextmanager
    def _logged_errors(self) -> Iterator[None]:
        try:
            yield
        except KafkaHttpError as error:
            _log.warning("Auto-commit failed for group %s: %s", self._group, error.message)


def _commits(offsets: Mapping[TopicPartition, int]) -> Commits:
    return {place: CommittedOffset(at) for place, at in offsets.items()}
