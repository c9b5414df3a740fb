"""One append for all of a request's records for a partition, into kafka-python's accumulator.

`KafkaProducer.send` takes a lock and makes a future for each record. Here a request's records go into the partition's
open batch together, built by aiokafka's builder, and their batches tell one `PartitionAppend` what became of them.
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
"""Of a record that was handed over: where it was written, why it was not, or that this is not known yet."""

_NO_HEADERS: list[tuple[str, bytes | None]] = []
NO_TIMESTAMP = -1
"""Kafka takes it whatever the time: the record then has none."""
_HOMELESS_AFTER = 2.0
"""Seconds for which a partition must be missing: brokers learn of new ones at different times."""

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
    """A request's records for one partition, in their order, and what became of them.

    They may lie in several batches. Those without a timestamp get the time of now, or none.
    """

    def __init__(
        self,
        partition: int,
        records: Sequence[NewRecord],
        done: "Callable[[PartitionAppend], None]",
        *,
        is_untimed: bool = False,
    ) -> None:
        """`done` is called once, with this run, when all its batches are settled: by the sender's thread, which must
        not be held up."""
        self.partition = partition
        self.records = records
        self.timestamp = NO_TIMESTAMP if is_untimed else int(time.time() * 1000)
        self._settled: list[BatchResult] = []
        self._left = len(records)
        self._lock = Lock()
        self._done = done

    def settle(self, settled: "BatchResult") -> None:
        """A batch with some of the records is settled. Called by the sender's thread."""
        with self._lock:
            self._settled.append(settled)
            self._left -= settled.piece.count
            if self._left:
                return
        self._done(self)

    @property
    def is_delivered(self) -> bool:
        """Whether all of it was written."""
        return not self._left and all(each.error_at is None for each in self._settled)

    def fates(self) -> list[AppendResult]:
        """What is known of each record."""
        with self._lock:
            settled = list(self._settled)
        if len(settled) == 1 and settled[0].piece.count == len(self.records):
            return list(self._fates_of(settled[0]))
        fates: list[AppendResult] = [None] * len(self.records)
        for each in settled:
            fates[each.piece.start : each.piece.start + each.piece.count] = self._fates_of(each)
        return fates

    def _fates_of(self, settled: "BatchResult") -> Iterator[AppendResult]:
        piece = settled.piece
        places = range(piece.first, piece.first + piece.count)
        if settled.error_at is not None:
            return map(settled.error_at, places)
        times: Iterable[int | None] = repeat(settled.append_time)
        if settled.append_time == -1:  # the topic does not use LogAppendTime
            records = self.records[piece.start : piece.start + piece.count]
            ours = None if self.timestamp == NO_TIMESTAMP else self.timestamp
            times = [ours if each.timestamp is None else each.timestamp for each in records]
        offsets = range(settled.base_offset + piece.first, settled.base_offset + piece.first + piece.count)
        return map(RecordMetadata, repeat(self.partition), offsets, times)


class BatchSlice:
    """`count` records of a run from its `start` on, which lie in a batch from its place `first` on."""

    __slots__ = ("count", "first", "run", "start")

    def __init__(self, run: PartitionAppend, start: int, first: int) -> None:
        self.run = run
        self.start = start
        self.first = first
        self.count = 0


class BatchResult(NamedTuple):
    """What became of a piece: the base offset of its batch, the broker's time where that counts (else -1), and, where
    Kafka refused anything, what it said of the record at each place of the batch."""

    piece: BatchSlice
    base_offset: int
    append_time: int
    error_at: Callable[[int], BaseException] | None


class PatchedBatchBuilder(DefaultRecordBatchBuilder):  # type: ignore[misc,valid-type]
    """aiokafka's builder, called as kafka-python calls its own."""

    def set_producer_state(
        self, producer_id: int, producer_epoch: int, base_sequence: int, is_transactional: bool = False
    ) -> None:
        super().set_producer_state(producer_id, producer_epoch, base_sequence)


