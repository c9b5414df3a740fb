"""Consumers of the /messages dialect: a consumer is a group whose committed offsets we set for it."""

from collections.abc import Mapping

from msgspec import Struct

from kafka_http.broker_protocols import Groups, Log
from kafka_http.errors import InvalidRequest
from kafka_http.read.start_positions import PositionResolver, ReadStart, out_of_range
from kafka_http.records import Isolation, OffsetReset, TopicPartition
from kafka_http.topics import OffsetRange, Topics


class ConsumerProgress(Struct, frozen=True):
    """How far a consumer has come in a partition. `lag` counts the offsets it has still to read.

    `committed` is None where there is none, or where it lies beyond the end of the log.
    """

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


class ConsumerOffsets:
    """Acknowledges for consumers and tells how far they are. The state is Kafka's alone.

    A committed offset beyond the end of the log counts as none: the log is not the one that it was committed for. The
    end has to be asked for after it, since both move on meanwhile.
    """

    def __init__(self, log: Log, groups: Groups, topics: Topics, resolver: PositionResolver) -> None:
        self._log = log
        self._groups = groups
        self._topics = topics
        self._resolver = resolver

    def ack(
        self, topic: str, consumer: str, offsets: Mapping[int, int], isolation: Isolation = "read_uncommitted"
    ) -> None:
        """Acknowledge these offsets and all before them, and what follows them where that is no record: control
        records, compacted records and, under `read_committed`, aborted transactions.

        Never moves back. Kafka has no compare-and-set: of two at the same instant the lower may win. Raises
        `OffsetOutOfRange` beyond the end of the log, `PartitionNotFound`, `GroupHasMembers`.
        """
        partitions = self._topics.select(topic, frozenset(offsets))
        committed = self._groups.committed(consumer, topic, partitions)
        ends = self._topics.ends(topic, partitions)
        beyond = {p: ends[p] for p, offset in offsets.items() if offset >= ends[p].latest}
        if beyond:
            raise out_of_range(topic, offsets, beyond)
        committed = _within(committed, ends)
        behind = {p: offset + 1 for p, offset in offsets.items() if offset + 1 >= committed.get(p, 0)}
        unsure = {TopicPartition(topic, p): offset for p, offset in behind.items() if offset < ends[p].latest}
        if unsure:
            behind |= {place.partition: at for place, at in self._log.trailing_ends(unsure, isolation).items()}
        self._advance(topic, consumer, behind, committed)

    def ack_before(self, topic: str, consumer: str, positions: Mapping[int, int], *, skip: bool = False) -> None:
        """Acknowledge all before these positions. Never moves back.

        Raises `OffsetOutOfRange` where a log does not have its position; with `skip` that partition is left out.
        """
        committed = self._groups.committed(consumer, topic, positions)
        ends = self._topics.ends(topic, list(positions))
        if not skip:
            self._resolver.check_range(topic, positions, ends)
        there = {p: offset for p, offset in positions.items() if ends[p].has(offset)}
        self._advance(topic, consumer, there, _within(committed, ends))

    def _advance(self, topic: str, consumer: str, positions: Mapping[int, int], committed: Mapping[int, int]) -> None:
        ahead = {p: offset for p, offset in positions.items() if offset > committed.get(p, -1)}
        if ahead:
            self._groups.commit(consumer, topic, ahead)

    def seek(
        self,
        topic: str,
        consumer: str,
        start: ReadStart,
        wanted: frozenset[int] | None,
        reset: OffsetReset | None = None,
    ) -> None:
        """Set the committed position, forwards or backwards.

        An offset that the log does not have is replaced by the end that `reset` names. Raises `OffsetOutOfRange`
        without it.
        """
        positions = self._resolver.resolve(topic, consumer, start, wanted)
        self._topics.select(topic, frozenset(positions))
        if reset is not None:
            positions = self._resolver.reset(topic, positions, reset)
        self._resolver.check_range(topic, positions)
        self._groups.commit(consumer, topic, positions)

    def forget(self, topic: str, consumer: str) -> None:
        """Remove the consumer's offsets on the topic."""
        self._topics.partitions(topic)
        self._groups.forget(consumer, topic)

    def progress(self, topic: str, consumer: str) -> list[ConsumerProgress]:
        """How far the consumer is in each partition of the topic."""
        partitions = self._topics.select(topic, None)
        committed = self._groups.committed(consumer, topic, partitions)
        ends = self._topics.ends(topic, partitions)
        committed = _within(committed, ends)
        return [
            ConsumerProgress(
                partition,
                committed.get(partition),
                earliest,
                latest,
                latest - max(committed.get(partition, 0), earliest),
            )
            for partition, (earliest, latest) in ends.items()
        ]


def _within(committed: Mapping[int, int], ends: Mapping[int, OffsetRange]) -> dict[int, int]:
    """The committed offsets that count."""
    return {partition: at for partition, at in committed.items() if at <= ends[partition].latest}
