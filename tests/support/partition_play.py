"""A partition queue of the producer against one partition of a broker that is played by hand.

`PartitionLog` has Kafka's rules for idempotent producers (ProducerStateManager, ProducerAppendInfo). `PartitionPlay`
publishes, sends and answers as a test or a random sequence says, and checks the promises of the write path at the end.
"""

from collections import defaultdict
from collections.abc import Sequence
from struct import Struct
from typing import NamedTuple

from aiokafka.record.memory_records import MemoryRecords

from kafka_http.broker.partition_queue import Batch, PartitionQueue, ProducerIdentity, TopicClock
from kafka_http.broker.pending_publish import KafkaPendingPublish
from kafka_http.broker.produce_requests import PartitionResponse
from kafka_http.errors import KafkaHttpError, OutcomePending, OutcomeUnknown, TopicNotFound
from kafka_http.records import BareValues, NewRecord, RecordMetadata, RecordResult

OK, OUT_OF_ORDER, DUPLICATE, INVALID_EPOCH, UNKNOWN_PRODUCER = 0, 45, 46, 47, 59
_MAX_SEQUENCE = 0x7FFFFFFF
_REMEMBERED_BATCHES = 5
_NO_TIME = -1
_HEADER = Struct(">qqhi")  # largest timestamp, producer id, epoch, first sequence number
_HEADER_POSITION = 35


class StoredRecord(NamedTuple):
    """What the log has of a record."""

    value: bytes | None
    key: bytes | None
    timestamp: int | None
    headers: tuple[tuple[str, bytes | None], ...]

    @property
    def name(self) -> bytes:
        return self.value or self.key or b""


class RememberedBatch(NamedTuple):
    """What a broker remembers of a batch."""

    first: int
    record_count: int
    offset: int
    timestamp: int


class Answer(NamedTuple):
    """A broker's answer about a batch. `append_time` is that of the response."""

    error_code: int
    offset: int = -1
    append_time: int = _NO_TIME


class PartitionLog:
    """A partition of a broker.

    With `is_old`, an unknown producer must begin at 0 (before Kafka 2.5). Otherwise, Kafka accepts any number of it.
    """

    def __init__(self, *, is_old: bool = False, append_time: int = _NO_TIME) -> None:
        """`append_time` is set for a topic with LogAppendTime."""
        self.records: list[StoredRecord] = []
        self._is_old = is_old
        self._append_time = append_time
        self._producers: dict[int, tuple[int, list[RememberedBatch]]] = {}

    def append(self, data: bytes) -> Answer:
        """Append a batch unless the rules reject it, or it is there already."""
        timestamp, producer, epoch, first = _HEADER.unpack_from(data, _HEADER_POSITION)
        records = _records(data)
        known_epoch, batches = self._producers.get(producer, (None, []))
        if known_epoch is not None and epoch < known_epoch:
            return Answer(INVALID_EPOCH)
        if epoch != known_epoch:
            batches = []
        for each in batches:
            if (each.first, each.record_count) == (first, len(records)):
                return Answer(OK, each.offset, each.timestamp)  # Kafka answers with a time for all topics
        if error := self._sequence_error(known_epoch, batches, first):
            return Answer(error)
        kept = RememberedBatch(first, len(records), len(self.records), max(timestamp, self._append_time))
        self._producers[producer] = (epoch, [*batches, kept][-_REMEMBERED_BATCHES:])
        self.records += records
        return Answer(OK, kept.offset, self._append_time)

    def _sequence_error(self, known_epoch: int | None, batches: list[RememberedBatch], first: int) -> int:
        if known_epoch is None:
            return UNKNOWN_PRODUCER if self._is_old and first else OK
        expected = (batches[-1].first + batches[-1].record_count) & _MAX_SEQUENCE if batches else 0
        return OK if first == expected else OUT_OF_ORDER

    def forget_producers(self) -> None:
        """Lose the state of idle producers, as after producer.id.expiration.ms."""
        self._producers.clear()


def _results_of(pending: KafkaPendingPublish) -> Sequence[RecordResult]:
    """Return the results, or the error that all records have."""
    try:
        return pending.result(0)
    except TopicNotFound as error:
        return [error] * len(pending.records)


def _records(data: bytes) -> list[StoredRecord]:
    batch = MemoryRecords(bytes(data)).next_batch()
    assert batch is not None
    return [StoredRecord(each.value, each.key, each.timestamp, tuple(each.headers)) for each in batch]


