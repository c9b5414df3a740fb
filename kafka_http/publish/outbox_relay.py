"""The outbox relay: publishes accepted tasks in the order of their topic, and retries while Kafka is unreachable."""

import contextlib
import logging
import random
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence

from kafka_http.backoff import Backoff
from kafka_http.broker_protocols import Producer
from kafka_http.errors import KafkaHttpError, NotAuthorized, OutcomeUnknown, TopicNotFound
from kafka_http.logs import LogOnce
from kafka_http.metrics import TASKS
from kafka_http.records import RecordResult
from kafka_http.tasks import QueuedTask, TaskResult, TaskStore, task_status

log = logging.getLogger(__name__)

_MAX_TOPICS = 16
"""The number of topics that are published to at the same time."""
_MAX_TASKS = 500
_MAX_BYTES = 200_000
"""The limits of one call of the producer.

They are smaller than a batch, so that the second of two records for a partition is not written without the first.
"""
_PUBLISH_SECONDS = 180.0
"""How long a call of the producer may take. It is longer than the producer keeps trying."""
_MISSING_SECONDS = 10.0
"""Tasks fail if their topic is missing or not authorized for this long. A cluster may report this as it starts."""
_MAYBE_TRANSIENT = (TopicNotFound, NotAuthorized)
_RETRY_SECONDS = (0.1, 5.0)
_LINGER_SECONDS = 0.02
"""The time between two calls of the producer for a topic, unless the next is half full.

A call costs as much as the acceptance of dozens of tasks, in the same process.
"""
_POLL_SECONDS = 1.0


class OutboxRelay:
    """Publishes the tasks of a store: exactly once if no process is killed, otherwise at least once.

    The outbox creates it. `start` starts its thread, which starts a thread for each topic with tasks; `stop` ends them.
    Any thread may call.
    """

    def __init__(self, store: TaskStore, producer: Producer, on_ended: Callable[[Sequence[QueuedTask]], None]) -> None:
        """`on_ended` is called with tasks whose results are stored."""
        self._store = store
        self._producer = producer
        self._on_ended = on_ended
        self._topics: dict[str, _TopicQueue] = {}
        self._lock = threading.Lock()
        self._woken = threading.Event()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start to publish. Does not block."""
        self._thread = threading.Thread(target=self._run, name="relay", daemon=True)
        self._thread.start()

    def wake(self, topics: Collection[str]) -> None:
        """Publish new tasks of these topics. Does not block."""
        for topic in topics:
            self._topics.setdefault(topic, _TopicQueue(topic)).has_tasks = True
        self._woken.set()

    def stop(self, timeout: float) -> None:
        """Start no more calls of the producer, and wait up to `timeout` seconds for those in progress."""
        self._stopping.set()
        self._woken.set()
        deadline = time.monotonic() + timeout
        if self._thread is not None:  # first, because it starts the other threads
            self._thread.join(timeout)
        for queue in list(self._topics.values()):
            if queue.thread is not None:
                queue.thread.join(max(0.0, deadline - time.monotonic()))

    @contextlib.contextmanager
    def while_unsent(self, task_id: str) -> Iterator[bool]:
        """Yield whether a task is unsent: Kafka has got none of its records. The `with` block keeps it unsent."""
        with self._lock:
            yield not any(task_id in each.sent for each in list(self._topics.values()))

    # In the relay's thread

    def _run(self) -> None:
        polled = float("-inf")
        while not self._stopping.is_set():
            if time.monotonic() >= polled + _POLL_SECONDS:
                polled = time.monotonic()
                self._poll()
            self._start_topics()
            self._woken.wait(self._seconds_to_next(polled))
            self._woken.clear()

    def _poll(self) -> None:
        """Find topics with tasks of an earlier process, or of a node that has ended."""
        try:
            for topic in self._store.open_topics():
                self._topics.setdefault(topic, _TopicQueue(topic)).has_tasks = True
        except KafkaHttpError as error:
            log.debug("Outbox could not be read: %s", error.message)

    def _start_topics(self) -> None:
        queues = list(self._topics.values())
        free = _MAX_TOPICS - sum(each.is_busy for each in queues)
        ready = [each for each in queues if each.has_tasks and not each.is_busy and each.is_due]
        for queue in ready[:free]:
            queue.is_busy = True
            queue.thread = threading.Thread(target=self._work, args=(queue,), name=f"relay-{queue.topic}", daemon=True)
            queue.thread.start()

    def _seconds_to_next(self, polled: float) -> float:
        """Return the time until the next poll or retry."""
        retries = [each.retry_at for each in list(self._topics.values()) if each.has_tasks and not each.is_due]
        return max(0.0, min([polled + _POLL_SECONDS, *retries]) - time.monotonic())

    # In the thread of a topic

    def _work(self, queue: "_TopicQueue") -> None:
        try:
            self._drain(queue)
        except KafkaHttpError as error:  # from the store
            queue.back_off(error.message)
        except Exception:
            log.exception("Publishing accepted messages to %s failed; retrying", queue.topic)
            queue.back_off("unexpected error")
        finally:
            queue.is_busy = False
            self._woken.set()

    def _drain(self, queue: "_TopicQueue") -> None:
        """Publish the topic's tasks until there are no more or a retry is needed."""
        while not self._stopping.is_set():
            queue.has_tasks = False
            tasks = self._next_tasks(queue)
            if not tasks:
                self._store.release(queue.topic)
                return
            if not self._publish(queue, tasks):
                queue.has_tasks = True
                return
            if len(tasks) < _MAX_TASKS and sum(each.size for each in tasks) < _MAX_BYTES / 2:
                self._stopping.wait(_LINGER_SECONDS)

    def _next_tasks(self, queue: "_TopicQueue") -> list[QueuedTask]:
        with self._lock:  # so that a task is either cancelled or marked as sent
            tasks = self._store.next_tasks(queue.topic, _MAX_TASKS, _MAX_BYTES)
            for each in tasks:
                queue.sent.setdefault(each.id, [None] * len(each.records))
        return tasks

    def _publish(self, queue: "_TopicQueue", tasks: Sequence[QueuedTask]) -> bool:
        """Publish the records of tasks that have no result yet. Return whether all tasks ended; else back off."""
        slots = [(queue.sent[each.id], index) for each in tasks for index in range(len(each.records))]
        records = [record for each in tasks for record in each.records]
        unpublished = [at for at, (results, index) in enumerate(slots) if results[index] is None]
        try:
            pending = self._producer.publish(
                queue.topic, [records[at] for at in unpublished], _PUBLISH_SECONDS, keeps_trying=True
            )
            outcomes = pending.result()  # after the timeout, the records are published again
        except KafkaHttpError as error:
            return self._handle_failure(queue, tasks, error)
        failure = None
        for at, result in zip(unpublished, outcomes, strict=True):
            if isinstance(result, KafkaHttpError) and is_transient(result):
                failure = result
                queue.may_be_written = True
            else:
                results, index = slots[at]
                results[index] = result
        self._end(queue, tasks)
        return queue.succeeded(failure)

    def _handle_failure(self, queue: "_TopicQueue", tasks: Sequence[QueuedTask], error: KafkaHttpError) -> bool:
        """Handle an error of the whole call: nothing was written, because of the topic or of one of the tasks."""
        if is_transient(error) or (isinstance(error, _MAYBE_TRANSIENT) and not queue.has_failed_for_long()):
            queue.mark_unsent(tasks)
            return queue.succeeded(error)
        if len(tasks) > 1:  # publish each alone, to find the one that fails
            return all(self._publish(queue, [each]) for each in tasks)
        results = queue.sent[tasks[0].id]
        results[:] = [error if each is None else each for each in results]
        self._end(queue, tasks)
        return True

    def _end(self, queue: "_TopicQueue", tasks: Sequence[QueuedTask]) -> None:
        """Store the results of the tasks whose records all have a result."""
        ended = [each for each in tasks if None not in queue.sent[each.id]]
        if ended:
            results = [TaskResult(each.id, *task_status(queue.results(each.id))) for each in ended]
            self._store.end(results)
            for each in results:
                TASKS.add(1, each.status)
                del queue.sent[each.id]
            self._on_ended(ended)


