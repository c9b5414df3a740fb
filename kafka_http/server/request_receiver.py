"""Limits for requests that the main loop receives: how long they may take and how much memory they may use."""

import logging
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from typing import Any, Protocol

from kafka_http.server.app_interface import Decision, RequestPolicy
from kafka_http.server.client_connection import ClientConnection, ConnectionTimeouts
from kafka_http.server.gunicorn_responses import render_error
from kafka_http.server.request_reader import RequestReader

log = logging.getLogger(__name__)

HEAD_SECONDS = 10.0
"""Maximum time from the first byte of a head to its last."""
RATE_SECONDS = 10.0
"""Time before a body's rate is checked, and between two checks."""
SMALL_BYTES = 1 << 16
"""Requests and responses up to this size are not closed to free memory."""


class ReceiverOwner(Protocol):
    """What a `RequestReceiver` needs of the connection loop."""

    def start_prepared(self, connection: ClientConnection, reader: RequestReader) -> bool:
        """Start a complete request on the fast path, or do nothing and return False."""

    def dispatch(self, connection: ClientConnection, reader: RequestReader, is_streamed: bool = False) -> None:
        """Run a request where the policy says."""

    def decide_in_thread(
        self,
        connection: ClientConnection,
        decide: Callable[[], Decision | None],
        on_decided: Callable[[Decision], None],
    ) -> None:
        """Call `decide` in a thread, then `on_decided` in the main loop. Nothing is received meanwhile."""

    def stop_watching(self, connection: ClientConnection) -> None:
        """Stop waiting for the client."""

    def continue_response(self, connection: ClientConnection) -> None:
        """Send unsent data, then end the response."""

    def drop(self, connection: ClientConnection) -> None:
        """Close a connection."""

    def handle_error(self, request: Any, connection: ClientConnection, error: Exception) -> None:
        """Write the response to a request that is not valid HTTP."""


