"""Publishes without a thread: the main loop starts them and sends the response when Kafka has answered."""

import time
from collections import deque
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from kafka_http.logs import request_id
from kafka_http.server.app_interface import FastPathHandler
from kafka_http.server.client_connection import ClientConnection, ConnectionTimeouts
from kafka_http.server.fast_path_parser import FastPathRequest, NotFastPath, parse
from kafka_http.server.gunicorn_responses import AccessLog, render
from kafka_http.server.request_reader import RequestReader

if TYPE_CHECKING:
    from kafka_http.server.connection_loop import ConnectionLoop


class FastPath:
    """The pending publishes of a main loop, which calls all methods but `_done`."""

    def __init__(self, loop: "ConnectionLoop", handler: FastPathHandler) -> None:
        self.pending = ConnectionTimeouts()
        """Connections whose publish Kafka has not answered."""
        self._loop = loop
        self._worker = loop.worker
        self._handler = handler
        self._access_log = AccessLog(loop.worker.log)
        self._done_publishes: deque[tuple[ClientConnection, object]] = deque()
        self._is_delivery_scheduled = False
        self._has_unsent = False

    def end_round(self) -> None:
        """Send all publishes of one round of the main loop together.

        Sending each one alone would wake the producer's thread for each, and it would compete with the loop.
        """
        if self._has_unsent:
            self._has_unsent = False
            self._handler.send()

    def expire(self, now: float) -> None:
        """Respond to the publishes that Kafka has not answered in time."""
        for connection in self.pending.pop_expired(now):
            self.respond(connection)

    def begin(self, connection: ClientConnection, request: FastPathRequest) -> bool:
        """Start the publish at the start of `received`, or do nothing and return False if it needs a view."""
        if self._access_log.is_on and ("x-forwarded-for" in request.headers or "forwarded" in request.headers):
            return False  # only the application finds out the client's address
        connection.publish_token = token = object()
        started = time.monotonic()
        on_done = partial(self._done, connection, token)
        pending = self._handler.begin(request.method, request.target, request.headers, request.body, on_done)
        request_id.set("-")
        if pending is None:
            return False
        self._has_unsent = True
        connection.started = started
        connection.pending_response = pending
        connection.request = request
        connection.closes_after_response = request.is_last
        connection.received = connection.received[request.size :]
        self._loop.cancel_receive_timeouts(connection)
        self.pending.add(connection, pending.timeout)
        return True

    def begin_buffered(self, connection: ClientConnection, reader: RequestReader) -> bool:
        """Start a publish that arrived in several pieces. Return False if it needs a view."""
        raw = reader.raw()
        with suppress(NotFastPath):
            if (request := parse(raw)) is not None:
                connection.reader, connection.received = None, raw
                return self.begin(connection, request)
        return False

    def _done(self, connection: ClientConnection, token: object) -> None:
        """Schedule the response: Kafka has answered. Any thread calls this."""
        self._done_publishes.append((connection, token))
        if not self._is_delivery_scheduled:
            self._is_delivery_scheduled = True
            self._worker.method_queue.defer(self._deliver)

    def _deliver(self) -> None:
        self._is_delivery_scheduled = False
        while self._done_publishes:
            connection, token = self._done_publishes.popleft()
            if connection.publish_token is token and connection in self.pending:
                self.pending.discard(connection)
                self.respond(connection)

    def respond(self, connection: ClientConnection) -> None:
        """Send the response. The caller has removed the connection from `pending`."""
        pending, connection.pending_response, connection.publish_token = connection.pending_response, None, None
        if pending is None:
            return
        status, headers, body = pending.finish()
        worker = self._worker
        worker.count_request()
        if self._access_log.is_on:
            self._access_log.write(connection, status, headers, body)
        request_id.set("-")
        if connection.is_closed:
            return
        connection.request = None
        connection.closes_after_response |= not worker.allows_keepalive
        try:
            connection.send_buffer.sendall(render(status, headers, body, is_last=connection.closes_after_response))
        except OSError:
            self._loop.drop(connection)
            return
        self._loop.continue_response(connection)
