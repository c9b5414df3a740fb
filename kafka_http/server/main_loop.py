"""The event loop of a worker's main thread."""

import math
import os
import select
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from kafka_http.event_loop import guarded

MAX_EVENTS = 128
"""Events of one round. A smaller number makes the first clients of a round wait less for the last ones."""
_MASKS = (0, select.POLLIN, select.POLLOUT, select.POLLIN | select.POLLOUT)
"""By `selectors.EVENT_READ | EVENT_WRITE`. The values of epoll are the same."""


class MainLoop:
    """The `EventLoop` of a worker, in the place of gunicorn's poller and method queue.

    The worker creates it after the fork and calls `run_round` again and again until the process ends. gunicorn's method
    queue writes a byte to a pipe for each call from a thread. This loop writes one only while it waits.
    """

    def __init__(self) -> None:
        self._poller, self._poll = _new_poller()
        self._callbacks: dict[int, tuple[Callable[[Any], None], Any]] = {}
        self._calls: deque[tuple[Callable[..., None], tuple[Any, ...]]] = deque()
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)
        self._is_awake = True
        """False from just before the loop waits until the first call that wakes it."""

    def register(self, sock: Any, events: int, callback: Callable[[Any], None]) -> None:
        """Call `callback(sock)` when one of the `events` occurs, and on errors.

        `sock` is a file descriptor or has `fileno()`. A callback may be called once too often: a socket that is closed
        and another one that is opened in the same round can have the same descriptor.
        """
        fd = _fd_of(sock)
        self._poller.register(fd, _MASKS[events])
        self._callbacks[fd] = callback, sock

    def modify(self, sock: Any, events: int, callback: Callable[[Any], None]) -> None:
        """Replace the events and the callback of a registered socket."""
        fd = _fd_of(sock)
        self._poller.modify(fd, _MASKS[events])
        self._callbacks[fd] = callback, sock

    def unregister(self, sock: Any) -> None:
        """Forget a socket. Call this before it is closed. Raises `KeyError` if it is not registered."""
        fd = _fd_of(sock)
        del self._callbacks[fd]
        self._poller.unregister(fd)

    def call_soon(self, call: Callable[..., None], *args: Any) -> None:
        """Let the loop make this call in its next round, or at the end of this one. Any thread may call this."""
        self._calls.append((call, args))
        if not self._is_awake:
            self._is_awake = True
            with suppress(BlockingIOError):  # the pipe is full
                os.write(self._wake_write, b"\0")

    def run_round(self, timeout: float, end_round: Callable[[], None]) -> None:
        """Wait up to `timeout` seconds for events; call what belongs to them, `end_round`, and the deferred calls.

        `end_round` is called once more after the deferred calls. What a deferred call defers belongs to the next round.
        """
        self._is_awake = False  # set before `_calls` is checked, so that later calls wake the loop
        events = self._poll(0.0 if self._calls else timeout, MAX_EVENTS)
        self._is_awake = True
        callbacks = self._callbacks
        for fd, _ in events:
            if (registered := callbacks.get(fd)) is not None:  # otherwise a callback of this round has unregistered it
                guarded(registered[0], registered[1])
        guarded(end_round)
        if self._calls:
            self._run_calls()
            guarded(end_round)

    def _run_calls(self) -> None:
        for _ in range(len(self._calls)):
            call, args = self._calls.popleft()
            guarded(call, *args)

    # As gunicorn's method queue and poller

    defer = call_soon

    def fileno(self) -> int:
        """Return the descriptor that becomes readable when a call wakes the loop. gunicorn registers it."""
        return self._wake_read

    def run_callbacks(self, _: Any) -> None:
        """Read what has woken the loop. The calls follow at the end of the round."""
        with suppress(BlockingIOError):
            os.read(self._wake_read, 4096)

    def close(self) -> None:
        """Do nothing. gunicorn closes its poller before pending publishes are flushed; the process ends after that."""


def _fd_of(sock: Any) -> int:
    return sock if isinstance(sock, int) else int(sock.fileno())


def _new_poller() -> tuple[Any, Callable[[float, int], list[tuple[int, int]]]]:
    """Return a poller, and its method that waits for events: up to some seconds, for up to some number of events."""
    if hasattr(select, "epoll"):
        epoll = select.epoll()
        return epoll, epoll.poll
    poller = select.poll()
    return poller, lambda seconds, _: poller.poll(math.ceil(seconds * 1000))
