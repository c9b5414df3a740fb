"""TLS for the main loop: sockets that behave like TCP sockets, and handshakes that occupy no thread."""

import logging
import math
import socket
import ssl
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from selectors import EVENT_READ, EVENT_WRITE
from typing import TYPE_CHECKING, Any

from gunicorn.workers.gthread import TConn

from kafka_http.event_loop import EventLoop
from kafka_http.logs import LogOnce
from kafka_http.server.app_interface import TlsContext
from kafka_http.server.gunicorn_responses import render_error

if TYPE_CHECKING:
    from typing_extensions import Buffer

HANDSHAKE_SECONDS = 10.0
"""Maximum time from the TCP connection to the end of the handshake."""
_MIN_SECONDS = 1.0
"""Minimum age of a connection before it is closed to make room for another one."""
_LOG_SECONDS = 60.0
_RECORD = 1 << 14
"""Maximum size of the data in a TLS record (RFC 8446, 5.1). OpenSSL reads and writes one record at a time."""
_HANDSHAKE_RECORD = b"\x16"
"""The first byte of each TLS connection."""


class TlsSocket(ssl.SSLSocket):
    """A TLS connection with the interface of a TCP socket, as far as this server uses it.

    Where the operation cannot continue now, it raises `BlockingIOError`. Renegotiation is off, so reads wait for reads
    and writes for writes. One exception remains: a read that must answer a request for new keys, while the client
    accepts no data. No well-behaved client causes it, and it ends the connection.

    One thread at a time may use it.
    """

    def recv(self, size: int = 1024, flags: int = 0) -> bytes:
        """Receive up to `size` bytes. A socket with a timeout waits for the first of them.

        Without a timeout, it receives all complete records that fit in.
        """
        data = self._receive_record(size)
        if len(data) < _RECORD or self.gettimeout() != 0:
            return data
        records = [data]
        left = size - _RECORD
        with suppress(BlockingIOError):
            while left >= _RECORD and (data := self._receive_record(left)):
                records.append(data)
                left -= len(data)
        return b"".join(records)

    def _receive_record(self, size: int) -> bytes:
        try:
            return self.read(_RECORD if size > _RECORD else size)
        except ssl.SSLWantReadError:
            raise BlockingIOError from None
        except ssl.SSLWantWriteError:
            raise ConnectionAbortedError("The client requests new keys but accepts no data.") from None
        except ValueError:  # after `shutdown`
            return super().recv(size)

    def send(self, data: "Buffer", flags: int = 0) -> int:
        """Send what the kernel accepts now. Does not wait, even if the socket has a timeout for its reads.

        After a `BlockingIOError`, call it again with the same data, to which more may be added at the end.
        """
        timeout = self.gettimeout()
        if timeout != 0:
            self.settimeout(0)
        try:
            return self.write(data) if len(memoryview(data)) <= _RECORD else self._send_records(memoryview(data))
        except (ssl.SSLWantWriteError, ssl.SSLWantReadError):
            raise BlockingIOError from None
        except ValueError:
            raise BrokenPipeError("The connection is closed.") from None
        finally:
            if timeout != 0:
                self.settimeout(timeout)

    def _send_records(self, data: memoryview) -> int:
        """Send one record after the other: if OpenSSL gets more, it does not tell how much it has sent."""
        sent = self.write(data[:_RECORD])
        with suppress(ssl.SSLWantWriteError):
            while sent < len(data):
                sent += self.write(data[sent : sent + _RECORD])
        return sent

    def sendmsg(self, buffers: Iterable["Buffer"], *_: Any) -> int:  # type: ignore[override]  # as in `socket`
        """Send up to one record of the data. See `send`."""
        record = bytearray()
        for each in buffers:
            record += memoryview(each)[: _RECORD - len(record)]
            if len(record) == _RECORD:
                break
        return self.send(record)

    def shutdown(self, how: int) -> None:
        """Tell the client that no more data follows. Received data is not decrypted from here on.

        Raises `BlockingIOError` if the kernel accepts no data now.
        """
        self._send_close_notify()
        super().shutdown(how)

    def close(self) -> None:
        """Close the connection. A client that still reads learns that it has all data."""
        with suppress(OSError):
            self._send_close_notify()
        super().close()

    def _send_close_notify(self) -> None:
        try:
            self.settimeout(0)
            self.unwrap()
        except ssl.SSLWantWriteError:
            raise BlockingIOError from None
        except (OSError, ValueError):  # it is sent, and that of the client missing; or the connection cannot be used
            pass


