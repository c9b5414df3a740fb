"""A limit on the threads that wait for messages, so that other requests find a free thread."""

import contextlib
import threading
from collections.abc import Callable, Iterator


class WaitLimiter:
    """Lets at most half of a worker's threads wait. Another quarter may wait for their first group assignment.

    A process has one. Any thread may call it.
    """

    def __init__(self, threads: int) -> None:
        self._slots = threading.Semaphore(threads // 2)
        self._joining_slots = threading.Semaphore(max(1, threads // 4))

    @contextlib.contextmanager
    def acquire(self, seconds: float, *, joining: bool = False) -> Iterator[float]:
        """Hold a slot during the `with` block. The value is the time to wait: `seconds`, or 0 if no slot is free.

        `joining` is for the first assignment of a subscription, which may use the additional slots.
        """
        slot = self._acquire(joining) if seconds > 0 else None
        if slot is None:
            yield 0
            return
        try:
            yield seconds
        finally:
            slot.release()

    def try_acquire(self) -> Callable[[], None] | None:
        """Acquire a slot for any time. Return the function that releases it, or None if no slot is free."""
        slot = self._acquire(joining=False)
        return None if slot is None else slot.release

    def _acquire(self, joining: bool) -> threading.Semaphore | None:
        slots = [self._slots, self._joining_slots] if joining else [self._slots]
        return next((each for each in slots if each.acquire(blocking=False)), None)
