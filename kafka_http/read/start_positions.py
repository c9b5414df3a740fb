"""Start positions: what a client may ask for, the offsets that result, and whether partitions exist."""

from collections.abc import Collection, Iterable, Mapping, Sequence

from msgspec import Struct, field

from kafka_http.broker_protocols import Broker, Groups, Log
from kafka_http.errors import OffsetOutOfRange, PartitionNotFound, TopicNotFound, WrongGroupType
from kafka_http.records import EARLIEST, InstanceSettings, Isolation, OffsetReset, OffsetSpec, TopicPartition
from kafka_http.topics import NEW_PARTITIONS_SECONDS, OffsetRange, Topics


class FromOffset(Struct, frozen=True):
    """Start at this offset."""

    offset: int


class FromLast(Struct, frozen=True):
    """Start at the last `count` records of a partition."""

    count: int


class FromCommitted(Struct, frozen=True):
    """Start at the committed offset, or at an end of the log if there is none or if the log no longer has it."""

    reset: OffsetReset = EARLIEST


class FromOffsetSpec(Struct, frozen=True):
    """Start at an end of the log, or at the first record at or after a time in milliseconds."""

    spec: OffsetSpec


StartPosition = FromOffset | FromLast | FromCommitted | FromOffsetSpec


class ReadStart(Struct, frozen=True):
    """The start of a read: the start positions of some partitions, and that of all others.

    If `rest` is None, only the partitions in `partitions` are read.
    """

    rest: StartPosition | None = None
    partitions: Mapping[int, FromOffset | FromOffsetSpec] = field(default_factory=dict)


class PositionResolver:
    """Resolves start positions to offsets. The composition root creates one; any thread may call."""

    def __init__(self, log: Log, groups: Groups, topics: Topics) -> None:
        self._log = log
        self._groups = groups
        self._topics = topics

    def resolve(
        self,
        topic: str,
        group: str,
        start: ReadStart,
        wanted: frozenset[int] | None = None,
        isolation: Isolation = "read_uncommitted",
    ) -> dict[int, int]:
        """Return the offset to read next of each partition.

        `wanted` limits the partitions that `start.rest` applies to. A `FromOffset` and a committed offset are not
        checked: the read finds out whether the log has them. Raises `TopicNotFound`, `PartitionNotFound`.
        """
        if start.rest is None:
            return self._offsets(topic, group, dict(start.partitions), isolation)
        if start.partitions:  # the `next` of an earlier page: try cached metadata first
            try:
                starts = self._starts(topic, start, wanted, NEW_PARTITIONS_SECONDS)
                return self._offsets(topic, group, starts, isolation)
            except PartitionNotFound:  # the cached metadata may be old
                pass
        return self._offsets(topic, group, self._starts(topic, start, wanted, 0), isolation)

    def _starts(
        self, topic: str, start: ReadStart, wanted: frozenset[int] | None, max_age: float
    ) -> dict[int, StartPosition]:
        """Return the start position of each partition, for a `start` with `rest`."""
        starts: dict[int, StartPosition] = {}
        if start.rest is not None:
            starts = dict.fromkeys(self._topics.select(topic, wanted, max_age), start.rest)
        for partition, position in start.partitions.items():  # these replace the position for the rest
            if partition not in starts:
                raise PartitionNotFound(topic, partition, len(starts))
            starts[partition] = position
        return starts

    def check_range(
        self, topic: str, positions: Mapping[int, int], ranges: Mapping[int, OffsetRange] | None = None
    ) -> None:
        """Raise `OffsetOutOfRange` if a log does not have its position. The end of the log is in range."""
        ranges = ranges or self._topics.offset_ranges(topic, list(positions))
        missing = {p: ranges[p] for p, offset in positions.items() if not ranges[p].contains(offset)}
        if missing:
            raise out_of_range(topic, positions, missing)

    def reset(self, topic: str, positions: Mapping[int, int], to: OffsetReset) -> dict[int, int]:
        """Return the positions. Those that are out of range are replaced by an end of the log."""
        ranges = self._topics.offset_ranges(topic, list(positions))
        return {
            partition: offset if ranges[partition].contains(offset) else getattr(ranges[partition], to)
            for partition, offset in positions.items()
        }

    def _offsets(
        self, topic: str, group: str, starts: Mapping[int, StartPosition], isolation: Isolation
    ) -> dict[int, int]:
        known = {p: start.offset for p, start in starts.items() if isinstance(start, FromOffset)}
        at = {p: start.spec for p, start in starts.items() if isinstance(start, FromOffsetSpec)}
        if at:
            known.update(self._log.offsets(topic, at, isolation))
        last = {p: start.count for p, start in starts.items() if isinstance(start, FromLast)}
        if last:
            known.update(self._log.last(topic, last, isolation))
        resets = {p: start.reset for p, start in starts.items() if isinstance(start, FromCommitted)}
        if resets:
            known.update(self._committed(topic, group, resets))
        return {partition: known[partition] for partition in starts}

    def _committed(self, topic: str, group: str, resets: Mapping[int, OffsetReset]) -> dict[int, int]:
        committed = committed_offsets(self._groups, group, topic, resets)
        without = {partition: reset for partition, reset in resets.items() if partition not in committed}
        return committed | (self._log.offsets(topic, without) if without else {})


