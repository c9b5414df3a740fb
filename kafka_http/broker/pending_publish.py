"""A publish that was handed to the producer: the records of one request and their results."""

import time
from collections.abc import Callable, Sequence
from itertools import repeat
from typing import Any, NamedTuple

from kafka_http.broker.error_map import unknown_outcome
from kafka_http.errors import KafkaHttpError, OutcomePending, TooLarge, TopicNotFound
from kafka_http.pending import DoneCallbacks
from kafka_http.records import AppendedRecords, BareValues, NewRecord, RecordMetadata, RecordResult
from kafka_http.request_facts import waiting_for_kafka

UNKNOWN_OFFSET = -1
"""The offset of a record that Kafka has, but whose offset it no longer knows."""


class SliceResult(NamedTuple):
    """Kafka's result for the records `start` to `stop` of a `PartitionAppend`.

    `timestamp` is that of records without their own. `append_time` is the broker's for all records, or -1.
    """

    start: int
    stop: int
    base_offset: int
    timestamp: int | None
    append_time: int
    error: KafkaHttpError | None


class KafkaPendingPublish(DoneCallbacks):
    """The records of one request on their way to Kafka: a `PendingPublish`.

    The producer creates it. The producer's loop sets the results, and any thread waits for them.
    """

    __slots__ = (
        "_addresses_tried", "_left", "_response_deadline", "appends", "created_ms",
        "deadline", "error", "find_limit", "lacks_limit", "lacks_topic", "limit",
        "records", "rejected", "topic",
    )  # fmt: skip

    def __init__(
        self,
        topic: str,
        records: Sequence[NewRecord] | BareValues,
        response_deadline: float,
        deadline: float,
        addresses_tried: Callable[[], str],
    ) -> None:
        """Times are on the monotonic clock: `result` waits until the first, the producer tries until the second."""
        super().__init__()
        self.topic = topic
        self.records = records
        self.deadline = deadline
        self.created_ms = int(time.time() * 1000)
        """The timestamp of records that have none, in milliseconds."""
        self.appends: list[PartitionAppend] = []
        self.rejected: dict[int, KafkaHttpError] | None = None
        """The errors of records that are not sent, by their index."""
        self.error: KafkaHttpError | None = None
        """The error of the whole request."""
        self.limit: int | None = None
        """The largest message in bytes, looked up after Kafka has rejected a larger one."""
        self.lacks_limit = False
        """Whether Kafka has rejected a record for its size; it does not name the limit."""
        self.lacks_topic = False
        """Whether the topic was deleted before some of the records were sent."""
        self.find_limit: Callable[[KafkaPendingPublish], None] | None = None
        """Called at the end if `lacks_limit`, in place of `complete`. It sets `limit`, and calls `complete`."""
        self._response_deadline = response_deadline
        self._addresses_tried = addresses_tried
        self._left = 0

    # Any thread

    def result(self, timeout: float | None = None) -> Sequence[RecordResult]:
        """Return one result for each record, as `PendingPublish.result` says."""
        if timeout != 0:
            with waiting_for_kafka():
                self.wait(max(0.0, self._response_deadline - time.monotonic()) if timeout is None else timeout)
        if self.error is not None:
            raise self.error.with_traceback(None)  # publishes share it, and each `raise` adds to its traceback
        results = self._results()
        if self.lacks_topic and all(isinstance(each, TopicNotFound) for each in results):
            raise TopicNotFound(self.topic)
        return results

    # The producer's loop

    def append(self, partition: int, indexes: Sequence[int] | None, *, has_timestamps: bool) -> "PartitionAppend":
        """Return the append of some of the records, or of all if `indexes` is None."""
        selected: Any = self.records if indexes is None else [self.records[each] for each in indexes]
        append = PartitionAppend(self, partition, selected, indexes, has_timestamps)
        self.appends.append(append)
        self._left += len(selected)
        return append

    @property
    def is_movable(self) -> bool:
        """Whether all records wait for one partition, which none of them names, and none has a result."""
        if len(self.appends) != 1 or self.appends[0].indexes is not None or self.appends[0].results:
            return False
        return isinstance(self.records, BareValues) or all(each.partition is None for each in self.records)

    def withdraw(self) -> None:
        """Forget the partition, so that the request can be placed again."""
        self.appends.clear()
        self._left = 0

    def fail(self, error: KafkaHttpError) -> None:
        """End the whole request with an error. Nothing was written."""
        self.error = error
        self.complete()

    def count_results(self, count: int) -> None:
        """Note that `count` more records have a result."""
        self._left -= count
        if not self._left:
            for append in self.appends:
                del append.pending  # in a reference cycle the records would stay until garbage is collected
            if self.lacks_limit and self.find_limit is not None:
                self.find_limit(self)
            else:
                self.complete()

    # Results

    def _results(self) -> Sequence[RecordResult]:
        if len(self.appends) == 1 and self.appends[0].indexes is None:
            return self._with_limit(self.appends[0].record_results(self._pending))
        results: list[RecordResult | None] = [None] * len(self.records)
        for append in self.appends:
            for index, result in zip(append.indexes or (), append.record_results(self._pending), strict=True):
                results[index] = result
        for index, error in (self.rejected or {}).items():
            results[index] = error
        pending = self._pending() if None in results else None  # not placed yet
        return self._with_limit([each if each is not None else pending for each in results])  # type: ignore[misc]

    def _pending(self) -> OutcomePending:
        error = unknown_outcome("no response within the request's timeout.", self._addresses_tried(), OutcomePending)
        assert isinstance(error, OutcomePending)  # noqa: S101  its type was passed
        return error

    def _with_limit(self, results: Sequence[RecordResult]) -> Sequence[RecordResult]:
        """Name the limit in the errors of records that are too large."""
        if self.limit is None:
            return results
        named = too_large(self.limit)
        return [named if isinstance(each, TooLarge) and "limit" not in each.fields else each for each in results]


