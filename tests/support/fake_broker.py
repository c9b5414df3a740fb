"""An Apache Kafka in memory. It passes the same tests in `tests/contract` as the real one."""

import random
import re
import threading
import time
from collections.abc import Collection, Mapping, Sequence
from math import inf
from typing import NamedTuple
from uuid import UUID

from kafka_http.acls import Acl
from kafka_http.administration import GroupType, TopicConfig
from kafka_http.errors import (
    BrokerUnavailable,
    GroupHasMembers,
    InvalidRequest,
    InvalidValue,
    KafkaHttpError,
    NotAuthorized,
    OutcomeUnknown,
    PartitionNotFound,
    TooLarge,
    TopicNotFound,
    TopicRecreated,
    WrongGroupType,
)
from kafka_http.event_loop import EventLoop
from kafka_http.records import (
    AppendedRecords,
    BareValues,
    CommittedOffset,
    Fetched,
    GroupMember,
    Isolation,
    NewRecord,
    OffsetSpec,
    PartitionInfo,
    PartitionOffsets,
    Positions,
    Record,
    RecordMetadata,
    RecordResult,
    TopicIds,
    TopicPartition,
    payload_size,
)
from kafka_http.request_facts import waiting_for_kafka
from tests.support.fake_administration import FakeGroupAdmin, FakeTopicAdmin
from tests.support.fake_groups import FakeGroups
from tests.support.fake_pending import FakePendingPublish
from tests.support.fake_share_groups import FakeShareGroups
from tests.support.fake_topics import FakePartition, FakeTopic, last, offset_at, place, within

_INTERNAL = {"__consumer_offsets", "__transaction_state"}
_NAME = re.compile(r"[a-zA-Z0-9._-]{1,249}")
_UNKNOWN = OutcomeUnknown("Kafka did not acknowledge the record in time: it may have been written.")


class _FakePublish(NamedTuple):
    """A publish whose records are not yet written."""

    pending: FakePendingPublish
    topic: FakeTopic
    places: Sequence[int]
    records: Sequence[NewRecord]
    until: float


def _together(results: Sequence[RecordResult]) -> Sequence[RecordResult]:
    """Return the results as `AppendedRecords` if they are."""
    first = results[0] if results else None
    if isinstance(first, RecordMetadata):
        appended = AppendedRecords(first.partition, first.offset, len(results), first.timestamp)
        if list(appended) == list(results):
            return appended
    return results


