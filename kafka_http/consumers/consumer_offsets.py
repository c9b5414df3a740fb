"""Consumers of the `/messages` API. A consumer is a consumer group whose committed offsets this server sets."""

from collections.abc import Mapping

from msgspec import Struct

from kafka_http.broker_protocols import Groups, Log
from kafka_http.errors import InvalidRequest
from kafka_http.read.start_positions import (
    PositionResolver,
    ReadStart,
    check_not_queue,
    committed_offsets,
    out_of_range,
)
from kafka_http.records import Isolation, OffsetReset, TopicPartition
from kafka_http.topics import OffsetRange, Topics


class ConsumerProgress(Struct, frozen=True):
    """The committed offset of a consumer in a partition, and the number of offsets that it has not read (`lag`).

    `committed` is None if there is no committed offset, or if it is after the end of the log.
    """

    partition: int
    committed: int | None
    earliest: int
    latest: int
    lag: int


def check_consumer_name(consumer: str) -> None:
    """Raise `InvalidRequest` if a consumer name cannot be used as a group id in a URL."""
    if len(consumer) > 249 or consumer in {".", ".."} or not consumer.isprintable():
        raise InvalidRequest(
            "Illegal consumer name: expected 1 to 249 printable characters, but not '.' or '..'.",
            consumer=consumer[:249],
        )


class ConsumerOffsets:
    """Commits and reads the offsets of consumers. All state is in Kafka.

    The composition root creates it; any thread may call. A committed offset after the end of the log is ignored,
    because it was committed for another topic of this name. The end is read after the committed offset: both may
    advance in between. All methods raise `WrongGroupType` for the name of a queue.
    """

    def __init__(self, log: Log, groups: Groups, topics: Topics, resolver: PositionResolver) -> None:
        self._log = log
        self._groups = groups
        self._topics = topics
        self._resolver = resolver

    def ack(
        self, topic: str, consumer: str, offsets: Mapping[int, int], isolation: Isolation = "read_uncommitted"
    ) -> None:
        """Acknowledge these records and all before them.

        This also acknowledges what follows them without being a record: control records, compacted records and, for
        `read_committed`, aborted transactions. A committed offset never moves back. Kafka has no compare-and-set: of
        two calls at the same time, the lower offset may win. Raises `OffsetOutOfRange` after the end of the log,
        `PartitionNotFound`, `GroupHasMembers`.
        """
        partitions = self._topics.select(topic, frozenset(offsets))
        committed = committed_offsets(self._groups, consumer, topic, partitions)
        ranges = self._topics.offset_ranges(topic, partitions)
        too_high = {p: ranges[p] for p, offset in offsets.items() if offset >= ranges[p].latest}
        if too_high:
            hint = " The last of these offsets has no message yet, so it cannot be acknowledged."
            raise out_of_range(topic, offsets, too_high, hint)
        committed = _in_range(committed, ranges)
        positions = {p: offset + 1 for p, offset in offsets.items() if offset + 1 >= committed.get(p, 0)}
        before_end = {TopicPartition(topic, p): offset for p, offset in positions.items() if offset < ranges[p].latest}
        if before_end:
            positions |= {tp.partition: at for tp, at in self._log.ends_without_records(before_end, isolation).items()}
        self._advance(topic, consumer, positions, committed)

    def ack_before(self, topic: str, consumer: str, positions: Mapping[int, int], *, skip: bool = False) -> None:
        """Acknowledge all records before these positions. A committed offset never moves back.

        Raises `OffsetOutOfRange` if a log does not have its position. With `skip`, that partition is left out instead.
        """
        committed = committed_offsets(self._groups, consumer, topic, positions)
        ranges = self._topics.offset_ranges(topic, list(positions))
        if not skip:
            self._resolver.check_range(topic, positions, ranges)
        in_range = {p: offset for p, offset in positions.items() if ranges[p].contains(offset)}
        self._advance(topic, consumer, in_range, _in_range(committed, ranges))

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
        """Set the committed offsets, forward or back.

        An offset that is out of range is replaced by the end of the log that `reset` names. Without it, this raises
        `OffsetOutOfRange`.
        """
        positions = self._resolver.resolve(topic, consumer, start, wanted)
        self._topics.select(topic, frozenset(positions))
        if reset is not None:
            positions = self._resolver.reset(topic, positions, reset)
        self._resolver.check_range(topic, positions)
        check_not_queue(self._groups, consumer)
        self._groups.commit(consumer, topic, positions)

    def delete_offsets(self, topic: str, consumer: str) -> None:
        """Remove the consumer's offsets on the topic."""
        self._topics.partitions(topic)
        check_not_queue(self._groups, consumer)
        self._groups.delete_offsets(consumer, topic)

    def progress(self, topic: str, consumer: str) -> list[ConsumerProgress]:
        """Return the progress of a consumer in each partition of a topic."""
        partitions = self._topics.select(topic, None)
        committed = committed_offsets(self._groups, consumer, topic, partitions)
        ranges = self._topics.offset_ranges(topic, partitions)
        committed = _in_range(committed, ranges)
        return [
            ConsumerProgress(
                partition,
                committed.get(partition),
                earliest,
                latest,
                latest - max(committed.get(partition, 0), earliest),
            )
            for partition, (earliest, latest) in ranges.items()
        ]


def _in_range(committed: Mapping[int, int], ranges: Mapping[int, OffsetRange]) -> dict[int, int]:
    """Return the committed offsets that are not after the end of the log."""
    return {partition: at for partition, at in committed.items() if at <= ranges[partition].latest}
