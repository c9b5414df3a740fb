"""Streaming responses, sent by one thread for all clients.

A stream's socket leaves gunicorn and its threads. An idle stream costs its socket and a few objects. The application
provides the data as a `StreamSource`. Where it must read the data first, a few threads do so, one piece at a time.
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

HAND_OVER = "kafka_http.hand_over"
"""In the environ: takes a `StreamSource` once the first of the body is written, and does not return."""

READERS = 4
_LINGER_SECONDS = 2.0
_LONGEST_READ = 1.0
_BETWEEN_LOOKS = 0.2
"""Seconds; to look at the clocks of a thousand streams takes a quarter of a millisecond."""
_GONE = getattr(select, "EPOLLRDHUP", 0) | getattr(select, "EPOLLHUP", 0) | getattr(select, "EPOLLERR", 0)
_LAST_CHUNK = b"0\r\n\r\n"


class StreamSource(Protocol):
    """The body of an answer. One thread at a time calls."""

    is_over: bool
    """Whether all has been had."""

    @property
    def is_following(self) -> bool:
        """Whether `next(0)` does not block."""

    @property
    def due(self) -> float:
        """When `next` has something though nothing happens, on the monotonic clock."""

    def next(self, wait: float) -> bytes:
        """What is to be sent next: nothing where there is nothing yet."""

    def watch(self, moved: Callable[[], None]) -> None:
        """`moved` is to be called, by any thread, when `next` may have something."""

    def close(self) -> None:
        """The client has all, or is gone. May be called twice."""


class HandedOver(BaseException):
    """Ends the request in its thread; the worker then passes the connection to `StreamSender.add`.

    Only the worker may catch it.
    """

    def __init__(self, feed: StreamSource, is_chunked: bool) -> None:
        super().__init__()
        self.feed = feed
        self.is_chunked = is_chunked


def are_possible(cfg: Any) -> bool:
    """Whether bytes that are written to a connection's socket are what the client gets."""
    return hasattr(select, "epoll") and not cfg.is_ssl and getattr(cfg, "protocol", "http") == "http"


def hand_over(is_chunked: bool, feed: StreamSource) -> NoReturn:
    """What `HAND_OVER` in the environ is, once the framing is known."""
    raise HandedOver(feed, is_chunked)


class _Client:
    """A connection whose answer is a feed."""

    __slots__ = ("feed", "is_chunked", "is_reading", "is_waiting", "lingers_until", "sent_at", "socket", "unsent")

    def __init__(self, connection: socket.socket, feed: StreamSource, is_chunked: bool) -> None:
        self.socket = connection
        self.feed = feed
        self.is_chunked = is_chunked
        self.unsent: list[memoryview] = []
        self.sent_at = 0.0
        self.is_waiting = False
        """Whether its socket has taken all that it can."""
        self.is_reading = False
        """Whether a reader has its feed."""
        self.lingers_until = 0.0
        """Until then its client may close: it has all."""

    @property
    def is_gone(self) -> bool:
        return self.socket.fileno() < 0

    @property
    def can_take(self) -> bool:
        """Whether what comes next is to be had for it, and sent, now."""
        return not (self.is_waiting or self.is_reading or self.lingers_until or self.is_gone)

    def framed(self, data: bytes) -> Iterator[bytes]:
        """What goes over the line for this data."""
        if self.is_chunked and data:
            yield from (b"%x\r\n" % len(data), data, b"\r\n")
        elif data:
            yield data
        if self.is_chunked and self.feed.is_over:
            yield _LAST_CHUNK


