"""Closes connections without destroying responses that their clients have not read.

Data that arrives on a closed socket causes a reset, after which the client cannot read the rest of its response. A
lingering close shuts down the sending side only and discards data until the client closes its side (RFC 9112, 9.6).
"""

import socket
import ssl
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from selectors import EVENT_READ, EVENT_WRITE

from gunicorn.workers.gthread import TConn

from kafka_http.event_loop import EventLoop

LINGER_SECONDS = 2.0
LINGER_BYTES = 16 << 20
_READ_BYTES = 1 << 16


class LingeringConnections:
    """The connections of a worker after their last response. The main loop calls all methods."""

    def __init__(self, loop: EventLoop, close: Callable[[TConn], None]) -> None:
        """Create it without connections. `close` closes one."""
        self._loop = loop
        self._close = close
        self._connections: deque[_LingeringConnection] = deque()

    def add(self, conn: TConn) -> None:
        """Close the connection when its client has closed its side, and after `LINGER_SECONDS` at the latest."""
        try:
            conn.sock.setblocking(False)
            is_shut_down = _shut_down(conn.sock)
        except OSError:  # closed already
            self._close(conn)
            return
        lingering = _LingeringConnection(conn)
        self._connections.append(lingering)
        if is_shut_down:
            self._loop.register(conn.sock, EVENT_READ, partial(self._on_readable, lingering))
        else:
            self._loop.register(conn.sock, EVENT_WRITE, partial(self._on_writable, lingering))

    def expire(self) -> None:
        while self._connections and self._connections[0].deadline <= time.monotonic():
            self._end(self._connections[0])

    def close_oldest(self) -> bool:
        """Close the oldest connection. Return False if there is none."""
        if self._connections:
            self._end(self._connections[0])
            return True
        return False

    def _on_writable(self, lingering: "_LingeringConnection", client: socket.socket) -> None:
        try:
            if _shut_down(client):
                self._loop.modify(client, EVENT_READ, partial(self._on_readable, lingering))
        except OSError:
            self._end(lingering)

    def _on_readable(self, lingering: "_LingeringConnection", client: socket.socket) -> None:
        if lingering.discard_received(client):
            self._end(lingering)

    def _end(self, lingering: "_LingeringConnection") -> None:
        self._connections.remove(lingering)
        self._loop.unregister(lingering.conn.sock)
        self._close(lingering.conn)


def _shut_down(client: socket.socket) -> bool:
    """Close the sending side. Return whether it is closed: TLS needs room in the kernel for its last bytes."""
    try:
        client.shutdown(socket.SHUT_WR)
    except BlockingIOError:
        return False
    return True


class _LingeringConnection:
    def __init__(self, conn: TConn) -> None:
        self.conn = conn
        self.deadline = time.monotonic() + LINGER_SECONDS
        self._discarded = 0

    def discard_received(self, client: socket.socket) -> bool:
        """Discard received data. Return whether the client has closed its side or sends too much."""
        try:
            size = len(client.recv(_READ_BYTES))
        except (BlockingIOError, ssl.SSLWantReadError):
            return False
        except OSError:
            return True
        self._discarded += size
        return not size or self._discarded > LINGER_BYTES
