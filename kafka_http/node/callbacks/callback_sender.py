"""Makes the callbacks that are due, until each one is delivered or given up."""

import logging
import random
import threading
import time
from collections.abc import Callable, Collection
from functools import partial
from typing import Protocol, Self
from urllib.parse import urlsplit

from kafka_http.backoff import Backoff
from kafka_http.config import Config
from kafka_http.metrics import CALLBACKS
from kafka_http.node.callbacks.callback_delivery import CallbackDelivery, CallbackResult
from kafka_http.node.callbacks.per_host_limiter import PerHostLimiter
from kafka_http.tasks import DueCallback

log = logging.getLogger(__name__)

_MIN_DELAY, _MAX_DELAY = 1.0, 300.0
_BATCH = 32
"""Callbacks per query: more than there are slots, so that a host with many callbacks does not hide the others."""

_IDLE_SECONDS = 30.0
_BUSY_SECONDS = 1.0
_MIN_SECONDS = 0.02
"""Time to the next query of the store: at most `_IDLE_SECONDS`, and at least one of the others. While callbacks are in
progress, the store reports them as due. Their end wakes the sender, so the longer minimum is enough."""


class CallbackStore(Protocol):
    """What the sender needs of the state store. Any thread may call.

    A call that raises is tried again until it succeeds. A task that does not exist any more is no error. `attempts`
    includes the attempt that is reported. `reason` is a sentence for users, without credentials. A callback whose
    result was not reported before the process ended stays due.
    """

    def due(self, limit: int, busy: Collection[str]) -> list[DueCallback]:
        """Return the callbacks that are due, longest due first, without the tasks `busy` (up to some thousands)."""
        ...

    def next_due(self) -> float | None:
        """Return the seconds until a callback is due, 0 or less if one is; None if there are no callbacks left."""
        ...

    def claim(self, task_id: str) -> bool:
        """Reserve a callback for this process. Returns whether it is still due; no other process makes it then."""
        ...

    def delivered(self, task_id: str, attempts: int) -> None: ...

    def retry(self, task_id: str, attempts: int, delay_seconds: float, reason: str) -> None: ...

    def failed(self, task_id: str, attempts: int, reason: str) -> None:
        """Record that the callback is given up."""
        ...


