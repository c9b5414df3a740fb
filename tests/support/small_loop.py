"""An event loop that a test drives round by round."""

import selectors
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from tests.support.polling import wait_for


class SmallLoop:
    """An `EventLoop`. The test's thread calls `run_round`, or `run_until` for as many rounds as are needed."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._calls: deque[tuple[Callable[..., None], tuple[Any, ...]]] = deque()
        self._called = threading.Event()
        self.after_round: Callable[[], None] = lambda: None

    def register(self, sock: Any, events: int, callback: Callable[[Any], None]) -> None:
        self._selector.register(sock, events, callback)

    def modify(self, sock: Any, events: int, callback: Callable[[Any], None]) -> None:
        self._selector.modify(sock, events, callback)

    def unregister(self, sock: Any) -> None:
        self._selector.unregister(sock)

    def call_soon(self, call: Callable[..., None], *args: Any) -> None:
        self._calls.append((call, args))

    def events_of(self, sock: Any) -> int:
        """Return the events that a socket is registered for, 0 if it is not registered."""
        return next((each.events for each in self._selector.get_map().values() if each.fileobj is sock), 0)

    def run_round(self) -> None:
        """Call what is ready now, and end the round."""
        for key, _ in self._selector.select(0):
            key.data(key.fileobj)
        for _ in range(len(self._calls)):
            call, args = self._calls.popleft()
            call(*args)
        self.after_round()

    def run_until(self, condition: Callable[[], Any]) -> None:
        """Run rounds until a condition holds."""

        def holds() -> bool:
            self.run_round()
            return bool(condition())

        wait_for(holds)

    def close(self) -> None:
        self._selector.close()
