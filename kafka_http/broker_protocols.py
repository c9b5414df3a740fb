"""Protocols of the Kafka cluster: what the other packages call, and what `kafka_http.broker` implements.

All methods block unless their docstring says otherwise, and any thread may call them. Times are in seconds.

Methods raise errors of `kafka_http.errors` only: `BrokerUnavailable` if no broker can be reached, `TopicNotFound`,
`PartitionNotFound`, `NotAuthorized`, `BrokerError`, `RetriableBrokerError`. Only `TopicAdmin.create` creates topics,
and `Producer.publish` if the setting `auto_create_topics` is on.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Protocol
from uuid import UUID

from kafka_http.acls import Acl
from kafka_http.administration import DescribedGroup, GroupOffset, ListedGroup, TopicChange, TopicConfig, TopicSettings
from kafka_http.event_loop import EventLoop
from kafka_http.records import (
    BareValues,
    Commits,
    CommittedOffset,
    Fetched,
    GroupMember,
    Isolation,
    MembershipListener,
    NewRecord,
    OffsetSpec,
    PartitionInfo,
    PartitionOffsets,
    Positions,
    RecordResult,
    TopicIds,
    TopicPartition,
)
from kafka_http.share_groups import Acknowledgement, ShareGroupSettings, ShareListener, ShareProgress


class PendingPublish(Protocol):
    """The records of one request on their way to Kafka: a future. Any thread may call."""

    @property
    def is_done(self) -> bool:
        """Whether all results are final."""

    def result(self, timeout: float | None = None) -> Sequence[RecordResult]:
        """Wait up to `timeout` seconds and return one result for each record, in their order.

        `timeout=None` waits until the publish's own timeout, and 0 does not block. A record without a result yet has
        `OutcomePending`. Raises an error of the whole request, after which no record is written: `TopicNotFound`,
        `PartitionNotFound`, `NotAuthorized`, `InvalidRequest`, `BrokerUnavailable`, `RetriableBrokerError`.
        """

    def add_done_callback(self, callback: Callable[[], None]) -> None:
        """Call `callback` once when all results are final, or now if they are.

        The producer's loop calls it, or the caller of this method. It must not block.
        """


class Producer(Protocol):
    """Publishes records.

    An event loop drives it: the one of `attach`, or a thread of its own.
    """

    def publish(
        self, topic: str, records: Sequence[NewRecord] | BareValues, timeout: float, *, keeps_trying: bool = False
    ) -> PendingPublish:
        """Hand the records of one request to Kafka. Never blocks: what goes wrong is in the result.

        Records with neither key nor partition go to one partition together. After `timeout` seconds nothing is retried.
        With `keeps_trying` the producer tries for at least 120 s, for any `timeout`. It writes no record twice. Raises
        `TooMuchInFlight` if too many requests with `keeps_trying` wait.
        """

    def attach(self, loop: EventLoop) -> None:
        """Be driven by this loop. Its thread calls this before the first publish, and then `end_round`."""

    @property
    def next_deadline(self) -> float:
        """When `end_round` must be called at the latest, on the monotonic clock. Infinity if nothing waits."""

    def end_round(self) -> None:
        """Send what was published in this round of the loop, and give up what is overdue.

        Requests of one round share batches. Only the loop's thread calls this.
        """


class Log(Protocol):
    """Metadata and records of topics."""

    def topics(self) -> list[str]:
        """Return the names of the cluster's topics, sorted, without internal topics."""

    def partitions(self, topic: str, max_age: float = 0) -> list[PartitionInfo]:
        """Return a topic's partitions by number, from metadata at most `max_age` old. Raises `TopicNotFound`."""

    def topic_id(self, topic: str, max_age: float = 0) -> UUID | None:
        """Return a topic's id, from metadata at most `max_age` old. It is None if the brokers are too old for ids.

        A topic that was deleted and created again has a new id. Raises `TopicNotFound`.
        """

    def topic_ids(self, topics: Collection[str], timeout: float | None = None) -> dict[str, UUID | None]:
        """Return the current ids of the topics that exist."""

    def configs(self, topic: str) -> dict[str, str]:
        """Return a topic's settings by Kafka's names, including defaults. Returns none if ACLs hide them.

        Raises `TopicNotFound`.
        """

    def own_config(self, topic: str) -> TopicConfig | None:
        """Return the settings that are set on the topic itself. Returns None if ACLs hide them.

        Raises `TopicNotFound`.
        """

    def brokers(self) -> list[int]:
        """Return the ids of the live brokers, sorted."""

    def offsets(
        self, topic: str, at: Mapping[int, OffsetSpec], isolation: Isolation = "read_uncommitted"
    ) -> dict[int, int]:
        """Return an offset of each partition: its first or last, or the one at a timestamp.

        For `read_committed`, the latest offset is the last stable offset.
        """

    def last(self, topic: str, counts: Mapping[int, int], isolation: Isolation = "read_uncommitted") -> dict[int, int]:
        """Return the offset of each partition where its last `count` records begin, or its first offset.

        Control records, compacted records and, for `read_committed`, aborted transactions do not count. After some
        megabytes, each offset counts as a record.
        """

    def ends_without_records(
        self, positions: Positions, isolation: Isolation = "read_uncommitted"
    ) -> dict[TopicPartition, int]:
        """Return the end of each log that has no record at or after its position. Other partitions are left out.

        Control records, compacted records and, for `read_committed`, aborted transactions are not records here.
        """

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
        """Read records from these positions on, and wait up to `wait` if there are none.

        Returns at most `max_records` with keys and values of `max_bytes` together, but one record of any size. The
        partitions share both limits evenly; later partitions in `positions` may use what earlier ones leave. The result
        may have no records of a partition that has not ended: call again with `next`. Raises `TopicRecreated` if the id
        of a topic is not the one in `ids`.
        """

    def check_reachable(self) -> None:
        """Raise `BrokerUnavailable` with the reason unless a broker answers."""

    def cluster_id(self) -> str:
        """Return the id of the cluster, which never changes."""


