"""Publishes that no thread waits for: the worker's main loop takes them in and, once Kafka has answered, sends what the
application has to say. All other requests of its connections go to gunicorn's threads.
"""

import logging
import os
import socket
import time
from collections import deque
from functools import partial
from selectors import EVENT_READ, EVENT_WRITE, BaseSelector
from typing import TYPE_CHECKING, Any, cast

from gunicorn.http.parser import RequestParser
from gunicorn.workers.gthread import TConn

from kafka_http.logs import request_id
from kafka_http.server.answers import AccessLog, render
from kafka_http.server.connections import Connection, Waiting
from kafka_http.server.lifecycle import Publishes
from kafka_http.server.plain import MAX_BODY, MAX_FIELDS, MAX_HEAD, NotPlain, PlainRequest, parse

if TYPE_CHECKING:
    from kafka_http.server.worker import Worker

log = logging.getLogger(__name__)

MAX_READING = 256
"""Requests that may be there in part in the main loop; beyond them the threads wait for the rest."""
_READ = MAX_BODY + MAX_HEAD


def is_possible(cfg: Any) -> bool:
    """Whether gunicorn is set up so that its own way with a plain request holds nothing but what is done here."""
    hooks = all(cfg.settings[name].get() is cfg.settings[name].default for name in ("pre_request", "post_request"))
    room = min(cfg.limit_request_line or MAX_HEAD, cfg.limit_request_field_size or MAX_HEAD) >= MAX_HEAD
    room = room and cfg.limit_request_fields >= MAX_FIELDS
    plain = not cfg.is_ssl and cfg.proxy_protocol in (False, "off") and cfg.http2_cleartext == "off"
    keeps = cfg.worker_connections > cfg.threads
    return hooks and room and plain and keeps and "SCRIPT_NAME" not in os.environ


