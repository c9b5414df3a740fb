"""What the sender of callbacks asks of whoever keeps them."""

from collections.abc import Collection
from typing import Protocol

from msgspec import Struct


class DueCallback(Struct, frozen=True):
    """A callback to be made now.

    `body` is the JSON of `{"task": {…}}`, the same at each attempt. `attempts` counts those that were made; `since` is
    when the task ended, in seconds since 1970.
    """

    task_id: str
    url: str
    body: bytes
    attempts: int
    since: float


class CallbackStore(Protocol):
    """Any thread may call. What raises is tried again for as long as it does; a task that is gone is no error.

    `attempts` of the last three counts the attempt that is reported. `reason` is a sentence for users, without
    credentials. A callback that nothing is reported of, since this process ended, stays due.
    """

    def due(self, limit: int, busy: Collection[str]) -> list[DueCallback]:
        """Those that are due, without the tasks `busy` (up to some thousands), longest due first."""
        ...

    def next_due(self) -> float | None:
        """Seconds until one is due, 0 or less where one is; None where there are no more callbacks to make."""
        ...

    def delivered(self, task_id: str, attempts: int) -> None: ...

    def retry(self, task_id: str, attempts: int, delay_seconds: float, reason: str) -> None: ...

    def failed(self, task_id: str, attempts: int, reason: str) -> None:
        """It is given up."""
        ...
