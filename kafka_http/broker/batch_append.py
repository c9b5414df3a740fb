"""Appends all records of a request for a partition to kafka-python's accumulator at once.

`KafkaProducer.send` takes a lock and makes a future for each record. Here the records go into the partition's open
batch together, built by aiokafka's builder, and the batches report their results to one `PartitionAppend`.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib.metadata import version
from itertools import repeat
from threading import Lock
from typing import Any, NamedTuple

from aiokafka.record.default_records import DefaultRecordBatchBuilder
from kafka.errors import IllegalStateError
from kafka.producer.producer_batch import ProducerBatch
from kafka.producer.record_accumulator import RecordAccumulator
from kafka.record.memory_records import MemoryRecordsBuilder
from kafka.structs import TopicPartition

from kafka_http.config import ConfigError
from kafka_http.records import NewRecord, RecordMetadata

AppendResult = RecordMetadata | BaseException | None
"""Of an appended record: where it was written, why it was not, or None while this is unknown."""

_NO_HEADERS: list[tuple[str, bytes | None]] = []
NO_TIMESTAMP = -1
"""Kafka always accepts this value: the record has no timestamp."""
_ORPHANED_AFTER = 2.0
"""Seconds for which a partition must be missing: brokers learn of new partitions at different times."""

PRIVATE = {
    RecordAccumulator: ("_tp_lock", "split_and_reenqueue"),
    ProducerBatch: ("_complete_future", "retry"),
    MemoryRecordsBuilder: ("_builder", "_next_offset", "_closed"),
    DefaultRecordBatchBuilder: ("append", "set_producer_state", "build", "size", "producer_id"),
}
"""Private parts of the two libraries that this module uses, as of kafka-python 3.0.12 and aiokafka 0.14."""

_PRIVATE_ATTRIBUTES = ("_batches", "_incomplete", "_appends_in_progress", "_closed", "_transaction_manager")


def check_libraries() -> None:
    """Raise `ConfigError` if kafka-python or aiokafka lacks a private part that this module uses."""
    accumulator = RecordAccumulator()
    missing = [
        f"{kind.__name__}.{name}" for kind, names in PRIVATE.items() for name in names if not hasattr(kind, name)
    ]
    missing += [f"RecordAccumulator.{name}" for name in _PRIVATE_ATTRIBUTES if not hasattr(accumulator, name)]
    if missing:
        raise ConfigError(
            f"The installed kafka-python {version('kafka-python')} or aiokafka {version('aiokafka')} cannot be used: "
            f"{', '.join(missing)} is missing. Install the versions that kafka_http asks for: kafka-python 3.0.12, "
            "aiokafka 0.14."
        )


class PartitionAppend:
    """A request's records for one partition, in order, and their results.

    They may be in several batches. Records without a timestamp get the current time, or none.
    """

    def __init__(
        self,
        partition: int,
        records: Sequence[NewRecord],
        done: "Callable[[PartitionAppend], None]",
        *,
        is_untimed: bool = False,
    ) -> None:
        """Prepare the append.

        `done` is called once, with this object, when all batches have a result: by the sender's thread, which it must
        not block.
        """
        self.partition = partition
        self.records = records
        self.timestamp = NO_TIMESTAMP if is_untimed else int(time.time() * 1000)
        self._results: list[BatchResult] = []
        self._left = len(records)
        self._lock = Lock()
        self._done = done

    def add_result(self, result: "BatchResult") -> None:
        """Add the result of a batch with some of the records. Called by the sender's thread."""
        with self._lock:
            self._results.append(result)
            self._left -= result.batch_slice.count
            if self._left:
                return
        self._done(self)

    @property
    def is_delivered(self) -> bool:
        """Whether all records were written."""
        return not self._left and all(each.error_at is None for each in self._results)

    def results(self) -> list[AppendResult]:
        """Return the result of each record, as far as it is known."""
        with self._lock:
            result = list(self._results)
        if len(result) == 1 and result[0].batch_slice.count == len(self.records):
            return list(self._results_of(result[0]))
        results: list[AppendResult] = [None] * len(self.records)
        for each in result:
            results[each.batch_slice.start : each.batch_slice.start + each.batch_slice.count] = self._results_of(each)
        return results

    def _results_of(self, result: "BatchResult") -> Iterator[AppendResult]:
        batch_slice = result.batch_slice
        places = range(batch_slice.first, batch_slice.first + batch_slice.count)
        if result.error_at is not None:
            return map(result.error_at, places)
        times: Iterable[int | None] = repeat(result.append_time)
        if result.append_time == -1:  # the topic does not use LogAppendTime
            records = self.records[batch_slice.start : batch_slice.start + batch_slice.count]
            own_time = None if self.timestamp == NO_TIMESTAMP else self.timestamp
            times = [own_time if each.timestamp is None else each.timestamp for each in records]
        offsets = range(
            result.base_offset + batch_slice.first, result.base_offset + batch_slice.first + batch_slice.count
        )
        return map(RecordMetadata, repeat(self.partition), offsets, times)