class Threadless:
    """The connections of a worker that are in no thread. All but `_done` is called by its main loop alone."""

    def __init__(self, worker: "Worker", publishes: Publishes, poller: BaseSelector, *, stall: float) -> None:
        """`stall`: seconds that a client may send nothing amid a request, or take nothing of an answer."""
        self._worker = worker
        self._publishes = publishes
        self._poller = poller
        self._stall = stall
        self._access_log = AccessLog(worker.log)
        self._idle, self._reading, self._owed, self._sending = Waiting(), Waiting(), Waiting(), Waiting()
        self._settled: deque[tuple[Connection, object]] = deque()
        self._woken = False
        self._begun = False

    def watch(self, conn: TConn) -> None:
        """Wait for a connection's next request, or its first."""
        connection = Connection(conn)
        conn.sock.setblocking(False)
        self._watch(connection)
        self._rest(connection)

    def end_round(self) -> None:
        """Send the requests that one round of the main loop has brought: together, and not before, or the thread that
        sends them would fight with the loop over each."""
        if self._begun:
            self._begun = False
            self._publishes.send()

    @property
    def deadline(self) -> float:
        """When `expire` has something to do, on the monotonic clock."""
        return min(each.first for each in (self._idle, self._reading, self._owed, self._sending))

    def expire(self) -> None:
        """Close what has been idle or stalled for too long, answer what Kafka has not answered in time."""
        now = time.monotonic()
        for connection in self._idle.take_expired(now):
            self._drop(connection)
        for waiting in (self._reading, self._sending):
            for connection in waiting.take_expired(now):
                log.info("A client stalled for %s s; it is let go", self._stall)
                self._drop(connection)
        for connection in self._owed.take_expired(now):
            self._answer(connection)

    def begin_stop(self, until: float) -> None:
        """Keep idle connections open no longer than that; the next answer on each is the last."""
        self._idle.hasten(until)
        self._reading.hasten(until)

    def close(self) -> None:
        """Drop all connections."""
        for waiting in (self._idle, self._reading, self._owed, self._sending):
            for connection in waiting.take_expired(float("inf")):
                self._drop(connection)

    # Reading

    def _watch(self, connection: Connection) -> None:
        connection.watched = True
        self._poller.register(connection.conn.sock, EVENT_READ, partial(self._on_readable, connection))

    def _unwatch(self, connection: Connection) -> None:
        if connection.watched:
            connection.watched = False
            self._poller.unregister(connection.conn.sock)

    def _on_readable(self, connection: Connection, client: socket.socket) -> None:
        if not connection.watched or connection.unsent:
            return  # it was readable as this round began
        try:
            data = client.recv(_READ)
        except BlockingIOError:
            return
        except OSError:
            self._drop(connection)
            return
        connection.buffer += data
        if not data:
            connection.ended = True
            self._unwatch(connection)
        if connection.owed is None:
            self._take(connection)
        elif len(connection.buffer) > _READ:  # enough read ahead
            self._unwatch(connection)

    def _take(self, connection: Connection) -> None:
        """Take the request at the start of what the client has sent."""
        try:
            request = parse(connection.buffer) if connection.buffer else None
        except NotPlain:
            self._to_thread(connection)
            return
        if request is not None:
            self._begin(connection, request)
        elif connection.ended and not connection.buffer:
            self._drop(connection)
        elif not connection.buffer:
            self._rest(connection)
        elif connection.ended or len(self._reading) >= MAX_READING:
            self._to_thread(connection)
        else:
            self._idle.discard(connection)
            self._reading.add(connection, self._stall)

    def _begin(self, connection: Connection, request: PlainRequest) -> None:
        if self._access_log.is_on and ("x-forwarded-for" in request.headers or "forwarded" in request.headers):
            self._to_thread(connection)  # who the client is, the application finds out
            return
        connection.ticket = ticket = object()
        connection.began = time.monotonic()
        done = partial(self._done, connection, ticket)
        owed = self._publishes.begin(request.method, request.target, request.headers, request.body, done)
        request_id.set("-")
        if owed is None:
            self._to_thread(connection)
            return
        self._begun = True
        connection.owed = owed
        connection.request = request
        connection.last = request.last
        connection.buffer = connection.buffer[request.size :]
        self._idle.discard(connection)
        self._reading.discard(connection)
        self._owed.add(connection, owed.timeout)

    def _to_thread(self, connection: Connection) -> None:
        """Let a thread read on, beginning with what is here."""
        self._forget(connection)
        conn = connection.conn
        conn.data_ready = True
        conn.init()
        cast("RequestParser", conn.parser).unreader.unread(connection.buffer)
        self._worker.enqueue_in_thread(conn)

    # Answering

    def _done(self, connection: Connection, ticket: object) -> None:
        """Kafka has answered. Called by any thread."""
        self._settled.append((connection, ticket))
        if not self._woken:
            self._woken = True
            self._worker.method_queue.defer(self._deliver)

    def _deliver(self) -> None:
        self._woken = False
        while self._settled:
            connection, ticket = self._settled.popleft()
            if connection.ticket is ticket and connection in self._owed:
                self._owed.discard(connection)
                self._answer(connection)

    def _answer(self, connection: Connection) -> None:
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
        if not connection.gone:
            connection.last |= not worker.keeps_connections
            self._send(connection, memoryview(render(status, headers, body, last=connection.last)))

    def _send(self, connection: Connection, data: memoryview) -> None:
        client = connection.conn.sock
        try:
            sent = client.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._drop(connection)
            return
        if sent == len(data):
            self._after_answer(connection)
            return
        connection.unsent = data[sent:]
        self._unwatch(connection)
        connection.watched = True
        self._poller.register(client, EVENT_WRITE, partial(self._on_writable, connection))
        self._sending.add(connection, self._stall)

    def _on_writable(self, connection: Connection, _: socket.socket) -> None:
        if not connection.unsent:
            return
        self._sending.discard(connection)
        self._unwatch(connection)
        self._send(connection, connection.unsent)

    def _after_answer(self, connection: Connection) -> None:
        connection.unsent = memoryview(b"")
        connection.request = None
        if connection.last:
            self._forget(connection)
            self._worker.linger(connection.conn)
            return
        if not connection.watched and not connection.ended:
            self._watch(connection)
        self._take(connection)

    def _rest(self, connection: Connection) -> None:
        """Wait for the next request. Where too many do, who has waited longest goes."""
        self._idle.add(connection, self._worker.patience)
        if len(self._idle) > self._worker.max_keepalived:
            self._drop(self._idle.oldest)

    # Leaving

    def _forget(self, connection: Connection) -> None:
        self._unwatch(connection)
        for waiting in (self._idle, self._reading, self._sending):
            waiting.discard(connection)

    def _drop(self, connection: Connection) -> None:
        """Close a connection. An answer that it is owed is waited for all the same, for the application's sake."""
        if not connection.gone:
            connection.gone = True
            self._forget(connection)
            self._worker.end(connection.conn)
