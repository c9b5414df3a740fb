"""A publish that was handed to kafka-python and waits for Kafka's results."""

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from threading import Lock

from kafka.errors import IllegalStateError, InvalidTimestampError, KafkaError

from kafka_http.broker.batch_append import AppendResult
from kafka_http.broker.error_map import result_of, unknown_outcome
from kafka_http.broker.patched_producer import PatchedProducer, PendingAppend, failed_with_batch
from kafka_http.errors import BrokerUnavailable, KafkaHttpError, OutcomePending, TooLarge
from kafka_http.records import NewRecord, RecordMetadata, RecordResult


class KafkaPendingPublish:
    """The records of one request, from `begin` until each has a result. Any thread may call.

    Two kinds of failed records are appended again: those that failed only because of others in their batch, and those
    that Kafka rejected for a timestamp of this server.
    """

    def __init__(
        self,
        sender: PatchedProducer,
        topic: str,
        records: Sequence[NewRecord],
        deadline: float,
        done: "Callable[[KafkaPendingPublish], None]",
    ) -> None:
        """Prepare a publish.

        `done` is called once, with this object, when each record has a result: by the sender's thread, which it must
        not block, or by the caller of `begin`. After `deadline` (monotonic clock) nothing is retried.
        """
        self.limit: int | None = None  # largest size of a message, if Kafka was asked for it
        self._sender = sender
        self._topic = topic
        self._records = records
        self._deadline = deadline
        self._done = [done]
        self._refused: dict[int, KafkaHttpError] = {}
        self._parts: list[_Part] = []
        self._open = 0
        self._lock = Lock()

    def refuse(self, index: int, error: KafkaHttpError) -> None:
        """Leave a record out; `error` is its result."""
        self._refused[index] = error

    def begin(self, placed: Sequence[int]) -> None:
        """Append all records except refused ones; the sender's `wakeup` sends them. `placed`: the partition of each."""
        with self._lock:
            self._open = 1
        self._placed = placed
        self._append([each for each in range(len(self._records)) if each not in self._refused])
        self._finish_one()

    def when_done(self, done: "Callable[[KafkaPendingPublish], None]") -> None:
        """Also call `done` when each record has a result: at once if each has."""
        with self._lock:
            if self._open:
                self._done.append(done)
                return
        done(self)

    @property
    def is_delivered(self) -> bool:
        """Whether all records were written."""
        return not self._refused and all(
            each.appended is not None and each.appended.is_delivered for each in self._parts
        )

    def results(self) -> list[RecordResult]:
        """Return the results of the records, in order, as far as they are known."""
        results: list[AppendResult] = [None] * len(self._records)
        for part in list(self._parts):
            if part.appended is None:
                continue
            if len(part.indexes) == len(results):
                results = part.appended.results()
                continue
            for index, result in zip(part.indexes, part.appended.results(), strict=True):
                results[index] = result
        for index, error in list(self._refused.items()):
            results[index] = error
        errors: dict[int, KafkaHttpError] = {}  # one for all records that failed for the same reason
        return [each if isinstance(each, RecordMetadata) else self._shared_error(each, errors) for each in results]

    @property
    def lacks_limit(self) -> bool:
        """Whether Kafka has rejected a record for its size; it does not name the limit."""
        if self.is_delivered:
            return False
        return any(isinstance(each, TooLarge) and "limit" not in each.fields for each in self.results())

    def _shared_error(self, result: BaseException | None, errors: dict[int, KafkaHttpError]) -> KafkaHttpError:
        error = errors.get(id(result))
        if error is None:
            error = errors[id(result)] = self._error_of(result)
        return error

    def _error_of(self, result: BaseException | None) -> KafkaHttpError:
        """Return the error of a record that was not written, or not yet."""
        if result is None:
            return unknown_outcome(
                "no response within the request's timeout.", self._sender.addresses_tried, OutcomePending
            )
        error = (
            result
            if isinstance(result, KafkaHttpError)
            else result_of(result, self._topic, self._sender.addresses_tried)
        )
        is_too_large = self.limit is not None and isinstance(error, TooLarge) and "limit" not in error.fields
        return too_large(self.limit or 0) if is_too_large else error

    def _append(self, indexes: Sequence[int]) -> None:
        for partition, selected in _by_partition(self._placed, indexes).items():
            with self._lock:
                self._open += 1
            self._append_to(partition, selected)

    def _append_to(self, partition: int, indexes: Sequence[int]) -> None:
        part = _Part(indexes, is_untimed=self._sender.omits_timestamps(self._topic))
        self._parts.append(part)  # before it can have results, so that a retry of a record comes after the first try
        is_all = len(indexes) == len(self._records)
        records = self._records if is_all else [self._records[each] for each in indexes]
        try:
            settle = partial(self._on_results, part)
            part.appended = self._sender.append(self._topic, partition, records, settle, is_untimed=part.is_untimed)
            return
        except IllegalStateError:
            error: KafkaHttpError = BrokerUnavailable(
                "The connection to Kafka was lost before the record was sent. Nothing was written."
            )
        except KafkaError as refused:
            error = result_of(refused, self._topic)
        self._refused |= dict.fromkeys(indexes, error)
        self._finish_one()

    def _on_results(self, part: "_Part", append: PendingAppend) -> None:
        """Called by the sender's thread."""
        part.appended = append
        if not append.is_delivered and time.monotonic() < self._deadline:
            results = zip(part.indexes, append.results(), strict=True)
            if retried := [index for index, result in results if self._is_retried(part, index, result)]:
                self._append(retried)  # the calling thread sends them right after this
        self._finish_one()

    def _is_retried(self, part: "_Part", index: int, result: AppendResult) -> bool:
        if isinstance(result, InvalidTimestampError) and self._records[index].timestamp is None and not part.is_untimed:
            self._sender.omit_timestamps(self._topic)
            return True
        return isinstance(result, BaseException) and failed_with_batch(result)

    def _finish_one(self) -> None:
        with self._lock:
            self._open -= 1
            if self._open:
                return
        for done in self._done:
            done(self)


class _Part:
    """Some of the records, appended together for one partition."""

    __slots__ = ("appended", "indexes", "is_untimed")

    def __init__(self, indexes: Sequence[int], *, is_untimed: bool) -> None:
        self.indexes = indexes
        self.is_untimed = is_untimed
        self.appended: PendingAppend | None = None


def _by_partition(placed: Sequence[int], indexes: Sequence[int]) -> Mapping[int, Sequence[int]]:
    if len(set(placed)) == 1:
        return {placed[0]: indexes} if indexes else {}
    places: dict[int, list[int]] = {}
    for index in indexes:
        places.setdefault(placed[index], []).append(index)
    return places


def too_large(limit: int) -> TooLarge:
    """Return the error of a message above Kafka's limit, which is in bytes."""
    return TooLarge(f"The message is larger than Kafka's limit of {limit} bytes.", limit=limit)
