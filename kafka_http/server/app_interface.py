"""The interface between the server and the application, apart from WSGI itself."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Protocol, cast

from kafka_http.config import Config

FLUSH_SECONDS = 5
"""Time that the application has, after the last request, to send its pending messages to Kafka."""

_STOP_SECONDS = 20
"""Time for a stop in addition to `timeout`. With the default `timeout` a stop takes at most 30 s, as in Kubernetes."""


def stop_seconds(config: Config) -> int:
    """Return the maximum duration of a stop in seconds."""
    return math.ceil(config.timeout) + _STOP_SECONDS


class PendingResponse(Protocol):
    """The response to a publish that was handed to Kafka."""

    timeout: float
    """Seconds after which the server sends a response even if Kafka has not answered."""

    def finish(self) -> tuple[str, Sequence[tuple[str, str]], bytes]:
        """Return status, headers and body. The server calls this once. Raises nothing."""


class FastPathHandler(Protocol):
    """Starts publishes without blocking. Any thread may call it."""

    def begin(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes, on_done: Callable[[], None]
    ) -> PendingResponse | None:
        """Start a publish without blocking, or do nothing and return None if the request needs a view.

        `on_done` is called when Kafka has answered: by any thread, possibly before this method returns, possibly not
        before `send` is called.
        """

    def send(self) -> None:
        """Send all publishes that were started. Does not block."""


Runner = Literal["loop", "reserved", "pool"]
"""Where a request runs: in the main loop (it must not block), in the reserved thread, or in the thread pool."""


class RequestPolicy(Protocol):
    """The application's limits for requests that the server receives. Any thread may call it."""

    max_body_bytes: int
    """Maximum size of a body."""
    max_in_flight: int
    """Maximum size of all bodies in memory. Incomplete bodies may use half of it."""
    min_body_rate: int
    """Minimum rate of a body after its first seconds, in bytes per second."""
    max_answers_in_flight: int
    """Maximum size of responses that clients have not received yet."""

    def reserve(self, size: int, reserved: int = 0) -> int:
        """Add `size` bytes of a body, of which `reserved` bytes are already counted; subtract if `size` is negative.

        Raises the error to send to the client if the limit is reached.
        """

    def is_streamed(self, method: str, path: str, headers: Mapping[str, str]) -> bool:
        """Return whether a view reads the body while it arrives. Header names are in lower case."""

    def runner(self, path: str) -> Runner:
        """Return where a request for this path runs."""


class DefaultRequestPolicy:
    """The `RequestPolicy` for an application that has none."""

    max_body_bytes = 1 << 30
    max_in_flight = 1 << 30
    min_body_rate = 1024
    max_answers_in_flight = 1 << 30

    def reserve(self, size: int, reserved: int = 0) -> int:
        return size

    def is_streamed(self, method: str, path: str, headers: Mapping[str, str]) -> bool:
        return False

    def runner(self, path: str) -> Runner:
        return "pool"


class ServerHooks(Protocol):
    """What the server calls in `app.extensions["kafka_http"]`."""

    request_policy: RequestPolicy
    fast_path: FastPathHandler | None
    """None if the fast path is switched off."""

    def start(self) -> None:
        """Start serving in this process. Must not block."""

    def check_brokers(self) -> None:
        """Log whether Kafka answers. `kafka-http serve` calls it in its first worker. Must not block."""

    def stop(self) -> None:
        """End requests that wait for new messages: no new requests arrive. Must not block."""

    def close(self, timeout: float) -> None:
        """Flush pending messages for up to `timeout` seconds, then close. No request is in flight."""


def hooks_of(app: Any) -> ServerHooks | None:
    """Return the hooks of a WSGI application, or None if it has none or could not be loaded."""
    return cast("ServerHooks | None", getattr(app, "extensions", {}).get("kafka_http"))
