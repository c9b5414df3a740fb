"""What travels between the rooms: records on their way in and out, what became of them, and who reads them.

Offsets are Kafka's, timestamps are milliseconds since 1970 (UTC), keys and values are the bytes that Kafka stores.
"""

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from typing import Literal, NamedTuple
from uuid import UUID

from msgspec import Struct

from kafka_http.errors import KafkaHttpError

Headers = Sequence[tuple[str, bytes | None]]

Isolation = Literal["read_uncommitted", "read_committed"]
EARLIEST: Literal["earliest"] = "earliest"
LATEST: Literal["latest"] = "latest"

OffsetReset = Literal["earliest", "latest"]
"""The end of the log to start from where there is nothing at an offset."""

OffsetAt = Literal["earliest", "latest"] | int
"""An end of the log, or a time in milliseconds: the first record at or after it, past the last record the end."""


class TopicPartition(NamedTuple):
    """A partition of a topic, as Kafka's clients name it."""

    topic: str
    partition: int


class NewRecord(Struct, frozen=True, gc=False, array_like=True):
    """A record to publish, serialised: bytes as Kafka is to store them, None for null.

    Without a partition it goes where Java's default partitioner puts its key; with neither, where the request's
    other such records go.
    """

    value: bytes | None
    key: bytes | None = None
    partition: int | None = None
    timestamp: int | None = None
    headers: Headers = ()


class ProducerRecord(NewRecord, frozen=True, gc=False, array_like=True):
    """A record to publish, as the client gave it.

    `value` and `key` are JSON texts where a format is named, which serialises them; without one they are the bytes to
    store. None is a null in Kafka whatever the format.
    """

    format: str | None = None
    key_format: str | None = None


def partitions_beyond(records: Sequence[NewRecord], count: int) -> set[int]:
    """The partitions that records name and that are none of so many."""
    return {each.partition for each in records if each.partition is not None and not 0 <= each.partition < count}


class RecordMetadata(Struct, frozen=True, gc=False):
    """Where Kafka has stored a record. `timestamp` is the broker's where the topic uses LogAppendTime, and None where
    the record has none."""

    partition: int
    offset: int
    timestamp: int | None


class Record(Struct, frozen=True, gc=False):
    """A record that was read. `timestamp` is None where Kafka has none (-1).

    `headers` should be a tuple: the garbage collector walks over thousands of lists again and again.
    """

    topic: str
    partition: int
    offset: int
    timestamp: int | None
    key: bytes | None
    value: bytes | None
    headers: Headers


def size_of(records: Sequence[Record]) -> int:
    """The bytes of their keys and values."""
    return sum([len(each.value or b"") + len(each.key or b"") for each in records])


def count_within(records: Sequence[Record], size: int) -> int:
    """How many of them, from the first on, have keys and values of at most `size` bytes."""
    return bisect_right(list(accumulate(len(each.value or b"") + len(each.key or b"") for each in records)), size)


Positions = Mapping[TopicPartition, int]
"""partition of a topic -> the offset to read next."""

TopicIds = Mapping[str, UUID | None]
"""topic -> what tells it from a later one of its name; None where the brokers are too old for ids."""

PartitionOffsets = Mapping[int, int]
"""partition of the topic that is spoken of -> an offset."""

RecordResult = RecordMetadata | KafkaHttpError
"""What became of one record of a publish."""

ResultsCallback = Callable[[list[RecordResult]], None]
"""Hears the last word on a request's records, in their order."""


class Fetched(Struct, frozen=True):
    """What one look at the log brought, of each partition asked for that the log could serve.

    `records` are in offset order; `next` is where to read on (behind control records, aborted transactions and
    compaction's gaps as well). `ended` are the partitions that had nothing more to give. `out_of_range` maps a
    partition that does not have the offset asked for to its (earliest, latest) offsets. `size` is that of all keys and
    values.
    """

    records: Mapping[TopicPartition, Sequence[Record]]
    next: Positions
    ended: frozenset[TopicPartition]
    out_of_range: Mapping[TopicPartition, tuple[int, int]]
    size: int


