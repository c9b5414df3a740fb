"""Publishes on the fast path: begun in the worker's main loop, answered there once Kafka has answered."""

import time
from collections import deque
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from kafka_http.logs import request_id
from kafka_http.server.app_interface import FastPathPublisher
from kafka_http.server.fast_path_parser import FastPathRequest, NotFastPath, parse
from kafka_http.server.gunicorn_responses import AccessLog, render
from kafka_http.server.idle_connections import ClientConnection, IdleConnections
from kafka_http.server.request_reader import RequestReader

if TYPE_CHECKING:
    from kafka_http.server.connection_loop import ConnectionLoop


class FastPath:
    """The publishes of a main loop that the application has begun. All but `_done` is called by the loop alone."""

    def __init__(self, loop: "ConnectionLoop", publishes: FastPathPublisher) -> None:
        self.owed = IdleConnections()
        self._loop = loop
        self._worker = loop.worker
        self._publishes = publishes
        self._access_log = AccessLog(loop.worker.log)
        self._settled: deque[tuple[ClientConnection, object]] = deque()
        self._woken = False
        self._begun = False

    def end_round(self) -> None:
        """Send what one round of the main loop has brought: together, and not before, or the thread that sends it would
        fight with the loop over each."""
        if self._begun:
            self._begun = False
            self._publishes.send()

    def expire(self, now: float) -> None:
        """Answer what Kafka has not answered in time."""
        for connection in self.owed.take_expired(now):
            self.answer(connection)

    def begin(self, connection: ClientConnection, request: FastPathRequest) -> bool:
        """Begin the publish at the start of the buffer. False, with nothing done, where a view is to answer."""
        if self._access_log.is_on and ("x-forwarded-for" in request.headers or "forwarded" in request.headers):
            return False  # who the client is, the application finds out
        connection.ticket = ticket = object()
        began = time.monotonic()
        done = partial(self._done, connection, ticket)
        owed = self._publishes.begin(request.method, request.target, request.headers, request.body, done)
        request_id.set("-")
        if owed is None:
            return False
        self._begun = True
        connection.began = began
        connection.owed = owed
        connection.request = request
        connection.last = request.last
        connection.buffer = connection.buffer[request.size :]
        self._loop.take_from_waiting(connection)
        self.owed.add(connection, owed.timeout)
        return True

    def begin_late(self, connection: ClientConnection, reader: RequestReader) -> bool:
        """Begin a publish that came in pieces."""
        raw = reader.raw()
        with suppress(NotFastPath):
            if (plain := parse(raw)) is not None:
                connection.reader, connection.buffer = None, raw
                return self.begin(connection, plain)
        return False

    def _done(self, connection: ClientConnection, ticket: object) -> None:
        """Kafka has answered. Called by any thread."""
        self._settled.append((connection, ticket))
        if not self._woken:
            self._woken = True
            self._worker.method_queue.defer(self._deliver)

    def _deliver(self) -> None:
        self._woken = False
        while self._settled:
            connection, ticket = self._settled.popleft()
            if connection.ticket is ticket and connection in self.owed:
                self.owed.discard(connection)
                self.answer(connection)

    def answer(self, connection: ClientConnection) -> None:
        """Answer an owed request. It is no longer among those owed."""
        owed, connection.owed, connection.ticket = connection.owed, None, None
        if owed is None:
            return
        status, headers, body = owed.answer()
        worker = self._worker
        worker.count_request()
        if self._access_log.is_on:
            self._access_log.write(connection, status, headers, body)
        request_id.set("-")
        if connection.gone:
            return
        connection.request = None
        connection.last |= not worker.keeps_connections
        try:
            connection.outgoing.sendall(render(status, headers, body, last=connection.last))
        except OSError:
            self._loop.drop(connection)
            return
        self._loop.after_writing(connection)