class BatchSlice:
    """`count` records of an append, from index `start`, which are in a batch from its index `first`."""

    __slots__ = ("appended", "count", "first", "start")

    def __init__(self, appended: PartitionAppend, start: int, first: int) -> None:
        self.appended = appended
        self.start = start
        self.first = first
        self.count = 0


class BatchResult(NamedTuple):
    """The result of a slice.

    It has the base offset of its batch, the broker's timestamp (-1 if it is not used), and, if Kafka rejected anything,
    a function from the index in the batch to the error.
    """

    batch_slice: BatchSlice
    base_offset: int
    append_time: int
    error_at: Callable[[int], BaseException] | None


class PatchedBatchBuilder(DefaultRecordBatchBuilder):  # type: ignore[misc,valid-type]
    """aiokafka's builder with the interface of kafka-python's."""

    def set_producer_state(
        self, producer_id: int, producer_epoch: int, base_sequence: int, is_transactional: bool = False
    ) -> None:
        super().set_producer_state(producer_id, producer_epoch, base_sequence)


class PatchedBatch(ProducerBatch):
    """A batch that reports its result to appends, not to records."""

    def __init__(self, place: TopicPartition, config: dict[str, Any], now: float) -> None:
        records = MemoryRecordsBuilder(2, config["compression_attrs"], config["batch_size"])
        records._builder = PatchedBatchBuilder(2, config["compression_attrs"], 0, -1, -1, -1, config["batch_size"])
        super().__init__(place, records, now=now)  # type: ignore[no-untyped-call]
        self.slices: list[BatchSlice] = []
        self._begins_untimed = False

    def fill(self, appended: PartitionAppend, start: int, stop: int) -> int:
        """Add records of an append while there is room. Return the index of the next one."""
        if self.records._closed:
            return start
        append = self.records._builder.append
        first = self.records._next_offset
        batch_slice = BatchSlice(appended, start, first)
        timestamp, position = appended.timestamp, start
        if first == 0 and start < stop:
            self._begins_untimed = timestamp == NO_TIMESTAMP and appended.records[start].timestamp is None
        for record in appended.records[start:stop]:
            at = timestamp if record.timestamp is None else record.timestamp
            if (
                self._begins_untimed and at != NO_TIMESTAMP
            ):  # aiokafka would give this timestamp to the earlier ones, too
                break
            if append(first + position - start, at, record.key, record.value, record.headers or _NO_HEADERS) is None:
                break
            position += 1
        batch_slice.count = position - start
        if batch_slice.count:
            self.records._next_offset = first + batch_slice.count
            self.slices.append(batch_slice)
            self.last_append = time.monotonic()
        return position

    def try_append(self, *_: Any, **__: Any) -> None:
        """Called by kafka-python's `append`: there is no room for single records."""

    def _complete_future(self, base_offset: Any, timestamp_ms: Any, record_exceptions_fn: Any) -> None:
        super()._complete_future(base_offset, timestamp_ms, record_exceptions_fn)  # type: ignore[no-untyped-call]
        for batch_slice in self.slices:
            batch_slice.appended.add_result(BatchResult(batch_slice, base_offset, timestamp_ms, record_exceptions_fn))


