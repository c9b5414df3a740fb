"""The HTTP client for all outgoing requests: to the schema registry, to callback receivers and to other nodes.

Each exchange has a connection of its own, one deadline from the resolver's query to the last byte of the response, and
a limit for the size of the response. Redirects are not followed, and proxies and credentials of the environment are not
used. The client uses `http.client`, because the caller must decide which address a connection goes to and how long each
byte may take; HTTP libraries only have timeouts for a single read.
"""

import io
import socket
import ssl
import string
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import ExitStack, closing, contextmanager, suppress
from functools import cache
from http.client import HTTPConnection, HTTPException, HTTPResponse, IncompleteRead
from importlib.metadata import version
from typing import Any, Self, TypeVar
from urllib.parse import quote, urlsplit

from msgspec import Struct

_MAX_ADDRESSES = 4
_CHUNK_BYTES = 1 << 16
_USER_AGENT = f"kafka_http/{version('kafka_http')}"
_DEFAULT_PORTS = {"http": 80, "https": 443}
_INCOMPLETE = "closed the connection before the end of its response"

Resolve = Callable[[str, int], Iterable[object]]
"""Returns the IP addresses of a host and port. May block; raises `OSError` if there are none."""

T = TypeVar("T")


class HttpRequestFailed(Exception):
    """A request that got no complete response.

    `str(error)` is a predicate, such as "closed the connection", for a sentence whose subject is the other server. It
    contains no part of the URL, the headers or the body, which may hold credentials.
    """


class HttpTimeout(HttpRequestFailed):
    """The deadline has passed."""


class HttpNotConnected(HttpRequestFailed):
    """No connection was made, so the server has received nothing."""


class HttpResponseTooLarge(HttpRequestFailed):
    """The response is larger than the caller's limit."""


class HttpTarget(Struct, frozen=True):
    """The parts of a URL that a request needs. `host` is an IPv6 address without its brackets."""

    scheme: str
    host: str
    port: int
    path: str

    @classmethod
    def from_url(cls, url: str) -> Self:
        """Split a URL from the settings. Raises `HttpRequestFailed` if its port is not valid."""
        parts = urlsplit(url)
        try:
            port = parts.port or _DEFAULT_PORTS[parts.scheme]
        except ValueError:
            raise HttpRequestFailed("has a URL with an invalid port") from None
        query = f"?{parts.query}" if parts.query else ""
        path = quote(parts.path or "/", safe=string.punctuation)  # `http.client` takes ASCII only
        return cls(parts.scheme, parts.hostname or "", port, f"{path}{query}")


class Deadline:
    """A point in time after which a request has failed."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._end = time.monotonic() + seconds

    def remaining(self) -> float:
        """Return the seconds that are left, more than 0. Raises `TimeoutError` if there are none."""
        remaining = self._end - time.monotonic()
        if remaining <= 0:
            raise TimeoutError
        return remaining


class HttpResponse:
    """The status and headers of a response, whose body has not been read yet."""

    def __init__(self, response: HTTPResponse, stream: "_DeadlineStream") -> None:
        self.status = response.status
        self.headers = response.headers
        self._response = response
        self._stream = stream

    def read(self, timeout: float | None = None) -> bytes:
        """Read the body. `timeout` in seconds replaces what is left of the request's deadline.

        Raises `HttpRequestFailed`; `HttpResponseTooLarge` if headers and body exceed the request's `max_bytes`.
        """
        if timeout is not None:
            self._stream.deadline = Deadline(timeout)
        body = bytearray()
        is_complete = False
        # `http.client` raises `IncompleteRead` for a chunked body only.
        with _failures_described(self._stream.deadline), suppress(IncompleteRead):
            # In chunks, because `read()` allocates as much memory as Content-Length announces.
            while chunk := self._response.read(_CHUNK_BYTES):
                body += chunk
            is_complete = not self._response.length  # of the bytes that Content-Length announced
        if self._stream.is_truncated:
            raise HttpResponseTooLarge("sent a response that is too large")
        if not is_complete:
            raise HttpRequestFailed(_INCOMPLETE)
        return bytes(body)

    def chunks(self, timeout: float) -> Iterator[bytes]:
        """Yield the parts of the body as they arrive, until its end.

        Raises `HttpRequestFailed` also if nothing arrives for `timeout` seconds.
        """
        while chunk := self._next_chunk(timeout):
            yield chunk

    def _next_chunk(self, timeout: float) -> bytes:
        self._stream.deadline = Deadline(timeout)
        with _failures_described(self._stream.deadline):
            try:
                return self._response.read1(_CHUNK_BYTES)
            except IncompleteRead:
                raise HttpRequestFailed(_INCOMPLETE) from None


@contextmanager
def send(
    method: str,
    target: HttpTarget,
    headers: Mapping[str, str],
    body: bytes | None = None,
    *,
    timeout: float,
    max_bytes: int,
    connect_timeout: float = float("inf"),
    resolve: Resolve | None = None,
    tls: ssl.SSLContext | None = None,
) -> Iterator[HttpResponse]:
    """Send a request, wait for the head of its response, and close the connection at the end of the `with` block.

    `timeout` is for the whole exchange, in seconds, `connect_timeout` for the TCP connection to one address. At most
    `max_bytes` of the response are received, headers included. `resolve` returns the only addresses to connect to, in
    place of the system's resolver; up to four are tried. The Host header and the certificate are always those of
    `target.host`. Raises `HttpRequestFailed`, such as `HttpNotConnected`, and what `resolve` raises. Any thread may
    call; blocks.
    """
    deadline = Deadline(timeout)
    with ExitStack() as stack:
        with _failures_described(deadline, HttpNotConnected):
            addresses = _within(deadline, lambda: list((resolve or resolve_host)(target.host, target.port)))
            connected = stack.enter_context(closing(_connect(addresses, target.port, deadline, connect_timeout)))
        with _failures_described(deadline):
            connected = stack.enter_context(closing(_with_tls(connected, target, deadline, tls)))
            stream = _DeadlineStream(connected, deadline, max_bytes)
            response = HttpResponse(_exchange(stream, method, target, headers, body), stream)
        yield response


def resolve_host(host: str, port: int) -> list[str]:
    """Ask the system's resolver, which may block for longer than a minute."""
    return [str(address[0]) for *_, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]


