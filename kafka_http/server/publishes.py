"""What the application has for a server that answers a publish later, without a thread that waits for it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol


class Publish(Protocol):
    """A request that Kafka has."""

    timeout: float
    """Seconds after which it is to be answered at the latest."""

    def answer(self) -> tuple[str, Sequence[tuple[str, str]], bytes]:
        """What is to be said: status, headers, body. To be called once; raises nothing."""


class Publishes(Protocol):
    """Begins them. Any thread may call."""

    def begin(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes, done: Callable[[], None]
    ) -> Publish | None:
        """Begin a request without blocking. None, with nothing done, for one that is the threads'.

        Any thread may call `done`, perhaps before this returns, or not before `send` is called.
        """

    def send(self) -> None:
        """Let all go that was begun. Does not block."""
