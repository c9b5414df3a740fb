"""Request bodies: reading one as a whole, the memory of all in flight, and what the server knows before it reads."""

import contextlib
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from io import BytesIO
from typing import IO, TYPE_CHECKING, Any, Literal, NamedTuple
from urllib.parse import unquote_to_bytes

from flask import Request, Response
from werkzeug.datastructures import MultiDict
from werkzeug.exceptions import RequestEntityTooLarge

from kafka_http.config import Config
from kafka_http.environ import BODY_ERROR, CLIENT_CERTIFICATE, CONNECTION, RECEIVED_BYTES
from kafka_http.errors import InvalidRequest, KafkaHttpError, TooMuchInFlight
from kafka_http.security.check_point import Admission
from kafka_http.security.principal import ConnectedClient
from kafka_http.security.rate_limits import ConnectionCounts
from kafka_http.web.access_check import request_access
from kafka_http.web.content_coding import content_codings, decode_body
from kafka_http.web.health import HEALTH, READY
from kafka_http.web.metrics_routes import METRICS
from kafka_http.web.request_head import RequestHead
from kafka_http.web.url_paths import ABSOLUTE

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

DRAIN_BYTES = 16 << 20
DRAIN_SECONDS = 1.0
_READ_SIZE = 1 << 16
_PUBLISH_PATH = re.compile("/+messages/+[^/]+/*")
_NO_QUERY: MultiDict[str, str] = MultiDict()


class LengthRequired(KafkaHttpError):
    """A body without length and without chunked coding."""

    code = 411


class RequestBodies:
    """Reads bodies and limits their memory to `max_in_flight` bytes in this process. Any thread may call."""

    def __init__(self, max_in_flight: int) -> None:
        self._limit = max_in_flight
        self._in_flight = 0
        self._lock = threading.Lock()

    @property
    def in_flight(self) -> int:
        """The reserved bytes."""
        return self._in_flight

    @contextlib.contextmanager
    def read(self, request: Request) -> Iterator[bytes]:
        """Read and decompress the body. Its memory is reserved while the context lasts.

        Raises `TooMuchInFlight`, `InvalidRequest` (the body is incomplete, or not in its Content-Encoding),
        `RequestEntityTooLarge`, `UnsupportedEncoding`, `LengthRequired`.
        """
        codings = content_codings(request)
        check_body_length(request)
        limit = request.max_content_length or 0
        if (request.content_length or 0) > limit:
            raise RequestEntityTooLarge
        if (error := request.environ.get(BODY_ERROR)) is not None:
            raise error
        reservation = _BodyReservation(self, request.environ.get(RECEIVED_BYTES, 0))
        try:
            body = _read_body(request, limit, reservation)
            yield decode_body(body, codings, limit, reservation.add) if codings else body
        finally:
            reservation.release()

    def reserve(self, size: int, reserved: int = 0) -> int:
        """Reserve `size` more bytes for a request that has `reserved` bytes; release them if `size` is negative.

        Returns `size`. Raises `TooMuchInFlight`.
        """
        with self._lock:
            # The only body in flight is always accepted: else max_in_flight < max_body_bytes would reject it forever.
            if size > 0 and self._in_flight > reserved and self._in_flight + size > self._limit:
                raise TooMuchInFlight(
                    f"Requests in flight already hold {self._in_flight} bytes (max_in_flight: {self._limit}). "
                    "Nothing was written. Retry.",
                    limit=self._limit,
                )
            self._in_flight += size
        return size


class _BodyReservation:
    """The memory of one request's body, beyond what the server has reserved for it."""

    def __init__(self, bodies: RequestBodies, by_server: int) -> None:
        self._bodies = bodies
        self._by_server = by_server
        self._size = 0

    def add(self, size: int) -> None:
        before, after = max(self._by_server, self._size), max(self._by_server, self._size + size)
        self._bodies.reserve(after - before, before)
        self._size += size

    def check(self, limit: int) -> None:
        if self._size > limit:
            raise RequestEntityTooLarge

    def release(self) -> None:
        self._bodies.reserve(-max(0, self._size - self._by_server))


