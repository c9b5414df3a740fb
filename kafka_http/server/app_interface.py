"""What the server tells the application of its life in a process, and what it asks of it below WSGI."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Protocol, cast

from kafka_http.config import Config

FLUSH_SECONDS = 5
"""What the application gets at the end, after the requests, to hand over what it holds."""

_STOP_SECONDS = 20
"""What a stop may take beyond a publish's own time; with the default time-out 30 s in all, as Kubernetes gives."""


def stop_seconds(config: Config) -> int:
    """How long a stop may take in all."""
    return math.ceil(config.timeout) + _STOP_SECONDS


class PublishReply(Protocol):
    """A request that Kafka has."""

    timeout: float
    """Seconds after which it is to be answered at the latest."""

    def answer(self) -> tuple[str, Sequence[tuple[str, str]], bytes]:
        """What is to be said: status, headers, body. To be called once; raises nothing."""


class FastPathPublisher(Protocol):
    """Begins them. Any thread may call."""

    def begin(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes, done: Callable[[], None]
    ) -> PublishReply | None:
        """Begin a request without blocking. None, with nothing done, for one that is the threads'.

        Any thread may call `done`, perhaps before this returns, or not before `send` is called.
        """

    def send(self) -> None:
        """Let all go that was begun. Does not block."""


Place = Literal["loop", "aside", "pool"]
"""Who makes an answer: the main loop, which must not block; one thread beside the pool; or the pool."""

RECEIVED = "kafka_http.received"
"""In the environ of a request whose body was received before: its bytes, which count as in flight already."""
REFUSAL = "kafka_http.refusal"
"""In the environ of a request whose body was not received: what to raise in place of reading it."""
CAME = "kafka_http.came"
"""In the environ: when the request came, on the monotonic clock."""


class ReceivePolicyProtocol(Protocol):
    """What the application knows of requests before it has them. Any thread may call."""

    max_body_bytes: int
    max_in_flight: int
    """Bytes of bodies. Those that have not come whole may take half of it."""
    min_body_rate: int
    """Bytes a second that a body must come with after its first seconds."""
    max_answers_in_flight: int
    """Bytes of answers that clients have not taken yet."""

    def hold(self, size: int, held: int = 0) -> int:
        """Count so many bytes more of a body, of which `held` are counted already; less where `size` is negative.
        Raises what is to be answered where that is too much."""

    def is_streamed(self, method: str, path: str, headers: Mapping[str, str]) -> bool:
        """Whether the application reads the body as it comes. Header names are in lower case."""

    def place(self, path: str) -> Place:
        """Who is to answer a request."""


class AnyApplication:
    """The `ReceivePolicyProtocol` of an application that says nothing of it."""

    max_body_bytes = 1 << 30
    max_in_flight = 1 << 30
    min_body_rate = 1024
    max_answers_in_flight = 1 << 30

    def hold(self, size: int, held: int = 0) -> int:
        return size

    def is_streamed(self, method: str, path: str, headers: Mapping[str, str]) -> bool:
        return False

    def place(self, path: str) -> Place:
        return "pool"


class ServedApp(Protocol):
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
    def receiving(self) -> "ReceivePolicyProtocol":
        """What the application knows of requests that the server receives for it."""

    @property
    def publishes(self) -> FastPathPublisher | None:
        """Takes publishes that need no thread, where that is wanted."""


def lifecycle_of(app: Any) -> ServedApp | None:
    """None where the application is another than ours, or could not be loaded."""
    return cast("ServedApp | None", getattr(app, "extensions", {}).get("kafka_http"))
