"""The records for one partition on their way to Kafka: an idempotent producer's state machine (KIP-98, KIP-360).

A batch has the producer's id, an epoch and the sequence number of its first record. Kafka writes a batch only if its
number follows that of the batch before, and recognizes a batch that is sent again. Each partition uses epochs of its
own: when nobody knows whether a batch was written, the next one begins at sequence 0 of the next epoch.

At most one batch of a partition is in flight. More are not faster, and make more results unknown after a failure.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from enum import Enum, auto
from functools import cache
from typing import Any, NamedTuple

from aiokafka.record.default_records import DefaultRecordBatchBuilder
from kafka import errors as kafka
from kafka.errors import for_code

from kafka_http.broker.error_map import STALE_METADATA, count_error, is_transient, result_of, unknown_outcome
from kafka_http.broker.pending_publish import UNKNOWN_OFFSET, KafkaPendingPublish, PartitionAppend, SliceResult
from kafka_http.broker.produce_requests import PartitionResponse, topic_field
from kafka_http.errors import KafkaHttpError, OutcomeUnknown
from kafka_http.logs import LogOnce
from kafka_http.metrics import count_produced
from kafka_http.records import BareValues, payload_size

log = logging.getLogger(__name__)

MAX_EPOCH = 32767
NO_TIMESTAMP = -1
"""Kafka always accepts this value: the record has no timestamp."""
_MAX_SEQUENCE = 0x7FFFFFFF
_MAGIC = 2
_MAX_TIMESTAMP_FIELD = slice(35, 43)
"""The place of the largest timestamp in a batch."""
_NO_LIMIT = 1 << 30
_RECORD_OVERHEAD = 16
"""Bytes of a record in a batch in addition to its key and value."""
_NO_HEADERS: list[tuple[str, bytes | None]] = []
_MAX_RETRY_DOUBLINGS = 6
_MAX_RETRY_SECONDS = 1.0
_OMIT_TIMESTAMPS_SECONDS = 10.0
"""How long a topic's records are sent without timestamps after Kafka has rejected this server's."""
_warnings = LogOnce(log, 60.0)


class Reaction(Enum):
    """What to do after a partition's response, by its error code."""

    COMPLETE = auto()
    RETRY = auto()
    RETRY_UNSURE = auto()
    """Retry. The batch may have been written all the same."""
    RENUMBER = auto()
    SPLIT = auto()
    """The batch is too large."""
    REJECT_RECORDS = auto()
    """Kafka rejects the batch because of some of its records."""
    REJECT = auto()


_REACTIONS: Mapping[type[kafka.KafkaError], Reaction] = {
    kafka.NoError: Reaction.COMPLETE,
    kafka.DuplicateSequenceNumberError: Reaction.COMPLETE,
    kafka.NotEnoughReplicasError: Reaction.RETRY,
    kafka.CorruptRecordError: Reaction.RETRY,
    kafka.UnknownTopicOrPartitionError: Reaction.RETRY,  # after an append only if the topic was deleted
    kafka.UnknownError: Reaction.RETRY_UNSURE,
    kafka.OutOfOrderSequenceNumberError: Reaction.RENUMBER,
    kafka.InvalidProducerEpochError: Reaction.RENUMBER,
    kafka.UnknownProducerIdError: Reaction.RENUMBER,
    kafka.MessageSizeTooLargeError: Reaction.SPLIT,
    kafka.RecordListTooLargeError: Reaction.SPLIT,
    kafka.InvalidRecordError: Reaction.REJECT_RECORDS,
    kafka.InvalidTimestampError: Reaction.REJECT_RECORDS,
}


@cache
def reaction_to(kind: type[kafka.KafkaError]) -> Reaction:
    """Return what to do after an error that a broker names.

    A leader may return most transient errors after the append, while it waits for its replicas, even "not leader".
    """
    if kind in _REACTIONS:
        return _REACTIONS[kind]
    return Reaction.RETRY_UNSURE if is_transient(kind) else Reaction.REJECT


class ProducerIdentity(NamedTuple):
    """A producer id from a broker, and an epoch, which the producer may raise itself."""

    producer_id: int
    epoch: int