class CommittedOffset(NamedTuple):
    """The offset that a group reads next in a partition, and what was noted with it."""

    offset: int
    metadata: str = ""


class PartitionInfo(Struct, frozen=True):
    """A partition as the cluster's metadata has it. `leader` is None where there is none."""

    partition: int
    leader: int | None
    replicas: tuple[int, ...]
    in_sync: tuple[int, ...]


class GroupMember(Struct, frozen=True):
    """A live member of a consumer group."""

    member_id: str
    client_id: str
    host: str


Commits = Mapping[TopicPartition, CommittedOffset]

ReleaseCallback = Callable[[Commits], None]
RELEASE_SECONDS = 3.0
"""How long a group waits for a member that is to give up its partitions, and calls the function it was given for it."""


class Assignment(Struct, frozen=True):
    """The partitions that a member has in a generation of its group."""

    generation: int
    partitions: frozenset[TopicPartition]


class MembershipListener(Struct, frozen=True):
    """Whom to tell what happens to a membership: one thing after the other, by a thread that must not be held up."""

    assigned: Callable[[Assignment], None]
    """The member has these partitions now, and may read and commit until `revoking` or `lost`."""
    revoking: Callable[[ReleaseCallback], None]
    """The group is about to share its partitions out anew: read and commit no more. The function given is to be called
    once, by any thread and within `RELEASE_SECONDS`, with what is to be committed still."""
    lost: Callable[[], None]
    """As `revoking`, but nothing can be committed any more."""
    failed: Callable[[KafkaHttpError], None]
    """The member cannot join, or join again, for now. It goes on trying."""
    fenced: Callable[[], None]
    """Another process has joined under this member's id: this membership is over."""


class InstanceSettings(Struct, frozen=True):
    """What an instance was created with. Sizes in bytes, times in seconds; None stands for the server's default."""

    format: str = "binary"
    reset: OffsetReset = "earliest"
    auto_commit: bool = True
    min_bytes: int = 1
    max_bytes: int | None = None
    max_records: int | None = None
    isolation: Isolation = "read_uncommitted"
    timeout: float = 1.0


class RecordPlace(NamedTuple):
    """An offset of a partition; with `metadata` where it is committed."""

    topic: str
    partition: int
    offset: int
    metadata: str = ""


class Definition(Struct, frozen=True):
    """What an instance is. `member_id` is its `group.instance.id`; it stays the same as long as the instance is there.

    At most one of `topics`, `pattern` and `partitions` is set: what it subscribed to, or was assigned.
    """

    group: str
    name: str
    member_id: str
    settings: InstanceSettings
    topics: tuple[str, ...] = ()
    pattern: str | None = None
    partitions: tuple[TopicPartition, ...] = ()


class InstanceProgress(Struct, frozen=True):
    """How far an instance has come: what it reads next, and behind the last record handed out of each partition.

    `committed` is the last that was committed of `delivered`. Of a subscribed instance it counts for `generation`
    and the one after alone; an assigned one has none. All offsets are of the topics that have these `ids`.
    """

    generation: int | None = None
    positions: tuple[RecordPlace, ...] = ()
    delivered: tuple[RecordPlace, ...] = ()
    committed: tuple[RecordPlace, ...] = ()
    ids: TopicIds = {}


class StoredInstance(Struct, frozen=True):
    definition: Definition
    progress: InstanceProgress


class StoredResponse(Struct, frozen=True):
    """The answer of the first request with an idempotency key. `headers` are those that come again with it."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class KeyClaimResult(Struct, frozen=True):
    """What a key is to a request that comes with it: its own from now on; that of the same request, which is under way
    or has this `answer`; or that of another request."""

    state: Literal["own", "running", "kept", "other"]
    answer: StoredResponse | None = None
