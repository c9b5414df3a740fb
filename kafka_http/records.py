"""Value types that all packages share: records, results, offsets, group assignments and consumer instances.

Offsets are Kafka's. Timestamps are in milliseconds since 1970 (UTC). Keys and values are the bytes that Kafka stores.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate, repeat
from typing import Any, Literal, NamedTuple, Self, overload
from uuid import UUID

from msgspec import Struct
from msgspec.structs import astuple

from kafka_http.errors import KafkaHttpError
from kafka_http.name_filter import ALL_NAMES, NameFilter

Headers = Sequence[tuple[str, bytes | None]]

Isolation = Literal["read_uncommitted", "read_committed"]
EARLIEST: Literal["earliest"] = "earliest"
LATEST: Literal["latest"] = "latest"

OffsetReset = Literal["earliest", "latest"]
"""The end of the log to start from if there is no committed offset, or if the offset is out of range."""

OffsetSpec = Literal["earliest", "latest"] | int
"""An end of the log, or a timestamp in milliseconds.

A timestamp stands for the first record at or after it, or for the end of the log if there is no such record.
"""


class TopicPartition(NamedTuple):
    """A partition of a topic."""

    topic: str
    partition: int


class NewRecord(Struct, frozen=True, gc=False, array_like=True):
    """A serialized record to publish. None is Kafka's null.

    A record without a partition goes to the partition that Java's default partitioner chooses for its key. Records
    with neither partition nor key go to one partition together, chosen for each request.
    """

    value: bytes | None
    key: bytes | None = None
    partition: int | None = None
    timestamp: int | None = None
    headers: Headers = ()


class ProducerRecord(NewRecord, frozen=True, gc=False, array_like=True):
    """A record to publish, as the client sent it.

    If a format is set, `value` or `key` is a JSON text that the format serializes. Without a format it is the bytes to
    store. None is Kafka's null for every format.
    """

    format: str | None = None
    key_format: str | None = None


class BareValues(list[bytes | None]):
    """The values of records that have nothing else: no key, partition, timestamp or headers."""


def missing_partitions(records: Sequence[NewRecord] | BareValues, count: int) -> set[int]:
    """Return the partitions that records name but a topic of `count` partitions does not have."""
    if isinstance(records, BareValues):
        return set()
    return {each.partition for each in records if each.partition is not None and not 0 <= each.partition < count}


class RecordMetadata(Struct, frozen=True, gc=False):
    """Where Kafka stored a record.

    `timestamp` is the broker's if the topic uses LogAppendTime. It is None if the record has none.
    """

    partition: int
    offset: int
    timestamp: int | None


class AppendedRecords(Sequence[RecordMetadata]):
    """Records that were stored together: consecutive offsets of one partition, and one timestamp.

    A sequence of `RecordMetadata`, which are made when they are read. `len` is the number of records.
    """

    __slots__ = ("_count", "base_offset", "partition", "timestamp")

    def __init__(self, partition: int, base_offset: int, count: int, timestamp: int | None) -> None:
        self.partition = partition
        self.base_offset = base_offset
        self._count = count
        self.timestamp = timestamp

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> RecordMetadata: ...

    @overload
    def __getitem__(self, index: slice) -> list[RecordMetadata]: ...

    def __getitem__(self, index: int | slice) -> RecordMetadata | list[RecordMetadata]:
        if isinstance(index, slice):
            return [self[each] for each in range(*index.indices(self._count))]
        offset = range(self.base_offset, self.base_offset + self._count)[index]
        return RecordMetadata(self.partition, offset, self.timestamp)


class Record(Struct, frozen=True, gc=False):
    """A record that was read from Kafka. `timestamp` is None if Kafka has none (-1).

    `headers` should be a tuple: the garbage collector would visit thousands of lists again and again.
    """

    topic: str
    partition: int
    offset: int
    timestamp: int | None
    key: bytes | None
    value: bytes | None
    headers: Headers


class RecordColumns(Sequence[Record]):
    """Records of one partition in offset order, by column. As a sequence, it makes each `Record` when it is used.

    Pages have thousands of records. What is done with a whole column runs in C.
    """

    __slots__ = ("_columns", "headers", "keys", "offsets", "partition", "timestamps", "topic", "values")

    offsets: Sequence[int]
    timestamps: Sequence[int | None]
    keys: Sequence[bytes | None]
    values: Sequence[bytes | None]
    headers: Sequence[Headers]

    def __init__(self, tp: TopicPartition, *columns: Sequence[Any]) -> None:
        """`columns` are the offsets, timestamps, keys, values and headers, of equal lengths; none if it is empty."""
        self.topic, self.partition = tp
        self._columns = columns or ((), (), (), (), ())
        self.offsets, self.timestamps, self.keys, self.values, self.headers = self._columns

    @classmethod
    def from_records(cls, records: Sequence[Record]) -> Self:
        """Return records of one partition, of which there is at least one, by column."""
        if isinstance(records, cls):
            return records
        _, _, *columns = zip(*map(astuple, records), strict=True)
        return cls(TopicPartition(records[0].topic, records[0].partition), *columns)

    @property
    def size(self) -> int:
        """The size of all keys and values in bytes."""
        return sum(map(len, filter(None, self.values))) + sum(map(len, filter(None, self.keys)))

    def slices(self, count: int) -> Iterator[Self]:
        """Yield the records in parts of up to `count`."""
        if len(self) <= count:
            return iter((self,))
        return (self[start : start + count] for start in range(0, len(self), count))

    def __len__(self) -> int:
        return len(self.offsets)

    def __iter__(self) -> Iterator[Record]:
        return map(Record, repeat(self.topic), repeat(self.partition), *self._columns)

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> Self: ...
    def __getitem__(self, index: int | slice) -> Record | Self:
        if isinstance(index, slice):
            tp = TopicPartition(self.topic, self.partition)
            return type(self)(tp, *[column[index] for column in self._columns])
        return Record(self.topic, self.partition, *[column[index] for column in self._columns])

    def __add__(self, other: "RecordColumns") -> Self:
        both = zip(self._columns, other._columns, strict=True)
        return type(self)(TopicPartition(self.topic, self.partition), *[[*mine, *more] for mine, more in both])


def payload_size(records: Iterable[NewRecord | Record] | BareValues) -> int:
    """Return the size of all keys and values in bytes."""
    if isinstance(records, BareValues):
        return sum([len(each) for each in records if each])
    return sum([len(each.value or b"") + len(each.key or b"") for each in records])


def count_within(records: Sequence[Record], size: int) -> int:
    """Return how many of the first records have keys and values of at most `size` bytes together."""
    return bisect_right(list(accumulate(len(each.value or b"") + len(each.key or b"") for each in records)), size)


Positions = Mapping[TopicPartition, int]
"""The offset to read next, by topic and partition."""

TopicIds = Mapping[str, UUID | None]
"""Kafka's topic ids by topic name. An id is None if the brokers are too old for topic ids.

