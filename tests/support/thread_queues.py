"""Queues of this process for the fast path, which in a server are those of the node's daemon."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from kafka_http.consumers.queue_service import QueueName, QueuePage, QueueService, Settlement
from kafka_http.errors import KafkaHttpError, Unavailable
from kafka_http.pending import DoneCallbacks


class ThreadCall(DoneCallbacks):
    """The `PendingCall` of a call that a thread makes."""

    def __init__(self, queues: QueueService, call: Callable[[], Any]) -> None:
        super().__init__()
        self._queues = queues
        self._call = call
        self._value: Any = Unavailable("no result yet")
        self._is_abandoned = False

    def run(self) -> None:
        try:
            self._value = self._call()
        except KafkaHttpError as error:
            self._value = error
        if self._is_abandoned and isinstance(self._value, QueuePage):
            self._queues.release_page(self._value.id)
        self.complete()

    def result(self, timeout: float | None = None) -> Any:
        if isinstance(self._value, KafkaHttpError):
            raise self._value
        return self._value

    def abandon(self) -> None:
        self._is_abandoned = True


class ThreadQueues:
    """A `LoopQueues` whose calls are made by threads."""

    def __init__(self, queues: QueueService) -> None:
        self._queues = queues
        self._threads = ThreadPoolExecutor(8)

    def close(self) -> None:
        self._threads.shutdown(wait=False)

    def start_acquire(self, queue: QueueName, limit: int, wait: float, lock: float, dead: str = "") -> ThreadCall:
        return self._start(lambda: self._queues.acquire_messages(queue, limit, wait, lock, dead))

    def start_settle(
        self, queue: QueueName, leases: Sequence[str], settlement: Settlement, lock: float = 0
    ) -> ThreadCall:
        return self._start(lambda: self._queues.settle_messages(queue, leases, settlement, lock))

    def _start(self, call: Callable[[], Any]) -> ThreadCall:
        started = ThreadCall(self._queues, call)
        self._threads.submit(started.run)
        return started
