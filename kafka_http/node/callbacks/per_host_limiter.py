"""Whose turn it is: callbacks under way, and those that wait because their host has its share of the places."""

import threading
import time
from collections import Counter
from collections.abc import Collection

_MOST_WAITING = 10_000
"""Beyond so many that wait for their hosts no more are looked at."""


class PerHostLimiter:
    """Any thread may call. Of what waits nothing but its id is kept."""

    def __init__(self, places: int) -> None:
        self._places = places
        self._share = max(1, places // 2)
        self._host_of: dict[str, str] = {}
        self._running: Counter[str] = Counter()
        self._waiting: dict[str, dict[str, None]] = {}  # ids by host, in their order
        self._changed = threading.Condition()

    def free(self) -> int:
        """How many places are free; 0 as well where no more can be made to wait."""
        with self._changed:
            waiting = sum(map(len, self._waiting.values()))
            return self._places - len(self._host_of) if waiting < _MOST_WAITING else 0

    def take(self, task_id: str, host: str) -> bool:
        """Whether it may be made now; else it waits, where its host is the reason."""
        with self._changed:
            if len(self._host_of) >= self._places or task_id in self._host_of:
                return False
            if self._running[host] >= self._share:
                self._waiting.setdefault(host, {})[task_id] = None
                return False
            self._host_of[task_id] = host
            self._running[host] += 1
            return True

    def leave(self, task_id: str) -> None:
        """It has been made."""
        with self._changed:
            host = self._host_of.pop(task_id)
            self._running[host] -= 1
            if not self._running[host]:
                del self._running[host]
            self._changed.notify_all()

    def let_in(self) -> bool:
        """Have as many no longer wait as there are places for their hosts. Whether there were any."""
        with self._changed:
            ready = [
                (host, task_id)
                for host, waiting in self._waiting.items()
                for task_id in list(waiting)[: max(0, self._share - self._running[host])]
            ]
            for host, task_id in ready:
                del self._waiting[host][task_id]
                if not self._waiting[host]:
                    del self._waiting[host]
            return bool(ready)

    def busy(self) -> Collection[str]:
        """The ids that are under way or wait."""
        with self._changed:
            return {*self._host_of, *(task_id for waiting in self._waiting.values() for task_id in waiting)}

    def wait_until_none_is_under_way(self, timeout: float) -> bool:
        """False where some still are after so many seconds."""
        deadline = time.monotonic() + timeout
        with self._changed:
            return self._changed.wait_for(lambda: not self._host_of, max(0.0, deadline - time.monotonic()))