A topic that was deleted and created again under its name has a new id.
"""

PartitionOffsets = Mapping[int, int]
"""An offset for each partition of one topic."""

RecordResult = RecordMetadata | KafkaHttpError
"""The result of publishing one record: its metadata, or the error."""


class Fetched(Struct, frozen=True):
    """The result of one fetch, for the requested partitions that could be read.

    records: the records of each partition, in offset order.
    next: the offset to read next. It is after control records, aborted transactions and gaps of compaction, too.
    ended: the partitions that were read to their end.
    out_of_range: the (earliest, latest) offsets of each partition whose log does not have the requested offset.
    size: the size of all keys and values in bytes.
    """

    records: Mapping[TopicPartition, Sequence[Record]]
    next: Positions
    ended: frozenset[TopicPartition]
    out_of_range: Mapping[TopicPartition, tuple[int, int]]
    size: int


class CommittedOffset(NamedTuple):
    """The offset that a group reads next in a partition, and the metadata committed with it."""

    offset: int
    metadata: str = ""


class PartitionInfo(Struct, frozen=True):
    """A partition in the cluster's metadata. `leader` is None if the partition has no leader."""

    partition: int
    leader: int | None
    replicas: tuple[int, ...]
    in_sync: tuple[int, ...]


class GroupMember(Struct, frozen=True):
    """A live member of a consumer group, and the partitions that it reads. A static member has an `instance_id`."""

    member_id: str
    client_id: str
    host: str
    instance_id: str | None = None
    partitions: tuple[TopicPartition, ...] = ()


Commits = Mapping[TopicPartition, CommittedOffset]

ReleaseCallback = Callable[[Commits], None]
RELEASE_SECONDS = 3.0
"""How long a group waits for a member to release revoked partitions, in seconds.

The member calls the `ReleaseCallback` with the offsets to commit.
"""


class Assignment(Struct, frozen=True):
    """The partitions of a member in one generation of its group."""

    generation: int
    partitions: frozenset[TopicPartition]


