"""The connections of a worker that no thread is at.

The main loop receives every request whole before a thread gets it, and sends what clients do not take at once. A
publish on the fast path needs no thread at all: the loop hands it to the application and, once Kafka has answered,
sends what the application has to say.
"""

import logging
import os
import socket
import time
from collections import deque
from collections.abc import Generator
from contextlib import suppress
from contextvars import Context, copy_context
from functools import partial
from selectors import EVENT_READ, EVENT_WRITE, BaseSelector
from typing import TYPE_CHECKING, Any

from gunicorn.workers.gthread import TConn

from kafka_http.logs import request_id
from kafka_http.server.answers import AccessLog, render, render_error
from kafka_http.server.connections import Connection, Waiting
from kafka_http.server.lifecycle import Publishes, Receiving
from kafka_http.server.plain import MAX_BODY, MAX_FIELDS, MAX_HEAD, NotPlain, PlainRequest, parse
from kafka_http.server.request_reader import RequestReader, without_blank_lines
from kafka_http.server.streams import HandedOver

if TYPE_CHECKING:
    from kafka_http.server.worker import Worker

log = logging.getLogger(__name__)

HEAD_SECONDS = 10.0
"""How long a head may take from its first byte."""
RATE_SECONDS = 10.0
"""How long a body may take as it likes, and how often its rate is looked at after that."""
_READ = MAX_BODY + MAX_HEAD
_READ_OF_CHUNKS = 1 << 15
"""A chunk of one byte costs as much as a large one, and the loop has others to serve."""
_PATIENCE = 1.0
"""Seconds that a connection has at least before it makes room for another."""
_LITTLE = 1 << 16
"""Bytes of an unfinished request that are not worth a 408."""


def is_receiving_possible(cfg: Any) -> bool:
    """Whether what comes over a connection is HTTP/1, which the main loop can receive."""
    is_http = getattr(cfg, "protocol", "http") == "http" and cfg.http2_cleartext == "off"
    return is_http and not cfg.is_ssl and cfg.proxy_protocol in (False, "off")


def is_possible(cfg: Any) -> bool:
    """Whether gunicorn is set up so that its own way with a plain request holds nothing but what is done here."""
    hooks = all(cfg.settings[name].get() is cfg.settings[name].default for name in ("pre_request", "post_request"))
    room = min(cfg.limit_request_line or MAX_HEAD, cfg.limit_request_field_size or MAX_HEAD) >= MAX_HEAD
    room = room and cfg.limit_request_fields >= MAX_FIELDS
    keeps = cfg.worker_connections > cfg.threads
    return hooks and room and is_receiving_possible(cfg) and keeps and "SCRIPT_NAME" not in os.environ