class PatchedBatch(ProducerBatch):
    """A batch that tells runs, not records, what became of it."""

    def __init__(self, place: TopicPartition, config: dict[str, Any], now: float) -> None:
        records = MemoryRecordsBuilder(2, config["compression_attrs"], config["batch_size"])
        records._builder = PatchedBatchBuilder(2, config["compression_attrs"], 0, -1, -1, -1, config["batch_size"])
        super().__init__(place, records, now=now)  # type: ignore[no-untyped-call]
        self.pieces: list[BatchSlice] = []
        self._begins_untimed = False

    def fill(self, run: PartitionAppend, start: int, stop: int) -> int:
        """Append records of a run while there is room; where the next one is."""
        if self.records._closed:
            return start
        append = self.records._builder.append
        first = self.records._next_offset
        piece = BatchSlice(run, start, first)
        timestamp, position = run.timestamp, start
        if first == 0 and start < stop:
            self._begins_untimed = timestamp == NO_TIMESTAMP and run.records[start].timestamp is None
        for record in run.records[start:stop]:
            at = timestamp if record.timestamp is None else record.timestamp
            if self._begins_untimed and at != NO_TIMESTAMP:  # aiokafka would give that time to those before as well
                break
            if append(first + position - start, at, record.key, record.value, record.headers or _NO_HEADERS) is None:
                break
            position += 1
        piece.count = position - start
        if piece.count:
            self.records._next_offset = first + piece.count
            self.pieces.append(piece)
            self.last_append = time.monotonic()
        return position

    def try_append(self, *_: Any, **__: Any) -> None:
        """What kafka-python's own `append` asks for: there is no room for records that come one by one."""

    def _complete_future(self, base_offset: Any, timestamp_ms: Any, record_exceptions_fn: Any) -> None:
        super()._complete_future(base_offset, timestamp_ms, record_exceptions_fn)  # type: ignore[no-untyped-call]
        for piece in self.pieces:
            piece.run.settle(BatchResult(piece, base_offset, timestamp_ms, record_exceptions_fn))


class PatchedAccumulator(RecordAccumulator):
    """kafka-python's, with an append for many records. An instance becomes one by assignment to its `__class__`."""

    config: dict[str, Any]
    _transaction_manager: Any
    missing: dict[TopicPartition, float]
    """When each partition was first missing from its topic, though there are batches for it."""
    lacks_leaders: bool
    """Whether a partition had no leader at the last look."""

    def ready(self, cluster: Any, now: float | None = None) -> Any:
        """As kafka-python's, which neglects partitions without a leader.

        It looks without a pause for the leader of a partition that it once had records for, though it has none any
        more and the topic is gone. And it never asks again for a topic that it has forgotten, though records wait for
        one that is created anew under the name.
        """
        found: tuple[Any, float, bool] = super().ready(cluster, now=now)  # type: ignore[no-untyped-call]
        self.lacks_leaders = found[2]
        if not found[2]:
            self.missing.clear()
            return found
        return super().ready(cluster, now=now) if self._look_after_leaderless(cluster) else found  # type: ignore[no-untyped-call]

    def _look_after_leaderless(self, cluster: Any) -> bool:
        """Whether there were partitions without leader and records, which are forgotten now."""
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

    def take_homeless(self) -> list[ProducerBatch]:
        """Remove and return batches whose topic was created anew with fewer partitions than they need."""
        homeless: list[ProducerBatch] = []
        for place, since in list(self.missing.items()):
            if time.monotonic() > since + _HOMELESS_AFTER:
                del self.missing[place]
                with self._tp_lock(place):  # type: ignore[no-untyped-call]
                    homeless += self._batches.pop(place, ())
        for batch in homeless:
            batch.records.close()
        return homeless

    def append_run(self, place: TopicPartition, run: PartitionAppend) -> None:
        """Append all of a run's records. Raises `IllegalStateError` where the producer is closed."""
        self._appends_in_progress.increment()
        try:
            with self._tp_lock(place):  # type: ignore[no-untyped-call]
                if self._closed:
                    raise IllegalStateError("RecordAccumulator is closed")
                self._append(place, run, self._batches[place])
        finally:
            self._appends_in_progress.decrement()

    def _append(self, place: TopicPartition, run: PartitionAppend, batches: Any) -> None:
        position, stop = 0, len(run.records)
        if batches and isinstance(batches[-1], PatchedBatch):
            position = batches[-1].fill(run, position, stop)
        while position < stop:
            batch = PatchedBatch(place, self.config, time.monotonic())
            position = batch.fill(run, position, stop)
            batches.append(batch)
            self._incomplete.add(batch)

    def split_and_reenqueue(self, batch: Any, now: float | None = None) -> int:
        """Put the records of a batch that is too large into two, before all others of the partition."""
        if not isinstance(batch, PatchedBatch):
            return int(super().split_and_reenqueue(batch, now=now))  # type: ignore[no-untyped-call]
        manager = self._transaction_manager
        if manager is not None and batch.has_sequence:  # Kafka has not written it: its numbers are free
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
        for piece in batch.pieces:
            end = piece.start + piece.count
            cut = min(max(piece.start, piece.start + middle - piece.first), end)
            before.append((piece.run, piece.start, cut))
            after.append((piece.run, cut, end))
        return [*self._filled(batch, before), *self._filled(batch, after)]

    def _filled(self, like: PatchedBatch, spans: Sequence[tuple[PartitionAppend, int, int]]) -> list[PatchedBatch]:
        """Batches with these records: (run, from, to)."""
        batches = [PatchedBatch(like.topic_partition, self.config, like.created)]
        for run, start, stop in spans:
            while (start := batches[-1].fill(run, start, stop)) < stop:
                batches.append(PatchedBatch(like.topic_partition, self.config, like.created))
        return batches
