"""The outbox of a node: the tasks that it accepted and has not yet published."""

import logging
import threading
import time
from collections.abc import Collection, Sequence
from typing import Protocol

from kafka_http.broker_protocols import Producer
from kafka_http.errors import KafkaHttpError, TaskFinished, TaskInProgress
from kafka_http.metrics import OUTBOX_BYTES, TASKS
from kafka_http.publish.outbox_relay import OutboxRelay
from kafka_http.tasks import NewTask, QueuedTask, Task, TaskStatus, TaskStore

log = logging.getLogger(__name__)

_POLL_SECONDS = 0.5
"""How often a waiting caller reads a task, which another node may end."""
_CLEAN_SECONDS = 30.0
_MAX_REMOVED = 1000


class Callbacks(Protocol):
    """Sends callbacks when tasks end."""

    def start(self) -> None:
        """Send callbacks from now on. Does not block."""

    def wake(self) -> None:
        """Look for new callbacks, because tasks with callbacks have ended. Does not block."""

    def stop(self, timeout: float) -> None:
        """Start no more callbacks, and wait up to `timeout` seconds for those in progress."""


class Outbox:
    """The `Tasks` of this node. The node's daemon creates it (or the server itself, if `daemon = inline`)."""

    def __init__(
        self, store: TaskStore, producer: Producer, callbacks: Callbacks, *, max_bytes: int, retention: float
    ) -> None:
        """`max_bytes` limits the pending tasks. Tasks are kept for `retention` seconds after their end."""
        self._store = store
        self._callbacks = callbacks
        self._max_bytes = max_bytes
        self._retention = retention
        self._size: int | None = None
        self._lock = threading.Lock()
        self._waiting: dict[str, list[threading.Event]] = {}
        self._closing = threading.Event()
        self.relay = OutboxRelay(store, producer, self._published)
        """Publishes the tasks. It is started when the Kafka cluster is known to be the one of the tasks."""

    def start(self) -> None:
        """Start to send callbacks and to remove old tasks. Does not block."""
        self._callbacks.start()
        threading.Thread(target=self._clean, name="outbox-cleaning", daemon=True).start()

    def close(self, timeout: float) -> None:
        """Start no more calls, and wait up to `timeout` seconds for records that were sent to Kafka."""
        self._closing.set()
        self.relay.stop(timeout)
        self._callbacks.stop(timeout)

    def accept_tasks(self, tasks: Sequence[NewTask]) -> int:
        fitting = tasks[: self._reserve([len(each.records) for each in tasks])]
        if fitting:
            try:
                self._store.add(fitting)
            except KafkaHttpError:
                self._size = None  # the store may have the tasks or not: measure again
                raise
            TASKS.add(len(fitting), "accepted")
            self.relay.wake({each.topic for each in fitting})
        return len(fitting)

    def find_task(self, task_id: str, wait: float = 0, owner: str | None = None) -> Task | None:
        if wait <= 0:
            return self._store.find(task_id, owner)
        has_ended = threading.Event()
        with self._lock:
            self._waiting.setdefault(task_id, []).append(has_ended)
        try:
            return self._wait(task_id, owner, has_ended, time.monotonic() + wait)
        finally:
            with self._lock:
                self._waiting[task_id].remove(has_ended)
                if not self._waiting[task_id]:
                    del self._waiting[task_id]

    def list_tasks(
        self, status: TaskStatus | None, topic: str | None, limit: int, after: str | None, owner: str | None = None
    ) -> list[Task]:
        return self._store.list_tasks(status, topic, limit, after, owner)

    def cancel_task(self, task_id: str, owner: str | None = None) -> Task | None:
        if owner is not None and self._store.find(task_id, owner) is None:
            return None
        with self.relay.while_unsent(task_id) as is_unsent:
            is_cancelled = is_unsent and self._store.cancel(task_id)
        task = self._store.find(task_id)
        if task is None:
            return None
        if not is_cancelled:
            raise TaskInProgress() if task.status == "pending" else TaskFinished(task.status)
        TASKS.add(1, "cancelled")
        self._size = None  # the size of the task is not known here: measure again
        self._ended([task_id], 0, calls_back=task.callback is not None)
        return task

    def _wait(self, task_id: str, owner: str | None, has_ended: threading.Event, until: float) -> Task | None:
        while True:
            task = self._store.find(task_id, owner)
            left = until - time.monotonic()
            if task is None or task.status != "pending" or left <= 0:
                return task
            has_ended.wait(min(left, _POLL_SECONDS))

    def _reserve(self, sizes: Sequence[int]) -> int:
        """Reserve space for tasks, and return how many of the first there was space for."""
        if self._size is None:
            self._measure()
        with self._lock:
            for index, size in enumerate(sizes):
                if (self._size or 0) + size > self._max_bytes:
                    return index
                self._set_size((self._size or 0) + size)
        return len(sizes)

    def _measure(self) -> None:
        size = self._store.pending_size()
        with self._lock:
            self._set_size(size)

    def _set_size(self, size: int) -> None:
        """Set the size of the pending tasks. The caller has the lock."""
        self._size = size
        OUTBOX_BYTES.set(size)

    def _published(self, tasks: Sequence[QueuedTask]) -> None:
        size, calls_back = sum(each.size for each in tasks), any(each.calls_back for each in tasks)
        self._ended([each.id for each in tasks], size, calls_back=calls_back)

    def _ended(self, task_ids: Collection[str], size: int, *, calls_back: bool) -> None:
        with self._lock:
            waiting = [event for each in task_ids for event in self._waiting.get(each, ())]
            if self._size is not None:
                self._set_size(self._size - size)
        for event in waiting:
            event.set()
        if calls_back:
            self._callbacks.wake()

    def _clean(self) -> None:
        while not self._closing.wait(_CLEAN_SECONDS):
            try:
                self._measure()
                before = time.time() - self._retention
                while self._store.remove(before, _MAX_REMOVED) == _MAX_REMOVED:
                    pass
            except KafkaHttpError as error:
                log.debug("Old tasks could not be removed: %s", error.message)
