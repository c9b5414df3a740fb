"""The interface between the server and the application, apart from WSGI itself."""

import math
import ssl
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple, Protocol, cast

from kafka_http.config import Config
from kafka_http.event_loop import EventLoop

FLUSH_SECONDS = 5
"""Time that the application has, after the last request, to send its pending messages to Kafka."""

_STOP_SECONDS = 20
"""Time for a stop in addition to `timeout`. With the default `timeout` a stop takes at most 30 s, as in Kubernetes."""


def stop_seconds(config: Config) -> int:
    """Return the maximum duration of a stop in seconds."""
    return math.ceil(config.timeout) + _STOP_SECONDS


class AdmittedConnection(Protocol):
    """What the application counts a connection for. One thread at a time may use it."""

    is_refused: bool
    """Whether a client has too many connections: the next response is the last of this one."""

    def close(self) -> None:
        """Stop counting the connection: it is closed. Any thread may call, more than once."""


class Client(NamedTuple):
    """Who is at the other end of a connection."""

    address: str
    """Empty on a Unix socket."""
    certificate: Mapping[str, Any] | None = None
    """The verified certificate, in the form of `ssl.SSLSocket.getpeercert()`."""
    certificate_digest: bytes = b""
    """Identifies the certificate; empty without one. Comparing certificates would take 8 us for each request."""
    connection: Any = None
    """The `AdmittedConnection` of the connection."""


OnSent = Callable[[bool], None]
"""Told whether a response was sent."""


class FastPathResponse(NamedTuple):
    """The response to a request on the fast path. The server adds Content-Length and the headers of every response."""

    status: int
    headers: Mapping[str, str]
    """Without Content-Type, Content-Length, X-Request-Id and Cache-Control."""
    content_type: str
    request_id: str
    body: bytes
    principal: str
    """For the access log; empty if authentication is off."""
    route: str
    """The URL rule, such as `/messages/<topic>`."""
    topic: str
    records: int
    """Records that were written to Kafka, or sent to the client."""
    on_sent: OnSent | None = None
    """Called once, in the main loop, with whether the whole response was passed to the system's socket.

    False if the connection was closed before that, by its client or by the server. It is not called if the process ends
    before the response is known.
    """


class PendingResponse(Protocol):
    """The response to a request that was started. `PreparedRequest.start` creates it for one request."""

    timeout: float
    """Seconds after which the server calls `finish` even if the response is not known."""

    def add_done_callback(self, callback: Callable[[], None]) -> None:
        """Call `callback` once when the response is known: in any thread, at once if it is known now."""

    def finish(self) -> FastPathResponse:
        """Return the response with what is known now, and release what the request held.

        The server calls this exactly once, in its main loop, also if the client has disconnected. Raises nothing.
        """


class PreparedRequest(Protocol):
    """What the head of a request asks for. `start` may be called for many bodies, by the main loop only."""

    is_reusable: bool
    """Whether other requests with the same head may use this object. False if it holds what belongs to one request,
    such as its id or its idempotency key."""

    @property
    def is_current(self) -> bool:
        """Whether the application would still prepare this head for the same client.

        The server asks before it uses a remembered head, and before `start` if the body has arrived later.
        """

    def has_room(self, size: int, connection: Any) -> bool:
        """Whether the limits of the client allow a body of this size now, on this `Client.connection`."""

    def start(self, body: bytes, connection: Any) -> PendingResponse | None:
        """Start a request without blocking. Return None, with nothing done, if a view must respond. Raises nothing.

        `connection` is `Client.connection` of the request.
        """


class FastPathHandler(Protocol):
    """The requests that the application can answer without a thread."""

    @property
    def decides_by_client(self) -> bool:
        """Whether a prepared request depends on its client and on credentials.

        It is then remembered for one client, under a digest of its head.
        """

    def prepare(self, method: str, target: str, headers: Mapping[str, str], client: Client) -> PreparedRequest | None:
        """Check a head without blocking. Return None if the request needs a view. Raises nothing.

        Header names are in lower case, each once. Content-Length is not among them, because the server uses a reusable
        result for all bodies.
        """


Runner = Literal["loop", "reserved", "pool"]
"""Where a request runs: in the main loop (it must not block), in the reserved thread, or in the thread pool."""


