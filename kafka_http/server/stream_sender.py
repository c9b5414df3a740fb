"""Sends the streaming responses of a worker with one thread.

A stream's socket leaves gunicorn and its threads, so an idle stream costs its socket and a few objects. The application
provides the data as a `StreamSource`. If reading the data may block, one of a few reader threads reads it.
"""

import logging
import os
import select
import socket
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from threading import Thread
from typing import Any, NoReturn, Protocol

log = logging.getLogger(__name__)

READERS = 4
_CLOSE_SECONDS = 2.0
_READ_SECONDS = 1.0
_CHECK_SECONDS = 0.2
"""Time between checks of timeouts. A check of a thousand streams takes 0.25 ms."""
_DISCONNECTED = getattr(select, "EPOLLRDHUP", 0) | getattr(select, "EPOLLHUP", 0) | getattr(select, "EPOLLERR", 0)
_LAST_CHUNK = b"0\r\n\r\n"


class StreamSource(Protocol):
    """The body of a streaming response. One thread at a time calls it."""

    is_over: bool
    """Whether `next` has returned all data."""

    @property
    def is_following(self) -> bool:
        """Whether `next(0)` returns without blocking."""

    @property
    def due(self) -> float:
        """When `next` returns a keep-alive even without new data, on the monotonic clock."""

    def next(self, wait: float) -> bytes:
        """Return the next data, or nothing if there is none within `wait` seconds."""

    def watch(self, on_data: Callable[[], None]) -> None:
        """Call `on_data`, in any thread, when `next` may have data."""

    def close(self) -> None:
        """End the stream: the client has all data or is disconnected. May be called twice."""


class StreamDetached(BaseException):
    """Ends a request in its thread, after which the worker passes the connection to `StreamSender.add`.

    Only the worker may catch it.
    """

    def __init__(self, source: StreamSource, is_chunked: bool) -> None:
        super().__init__()
        self.source = source
        self.is_chunked = is_chunked
        self.on_end: Callable[[int], None] | None = None
        """Called once when the connection is closed, with the bytes of the body that were sent since."""


def can_send_streams(cfg: Any) -> bool:
    """Return whether the client gets exactly the bytes that are written to its socket (no gunicorn TLS, no HTTP/2)."""
    return hasattr(select, "epoll") and not cfg.is_ssl and getattr(cfg, "protocol", "http") == "http"


def detach_stream(is_chunked: bool, source: StreamSource) -> NoReturn:
    """Detach the response from its thread. `DETACH_STREAM` in the environ is this function with its framing."""
    raise StreamDetached(source, is_chunked)


class _Client:
    """A connection whose response is a stream."""

    __slots__ = (
        "closing_until", "is_blocked", "is_chunked", "is_reading", "on_close", "sent_at", "sent_bytes", "socket",
        "source", "unsent",
    )  # fmt: skip

    def __init__(
        self, connection: socket.socket, source: StreamSource, is_chunked: bool, on_close: Callable[[int], None]
    ) -> None:
        self.socket = connection
        self.source = source
        self.is_chunked = is_chunked
        self.on_close = on_close
        self.unsent: list[memoryview] = []
        self.sent_at = 0.0
        self.sent_bytes = 0
        """Bytes of the body, with those in `unsent`."""
        self.is_blocked = False
        """Whether the socket's send buffer is full."""
        self.is_reading = False
        """Whether a reader thread uses the source."""
        self.closing_until = 0.0
        """When to close the connection if the client does not; 0 while the stream is not complete."""

    @property
    def is_closed(self) -> bool:
        return self.socket.fileno() < 0

    @property
    def is_ready(self) -> bool:
        """Whether the next data can be read and sent now."""
        return not (self.is_blocked or self.is_reading or self.closing_until or self.is_closed)

    def frame(self, data: bytes) -> Iterator[bytes]:
        """Yield the data in the response's framing."""
        self.sent_bytes += len(data)
        if self.is_chunked and data:
            yield from (b"%x\r\n" % len(data), data, b"\r\n")
        elif data:
            yield data
        if self.is_chunked and self.source.is_over:
            yield _LAST_CHUNK


