"""The offsets of a consumer instance: the next position, what was delivered, and what of that is committed."""

from collections.abc import Callable, Collection, Mapping
from uuid import UUID

from kafka_http.records import Assignment, InstanceProgress, TopicPartition, offset_entries, offsets_of

OffsetMap = dict[TopicPartition, int]


class OffsetTracker:
    """The offsets of one instance, by partition. The instance creates it and locks its calls.

    `positions` are read next. `delivered` are one after the last delivered record, `committed` the last committed
    values of them. `ids` are the ids of the topics.
    """

    def __init__(self, progress: InstanceProgress | None = None) -> None:
        progress = progress or InstanceProgress()
        self._generation = progress.generation
        self.positions = offsets_of(progress.positions)
        self.delivered = offsets_of(progress.delivered)
        self.committed = offsets_of(progress.committed)
        self.ids: dict[str, UUID | None] = dict(progress.ids)

    def assigned(self, assignment: Assignment) -> None:
        """Drop the offsets that are invalid after a rebalance.

        A partition that is kept from one generation to the next had no other owner. If a generation was missed, another
        member may have had the partition and committed.
        """
        is_next = self._generation is not None and assignment.generation - self._generation in (0, 1)
        self.retain(assignment.partitions if is_next else ())
        self._generation = assignment.generation

    def retain(self, partitions: Collection[TopicPartition]) -> None:
        """Drop the offsets of all other partitions."""
        self._drop(lambda each: each not in partitions)

    def drop_topics(self, topics: Collection[str]) -> None:
        """Drop the offsets of topics that were deleted. New topics may have their names."""
        self._drop(lambda each: each.topic in topics)

    def _drop(self, is_dropped: Callable[[TopicPartition], bool]) -> None:
        for offsets in (self.positions, self.delivered, self.committed):
            for tp in [each for each in offsets if is_dropped(each)]:
                del offsets[tp]
        left = {each.topic for each in (*self.positions, *self.delivered)}
        self.ids = {topic: topic_id for topic, topic_id in self.ids.items() if topic in left}

    def advance(self, positions: Mapping[TopicPartition, int]) -> None:
        """Set the positions after an empty page.

        If all records before a position were delivered, `delivered` moves with it, over control records and gaps of
        compaction.
        """
        for tp, at in positions.items():
            if tp in self.delivered and self.delivered[tp] == self.positions.get(tp):
                self.delivered[tp] = at
            self.positions[tp] = at

    def record_delivery(self, positions: Mapping[TopicPartition, int], delivered: Mapping[TopicPartition, int]) -> None:
        """Record the delivery of a page that was read up to `positions` and whose records end before `delivered`."""
        self.advance({tp: at for tp, at in positions.items() if tp not in delivered})
        for tp, end in delivered.items():
            self.delivered[tp] = positions.get(tp, end)
            if tp in positions:
                self.positions[tp] = positions[tp]

    def uncommitted(self) -> OffsetMap:
        """Return the delivered offsets that are not committed."""
        return {tp: at for tp, at in self.delivered.items() if self.committed.get(tp) != at}

    def mark_committed(self, offsets: Mapping[TopicPartition, int]) -> None:
        """Record a commit of delivered offsets."""
        self.committed.update({tp: at for tp, at in offsets.items() if self.delivered.get(tp) == at})

    def progress(self) -> InstanceProgress:
        """Return the offsets for the store."""
        return InstanceProgress(
            self._generation,
            tuple(offset_entries(self.positions)),
            tuple(offset_entries(self.delivered)),
            tuple(offset_entries(self.committed)),
            self.ids,
        )
