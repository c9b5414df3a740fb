"""What core asks of a consumer group: to be one of its members, without reading a record."""

from collections.abc import Callable, Collection, Mapping
from typing import Protocol

from msgspec import Struct

from kafka_http.errors import KafkaHttpError
from kafka_http.records import CommittedOffset, TopicPartition

Commits = Mapping[TopicPartition, CommittedOffset]
Release = Callable[[Commits], None]


class Assignment(Struct, frozen=True):
    """The partitions that a member has in a generation of its group."""

    generation: int
    partitions: frozenset[TopicPartition]


class MembershipListener(Protocol):
    """Told what happens to a membership, one thing after the other, by a thread that it must not hold up."""

    def assigned(self, assignment: Assignment) -> None:
        """The member has these partitions now, and may read and commit until `revoking` or `lost`."""

    def revoking(self, release: Release) -> None:
        """The group is about to share its partitions out anew: read and commit no more.

        `release`, to be called once, by any thread and within `RELEASE_SECONDS`, takes what is to be committed still.
        """

    def lost(self) -> None:
        """As `revoking`, but nothing can be committed any more."""

    def failed(self, error: KafkaHttpError) -> None:
        """The member cannot join, or join again, for now. It goes on trying."""

    def fenced(self) -> None:
        """Another process has joined under this member's id: this membership is over."""


RELEASE_SECONDS = 3.0


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
