"""What the sender of callbacks asks of whoever keeps them."""

from collections.abc import Collection
from typing import Protocol

from kafka_http.tasks import DueCallback


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

    def claim(self, task_id: str) -> bool:
        """Whether it is still due, and now this process's to make: no other on the same store makes it meanwhile."""
        ...

    def delivered(self, task_id: str, attempts: int) -> None: ...

    def retry(self, task_id: str, attempts: int, delay_seconds: float, reason: str) -> None: ...

    def failed(self, task_id: str, attempts: int, reason: str) -> None:
        """It is given up."""
        ...