class TopicClock:
    """Whether records of a topic get this server's time. The queues of its partitions share it."""

    def __init__(self, topic: str) -> None:
        self._topic = topic
        self._omitted_until = 0.0

    @property
    def is_omitted(self) -> bool:
        """Whether records without a timestamp of their own are now written without one."""
        return bool(self._omitted_until) and time.monotonic() < self._omitted_until

    def omit(self) -> None:
        """Write records without timestamps for a while, because Kafka has rejected this server's time."""
        self._omitted_until = time.monotonic() + _OMIT_TIMESTAMPS_SECONDS
        _warnings.warning(
            "Kafka rejects this server's timestamps (topic %s): the clock of this server or a broker is wrong, "
            "or the topic's message.timestamp.*.max.ms is too small. Messages without a timestamp of their own are "
            "written without one.",
            self._topic,
        )


class BatchSlice(NamedTuple):
    """The records `start` to `stop` of an append."""

    append: PartitionAppend
    start: int
    stop: int


class Batch:
    """Records that are sent to Kafka together."""

    __slots__ = ("attempts", "count", "data", "identity", "is_unsure", "queue", "sequence", "slices", "without_time")

    def __init__(self, queue: "PartitionQueue", slices: list[BatchSlice], count: int, *, without_time: bool) -> None:
        self.queue = queue
        self.slices = slices
        self.count = count
        self.without_time = without_time
        """Whether records without a timestamp of their own have none."""
        self.attempts = 0
        self.is_unsure = False
        """Whether it may have been written, although Kafka has not acknowledged it."""
        self.identity = ProducerIdentity(-1, -1)
        self.sequence = -1
        self.data = b""

    @property
    def deadline(self) -> float:
        return max(each.append.pending.deadline for each in self.slices)

    @property
    def max_timestamp(self) -> int:
        """The largest timestamp of the records."""
        return int.from_bytes(self.data[_MAX_TIMESTAMP_FIELD], signed=True)

    def end(self, base_offset: int, append_time: int, error: KafkaHttpError | None = None) -> None:
        """Pass the result to the appends."""
        for append, start, stop in self.slices:
            own_time = None if self.without_time else append.pending.created_ms
            append.add_result(SliceResult(start, stop, base_offset, own_time, append_time, error))
            if base_offset != UNKNOWN_OFFSET:
                base_offset += stop - start


