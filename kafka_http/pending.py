"""Futures: what waits for Kafka or for the store of the node, and has a result later."""

import logging
import threading
from collections.abc import Callable
from typing import Any, Protocol

log = logging.getLogger(__name__)


class Pending(Protocol):
    """A future. Any thread may call."""

    @property
    def is_done(self) -> bool:
        """Whether the result is final."""

    def result(self, timeout: float | None = None) -> Any:
        """Wait up to `timeout` seconds and return the result. `timeout=0` does not block."""

    def add_done_callback(self, callback: Callable[[], None]) -> None:
        """Call `callback` once when the result is final, or now if it is. It must not block."""


class DoneCallbacks:
    """The part of a future that tells when its result is final. Any thread may call `add_done_callback` and `wait`."""

    __slots__ = ("_callbacks", "is_done")

    def __init__(self) -> None:
        self.is_done = False
        """Whether the result is final."""
        self._callbacks: list[Callable[[], None]] = []

    def add_done_callback(self, callback: Callable[[], None]) -> None:
        """Call `callback` once when the result is final, or now if it is. It must not block."""
        self._callbacks.append(callback)
        if self.is_done:
            self._run_callbacks()

    def wait(self, timeout: float | None) -> None:
        """Wait up to `timeout` seconds, or without a limit, until the result is final."""
        if not self.is_done and timeout != 0:
            done = threading.Event()
            self.add_done_callback(done.set)
            done.wait(timeout)

    def complete(self) -> None:
        """Make the result final, and call the callbacks."""
        self.is_done = True
        self._run_callbacks()

    def _run_callbacks(self) -> None:
        # Two threads may be here: `pop` gives each callback to one of them
        while self._callbacks:
            try:
                callback = self._callbacks.pop()
            except IndexError:
                return
            try:
                callback()
            except Exception:
                log.exception("A callback of a future failed.")