class CallbackSender:
    """One thread queries the store for due callbacks, and a thread for each callback sends it.

    The outbox of the node creates, starts and stops it. All methods are safe for threads.
    """

    def __init__(
        self,
        store: CallbackStore,
        post: Callable[[DueCallback], CallbackResult],
        *,
        workers: int,
        retry_for: float,
        clock: Callable[[], float] = time.time,
        jitter: Callable[[], float] = random.random,
        store_backoff: Callable[[], Backoff] = lambda: Backoff(0.5, 10.0),
    ) -> None:
        """`post` makes one attempt and raises nothing. At most `workers` callbacks run at a time, half of them a host.

        A callback is given up `retry_for` seconds after the end of its task. `clock` returns the seconds since 1970,
        `jitter` a number from 0 to 1, `store_backoff` the delays between attempts at a store that raises.
        """
        self._store = store
        self._post = post
        self._limiter = PerHostLimiter(workers)
        self._retry_for = retry_for
        self._clock = clock
        self._jitter = jitter
        self._store_backoff = store_backoff
        self._store_errors = _StoreErrors()
        self._changed = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="callbacks", daemon=True)

    @classmethod
    def from_config(cls, config: Config, store: CallbackStore) -> Self:
        post = CallbackDelivery.from_config(config).post
        return cls(store, post, workers=config.callback_workers, retry_for=config.callback_retry_for)

    def start(self) -> None:
        """Start the thread. Call once, after any fork."""
        self._thread.start()

    def wake(self) -> None:
        """Query the store now, because callbacks may be due. Does not block."""
        self._changed.set()

    def stop(self, timeout: float) -> None:
        """Start no more callbacks, and wait up to `timeout` seconds for those in progress. The others stay due."""
        deadline = time.monotonic() + timeout
        self._stopping.set()
        self._changed.set()
        if self._thread.ident is not None:
            self._thread.join(timeout)
        self._limiter.wait_until_idle(deadline - time.monotonic())

    def _run(self) -> None:
        backoff = self._store_backoff()
        while not self._stopping.is_set():
            self._changed.clear()
            try:
                self._start_due()
                pause = self._seconds_to_next()
            except Exception as error:
                self._store_errors.add("", error)
                self._stopping.wait(backoff.next())
            else:
                self._store_errors.remove("")
                backoff.reset()
                self._changed.wait(pause)

    def _start_due(self) -> None:
        while self._limiter.free_slots() and not self._stopping.is_set():
            unblocked = self._limiter.unblock()
            due = self._store.due(_BATCH, self._limiter.busy())
            for callback in due:
                if self._limiter.try_acquire(callback.task_id, _host_of(callback.url)):
                    self._start(callback)
            if len(due) < _BATCH and not unblocked:
                return

    def _start(self, callback: DueCallback) -> None:
        try:
            threading.Thread(target=self._run_callback, args=(callback,), name="callback", daemon=True).start()
        except RuntimeError:
            self._limiter.release(callback.task_id)
            raise

    def _seconds_to_next(self) -> float:
        seconds = self._store.next_due()
        least = _BUSY_SECONDS if self._limiter.busy() else _MIN_SECONDS
        return _IDLE_SECONDS if seconds is None else min(max(seconds, least), _IDLE_SECONDS)

    def _run_callback(self, callback: DueCallback) -> None:
        try:
            if self._store.claim(callback.task_id):
                self._report(callback, self._attempt(callback))
        except Exception as error:
            self._store_errors.add("", error)
        finally:
            self._limiter.release(callback.task_id)
            self._changed.set()

    def _attempt(self, callback: DueCallback) -> CallbackResult:
        try:
            result = self._post(callback)
        except Exception:
            log.exception("Unexpected error in the callback of task %s", callback.task_id)
            result = CallbackResult("failed", "An unexpected error occurred; see the server's log.")
        CALLBACKS.add(1, result.status)
        return result

    def _report(self, callback: DueCallback, result: CallbackResult) -> None:
        """Retry until the store has taken it, so that a callback that was delivered is not sent again."""
        report = self._report_of(callback, result)
        backoff = self._store_backoff()
        while True:
            try:
                report()
                self._store_errors.remove(callback.task_id)
                return
            except Exception as error:
                self._store_errors.add(callback.task_id, error)
            if self._stopping.wait(backoff.next()):
                return

    def _report_of(self, callback: DueCallback, result: CallbackResult) -> Callable[[], None]:
        task_id, attempts, reason = callback.task_id, callback.attempts + 1, result.reason
        remaining = callback.since + self._retry_for - self._clock()
        if result.status == "delivered":
            return partial(self._store.delivered, task_id, attempts)
        if result.status == "failed" and remaining > 0:
            return partial(self._store.retry, task_id, attempts, min(self._delay(attempts), remaining), reason)
        log.info("Gave up the callback of task %s after attempt %d: %s", task_id, attempts, reason)
        return partial(self._store.failed, task_id, attempts, reason)

    def _delay(self, attempts: int) -> float:
        """Exponential with full jitter, so that callbacks that failed together are not repeated together."""
        longest = min(_MAX_DELAY, _MIN_DELAY * 2.0 ** min(attempts, 30))
        return _MIN_DELAY + self._jitter() * (longest - _MIN_DELAY)


class _StoreErrors:
    """Logs once when the store starts to fail, and once when every caller that it failed has succeeded."""

    def __init__(self) -> None:
        self._failing: set[str] = set()
        self._lock = threading.Lock()

    def add(self, caller: str, error: Exception) -> None:
        with self._lock:
            if not self._failing:
                log.error("State store failed, callbacks wait for it: %s: %s", type(error).__name__, error)
            self._failing.add(caller)

    def remove(self, caller: str) -> None:
        with self._lock:
            if caller in self._failing:
                self._failing.remove(caller)
                if not self._failing:
                    log.info("State store works again; callbacks continue.")


def _host_of(url: str) -> str:
    """Host and port, which share slots."""
    return urlsplit(url).netloc.lower()