class PartitionPlay:
    """Drives a `PartitionQueue`, and remembers all publishes.

    Time is virtual: it passes in `let_pass` only, and backoffs are over at once.
    """

    def __init__(
        self, *, epoch: int = 0, is_old: bool = False, append_time: int = _NO_TIME, batch_size: int = 1 << 20
    ) -> None:
        self.log = PartitionLog(is_old=is_old, append_time=append_time)
        self.append_time = append_time
        self.clock = TopicClock("t")
        self.queue = PartitionQueue(
            "t", 0, ProducerIdentity(7, epoch), self.clock, batch_size=batch_size, compression=0, retry_backoff=0.0
        )
        self.in_flight: Batch | None = None
        self.delayed: list[bytes] = []
        """Batches of lost connections that have not reached the broker yet."""
        self.publishes: list[KafkaPendingPublish] = []
        self.done: list[int] = []
        """The index of each publish, when its callback is called."""
        self._now = 0.0
        self._next_producer = 8

    # The client

    def publish(self, *records: NewRecord | bytes, lifetime: float = 1e9) -> KafkaPendingPublish:
        """Publish records, or bare values."""
        bare = all(isinstance(each, bytes) for each in records)
        all_records = BareValues(records) if bare else [_as_record(each) for each in records]  # type: ignore[arg-type]
        pending = KafkaPendingPublish("t", all_records, 0.0, self._now + lifetime, lambda: "")
        index = len(self.publishes)
        pending.add_done_callback(lambda: self.done.append(index))
        self.publishes.append(pending)
        has_timestamps = not bare and any(
            isinstance(each, NewRecord) and each.timestamp is not None for each in records
        )
        self.queue.add(pending.append(0, None, has_timestamps=has_timestamps))
        return pending

    def send(self) -> bool:
        """Send the next batch, if there is one. Return whether one is in flight."""
        batch = self.queue.next_batch(float("inf"))
        if batch is not None:
            assert self.in_flight is None, "two batches are in flight"
            self.in_flight = batch
        return self.in_flight is not None

    def let_pass(self, seconds: float) -> None:
        """Let time pass."""
        self._now += seconds
        self.queue.give_up_overdue(self._now)

    def get_identity(self) -> None:
        """Give the queue another producer id if it needs one."""
        if self.queue.needs_identity:
            self.queue.set_identity(ProducerIdentity(self._next_producer, 0))
            self._next_producer += 1

    # The broker

    def write(self) -> Answer:
        """Let the batch in flight reach the log. Return the broker's answer, which is not sent yet."""
        assert self.in_flight is not None
        return self.log.append(self.in_flight.data)

    def answer(self, answer: Answer | int, *record_errors: int) -> bool:
        """Answer the batch in flight, with an answer or an error code. Return whether metadata must be read."""
        self.in_flight = None
        error_code, offset, append_time = Answer(answer) if isinstance(answer, int) else answer
        topic = self.queue.topic_field
        return self.queue.on_response(PartitionResponse(topic, 0, error_code, offset, append_time, record_errors))

    def acknowledge(self) -> None:
        """Send what waits, and let the broker answer by its rules."""
        assert self.send()
        self.answer(self.write())

    def lose_connection(self, *, is_delayed: bool = False) -> None:
        """Lose the connection. With `is_delayed`, the batch may still reach the broker."""
        assert self.in_flight is not None
        if is_delayed:
            self.delayed.append(self.in_flight.data)
        self.in_flight = None
        self.queue.on_connection_lost()

    def deliver_delayed(self, index: int = 0) -> None:
        """Let a batch of a lost connection reach the broker. Nobody gets the answer."""
        self.log.append(self.delayed.pop(index))

    # The end

    def finish(self) -> None:
        """Send everything, with a broker that answers by its rules."""
        for _ in range(1000):
            self.get_identity()
            if not self.send():
                break
            self.answer(self.write())
        while self.delayed:
            self.deliver_delayed()

    def check(self) -> None:
        """Check all that the write path promises. `finish` was called before."""
        assert not self.queue.is_busy
        assert sorted(self.done) == list(range(len(self.publishes)))  # each callback once
        offsets: dict[bytes, list[int]] = defaultdict(list)
        for offset, each in enumerate(self.log.records):
            offsets[each.name].append(offset)
        acknowledged: list[int] = []
        for pending in self.publishes:
            results = _results_of(pending)
            assert len(results) == len(pending.records)
            for record, result in zip(pending.records, results, strict=True):
                places = offsets[_name(record)]
                self._check_record(pending, _as_record(record), result, places)
                acknowledged += places if isinstance(result, RecordMetadata) else []
        assert acknowledged == sorted(acknowledged), "the order has changed"

    def _check_record(
        self, pending: KafkaPendingPublish, record: NewRecord, result: RecordResult, places: Sequence[int]
    ) -> None:
        assert not isinstance(result, OutcomePending)
        if isinstance(result, KafkaHttpError):
            assert len(places) <= isinstance(result, OutcomeUnknown), f"{result} is in the log at {places}"
            return
        assert len(places) == 1, f"an acknowledged record is in the log at {places}"
        assert result.offset in (places[0], -1)
        stored = self.log.records[places[0]]
        assert (stored.value, stored.key, stored.headers) == (record.value, record.key, tuple(record.headers))
        expected = (pending.created_ms, _NO_TIME) if record.timestamp is None else (record.timestamp,)
        assert stored.timestamp in expected
        time = self.append_time if self.append_time != _NO_TIME else stored.timestamp
        assert result.offset == -1 or result.timestamp == (None if time == _NO_TIME else time)


def _as_record(record: NewRecord | bytes | None) -> NewRecord:
    return record if isinstance(record, NewRecord) else NewRecord(record)


def _name(record: NewRecord | bytes | None) -> bytes:
    each = _as_record(record)
    return each.value or each.key or b""
