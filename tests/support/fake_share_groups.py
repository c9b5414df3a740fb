"""Share groups in memory, for `FakeBroker`: locks, delivery counts and windows, on a clock that a test may set."""

import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from kafka_http.errors import (
    BrokerUnavailable,
    GroupHasMembers,
    GroupNotFound,
    KafkaHttpError,
    LeaseLost,
    OutcomeUnknown,
    QueuesUnsupported,
    WrongGroupType,
)
from kafka_http.records import GroupMember, RecordColumns, TopicPartition
from kafka_http.share_groups import (
    Acknowledgement,
    AckResult,
    AcquiredRecords,
    ShareGroupSettings,
    ShareListener,
    ShareProgress,
)
from tests.support.fake_share_partitions import FakeShareGroup, FakeSharePartition

if TYPE_CHECKING:
    from tests.support.fake_broker import FakeBroker

_POLL = 0.02
_MAX_RECORDS = 500


class FakeShareMember:
    """Implements `ShareMember`. The loop of its `FakeShareGroups` runs it."""

    def __init__(self, groups: "FakeShareGroups", group: str, topic: str, listener: ShareListener) -> None:
        self.groups = groups
        self.group = group
        self.topic = topic
        self.listener = listener
        self.failure: str | None = "joining"
        self.acknowledgements: list[Acknowledgement] = []

    @property
    def settings(self) -> ShareGroupSettings:
        return self.groups.group(self.group).settings

    def acknowledge(self, acknowledgements: Sequence[Acknowledgement]) -> None:
        with self.groups.changed:
            self.acknowledgements += acknowledgements
            self.groups.changed.notify_all()

    def wake(self) -> None:
        with self.groups.changed:
            self.groups.changed.notify_all()

    def close(self, timeout: float) -> None:
        self.groups.leave(self)

    def run(self) -> None:
        """Do one turn: send acknowledgements, then acquire what is wanted."""
        problem = self.groups.problem(self)
        kind = None if problem is None else type(problem).__name__
        if problem is not None and kind != self.failure:
            self.listener.lost(self.groups.forget(self))
        if kind != self.failure or (problem is not None and self.listener.wanted() > 0):
            self.failure = kind
            self.listener.failed(problem)
        if results := self.groups.settle(self, problem):
            self.listener.acknowledged(results)
        if problem is None and (wanted := self.listener.wanted()) > 0:
            for each in (acquired := self.groups.acquire(self, min(wanted, _MAX_RECORDS))):
                self.listener.acquired(each)
            if not acquired:
                self.listener.exhausted()


