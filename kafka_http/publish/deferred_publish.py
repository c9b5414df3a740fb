"""Deferred publishing: the records of a request are checked and serialized now, and published by the outbox relay."""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

from kafka_http.broker_protocols import Log
from kafka_http.errors import (
    BrokerUnavailable,
    KafkaHttpError,
    OutboxFull,
    OutcomeUnknown,
    PartitionNotFound,
    TopicNotFound,
    Unavailable,
)
from kafka_http.publish.publisher import PublishRequest
from kafka_http.records import BareValues, NewRecord, missing_partitions
from kafka_http.schemas.formats import Formats
from kafka_http.schemas.loading_cache import WouldBlock
from kafka_http.tasks import NewTask, Tasks, encode_records, new_task_id
from kafka_http.topics import check_publishable

_FRESH_SECONDS = 2.0
"""Metadata of a topic is used this long without asking Kafka."""
_STALE_SECONDS = 60.0
"""Metadata is used this long while it is refreshed in the background, or while Kafka is unreachable."""
_UNREACHABLE_SECONDS = 5.0
"""Time before a request asks an unreachable Kafka again."""
_MAX_BATCH_BYTES = 1 << 20
_MAX_BATCH_TASKS = 500
_CLOSE_SECONDS = 5.0


class DeferredPublisher:
    """Accepts records to publish later. The composition root creates one. Any thread may call."""

    def __init__(
        self,
        log: Log,
        formats: Formats,
        submitter: "TaskSubmitter",
        check_callback: Callable[[str], object],
        *,
        auto_create_topics: bool,
    ) -> None:
        """`check_callback` raises for a URL that callbacks must not go to. It does not block."""
        self._formats = formats
        self._submitter = submitter
        self._check_callback = check_callback
        self._partitions = _PartitionCounts(log, auto_create_topics=auto_create_topics)

    def accept(
        self,
        topic: str,
        messages: PublishRequest,
        callback_url: str | None,
        deadline: float,
        *,
        blocking: bool = True,
    ) -> "PendingTask":
        """Hand the records of a request to the outbox, as a task.

        Raises the errors of `Publisher.publish` that do not need Kafka, `TopicNotFound`, `PartitionNotFound`,
        `Unavailable`; with `blocking=False` also `WouldBlock`, and the task may wait until `TaskSubmitter.send`.
        """
        check_publishable(topic)
        records, _ = self._formats.encode(
            topic, messages.records, messages.schemas, blocking=blocking, deadline=deadline
        )
        if not self._partitions.are_known(topic, records):
            if not blocking:
                raise WouldBlock
            self._partitions.check(topic, records)
        if callback_url is not None:
            self._check_callback(callback_url)
        pending = self._submitter.submit(
            NewTask(new_task_id(), topic, time.time(), encode_records(records), callback_url)
        )
        if blocking:
            self._submitter.send()
        return pending


class _PartitionCounts:
    """The number of partitions of topics, cached so that Kafka may be unreachable for a while."""

    def __init__(self, log: Log, *, auto_create_topics: bool) -> None:
        self._log = log
        self._auto_create_topics = auto_create_topics
        self._counts: dict[str, tuple[int, float]] = {}
        self._refreshing: set[str] = set()
        self._unreachable_until = float("-inf")

    def are_known(self, topic: str, records: Sequence[NewRecord] | BareValues) -> bool:
        """Whether recent metadata has the topic and all partitions of the records. Does not block."""
        return self._is_cached(topic, records, _FRESH_SECONDS)

    def check(self, topic: str, records: Sequence[NewRecord] | BareValues) -> None:
        """Raise `TopicNotFound` or `PartitionNotFound` if Kafka says so. Return if Kafka is unreachable."""
        if self._is_cached(topic, records, _STALE_SECONDS):
            self._refresh(topic)
            return
        if time.monotonic() < self._unreachable_until:
            return  # accept the records: the relay publishes them when Kafka is back
        try:
            count = self._fetch(topic)
        except TopicNotFound:
            if not self._auto_create_topics:
                raise
        except BrokerUnavailable:
            return
        else:
            for partition in missing_partitions(records, count):
                raise PartitionNotFound(topic, partition, count)

    def _is_cached(self, topic: str, records: Sequence[NewRecord] | BareValues, max_age: float) -> bool:
        count, at = self._counts.get(topic, (0, float("-inf")))
        return time.monotonic() < at + max_age and not missing_partitions(records, count)

    def _refresh(self, topic: str) -> None:
        """Refresh the metadata of a topic in the background."""
        if topic in self._refreshing or time.monotonic() < self._unreachable_until:
            return
        self._refreshing.add(topic)
        threading.Thread(target=self._fetch_quietly, args=(topic,), daemon=True).start()

    def _fetch_quietly(self, topic: str) -> None:
        try:
            self._fetch(topic)
        except KafkaHttpError:
            pass  # the next request finds no metadata and gets the error
        finally:
            self._refreshing.discard(topic)

    def _fetch(self, topic: str) -> int:
        try:
            count = len(self._log.partitions(topic))
        except BrokerUnavailable:
            self._unreachable_until = time.monotonic() + _UNREACHABLE_SECONDS
            raise
        except KafkaHttpError:
            self._counts.pop(topic, None)
            raise
        self._counts[topic] = count, time.monotonic()
        return count


