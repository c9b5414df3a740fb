"""Requests as Flask has them: heads, and bodies, each read whole within the limits before anything is done with it."""

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Iterator
from io import BytesIO
from typing import IO, Any
from urllib.parse import urlsplit

from flask import Request, Response
from werkzeug.exceptions import RequestEntityTooLarge

from kafka_http.environ import BODY_ERROR, HEADER_PAIRS, RECEIVED_BYTES
from kafka_http.errors import InvalidRequest, KafkaHttpError, TooMuchInFlight
from kafka_http.web.authority import server_root
from kafka_http.web.content_coding import codings_of, decode_body
from kafka_http.web.messages.publish_view import Head

_CHUNK = 1 << 16
DRAIN_BYTES = 16 << 20
DRAIN_SECONDS = 1.0


def head_of(request: Request, base_url: str = "") -> Head:
    headers = {name.lower(): value for name, value in request.headers.items()}
    return Head(request.method, request.args, headers, root_of(request, base_url), _repeated(request))


def root_of(request: Request, base_url: str) -> str:
    """What stands before our paths in a link without a host: `/rest`, or nothing."""
    return urlsplit(base_url).path.rstrip("/") or server_root(request.environ)


def _repeated(request: Request) -> list[tuple[str, str]]:
    """The `kafka-*` headers that were sent more than once."""
    pairs = [(name.lower(), value) for name, value in request.environ.get(HEADER_PAIRS, ())]
    counts = Counter(name for name, _ in pairs if name.startswith("kafka-"))
    return [(name, value) for name, value in pairs if counts[name] > 1]


class LengthRequired(KafkaHttpError):
    code = 411


class RequestBodies:
    """Reads bodies and counts those in memory: `max_in_flight` bytes at most in this process at a time."""

    def __init__(self, max_in_flight: int) -> None:
        self._limit = max_in_flight
        self._in_flight = 0
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def read(self, request: Request) -> Iterator[bytes]:
        """The request's body, decompressed, counted as in flight while the context lasts.

        Raises `TooMuchInFlight`, `InvalidRequest` (the client broke off, or it is not what Content-Encoding says),
        `RequestEntityTooLarge`, `UnsupportedEncoding`.
        """
        codings = codings_of(request)
        check_transfer(request)
        limit = request.max_content_length or 0
        if (request.content_length or 0) > limit:
            raise RequestEntityTooLarge
        if (refusal := request.environ.get(BODY_ERROR)) is not None:
            raise refusal
        counted, held = request.environ.get(RECEIVED_BYTES, 0), 0

        def hold(size: int) -> None:
            """The server's count goes until the answer; what is beyond it is held here."""
            nonlocal held
            before, after = max(counted, held), max(counted, held + size)
            self.hold(after - before, before)
            held += size

        try:
            if request.content_length is not None:
                hold(request.content_length)
                body = _read(request.stream)
                if len(body) < request.content_length:
                    raise _broken_off()
            else:
                chunks = []
                while chunk := _read(request.environ["wsgi.input"], _CHUNK):
                    hold(len(chunk))
                    if held > limit:
                        raise RequestEntityTooLarge
                    chunks.append(chunk)
                body = b"".join(chunks)
                del chunks
            yield decode_body(body, codings, limit, hold) if codings else body
        finally:
            self.hold(-max(0, held - counted))

    def hold(self, size: int, held: int = 0) -> int:
        """Count so many bytes more of a body, of which `held` are counted already; less where `size` is negative.

        Raises `TooMuchInFlight`.
        """
        with self._lock:
            # A body is let in where it is the only one, or max_in_flight below max_body_bytes would refuse it for ever.
            if size > 0 and self._in_flight > held and self._in_flight + size > self._limit:
                raise TooMuchInFlight(
                    f"Requests of {self._in_flight} bytes are in flight already, max_in_flight is {self._limit}. "
                    "Nothing was written; try again.",
                    limit=self._limit,
                )
            self._in_flight += size
        return size


def check_transfer(request: Request) -> None:
    """Raise for a body of which no end is to be known; one that is not there becomes empty."""
    if request.content_length is None and not request.environ.get("wsgi.input_terminated"):
        if "Transfer-Encoding" in request.headers:
            raise LengthRequired("This server cannot take a chunked body: send Content-Length.")
        request.environ["wsgi.input"] = BytesIO()  # without a length there is no body, and none may be waited for


def _read(stream: IO[bytes], size: int = -1) -> bytes:
    try:
        return stream.read(size)
    except RequestEntityTooLarge:
        raise
    except Exception as error:  # each WSGI server has its own for a body that breaks off, or a chunk that is none
        raise _broken_off() from error


def _broken_off() -> InvalidRequest:
    return InvalidRequest(
        "The body breaks off: it is shorter than its Content-Length says, or its chunks are malformed. "
        "Nothing was written."
    )


def drain(request: Request, response: Response) -> Response:
    """After an error before the body was read, read a little of it, so that the client comes to see the answer."""
    environ = request.environ
    if response.status_code >= 400 and environ.get("wsgi.input_terminated"):
        with contextlib.suppress(Exception):  # the answer goes out whatever becomes of the rest
            _drain(environ["wsgi.input"], environ.get("gunicorn.socket"))
    return response


def _drain(stream: Any, socket: Any) -> None:
    deadline = time.monotonic() + DRAIN_SECONDS
    left = DRAIN_BYTES
    try:
        while left > 0 and (seconds := deadline - time.monotonic()) > 0:
            if socket is not None:
                socket.settimeout(seconds)
            chunk = stream.read(_CHUNK)
            if not chunk:
                return
            left -= len(chunk)
    finally:
        if socket is not None:
            socket.settimeout(None)