class ReceivePolicy:
    """Tells the server how to receive a request before the application gets it. Any thread may call."""

    def __init__(
        self,
        config: Config,
        bodies: RequestBodies,
        admit: Callable[["WSGIEnvironment", bool], Admission | KafkaHttpError | None],
        admit_connection: Callable[[str], ConnectionCounts | None],
    ) -> None:
        """`admit` and `admit_connection` are `AccessCheck.admit_early` and `AccessCheck.admit_connection`."""
        self.max_body_bytes = config.max_body_bytes
        self.max_in_flight = config.max_in_flight
        self.min_body_rate = config.min_body_rate
        self.max_answers_in_flight = config.max_answers_in_flight
        self.reserve = bodies.reserve
        self.admit_connection = admit_connection
        self._admit = admit

    def is_streamed(self, method: str, path: str, headers: Mapping[str, str]) -> bool:
        """Whether a view publishes the body while it arrives."""
        is_publish = _PUBLISH_PATH.fullmatch(path) is not None
        return is_publish and RequestHead(method, _NO_QUERY, headers).is_streaming_upload

    def runner(self, path: str) -> Literal["loop", "reserved", "pool"]:
        """Return where a request runs. What monitoring calls must not wait for a thread of the pool."""
        return "loop" if path == HEALTH else "reserved" if path in (READY, METRICS) else "pool"

    def admit(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str],
        client: ConnectedClient,
        size: int,
        *,
        blocking: bool = False,
    ) -> "BodyDecision | None":
        """Decide about a request before its body is received. None: a thread must decide, with `blocking`."""
        path, _, query = ABSOLUTE.sub("", target).partition("#")[0].partition("?")
        environ = {
            "REQUEST_METHOD": method,
            "SCRIPT_NAME": "",
            "PATH_INFO": unquote_to_bytes(path).decode("latin-1"),
            "RAW_URI": target,
            "QUERY_STRING": query,
            "REMOTE_ADDR": client.address,
            "SERVER_NAME": "localhost",
            "SERVER_PORT": "80",
            "wsgi.url_scheme": "http",
            "CONTENT_LENGTH": str(size),
            CLIENT_CERTIFICATE: client.certificate,
            CONNECTION: client.connection,
            **{f"HTTP_{name.upper().replace('-', '_')}": value for name, value in headers.items()},
        }
        admission = self._admit(environ, blocking)
        return None if admission is None else BodyDecision(isinstance(admission, KafkaHttpError), admission)


class BodyDecision(NamedTuple):
    """The server's `Decision`."""

    is_refused: bool
    value: Admission | KafkaHttpError


def check_body_length(request: Request) -> None:
    """Check that the end of the body can be found. A request without a length gets an empty body.

    Raises `LengthRequired`.
    """
    if request.content_length is None and not request.environ.get("wsgi.input_terminated"):
        if "Transfer-Encoding" in request.headers:
            raise LengthRequired("This server does not accept chunked bodies. Send Content-Length.")
        request.environ["wsgi.input"] = BytesIO()  # reading the stream would wait for the client


def _read_body(request: Request, limit: int, reservation: _BodyReservation) -> bytes:
    if request.content_length is not None:
        reservation.add(request.content_length)
        body = _read(request.stream)
        if len(body) < request.content_length:
            raise _incomplete_body()
        return body
    pieces = []
    limits = request_access().limits
    while piece := _read(request.environ["wsgi.input"], _READ_SIZE):
        limits.add_bytes(len(piece))
        reservation.add(len(piece))
        reservation.check(limit)
        pieces.append(piece)
    return b"".join(pieces)


def _read(stream: IO[bytes], size: int = -1) -> bytes:
    try:
        return stream.read(size)
    except RequestEntityTooLarge:
        raise
    except Exception as error:  # each WSGI server has its own exceptions for an incomplete body and a malformed chunk
        raise _incomplete_body() from error


def _incomplete_body() -> InvalidRequest:
    return InvalidRequest(
        "Body is incomplete: it is shorter than its Content-Length, or its chunks are malformed. Nothing was written."
    )


def drain_body(request: Request, response: Response) -> Response:
    """After an error, read a part of the unread body, so that the client gets to read the response."""
    environ = request.environ
    if response.status_code >= 400 and environ.get("wsgi.input_terminated"):
        with contextlib.suppress(Exception):  # the response does not depend on the body
            _drain(environ["wsgi.input"], environ.get("gunicorn.socket"))
    return response


def _drain(stream: Any, socket: Any) -> None:
    deadline = time.monotonic() + DRAIN_SECONDS
    left = DRAIN_BYTES
    try:
        while left > 0 and (seconds := deadline - time.monotonic()) > 0:
            if socket is not None:
                socket.settimeout(seconds)
            piece = stream.read(_READ_SIZE)
            if not piece:
                return
            left -= len(piece)
    finally:
        if socket is not None:
            socket.settimeout(None)
