"""The connections of a worker that no thread is at.

The main loop receives every request whole before a thread gets it, and sends what clients do not take at once. A
publish on the fast path needs no thread at all: the loop hands it to the application and, once Kafka has answered,
sends what the application has to say.
"""

import logging
import os
import socket
import time
from collections.abc import Generator
from contextvars import Context, copy_context
from functools import partial
from selectors import EVENT_READ, EVENT_WRITE, BaseSelector
from typing import TYPE_CHECKING, Any

from gunicorn.workers.gthread import TConn

from kafka_http.server.app_interface import FastPathPublisher, ReceivePolicyProtocol
from kafka_http.server.fast_path import FastPath
from kafka_http.server.fast_path_parser import MAX_BODY, MAX_FIELDS, MAX_HEAD, NotFastPath, parse
from kafka_http.server.idle_connections import ClientConnection, IdleConnections
from kafka_http.server.request_reader import RequestReader, without_blank_lines
from kafka_http.server.request_receiver import RequestReceiver
from kafka_http.server.stream_sender import HandedOver

if TYPE_CHECKING:
    from kafka_http.server.worker import Worker

log = logging.getLogger(__name__)

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


class ConnectionLoop:
    """The connections of a worker that are in no thread. All but `_work` is called by its main loop alone.

    `publishes` is None where there is no fast path.
    """

    def __init__(
        self,
        worker: "Worker",
        receiving: ReceivePolicyProtocol,
        publishes: FastPathPublisher | None,
        poller: BaseSelector,
        *,
        stall: float,
    ) -> None:
        """`stall`: seconds that a client may take nothing of an answer."""
        self.worker = worker
        self._receiving = receiving
        self._poller = poller
        self._stall = stall
        self._receiver = RequestReceiver(self, receiving)
        self._fast = None if publishes is None else FastPath(self, publishes)
        self._idle, self._sending = IdleConnections(), IdleConnections()
        owed = () if self._fast is None else (self._fast.owed,)
        self._all: tuple[IdleConnections, ...] = (
            self._idle,
            self._receiver.heads,
            self._receiver.bodies,
            *owed,
            self._sending,
        )
        self._looks_from = 0.0

    def watch(self, conn: TConn) -> None:
        """Wait for a connection's first request."""
        connection = ClientConnection(conn)
        conn.sock.setblocking(False)
        self._watch(connection)
        self._rest(connection)

    def end_round(self) -> None:
        """One round of the main loop is over."""
        if self._fast is not None:
            self._fast.end_round()

    @property
    def deadline(self) -> float:
        """When `expire` has something to do, on the monotonic clock."""
        return min(each.first for each in self._all)

    def expire(self) -> None:
        """Close what has been idle or stalled for too long, answer what Kafka has not answered in time."""
        now = time.monotonic()
        for connection in self._idle.take_expired(now):
            self.drop(connection)
        self._receiver.expire(now)
        for connection in self._sending.take_expired(now):
            log.info("Closed a connection after %s s without progress.", self._stall)
            self.drop(connection)
        if self._fast is not None:
            self._fast.expire(now)
        if len(self._sending) > 1 and now >= self._looks_from:
            self._looks_from = now + _PATIENCE
            self._keep_unsent_small()

    def make_room(self) -> bool:
        """Close the connection that is missed the least. False where none has made the loop wait for a while."""
        since = time.monotonic() - _PATIENCE
        for waiting in (self._receiver.heads, self._idle, self._receiver.bodies, self._sending):
            if waiting and waiting.oldest.began < since:
                self.drop(waiting.oldest)
                return True
        return False

    def begin_stop(self, until: float) -> None:
        """Keep idle connections open no longer than that; the next answer on each is the last."""
        self._idle.hasten(until)
        self._receiver.begin_stop(until)

    def close(self) -> None:
        """Drop all connections."""
        for waiting in self._all:
            for connection in waiting.take_expired(float("inf")):
                self.drop(connection)

    # Receiving

    def _watch(self, connection: ClientConnection) -> None:
        connection.watched = True
        self._poller.register(connection.conn.sock, EVENT_READ, partial(self._on_readable, connection))

    def _unwatch(self, connection: ClientConnection) -> None:
        if connection.watched:
            connection.watched = False
            self._poller.unregister(connection.conn.sock)

    def _on_readable(self, connection: ClientConnection, client: socket.socket) -> None:
        if not connection.watched or connection.outgoing.unsent:
            return  # it was readable as this round began
        reader = connection.reader
        try:
            data = client.recv(_READ_OF_CHUNKS if reader is not None and reader.is_chunked else _READ)
        except BlockingIOError:
            return
        except OSError:
            self.drop(connection)
            return
        if not data:
            connection.ended = True
            self._unwatch(connection)
        if reader is not None:
            self._receiver.receive(connection, reader, data)
            return
        connection.buffer += data
        if connection.owed is None:
            self._take(connection)
        elif len(connection.buffer) > _READ:  # enough read ahead
            self._unwatch(connection)

    def _take(self, connection: ClientConnection) -> None:
        """Take the request at the start of what the client has sent."""
        if connection.buffer[:1] == b"\r":
            connection.buffer = without_blank_lines(connection.buffer)
        if not connection.buffer or connection.buffer == b"\r":
            if connection.ended:
                self.drop(connection)
            elif connection not in self._idle:
                self._rest(connection)
            return
        is_plain = False
        if self._fast is not None:
            try:
                request = parse(connection.buffer)
            except NotFastPath:
                pass
            else:
                is_plain = request is None
                if request is not None and self._fast.begin(connection, request):
                    return
        self._idle.discard(connection)
        if is_plain and connection not in self._receiver.heads and not connection.ended:
            self._receiver.wait(connection)  # many clients send head and body apart
        else:
            self.read(connection, is_plain=is_plain)

    def read(self, connection: ClientConnection, *, is_plain: bool) -> None:
        """Receive a request that takes more than a look."""
        data, connection.buffer = connection.buffer, b""
        reader = RequestReader(self.worker.cfg, connection.conn.client, is_plain)
        connection.reader = reader
        if connection not in self._receiver.heads:
            self._receiver.wait(connection)
        self._receiver.receive(connection, reader, data)

    def begin_late(self, connection: ClientConnection, reader: RequestReader) -> bool:
        """Publish a request that came in pieces on the fast path. False, with nothing done, where it is not for it."""
        if self._fast is None or reader.size > _READ:
            return False
        self._receiver.release(connection)
        if self._fast.begin_late(connection, reader):
            return True
        self._receiver.count(connection, reader)
        return False

    # Requests for threads

    def dispatch(self, connection: ClientConnection, reader: RequestReader, is_streamed: bool = False) -> None:
        """Give a request to whoever is to answer it."""
        self.leave(connection)
        connection.reader = None
        connection.buffer = reader.rest
        connection.last = not reader.is_whole
        connection.outgoing.begin()
        self.worker.count_request()
        connection.context = copy_context()
        connection.work = self.worker.respond(connection, reader, is_streamed)
        place = "pool" if is_streamed else self._receiving.place(reader.request.path)
        if place == "loop":
            self._returned(connection, self._next(connection))
        else:
            self.worker.run_in_thread(partial(self._work, connection), aside=place == "aside")

    def _work(self, connection: ClientConnection) -> None:
        """Called by a thread."""
        outcome = self._next(connection)
        self.worker.method_queue.defer(self._returned, connection, outcome)

    @staticmethod
    def _next(connection: ClientConnection) -> bool | HandedOver | None:
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

    def _returned(self, connection: ClientConnection, outcome: bool | HandedOver | None) -> None:
        """A thread has done what there was to do."""
        self._receiver.release(connection)
        if isinstance(outcome, HandedOver):
            connection.gone = True
            self.worker.stream(connection.conn, outcome)
            return
        if outcome is not None:
            connection.work = connection.context = None
            connection.last |= not outcome
        self.after_writing(connection)

    # Sending

    def after_writing(self, connection: ClientConnection) -> None:
        """Go on, or wait until the client has taken what there is."""
        if connection.outgoing.unsent:
            self._unwatch(connection)
            connection.watched = True
            self._poller.register(connection.conn.sock, EVENT_WRITE, partial(self._on_writable, connection))
            self._sending.add(connection, self._stall)
        elif connection.work is not None:
            self.worker.run_in_thread(partial(self._work, connection))
        else:
            self._after_answer(connection)

    def _on_writable(self, connection: ClientConnection, _: socket.socket) -> None:
        if connection not in self._sending:
            return
        try:
            is_moving = connection.outgoing.flush()
        except OSError:
            self.drop(connection)
            return
        if not connection.outgoing.unsent:
            self._sending.discard(connection)
            self._unwatch(connection)
            self.after_writing(connection)
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
                self.drop(each)

    def _after_answer(self, connection: ClientConnection) -> None:
        connection.outgoing.begin()
        if connection.last:
            self.leave(connection)
            self.worker.linger(connection.conn)
            return
        if not connection.watched and not connection.ended:
            self._watch(connection)
        self._take(connection)

    def _rest(self, connection: ClientConnection) -> None:
        """Wait for the next request. Where too many do, who has waited longest goes."""
        connection.began = time.monotonic()
        self._idle.add(connection, self.worker.patience)
        if len(self._idle) > self.worker.max_keepalived:
            self.drop(self._idle.oldest)

    # Leaving

    def leave(self, connection: ClientConnection) -> None:
        self._unwatch(connection)
        self._sending.discard(connection)
        self.take_from_waiting(connection)

    def take_from_waiting(self, connection: ClientConnection) -> None:
        """It waits for no request any more."""
        self._idle.discard(connection)
        self._receiver.discard(connection)

    def drop(self, connection: ClientConnection) -> None:
        """Close a connection. An answer that it is owed is waited for all the same, for the application's sake."""
        if connection.gone:
            return
        connection.gone = True
        self.leave(connection)
        self._receiver.release(connection)
        connection.reader = None
        work, context = connection.work, connection.context
        if work is not None and context is not None:
            self.worker.run_in_thread(partial(_abort, work, context))
        self.worker.end(connection.conn)


def _abort(work: Generator[None, None, bool], context: Context) -> None:
    """Let the application know that its answer is not taken. Called by a thread."""
    try:
        context.run(work.close)
    except BaseException:
        log.exception("An answer was not closed in order.")
