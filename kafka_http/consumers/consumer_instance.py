"""A consumer instance of the v2 API."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from threading import Condition, Lock

from msgspec.structs import replace

from kafka_http.broker_protocols import Broker
from kafka_http.consumers.assignment_state import AssignmentState, Partitions
from kafka_http.consumers.instance_service import InstanceCaller, InstanceStore, ReadLease
from kafka_http.consumers.offset_committer import InstanceState, OffsetCommitter
from kafka_http.consumers.offset_tracker import OffsetTracker
from kafka_http.consumers.read_lease import ActiveLease, ReadLeaseQueue
from kafka_http.errors import IllegalState, InstanceNotFound, Unavailable
from kafka_http.name_filter import NameFilter
from kafka_http.read.start_positions import check_partitions, find_offsets, find_starts
from kafka_http.records import (
    InstanceDefinition,
    InstanceProgress,
    OffsetEntry,
    OffsetSpec,
    TopicPartition,
    offset_entries,
)
from kafka_http.topics import TopicMatcher, TopicPredicate, compile_pattern

_log = logging.getLogger(__name__)


class ConsumerInstance:
    """One consumer instance: its subscription or assignment, its offsets and its read lease.

    `InstanceRegistry` creates it, for a client or from the store, and removes it with `delete` or `close`. Any thread
    may call. A call does not block other calls, except that there is one read lease at a time. `InstanceService`
    documents the methods of the same names.
    """

    def __init__(
        self,
        definition: InstanceDefinition,
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
        self._is_durable = True
        self._matches: TopicPredicate | None = (
            None if definition.pattern is None else compile_pattern(definition.pattern)
        )
        self._offsets = OffsetTracker(progress)
        self._assignment = AssignmentState(self._changed, self._offsets, self._fenced)
        self._leases = ReadLeaseQueue(self._changed, clock, self._lease_ended)
        state = InstanceState(self._changed, self._assignment, self._leases, self._offsets)
        self._committer = OffsetCommitter(definition, broker, state, self._save, clock)
        self._assignment.commit_and_release = self._committer.commit_and_release
        self._topics: list[str] = []
        self._is_closed = False
        self._used = clock()
        self._assignment.expects_assignment = self.is_subscribed
        if definition.partitions:
            with self._changed:
                self._assignment.assign(definition.partitions)

    # Lifetime

    @property
    def is_closed(self) -> bool:
        return self._is_closed

    @property
    def lease_id(self) -> str | None:
        """The id of the current lease, if any."""
        with self._changed:
            self._leases.end_expired()
            return None if self._leases.current is None else self._leases.current.id

    def touch(self) -> None:
        """Record a call, so that the instance is not idle. Raises `InstanceNotFound` if it has ended."""
        if self._is_closed:
            raise InstanceNotFound
        self._used = self._clock()

    def is_idle(self, seconds: float) -> bool:
        """Whether there was no call for this time, and there is no lease."""
        return self.lease_id is None and self._clock() - self._used > seconds

    def delete(self, *, commit: bool) -> None:
        """Leave the group and remove the instance from the store. With `commit`, auto-commit commits first."""
        self.close(leave=True, commit=commit)
        self._store.delete(self.definition.group, self.definition.name)

    def close(self, *, leave: bool = False, commit: bool = False) -> None:
        """End the instance in this process. Without `leave`, another process can continue it.

        With `commit`, auto-commit commits the delivered offsets first.
        """
        if commit:
            self._committer.auto_commit()
        with self._changed:
            self._is_closed = True
            membership = self._assignment.clear()
            self._leases.end()
        if membership is not None:
            (membership.leave if leave else membership.close)()

    def _fenced(self) -> None:
        _log.warning("Another process has taken over %s of %s", self.definition.name, self.definition.group)
        self._is_closed = True
        self._leases.end()

    # Subscription and assignment

    @property
    def is_subscribed(self) -> bool:
        return bool(self.definition.topics) or self.definition.pattern is not None

    def subscribe(
        self, topics: Sequence[str], pattern: str | None, readable: NameFilter, matcher: TopicMatcher
    ) -> None:
        if self.definition.partitions:
            raise _exclusive()
        matches = None if pattern is None else compile_pattern(pattern)
        with self._defining:
            self._define(topics=tuple(dict.fromkeys(topics)), pattern=pattern, readable=readable)
            self._matches = matches
        self.update_topics(matcher)

    def update_readable(self, caller: InstanceCaller) -> None:
        """Let the pattern find what the owner may read now, from the next `update_topics` on."""
        definition = self.definition
        is_owner = caller.owner in ("", definition.owner)  # or authentication is off
        if definition.pattern is not None and is_owner and caller.readable != definition.readable:
            with self._defining:
                self._define(readable=caller.readable)

    def update_topics(self, matcher: TopicMatcher) -> None:
        """Subscribe to the topics that exist now. Raises `Unavailable` if the process cannot open a connection."""
        topics = self._matching_topics(matcher)
        ended = None
        with self._changed:
            has_joined = self._assignment.membership is not None
            is_current = topics == self._topics and (has_joined or self._assignment.partitions is not None)
            if self._is_closed or not self.is_subscribed or is_current:
                return
            self._topics = topics
            if topics:
                join = partial(self._broker.memberships.join, self.definition.group, self.definition.member_id)
                self._assignment.subscribe(topics, join)
            else:
                ended = self._assignment.clear()
                self._assignment.assign(())
        if ended is not None:
            ended.leave()

    def _matching_topics(self, matcher: TopicMatcher) -> list[str]:
        if (matches := self._matches) is None:
            return matcher.existing(self.definition.topics)
        readable = self.definition.readable
        return [each for each in matcher.matching(matches) if readable.matches(each)]

    def unsubscribe(self) -> None:
        self._committer.auto_commit()
        with self._defining:
            self._define(topics=(), pattern=None, partitions=())
        with self._changed:
            membership = self._assignment.clear()
            self._offsets.retain(())
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
            self._offsets.retain(partitions)
            self._assignment.assign(partitions)
        self._save()

    def assignments(self) -> list[TopicPartition]:
        return sorted(self._assignment.partitions or ())

    def _define(self, **changes: object) -> None:
        definition = replace(self.definition, **changes)
        self._store.update(definition)
        self.definition = definition

    # Offsets

    def seek(self, offsets: Mapping[TopicPartition, int]) -> None:
        self._check_assigned(offsets)
        with self._changed:
            self._offsets.positions.update(offsets)
            if self._leases.current is not None:
                self._leases.current.repositioned.update(offsets)
        self._save()

    def seek_to(self, specs: Mapping[TopicPartition, OffsetSpec]) -> None:
        self._check_assigned(specs)
        self.seek(find_offsets(self._broker.log, specs, self.definition.settings.isolation))

    def _check_assigned(self, partitions: Mapping[TopicPartition, object]) -> None:
        """Wait for the assignment. Raises `IllegalState` if it does not have these partitions."""
        with self._changed:
            assigned = self._assignment.require(time.monotonic() + self.definition.settings.timeout)
        for each in partitions:
            if assigned is None or each not in assigned:
                raise IllegalState(f"Illegal state: No current assignment for partition {each.topic}-{each.partition}")

    def commit(self, entries: Sequence[OffsetEntry] | None) -> None:
        if entries is not None:
            check_partitions(self._broker.log, [TopicPartition(each.topic, each.partition) for each in entries])
        self._committer.commit(entries, time.monotonic() + self.definition.settings.timeout)

    def committed(self, partitions: Sequence[TopicPartition]) -> list[OffsetEntry]:
        found = self._broker.groups.committed_offsets(self.definition.group, partitions)
        return [OffsetEntry(*tp, *found[tp]) for tp in partitions if tp in found]

    # The read lease

    def acquire(self, timeout: float) -> ReadLease:
        until = time.monotonic() + timeout
        with self._changed:
            self._assignment.lease = lease = self._leases.acquire(timeout, self._check_readable)
        try:
            self._committer.auto_commit_if_due()
            return self._grant(lease, until)
        except BaseException:
            self._end_lease(lease.id)
            raise

    def renew(
        self, lease: ReadLease, positions: Sequence[OffsetEntry], timeout: float, recreated: Sequence[str]
    ) -> ReadLease:
        self.touch()
        if recreated:
            self._committer.drop_deleted_topics(recreated)
        with self._changed:
            active = self._leases.find(lease.id)
            self._leases.extend(active, timeout)
            self._offsets.advance(active.valid_positions(positions))
            self._committer.note_delivery()
            active.grant(())
            self._assignment.release_revoked()
        self._committer.auto_commit_if_due()
        return self._grant(active, time.monotonic() + timeout, non_empty=True)

    def release(self, lease: ReadLease, positions: Sequence[OffsetEntry], delivered: Sequence[OffsetEntry]) -> None:
        if positions or delivered:
            with self._changed:
                if (active := self._leases.current) is None or active.id != lease.id:
                    return
                self._used = self._clock()
                self._offsets.record_delivery(active.valid_positions(positions), active.valid_delivered(delivered))
                self._committer.note_delivery()
            # No wait for the disk with each page: if the machine crashes now, its records are delivered again.
            self._save(durable=False)
        self._end_lease(lease.id)  # after the save, so that the saves of two readers keep their order

    def _end_lease(self, lease_id: str) -> None:
        with self._changed:
            if self._leases.current is not None and self._leases.current.id == lease_id:
                self._leases.end()

    def _lease_ended(self) -> None:
        self._assignment.lease = None
        self._assignment.release_revoked()

    def _check_readable(self) -> None:
        if self._is_closed:
            raise InstanceNotFound
        if not self.is_subscribed and not self.definition.partitions:
            raise IllegalState("Illegal state: Consumer is not subscribed to any topics or assigned any partitions")

    def _grant(self, active: ActiveLease, until: float, *, non_empty: bool = False) -> ReadLease:
        """Wait for the assignment and its start positions, and grant it to the owner of the lease."""
        missing: set[str] = set()
        while True:
            with self._changed:
                self._check_readable()
                partitions = self._assignment.wait(until, non_empty=non_empty)
                self._leases.find(active.id)
                starting = [each for each in partitions or () if each not in self._offsets.positions]
                unknown = {each.topic for each in partitions or ()} - self._offsets.ids.keys() - missing
                if not starting and not unknown:
                    return self._granted(active, partitions)
            if unknown:  # before the offsets, so that offsets of a later topic are out of range or at its start
                found = self._broker.log.topic_ids(unknown)
                missing |= unknown - found.keys()
                with self._changed:
                    self._offsets.ids = found | self._offsets.ids
            starts = find_starts(self._broker, self.definition.group, self.definition.settings, starting)
            with self._changed:
                for tp, at in starts.items():
                    if tp in (self._assignment.partitions or ()):
                        self._offsets.positions.setdefault(tp, at)

    def _granted(self, active: ActiveLease, partitions: Partitions | None) -> ReadLease:
        positions = {each: self._offsets.positions[each] for each in partitions or ()}
        active.grant(positions)
        topics = {each.topic for each in positions}
        ids = {topic: topic_id for topic, topic_id in self._offsets.ids.items() if topic in topics}
        joining = partitions is None
        by_pattern = self.definition.pattern is not None
        settings, entries = self.definition.settings, offset_entries(positions)
        return ReadLease(active.id, settings, entries, joining=joining, ids=ids, by_pattern=by_pattern)

    # Storage

    def _save(self, *, durable: bool = True) -> None:
        """Store the offsets if they have changed, or if the last change is not durable but must be."""
        with self._saving:
            with self._changed:
                progress = self._offsets.progress()
                is_saved = progress == self._saved and (self._is_durable or not durable)
                if self._is_closed or is_saved:
                    return
            try:
                self._store.save(self.definition.group, self.definition.name, progress, durable=durable)
                self._saved, self._is_durable = progress, durable
            except Unavailable as error:
                _log.error("Offsets of %s could not be stored: %s", self.definition.name, error.message)


def _exclusive() -> IllegalState:
    return IllegalState("Illegal state: Subscription to topics, partitions and pattern are mutually exclusive")