class MembershipListener(Struct, frozen=True):
    """Callbacks of a group membership. One thread calls them, one at a time. They must not block."""

    assigned: Callable[[Assignment], None]
    """The member has these partitions. It may read and commit until `revoking` or `lost` is called."""
    revoking: Callable[[ReleaseCallback], None]
    """The group is rebalancing, and the member must not read or commit any more.

    Any thread calls the function that is passed, once and within `RELEASE_SECONDS`, with the last offsets to commit.
    """
    lost: Callable[[], None]
    """The member lost its partitions, and can no longer commit their offsets."""
    failed: Callable[[KafkaHttpError], None]
    """The member cannot join the group now. It keeps trying."""
    fenced: Callable[[], None]
    """Another process joined with this member's id. This membership has ended."""


class InstanceSettings(Struct, frozen=True):
    """The settings of a v2 consumer instance. Sizes are in bytes, times in seconds. None is the server's default."""

    format: str = "binary"
    reset: OffsetReset = "earliest"
    auto_commit: bool = True
    min_bytes: int = 1
    max_bytes: int | None = None
    max_records: int | None = None
    isolation: Isolation = "read_uncommitted"
    timeout: float = 1.0


class OffsetEntry(NamedTuple):
    """An offset of a partition. A committed offset may have `metadata`."""

    topic: str
    partition: int
    offset: int
    metadata: str = ""


def offset_entries(offsets: Mapping[TopicPartition, int]) -> list[OffsetEntry]:
    """Return the entries of a mapping of offsets as a list."""
    return [OffsetEntry(topic, partition, offset) for (topic, partition), offset in offsets.items()]


def offsets_of(entries: Iterable[OffsetEntry]) -> dict[TopicPartition, int]:
    """Return a list of entries as a mapping of offsets. This reverses `offset_entries`."""
    return {TopicPartition(each.topic, each.partition): each.offset for each in entries}


class InstanceDefinition(Struct, frozen=True):
    """The persistent properties of a v2 consumer instance.

    `member_id` is its `group.instance.id`, which does not change during the life of the instance. At most one of
    `topics`, `pattern` (a subscription) and `partitions` (a manual assignment) is set. `owner` is the principal that
    made it, empty without authentication. A pattern finds only topics in `readable`.
    """

    group: str
    name: str
    member_id: str
    settings: InstanceSettings
    topics: tuple[str, ...] = ()
    pattern: str | None = None
    partitions: tuple[TopicPartition, ...] = ()
    owner: str = ""
    readable: NameFilter = ALL_NAMES


class InstanceProgress(Struct, frozen=True):
    """The offsets of a consumer instance.

    generation: the group generation that the offsets are from. They are valid in it and in the next one only. It is
        None for a manual assignment.
    positions: the offsets to read next.
    delivered: one after the last delivered record of each partition.
    committed: the last committed value of `delivered`.
    ids: the ids of the topics that the offsets belong to.
    """

    generation: int | None = None
    positions: tuple[OffsetEntry, ...] = ()
    delivered: tuple[OffsetEntry, ...] = ()
    committed: tuple[OffsetEntry, ...] = ()
    ids: TopicIds = {}


class StoredInstance(Struct, frozen=True):
    """A consumer instance in the state store."""

    definition: InstanceDefinition
    progress: InstanceProgress


class StoredResponse(Struct, frozen=True):
    """The response to the first request with an idempotency key. It is replayed, with these headers."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class ClaimRequest(Struct, frozen=True, array_like=True):
    """A request's claim of an idempotency key.

    `caller` is the authenticated client or empty, `name` its key, `fingerprint` a digest of the request. `holder` is
    `worker/attempt`, so that the claims of a worker that has ended can be recognized.
    """

    caller: str
    name: str
    fingerprint: str
    holder: str


class ClaimEnd(Struct, frozen=True, array_like=True):
    """The end of a claim: the response to store, or None to remove the claim."""

    caller: str
    name: str
    holder: str
    response: StoredResponse | None


KeyState = Literal["claimed", "in_progress", "completed", "mismatch", "unavailable"]


class KeyClaimResult(Struct, frozen=True):
    """The state of an idempotency key for a request that uses it.

    claimed: the request now owns the key.
    in_progress: an equal request is still in progress.
    completed: an equal request has completed with `response`.
    mismatch: a different request used the key.
    unavailable: the store does not respond, or has no space for a new key.
    """

    state: KeyState
    response: StoredResponse | None = None