def _exchange(
    stream: "_DeadlineStream", method: str, target: HttpTarget, headers: Mapping[str, str], body: bytes | None
) -> HTTPResponse:
    connection = HTTPConnection(target.host, target.port)
    connection.default_port = _DEFAULT_PORTS[target.scheme]  # which the Host header leaves out
    connection.sock = stream
    connection.request(method, target.path, body, {"User-Agent": _USER_AGENT, "Connection": "close", **headers})
    return connection.getresponse()


def _connect(addresses: list[object], port: int, deadline: Deadline, longest: float) -> socket.socket:
    """Connect to the first address that accepts. Raises the error of the last address."""
    addresses = addresses[:_MAX_ADDRESSES]
    for untried, address in zip(range(len(addresses), 0, -1), addresses, strict=True):
        try:
            # An address that does not answer leaves an equal share of the time to the others.
            seconds = min(longest, deadline.remaining() / untried)
            connected = socket.create_connection((str(address), port), seconds)
        except OSError:
            if untried == 1:
                raise
        else:
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return connected
    raise OSError("no address")


def _within(deadline: Deadline, call: Callable[[], T]) -> T:
    """Call a function that has no timeout of its own. At the deadline, its thread continues and ends later."""
    result: Future[T] = Future()

    def run() -> None:
        try:
            result.set_result(call())
        except BaseException as error:
            result.set_exception(error)

    threading.Thread(target=run, name="resolver", daemon=True).start()
    return result.result(deadline.remaining())


def _with_tls(
    connected: socket.socket, target: HttpTarget, deadline: Deadline, tls: ssl.SSLContext | None
) -> socket.socket:
    if target.scheme != "https":
        return connected
    connected.settimeout(deadline.remaining())
    return (tls or _default_tls()).wrap_socket(connected, server_hostname=target.host)


class _DeadlineStream(io.RawIOBase):
    """What `http.client` uses of a socket; each step ends at the deadline, and reading ends after `max_bytes`.

    `close` does nothing: `http.client` closes a connection before it reads the body of its last response.
    """

    def __init__(self, connected: socket.socket, deadline: Deadline, max_bytes: int) -> None:
        super().__init__()
        self.deadline = deadline
        self._socket = connected
        self._remaining_bytes = max_bytes

    @property
    def is_truncated(self) -> bool:
        return not self._remaining_bytes

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._remaining_bytes:
            return 0  # for `http.client` the end of the response
        self._socket.settimeout(self.deadline.remaining())
        count = self._socket.recv_into(memoryview(buffer)[: self._remaining_bytes])
        self._remaining_bytes -= count
        return count

    def sendall(self, data: bytes) -> None:
        # Not `socket.sendall`: a TLS socket would apply the timeout to each of its writes.
        unsent = memoryview(data)
        while unsent:
            self._socket.settimeout(self.deadline.remaining())
            unsent = unsent[self._socket.send(unsent[:_CHUNK_BYTES]) :]

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(self)

    def close(self) -> None:
        pass


@cache
def _default_tls() -> ssl.SSLContext:
    return ssl.create_default_context()


@contextmanager
def _failures_described(deadline: Deadline, failure: type[HttpRequestFailed] = HttpRequestFailed) -> Iterator[None]:
    """Turn errors into `HttpTimeout` and `failure`."""
    try:
        yield
    except TimeoutError:
        raise HttpTimeout(f"did not answer within {deadline.seconds:.3g} s") from None
    except (OSError, HTTPException, UnicodeError) as error:
        raise failure(_describe(error)) from None


def _describe(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"has a certificate that is not trusted: {error.verify_message.rstrip('.')}"
    if isinstance(error, ssl.SSLError):
        return "failed the TLS handshake"
    if isinstance(error, socket.gaierror | UnicodeError):
        return "has a host name that cannot be resolved"
    if isinstance(error, ConnectionResetError | BrokenPipeError):  # RemoteDisconnected is the first of them
        return "closed the connection"
    return "did not answer in HTTP" if isinstance(error, HTTPException) else "cannot be connected to"
