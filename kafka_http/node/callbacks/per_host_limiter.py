"""Limits how many callbacks run at a time, and how many of them per host."""

import threading
from collections import Counter
from collections.abc import Collection

_MAX_BLOCKED = 10_000


class PerHostLimiter:
    """Gives each callback a slot, and one host half of the slots. Any thread may call.

    A callback whose host has no free slot is blocked: `busy` lists it until `unblock`, so that the store is not asked
    for it again and again. Only its id is kept.
    """

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._slots_per_host = max(1, slots // 2)
        self._host_of: dict[str, str] = {}
        self._running: Counter[str] = Counter()
        self._blocked: dict[str, dict[str, None]] = {}  # ids by host, in order
        self._changed = threading.Condition()

    def free_slots(self) -> int:
        """Return the number of free slots, or 0 while too many callbacks are blocked to look for more."""
        with self._changed:
            blocked = sum(map(len, self._blocked.values()))
            return self._slots - len(self._host_of) if blocked < _MAX_BLOCKED else 0

    def try_acquire(self, task_id: str, host: str) -> bool:
        """Take a slot. If there is none left for the host, return False and block the callback."""
        with self._changed:
            if len(self._host_of) >= self._slots or task_id in self._host_of:
                return False
            if self._running[host] >= self._slots_per_host:
                self._blocked.setdefault(host, {})[task_id] = None
                return False
            self._host_of[task_id] = host
            self._running[host] += 1
            return True

    def release(self, task_id: str) -> None:
        """Give back the slot of a callback."""
        with self._changed:
            host = self._host_of.pop(task_id)
            self._running[host] -= 1
            if not self._running[host]:
                del self._running[host]
            self._changed.notify_all()

    def unblock(self) -> bool:
        """Unblock as many callbacks as their hosts have free slots. Returns whether there were any."""
        with self._changed:
            ready = [
                (host, task_id)
                for host, blocked in self._blocked.items()
                for task_id in list(blocked)[: max(0, self._slots_per_host - self._running[host])]
            ]
            for host, task_id in ready:
                del self._blocked[host][task_id]
                if not self._blocked[host]:
                    del self._blocked[host]
            return bool(ready)

    def busy(self) -> Collection[str]:
        """Return the ids of the callbacks that run or are blocked."""
        with self._changed:
            return {*self._host_of, *(task_id for blocked in self._blocked.values() for task_id in blocked)}

    def wait_until_idle(self, timeout: float) -> bool:
        """Wait until no callback runs. Returns False if some still do after `timeout` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._host_of, max(0.0, timeout))
