"""The outbox of a node: what it has accepted and not yet published."""

import logging
import threading
import time
from collections.abc import Collection, Sequence
from typing import Protocol

from kafka_http.broker_protocols import Producer
from kafka_http.errors import KafkaHttpError, TaskFinished, TaskInProgress
from kafka_http.publish.outbox_relay import OutboxRelay
from kafka_http.publish.task_store import TaskStore
from kafka_http.tasks import NewTask, QueuedTask, Status, Task

log = logging.getLogger(__name__)

_LOOK_EVERY = 0.5
"""Seconds between two looks at a task that another node may end."""
_CLEAN_EVERY = 30.0
_MOST_REMOVED = 1000


class Callbacks(Protocol):
    """Tells those who asked for it how their tasks ended."""

    def start(self) -> None: ...

    def wake(self) -> None:
        """Tasks have ended. Does not block."""

    def stop(self, timeout: float) -> None: ...


class Outbox:
    """The `Tasks` of this node. Its relay publishes them, once it was started."""

    def __init__(
        self, store: TaskStore, producer: Producer, callbacks: Callbacks, *, max_bytes: int, retention: float
    ) -> None:
        """`max_bytes` of pending tasks are kept, and ended ones for `retention` seconds."""
        self._store = store
        self._callbacks = callbacks
        self._max_bytes = max_bytes
        self._retention = retention
        self._size: int | None = None
        self._lock = threading.Lock()
        self._awaited: dict[str, list[threading.Event]] = {}
        self._closing = threading.Event()
        self.relay = OutboxRelay(store, producer, self._published)
        """To be started once it is known that Kafka is the right one."""

    def start(self) -> None:
        """Make callbacks, and forget what ended long ago. Does not block."""
        self._callbacks.start()
        threading.Thread(target=self._clean, name="outbox-cleaning", daemon=True).start()

    def close(self, timeout: float) -> None:
        """Begin nothing more, and wait for what is with Kafka, for `timeout` seconds at most."""
        self._closing.set()
        self.relay.stop(timeout)
        self._callbacks.stop(timeout)

    def accept_tasks(self, tasks: Sequence[NewTask]) -> int:
        fitting = tasks[: self._reserve([len(each.records) for each in tasks])]
        if fitting:
            try:
                self._store.add(fitting)
            except KafkaHttpError:
                self._size = None
                raise
            self.relay.wake({each.topic for each in fitting})
        return len(fitting)

    def find_task(self, task_id: str, wait: float = 0) -> Task | None:
        if wait <= 0:
            return self._store.find(task_id)
        has_ended = threading.Event()
        with self._lock:
            self._awaited.setdefault(task_id, []).append(has_ended)
        try:
            return self._wait(task_id, has_ended, time.monotonic() + wait)
        finally:
            with self._lock:
                self._awaited[task_id].remove(has_ended)
                if not self._awaited[task_id]:
                    del self._awaited[task_id]

    def list_tasks(self, status: Status | None, topic: str | None, limit: int, after: str | None) -> list[Task]:
        return self._store.listed(status, topic, limit, after)

    def cancel_task(self, task_id: str) -> Task | None:
        with self.relay.untouched(task_id) as is_untouched:
            cancelled = is_untouched and self._store.cancel(task_id)
        task = self._store.find(task_id)
        if task is None:
            return None
        if not cancelled:
            raise TaskInProgress() if task.status == "pending" else TaskFinished(task.status)
        self._size = None
        self._ended([task_id], 0, calls_back=task.callback is not None)
        return task

    def _wait(self, task_id: str, has_ended: threading.Event, until: float) -> Task | None:
        while True:
            task = self._store.find(task_id)
            left = until - time.monotonic()
            if task is None or task.status != "pending" or left <= 0:
                return task
            has_ended.wait(min(left, _LOOK_EVERY))

    def _reserve(self, sizes: Sequence[int]) -> int:
        """Count so many bytes each; for how many of them, from the first on, there is room."""
        if self._size is None:
            self._count()
        with self._lock:
            for index, size in enumerate(sizes):
                if (self._size or 0) + size > self._max_bytes:
                    return index
                self._size = (self._size or 0) + size
        return len(sizes)

    def _count(self) -> None:
        size = self._store.pending_size()
        with self._lock:
            self._size = size

    def _published(self, over: Sequence[QueuedTask]) -> None:
        size, calls_back = sum(each.size for each in over), any(each.calls_back for each in over)
        self._ended([each.id for each in over], size, calls_back=calls_back)

    def _ended(self, task_ids: Collection[str], size: int, *, calls_back: bool) -> None:
        with self._lock:
            awaited = [event for each in task_ids for event in self._awaited.get(each, ())]
            if self._size is not None:
                self._size -= size
        for event in awaited:
            event.set()
        if calls_back:
            self._callbacks.wake()

    def _clean(self) -> None:
        while not self._closing.wait(_CLEAN_EVERY):
            try:
                self._count()
                before = time.time() - self._retention
                while self._store.remove(before, _MOST_REMOVED) == _MOST_REMOVED:
                    pass
            except KafkaHttpError as error:
                log.debug("Ended tasks are not removed: %s", error.message)