class Decision(NamedTuple):
    """What the application decided about a request before its body: `value` goes into the environ as `ADMISSION`."""

    is_refused: bool
    value: Any


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

    def admit(
        self, method: str, target: str, headers: Mapping[str, str], client: Client, size: int, *, blocking: bool
    ) -> Decision | None:
        """Decide about a request before its body is received. Raises nothing.

        `size` is that of the body, 0 if it is not known. Header names are in lower case. None: a thread must decide,
        with `blocking`. Without it, nothing blocks.
        """

    def admit_connection(self, address: str) -> AdmittedConnection | None:
        """Count a new connection. Return what to close with it, or None: this address has too many."""


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

    def admit(
        self, method: str, target: str, headers: Mapping[str, str], client: Client, size: int, *, blocking: bool
    ) -> Decision | None:
        return Decision(is_refused=False, value=None)

    def admit_connection(self, address: str) -> AdmittedConnection | None:
        return _UncountedConnection()


class _UncountedConnection:
    is_refused = False

    def close(self) -> None:
        """Do nothing."""


class TlsContext(Protocol):
    """TLS of the connections of clients."""

    context: ssl.SSLContext
    """For new connections. A reload replaces it."""


class ServerHooks(Protocol):
    """What the server calls in `app.extensions["kafka_http"]`."""

    request_policy: RequestPolicy
    fast_path: FastPathHandler | None
    """None if the fast path is switched off."""
    tls: TlsContext | None
    """None: connections carry plain HTTP, or gunicorn's own TLS."""

    def check_before_fork(self) -> None:
        """Check what only other servers can tell, for some seconds at most. Raises `ConfigError`."""

    @property
    def has_authentication(self) -> bool:
        """Whether requests need credentials."""

    def start(self) -> None:
        """Start serving in this process. Must not block. Raises `ConfigError`."""

    def attach(self, loop: EventLoop) -> None:
        """Use this loop for Kafka's sockets. Called once after `start`, by the thread of the loop, the main thread."""

    def end_round(self) -> None:
        """Send what was published in this round of the loop, and give up what is overdue. Must not block."""

    @property
    def next_deadline(self) -> float:
        """When `end_round` must be called again at the latest, on the monotonic clock. Infinity if nothing waits."""

    def update_gauges(self) -> None:
        """Set the gauges of the metrics. Called about once a second by the main loop. Must not block."""

    def release_memory(self) -> None:
        """Release memory that nothing will use any more: the process is idle. Any thread may call. Must not block."""

    def reload(self) -> None:
        """Read again what can change without a restart. Any thread may call. Raises `ConfigError`: nothing changed."""

    def check_brokers(self) -> None:
        """Log whether Kafka answers. `kafka-http serve` calls it in its first worker. Must not block."""

    def stop(self) -> None:
        """End requests that wait for new messages: no new requests arrive. Must not block."""

    def close(self, timeout: float) -> None:
        """Flush pending messages for up to `timeout` seconds, then close. No request is in flight.

        The server has driven the loop until `next_deadline` was infinite, or for as long as a stop may take.
        """

    def stop_node(self, timeout: float) -> None:
        """Stop the other processes of the node, and wait up to `timeout` seconds. Only the arbiter calls this.

        It does so after its workers have ended, if those processes would otherwise be killed with it.
        """

    def end(self) -> None:
        """Remove what the workers have left. The arbiter calls this at its end. Raises nothing."""


class DefaultHooks:
    """The `ServerHooks` for an application that has none."""

    request_policy: RequestPolicy = DefaultRequestPolicy()
    fast_path: FastPathHandler | None = None
    has_authentication = False
    tls: TlsContext | None = None
    next_deadline = math.inf

    def check_before_fork(self) -> None:
        pass

    def start(self) -> None:
        pass

    def attach(self, loop: EventLoop) -> None:
        pass

    def end_round(self) -> None:
        pass

    def update_gauges(self) -> None:
        pass

    def release_memory(self) -> None:
        pass

    def reload(self) -> None:
        pass

    def check_brokers(self) -> None:
        pass

    def stop(self) -> None:
        pass

    def close(self, timeout: float) -> None:
        pass

    def stop_node(self, timeout: float) -> None:
        pass

    def end(self) -> None:
        pass


def hooks_of(app: Any) -> ServerHooks:
    """Return the hooks of a WSGI application, which may have none or could not be loaded."""
    return cast("ServerHooks", getattr(app, "extensions", {}).get("kafka_http") or DefaultHooks())
