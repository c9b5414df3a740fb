"""Value types of the administration of topics and consumer groups."""

from collections.abc import Mapping
from typing import Literal, NamedTuple

from msgspec import Struct, field

from kafka_http.records import GroupMember, PartitionOffsets

GroupType = Literal["classic", "consumer", "share"]
"""Kafka's types of groups.

classic: the members share out the partitions themselves. A group whose offsets were set without members is one, too.
consumer: the coordinator shares out the partitions (KIP-848).
share: a queue. Each record is acknowledged alone (KIP-932).
"""

TopicConfig = Mapping[str, str]
"""Settings of a topic by Kafka's names, such as `retention.ms`."""


class TopicSettings(Struct, frozen=True):
    """The settings of a topic to create. None is the default of the brokers."""

    partitions: int | None = None
    replication_factor: int | None = None
    config: TopicConfig = field(default_factory=dict)


class TopicChange(Struct, frozen=True):
    """Changes of a topic.

    partitions: the new number, larger than the present one; None if it does not change.
    config: new values. None removes a setting, so that the default applies.
    delete_before: the records before these offsets are deleted.
    """

    partitions: int | None = None
    config: Mapping[str, str | None] = field(default_factory=dict)
    delete_before: PartitionOffsets = field(default_factory=dict)


class ListedGroup(Struct, frozen=True):
    """A consumer group in a list. `state` is Kafka's, such as `Stable` or `Empty`."""

    group: str
    type: GroupType
    state: str


class GroupOffset(NamedTuple):
    """The committed offset of a group in a partition, or the one where the window of a share group starts.

    `lag` is how many messages are not settled, as Kafka counts them for share groups since 4.3; -1: it does not tell.
    """

    offset: int
    lag: int = -1


class DescribedGroup(Struct, frozen=True):
    """A consumer group and its live members. `assignor` is empty while none is chosen."""

    group: str
    type: GroupType
    state: str
    assignor: str
    members: tuple[GroupMember, ...] = ()
