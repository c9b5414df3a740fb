"""Where to read from: what a client may ask for, and the offsets that it comes to."""

from collections.abc import Mapping

from msgspec import Struct, field

from kafka_http.broker_protocols import Groups, Log
from kafka_http.errors import OffsetOutOfRange, PartitionNotFound
from kafka_http.records import EARLIEST, Isolation, OffsetAt, OffsetReset
from kafka_http.topics import NEW_PARTITIONS_SECONDS, OffsetRange, Topics


class FromOffset(Struct, frozen=True):
    """This very offset."""

    offset: int


class FromLast(Struct, frozen=True):
    """The last `count` records of a partition."""

    count: int


class FromCommitted(Struct, frozen=True):
    """Behind the last acknowledged record; the end `reset` names where there is none or retention has removed it."""

    reset: OffsetReset = EARLIEST


class FromTimestamp(Struct, frozen=True):
    """An end of the log, or the first record at or after a time in milliseconds."""

    place: OffsetAt


StartPlace = FromOffset | FromLast | FromCommitted | FromTimestamp


class ReadStart(Struct, frozen=True):
    """A place in each partition: `partitions` name theirs, `rest` is that of all others (None: they are not read)."""

    rest: StartPlace | None = None
    partitions: Mapping[int, FromOffset | FromTimestamp] = field(default_factory=dict)


class PositionResolver:
    """Turns places into offsets."""

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
        """The offset to read next of each partition asked for. `wanted` narrows what `start.rest` applies to.

        An `FromOffset`, and a committed one, is taken as it is: whether the log has it shows when it is read. Raises
        `TopicNotFound`, `PartitionNotFound`.
        """
        if start.rest is None:
            return self._offsets(topic, group, dict(start.partitions), isolation)
        if start.partitions:  # as each page's `next` has it: then the metadata need not be asked for each page
            try:
                places = self._places(topic, start, wanted, NEW_PARTITIONS_SECONDS)
                return self._offsets(topic, group, places, isolation)
            except PartitionNotFound:  # by what was known, perhaps
                pass
        return self._offsets(topic, group, self._places(topic, start, wanted, 0), isolation)

    def _places(
        self, topic: str, start: ReadStart, wanted: frozenset[int] | None, max_age: float
    ) -> dict[int, StartPlace]:
        """Where to start in each partition, where `start` has a place for the rest."""
        places: dict[int, StartPlace] = {}
        if start.rest is not None:
            places = dict.fromkeys(self._topics.select(topic, wanted, max_age), start.rest)
        for partition, place in start.partitions.items():
            if partition not in places:
                raise PartitionNotFound(topic, partition, len(places))
            places[partition] = place
        return places

    def check_range(
        self, topic: str, positions: Mapping[int, int], ends: Mapping[int, OffsetRange] | None = None
    ) -> None:
        """Raise `OffsetOutOfRange` where a partition's log does not have its offset; its end counts as there."""
        ends = ends or self._topics.ends(topic, list(positions))
        missing = {p: ends[p] for p, offset in positions.items() if not ends[p].has(offset)}
        if missing:
            raise out_of_range(topic, positions, missing)

    def reset(self, topic: str, positions: Mapping[int, int], to: OffsetReset) -> dict[int, int]:
        """The positions, those that the log does not have set to one of its ends."""
        ends = self._topics.ends(topic, list(positions))
        return {
            partition: offset if ends[partition].has(offset) else getattr(ends[partition], to)
            for partition, offset in positions.items()
        }

    def _offsets(
        self, topic: str, group: str, places: Mapping[int, StartPlace], isolation: Isolation
    ) -> dict[int, int]:
        known = {p: place.offset for p, place in places.items() if isinstance(place, FromOffset)}
        at = {p: place.place for p, place in places.items() if isinstance(place, FromTimestamp)}
        if at:
            known.update(self._log.offsets(topic, at, isolation))
        last = {p: place.count for p, place in places.items() if isinstance(place, FromLast)}
        if last:
            known.update(self._log.last(topic, last, isolation))
        resets = {p: place.reset for p, place in places.items() if isinstance(place, FromCommitted)}
        if resets:
            known.update(self._committed(topic, group, resets))
        return {partition: known[partition] for partition in places}

    def _committed(self, topic: str, group: str, resets: Mapping[int, OffsetReset]) -> dict[int, int]:
        committed = self._groups.committed(group, topic, resets)
        never = {partition: reset for partition, reset in resets.items() if partition not in committed}
        return committed | (self._log.offsets(topic, never) if never else {})


def out_of_range(topic: str, positions: Mapping[int, int], ends: Mapping[int, OffsetRange]) -> OffsetOutOfRange:
    """The error for the partitions in `ends` that do not have the offsets asked for."""
    listed = [
        {"partition": partition, "offset": positions[partition], "earliest": there.earliest, "latest": there.latest}
        for partition, there in sorted(ends.items())
    ]
    said = "; ".join("partition {partition} has {earliest} to {latest}, not {offset}".format(**each) for each in listed)
    return OffsetOutOfRange(f"Offset out of range in {topic}: {said}.", topic=topic, partitions=listed)