class TlsHandshakes:
    """The connections of a worker that have not completed their TLS handshake. The main loop calls all methods."""

    def __init__(
        self,
        loop: EventLoop,
        tls: TlsContext,
        *,
        start: Callable[[TConn], None],
        close: Callable[[TConn], None],
        close_lingering: Callable[[TConn], None],
    ) -> None:
        """Create it without connections. `start` gets each connection after its handshake.

        `close` closes one at once, `close_lingering` after the client has read what was sent.
        """
        self._loop = loop
        self._tls = tls
        self._start = start
        self._close = close
        self._close_lingering = close_lingering
        self._deadlines: dict[TConn, float] = {}
        """In the order of the deadlines, on the monotonic clock."""
        self._warnings = LogOnce(logging.getLogger(__name__), _LOG_SECONDS)

    def add(self, conn: TConn) -> None:
        """Wait for the client's first bytes. Until then the connection needs no memory for TLS."""
        self._deadlines[conn] = time.monotonic() + HANDSHAKE_SECONDS
        conn.sock.setblocking(False)
        self._loop.register(conn.sock, EVENT_READ, partial(self._on_first_bytes, conn))

    def expire(self) -> None:
        """Close the connections that are late."""
        self._close_due(time.monotonic())

    def limit(self, deadline: float) -> None:
        """Move later deadlines to this one: the worker stops."""
        self._deadlines = {conn: min(deadline, before) for conn, before in self._deadlines.items()}

    def make_room(self) -> bool:
        """Close the connection that has waited longest. Return False if none has waited for a second."""
        deadline = next(iter(self._deadlines.values()), math.inf)
        if deadline > time.monotonic() + HANDSHAKE_SECONDS - _MIN_SECONDS:
            return False
        self._close_due(deadline)
        return True

    def close(self) -> None:
        """Close all connections."""
        self._close_due(math.inf)

    def _close_due(self, until: float) -> None:
        """Close the connections whose deadline is not after this one."""
        for conn in [each for each, deadline in self._deadlines.items() if deadline <= until]:
            self._remove(conn)
            self._close(conn)

    def _remove(self, conn: TConn) -> None:
        self._loop.unregister(conn.sock)
        del self._deadlines[conn]

    def _on_first_bytes(self, conn: TConn, client: socket.socket) -> None:
        try:
            first = client.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return
        except OSError:
            first = b""
        if first == _HANDSHAKE_RECORD:
            self._wrap(conn)
            return
        self._remove(conn)
        if first.isalpha():
            self._refuse_plain_http(conn)
        else:
            self._close(conn)

    def _refuse_plain_http(self, conn: TConn) -> None:
        with suppress(OSError):  # a new connection accepts these few bytes at once
            conn.sock.send(
                render_error(400, "Bad Request", "This port accepts HTTPS only. Use a URL that begins with https://.")
            )
        self._close_lingering(conn)

    def _wrap(self, conn: TConn) -> None:
        context = self._tls.context
        context.sslsocket_class = TlsSocket
        self._loop.unregister(conn.sock)
        try:
            conn.sock = context.wrap_socket(conn.sock, server_side=True, do_handshake_on_connect=False)
        except (OSError, ValueError):  # the client has disconnected
            del self._deadlines[conn]
            self._close(conn)
            return
        self._loop.register(conn.sock, EVENT_READ, partial(self._continue, conn))
        self._continue(conn, conn.sock)

    def _continue(self, conn: TConn, client: ssl.SSLSocket) -> None:
        try:
            client.do_handshake()
        except ssl.SSLWantReadError:
            self._loop.modify(client, EVENT_READ, partial(self._continue, conn))
        except ssl.SSLWantWriteError:
            self._loop.modify(client, EVENT_WRITE, partial(self._continue, conn))
        except (OSError, ValueError) as error:
            self._remove(conn)
            self._fail(conn, error)
        else:
            self._remove(conn)
            self._start(conn)

    def _fail(self, conn: TConn, error: Exception) -> None:
        """Close the connection so that the client gets to read OpenSSL's alert, which says what is wrong."""
        if isinstance(error, ssl.SSLError) and not isinstance(error, ssl.SSLEOFError):
            address = conn.client[0] if isinstance(conn.client, tuple) else "a Unix socket"
            reason = getattr(error, "verify_message", None) or (error.reason or "unknown").replace("_", " ").lower()
            self._warnings.warning("TLS handshake with %s failed: %s.", address, reason)
        self._close_lingering(conn)
