"""A topic in the producer: its metadata, and the queues of its partitions."""

import random
import time
from collections import deque
from collections.abc import Callable, Sequence

from kafka.partitioner.default import murmur2

from kafka_http.broker.partition_queue import PartitionQueue, TopicClock
from kafka_http.broker.pending_publish import KafkaPendingPublish, too_large
from kafka_http.errors import InvalidValue, KafkaHttpError, PartitionNotFound
from kafka_http.records import BareValues, NewRecord, PartitionInfo, missing_partitions

METADATA_AGE = 2.0
"""Seconds. A record with a key waits for newer metadata than this, so that it goes to the right partition."""
_STICKY_SECONDS = 0.02
"""Seconds for which records with neither key nor partition go to the same one, so that requests share a batch."""
_MISSING_SECONDS = 2.0
"""Time that a partition must be missing before its records fail. New partitions reach brokers at different times."""
_MAX_TIMESTAMP = 2**63 - 1

NewQueue = Callable[[str, int, TopicClock], PartitionQueue]


class TopicQueues:
    """What the producer knows of a topic, and the queues of its partitions.

    The producer creates it for the first publish to a topic. Only the producer's loop calls it.
    """

    def __init__(self, name: str, new_queue: NewQueue, max_size: int) -> None:
        """`max_size` is the largest record in bytes."""
        self.name = name
        self.partitions: Sequence[PartitionInfo] = ()
        self.queues: dict[int, PartitionQueue] = {}
        self.waiting: deque[KafkaPendingPublish] = deque()
        """Publishes that wait for metadata."""
        self.is_reading = False
        """Whether the metadata is being read."""
        self.read_after = 0.0
        """The earliest time of the next reading after a failure."""
        self._read_at = float("-inf")
        self._new_queue = new_queue
        self._max_size = max_size
        self._clock = TopicClock(name)
        self._sticky_partition = 0
        self._sticky_until = 0.0
        self._missing_since: dict[int, float] = {}

    def age(self, now: float) -> float:
        """Return the age of the metadata in seconds."""
        return now - self._read_at

    def expire_metadata(self) -> None:
        """Let publishes that find no leader wait for new metadata: a leader cannot be reached."""
        self._read_at = float("-inf")

    def needs_metadata(self, records: Sequence[NewRecord] | BareValues, now: float, *, is_connected: bool) -> bool:
        """Return whether records must wait for new metadata. `is_connected`: any leader can be reached."""
        if not self.partitions:
            return True
        if self.age(now) < METADATA_AGE:
            return bool(missing_partitions(records, len(self.partitions)))
        if not is_connected:
            return True
        return not isinstance(records, BareValues) and any(
            each.key is not None or each.partition is not None for each in records
        )

    def update(self, partitions: Sequence[PartitionInfo]) -> None:
        """Take new metadata: create the queues of new partitions, and note the leaders."""
        self.partitions, self._read_at = partitions, time.monotonic()
        for each in partitions:
            if each.partition not in self.queues:
                self.queues[each.partition] = self._new_queue(self.name, each.partition, self._clock)
            if each.leader is not None:
                self.queues[each.partition].leader = each.leader

    def missing_for_long(self) -> list[PartitionQueue]:
        """Return the queues with records for partitions that have been missing for `_MISSING_SECONDS`.

        A topic that was deleted and created again may have fewer partitions.
        """
        now, count = time.monotonic(), len(self.partitions)
        missing = [each for each, queue in self.queues.items() if each >= count and queue.is_busy]
        self._missing_since = {each: self._missing_since.get(each, now) for each in missing}
        return [self.queues[each] for each, since in self._missing_since.items() if now > since + _MISSING_SECONDS]

    def place(self, pending: KafkaPendingPublish) -> list[PartitionQueue]:
        """Add a publish to the queues of its partitions, and return these. Fail it if a partition is missing."""
        records = pending.records
        for partition in missing_partitions(records, len(self.partitions)):
            pending.fail(PartitionNotFound(self.name, partition, len(self.partitions)))
            return []
        if isinstance(records, BareValues):
            return self._place_together(pending, self._shared_partition(), has_timestamps=False)
        partitions, has_timestamps = self._partitions_of(pending, records)
        if pending.rejected is None and partitions.count(partitions[0]) == len(partitions):
            return self._place_together(pending, partitions[0], has_timestamps=has_timestamps)
        return self._place_apart(pending, partitions, has_timestamps=has_timestamps)

    def _place_together(
        self, pending: KafkaPendingPublish, partition: int, *, has_timestamps: bool
    ) -> list[PartitionQueue]:
        queue = self.queues[partition]
        queue.add(pending.append(partition, None, has_timestamps=has_timestamps))
        return [queue]

    def _place_apart(
        self, pending: KafkaPendingPublish, partitions: Sequence[int], *, has_timestamps: bool
    ) -> list[PartitionQueue]:
        indexes: dict[int, list[int]] = {}
        for index, partition in enumerate(partitions):
            if pending.rejected is None or index not in pending.rejected:
                indexes.setdefault(partition, []).append(index)
        if not indexes:
            pending.complete()
        queues = [self.queues[each] for each in indexes]
        for queue, (partition, some) in zip(queues, indexes.items(), strict=True):
            queue.add(pending.append(partition, some, has_timestamps=has_timestamps))
        return queues

    def _partitions_of(self, pending: KafkaPendingPublish, records: Sequence[NewRecord]) -> tuple[list[int], bool]:
        """Return the partition of each record, and whether any has a timestamp. Reject invalid records."""
        count, shared, has_timestamps = len(self.partitions), -1, False
        partitions: list[int] = []
        for index, each in enumerate(records):
            key = each.key
            size = len(each.value or b"") + len(key or b"")
            if size > self._max_size or each.timestamp is not None or each.headers:
                has_timestamps |= each.timestamp is not None
                if (error := self._rejection(each, size)) is not None:
                    pending.rejected = {} if pending.rejected is None else pending.rejected
                    pending.rejected[index] = error
            if each.partition is not None:
                partitions.append(each.partition)
            elif key is not None:
                partitions.append((murmur2(key) & 0x7FFFFFFF) % count)
            else:
                shared = shared if shared >= 0 else self._shared_partition()
                partitions.append(shared)
        return partitions, has_timestamps

    def _shared_partition(self) -> int:
        """Return the partition of records with neither key nor partition."""
        now = time.monotonic()
        if now >= self._sticky_until or self._sticky_partition >= len(self.partitions):
            with_leader = [each.partition for each in self.partitions if each.leader is not None]
            choices = with_leader or [each.partition for each in self.partitions]
            self._sticky_partition = random.choice(choices)  # noqa: S311  balance, not secrecy
            self._sticky_until = now + _STICKY_SECONDS
        return self._sticky_partition

    def _rejection(self, record: NewRecord, size: int) -> KafkaHttpError | None:
        """Return the error of a record that would make its whole batch fail. `size` is that of key and value."""
        if record.timestamp is not None and not 0 <= record.timestamp <= _MAX_TIMESTAMP:
            return InvalidValue("The timestamp must be milliseconds since 1970, 0 or more.")
        try:
            size += sum(len(name.encode()) + len(value or b"") for name, value in record.headers)
        except UnicodeEncodeError:
            return InvalidValue("The name of a header must be valid Unicode.")
        return too_large(self._max_size) if size > self._max_size else None