class RequestReceiver:
    """The incomplete requests of a main loop.

    The loop passes received data to `receive`. It gets each request back through `start_prepared` or `dispatch` when
    the request is complete or to be rejected.
    """

    def __init__(self, loop: ReceiverOwner, policy: RequestPolicy) -> None:
        self.heads, self.bodies = ConnectionTimeouts(), ConnectionTimeouts()
        self._loop = loop
        self._policy = policy
        self._is_stopping = False

    def start(self, connection: ClientConnection, reader: RequestReader, data: bytes) -> None:
        """Begin with a request whose first bytes are `data`."""
        connection.started = time.monotonic()
        connection.reader = reader
        self.heads.add(connection, HEAD_SECONDS)
        self.receive(connection, reader, data)

    def start_body(self, connection: ClientConnection, reader: RequestReader) -> None:
        """Begin with a request whose head and a part of whose body have arrived."""
        connection.started = time.monotonic()
        connection.reader = reader
        self._receive_body(connection, reader, is_first=True)

    def discard(self, connection: ClientConnection) -> None:
        self.heads.discard(connection)
        self.bodies.discard(connection)

    def expire(self, now: float) -> None:
        """Respond with 408 to requests that take too long."""
        for connection in self.heads.pop_expired(now):
            self._time_out(connection, f"The request's headers did not arrive within {HEAD_SECONDS:g} s.")
        for connection in self.bodies.pop_expired(now):
            self._check_rate(connection)

    def begin_stop(self, deadline: float) -> None:
        """Wait for heads until `deadline` only, and for bodies for `RATE_SECONDS` only."""
        self._is_stopping = True
        self.heads.limit(deadline)
        self.bodies.limit(time.monotonic() + RATE_SECONDS)

    def receive(self, connection: ClientConnection, reader: RequestReader, data: bytes) -> None:
        is_first = not reader.has_head
        reader.feed(data)
        if reader.error is not None:
            self._reject(connection, reader, reader.error)
        elif not reader.has_head:
            if connection.has_eof:
                self._loop.drop(connection)
            elif reader.size > SMALL_BYTES:
                self._limit_memory()
        elif is_first and self._is_streamed(reader.request):
            self._admit(connection, reader, partial(self._loop.dispatch, connection, reader, is_streamed=True))
        else:
            self._receive_body(connection, reader, is_first)

    def _receive_body(self, connection: ClientConnection, reader: RequestReader, is_first: bool) -> None:
        self.count(connection, reader)
        is_failed = reader.body_error is not None or reader.is_too_large or reader.is_malformed or connection.has_eof
        if reader.is_complete or is_failed:
            if not (reader.is_complete and reader.prepared and self._loop.start_prepared(connection, reader)):
                self._dispatch(connection, reader)
            return
        if is_first:
            self._begin_body(connection, reader)
        elif reader.size > SMALL_BYTES:
            self._limit_memory()

    def _begin_body(self, connection: ClientConnection, reader: RequestReader) -> None:
        """Wait for the rest of a body, if the application admits the request."""
        expect_body = partial(self._expect_body, connection, reader)
        if reader.prepared is not None:
            if reader.prepared.prepared.has_room(reader.content_length, connection.client.connection):
                expect_body()
                return
            reader.prepared = None
            reader.parse_head()
            if reader.error is not None:
                self._reject(connection, reader, reader.error)
                return
        self._admit(connection, reader, expect_body)

    def _expect_body(self, connection: ClientConnection, reader: RequestReader) -> None:
        self.heads.discard(connection)
        connection.body_bytes_checked = -1
        self.bodies.add(connection, RATE_SECONDS)
        if reader.expects_continue:
            self._send_continue(connection)
        if reader.size > SMALL_BYTES:
            self._limit_memory()

    def _admit(self, connection: ClientConnection, reader: RequestReader, on_admitted: Callable[[], None]) -> None:
        """Ask the application before the body arrives. A refused request runs without its body.

        If a thread must decide, it does not read the body: a slow client would occupy it.
        """
        request = reader.request
        ask = partial(
            self._policy.admit,
            *(request.method, request.uri, _joined(request.headers), connection.client, reader.content_length),
        )
        on_decided = partial(self._on_decided, connection, reader, on_admitted)
        if (decision := ask(blocking=False)) is not None:
            on_decided(decision)
        else:
            self._loop.decide_in_thread(connection, partial(ask, blocking=True), on_decided)

    def _on_decided(
        self, connection: ClientConnection, reader: RequestReader, on_admitted: Callable[[], None], decision: Decision
    ) -> None:
        reader.decision = decision.value
        if decision.is_refused:
            self._loop.dispatch(connection, reader)
        else:
            on_admitted()

    def _dispatch(self, connection: ClientConnection, reader: RequestReader) -> None:
        if reader.request is None:  # the fast path did not take it
            reader.parse_head()
        if reader.error is not None:
            self._reject(connection, reader, reader.error)
        else:
            self._loop.dispatch(connection, reader)

    def _is_streamed(self, request: Any) -> bool:
        if request is None or request.method != "POST":  # the fast path has no streaming uploads
            return False
        headers = _joined(request.headers)
        return self._policy.is_streamed(request.method, request.path, headers)

    def count(self, connection: ClientConnection, reader: RequestReader) -> None:
        """Count the received bytes of the body toward `max_in_flight`, and check both limits."""
        limit = self._policy.max_body_bytes
        reader.is_too_large = reader.content_length > limit or reader.body_size > limit
        if new := reader.body_size - connection.counted_bytes:
            try:
                connection.counted_bytes += self._policy.reserve(new, connection.counted_bytes)
            except Exception as error:  # the application raises it again and sends it to the client
                reader.body_error = error

    def release(self, connection: ClientConnection) -> None:
        """Stop counting the body of this connection."""
        if connection.counted_bytes:
            self._policy.reserve(-connection.counted_bytes)
            connection.counted_bytes = 0

    def _send_continue(self, connection: ClientConnection) -> None:
        """Send 100, or close the connection: its client has not read its earlier responses, and no room is left."""
        with suppress(OSError):
            connection.send_buffer.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
            if not connection.send_buffer.unsent:
                return
        self._loop.drop(connection)

    def _limit_memory(self) -> None:
        """End the slowest requests if incomplete requests use more than half of `max_in_flight`."""
        while True:
            readers = [(each, each.reader) for group in (self.heads, self.bodies) for each in group if each.reader]
            if 2 * sum(reader.size for _, reader in readers) <= self._policy.max_in_flight:
                return
            large = [(each, reader) for each, reader in readers if reader.size > SMALL_BYTES]
            if len(large) <= 1:
                return
            now = time.monotonic()
            slowest, _ = min(large, key=lambda pair: pair[1].size / (now - pair[0].started + 0.001))
            self._time_out(slowest, "Incomplete requests use too much memory. This request was the slowest. Retry.")

    def _check_rate(self, connection: ClientConnection) -> None:
        """End a body that is slower than `min_body_rate`. The first seconds of a body are exempt."""
        if self._is_stopping:
            message = "The server is stopping before the request was complete. Nothing was done. Retry."
            self._end(connection, 503, "Service Unavailable", message)
            return
        size = 0 if connection.reader is None else connection.reader.body_size
        rate, checked = self._policy.min_body_rate, connection.body_bytes_checked
        if checked >= 0 and size - checked < rate * RATE_SECONDS:
            self._time_out(connection, f"The body arrived at less than {rate} bytes per second (min_body_rate).")
            return
        connection.body_bytes_checked = size
        self.bodies.add(connection, RATE_SECONDS)

    def _time_out(self, connection: ClientConnection, message: str) -> None:
        self._end(connection, 408, "Request Timeout", message)

    def _end(self, connection: ClientConnection, status: int, reason: str, message: str) -> None:
        log.info("Closed a connection before its request was complete: %s", message)
        self._send_last(connection, render_error(status, reason, message))

    def _reject(self, connection: ClientConnection, reader: RequestReader, error: Exception) -> None:
        self._loop.handle_error(reader.request, connection, error)
        self._send_last(connection, b"")

    def _send_last(self, connection: ClientConnection, data: bytes) -> None:
        """Send the data and what is unsent, then close the connection."""
        self._loop.stop_watching(connection)
        self.release(connection)
        connection.reader = None
        connection.closes_after_response = True
        try:
            connection.send_buffer.sendall(data)
        except OSError:
            self._loop.drop(connection)
            return
        self._loop.continue_response(connection)


def _joined(headers: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return the headers by name in lower case. Repeated ones are joined with a comma, as views get them."""
    joined: dict[str, str] = {}
    for name, value in headers:
        lower = name.lower()
        joined[lower] = f"{joined[lower]},{value}" if lower in joined else value
    return joined
