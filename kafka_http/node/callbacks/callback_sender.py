"""Makes the callbacks that are due, until each has arrived or is given up."""

import logging
import random
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain, repeat
from typing import Self
from urllib.parse import urlsplit

from kafka_http.config import Config
from kafka_http.node.callbacks.callback_delivery import CallbackDelivery, CallbackResult
from kafka_http.node.callbacks.callback_store import CallbackStore
from kafka_http.node.callbacks.per_host_limiter import PerHostLimiter
from kafka_http.tasks import DueCallback

log = logging.getLogger(__name__)

_FIRST_DELAY, _LONGEST_DELAY = 1.0, 300.0
_BATCH = 32
"""So many are asked for at once: more than there are places, to see past a host that has many."""

_IDLE_SECONDS = 30.0
_BUSY_SECONDS = 1.0
_SHORTEST_SECONDS = 0.02
"""How long it waits at most for the next that is due; and at least, while some are busy, which the store takes for due
and which wake it when they end, and while none are."""


class CallbackSender:
    """One thread that asks for what is due, and one for each callback under way. Safe in many threads."""

    def __init__(
        self,
        store: CallbackStore,
        post: Callable[[DueCallback], CallbackResult],
        *,
        workers: int,
        retry_for: float,
        clock: Callable[[], float] = time.time,
        jitter: Callable[[], float] = random.random,
        store_pauses: tuple[float, ...] = (0.5, 1.0, 2.0, 5.0, 10.0),
    ) -> None:
        """`post` makes one attempt and raises nothing. `workers` callbacks are under way at most, half to one host.

        `clock` gives the seconds since 1970, `jitter` a number from 0 to 1; `store_pauses` are the seconds before each
        next attempt at a store that raises, the last of them from then on.
        """
        self._store = store
        self._post = post
        self._turns = PerHostLimiter(workers)
        self._retry_for = retry_for
        self._clock = clock
        self._jitter = jitter
        self._store_pauses = store_pauses
        self._trouble = _Trouble()
        self._changed = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="callbacks", daemon=True)

    @classmethod
    def of(cls, config: Config, store: CallbackStore) -> Self:
        post = CallbackDelivery.of(config).post
        return cls(store, post, workers=config.callback_workers, retry_for=config.callback_retry_for)

    def start(self) -> None:
        """Begin. Once only, and after any fork."""
        self._thread.start()

    def wake(self) -> None:
        """New ones may be due. Does not block."""
        self._changed.set()

    def stop(self, timeout: float) -> None:
        """Begin no more, and wait so many seconds for those under way; what is not reported by then stays due."""
        deadline = time.monotonic() + timeout
        self._stopping.set()
        self._changed.set()
        if self._thread.ident is not None:
            self._thread.join(timeout)
        self._turns.wait_until_none_is_under_way(deadline - time.monotonic())

    def _run(self) -> None:
        pauses = self._pauses()
        while not self._stopping.is_set():
            self._changed.clear()
            try:
                self._begin_due()
                pause = self._until_next()
            except Exception as error:
                self._trouble.say("", error)
                self._stopping.wait(next(pauses))
            else:
                self._trouble.is_over("")
                pauses = self._pauses()
                self._changed.wait(pause)

    def _begin_due(self) -> None:
        while self._turns.free() and not self._stopping.is_set():
            let_in = self._turns.let_in()
            found = self._store.due(_BATCH, self._turns.busy())
            for callback in found:
                if self._turns.take(callback.task_id, _host_of(callback.url)):
                    self._begin(callback)
            if len(found) < _BATCH and not let_in:
                return

    def _begin(self, callback: DueCallback) -> None:
        try:
            threading.Thread(target=self._make, args=(callback,), name="callback", daemon=True).start()
        except RuntimeError:
            self._turns.leave(callback.task_id)
            raise

    def _until_next(self) -> float:
        seconds = self._store.next_due()
        shortest = _BUSY_SECONDS if self._turns.busy() else _SHORTEST_SECONDS
        return _IDLE_SECONDS if seconds is None else min(max(seconds, shortest), _IDLE_SECONDS)

    def _make(self, callback: DueCallback) -> None:
        try:
            if self._store.claim(callback.task_id):
                self._report(callback, self._attempt(callback))
        except Exception as error:
            self._trouble.say("", error)
        finally:
            self._turns.leave(callback.task_id)
            self._changed.set()

    def _attempt(self, callback: DueCallback) -> CallbackResult:
        try:
            return self._post(callback)
        except Exception:
            log.exception("unforeseen error: the callback of the task %s", callback.task_id)
            return CallbackResult("failed", "Unforeseen error; the server's log says more.")

    def _report(self, callback: DueCallback, outcome: CallbackResult) -> None:
        """Until the store has taken it: what has arrived is not sent again for the store's sake."""
        tell = self._report_of(callback, outcome)
        for pause in self._pauses():
            try:
                tell()
                self._trouble.is_over(callback.task_id)
                return
            except Exception as error:
                self._trouble.say(callback.task_id, error)
            if self._stopping.wait(pause):
                return

    def _report_of(self, callback: DueCallback, outcome: CallbackResult) -> Callable[[], None]:
        task_id, attempts, reason = callback.task_id, callback.attempts + 1, outcome.reason
        left = callback.since + self._retry_for - self._clock()
        if outcome.status == "delivered":
            return partial(self._store.delivered, task_id, attempts)
        if outcome.status == "failed" and left > 0:
            return partial(self._store.retry, task_id, attempts, min(self._delay(attempts), left), reason)
        log.info("The callback of the task %s is given up at attempt %d: %s", task_id, attempts, reason)
        return partial(self._store.failed, task_id, attempts, reason)

    def _delay(self, attempts: int) -> float:
        """Exponential, and any time up to that, so that what failed together does not come again together."""
        longest = min(_LONGEST_DELAY, _FIRST_DELAY * 2.0 ** min(attempts, 30))
        return _FIRST_DELAY + self._jitter() * (longest - _FIRST_DELAY)

    def _pauses(self) -> Iterator[float]:
        return chain(self._store_pauses, repeat(self._store_pauses[-1]))


class _Trouble:
    """Says once that the store cannot be used, and once that it can: when all have had what they asked of it."""

    def __init__(self) -> None:
        self._of: set[str] = set()
        self._lock = threading.Lock()

    def say(self, who: str, error: Exception) -> None:
        with self._lock:
            if not self._of:
                log.error("Callbacks wait for the store: %s: %s", type(error).__name__, error)
            self._of.add(who)

    def is_over(self, who: str) -> None:
        with self._lock:
            if who in self._of:
                self._of.remove(who)
                if not self._of:
                    log.info("Callbacks go on: the store can be used again")


def _host_of(url: str) -> str:
    """What has a share of its own."""
    return urlsplit(url).netloc.lower()
