"""What core asks of a consumer group: to be one of its members, without reading a record."""

from collections.abc import Collection
from typing import Protocol

from kafka_http.records import Commits, MembershipListener


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
