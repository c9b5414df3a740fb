"""Values of share groups: acquired messages, acknowledgements, and what a member tells its owner.

A share group (KIP-932) delivers each message to one member at a time, under a lock, until it is acknowledged. Offsets
and partitions are those of one topic, because a member reads one.
"""

from collections.abc import Callable, Collection, Sequence
from enum import IntEnum
from typing import NamedTuple

from msgspec import Struct

from kafka_http.errors import KafkaHttpError
from kafka_http.records import RecordColumns


class AckType(IntEnum):
    """What an acknowledgement says of a message. The values are Kafka's."""

    GAP = 0
    """There is no such message: it is a control record, or was compacted."""
    ACCEPT = 1
    RELEASE = 2
    """Deliver it again, at once."""
    REJECT = 3
    """Never deliver it again."""
    RENEW = 4
    """Begin its lock anew."""


class Acknowledgement(Struct, frozen=True, gc=False):
    """An acknowledgement of one message."""

    partition: int
    offset: int
    type: AckType


class AcquiredRecords(Struct, frozen=True):
    """Messages of one partition that a member has acquired.

    attempts: how often Kafka has delivered each of them, from 1.
    until: when Kafka's locks end at the earliest, on the monotonic clock in seconds.
    """

    records: RecordColumns
    attempts: Sequence[int]
    until: float


AckResult = tuple[Acknowledgement, KafkaHttpError | None]
"""An acknowledgement and its error: `LeaseLost` if Kafka refuses it, `OutcomeUnknown` if no response came."""


class ShareListener(Struct, frozen=True):
    """Callbacks of a share member. Its loop's thread calls them, one at a time. They must not block."""

    wanted: Callable[[], int]
    """Return how many more messages to acquire now. The member asks before each request to a leader.

    It subtracts what it is asking other leaders for.
    """
    acquired: Callable[[AcquiredRecords], None]
    """These messages are locked for this member."""
    acknowledged: Callable[[Sequence[AckResult]], None]
    """The results of acknowledgements, each once. A renewed lock lasts for `ShareGroupSettings.lock` from now."""
    lost: Callable[[Collection[int]], None]
    """All locks on these partitions are gone, because the session or the leader has ended. Kafka delivers again."""
    failed: Callable[[KafkaHttpError | None], None]
    """The group cannot be read now, for this reason. The member keeps trying. None: it can again."""
    exhausted: Callable[[], None] = lambda: None
    """Messages are wanted, but all leaders were asked since the last `ShareMember.wake` and have none now."""


class ShareProgress(NamedTuple):
    """How far a group is in a partition.

    start: the offset of the first message that is not settled, as Kafka last wrote it down: it may be an older one.
        -1: unknown.
    lag: how many messages are not settled. -1: unknown.
    """

    start: int
    lag: int


class ShareGroupSettings(Struct, frozen=True):
    """The settings of a share group in Kafka, with the broker's defaults.

    attempts: how often Kafka delivers a message (`share.delivery.count.limit`).
    lock: seconds that a lock of Kafka lasts (`share.record.lock.duration.ms`).
    window: how many offsets from the start offset on may be acquired (`share.partition.max.record.locks`).
    refused: whether this server may not change them, so that a new group starts at the end of the topic.
    """

    attempts: int
    lock: float
    window: int
    refused: bool = False
