"""Consumers of the /messages dialect: a consumer is a group whose committed offsets we set for it."""

from collections.abc import Mapping

from msgspec import Struct

from kafka_http.core.broker import Groups
from kafka_http.core.positions import Committed, Resolver, Start, out_of_range
from kafka_http.core.topics import Topics
from kafka_http.errors import InvalidRequest


class Progress(Struct, frozen=True):
    """How far a consumer has come in a partition. `lag` counts the offsets it has still to read."""

    partition: int
    committed: int | None
    earliest: int
    latest: int
    lag: int


def check_consumer_name(consumer: str) -> None:
    """Raise `InvalidRequest` for a name that is no good as a group id in a URL."""
    if len(consumer) > 249 or consumer in {".", ".."} or not consumer.isprintable():
        raise InvalidRequest(
            "Illegal consumer name: a consumer has 1 to 249 printable characters, and is neither '.' nor '..'.",
            consumer=consumer[:249],
        )


class Consumers:
    """Acknowledges for consumers and tells how far they are. The state is Kafka's alone."""

    def __init__(self, groups: Groups, topics: Topics, resolver: Resolver) -> None:
        self._groups = groups
        self._topics = topics
        self._resolver = resolver

    def ack(self, topic: str, consumer: str, offsets: Mapping[int, int]) -> None:
        """Acknowledge these offsets and all before them. Never moves back. Kafka has no compare-and-set: of two at the
        same instant the lower may win.

        Raises `OffsetOutOfRange` beyond the end of the log, `PartitionNotFound`, `GroupHasMembers`.
        """
        ends = self._topics.ends(topic, self._topics.select(topic, frozenset(offsets)))
        beyond = {p: ends[p] for p, offset in offsets.items() if offset >= ends[p].latest}
        if beyond:
            raise out_of_range(topic, offsets, beyond)
        self._advance(topic, consumer, {partition: offset + 1 for partition, offset in offsets.items()})

    def ack_before(self, topic: str, consumer: str, positions: Mapping[int, int]) -> None:
        """Acknowledge all before these positions, which the log must have. Never moves back."""
        self._resolver.check_range(topic, positions)
        self._advance(topic, consumer, positions)

    def _advance(self, topic: str, consumer: str, positions: Mapping[int, int]) -> None:
        committed = self._groups.committed(consumer, topic, positions)
        ahead = {p: offset for p, offset in positions.items() if offset > committed.get(p, -1)}
        if ahead:
            self._groups.commit(consumer, topic, ahead)

    def seek(self, topic: str, consumer: str, start: Start, wanted: frozenset[int] | None) -> None:
        """Set the committed position, forwards or backwards."""
        positions = self._resolver.resolve(topic, consumer, start, wanted)
        self._topics.select(topic, frozenset(positions))
        if isinstance(start.rest, Committed):
            positions = self._resolver.reset(topic, positions, start.rest.reset)
        self._resolver.check_range(topic, positions)
        self._groups.commit(consumer, topic, positions)

    def forget(self, topic: str, consumer: str) -> None:
        """Remove the consumer's offsets on the topic."""
        self._topics.partitions(topic)
        self._groups.forget(consumer, topic)

    def progress(self, topic: str, consumer: str) -> list[Progress]:
        """How far the consumer is in each partition of the topic."""
        partitions = self._topics.select(topic, None)
        committed = self._groups.committed(consumer, topic, partitions)
        return [
            Progress(
                partition,
                committed.get(partition),
                ends.earliest,
                ends.latest,
                ends.latest - min(max(committed.get(partition, 0), ends.earliest), ends.latest),
            )
            for partition, ends in self._topics.ends(topic, partitions).items()
        ]