class _TopicQueue:
    """The state of publishing one topic's tasks. One thread at a time publishes them."""

    def __init__(self, topic: str) -> None:
        self.topic = topic
        self.has_tasks = False
        self.is_busy = False
        self.thread: threading.Thread | None = None
        self.retry_at = 0.0
        self.sent: dict[str, list[RecordResult | None]] = {}
        """The tasks that may have been sent to Kafka, and the results of their records as far as they are known."""
        self.may_be_written = False
        """Whether Kafka may have written records without an acknowledgement."""
        self._backoff = Backoff(*_RETRY_SECONDS)
        self._missing_since: float | None = None
        self._log = LogOnce(log)

    @property
    def is_due(self) -> bool:
        return time.monotonic() >= self.retry_at

    def results(self, task_id: str) -> list[RecordResult]:
        return [each for each in self.sent[task_id] if each is not None]

    def mark_unsent(self, tasks: Sequence[QueuedTask]) -> None:
        """Note that a call wrote nothing, so that tasks without results can be cancelled."""
        if not self.may_be_written:
            for each in tasks:
                if not any(self.sent[each.id]):
                    del self.sent[each.id]

    def succeeded(self, error: KafkaHttpError | None) -> bool:
        """Return whether there was no error. Back off if there was one."""
        if error is not None:
            self.back_off(error.message)
            return False
        if self._log.clear():
            log.info("Publishing accepted messages to %s again", self.topic)
        self._backoff.reset()
        self._missing_since, self.may_be_written = None, False
        return True

    def back_off(self, reason: str) -> None:
        self.retry_at = time.monotonic() + self._backoff.next() * random.uniform(0.5, 1)  # noqa: S311  not for secrecy
        self._log.warning("Accepted messages for %s cannot be published; retrying: %s", self.topic, reason)

    def has_failed_for_long(self) -> bool:
        """Whether the topic has been missing or not authorized for `_MISSING_SECONDS`."""
        now = time.monotonic()
        if self._missing_since is None:
            self._missing_since = now
        return now >= self._missing_since + _MISSING_SECONDS


def is_transient(error: KafkaHttpError) -> bool:
    """Whether a retry may succeed."""
    return error.retry_after is not None or isinstance(error, OutcomeUnknown)