class StreamSender:
    """The streams of a worker. `add`, `stop` and `close` are for its main loop."""

    def __init__(self, *, stall: float) -> None:
        """`stall`: seconds that a client may take nothing."""
        self._stall = stall
        self._clients: dict[int, _Client] = {}
        self._added: deque[_Client] = deque()
        self._read: deque[tuple[_Client, bytes]] = deque()
        self._epoll = select.epoll()
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll.register(self._wake_fd, select.EPOLLIN)
        self._is_woken = False
        self._look_at = 0.0
        self._is_closing = False
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="stream reader")
        self._thread = Thread(target=self._run, name="streams", daemon=True)
        self._thread.start()

    def add(self, connection: socket.socket, feed: StreamSource, is_chunked: bool) -> None:
        """Send the rest of an answer, and close the connection."""
        connection.setblocking(False)
        with suppress(OSError, AttributeError):  # of a host that vanishes nothing is heard
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(self._stall * 1000))
        feed.watch(self._wake)
        self._added.append(_Client(connection, feed, is_chunked))
        self._wake()

    def close(self, seconds: float) -> None:
        """The feeds end now by themselves: send their last for so long."""
        self._is_closing = True
        self._wake()
        self._thread.join(seconds)

    def _wake(self) -> None:
        if not self._is_woken:
            self._is_woken = True
            os.eventfd_write(self._wake_fd, 1)

    # The thread's

    def _run(self) -> None:
        while not (self._is_closing and not self._clients and not self._added):
            try:
                self._turn()
            except Exception:
                log.exception("A round of the streams has failed")
                time.sleep(_BETWEEN_LOOKS)  # it may fail again at once

    def _turn(self) -> None:
        for fd, events in self._epoll.poll(max(0.0, self._look_at - time.monotonic())):
            if fd == self._wake_fd:
                os.eventfd_read(fd)
            elif fd in self._clients:
                self._on_event(self._clients[fd], events)
        if self._is_woken:
            self._is_woken = False
            self._take_in()
            for client in list(self._clients.values()):
                self._advance(client)
        if time.monotonic() >= self._look_at:
            self._look_at_clocks()

    def _on_event(self, client: _Client, events: int) -> None:
        if events & _GONE:
            self._drop(client)
        elif client.is_waiting and self._flush(client):
            self._advance(client)

    def _take_in(self) -> None:
        while self._added:
            client = self._added.popleft()
            self._clients[client.socket.fileno()] = client
            client.sent_at = time.monotonic()
            self._epoll.register(client.socket, select.EPOLLRDHUP)
        while self._read:
            client, data = self._read.popleft()
            client.is_reading = False
            if client.is_gone:  # it has left meanwhile
                client.feed.close()
            else:
                self._send(client, data)

    def _look_at_clocks(self) -> None:
        now = time.monotonic()
        for client in list(self._clients.values()):
            if client.lingers_until:
                if now >= client.lingers_until:
                    self._drop(client)
            elif client.is_waiting and now - client.sent_at > self._stall:
                log.info("A client stalled for %s s; it is let go", self._stall)
                self._drop(client)
            elif client.can_take and client.feed.due <= now:
                self._advance(client)
        self._look_at = now + _BETWEEN_LOOKS

    def _advance(self, client: _Client) -> None:
        """Send what there is, as much as the client takes."""
        feed = client.feed
        while client.can_take:
            if feed.is_following:
                data = feed.next(0)
                if not data and not feed.is_over and feed.is_following:
                    return
                self._send(client, data)
            else:
                client.is_reading = True
                self._readers.submit(self._read_on, client)

    def _read_on(self, client: _Client) -> None:
        """Called by a reader."""
        data = client.feed.next(_LONGEST_READ)
        self._read.append((client, data))
        self._wake()

    def _send(self, client: _Client, data: bytes) -> None:
        client.unsent.extend(map(memoryview, client.framed(data)))
        self._flush(client)

    def _flush(self, client: _Client) -> bool:
        """Whether the client has taken all that there was for it, and is still there."""
        try:
            self._write(client)
        except BlockingIOError:
            self._wait_for_room(client, True)
            return False
        except OSError:
            self._drop(client)
            return False
        self._wait_for_room(client, False)
        if client.feed.is_over:
            self._end(client)
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

    def _wait_for_room(self, client: _Client, is_waiting: bool) -> None:
        if client.is_waiting != is_waiting:
            client.is_waiting = is_waiting
            self._epoll.modify(client.socket, select.EPOLLRDHUP | (select.EPOLLOUT if is_waiting else 0))

    def _end(self, client: _Client) -> None:
        """Let the client close first: what it has sent meanwhile would else have the end of its answer thrown away."""
        client.feed.close()
        client.lingers_until = time.monotonic() + _LINGER_SECONDS
        try:
            client.socket.shutdown(socket.SHUT_WR)
        except OSError:
            self._drop(client)

    def _drop(self, client: _Client) -> None:
        del self._clients[client.socket.fileno()]
        self._epoll.unregister(client.socket)
        client.socket.close()
        if not client.is_reading:
            client.feed.close()
