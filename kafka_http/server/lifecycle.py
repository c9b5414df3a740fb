"""What the server tells the application of its life in a process, and what it asks of it below WSGI."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, cast

from kafka_http.config import Config

FLUSH_SECONDS = 5
"""What the application gets at the end, after the requests, to hand over what it holds."""

_STOP_SECONDS = 20
"""What a stop may take beyond a publish's own time; with the default time-out 30 s in all, as Kubernetes gives."""


def stop_seconds(config: Config) -> int:
    """How long a stop may take in all."""
    return math.ceil(config.timeout) + _STOP_SECONDS


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


class Lifecycle(Protocol):
    """What the application may have in `app.extensions["kafka_http"]`."""

    def started(self) -> None:
        """This process serves from now on. Must not block."""

    def check_brokers(self) -> None:
        """Called in the first worker of `kafka-http serve`: log whether Kafka answers. Must not block."""

    def stopping(self) -> None:
        """No new requests come: those that wait for something to happen should be answered now. Must not block."""

    def close(self, timeout: float) -> None:
        """Hand over what is held, for `timeout` at most, and end. No request is in flight any more."""

    @property
    def publishes(self) -> Publishes | None:
        """Takes publishes that need no thread, where that is wanted."""


def lifecycle_of(app: Any) -> Lifecycle | None:
    """None where the application is another than ours, or could not be loaded."""
    return cast("Lifecycle | None", getattr(app, "extensions", {}).get("kafka_http"))