class PartitionQueue:
    """The records for one partition: waiting, in flight, or to be sent again.

    The producer creates one for each partition that it writes to. Only the producer's loop calls it.
    """

    def __init__(
        self,
        topic: str,
        partition: int,
        identity: ProducerIdentity,
        clock: TopicClock,
        *,
        batch_size: int,
        compression: int,
        retry_backoff: float,
        addresses_tried: Callable[[], str] = lambda: "",
    ) -> None:
        """`batch_size` is in bytes, `compression` is Kafka's number of the codec, `retry_backoff` in seconds."""
        self.topic = topic
        self.partition = partition
        self.topic_field = topic_field(topic)
        self.leader: int | None = None
        self.waiting: deque[BatchSlice] = deque()
        self.is_scheduled = False
        """Whether the producer looks at it at the end of this round."""
        self.waiting_since = 0.0
        """When the first waiting record arrived."""
        self._batch: Batch | None = None
        self._is_in_flight = False
        self._retry_at = 0.0
        self._identity = identity
        self._sequence = 0
        self._clock = clock
        self._batch_size = batch_size
        self._compression = compression
        self._retry_backoff = retry_backoff
        self._addresses_tried = addresses_tried
        self._single_records = 0
        """The number of waiting records that are sent one by one, to find the one that Kafka rejects."""

    @property
    def is_busy(self) -> bool:
        """Whether any record has no result."""
        return bool(self.waiting) or self._batch is not None

    @property
    def has_batch(self) -> bool:
        """Whether a batch is in flight or is to be sent again."""
        return self._batch is not None

    @property
    def needs_identity(self) -> bool:
        """Whether its epochs are used up, so that it sends nothing before `set_identity`."""
        return self._identity.epoch > MAX_EPOCH

    @property
    def epoch(self) -> int:
        return self._identity.epoch

    def set_identity(self, identity: ProducerIdentity) -> None:
        """Use another producer id."""
        self._identity = identity
        self._sequence = 0

    def add(self, append: PartitionAppend) -> None:
        """Take the records of a request."""
        if not self.waiting:
            self.waiting_since = time.monotonic()
        self.waiting.append(BatchSlice(append, 0, len(append.records)))

    @property
    def has_full_batch(self) -> bool:
        """Whether the waiting records fill a batch."""
        return sum(_size(*each) for each in self.waiting) >= self._batch_size

    # Sending

    def next_batch(self, now: float) -> Batch | None:
        """Return the batch to send now, which is in flight from then on; None if there is none."""
        if self._is_in_flight or self.needs_identity:
            return None
        batch = self._batch
        if batch is None:
            if not self.waiting:
                return None
            self._batch = batch = self._build()
        elif now < self._retry_at:
            return None
        elif batch.identity != self._identity and not batch.is_unsure:
            self._number(batch)
        self._is_in_flight = True
        batch.attempts += 1
        return batch

    def _build(self) -> Batch:
        """Take waiting records up to the size of a batch."""
        waiting, without_time = self.waiting, self._clock.is_omitted
        has_time = _has_timestamp(*waiting[0][:2]) if without_time else None
        builder = self._builder(self._batch_size)
        taken: list[BatchSlice] = []
        count, limit = 0, 1 if self._single_records else _NO_LIMIT
        while waiting and count < limit:
            append, start, stop = waiting[0]
            if count and stop - start > 1 and builder.size() + _size(append, start, stop) > self._batch_size:
                break  # the records of a request stay together
            waiting.popleft()
            own_time = NO_TIMESTAMP if without_time else append.pending.created_ms
            fitting = BatchSlice(append, start, min(stop, start + limit))
            end = _append_records(builder, fitting, count, own_time, has_time)
            if end > start:
                taken.append(BatchSlice(append, start, end))
                count += end - start
            if end < stop:
                waiting.appendleft(BatchSlice(append, end, stop))
                break
        self._single_records = max(0, self._single_records - count)
        batch = Batch(self, taken, count, without_time=without_time)
        self._take_numbers(batch)
        batch.data = builder.build()
        return batch

    def _number(self, batch: Batch) -> None:
        """Build a batch again under the present identity."""
        builder = self._builder(_NO_LIMIT)
        count = 0
        for each in batch.slices:
            own_time = NO_TIMESTAMP if batch.without_time else each.append.pending.created_ms
            _append_records(builder, each, count, own_time)
            count += each.stop - each.start
        self._take_numbers(batch)
        batch.data = builder.build()

    def _builder(self, size: int) -> Any:
        return DefaultRecordBatchBuilder(_MAGIC, self._compression, 0, *self._identity, self._sequence, size)

    def _take_numbers(self, batch: Batch) -> None:
        batch.identity, batch.sequence = self._identity, self._sequence
        self._sequence = (self._sequence + batch.count) & _MAX_SEQUENCE

    # Responses

    def on_response(self, response: PartitionResponse) -> bool:
        """Handle the response about the batch in flight. Return whether the topic's metadata must be read again."""
        batch = self._end_flight()
        kind = for_code(response.error_code)
        reaction = Reaction.COMPLETE if not response.error_code else reaction_to(kind)
        if reaction is Reaction.COMPLETE:
            self._complete(batch, response)
            return False
        count_error(kind)
        if reaction in (Reaction.RETRY, Reaction.RETRY_UNSURE):
            batch.is_unsure |= reaction is Reaction.RETRY_UNSURE
            self._retry_later(batch)
            return kind in STALE_METADATA
        if batch.is_unsure:  # an earlier attempt may have been written, so no error may say that nothing was
            self._end_unsure(batch, kind)
        elif reaction is Reaction.RENUMBER:
            self._begin_epoch()
            self._retry_later(batch)
        elif reaction is Reaction.SPLIT and batch.count > 1:
            self._batch_size = max(1, len(batch.data) // 2)
            self._wait_again(batch)
        elif reaction is Reaction.REJECT_RECORDS:
            self._reject_records(batch, kind, response.record_errors)
        else:
            self._reject(batch, result_of(kind(), self.topic, self._addresses_tried()))
        return False

    def _complete(self, batch: Batch, response: PartitionResponse) -> None:
        self._batch = None
        append_time = response.append_time
        if batch.is_unsure and append_time == batch.max_timestamp:
            append_time = -1  # Kafka returns this time for a batch that it already has, whatever the topic's setting
        count_produced(self.topic, batch.count, sum([_payload(*each) for each in batch.slices]))
        batch.end(response.base_offset, append_time)

    def on_connection_lost(self) -> None:
        """Handle the loss of the connection with a batch in flight: it may have been written or not."""
        batch = self._end_flight()
        count_error(kafka.KafkaConnectionError)
        batch.is_unsure = True
        self._retry_later(batch)

    def _end_flight(self) -> Batch:
        """Return the batch in flight, which is not in flight any more."""
        self._is_in_flight = False
        assert self._batch is not None  # noqa: S101  only a batch in flight has a response
        return self._batch

    def _retry_later(self, batch: Batch) -> None:
        doublings = min(batch.attempts - 1, _MAX_RETRY_DOUBLINGS)
        self._retry_at = time.monotonic() + min(_MAX_RETRY_SECONDS, self._retry_backoff * 2**doublings)

    def _end_unsure(self, batch: Batch, kind: type[kafka.KafkaError]) -> None:
        reason = f"Kafka rejected it when it was sent again ({kind.__name__.removesuffix('Error')})."
        self._drop(batch)
        batch.end(UNKNOWN_OFFSET, -1, unknown_outcome(reason, self._addresses_tried()))

    def _reject(self, batch: Batch, error: KafkaHttpError) -> None:
        batch.is_unsure |= isinstance(error, OutcomeUnknown)
        self._drop(batch)
        batch.end(UNKNOWN_OFFSET, -1, error)

    def _drop(self, batch: Batch) -> None:
        """Remove a batch. Its sequence numbers are used again, unless Kafka may have them."""
        self._batch = None
        if batch.is_unsure:
            self._begin_epoch()
        elif batch.identity == self._identity:
            self._sequence = batch.sequence

    def _begin_epoch(self) -> None:
        """Begin at sequence 0 of the next epoch, which Kafka accepts after any batch of an earlier one."""
        self._identity = ProducerIdentity(self._identity.producer_id, self._identity.epoch + 1)
        self._sequence = 0

    def _reject_records(self, batch: Batch, kind: type[kafka.KafkaError], named: Sequence[int]) -> None:
        """Fail the records that Kafka rejects. The others wait again."""
        all_indexes = set(range(batch.count))
        rejected = all_indexes.intersection(named)
        retried: set[int] = set()
        if issubclass(kind, kafka.InvalidTimestampError) and not batch.without_time:
            retried = _without_timestamps(batch) & (rejected or all_indexes)
        if retried:
            self._clock.omit()
            rejected -= retried
        elif not rejected and batch.count > 1:  # brokers before Kafka 2.4 do not name them
            self._single_records += batch.count
        else:
            rejected = rejected or all_indexes
        self._wait_again(batch, rejected, result_of(kind(), self.topic, self._addresses_tried()))

    def _wait_again(
        self, batch: Batch, rejected: "set[int] | frozenset[int]" = frozenset(), error: KafkaHttpError | None = None
    ) -> None:
        """Let the records of a batch wait again, before all others. Those at the indexes `rejected` fail."""
        self._drop(batch)
        slices: list[BatchSlice] = []
        position = 0
        for append, start, stop in batch.slices:
            for index in range(start, stop):
                if position in rejected:
                    append.add_result(SliceResult(index, index + 1, UNKNOWN_OFFSET, None, -1, error))
                elif slices and slices[-1].append is append and slices[-1].stop == index:
                    slices[-1] = BatchSlice(append, slices[-1].start, index + 1)
                else:
                    slices.append(BatchSlice(append, index, index + 1))
                position += 1
        self.waiting.extendleft(reversed(slices))

    # Giving up

    def give_up_overdue(self, now: float) -> None:
        """End records whose deadline is over, apart from those in flight."""
        batch = self._batch
        if batch is not None and not self._is_in_flight and batch.deadline <= now:
            self._drop(batch)
            batch.end(UNKNOWN_OFFSET, -1, self._unknown("no broker acknowledged it in time."))
        if any(each.append.pending.deadline <= now for each in self.waiting):
            error = self._unknown("no broker could be reached in time.")
            self._end_waiting(lambda each: each.append.pending.deadline <= now, error)

    def withdraw(self) -> list[KafkaPendingPublish]:
        """Take back all publishes, to place them again. Return none unless all of them can be.

        Kafka must have none of their records for certain, and their records must all be here and name no partition.
        """
        batch = self._batch
        if batch is not None and (self._is_in_flight or batch.is_unsure):
            return []
        slices = [*(() if batch is None else batch.slices), *self.waiting]
        publishes = list(dict.fromkeys(each.append.pending for each in slices))
        if not all(each.is_movable for each in publishes):
            return []
        if batch is not None:
            self._drop(batch)
        self.waiting.clear()
        for each in publishes:
            each.withdraw()
        return publishes

    def fail(self, error: KafkaHttpError) -> None:
        """End all records with an error, apart from a batch in flight. A batch that may be written ends as unknown."""
        batch = self._batch
        if batch is not None and not self._is_in_flight:
            self._drop(batch)
            batch.end(UNKNOWN_OFFSET, -1, self._unknown(error.message) if batch.is_unsure else error)
        self._end_waiting(lambda _: True, error)

    def _end_waiting(self, ends: Callable[[BatchSlice], bool], error: KafkaHttpError) -> None:
        ended = [each for each in self.waiting if ends(each)]
        self.waiting = deque(each for each in self.waiting if not ends(each))
        for append, start, stop in ended:
            append.add_result(SliceResult(start, stop, UNKNOWN_OFFSET, None, -1, error))

    def _unknown(self, reason: str) -> KafkaHttpError:
        return unknown_outcome(reason, self._addresses_tried())


def _append_records(
    builder: Any, batch_slice: BatchSlice, first: int, own_time: int, has_timestamp: bool | None = None
) -> int:
    """Append records while there is room, the first one at index `first` of the batch. Return where it stopped.

    The first record of a batch always has room. Records without a timestamp get `own_time`. If `has_timestamp` is not
    None, it says whether the records of the batch have timestamps of their own, and this stops at the first record that
    differs: aiokafka's builder takes `NO_TIMESTAMP` in a batch's first record for "not set yet".
    """
    append, start, stop = batch_slice
    records = append.records if stop - start == len(append.records) else append.records[start:stop]
    add = builder.append
    if isinstance(append.records, BareValues):
        for index, value in enumerate(records, first):
            if has_timestamp or add(index, own_time, None, value, _NO_HEADERS) is None:
                return start + index - first
        return stop
    each: Any
    for index, each in enumerate(records, first):
        timestamp = own_time if each.timestamp is None else each.timestamp
        if has_timestamp is not None and (each.timestamp is not None) != has_timestamp:
            return start + index - first
        if add(index, timestamp, each.key, each.value, list(each.headers) if each.headers else _NO_HEADERS) is None:
            return start + index - first
    return stop


def _size(append: PartitionAppend, start: int, stop: int) -> int:
    """Return the size of records in a batch, or a little more. It does not count headers."""
    return _payload(append, start, stop) + _RECORD_OVERHEAD * (stop - start)


def _payload(append: PartitionAppend, start: int, stop: int) -> int:
    """Return the size of the keys and values of records."""
    if stop - start == 1:
        record: Any = append.records[start]
        if isinstance(append.records, BareValues):
            return len(record or b"")
        return len(record.value or b"") + len(record.key or b"")
    records: Any = append.records[start:stop]
    return sum(map(len, filter(None, records))) if isinstance(append.records, BareValues) else payload_size(records)


def _has_timestamp(append: PartitionAppend, index: int) -> bool:
    """Return whether a record has a timestamp of its own."""
    return append.has_timestamps and getattr(append.records[index], "timestamp", None) is not None


def _without_timestamps(batch: Batch) -> set[int]:
    """Return the indexes of the records that have no timestamp of their own."""
    places = [(append, index) for append, start, stop in batch.slices for index in range(start, stop)]
    return {position for position, place in enumerate(places) if not _has_timestamp(*place)}