class Threadless:
    """The connections of a worker that are in no thread. All but `_done` and `_work` is called by its main loop alone.

    `publishes` is None where there is no fast path.
    """

    def __init__(
        self,
        worker: "Worker",
        receiving: Receiving,
        publishes: Publishes | None,
        poller: BaseSelector,
        *,
        stall: float,
    ) -> None:
        """`stall`: seconds that a client may take nothing of an answer."""
        self._worker = worker
        self._receiving = receiving
        self._publishes = publishes
        self._poller = poller
        self._stall = stall
        self._access_log = AccessLog(worker.log)
        self._idle, self._heads, self._bodies = Waiting(), Waiting(), Waiting()
        self._owed, self._sending = Waiting(), Waiting()
        self._settled: deque[tuple[Connection, object]] = deque()
        self._woken = False
        self._begun = False
        self._looks_from = 0.0

    def watch(self, conn: TConn) -> None:
        """Wait for a connection's first request."""
        connection = Connection(conn)
        conn.sock.setblocking(False)
        self._watch(connection)
        self._rest(connection)

    def end_round(self) -> None:
        """Send the requests that one round of the main loop has brought: together, and not before, or the thread that
        sends them would fight with the loop over each."""
        if self._begun and self._publishes is not None:
            self._begun = False
            self._publishes.send()

    @property
    def deadline(self) -> float:
        """When `expire` has something to do, on the monotonic clock."""
        return min(each.first for each in (self._idle, self._heads, self._bodies, self._owed, self._sending))

    def expire(self) -> None:
        """Close what has been idle or stalled for too long, answer what Kafka has not answered in time."""
        now = time.monotonic()
        for connection in self._idle.take_expired(now):
            self._drop(connection)
        for connection in self._heads.take_expired(now):
            self._on_head_overdue(connection)
        for connection in self._bodies.take_expired(now):
            self._check_rate(connection)
        for connection in self._sending.take_expired(now):
            log.info("Closed a connection after %s s without progress.", self._stall)
            self._drop(connection)
        for connection in self._owed.take_expired(now):
            self._answer(connection)
        if len(self._sending) > 1 and now >= self._looks_from:
            self._looks_from = now + _PATIENCE
            self._keep_unsent_small()

    def make_room(self) -> bool:
        """Close the connection that is missed the least. False where none has made the loop wait for a while."""
        since = time.monotonic() - _PATIENCE
        for waiting in (self._heads, self._idle, self._bodies, self._sending):
            if waiting and waiting.oldest.began < since:
                self._drop(waiting.oldest)
                return True
        return False

    def begin_stop(self, until: float) -> None:
        """Keep idle connections open no longer than that; the next answer on each is the last."""
        self._idle.hasten(until)
        self._heads.hasten(until)

    def close(self) -> None:
        """Drop all connections."""
        for waiting in (self._idle, self._heads, self._bodies, self._owed, self._sending):
            for connection in waiting.take_expired(float("inf")):
                self._drop(connection)

    # Receiving

    def _watch(self, connection: Connection) -> None:
        connection.watched = True
        self._poller.register(connection.conn.sock, EVENT_READ, partial(self._on_readable, connection))

    def _unwatch(self, connection: Connection) -> None:
        if connection.watched:
            connection.watched = False
            self._poller.unregister(connection.conn.sock)

    def _on_readable(self, connection: Connection, client: socket.socket) -> None:
        if not connection.watched or connection.outgoing.unsent:
            return  # it was readable as this round began
        reader = connection.reader
        try:
            data = client.recv(_READ_OF_CHUNKS if reader is not None and reader.is_chunked else _READ)
        except BlockingIOError:
            return
        except OSError:
            self._drop(connection)
            return
        if not data:
            connection.ended = True
            self._unwatch(connection)
        if reader is not None:
            self._receive(connection, reader, data)
            return
        connection.buffer += data
        if connection.owed is None:
            self._take(connection)
        elif len(connection.buffer) > _READ:  # enough read ahead
            self._unwatch(connection)

    def _take(self, connection: Connection) -> None:
        """Take the request at the start of what the client has sent."""
        if connection.buffer[:1] == b"\r":
            connection.buffer = without_blank_lines(connection.buffer)
        if not connection.buffer or connection.buffer == b"\r":
            if connection.ended:
                self._drop(connection)
            elif connection not in self._idle:
                self._rest(connection)
            return
        is_plain = False
        if self._publishes is not None:
            try:
                request = parse(connection.buffer)
            except NotPlain:
                pass
            else:
                is_plain = request is None
                if request is not None and self._begin(connection, self._publishes, request):
                    return
        self._idle.discard(connection)
        if is_plain and connection not in self._heads and not connection.ended:
            self._await(connection)  # many clients send head and body apart
        else:
            self._read(connection, is_plain)

    def _await(self, connection: Connection) -> None:
        connection.began = time.monotonic()
        self._heads.add(connection, HEAD_SECONDS)

    def _read(self, connection: Connection, is_plain: bool = False) -> None:
        """Receive a request that takes more than a look."""
        data, connection.buffer = connection.buffer, b""
        reader = RequestReader(self._worker.cfg, connection.conn.client, is_plain)
        connection.reader = reader
        if connection not in self._heads:
            self._await(connection)
        self._receive(connection, reader, data)

    def _receive(self, connection: Connection, reader: RequestReader, data: bytes) -> None:
        is_first = reader.request is None
        reader.feed(data)
        request = reader.request
        if reader.error is not None:
            self._refuse(connection, reader.error)
        elif request is None:
            if connection.ended:
                self._drop(connection)
            elif reader.size > _LITTLE:
                self._keep_unfinished_small()
        elif is_first and self._is_streamed(request):
            self._dispatch(connection, reader, is_streamed=True)
        else:
            self._receive_body(connection, reader, is_first)

    def _receive_body(self, connection: Connection, reader: RequestReader, is_first: bool) -> None:
        self._count(connection, reader)
        is_over = reader.refusal is not None or reader.is_too_large or reader.is_malformed or connection.ended
        if reader.is_whole or is_over:
            if not (reader.is_whole and reader.may_be_plain and self._begin_late(connection, reader)):
                self._dispatch(connection, reader)
            return
        if is_first:
            self._heads.discard(connection)
            connection.seen = -1
            self._bodies.add(connection, RATE_SECONDS)
            if reader.expects_continue:
                self._ask_for_body(connection)
        if reader.size > _LITTLE:
            self._keep_unfinished_small()

    def _is_streamed(self, request: Any) -> bool:
        if request.method != "POST":
            return False
        headers = {name.lower(): value for name, value in request.headers}
        return self._receiving.is_streamed(request.method, request.path, headers)

    def _count(self, connection: Connection, reader: RequestReader) -> None:
        """Count what has come of the body as in flight, or find that it is too much."""
        limit = self._receiving.max_body_bytes
        reader.is_too_large = reader.declared > limit or reader.body_size > limit
        if new := reader.body_size - connection.counted:
            try:
                connection.counted += self._receiving.hold(new, connection.counted)
            except Exception as error:  # the application's, for the client
                reader.refusal = error

    def _ask_for_body(self, connection: Connection) -> None:
        try:
            connection.outgoing.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        except OSError:
            self._drop(connection)

    def _keep_unfinished_small(self) -> None:
        """Where unfinished requests take more than their half of what may be in flight, the slowest ends."""
        while True:
            readers = [(each, each.reader) for group in (self._heads, self._bodies) for each in group if each.reader]
            if 2 * sum(reader.size for _, reader in readers) <= self._receiving.max_in_flight:
                return
            large = [(each, reader) for each, reader in readers if reader.size > _LITTLE]
            if len(large) <= 1:
                return
            now = time.monotonic()
            slowest, _ = min(large, key=lambda pair: pair[1].size / (now - pair[0].began + 0.001))
            self._time_out(slowest, "Too many bytes of unfinished requests are held; this was the slowest.")

    def _on_head_overdue(self, connection: Connection) -> None:
        if connection.reader is None:
            self._read(connection, True)
        if connection.reader is not None and connection.reader.request is None:
            self._time_out(connection, f"The head of a request must arrive within {HEAD_SECONDS:g} s.")

    def _check_rate(self, connection: Connection) -> None:
        """A body's first seconds are its own; after them each window needs its bytes."""
        size = 0 if connection.reader is None else connection.reader.body_size
        rate = self._receiving.min_body_rate
        if connection.seen >= 0 and size - connection.seen < rate * RATE_SECONDS:
            self._time_out(connection, f"A body must arrive at {rate} bytes a second at least.")
            return
        connection.seen = size
        self._bodies.add(connection, RATE_SECONDS)

    def _time_out(self, connection: Connection, message: str) -> None:
        log.info("Closed a connection before its request had arrived. %s", message)
        self._say_last(connection, render_error(408, "Request Timeout", message))

    def _refuse(self, connection: Connection, error: Exception) -> None:
        reader = connection.reader
        request = None if reader is None else reader.request
        self._worker.handle_error(request, connection.outgoing, connection.conn.client, error)
        self._say_last(connection, b"")

    def _say_last(self, connection: Connection, data: bytes) -> None:
        self._leave(connection)
        self._release(connection)
        connection.reader = None
        connection.last = True
        try:
            connection.outgoing.sendall(data)
        except OSError:
            self._drop(connection)
            return
        self._after_writing(connection)

    # Requests for threads

    def _dispatch(self, connection: Connection, reader: RequestReader, is_streamed: bool = False) -> None:
        """Give a request to whoever is to answer it."""
        self._leave(connection)
        connection.reader = None
        connection.buffer = reader.rest
        connection.last = not reader.is_whole
        connection.outgoing.begin()
        self._worker.count_request()
        connection.context = copy_context()
        connection.work = self._worker.respond(connection, reader, is_streamed)
        place = "pool" if is_streamed else self._receiving.place(reader.request.path)
        if place == "loop":
            self._returned(connection, self._next(connection))
        else:
            self._worker.run_in_thread(partial(self._work, connection), aside=place == "aside")

    def _work(self, connection: Connection) -> None:
        """Called by a thread."""
        outcome = self._next(connection)
        self._worker.method_queue.defer(self._returned, connection, outcome)

    @staticmethod
    def _next(connection: Connection) -> bool | HandedOver | None:
        """Go on with an answer: whether the connection may be kept, or None where the client has to take some first."""
        work, context = connection.work, connection.context
        assert work is not None and context is not None  # noqa: S101  set with each request
        try:
            context.run(next, work)
        except StopIteration as end:
            return bool(end.value)
        except HandedOver as handed_over:
            return handed_over
        except BaseException:
            log.exception("An answer was not completed.")
            return False
        return None

    def _returned(self, connection: Connection, outcome: bool | HandedOver | None) -> None:
        """A thread has done what there was to do."""
        self._release(connection)
        if isinstance(outcome, HandedOver):
            connection.gone = True
            self._worker.stream(connection.conn, outcome)
            return
        if outcome is not None:
            connection.work = connection.context = None
            connection.last |= not outcome
        self._after_writing(connection)

    def _release(self, connection: Connection) -> None:
        """What was received counts no more."""
        if connection.counted:
            self._receiving.hold(-connection.counted)
            connection.counted = 0

    # The fast path

    def _begin(self, connection: Connection, publishes: Publishes, request: PlainRequest) -> bool:
        """Begin the publish at the start of the buffer. False, with nothing done, where a view is to answer."""
        if self._access_log.is_on and ("x-forwarded-for" in request.headers or "forwarded" in request.headers):
            return False  # who the client is, the application finds out
        connection.ticket = ticket = object()
        began = time.monotonic()
        done = partial(self._done, connection, ticket)
        owed = publishes.begin(request.method, request.target, request.headers, request.body, done)
        request_id.set("-")
        if owed is None:
            return False
        self._begun = True
        connection.began = began
        connection.owed = owed
        connection.request = request
        connection.last = request.last
        connection.buffer = connection.buffer[request.size :]
        for waiting in (self._idle, self._heads, self._bodies):
            waiting.discard(connection)
        self._owed.add(connection, owed.timeout)
        return True

    def _begin_late(self, connection: Connection, reader: RequestReader) -> bool:
        """Begin a publish that came in pieces."""
        plain = None
        if self._publishes is not None and reader.size <= _READ:
            raw = reader.raw()
            with suppress(NotPlain):
                plain = parse(raw)
        if self._publishes is None or plain is None:
            return False
        self._release(connection)
        connection.reader, connection.buffer = None, raw
        if self._begin(connection, self._publishes, plain):
            return True
        self._count(connection, reader)
        return False

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
        if connection.gone:
            return
        connection.request = None
        connection.last |= not worker.keeps_connections
        try:
            connection.outgoing.sendall(render(status, headers, body, last=connection.last))
        except OSError:
            self._drop(connection)
            return
        self._after_writing(connection)

    # Sending

    def _after_writing(self, connection: Connection) -> None:
        """Go on, or wait until the client has taken what there is."""
        if connection.outgoing.unsent:
            self._unwatch(connection)
            connection.watched = True
            self._poller.register(connection.conn.sock, EVENT_WRITE, partial(self._on_writable, connection))
            self._sending.add(connection, self._stall)
        elif connection.work is not None:
            self._worker.run_in_thread(partial(self._work, connection))
        else:
            self._after_answer(connection)

    def _on_writable(self, connection: Connection, _: socket.socket) -> None:
        if connection not in self._sending:
            return
        try:
            is_moving = connection.outgoing.flush()
        except OSError:
            self._drop(connection)
            return
        if not connection.outgoing.unsent:
            self._sending.discard(connection)
            self._unwatch(connection)
            self._after_writing(connection)
        elif is_moving:
            self._sending.add(connection, self._stall)

    def _keep_unsent_small(self) -> None:
        """Where most of `max_answers_in_flight` waits to be sent, the slowest clients go: others need it, too."""
        excess = sum(each.outgoing.size for each in self._sending) - self._receiving.max_answers_in_flight * 3 // 4
        if excess <= 0:
            return
        now = time.monotonic()
        large = [each for each in self._sending if each.outgoing.size > _LITTLE and now - each.began > _PATIENCE]
        large.sort(key=lambda each: each.outgoing.taken / (now - each.began))
        for each in large[:-1]:
            if excess > 0:
                excess -= each.outgoing.size
                log.info("Closed a connection that takes its answer too slowly. max_answers_in_flight is reached.")
                self._drop(each)

    def _after_answer(self, connection: Connection) -> None:
        connection.outgoing.begin()
        if connection.last:
            self._leave(connection)
            self._worker.linger(connection.conn)
            return
        if not connection.watched and not connection.ended:
            self._watch(connection)
        self._take(connection)

    def _rest(self, connection: Connection) -> None:
        """Wait for the next request. Where too many do, who has waited longest goes."""
        connection.began = time.monotonic()
        self._idle.add(connection, self._worker.patience)
        if len(self._idle) > self._worker.max_keepalived:
            self._drop(self._idle.oldest)

    # Leaving

    def _leave(self, connection: Connection) -> None:
        self._unwatch(connection)
        for waiting in (self._idle, self._heads, self._bodies, self._sending):
            waiting.discard(connection)

    def _drop(self, connection: Connection) -> None:
        """Close a connection. An answer that it is owed is waited for all the same, for the application's sake."""
        if connection.gone:
            return
        connection.gone = True
        self._leave(connection)
        self._release(connection)
        connection.reader = None
        work, context = connection.work, connection.context
        if work is not None and context is not None:
            self._worker.run_in_thread(partial(_abort, work, context))
        self._worker.end(connection.conn)


def _abort(work: Generator[None, None, bool], context: Context) -> None:
    """Let the application know that its answer is not taken. Called by a thread."""
    try:
        context.run(work.close)
    except BaseException:
        log.exception("An answer was not closed in order.")