def committed_offsets(groups: Groups, group: str, topic: str, partitions: Collection[int]) -> dict[int, int]:
    """Return the committed offsets of a consumer. Raises `WrongGroupType` for the name of a queue, which has none."""
    try:
        committed = groups.committed(group, topic, partitions)
    except WrongGroupType:
        raise _is_queue(group) from None
    if not committed:
        check_not_queue(groups, group)
    return committed


def check_not_queue(groups: Groups, group: str) -> None:
    """Raise `WrongGroupType` if the name is that of a queue. Kafka does not say so in each case."""
    if any(each.type == "share" for each in groups.describe_groups([group])):
        raise _is_queue(group)


def _is_queue(group: str) -> WrongGroupType:
    return WrongGroupType(
        f"{group} is a queue, which has no committed offsets. See it with GET /messages/<topic>/{group}/queue, and "
        "acknowledge its messages by their leases. Or use another name.",
        group=group,
    )


def out_of_range(
    topic: str, positions: Mapping[int, int], ranges: Mapping[int, OffsetRange], hint: str = ""
) -> OffsetOutOfRange:
    """Return the error for the partitions in `ranges`, whose logs do not have the positions. `hint` is its end."""
    listed = [
        {"partition": partition, "offset": positions[partition], "earliest": each.earliest, "latest": each.latest}
        for partition, each in sorted(ranges.items())
    ]
    text = "; ".join("partition {partition} has {earliest} to {latest}, not {offset}".format(**each) for each in listed)
    return OffsetOutOfRange(f"Offset out of range in {topic}: {text}.{hint}", topic=topic, partitions=listed)


def find_offsets(
    log: Log, specs: Mapping[TopicPartition, OffsetSpec], isolation: Isolation
) -> dict[TopicPartition, int]:
    """Return the offsets at an end of the log or at a timestamp, for partitions of any topics."""
    by_topic: dict[str, dict[int, OffsetSpec]] = {}
    for tp, at in specs.items():
        by_topic.setdefault(tp.topic, {})[tp.partition] = at
    return {
        TopicPartition(topic, partition): offset
        for topic, wanted in by_topic.items()
        for partition, offset in log.offsets(topic, wanted, isolation).items()
    }


def check_partitions(log: Log, partitions: Iterable[TopicPartition], *, missing_topics: bool = False) -> None:
    """Raise `PartitionNotFound` for a partition that does not exist.

    Raises `TopicNotFound` for a topic that does not exist, unless `missing_topics` allows that.
    """
    by_topic: dict[str, list[int]] = {}
    for tp in partitions:
        by_topic.setdefault(tp.topic, []).append(tp.partition)
    for topic, wanted in by_topic.items():
        try:
            existing = {each.partition for each in log.partitions(topic)}
        except TopicNotFound:
            if missing_topics:
                continue
            raise
        for partition in wanted:
            if partition not in existing:
                raise PartitionNotFound(topic, partition, len(existing))


def find_starts(
    broker: Broker, group: str, settings: InstanceSettings, partitions: Sequence[TopicPartition]
) -> dict[TopicPartition, int]:
    """Return where a consumer instance starts: at the group's committed offset, or at an end of the log."""
    committed = broker.groups.committed_offsets(group, partitions)
    starts = {tp: at.offset for tp, at in committed.items()}
    without: dict[str, dict[TopicPartition, OffsetSpec]] = {}
    for tp in partitions:
        if tp not in starts:
            without.setdefault(tp.topic, {})[tp] = settings.reset
    for specs in without.values():
        try:
            starts.update(find_offsets(broker.log, specs, settings.isolation))
        except (TopicNotFound, PartitionNotFound):  # not created yet, or just deleted: it will start empty
            starts.update(dict.fromkeys(specs, 0))
    return starts
