"""The consumer groups of the cluster: how far each of them is."""

from collections.abc import Callable, Iterable, Iterator, Mapping

from msgspec import Struct

from kafka_http.administration import DescribedGroup, GroupOffset
from kafka_http.broker_protocols import Groups
from kafka_http.errors import GroupNotFound, TopicNotFound
from kafka_http.name_filter import NameFilter
from kafka_http.read.start_positions import check_not_queue
from kafka_http.records import TopicPartition
from kafka_http.topics import OffsetRange, Topics


class PartitionProgress(Struct, frozen=True):
    """The offset of a group in a partition: the committed one, or the start of a share group's window.

    `lag` is the number of offsets from there to the end of the log that the log still has. If Kafka counts it, it is
    the number of messages that a share group has not settled.
    """

    topic: str
    partition: int
    offset: int
    end: int
    lag: int


class GroupProgress:
    """Lists, describes and deletes groups. The composition root creates it; any thread may call."""

    def __init__(self, groups: Groups, topics: Topics) -> None:
        self._groups = groups
        self._topics = topics

    def groups(self, names: NameFilter) -> list[DescribedGroup]:
        """Return the groups whose names are in `names`, sorted by name."""
        return self._groups.describe_groups(
            [each.group for each in self._groups.list_groups() if names.matches(each.group)]
        )

    def of_topic(self, topic: str, names: NameFilter) -> Iterator[tuple[DescribedGroup, list[PartitionProgress]]]:
        """Yield the groups that have offsets on a topic, sorted by name. Raises `TopicNotFound`."""
        partitions = [TopicPartition(topic, each) for each in self._topics.select(topic, None)]
        listed = [each for each in self._groups.list_groups() if names.matches(each.group)]
        offsets = {group: at for group, at in self._groups.group_offsets(listed, partitions).items() if at}
        if not offsets:
            return
        ranges = self._topics.offset_ranges(topic, [each.partition for each in partitions])
        for group in self._groups.describe_groups(list(offsets)):
            yield group, [_progress(tp, at, ranges[tp.partition]) for tp, at in sorted(offsets[group.group].items())]

    def describe(
        self, group: str, visible: Callable[[Iterable[str]], list[str]]
    ) -> tuple[DescribedGroup, list[PartitionProgress]]:
        """Return a group, and its progress on those of its topics that `visible` returns. Raises `GroupNotFound`."""
        found = self._groups.describe_groups([group])
        if not found:
            raise GroupNotFound(group)
        offsets = self._groups.group_offsets(found)[group]
        topics = sorted(visible({each.topic for each in offsets}))
        return found[0], [each for topic in topics for each in self._on_topic(topic, offsets)]

    def check_not_queue(self, group: str) -> None:
        """Raise `WrongGroupType` if the name is that of a queue."""
        check_not_queue(self._groups, group)

    def is_ordinary(self, group: str) -> bool:
        """Return whether there is a group of this name that is no queue."""
        return any(each.type != "share" for each in self._groups.describe_groups([group]))

    def delete(self, group: str) -> None:
        """Delete a group and its offsets. Raises `GroupNotFound`, `GroupHasMembers`."""
        self._groups.delete_group(group)

    def _on_topic(self, topic: str, offsets: Mapping[TopicPartition, GroupOffset]) -> list[PartitionProgress]:
        """Return the progress on a topic. Partitions that no longer exist are left out."""
        try:
            existing = frozenset(self._topics.select(topic, None))
            of_topic = {tp: at for tp, at in sorted(offsets.items()) if tp.topic == topic and tp.partition in existing}
            ranges = self._topics.offset_ranges(topic, [each.partition for each in of_topic])
        except TopicNotFound:  # it was just deleted, at any of these steps
            return []
        return [_progress(tp, at, ranges[tp.partition]) for tp, at in of_topic.items()]


def _progress(tp: TopicPartition, at: GroupOffset, log: OffsetRange) -> PartitionProgress:
    lag = at.lag if at.lag >= 0 else max(0, log.latest - max(at.offset, log.earliest))
    return PartitionProgress(tp.topic, tp.partition, at.offset, log.latest, lag)