class FakeBroker(FakeGroupAdmin):
    """A cluster of one broker without topics. It implements `Broker` and its parts, and has switches for tests:

    down: nothing responds.
    silent: a publish gets no response until `answer` is called. `unanswered` counts such requests.
    refused: topics that ACLs do not allow.
    message_limit: the largest message in bytes.
    cluster: the cluster's id.
    acl_entries: the ACLs, None without an authorizer.
    hides_acls: this server may not describe the ACLs.
    hides_configs: ACLs hide the settings of topics.
    auto_create_topics: the setting.
    """

    def __init__(self) -> None:
        super().__init__()
        self.down = False
        self.silent = False
        self.unanswered = 0
        self._unanswered: list[_FakePublish] = []
        self._unsent: list[_FakePublish] = []
        self._loop_thread: int | None = None
        self.refused: set[str] = set()
        self.message_limit = 1048588
        self.auto_create_topics = False
        self.closed = False
        self.cluster = "fake-cluster"
        self.acl_entries: list[Acl] | None = None
        self.hides_acls = False
        self.hides_configs = False
        self.all_topics: dict[str, FakeTopic] = {}
        self._committed: dict[str, dict[TopicPartition, CommittedOffset]] = {}
        self._groups = FakeGroups(lambda: not self.down, self.refused, self._count, self._commit)
        self._members: dict[str, list[tuple[GroupMember, str]]] = {}
        self._changed = threading.Condition()
        self._share_groups = FakeShareGroups(self, self._changed)

    @property
    def producer(self) -> "FakeBroker":
        return self

    @property
    def log(self) -> "FakeBroker":
        return self

    @property
    def topic_admin(self) -> FakeTopicAdmin:
        return FakeTopicAdmin(self)

    @property
    def groups(self) -> "FakeBroker":
        return self

    @property
    def memberships(self) -> FakeGroups:
        return self._groups

    @property
    def share_groups(self) -> FakeShareGroups:
        return self._share_groups

    @property
    def acls(self) -> "FakeBroker":
        return self

    def describe_acls(self) -> list[Acl] | None:
        self._check_up()
        if self.hides_acls:
            raise NotAuthorized("Kafka's ACLs do not allow this request (ClusterAuthorizationFailed).")
        return None if self.acl_entries is None else list(self.acl_entries)

    def release_memory(self) -> None:
        pass

    def close(self, timeout: float) -> None:
        self.closed = True

    # For tests

    def create_topic(
        self,
        name: str,
        partitions: int = 1,
        *,
        limit: int | None = None,
        compacted: bool = False,
        append_time: bool = False,
    ) -> None:
        """Create a topic. `limit` is its own max.message.bytes, if any."""
        with self._changed:
            self.all_topics[name] = FakeTopic(name, partitions, limit, compacted, append_time)

    def add_partitions(self, name: str, count: int = 1) -> None:
        with self._changed:
            self.all_topics[name].partitions += [FakePartition() for _ in range(count)]

    def delete_topic(self, name: str) -> None:
        with self._changed:
            del self.all_topics[name]
            self._changed.notify_all()

    def records(self, topic: str) -> list[Record]:
        """Return all records of a topic, by partition and offset."""
        with self._changed:
            return [each for log in self.all_topics[topic].partitions for each in log.records]

    def answer(self, refusal: KafkaHttpError | None = None) -> None:
        """Respond to the unanswered publishes: write their records, or refuse them with this error. End `silent`."""
        self.silent = False
        unanswered, self._unanswered = self._unanswered, []
        for each in unanswered:
            if each.until <= time.monotonic():
                each.pending.complete([_UNKNOWN] * len(each.records))
            elif refusal is not None:
                each.pending.complete([refusal] * len(each.records))
            else:
                self._complete(each)

    def pass_over(self, topic: str, partition: int = 0, count: int = 1) -> None:
        """Add offsets without records to a log, like transaction markers and compaction."""
        with self._changed:
            self.all_topics[topic].partitions[partition].latest += count
            self._changed.notify_all()

    def delete_before(self, topic: str, partition: int, offset: int) -> None:
        """Remove the records before an offset, like retention."""
        with self._changed:
            log = self.all_topics[topic].partitions[partition]
            log.earliest, log.records = offset, log.after(offset)

    def lose_leader(self, topic: str, partition: int) -> None:
        self.all_topics[topic].leaderless.add(partition)

    def join(
        self,
        group: str,
        topic: str,
        client_id: str = "someone",
        host: str = "127.0.0.1",
        *,
        group_type: GroupType = "classic",
        instance_id: str | None = None,
    ) -> None:
        """Add a consumer to the group that subscribes to the topic. The first one has all partitions."""
        present = self._members.setdefault(group, [])
        partitions = () if present else tuple(TopicPartition(topic, each) for each in range(self._count(topic)))
        member = GroupMember(f"{client_id}-{len(present)}", client_id, host, instance_id, partitions)
        present.append((member, topic))
        if group_type != "classic":
            self.group_types[group] = group_type

    def leave(self, group: str) -> None:
        """Remove all consumers of the group."""
        if self._members.pop(group, None) is not None:
            self._committed.setdefault(group, {})  # the group remains, without members

    # Producer

    def publish(
        self, topic: str, records: Sequence[NewRecord] | BareValues, timeout: float, *, keeps_trying: bool = False
    ) -> FakePendingPublish:
        pending = FakePendingPublish(len(records), timeout)
        try:
            publish = self._placed(pending, topic, records, keeps_trying)
        except KafkaHttpError as error:
            pending.fail(error)
            return pending
        if self.silent:
            self._unanswered.append(publish)
            self.unanswered += 1
        elif self._loop_thread == threading.get_ident():
            self._unsent.append(publish)
        else:
            self._complete(publish)
        return pending

    def attach(self, loop: EventLoop) -> None:
        self._loop_thread = threading.get_ident()

    @property
    def next_deadline(self) -> float:
        return inf

    def end_round(self) -> None:
        unsent, self._unsent = self._unsent, []
        for each in unsent:
            self._complete(each)

    def _placed(
        self,
        pending: FakePendingPublish,
        topic: str,
        records: Sequence[NewRecord] | BareValues,
        keeps_trying: bool,
    ) -> "_FakePublish":
        """Choose the partitions of the records."""
        with self._changed:
            found = self._to_write(topic)
            shared = random.randrange(len(found.partitions))
            written = [NewRecord(each) for each in records] if isinstance(records, BareValues) else records
            places = [place(found, each, shared) for each in written]
        return _FakePublish(pending, found, places, written, inf if keeps_trying else pending.deadline)

    def _complete(self, publish: "_FakePublish") -> None:
        now = int(time.time() * 1000)
        with self._changed:
            placed = zip(publish.places, publish.records, strict=True)
            results = [self._write(publish.topic, *each, now) for each in placed]
            self._changed.notify_all()
        publish.pending.complete(_together(results))

    # Log

    def topics(self) -> list[str]:
        self._check_up()
        return sorted(set(self.all_topics) - _INTERNAL)

    def topic_ids(self, topics: Collection[str], timeout: float | None = None) -> dict[str, UUID | None]:
        self._check_up()
        return {each: self.topic_id(each) for each in topics if each in self.all_topics}

    def topic_id(self, topic: str, max_age: float = 0) -> UUID | None:
        return self.found(topic).id

    def partitions(self, topic: str, max_age: float = 0) -> list[PartitionInfo]:
        found = self.found(topic)
        return [
            PartitionInfo(each, None if each in found.leaderless else 1, (1,), () if each in found.leaderless else (1,))
            for each in range(len(found.partitions))
        ]

    def configs(self, topic: str) -> dict[str, str]:
        found = self.found(topic)
        return {"cleanup.policy": "delete", "max.message.bytes": str(self.message_limit), **found.config}

    def own_config(self, topic: str) -> TopicConfig | None:
        found = self.found(topic)
        return None if self.hides_configs else dict(found.config)

    def brokers(self) -> list[int]:
        self._check_up()
        return [1]

    def check_reachable(self) -> None:
        self._check_up()

    def cluster_id(self) -> str:
        self._check_up()
        return self.cluster

    def offsets(
        self, topic: str, at: Mapping[int, OffsetSpec], isolation: Isolation = "read_uncommitted"
    ) -> dict[int, int]:
        with self._changed:
            return {partition: offset_at(self.partition_log(topic, partition), each) for partition, each in at.items()}

    def last(self, topic: str, counts: Mapping[int, int], isolation: Isolation = "read_uncommitted") -> dict[int, int]:
        with self._changed:
            return {partition: last(self.partition_log(topic, partition), count) for partition, count in counts.items()}

    def ends_without_records(
        self, positions: Positions, isolation: Isolation = "read_uncommitted"
    ) -> dict[TopicPartition, int]:
        with self._changed:
            logs = {
                at: self.partition_log(*at)
                for at, position in positions.items()
                if not self.partition_log(*at).after(position)
            }
            return {at: log.latest for at, log in logs.items() if log.earliest <= positions[at] <= log.latest}

    def fetch(
        self,
        positions: Positions,
        *,
        max_records: int,
        max_bytes: int,
        wait: float = 0,
        isolation: Isolation = "read_uncommitted",
        ids: TopicIds | None = None,
    ) -> Fetched:
        until = time.monotonic() + wait
        with waiting_for_kafka(), self._changed:
            while True:
                for topic, topic_id in (ids or {}).items():
                    if self.topic_id(topic) != topic_id:
                        raise TopicRecreated(topic)
                fetched = self._fetched(positions, max_records, max_bytes)
                left = until - time.monotonic()
                if left <= 0 or fetched.out_of_range or any(fetched.records.values()):
                    return fetched
                self._changed.wait(left)

    # Groups

    def committed(self, group: str, topic: str, partitions: Collection[int]) -> dict[int, int]:
        found = self.committed_offsets(group, [TopicPartition(topic, each) for each in partitions])
        return {place.partition: at.offset for place, at in found.items()}

    def commit(self, group: str, topic: str, offsets: PartitionOffsets) -> None:
        self.commit_offsets(group, {TopicPartition(topic, each): CommittedOffset(at) for each, at in offsets.items()})

    def committed_offsets(
        self, group: str, partitions: Collection[TopicPartition]
    ) -> dict[TopicPartition, CommittedOffset]:
        self._check_up()
        offsets = self._committed.get(group, {})
        return {each: offsets[each] for each in partitions if each in offsets}

    def commit_offsets(self, group: str, offsets: Mapping[TopicPartition, CommittedOffset]) -> None:
        for each in offsets:
            self.found(each.topic)
        self._check_ordinary(group)
        if self.members(group):
            raise self._has_members(group)
        self._commit(group, offsets)

    def commit_offsets_of_members(self, group: str, offsets: Mapping[TopicPartition, CommittedOffset]) -> None:
        """Commit as a member of the group does."""
        self._commit(group, offsets)

    def _commit(self, group: str, offsets: Mapping[TopicPartition, CommittedOffset]) -> None:
        self._committed.setdefault(group, {}).update(offsets)

    def _count(self, topic: str) -> int:
        return len(self.all_topics[topic].partitions) if topic in self.all_topics else 0

    def delete_offsets(self, group: str, topic: str) -> None:
        self._check_up()
        offsets = self._committed.get(group, {})
        forgotten = [each for each in offsets if each[0] == topic]
        if forgotten and any(subscribed == topic for _, subscribed in self._members.get(group, [])):
            raise self._has_members(group)
        for each in forgotten:
            del offsets[each]

    def members(self, group: str) -> list[GroupMember]:
        self._check_up()
        static = [GroupMember(each, "kafka_http", "127.0.0.1") for each in self._groups.member_ids(group)]
        share = self._share_groups.members(group)
        return [member for member, _ in self._members.get(group, [])] + static + share

    def groups_with_offsets(self) -> dict[str, dict[TopicPartition, int]]:
        self._check_up()
        return {
            group: {tp: at.offset for tp, at in offsets.items() if tp.topic in self.all_topics}
            for group, offsets in self._committed.items()
        }

    def groups_with_members(self) -> Collection[str]:
        return [*self._members, *self._groups.names()]

    def share_lag(self, group: str, partition: TopicPartition) -> int:
        if partition.topic not in self.all_topics:
            return -1
        found = self._share_groups.progress(group, partition.topic).get(partition.partition)
        return -1 if found is None else found.lag

    def remove_group(self, group: str) -> None:
        self._committed.pop(group, None)
        self._share_groups.remove(group)

    # Helpers

    def _check_up(self) -> None:
        if self.down:
            raise BrokerUnavailable("No Kafka broker answers: connection refused (KafkaConnection).")

    def _check_ordinary(self, group: str) -> None:
        self._check_up()
        if self.group_types.get(group) == "share":
            raise WrongGroupType(f"{group} is the name of a queue.")

    def check_name(self, topic: str) -> None:
        self._check_up()
        if topic in (".", "..") or not _NAME.fullmatch(topic):
            raise InvalidRequest(f"Kafka does not take {topic} as the name of a topic.")
        if topic in self.refused:
            raise NotAuthorized("Kafka's ACLs do not allow this (TopicAuthorizationFailed).")

    def found(self, topic: str) -> FakeTopic:
        self.check_name(topic)
        if topic not in self.all_topics:
            raise TopicNotFound(topic)
        return self.all_topics[topic]

    def partition_log(self, topic: str, partition: int) -> FakePartition:
        partitions = self.found(topic).partitions
        if not 0 <= partition < len(partitions):
            raise PartitionNotFound(topic, partition, len(partitions))
        return partitions[partition]

    def _to_write(self, topic: str) -> FakeTopic:
        try:
            return self.found(topic)
        except TopicNotFound:
            if not self.auto_create_topics:
                raise
        self.create_topic(topic)
        return self.all_topics[topic]

    def _write(self, topic: FakeTopic, partition: int, record: NewRecord, now: int) -> RecordResult:
        if (refusal := self._refusal(topic, record)) is not None:
            return refusal
        given = None if topic.append_time else record.timestamp
        return topic.partitions[partition].append(topic.name, partition, record, now if given is None else given)

    def _refusal(self, topic: FakeTopic, record: NewRecord) -> KafkaHttpError | None:
        limit = topic.limit or self.message_limit
        if payload_size([record]) + sum(len(name) for name, _ in record.headers) > limit:
            return TooLarge(f"The message is larger than the {limit} bytes that Kafka takes here.", limit=limit)
        if topic.compacted and record.key is None:
            return InvalidValue("Kafka refuses the record: a compacted topic's records need keys (InvalidRecord).")
        return None

    def _fetched(self, positions: Positions, max_records: int, max_bytes: int) -> Fetched:
        records: dict[TopicPartition, Sequence[Record]] = {}
        following: dict[TopicPartition, int] = {}
        out_of_range: dict[TopicPartition, tuple[int, int]] = {}
        size = 0
        for left, (at, position) in zip(range(len(positions), 0, -1), positions.items(), strict=True):
            log = self.partition_log(*at)
            if not log.earliest <= position <= log.latest:
                out_of_range[at] = (log.earliest, log.latest)
                continue
            rest = log.after(position)
            bytes_left = max_bytes - size
            first = bytes_left if any(records.values()) else None
            records[at] = taken = within(rest, -(-max_records // left), bytes_left // left, first)
            following[at] = log.latest if len(taken) == len(rest) else taken[-1].offset + 1 if taken else position
            max_records -= len(taken)
            size += payload_size(taken)
        ended = frozenset(each for each, offset in following.items() if offset >= self.partition_log(*each).latest)
        return Fetched(records, following, ended, out_of_range, size)

    def _has_members(self, group: str) -> GroupHasMembers:
        members = [{"client_id": each.client_id, "host": each.host} for each in self.members(group)]
        named = ", ".join(each["client_id"] for each in members)
        return GroupHasMembers(f"The consumer {group} has live members of its own: {named}.", members=members)
