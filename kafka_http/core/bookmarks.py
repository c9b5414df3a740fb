"""How far a consumer instance has come in its partitions."""

from collections.abc import Collection, Iterable, Mapping

from kafka_http.records import Assignment, Place, Progress, TopicPartition

Offsets = dict[TopicPartition, int]


class Bookmarks:
    """`positions`, what is read next; `delivered`, behind the last record handed out; what of that is committed.

    Not for several threads at once.
    """

    def __init__(self, progress: Progress | None = None) -> None:
        progress = progress or Progress()
        self._generation = progress.generation
        self.positions = _offsets(progress.positions)
        self.delivered = _offsets(progress.delivered)
        self.committed = _offsets(progress.committed)

    def keep_for(self, assignment: Assignment) -> None:
        """Forget what no longer counts. A partition kept from one generation to the next was nobody else's meanwhile;
        where a generation was missed, somebody may have had it and committed."""
        followed = self._generation is not None and assignment.generation - self._generation in (0, 1)
        self.keep(assignment.partitions if followed else ())
        self._generation = assignment.generation

    def keep(self, partitions: Collection[TopicPartition]) -> None:
        """Forget all other partitions."""
        for offsets in (self.positions, self.delivered, self.committed):
            for place in [each for each in offsets if each not in partitions]:
                del offsets[place]

    def owed(self) -> Offsets:
        """What was delivered and not committed since."""
        return {place: at for place, at in self.delivered.items() if self.committed.get(place) != at}

    def paid(self, offsets: Mapping[TopicPartition, int]) -> None:
        """These offsets are committed."""
        self.committed.update({place: at for place, at in offsets.items() if self.delivered.get(place) == at})

    def progress(self) -> Progress:
        return Progress(self._generation, _places(self.positions), _places(self.delivered), _places(self.committed))


def _offsets(places: Iterable[Place]) -> Offsets:
    return {TopicPartition(each.topic, each.partition): each.offset for each in places}


def _places(offsets: Offsets) -> tuple[Place, ...]:
    return tuple(Place(*place, at) for place, at in offsets.items())
