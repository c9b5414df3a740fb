"""Who may wait for messages, so that threads are left for those that do not wait."""

import contextlib
import threading
from collections.abc import Callable, Iterator


class WaitLimiter:
    """Lets half of a worker's threads wait at a time, and another quarter those that wait to be let into a group."""

    def __init__(self, threads: int) -> None:
        self._places = threading.Semaphore(threads // 2)
        self._joining = threading.Semaphore(max(1, threads // 4))

    @contextlib.contextmanager
    def place(self, seconds: float, *, joining: bool = False) -> Iterator[float]:
        """How long this request may wait: as long as it wants to, or not at all where all places are taken.

        `joining`: for the first assignment of a subscription, for which there are places of their own as well.
        """
        taken = self._take(joining) if seconds > 0 else None
        if taken is None:
            yield 0
            return
        try:
            yield seconds
        finally:
            taken.release()

    def hold(self) -> Callable[[], None] | None:
        """Take a place for as long as one likes, until what this returns is called; None where all are taken."""
        taken = self._take(joining=False)
        return None if taken is None else taken.release

    def _take(self, joining: bool) -> threading.Semaphore | None:
        places = [self._places, self._joining] if joining else [self._places]
        return next((each for each in places if each.acquire(blocking=False)), None)