class StreamSender:
    """The streams of a worker. Its main loop calls `add` and `close`; its own thread calls the rest."""

    def __init__(self, *, stall: float) -> None:
        """Start the thread. `stall`: seconds without progress after which a client is disconnected."""
        self._stall = stall
        self._clients: dict[int, _Client] = {}
        self._added: deque[_Client] = deque()
        self._read: deque[tuple[_Client, bytes]] = deque()
        self._epoll = select.epoll()
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll.register(self._wake_fd, select.EPOLLIN)
        self._is_woken = False
        self._next_check = 0.0
        self._is_closing = False
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="stream reader")
        self._thread = Thread(target=self._run, name="streams", daemon=True)
        self._thread.start()

    def add(
        self, connection: socket.socket, source: StreamSource, is_chunked: bool, on_close: Callable[[int], None]
    ) -> None:
        """Send the rest of a response, then close the connection.

        The thread then calls `on_close` with the bytes of the body that it has sent.
        """
        connection.setblocking(False)
        with suppress(OSError, AttributeError):  # a host that vanishes sends nothing
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(self._stall * 1000))
        source.watch(self._wake)
        self._added.append(_Client(connection, source, is_chunked, on_close))
        self._wake()

    def close(self, seconds: float) -> None:
        """Wait up to `seconds` for the streams to end. The application has told their sources to stop."""
        self._is_closing = True
        self._wake()
        self._thread.join(seconds)

    def _wake(self) -> None:
        if not self._is_woken:
            self._is_woken = True
            os.eventfd_write(self._wake_fd, 1)

    def _run(self) -> None:
        while not (self._is_closing and not self._clients and not self._added):
            try:
                self._run_once()
            except Exception:
                log.exception("Sending streams failed; continuing.")
                time.sleep(_CHECK_SECONDS)  # the next attempt may fail at once

    def _run_once(self) -> None:
        for fd, events in self._epoll.poll(max(0.0, self._next_check - time.monotonic())):
            if fd == self._wake_fd:
                os.eventfd_read(fd)
            elif fd in self._clients:
                self._on_event(self._clients[fd], events)
        if self._is_woken:
            self._is_woken = False
            self._add_clients()
            self._send_read_data()
            for client in list(self._clients.values()):
                self._send_available(client)
        if time.monotonic() >= self._next_check:
            self._check_timeouts()

    def _on_event(self, client: _Client, events: int) -> None:
        if events & _DISCONNECTED:
            self._drop(client)
        elif client.is_blocked and self._flush(client):
            self._send_available(client)

    def _add_clients(self) -> None:
        while self._added:
            client = self._added.popleft()
            self._clients[client.socket.fileno()] = client
            client.sent_at = time.monotonic()
            self._epoll.register(client.socket, select.EPOLLRDHUP)

    def _send_read_data(self) -> None:
        """Send the data from the reader threads."""
        while self._read:
            client, data = self._read.popleft()
            client.is_reading = False
            if client.is_closed:
                client.source.close()
            else:
                self._send(client, data)

    def _check_timeouts(self) -> None:
        now = time.monotonic()
        for client in list(self._clients.values()):
            if client.closing_until:
                if now >= client.closing_until:
                    self._drop(client)
            elif client.is_blocked and now - client.sent_at > self._stall:
                log.info("Closed a stream after %s s without progress.", self._stall)
                self._drop(client)
            elif client.is_ready and client.source.due <= now:
                self._send_available(client)
        self._next_check = now + _CHECK_SECONDS

    def _send_available(self, client: _Client) -> None:
        """Send the available data until the client's socket is full or a reader thread must read."""
        source = client.source
        while client.is_ready:
            if source.is_following:
                data = source.next(0)
                if not data and not source.is_over and source.is_following:
                    return
                self._send(client, data)
            else:
                client.is_reading = True
                self._readers.submit(self._read_source, client)

    def _read_source(self, client: _Client) -> None:
        """Read the next data in a reader thread."""
        data = client.source.next(_READ_SECONDS)
        self._read.append((client, data))
        self._wake()

    def _send(self, client: _Client, data: bytes) -> None:
        client.unsent.extend(map(memoryview, client.frame(data)))
        self._flush(client)

    def _flush(self, client: _Client) -> bool:
        """Send unsent data. Return whether all was sent and the client is still connected."""
        try:
            self._write(client)
            if client.source.is_over:
                self._end(client)
        except BlockingIOError:
            self._set_blocked(client, True)
            return False
        except OSError:
            self._drop(client)
            return False
        self._set_blocked(client, False)
        return True

    @staticmethod
    def _write(client: _Client) -> None:
        unsent = client.unsent
        while unsent:
            sent = client.socket.sendmsg(unsent)
            client.sent_at = time.monotonic()
            while unsent and sent >= len(unsent[0]):
                sent -= len(unsent.pop(0))
            if sent:
                unsent[0] = unsent[0][sent:]

    def _set_blocked(self, client: _Client, is_blocked: bool) -> None:
        if client.is_blocked != is_blocked:
            client.is_blocked = is_blocked
            self._epoll.modify(client.socket, select.EPOLLRDHUP | (select.EPOLLOUT if is_blocked else 0))

    def _end(self, client: _Client) -> None:
        """Let the client close first: if it has sent data meanwhile, closing here would discard unread output."""
        client.source.close()
        client.socket.shutdown(socket.SHUT_WR)
        client.closing_until = time.monotonic() + _CLOSE_SECONDS

    def _drop(self, client: _Client) -> None:
        del self._clients[client.socket.fileno()]
        self._epoll.unregister(client.socket)
        client.socket.close()
        client.on_close(max(0, client.sent_bytes - sum(map(len, client.unsent))))
        if not client.is_reading:
            client.source.close()
