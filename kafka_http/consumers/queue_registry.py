"""The queues of a process."""

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from math import inf
from threading import Event, Lock, Thread

from kafka_http.broker_protocols import Broker
from kafka_http.consumers.acquire_calls import AcquireCall
from kafka_http.consumers.message_leases import failed_result
from kafka_http.consumers.message_queue import MessageQueue, QueueClosed
from kafka_http.consumers.queue_service import (
    LeaseResult,
    LockLimits,
    PendingCall,
    QueueName,
    QueuePage,
    QueuePartition,
    QueueState,
    Settlement,
)
from kafka_http.errors import GroupNotFound, LeaseLost, QueueInUse, Unavailable, WouldBlock
from kafka_http.loading_cache import LoadingCache
from kafka_http.metrics import QUEUE_LEASES
from kafka_http.records import EARLIEST, LATEST
from kafka_http.request_facts import waiting_for_kafka
from kafka_http.share_groups import ShareProgress

log = logging.getLogger(__name__)

IDLE_SECONDS = 600.0
_TICK = 0.1
_MIN_TICK = 0.001
_LEAVE_SECONDS = 5.0
_CLOSING_THREADS = 16
_PAGES_SECONDS = 60.0

_UNREAD = ShareProgress(-1, -1)


class QueueRegistry:
    """The `QueueService` of the process that holds the queues: the daemon, or the server if `daemon = inline`.

    It knows the leases of this node alone. The first call starts its thread, and `close` ends it. Any thread may call.
    """

    def __init__(
        self,
        broker: Broker,
        *,
        attempts: int,
        node: str = "0",
        idle_timeout: float = IDLE_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`attempts` are the deliveries of a message of a new queue; `node` is the part of a lease that names the node.

        A queue without leases and waiting calls leaves its group after `idle_timeout` seconds. `clock` returns seconds.
        """
        self._broker = broker
        self._attempts = attempts
        self._node = node
        self._idle_timeout = idle_timeout
        self._clock = clock
        self._lock = Lock()
        self._queues: dict[QueueName, MessageQueue] = {}
        # Keeps nothing: it lets one call open a queue, whose result or error is that of all who wait for it
        self._opening: LoadingCache[QueueName, MessageQueue] = LoadingCache(0, lambda _: 1)
        self._pages: dict[str, tuple[MessageQueue, list[str]]] = {}
        self._thread: Thread | None = None
        self._closing = Event()

    @property
    def leases(self) -> int:
        """The number of messages that clients hold."""
        return sum(each.leases for each in list(self._queues.values()))

    def close(self, timeout: float = _LEAVE_SECONDS) -> None:
        """Release all messages and leave all groups, within about `timeout` seconds."""
        self._closing.set()
        with self._lock:
            queues, self._queues = list(self._queues.values()), {}
        _close_all(queues, timeout)
        QUEUE_LEASES.set(0)

    # QueueService

    def acquire_messages(self, queue: QueueName, limit: int, wait: float, lock: float, dead: str = "") -> QueuePage:
        with waiting_for_kafka():
            while True:
                found = self._open(queue)
                try:
                    page = found.acquire(limit, wait, lock, dead)
                except QueueClosed:
                    continue
                self._note_page(found, page)
                return page

    def _note_page(self, queue: MessageQueue, page: QueuePage) -> None:
        if page.messages:
            self._pages[page.id] = queue, [each.lease for each in page.messages]

    def confirm_pages(self, pages: Sequence[str]) -> None:
        for each in pages:
            if (found := self._pages.pop(each, None)) is not None:
                queue, leases = found
                queue.page_sent(leases)

    def release_page(self, page: str) -> None:
        if (found := self._pages.pop(page, None)) is not None:
            queue, leases = found
            queue.return_page(leases)

    def settle_messages(
        self, queue: QueueName, leases: Sequence[str], settlement: Settlement, lock: float = 0
    ) -> list[LeaseResult]:
        if (found := self._queues.get(queue)) is None:
            return [failed_result(each, LeaseLost()) for each in leases]
        with waiting_for_kafka():
            return found.settle(leases, settlement, lock)

    # LoopQueues, for any thread

    def start_acquire(self, queue: QueueName, limit: int, wait: float, lock: float, dead: str = "") -> PendingCall:
        """Raises `WouldBlock` if the queue must be opened first."""
        try:
            found = self._queues[queue]
            return _PendingPage(found.start_acquire(limit, wait, lock, dead), partial(self._note_page, found))
        except (KeyError, QueueClosed):
            raise WouldBlock from None

    def start_settle(
        self, queue: QueueName, leases: Sequence[str], settlement: Settlement, lock: float = 0
    ) -> PendingCall:
        """Raises `WouldBlock` if there is no such queue."""
        if (found := self._queues.get(queue)) is None:
            raise WouldBlock
        return found.start_settle(leases, settlement, lock)

    def queue_state(self, queue: QueueName) -> QueueState:
        groups, found = self._broker.share_groups, self._queues.get(queue)
        progress = groups.progress(queue.consumer, queue.topic)
        if not progress and found is None:
            raise GroupNotFound(queue.consumer)
        attempts = groups.settings(queue.consumer).attempts - 1
        partitions = self._partitions(queue.topic, progress)
        held = [] if found is None else found.held()
        return QueueState(queue.topic, queue.consumer, attempts, LockLimits(), partitions, held)

    def leave_queue(self, queue: QueueName) -> None:
        """Leave the group, also with the queues of other topics, because Kafka deletes only what has no members."""
        with self._lock:
            queues = {name: each for name, each in self._queues.items() if name.consumer == queue.consumer}
            for name, each in queues.items():
                if each.is_in_use or (name != queue and each.has_callers):
                    raise QueueInUse(_in_use(name), topic=name.topic, consumer=name.consumer)
            for name in queues:
                del self._queues[name]
        _close_all(queues.values(), _LEAVE_SECONDS)

    def delete_queue(self, queue: QueueName) -> None:
        self.leave_queue(queue)
        self._broker.share_groups.delete_offsets(queue.consumer, queue.topic)

    def _partitions(self, topic: str, progress: Mapping[int, ShareProgress]) -> list[QueuePartition]:
        log = self._broker.log
        numbers = [each.partition for each in log.partitions(topic)]
        ends = log.offsets(topic, dict.fromkeys(numbers, LATEST))
        known = {each: progress.get(each, _UNREAD) for each in numbers}
        uncounted = [each for each in numbers if known[each].lag < 0]
        first = log.offsets(topic, dict.fromkeys(uncounted, EARLIEST)) if uncounted else {}
        return [
            QueuePartition(
                each, at.start, ends[each], at.lag if at.lag >= 0 else ends[each] - max(first[each], at.start)
            )
            for each, at in known.items()
        ]

    # Queues

    def _open(self, queue: QueueName) -> MessageQueue:
        """Return a queue that has joined its group."""
        return self._queues.get(queue) or self._opening.get(queue, lambda: self._new_queue(queue))

    def _new_queue(self, queue: QueueName) -> MessageQueue:
        if (found := self._queues.get(queue)) is not None:
            return found
        self._broker.log.topic_id(queue.topic)  # the topic must exist before a group is made for it
        settings = self._broker.share_groups.prepare(queue.consumer, self._attempts + 1)
        with self._lock:
            if self._closing.is_set():
                raise Unavailable("The server that holds the queues is shutting down. Retry.")
            self._start()
            opened = self._queues[queue] = MessageQueue(queue, self._broker, settings, self._node, self._clock)
        log.info("Queue %s of %s opened.", queue.consumer, queue.topic)
        return opened

    # Maintenance

    def _start(self) -> None:
        if self._thread is None:
            self._thread = Thread(target=self._run, name="queues", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        cleaned = time.monotonic()
        while not self._closing.wait(self._pause):
            try:
                self.check_due()
                if time.monotonic() - cleaned >= _PAGES_SECONDS:
                    cleaned = time.monotonic()
                    self._forget_pages()
            except Exception:
                log.exception("Maintenance of the queues failed; retrying")

    @property
    def _pause(self) -> float:
        """The time until something is due. What comes up meanwhile is late by `_TICK` at most."""
        ends = [each.next_call_end for each in list(self._queues.values())]
        return max(_MIN_TICK, min(_TICK, min(ends, default=inf) - self._clock()))

    def check_due(self) -> None:
        """Release, renew and retry what is due, and close idle queues. Its thread calls this; a test may call it."""
        queues = list(self._queues.values())
        for each in queues:
            each.check_due()
        self._close_idle([each for each in queues if each.retire(self._idle_timeout)])
        QUEUE_LEASES.set(self.leases)

    def _close_idle(self, queues: Sequence[MessageQueue]) -> None:
        for each in queues:
            with self._lock:
                if self._queues.get(each.name) is each:
                    del self._queues[each.name]
            log.info("Queue %s of %s closed, because it is idle.", each.name.consumer, each.name.topic)
        if queues:  # in a thread of its own: others' locks must not wait for a broker that does not answer
            Thread(target=_close_all, args=(queues, _LEAVE_SECONDS), name="close-queues", daemon=True).start()

    def _forget_pages(self) -> None:
        """Forget the pages that nobody has confirmed and of which nothing is held any more."""
        for page, (queue, leases) in list(self._pages.items()):
            if not queue.holds_any(leases):
                self._pages.pop(page, None)


class _PendingPage:
    """An `AcquireCall` whose page the registry notes."""

    def __init__(self, call: AcquireCall, note: Callable[[QueuePage], None]) -> None:
        self._call = call
        self._note = note
        self.add_done_callback = call.add_done_callback
        self.abandon = call.abandon

    def result(self, timeout: float | None = None) -> QueuePage:
        page = self._call.result(timeout)
        self._note(page)
        return page


def _close_all(queues: Iterable[MessageQueue], timeout: float) -> None:
    """Close queues, several at a time, because each waits for its broker. `timeout` is the time for all of them."""
    deadline = time.monotonic() + timeout
    if queues := list(queues):
        with ThreadPoolExecutor(min(len(queues), _CLOSING_THREADS), "close-queue") as threads:
            list(threads.map(lambda each: each.close(max(0.0, deadline - time.monotonic())), queues))


def _in_use(queue: QueueName) -> str:
    return (
        f"Clients hold messages of the queue {queue.consumer} of {queue.topic}, or wait for some. Nothing was "
        "deleted. The state of the queue has their leases in held. Acknowledge, reject or give back these messages, "
        "stop the clients, and try again."
    )