class TopicAdmin(Protocol):
    """Creates, changes and deletes topics. Raises `OutcomeUnknown` if Kafka does not answer a request that it got."""

    def create(self, topic: str, settings: TopicSettings) -> None:
        """Create a topic, and return when it can be used.

        Raises `TopicExists`, `InvalidRequest` for its name, and `InvalidValue` with Kafka's reason.
        """

    def change(self, topic: str, change: TopicChange) -> None:
        """Check all parts of a change, then make them. Nothing was done if a check raises.

        Raises `TopicNotFound`, `PartitionNotFound`, `OffsetOutOfRange`, and `InvalidValue` with Kafka's reason.
        """

    def delete(self, topic: str) -> None:
        """Delete a topic, and return when it is gone. Raises `TopicNotFound`, `InvalidValue` with Kafka's reason."""


class Groups(Protocol):
    """Consumer groups and their committed offsets. A committed offset is that of the next record to read.

    A share group has no committed offsets: the calls that return or delete them find none, those that commit raise
    `WrongGroupType`.
    """

    def committed(self, group: str, topic: str, partitions: Collection[int]) -> dict[int, int]:
        """Return committed offsets. Partitions without one are left out."""

    def commit(self, group: str, topic: str, offsets: PartitionOffsets) -> None:
        """Commit offsets for a group without live members. Raises `GroupHasMembers` with the members."""

    def committed_offsets(
        self, group: str, partitions: Collection[TopicPartition]
    ) -> dict[TopicPartition, CommittedOffset]:
        """Return committed offsets and their metadata for any topics. Partitions without one are left out."""

    def commit_offsets(self, group: str, offsets: Mapping[TopicPartition, CommittedOffset]) -> None:
        """Commit offsets and their metadata for any topics. The group must have no live members, as for `commit`."""

    def delete_offsets(self, group: str, topic: str) -> None:
        """Remove the group's offsets of a topic, if there are any. Raises `GroupHasMembers`."""

    def members(self, group: str) -> list[GroupMember]:
        """Return the live members of a group."""

    def list_groups(self) -> list[ListedGroup]:
        """Return all groups that Kafka's ACLs show, sorted by name."""

    def describe_groups(self, groups: Collection[str]) -> list[DescribedGroup]:
        """Return these groups and their members, sorted by name. Groups that do not exist are left out."""

    def group_offsets(
        self, groups: Collection[ListedGroup | DescribedGroup], partitions: Collection[TopicPartition] | None = None
    ) -> dict[str, dict[TopicPartition, GroupOffset]]:
        """Return the committed offsets of groups by name, of share groups the offsets where their windows start.

        `partitions` limits them; None: those of all topics. Partitions without an offset are left out.
        """

    def delete_group(self, group: str) -> None:
        """Delete a group and its offsets. Raises `GroupNotFound`, `GroupHasMembers` with the members."""