class PartitionAppend:
    """A request's records for one partition, in their order. They may be in several batches."""

    __slots__ = ("has_timestamps", "indexes", "partition", "pending", "records", "results")

    def __init__(
        self,
        pending: KafkaPendingPublish,
        partition: int,
        records: Sequence[NewRecord] | BareValues,
        indexes: Sequence[int] | None,
        has_timestamps: bool,
    ) -> None:
        self.pending = pending
        """Deleted when all records of the request have results."""
        self.partition = partition
        self.records = records
        self.indexes = indexes
        """The indexes of the records in the request; None if they are all of them."""
        self.has_timestamps = has_timestamps
        """Whether any record has a timestamp of its own."""
        self.results: list[SliceResult] = []

    def add_result(self, result: SliceResult) -> None:
        self.results.append(result)
        if result.error is not None:
            self.pending.lacks_limit |= isinstance(result.error, TooLarge)
            self.pending.lacks_topic |= isinstance(result.error, TopicNotFound)
        self.pending.count_results(result.stop - result.start)

    def record_results(self, pending: Callable[[], OutcomePending]) -> Sequence[RecordResult]:
        """Return one result for each record. `pending` returns the error of records without a result."""
        results = self.results
        if len(results) == 1 and results[0].stop - results[0].start == len(self.records):
            return self._results_of(results[0])
        found: list[RecordResult | None] = [None] * len(self.records)
        for each in list(results):
            found[each.start : each.stop] = self._results_of(each)
        if None not in found:
            return found  # type: ignore[return-value]
        error = pending()
        return [error if each is None else each for each in found]

    def _results_of(self, result: SliceResult) -> Sequence[RecordResult]:
        start, stop, base_offset, timestamp, append_time, error = result
        count = stop - start
        if error is not None:
            return [error] * count
        if append_time != -1:
            timestamp = append_time
        if base_offset == UNKNOWN_OFFSET:
            return [RecordMetadata(self.partition, UNKNOWN_OFFSET, timestamp)] * count
        if append_time != -1 or not self.has_timestamps:
            return AppendedRecords(self.partition, base_offset, count, timestamp)
        times = [timestamp if each.timestamp is None else each.timestamp for each in self.records[start:stop]]  # type: ignore[union-attr]
        return list(map(RecordMetadata, repeat(self.partition), range(base_offset, base_offset + count), times))


def too_large(limit: int) -> TooLarge:
    """Return the error of a message above Kafka's limit, which is in bytes."""
    return TooLarge(f"The message is larger than Kafka's limit of {limit} bytes.", limit=limit)