class FakeShareGroups:
    """Implements `ShareGroups`. Switches for tests:

    clock: the time of locks; the monotonic clock by default.
    unsupported: the brokers have no share groups.
    refuses_settings: ACLs refuse changes of a group's settings.
    """

    def __init__(self, broker: "FakeBroker", changed: threading.Condition) -> None:
        self._broker = broker
        self.changed = changed
        self.clock: Callable[[], float] = time.monotonic
        self.unsupported = False
        self.refuses_settings = False
        self._groups: dict[str, FakeShareGroup] = {}
        self._members: list[FakeShareMember] = []
        self._turn = threading.Lock()
        """Held while a member runs, so that its listener is called by one thread at a time."""
        self._is_paused = False
        self._thread: threading.Thread | None = None

    # ShareGroups

    def settings(self, group: str) -> ShareGroupSettings:
        self._check()
        return self.group(group).settings

    def prepare(self, group: str, attempts: int) -> ShareGroupSettings:
        self._check()
        self.check_type(group)
        with self.changed:
            found = self.group(group)
            if self.refuses_settings:
                return ShareGroupSettings(*_fields(found.settings), refused=True)
            if not found.from_earliest:
                found.from_earliest = True
                found.settings = ShareGroupSettings(attempts, found.settings.lock, 4000)
            return found.settings

    def join(self, group: str, topic: str, listener: ShareListener) -> FakeShareMember:
        self._check_supported()
        member = FakeShareMember(self, group, topic, listener)
        with self.changed:
            self._members.append(member)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="fake-share-groups", daemon=True)
                self._thread.start()
        return member

    def progress(self, group: str, topic: str) -> dict[int, ShareProgress]:
        self._check()
        with self.changed:
            if self._broker.group_types.get(group) != "share":
                raise GroupNotFound(group)
            partitions = self._broker.found(topic).partitions
            _, shares = self.group(group).topics.get(topic, (None, {}))
            return {
                number: ShareProgress(each.start, partitions[number].latest - each.next + len(each.deliveries))
                for number, each in shares.items()
            }

    def delete_offsets(self, group: str, topic: str) -> None:
        self._check()
        with self.changed:
            if self._broker.group_types.get(group) != "share":
                raise GroupNotFound(group)
            if members := self.members(group):
                names = [{"client_id": each.client_id, "host": each.host} for each in members]
                raise GroupHasMembers(f"The group {group} has active members.", members=names)
            starts = self._broker.share_starts.get(group, {})
            for each in [each for each in starts if each.topic == topic]:
                del starts[each]
            self.group(group).topics.pop(topic, None)
            if not starts:
                self.remove(group)

    # For tests

    def set_group(self, group: str, attempts: int = 5, lock: float = 30.0, window: int = 4000) -> None:
        """Make the settings of a group, as somebody else would have."""
        found = self.group(group)
        found.settings, found.from_earliest = ShareGroupSettings(attempts, lock, window), True

    def end_session(self, group: str) -> None:
        """End the sessions of a group's members, as the end of their connections does."""
        for each in self._members_of(group):
            with self._turn:
                each.listener.lost(self.forget(each))

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Answer nothing until `resume`, or the end of the context."""
        self._turn.acquire()
        self._is_paused = True
        try:
            yield
        finally:
            self.resume()

    def resume(self) -> None:
        if self._is_paused:
            self._is_paused = False
            self._turn.release()

    def finish_turn(self) -> None:
        """Return when all acknowledgements up to now have their results. No effect while `paused`."""
        for each in [] if self._is_paused else list(self._members):
            with self._turn:
                each.run()

    def wanted(self, group: str) -> int:
        """Return how many messages the members of a group want."""
        return sum(each.listener.wanted() for each in self._members_of(group))

    # For FakeBroker

    def members(self, group: str) -> list[GroupMember]:
        return [
            GroupMember(f"member-{at}", "kafka_http", "127.0.0.1", None, self._partitions(each.topic))
            for at, each in enumerate(self._members_of(group))
        ]

    def remove(self, group: str) -> None:
        self._groups.pop(group, None)
        self._broker.share_starts.pop(group, None)
        self._broker.group_types.pop(group, None)

    def check_type(self, group: str) -> None:
        """Raise `WrongGroupType` if the name belongs to a group of another type."""
        other = self._broker.group_types.get(group, "share") != "share"
        is_listed = group in self._broker.groups_with_offsets() or group in self._broker.groups_with_members()
        if other or (is_listed and self._broker.group_types.get(group) != "share"):
            raise WrongGroupType(f"{group} is the name of an ordinary consumer.")

    # For members

    def group(self, name: str) -> FakeShareGroup:
        return self._groups.setdefault(name, FakeShareGroup())

    def problem(self, member: FakeShareMember) -> KafkaHttpError | None:
        """Return what prevents a member from reading its topic."""
        try:
            self._check()
            self.check_type(member.group)
            with self.changed:
                self._broker.found(member.topic)
                self._shares(member)
        except KafkaHttpError as error:
            return error
        return None

    def forget(self, member: FakeShareMember) -> Collection[int]:
        """Release what a member holds. Return the partitions of its topic."""
        with self.changed:
            _, partitions = self.group(member.group).topics.get(member.topic, (None, {}))
            for each in partitions.values():
                each.release(member.settings.attempts, lambda delivery: delivery.member is member)
            return list(partitions)

    def settle(self, member: FakeShareMember, problem: KafkaHttpError | None) -> list[AckResult]:
        with self.changed:
            acks, member.acknowledgements = member.acknowledgements, []
            if isinstance(problem, BrokerUnavailable):
                return [(each, OutcomeUnknown("Kafka did not answer the acknowledgement.")) for each in acks]
            if problem is not None:
                return [(each, LeaseLost()) for each in acks]
            now, shares = self.clock(), self._shares(member)
            results: list[AckResult] = [(each, shares[each.partition].acknowledge(each, member, now)) for each in acks]
            self._note_starts(member, shares)
        return results

    def acquire(self, member: FakeShareMember, wanted: int) -> list[AcquiredRecords]:
        acquired = []
        with self.changed:
            now, found = self.clock(), self._broker.all_topics.get(member.topic)
            for partition, share in self._shares(member).items() if found else ():
                taken = share.acquire(found.partitions[partition], member, wanted, now)
                wanted -= len(taken)
                if taken:
                    records, attempts = zip(*taken, strict=True)
                    columns = RecordColumns.from_records(records)
                    acquired.append(AcquiredRecords(columns, attempts, now + member.settings.lock))
        return acquired

    def leave(self, member: FakeShareMember) -> None:
        with self._turn:
            if results := self.settle(member, self.problem(member)):
                member.listener.acknowledged(results)
            self.forget(member)
            with self.changed:
                if member in self._members:
                    self._members.remove(member)
                self.changed.notify_all()

    def _members_of(self, group: str) -> list[FakeShareMember]:
        return [each for each in list(self._members) if each.group == group]

    def _partitions(self, topic: str) -> tuple[TopicPartition, ...]:
        found = self._broker.all_topics.get(topic)
        return tuple(TopicPartition(topic, each) for each in range(len(found.partitions))) if found else ()

    def _shares(self, member: FakeShareMember) -> dict[int, FakeSharePartition]:
        """Return the group's partitions of a member's topic, without locks that are over."""
        group, topic = self.group(member.group), self._broker.found(member.topic)
        topic_id, shares = group.topics.get(topic.name, (topic.id, {}))
        if topic_id != topic.id:
            shares = {}
        group.topics[topic.name] = topic.id, shares
        now = self.clock()
        for number, log in enumerate(topic.partitions):
            if number not in shares:
                shares[number] = FakeSharePartition(log.earliest if group.from_earliest else log.latest)
            shares[number].delete_before(log.earliest)
            shares[number].release(group.settings.attempts, lambda each: each.until <= now)
        self._note_starts(member, shares)
        return shares

    def _note_starts(self, member: FakeShareMember, shares: dict[int, FakeSharePartition]) -> None:
        for each in shares.values():
            each.advance()
        starts = {TopicPartition(member.topic, number): each.start for number, each in shares.items()}
        self._broker.add_share_group(member.group, starts)

    def _check(self) -> None:
        self._broker.check_reachable()
        self._check_supported()

    def _check_supported(self) -> None:
        if self.unsupported:
            raise QueuesUnsupported

    def _run(self) -> None:
        while not self._broker.closed:
            for each in list(self._members):
                with self._turn:
                    if each in self._members:
                        each.run()
            with self.changed:
                if not any(each.acknowledgements for each in self._members):
                    self.changed.wait(_POLL)
                if not self._members:
                    self._thread = None
                    return


def _fields(settings: ShareGroupSettings) -> tuple[int, float, int]:
    return settings.attempts, settings.lock, settings.window
