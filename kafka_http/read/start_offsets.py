"""Where to begin to read, and whether a partition is there."""

from collections.abc import Iterable, Mapping, Sequence

from kafka_http.broker_protocols import Broker, Log
from kafka_http.errors import PartitionNotFound, TopicNotFound
from kafka_http.records import InstanceSettings, Isolation, OffsetAt, TopicPartition


def find_offsets(
    log: Log, places: Mapping[TopicPartition, OffsetAt], isolation: Isolation
) -> dict[TopicPartition, int]:
    """The offsets at these places of partitions of any topics."""
    by_topic: dict[str, dict[int, OffsetAt]] = {}
    for place, at in places.items():
        by_topic.setdefault(place.topic, {})[place.partition] = at
    return {
        TopicPartition(topic, partition): offset
        for topic, wanted in by_topic.items()
        for partition, offset in log.offsets(topic, wanted, isolation).items()
    }


def check_partitions(log: Log, partitions: Iterable[TopicPartition], *, missing_topics: bool = False) -> None:
    """Raise `PartitionNotFound` for one that its topic does not have, and `TopicNotFound`, which `missing_topics`
    permits."""
    by_topic: dict[str, list[int]] = {}
    for place in partitions:
        by_topic.setdefault(place.topic, []).append(place.partition)
    for topic, wanted in by_topic.items():
        try:
            there = {each.partition for each in log.partitions(topic)}
        except TopicNotFound:
            if missing_topics:
                continue
            raise
        for partition in wanted:
            if partition not in there:
                raise PartitionNotFound(topic, partition, len(there))


def find_starts(
    broker: Broker, group: str, settings: InstanceSettings, partitions: Sequence[TopicPartition]
) -> dict[TopicPartition, int]:
    """Where a group begins: at its committed offsets or, where it has none, at an end of the log."""
    committed = broker.groups.committed_offsets(group, partitions)
    starts = {place: at.offset for place, at in committed.items()}
    never: dict[str, dict[TopicPartition, OffsetAt]] = {}
    for place in partitions:
        if place not in starts:
            never.setdefault(place.topic, {})[place] = settings.reset
    for places in never.values():
        try:
            starts.update(find_offsets(broker.log, places, settings.isolation))
        except (TopicNotFound, PartitionNotFound):  # not there yet, or deleted a moment ago: it starts empty
            starts.update(dict.fromkeys(places, 0))
    return starts
