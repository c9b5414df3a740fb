"""An event loop: one thread that waits for sockets and calls what belongs to them.

A worker's main loop is one. `LoopThread` is one for processes without such a loop: the node's daemon, other WSGI
servers.
"""

import logging
import os
import selectors
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol

log = logging.getLogger(__name__)


class EventLoop(Protocol):
    """A loop of one thread. Only its own thread may call the methods, apart from `call_soon`."""

    def register(self, sock: Any, events: int, callback: Callable[[Any], None]) -> None:
        """Call `callback(sock)` when one of the `events` (`selectors.EVENT_READ`, `EVENT_WRITE`) occurs."""

    def modify(self, sock: Any, events: int, callback: Callable[[Any], None]) -> None:
        """Replace the events and the callback of a registered socket."""

    def unregister(self, sock: Any) -> None:
        """Forget a socket. Call this before it is closed."""

    def call_soon(self, call: Callable[..., None], *args: Any) -> None:
        """Let the loop make this call in its next round. Any thread may call this."""


class LoopDriven(Protocol):
    """Something that an event loop drives: a producer."""

    @property
    def next_deadline(self) -> float:
        """When `end_round` must be called again at the latest, on the monotonic clock. Infinity if nothing waits."""

    def end_round(self) -> None:
        """Called after each round of events."""


class LoopThread:
    """An `EventLoop` in a thread of its own, which drives one object.

    The constructor starts the thread, so create it after a fork. `stop` ends it. Later calls of `call_soon` run at
    once, in the thread that makes them.
    """

    def __init__(self, driven: LoopDriven, name: str) -> None:
        self._driven = driven
        self._selector = selectors.DefaultSelector()
        self._calls: deque[tuple[Callable[..., None], tuple[Any, ...]]] = deque()
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)
        self._is_woken = False
        self._is_stopped = False
        self._has_ended = False
        self._wake_lock = threading.Lock()
        """Nobody may write to the pipe after it is closed: its number may be another file's."""
        self.register(self._wake_read, selectors.EVENT_READ, self._clear_wake)
        self.thread = threading.Thread(target=self._run, name=name, daemon=True)
        self.thread.start()

    def register(self, sock: Any, events: int, callback: Callable[[Any], None]) -> None:
        self._selector.register(sock, events, callback)

    def modify(self, sock: Any, events: int, callback: Callable[[Any], None]) -> None:
        self._selector.modify(sock, events, callback)

    def unregister(self, sock: Any) -> None:
        self._selector.unregister(sock)

    def call_soon(self, call: Callable[..., None], *args: Any) -> None:
        self._calls.append((call, args))
        if not self._is_woken:
            self._is_woken = True
            self._wake()

    def _wake(self) -> None:
        with self._wake_lock:
            if not self._has_ended:
                with suppress(BlockingIOError):  # full: it is awake
                    os.write(self._wake_write, b"\0")
                return
        self._run_calls()

    def stop(self, timeout: float) -> None:
        """End the thread, and wait for it up to `timeout` seconds."""
        self._is_stopped = True
        self.call_soon(lambda: None)
        self.thread.join(timeout)

    def _clear_wake(self, _: Any) -> None:
        with suppress(BlockingIOError):
            os.read(self._wake_read, 4096)

    def _run(self) -> None:
        while not self._is_stopped:
            wait = self._driven.next_deadline - time.monotonic()
            for key, _ in self._selector.select(min(max(wait, 0.0), 60.0)):
                guarded(key.data, key.fileobj)
            self._run_calls()
            guarded(self._driven.end_round)
        self._run_calls()  # those before `stop` may still use sockets
        self._selector.close()
        with self._wake_lock:
            self._has_ended = True
            os.close(self._wake_read)
            os.close(self._wake_write)
        self._run_calls()

    def _run_calls(self) -> None:
        self._is_woken = False  # before the calls are taken: later ones wake it again
        with suppress(IndexError):  # after the end, another thread may take the last one
            for _ in range(len(self._calls)):
                call, args = self._calls.popleft()
                guarded(call, *args)


def guarded(call: Callable[..., None], *args: Any) -> None:
    """Make a call. An unexpected error is logged, because it must not end the loop, which has other work."""
    try:
        call(*args)
    except Exception:
        log.exception("A call of the loop failed.")