class PatchedAccumulator(RecordAccumulator):
    """kafka-python's accumulator with an append for many records. Assign it to an instance's `__class__`."""

    config: dict[str, Any]
    _transaction_manager: Any
    missing: dict[TopicPartition, float]
    """When each partition with batches was first missing from its topic."""
    lacks_leaders: bool
    """Whether a partition had no leader at the last check."""

    def ready(self, cluster: Any, now: float | None = None) -> Any:
        """Return what is ready to send, and handle partitions without a leader.

        kafka-python looks without a pause for the leader of a partition that has no records any more. And it never asks
        again for a deleted topic, even if records wait for a topic that was created again under this name.
        """
        found: tuple[Any, float, bool] = super().ready(cluster, now=now)  # type: ignore[no-untyped-call]
        self.lacks_leaders = found[2]
        if not found[2]:
            self.missing.clear()
            return found
        return super().ready(cluster, now=now) if self._drop_leaderless(cluster) else found  # type: ignore[no-untyped-call]

    def _drop_leaderless(self, cluster: Any) -> bool:
        """Drop partitions without leader and records. Return whether there were any."""
        forgotten = False
        for place in [each for each in list(self._batches) if cluster.leader_for_partition(each) in {None, -1}]:
            with self._tp_lock(place):  # type: ignore[no-untyped-call]
                if not self._batches[place]:
                    del self._batches[place]
                    forgotten = True
                    continue
            if place.partition in (cluster.partitions_for_topic(place.topic) or {place.partition}):
                self.missing.pop(place, None)
                cluster.add_topic(place.topic)
            else:
                self.missing.setdefault(place, time.monotonic())
        return forgotten

    def take_orphaned(self) -> list[ProducerBatch]:
        """Remove and return batches whose topic was recreated with fewer partitions than they need."""
        orphaned: list[ProducerBatch] = []
        for place, since in list(self.missing.items()):
            if time.monotonic() > since + _ORPHANED_AFTER:
                del self.missing[place]
                with self._tp_lock(place):  # type: ignore[no-untyped-call]
                    orphaned += self._batches.pop(place, ())
        for batch in orphaned:
            batch.records.close()
        return orphaned

    def append_all(self, place: TopicPartition, appended: PartitionAppend) -> None:
        """Append all records. Raises `IllegalStateError` if the producer is closed."""
        self._appends_in_progress.increment()
        try:
            with self._tp_lock(place):  # type: ignore[no-untyped-call]
                if self._closed:
                    raise IllegalStateError("RecordAccumulator is closed")
                self._append(place, appended, self._batches[place])
        finally:
            self._appends_in_progress.decrement()

    def _append(self, place: TopicPartition, appended: PartitionAppend, batches: Any) -> None:
        position, stop = 0, len(appended.records)
        if batches and isinstance(batches[-1], PatchedBatch):
            position = batches[-1].fill(appended, position, stop)
        while position < stop:
            batch = PatchedBatch(place, self.config, time.monotonic())
            position = batch.fill(appended, position, stop)
            batches.append(batch)
            self._incomplete.add(batch)

    def split_and_reenqueue(self, batch: Any, now: float | None = None) -> int:
        """Split a batch that is too large into two, before all others of the partition."""
        if not isinstance(batch, PatchedBatch):
            return int(super().split_and_reenqueue(batch, now=now))  # type: ignore[no-untyped-call]
        manager = self._transaction_manager
        if manager is not None and batch.has_sequence:  # Kafka has not written it, so its sequence numbers are free
            manager.set_sequence_number(batch.topic_partition, batch.base_sequence)
        halves = self._halves(batch)
        with self._tp_lock(batch.topic_partition):  # type: ignore[no-untyped-call]
            for half in reversed(halves):
                half.attempts, half.last_attempt = batch.attempts, batch.last_attempt
                self._batches[batch.topic_partition].appendleft(half)
                self._incomplete.add(half)
        return len(halves)

    def _halves(self, batch: PatchedBatch) -> list[PatchedBatch]:
        middle = (batch.record_count + 1) // 2
        before, after = [], []
        for batch_slice in batch.slices:
            end = batch_slice.start + batch_slice.count
            cut = min(max(batch_slice.start, batch_slice.start + middle - batch_slice.first), end)
            before.append((batch_slice.appended, batch_slice.start, cut))
            after.append((batch_slice.appended, cut, end))
        return [*self._filled(batch, before), *self._filled(batch, after)]

    def _filled(self, like: PatchedBatch, spans: Sequence[tuple[PartitionAppend, int, int]]) -> list[PatchedBatch]:
        """Return batches with these records: (append, from, to)."""
        batches = [PatchedBatch(like.topic_partition, self.config, like.created)]
        for appended, start, stop in spans:
            while (start := batches[-1].fill(appended, start, stop)) < stop:
                batches.append(PatchedBatch(like.topic_partition, self.config, like.created))
        return batches
