"""The topics of the fake Kafka: their logs, and where records are."""

from uuid import uuid4

from kafka.partitioner.default import murmur2

from kafka_http.errors import PartitionNotFound
from kafka_http.records import EARLIEST, LATEST, NewRecord, OffsetSpec, Record, RecordMetadata, payload_size


class FakePartition:
    """A log: records in the order of their offsets from `earliest` to `latest`, gaps allowed."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.earliest = 0
        self.latest = 0

    def append(self, topic: str, partition: int, record: NewRecord, timestamp: int) -> RecordMetadata:
        stored = Record(topic, partition, self.latest, timestamp, record.key, record.value, list(record.headers))
        self.records.append(stored)
        self.latest += 1
        return RecordMetadata(partition, stored.offset, timestamp)

    def after(self, offset: int) -> list[Record]:
        return [each for each in self.records if each.offset >= offset]


class FakeTopic:
    def __init__(self, name: str, partitions: int, limit: int | None, compacted: bool, append_time: bool) -> None:
        self.name = name
        self.id = uuid4()
        self.partitions = [FakePartition() for _ in range(partitions)]
        self.limit = limit
        self.compacted = compacted
        self.append_time = append_time
        self.config: dict[str, str] = {}
        """The settings of the topic itself."""
        if limit is not None:
            self.config["max.message.bytes"] = str(limit)
        if compacted:
            self.config["cleanup.policy"] = "compact"
        if append_time:
            self.config["message.timestamp.type"] = "LogAppendTime"
        self.leaderless: set[int] = set()


def place(topic: FakeTopic, record: NewRecord, shared: int) -> int:
    count = len(topic.partitions)
    if record.partition is not None:
        if not 0 <= record.partition < count:
            raise PartitionNotFound(topic.name, record.partition, count)
        return record.partition
    if record.key is not None:
        return int((murmur2(record.key) & 0x7FFFFFFF) % count)
    return shared


def offset_at(log: FakePartition, place: OffsetSpec) -> int:
    if place == EARLIEST:
        return log.earliest
    if place == LATEST:
        return log.latest
    later = [each.offset for each in log.records if (each.timestamp or 0) >= int(place)]
    return later[0] if later else log.latest


def last(log: FakePartition, count: int) -> int:
    """Return the offset where the last `count` records begin."""
    if not count:
        return log.latest
    return log.records[-count].offset if len(log.records) >= count else log.earliest


def within(records: list[Record], most: int, size: int, first: int | None) -> list[Record]:
    """Return the first `most` records of `size` bytes together, but one of up to `first` bytes (None: any size)."""
    taken: list[Record] = []
    for each in records[:most]:
        size -= payload_size([each])
        if size < 0 and (taken or (first is not None and payload_size([each]) > first)):
            break
        taken.append(each)
    return taken
