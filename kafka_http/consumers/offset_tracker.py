"""How far a consumer instance has come in its partitions."""

from collections.abc import Callable, Collection, Iterable, Mapping
from uuid import UUID

from kafka_http.records import Assignment, InstanceProgress, RecordPlace, TopicPartition

OffsetMap = dict[TopicPartition, int]


class OffsetTracker:
    """`positions`, what is read next; `delivered`, behind the last record handed out; what of that is committed; and
    the `ids` of the topics that these offsets are of.

    Not for several threads at once.
    """

    def __init__(self, progress: InstanceProgress | None = None) -> None:
        progress = progress or InstanceProgress()
        self._generation = progress.generation
        self.positions = _offsets(progress.positions)
        self.delivered = _offsets(progress.delivered)
        self.committed = _offsets(progress.committed)
        self.ids: dict[str, UUID | None] = dict(progress.ids)

    def keep_for(self, assignment: Assignment) -> None:
        """Forget what no longer counts. A partition kept from one generation to the next was nobody else's meanwhile;
        where a generation was missed, somebody may have had it and committed."""
        followed = self._generation is not None and assignment.generation - self._generation in (0, 1)
        self.keep(assignment.partitions if followed else ())
        self._generation = assignment.generation

    def keep(self, partitions: Collection[TopicPartition]) -> None:
        """Forget all other partitions."""
        self._forget(lambda each: each not in partitions)

    def forget_topics(self, topics: Collection[str]) -> None:
        """Forget topics that were deleted: their names may be those of others now."""
        self._forget(lambda each: each.topic in topics)

    def _forget(self, is_meant: Callable[[TopicPartition], bool]) -> None:
        for offsets in (self.positions, self.delivered, self.committed):
            for place in [each for each in offsets if is_meant(each)]:
                del offsets[place]
        left = {each.topic for each in (*self.positions, *self.delivered)}
        self.ids = {topic: topic_id for topic, topic_id in self.ids.items() if topic in left}

    def read_on(self, positions: Mapping[TopicPartition, int]) -> None:
        """Read on from these positions: there was no record before them that was not handed out.

        Where nothing else was left out, `delivered` goes along, over control records and gaps of compaction.
        """
        for place, at in positions.items():
            if place in self.delivered and self.delivered[place] == self.positions.get(place):
                self.delivered[place] = at
            self.positions[place] = at

    def hand_out(self, positions: Mapping[TopicPartition, int], delivered: Mapping[TopicPartition, int]) -> None:
        """A page was handed out: its records end before `delivered`, and it was read up to `positions`."""
        self.read_on({place: at for place, at in positions.items() if place not in delivered})
        for place, behind in delivered.items():
            self.delivered[place] = positions.get(place, behind)
            if place in positions:
                self.positions[place] = positions[place]

    def owed(self) -> OffsetMap:
        """What was delivered and not committed since."""
        return {place: at for place, at in self.delivered.items() if self.committed.get(place) != at}

    def paid(self, offsets: Mapping[TopicPartition, int]) -> None:
        """These offsets are committed."""
        self.committed.update({place: at for place, at in offsets.items() if self.delivered.get(place) == at})

    def progress(self) -> InstanceProgress:
        positions, delivered, committed = map(_places, (self.positions, self.delivered, self.committed))
        return InstanceProgress(self._generation, positions, delivered, committed, self.ids)


def _offsets(places: Iterable[RecordPlace]) -> OffsetMap:
    return {TopicPartition(each.topic, each.partition): each.offset for each in places}


def _places(offsets: OffsetMap) -> tuple[RecordPlace, ...]:
    return tuple(RecordPlace(*place, at) for place, at in offsets.items())
