"""The state of a client's connection while no thread uses it."""

import logging
import socket
import ssl
import time
from collections.abc import Generator, Iterator
from contextvars import Context
from hashlib import sha256
from typing import Any, NamedTuple

from gunicorn.workers.gthread import TConn

from kafka_http.event_loop import guarded
from kafka_http.server.app_interface import AdmittedConnection, Client, OnSent, PendingResponse
from kafka_http.server.fast_path_parser import FastPathHead
from kafka_http.server.request_reader import RequestReader
from kafka_http.server.stream_sender import StreamDetached

log = logging.getLogger(__name__)

_MAX_GROUPS = 16
"""Timeouts that a `GroupedTimeouts` keeps, unless more are in use."""


class SendBuffer:
    """Replaces a connection's socket while a response is written: it never blocks and keeps unsent data.

    Either a thread or the main loop uses it, never both at the same time.
    """

    __slots__ = ("_socket", "has_data", "sent_bytes", "unsent")

    def __init__(self, client: socket.socket) -> None:
        self._socket = client
        self.unsent: list[memoryview] = []  # of a few parts; an empty deque takes 760 bytes
        self.has_data = False
        """Whether any part of the current response was written."""
        self.sent_bytes = 0
        """Bytes of the current response that the client's kernel or ours has accepted."""

    @property
    def size(self) -> int:
        """Unsent bytes."""
        return sum(map(len, self.unsent))

    def sendall(self, data: bytes | memoryview) -> None:
        """Send the data, or keep it to send later. Raises `OSError` if the connection is broken."""
        self.has_data = True
        sent = 0 if self.unsent else self._send(data)
        if sent < len(data):
            self.unsent.append(memoryview(data)[sent:])

    def send(self, data: bytes) -> int:
        """Do the same as `sendall`. gunicorn calls both."""
        self.sendall(data)
        return len(data)

    def flush(self) -> bool:
        """Send unsent data without blocking. Return whether any was sent. Raises `OSError`."""
        has_progress = False
        while self.unsent:
            sent = self._send(self.unsent[0])
            has_progress |= sent > 0
            if sent < len(self.unsent[0]):
                self.unsent[0] = self.unsent[0][sent:]
                break
            del self.unsent[0]
        return has_progress

    def _send(self, data: bytes | memoryview) -> int:
        try:
            sent = self._socket.send(data, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return 0
        self.sent_bytes += sent
        return sent

    def reset(self) -> None:
        """Prepare for the next response."""
        self.has_data, self.sent_bytes = False, 0


class CountedConnection(TConn):
    """gunicorn's connection, with what the application counts it for."""

    admitted: AdmittedConnection | None = None

    def close(self, graceful: bool = False) -> None:
        super().close(graceful)
        if self.admitted is not None:
            self.admitted.close()


class LoggedRequest(NamedTuple):
    """A request on the fast path, for its access log line. It was handed to Kafka at `started` (monotonic clock)."""

    head: FastPathHead
    body_size: int
    started: float


class ClientConnection:
    """A client's connection: idle, receiving a request, waiting for its response, used by a thread, or sending.

    The main loop creates it for each accepted connection and changes its state.
    """

    __slots__ = (
        "body_bytes_checked", "client", "closes_after_response", "conn", "context", "counted_bytes", "has_eof",
        "is_closed", "is_watched", "logged_request", "method", "on_sent", "pending_response", "reader", "received",
        "response_steps", "send_buffer", "started",
    )  # fmt: skip

    def __init__(self, conn: TConn) -> None:
        self.conn = conn
        self.client = _client_of(conn)
        self.send_buffer = SendBuffer(conn.sock)
        self.received = b""
        """Received data that no reader has taken."""
        self.reader: RequestReader | None = None
        """Reads the current request, unless it has arrived in one piece and is on the fast path."""
        self.body_bytes_checked = 0
        """Size of the body at the last check of its rate; negative before the first check."""
        self.counted_bytes = 0
        """Bytes of the body that count toward `max_in_flight`."""
        self.pending_response: PendingResponse | None = None
        self.method = ""
        """The method of the request that `pending_response` belongs to."""
        self.logged_request: LoggedRequest | None = None
        """For the access log: the request that `pending_response` belongs to."""
        self.on_sent: OnSent | None = None
        """The `FastPathResponse.on_sent` of the response that is being sent."""
        self.started = 0.0
        """When the first byte of the request arrived, or the connection became idle, on the monotonic clock."""
        self.response_steps: Generator[None, None, bool] | None = None
        """Creates the response. It yields when unsent data must be sent first; see `Worker.respond`."""
        self.context: Context | None = None
        """The context of `response_steps`, which several threads may run one after the other."""
        self.is_watched = False
        """Whether the poller has the socket."""
        self.has_eof = False
        """Whether the client has closed its side. It may still wait for a response."""
        self.closes_after_response = False
        self.is_closed = False

    def fileno(self) -> int:
        """Return the socket's file descriptor, so that an event loop can watch the connection."""
        return int(self.conn.sock.fileno())

    def run_step(self) -> bool | StreamDetached | None:
        """Create more of the response, in any thread.

        Return whether the connection may be kept open, or None if unsent data must be sent first.
        """
        steps, context = self.response_steps, self.context
        assert steps is not None  # noqa: S101  set with each request
        assert context is not None  # noqa: S101
        try:
            context.run(next, steps)
        except StopIteration as end:
            return bool(end.value)
        except StreamDetached as detached:
            return detached
        except BaseException:
            log.exception("Response was not completed.")
            return False
        return None

    def report_sent(self, *, is_sent: bool) -> None:
        """Tell the application, once, whether its response was sent."""
        if self.on_sent is not None:
            on_sent, self.on_sent = self.on_sent, None
            guarded(on_sent, is_sent)


def _client_of(conn: TConn) -> Client:
    """Return the client with its verified certificate, if the server asks for one."""
    admitted = conn.admitted if isinstance(conn, CountedConnection) else None
    client = Client(conn.client[0] if isinstance(conn.client, tuple) else "", connection=admitted)
    sock: Any = conn.sock
    if not isinstance(sock, ssl.SSLSocket) or sock.context.verify_mode == ssl.CERT_NONE:
        return client
    encoded = sock.getpeercert(binary_form=True)
    if encoded is None:
        return client
    return client._replace(certificate=sock.getpeercert(), certificate_digest=sha256(encoded).digest())


class ConnectionTimeouts:
    """Connections that wait for the same event with the same timeout, in the order of their deadlines."""

    def __init__(self) -> None:
        self._deadlines: dict[ClientConnection, float] = {}

    def __len__(self) -> int:
        return len(self._deadlines)

    def __contains__(self, connection: ClientConnection) -> bool:
        return connection in self._deadlines

    def __iter__(self) -> Iterator[ClientConnection]:
        return iter(self._deadlines)

    def add(self, connection: ClientConnection, seconds: float) -> None:
        self._deadlines.pop(connection, None)
        self._deadlines[connection] = time.monotonic() + seconds

    def discard(self, connection: ClientConnection) -> None:
        self._deadlines.pop(connection, None)

    @property
    def oldest(self) -> ClientConnection:
        return next(iter(self._deadlines))

    def limit(self, deadline: float) -> None:
        """Move later deadlines to this one."""
        self._deadlines = {connection: min(deadline, before) for connection, before in self._deadlines.items()}

    @property
    def next_deadline(self) -> float:
        """The first deadline on the monotonic clock; infinity if there is none."""
        return next(iter(self._deadlines.values()), float("inf"))

    def pop_expired(self, now: float) -> list[ClientConnection]:
        expired = []
        for connection, deadline in self._deadlines.items():
            if deadline > now:
                break
            expired.append(connection)
        for connection in expired:
            del self._deadlines[connection]
        return expired


class GroupedTimeouts:
    """Connections that wait with different timeouts: a `ConnectionTimeouts` for each timeout."""

    def __init__(self) -> None:
        self._groups: dict[float, ConnectionTimeouts] = {}

    def __len__(self) -> int:
        return sum(map(len, self._groups.values()))

    def add(self, connection: ClientConnection, seconds: float) -> None:
        group = self._groups.get(seconds)
        if group is None:
            if len(self._groups) >= _MAX_GROUPS:
                self._groups = {key: each for key, each in self._groups.items() if each}
            group = self._groups[seconds] = ConnectionTimeouts()
        group.add(connection, seconds)

    def discard(self, connection: ClientConnection, seconds: float) -> None:
        """Remove a connection that was added with this timeout."""
        if (group := self._groups.get(seconds)) is not None:
            group.discard(connection)

    @property
    def next_deadline(self) -> float:
        """The first deadline on the monotonic clock; infinity if there is none."""
        return min([each.next_deadline for each in self._groups.values()], default=float("inf"))

    def pop_expired(self, now: float) -> list[ClientConnection]:
        return [connection for each in self._groups.values() for connection in each.pop_expired(now)]