class Membership(Protocol):
    """A static member of a group. It rejoins by itself after an outage."""

    def subscribe(self, topics: Collection[str]) -> None:
        """Replace the topics (at least one) that the member reads. Does not block."""

    def commit(self, offsets: Commits, timeout: float) -> None:
        """Commit as a member, within `timeout`.

        Raises `RetriableBrokerError` while the member has no assignment, `BrokerUnavailable`.
        """

    def leave(self) -> None:
        """Leave the group, so that the other members get the partitions at once.

        Raises nothing. If Kafka cannot be reached, the member's session times out.
        """

    def close(self) -> None:
        """Stop in this process only. A process that joins with the same id in time takes over the assignment."""


class Memberships(Protocol):
    """Joins consumer groups."""

    def join(self, group: str, member_id: str, topics: Collection[str], listener: MembershipListener) -> Membership:
        """Join a group as a static member (`group.instance.id`) for at least one topic. Does not block.

        Raises `Unavailable` if the process cannot open more connections.
        """


class ShareMember(Protocol):
    """A member of a share group that reads one topic. It rejoins by itself after an outage.

    It asks each leader one request at a time, never with a wait: each takes the acknowledgements that came up, and
    acquires what `ShareListener.wanted` says. While messages are wanted and there are none, it watches the topic's end.
    """

    def acknowledge(self, acknowledgements: Sequence[Acknowledgement]) -> None:
        """Send acknowledgements with the next requests. `ShareListener.acknowledged` gets the results. Never blocks."""

    def wake(self) -> None:
        """Ask `ShareListener.wanted` again, because more messages are wanted. Never blocks."""

    def close(self, timeout: float) -> None:
        """Send what was acknowledged, release all other locks, and leave the group, within `timeout`.

        Raises nothing. What could not be released is locked until Kafka notices the end of the connection.
        """


class ShareGroups(Protocol):
    """Share groups: Kafka's queues. All methods raise `QueuesUnsupported` if the brokers have none."""

    def settings(self, group: str) -> ShareGroupSettings:
        """Return the group's settings in Kafka. `refused` is False if they cannot be read."""

    def prepare(self, group: str, attempts: int) -> ShareGroupSettings:
        """Set a new group up: the earliest message, no assignment delay, the largest window, `attempts` deliveries.

        Settings of the group that somebody has made stay as they are. `refused` is True if ACLs refuse the change.
        Raises `WrongGroupType` if the name belongs to an ordinary consumer group.
        """

    def join(self, group: str, topic: str, listener: ShareListener) -> ShareMember:
        """Join a group to read all partitions of a topic. Does not block. Raises `Unavailable` at the limit of files.

        The listener's `failed` gets `WrongGroupType`, `NotAuthorized`, `TopicNotFound` and whatever else prevents it.
        """

    def progress(self, group: str, topic: str) -> dict[int, ShareProgress]:
        """Return how far the group is in each partition; none if it has not read the topic. Raises `GroupNotFound`."""

    def delete_offsets(self, group: str, topic: str) -> None:
        """Delete the group's offsets of a topic, and the group with its last topic.

        Raises `GroupNotFound`, and `GroupHasMembers` with the members.
        """


class Acls(Protocol):
    """The ACLs of the cluster."""

    def describe_acls(self) -> list[Acl] | None:
        """Return the ACLs of topics, groups and the cluster. Returns None if the cluster has no authorizer.

        Raises `NotAuthorized` if this server may not describe ACLs.
        """


class Broker(Protocol):
    """A Kafka cluster. The composition root creates it and closes it at the end of the process."""

    @property
    def producer(self) -> Producer: ...

    @property
    def log(self) -> Log: ...

    @property
    def topic_admin(self) -> TopicAdmin: ...

    @property
    def groups(self) -> Groups: ...

    @property
    def memberships(self) -> Memberships: ...

    @property
    def share_groups(self) -> ShareGroups: ...

    @property
    def acls(self) -> Acls: ...

    def release_memory(self) -> None:
        """Release memory that nothing will use any more. Does not block."""

    def close(self, timeout: float) -> None:
        """Flush the producer within `timeout` and close all connections."""
