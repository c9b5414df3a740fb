"""A `PendingPublish` that a test completes."""

import threading
import time
from collections.abc import Callable, Sequence

from kafka_http.errors import KafkaHttpError, OutcomePending
from kafka_http.records import RecordResult
from kafka_http.request_facts import waiting_for_kafka

_PENDING = OutcomePending("Kafka did not acknowledge the record in time: it may have been written.")


class FakePendingPublish:
    """`complete` or `fail` ends it. Any thread may call."""

    def __init__(self, count: int, timeout: float) -> None:
        self.deadline = time.monotonic() + timeout
        self._results: Sequence[RecordResult] = [_PENDING] * count
        self._error: KafkaHttpError | None = None
        self._done = threading.Event()
        self._lock = threading.Lock()
        self._callbacks: list[Callable[[], None]] = []

    @property
    def is_done(self) -> bool:
        return self._done.is_set()

    def result(self, timeout: float | None = None) -> Sequence[RecordResult]:
        with waiting_for_kafka():
            self._done.wait(max(0.0, self.deadline - time.monotonic()) if timeout is None else timeout)
        if self._error is not None:
            raise self._error
        return self._results

    def add_done_callback(self, callback: Callable[[], None]) -> None:
        with self._lock:
            if not self.is_done:
                self._callbacks.append(callback)
                return
        callback()

    def complete(self, results: Sequence[RecordResult]) -> None:
        self._results = results
        self._end()

    def fail(self, error: KafkaHttpError) -> None:
        self._error = error
        self._end()

    def _end(self) -> None:
        with self._lock:
            self._done.set()
        for each in self._callbacks:
            each()


def completed(results: Sequence[RecordResult] | KafkaHttpError) -> FakePendingPublish:
    """Return a publish with these results, or one that failed with this error."""
    pending = FakePendingPublish(0, 0)
    if isinstance(results, KafkaHttpError):
        pending.fail(results)
    else:
        pending.complete(results)
    return pending