class PendingTask:
    """A task on its way to the outbox: a future. Any thread may call."""

    def __init__(self, task: NewTask) -> None:
        self.task = task
        self.is_done = False
        self._error: KafkaHttpError | None = OutcomeUnknown(
            "The server's outbox did not answer in time. The messages may or may not be published."
        )
        self._callbacks: deque[Callable[[], None]] = deque()

    def result(self, timeout: float | None = None) -> NewTask:
        """Wait up to `timeout` seconds, or until there is a result, and return the task if it is on disk.

        `timeout=0` does not block. Raises `OutboxFull`, `Unavailable`, or `OutcomeUnknown` if there is no result yet.
        """
        if not self.is_done and timeout != 0:
            done = threading.Event()
            self.add_done_callback(done.set)
            done.wait(timeout)
        if self._error is not None:
            raise self._error
        return self.task

    def add_done_callback(self, callback: Callable[[], None]) -> None:
        """Call `callback` once when there is a result, or now if there is. It must not block."""
        self._callbacks.append(callback)
        if self.is_done:
            self._run_callbacks()

    def end(self, error: KafkaHttpError | None) -> None:
        """Set the result: None if the task is on disk."""
        self._error = error
        self.is_done = True
        self._run_callbacks()

    def _run_callbacks(self) -> None:
        while self._callbacks:
            try:
                callback = self._callbacks.popleft()
            except IndexError:  # another thread took the last one
                return
            callback()


class TaskSubmitter:
    """Sends tasks to the outbox. Tasks that arrive while a call is in progress share the next call.

    The composition root creates one for each process. Its thread starts with the first task and ends with `close`.
    Any thread may call.
    """

    def __init__(self, tasks: Tasks) -> None:
        self._tasks = tasks
        self._waiting: deque[PendingTask] = deque()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._is_closed = False

    def submit(self, task: NewTask) -> PendingTask:
        """Take a task, which may wait until `send` is called. Does not block. Raises `Unavailable` after `close`."""
        pending = PendingTask(task)
        with self._changed:
            if self._is_closed:
                raise Unavailable("The server is shutting down.")
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="task-submitter", daemon=True)
                self._thread.start()
            self._waiting.append(pending)
        return pending

    def send(self) -> None:
        """Send the submitted tasks. Does not block. A main loop calls this once for all tasks of a round."""
        if self._waiting:
            with self._changed:
                self._changed.notify()

    def close(self) -> None:
        """Send the waiting tasks, and take no more."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join(_CLOSE_SECONDS)

    def _run(self) -> None:
        while batch := self._next_batch():
            try:
                accepted = self._tasks.accept_tasks([each.task for each in batch])
            except KafkaHttpError as error:
                _end(batch, error)
            except Exception:
                _end(batch, Unavailable("The server's outbox failed. See the server's log for the reason."))
                raise
            else:
                _end(batch[:accepted], None)
                _end(batch[accepted:], OutboxFull())

    def _next_batch(self) -> list[PendingTask]:
        """Wait for tasks and return them, up to a size. Return none after `close`."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._is_closed)
            batch: list[PendingTask] = []
            size = 0
            while self._waiting and size < _MAX_BATCH_BYTES and len(batch) < _MAX_BATCH_TASKS:
                batch.append(self._waiting.popleft())
                size += len(batch[-1].task.records)
            return batch


def _end(batch: Sequence[PendingTask], error: KafkaHttpError | None) -> None:
    for each in batch:
        each.end(error)
