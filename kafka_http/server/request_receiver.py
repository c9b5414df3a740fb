"""Receives requests in the worker's main loop: how long they may take, and how much memory."""

import logging
import time
from typing import TYPE_CHECKING, Any

from kafka_http.server.app_interface import ReceivePolicyProtocol
from kafka_http.server.gunicorn_responses import render_error
from kafka_http.server.idle_connections import ClientConnection, IdleConnections
from kafka_http.server.request_reader import RequestReader

if TYPE_CHECKING:
    from kafka_http.server.connection_loop import ConnectionLoop

log = logging.getLogger(__name__)

HEAD_SECONDS = 10.0
"""How long a head may take from its first byte."""
RATE_SECONDS = 10.0
"""How long a body may take as it likes, and how often its rate is looked at after that."""
_LITTLE = 1 << 16
"""Bytes of an unfinished request that are not worth a 408."""


class RequestReceiver:
    """The requests of a main loop that have not arrived whole. The loop gives what it reads to `receive`, and gets
    each request back by `dispatch` once it is whole or to be refused."""

    def __init__(self, loop: "ConnectionLoop", receiving: ReceivePolicyProtocol) -> None:
        self.heads, self.bodies = IdleConnections(), IdleConnections()
        self._loop = loop
        self._receiving = receiving
        self._stops = False

    def wait(self, connection: ClientConnection) -> None:
        """The first byte of a request has come."""
        connection.began = time.monotonic()
        self.heads.add(connection, HEAD_SECONDS)

    def discard(self, connection: ClientConnection) -> None:
        self.heads.discard(connection)
        self.bodies.discard(connection)

    def expire(self, now: float) -> None:
        """Answer 408 to what takes too long."""
        for connection in self.heads.take_expired(now):
            self._on_head_overdue(connection)
        for connection in self.bodies.take_expired(now):
            self._check_rate(connection)

    def begin_stop(self, until: float) -> None:
        """Wait no longer than that for heads, and for bodies no longer than for a new one."""
        self._stops = True
        self.heads.hasten(until)
        self.bodies.hasten(time.monotonic() + RATE_SECONDS)

    def receive(self, connection: ClientConnection, reader: RequestReader, data: bytes) -> None:
        is_first = reader.request is None
        reader.feed(data)
        request = reader.request
        if reader.error is not None:
            self._refuse(connection, reader.error)
        elif request is None:
            if connection.ended:
                self._loop.drop(connection)
            elif reader.size > _LITTLE:
                self._keep_unfinished_small()
        elif is_first and self._is_streamed(request):
            self._loop.dispatch(connection, reader, is_streamed=True)
        else:
            self._receive_body(connection, reader, is_first)

    def _receive_body(self, connection: ClientConnection, reader: RequestReader, is_first: bool) -> None:
        self.count(connection, reader)
        is_over = reader.refusal is not None or reader.is_too_large or reader.is_malformed or connection.ended
        if reader.is_whole or is_over:
            if not (reader.is_whole and reader.may_be_plain and self._loop.begin_late(connection, reader)):
                self._loop.dispatch(connection, reader)
            return
        if is_first:
            self.heads.discard(connection)
            connection.seen = -1
            self.bodies.add(connection, RATE_SECONDS)
            if reader.expects_continue:
                self._ask_for_body(connection)
        if reader.size > _LITTLE:
            self._keep_unfinished_small()

    def _is_streamed(self, request: Any) -> bool:
        if request.method != "POST":
            return False
        headers = {name.lower(): value for name, value in request.headers}
        return self._receiving.is_streamed(request.method, request.path, headers)

    def count(self, connection: ClientConnection, reader: RequestReader) -> None:
        """Count what has come of the body as in flight, or find that it is too much."""
        limit = self._receiving.max_body_bytes
        reader.is_too_large = reader.declared > limit or reader.body_size > limit
        if new := reader.body_size - connection.counted:
            try:
                connection.counted += self._receiving.hold(new, connection.counted)
            except Exception as error:  # the application's, for the client
                reader.refusal = error

    def _ask_for_body(self, connection: ClientConnection) -> None:
        try:
            connection.outgoing.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        except OSError:
            self._loop.drop(connection)

    def _keep_unfinished_small(self) -> None:
        """Where unfinished requests take more than their half of what may be in flight, the slowest ends."""
        while True:
            readers = [(each, each.reader) for group in (self.heads, self.bodies) for each in group if each.reader]
            if 2 * sum(reader.size for _, reader in readers) <= self._receiving.max_in_flight:
                return
            large = [(each, reader) for each, reader in readers if reader.size > _LITTLE]
            if len(large) <= 1:
                return
            now = time.monotonic()
            slowest, _ = min(large, key=lambda pair: pair[1].size / (now - pair[0].began + 0.001))
            self._time_out(slowest, "Too many bytes of unfinished requests are held; this was the slowest.")

    def _on_head_overdue(self, connection: ClientConnection) -> None:
        if connection.reader is None:
            self._loop.read(connection, is_plain=True)
        if connection.reader is not None and connection.reader.request is None:
            self._time_out(connection, f"The head of a request must arrive within {HEAD_SECONDS:g} s.")

    def _check_rate(self, connection: ClientConnection) -> None:
        """A body's first seconds are its own; after them each window needs its bytes."""
        if self._stops:
            self._end(connection, 503, "Service Unavailable", "The server is stopping. Nothing was done; try again.")
            return
        size = 0 if connection.reader is None else connection.reader.body_size
        rate = self._receiving.min_body_rate
        if connection.seen >= 0 and size - connection.seen < rate * RATE_SECONDS:
            self._time_out(connection, f"A body must arrive at {rate} bytes a second at least.")
            return
        connection.seen = size
        self.bodies.add(connection, RATE_SECONDS)

    def _time_out(self, connection: ClientConnection, message: str) -> None:
        self._end(connection, 408, "Request Timeout", message)

    def _end(self, connection: ClientConnection, status: int, reason: str, message: str) -> None:
        log.info("Closed a connection before its request had arrived. %s", message)
        self._say_last(connection, render_error(status, reason, message))

    def _refuse(self, connection: ClientConnection, error: Exception) -> None:
        reader = connection.reader
        request = None if reader is None else reader.request
        self._loop.worker.handle_error(request, connection.outgoing, connection.conn.client, error)
        self._say_last(connection, b"")

    def _say_last(self, connection: ClientConnection, data: bytes) -> None:
        self._loop.leave(connection)
        self.release(connection)
        connection.reader = None
        connection.last = True
        try:
            connection.outgoing.sendall(data)
        except OSError:
            self._loop.drop(connection)
            return
        self._loop.after_writing(connection)

    def release(self, connection: ClientConnection) -> None:
        """What was received counts no more."""
        if connection.counted:
            self._receiving.hold(-connection.counted)
            connection.counted = 0
