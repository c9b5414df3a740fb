"""What core asks of Apache Kafka. `kafka_http.broker` answers with the real thing, the tests with a fake as well.

All methods block, may be called from any thread, and raise from `kafka_http.errors` alone: `BrokerUnavailable` where
no broker can be reached, `TopicNotFound`, `PartitionNotFound`, `NotAuthorized`, `BrokerError`, `RetriableBrokerError`.
None of them creates a topic but `Producer.produce`, where `auto_create_topics` is set. Times are in seconds.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Protocol
from uuid import UUID

from kafka_http.records import (
    Commits,
    CommittedOffset,
    Fetched,
    GroupMember,
    Isolation,
    MembershipListener,
    NewRecord,
    OffsetAt,
    PartitionInfo,
    PartitionOffsets,
    Positions,
    RecordResult,
    ResultsCallback,
    TopicIds,
    TopicPartition,
)


class Producer(Protocol):
    def produce(
        self, topic: str, records: Sequence[NewRecord], timeout: float, settled: ResultsCallback | None = None
    ) -> list[RecordResult]:
        """Write the records of one request and wait for Kafka's acknowledgement, at most `timeout`.

        One outcome a record, in their order; those that got no answer in time are a `OutcomePending`. Records with
        neither key nor partition go to one partition together. Raises, with nothing written: `TopicNotFound`,
        `PartitionNotFound`, `BrokerUnavailable`.

        With `settled`, Kafka is asked for 120 s at least, whatever `timeout` is, and nothing of that is written twice.
        Where there is a `OutcomePending`, it is called once, with the outcomes in which there is none any more: by any
        thread, which must not be held up, perhaps before this returns. Raises `TooMuchInFlight` where too much waits.
        """

    def start(
        self, topic: str, records: Sequence[NewRecord], timeout: float, done: Callable[[], None]
    ) -> "PendingPublish | None":
        """As `produce`, without waiting: None, with nothing written, where that cannot be, or it would raise.

        The records may lie here until `send` is called. `done` is called once each has its outcome: by any thread,
        which must not be held up, perhaps before this returns. It may come after `timeout`, or never.
        """

    def send(self) -> None:
        """Send what was started: once for all requests that came together, which then share batches. Does not block."""


class PendingPublish(Protocol):
    """A request's records that were handed over."""

    def outcomes(self) -> list[RecordResult]:
        """One a record, in their order; of those that have no answer yet, a `OutcomePending`. Does not block."""


class Log(Protocol):
    def topics(self) -> list[str]:
        """The names of the cluster's topics, sorted, internal ones left out."""

    def partitions(self, topic: str, max_age: float = 0) -> list[PartitionInfo]:
        """A topic's partitions in their order, as they were at most `max_age` seconds ago. Raises `TopicNotFound`."""

    def topic_id(self, topic: str, max_age: float = 0) -> UUID | None:
        """What tells a topic from a later one of its name; None where the brokers are too old for ids.

        It is as it was at most `max_age` seconds ago. Raises `TopicNotFound`.
        """

    def topic_ids(self, topics: Collection[str], timeout: float | None = None) -> dict[str, UUID | None]:
        """The ids of these topics as they are now; topics that do not exist are left out."""

    def configs(self, topic: str) -> dict[str, str]:
        """A topic's settings by Kafka's names, defaults included; none where ACLs hide them. Raises `TopicNotFound`."""

    def brokers(self) -> list[int]:
        """The ids of the brokers that are alive, sorted."""

    def offsets(
        self, topic: str, at: Mapping[int, OffsetAt], isolation: Isolation = "read_uncommitted"
    ) -> dict[int, int]:
        """The offset at a place of each partition; under `read_committed`, latest is the last stable offset."""

    def last(self, topic: str, counts: Mapping[int, int], isolation: Isolation = "read_uncommitted") -> dict[int, int]:
        """Where the last `count` records of each partition begin: its earliest offset where it has fewer.

        Control records, compacted records and, under `read_committed`, aborted transactions do not count. Beyond some
        megabytes each offset is taken for a record.
        """

    def trailing_ends(
        self, positions: Positions, isolation: Isolation = "read_uncommitted"
    ) -> dict[TopicPartition, int]:
        """The end of the log of each partition that has no record at or behind its position; others are left out.

        Control records, compacted records and, under `read_committed`, aborted transactions count as no record.
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
        """Read from these positions at most `max_records`, with keys and values of `max_bytes` at most; but one record
        comes whatever its size.

        The partitions share both evenly; what one leaves is for those behind it in `positions`. With nothing there,
        waits for at most `wait`. May bring nothing of a partition that has not ended: then call again from `next`.
        Raises `TopicRecreated` where a topic has another id than `ids` says.
        """

    def alive(self) -> None:
        """Return where a broker answers, else raise `BrokerUnavailable` saying why."""

    def cluster_id(self) -> str:
        """The id that the cluster was formatted with, the same for as long as it lives."""


class Groups(Protocol):
    """Committed offsets of consumer groups: the offset of the next record to consume."""

    def committed(self, group: str, topic: str, partitions: Collection[int]) -> dict[int, int]:
        """The committed offsets, partitions that have none left out."""

    def commit(self, group: str, topic: str, offsets: PartitionOffsets) -> None:
        """Commit for a group without live members. Raises `GroupHasMembers`, which names them."""

    def committed_offsets(
        self, group: str, partitions: Collection[TopicPartition]
    ) -> dict[TopicPartition, CommittedOffset]:
        """As `committed`, of partitions of any topics, with the metadata."""

    def commit_offsets(self, group: str, offsets: Mapping[TopicPartition, CommittedOffset]) -> None:
        """As `commit`, for partitions of any topics, with metadata."""

    def forget(self, group: str, topic: str) -> None:
        """Remove the group's offsets on the topic; none is as good. Raises `GroupHasMembers`."""

    def members(self, group: str) -> list[GroupMember]: ...


class Membership(Protocol):
    """A static member of a group. It comes back by itself after an outage."""

    def subscribe(self, topics: Collection[str]) -> None:
        """Replace the topics, at least one, that the member wants partitions of. Does not wait."""

    def commit(self, offsets: Commits, timeout: float) -> None:
        """Commit as a member, for `timeout` seconds at most. Raises `RetriableBrokerError` while it has none assigned,
        `BrokerUnavailable`."""

    def leave(self) -> None:
        """End the membership for good: the others get its partitions at once. Raises nothing; where Kafka cannot be
        told, it finds out when the session times out."""

    def close(self) -> None:
        """End it in this process alone: one that joins under the same id in time goes on where it was."""


class Memberships(Protocol):
    def join(self, group: str, member_id: str, topics: Collection[str], listener: MembershipListener) -> Membership:
        """Join a group under a static id (`group.instance.id`), for partitions of these topics, at least one.

        Does not wait. Raises `Unavailable` where the process may not open as many connections.
        """


class Broker(Protocol):
    """All of it together, as the composition root makes it."""

    @property
    def producer(self) -> Producer: ...

    @property
    def log(self) -> Log: ...

    @property
    def groups(self) -> Groups: ...

    @property
    def memberships(self) -> Memberships: ...

    def close(self, timeout: float) -> None:
        """Flush what was handed to the producer, for `timeout` at most, and close all connections."""
