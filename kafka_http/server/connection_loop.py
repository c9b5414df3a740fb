"""The connections of a worker that no thread uses.

The main loop receives each request in full before a thread gets it, and sends what clients do not accept at once. A
request on the fast path needs no thread at all: the loop passes it to the application and sends the response when it is
known.
"""

import logging
import os
import time
from collections.abc import Callable, Generator
from contextvars import Context, copy_context
from functools import partial
from selectors import EVENT_READ
from typing import Any, Protocol

from gunicorn.workers.gthread import TConn

from kafka_http.event_loop import EventLoop
from kafka_http.server.app_interface import Decision, FastPathHandler, OnSent, RequestPolicy
from kafka_http.server.client_connection import ClientConnection, ConnectionTimeouts, GroupedTimeouts
from kafka_http.server.fast_path import FastPath, FastPathWorker
from kafka_http.server.fast_path_parser import MAX_BODY, MAX_FIELDS, MAX_HEAD
from kafka_http.server.prepared_heads import FindHead
from kafka_http.server.request_reader import ParsedHeads, RequestReader, without_blank_lines
from kafka_http.server.request_receiver import RequestReceiver
from kafka_http.server.response_sender import ResponseSender
from kafka_http.server.stream_sender import StreamDetached

log = logging.getLogger(__name__)

_READ_BYTES = 1 << 16
_MAX_READ_BYTES = MAX_BODY + MAX_HEAD
"""For a body whose length is known."""
_CHUNKED_READ_BYTES = 1 << 15
"""Smaller, because a chunk of one byte costs as much time as a large one, and the loop has other clients."""
_MAX_PIPELINED_BYTES = 1 << 18
"""Size of pipelined requests after which the loop stops receiving until the response before them is sent."""
_MIN_SECONDS = 1.0
"""Minimum age of a connection before it is closed to make room for another one."""


class LoopWorker(FastPathWorker, Protocol):
    """What the connection loop needs of the worker."""

    cfg: Any
    max_keepalived: int

    @property
    def idle_seconds(self) -> float:
        """Time after which an idle connection is closed."""

    def respond(
        self, connection: ClientConnection, reader: RequestReader, is_streamed: bool
    ) -> Generator[None, None, bool]:
        """Respond to a request. Yields when unsent data must be sent before it continues."""

    def handle_error(self, req: Any, client: Any, addr: Any, exc: BaseException) -> None:
        """Respond to invalid HTTP."""

    def run_in_thread(self, work: Callable[[], None], *, reserved: bool = False) -> None:
        """Run `work` in the thread pool, or in the reserved thread."""

    def stream(self, conn: TConn, detached: StreamDetached) -> None:
        """Pass a connection to the thread that sends streams."""

    def close_connection(self, conn: TConn) -> None:
        """Close a connection at once."""

    def close_lingering(self, conn: TConn) -> None:
        """Close a connection after its last response."""


def can_receive_requests(cfg: Any) -> bool:
    """Return whether connections carry plain HTTP/1, which the main loop can receive."""
    is_http = getattr(cfg, "protocol", "http") == "http" and cfg.http2_cleartext == "off"
    return is_http and not cfg.is_ssl and cfg.proxy_protocol in (False, "off")


def can_use_fast_path(cfg: Any) -> bool:
    """Return whether gunicorn's settings ask for nothing that the fast path leaves out."""
    has_no_hooks = all(
        cfg.settings[name].get() is cfg.settings[name].default for name in ("pre_request", "post_request")
    )
    has_room = min(cfg.limit_request_line or MAX_HEAD, cfg.limit_request_field_size or MAX_HEAD) >= MAX_HEAD
    has_room = has_room and cfg.limit_request_fields >= MAX_FIELDS
    has_keepalive = cfg.worker_connections > cfg.threads
    return has_no_hooks and has_room and can_receive_requests(cfg) and has_keepalive and "SCRIPT_NAME" not in os.environ


class ConnectionLoop:
    """The connections of a worker that no thread uses. The main loop calls all methods but `_run_in_thread`."""

    def __init__(
        self,
        worker: LoopWorker,
        policy: RequestPolicy,
        handler: FastPathHandler | None,
        main_loop: EventLoop,
        *,
        stall: float,
    ) -> None:
        """Create a loop without connections.

        `handler` is None if there is no fast path. `stall`: seconds without progress after which a client that does
        not accept its response is disconnected.
        """
        self._worker = worker
        self._policy = policy
        self._main_loop = main_loop
        self._receiver = RequestReceiver(self, policy)
        self._sender = ResponseSender(self, main_loop, policy, stall)
        self._parsed_heads = ParsedHeads(worker.cfg)
        self._fast_path = (
            None if handler is None else FastPath(worker, handler, main_loop.call_soon, self.send_response)
        )
        self._idle = ConnectionTimeouts()
        pending = () if self._fast_path is None else (self._fast_path.pending,)
        self._all: tuple[ConnectionTimeouts | GroupedTimeouts, ...] = (
            self._idle,
            self._receiver.heads,
            self._receiver.bodies,
            *pending,
            self._sender.unsent,
            self._sender.doubtful,
        )

    def add(self, conn: TConn) -> None:
        """Wait for the first request of a new connection."""
        connection = ClientConnection(conn)
        conn.sock.setblocking(False)
        self._watch(connection)
        self._wait_for_request(connection)

    @property
    def next_deadline(self) -> float:
        """When `expire` must be called next, on the monotonic clock."""
        return min([each.next_deadline for each in self._all])

    @property
    def pending_count(self) -> int:
        """The number of requests on the fast path whose response is not known."""
        return 0 if self._fast_path is None else len(self._fast_path.pending)

    def expire(self) -> None:
        """Close idle and stalled connections, and respond to requests on the fast path whose time is over."""
        now = time.monotonic()
        for connection in self._idle.pop_expired(now):
            self.drop(connection)
        self._receiver.expire(now)
        self._sender.expire(now)
        if self._fast_path is not None:
            self._fast_path.expire(now)

    def make_room(self) -> bool:
        """Close the least active connection. Return False if none is old enough."""
        since = time.monotonic() - _MIN_SECONDS
        for waiting in (self._receiver.heads, self._idle, self._receiver.bodies, self._sender.unsent):
            if waiting and waiting.oldest.started < since:
                self.drop(waiting.oldest)
                return True
        return False

    def begin_stop(self, deadline: float) -> None:
        """Close idle connections by `deadline`. The next response on each connection is its last."""
        self._idle.limit(deadline)
        self._receiver.begin_stop(deadline)

    def close(self) -> None:
        """Close all connections."""
        for waiting in self._all:
            for connection in waiting.pop_expired(float("inf")):
                self.drop(connection)

    # Receiving

    def _watch(self, connection: ClientConnection) -> None:
        connection.is_watched = True
        self._main_loop.register(connection, EVENT_READ, self._on_readable)

    def unwatch(self, connection: ClientConnection) -> None:
        """Stop waiting for the socket."""
        if connection.is_watched:
            connection.is_watched = False
            self._main_loop.unregister(connection)

    def _on_readable(self, connection: ClientConnection) -> None:
        if not connection.is_watched or connection.send_buffer.unsent:
            return  # its state has changed during this round
        reader = connection.reader
        try:
            data = connection.conn.sock.recv(_READ_BYTES if reader is None else _read_size(reader))
        except BlockingIOError:
            return
        except OSError:
            self.drop(connection)
            return
        if not data:
            connection.has_eof = True
            self.unwatch(connection)
        if reader is not None:
            self._receiver.receive(connection, reader, data)
            return
        connection.received = connection.received + data if connection.received else data
        if connection.pending_response is None:
            self._handle_received(connection)
        elif len(connection.received) > _MAX_PIPELINED_BYTES:
            self.unwatch(connection)

    def _handle_received(self, connection: ClientConnection) -> None:
        """Start the request at the start of the received data, or wait for one."""
        data = connection.received
        if data.startswith(b"\r"):
            data = connection.received = without_blank_lines(data)
        if not data or data == b"\r":
            if connection.has_eof:
                self.drop(connection)
            elif connection not in self._idle:
                self._wait_for_request(connection)
            return
        self._idle.discard(connection)
        end = data.find(b"\r\n\r\n") + 4
        if self._fast_path is None or not self._start_on_fast_path(connection, self._fast_path, data, end):
            has_head = end > 3
            connection.received = b""
            find_head = None if self._fast_path is None or has_head else self._fast_path.find_head
            self._receiver.start(connection, self._new_reader(connection, find_head), data)

    def _start_on_fast_path(self, connection: ClientConnection, fast_path: FastPath, data: bytes, end: int) -> bool:
        """Start the request with the head `data[:end]`, or wait for the rest of its body.

        Return False, with nothing done, if a view must respond or the head is incomplete.
        """
        found = fast_path.find_head(data, end, connection.client) if end > 3 else None
        if found is None:
            return False
        head, size = found
        stop = end + size
        if len(data) < stop:
            connection.received = b""
            reader = self._new_reader(connection, None)
            reader.start_body(data[:end], found, data[end:])
            self._receiver.start_body(connection, reader)
            return True
        connection.received = data[stop:]
        if fast_path.start(connection, head, data[end:stop]):
            return True
        connection.received = data
        return False

    def _new_reader(self, connection: ClientConnection, find_head: FindHead | None) -> RequestReader:
        return RequestReader(self._parsed_heads, connection.conn.client, connection.client, find_head)

    def start_prepared(self, connection: ClientConnection, reader: RequestReader) -> bool:
        """Start a request that arrived in pieces on the fast path, or do nothing and return False."""
        if self._fast_path is None or reader.prepared is None:
            return False
        if not reader.prepared.prepared.is_current:  # the right was revoked while the body arrived
            return False
        self._receiver.release(connection)
        if not self._fast_path.start(connection, reader.prepared, reader.whole_body()):
            self._receiver.count(connection, reader)
            return False
        connection.reader, connection.received = None, reader.rest
        self._receiver.discard(connection)
        return True

    def handle_error(self, request: Any, connection: ClientConnection, error: Exception) -> None:
        """Write the response to a request that is not valid HTTP."""
        self._worker.handle_error(request, connection.send_buffer, connection.conn.client, error)

    # Requests for threads

    def decide_in_thread(
        self,
        connection: ClientConnection,
        decide: Callable[[], Decision | None],
        on_decided: Callable[[Decision], None],
    ) -> None:
        """Call `decide` in a thread, then `on_decided` in the main loop. Nothing is received meanwhile."""
        self.stop_watching(connection)
        self._worker.run_in_thread(partial(self._decide, connection, decide, on_decided))

    def _decide(
        self,
        connection: ClientConnection,
        decide: Callable[[], Decision | None],
        on_decided: Callable[[Decision], None],
    ) -> None:
        decision = None
        try:
            decision = decide()
        except Exception:
            log.exception("A decision about a request failed.")
        self._main_loop.call_soon(self._on_decided, connection, decision, on_decided)

    def _on_decided(
        self, connection: ClientConnection, decision: Decision | None, on_decided: Callable[[Decision], None]
    ) -> None:
        if decision is None:
            self.drop(connection)
        elif not connection.is_closed:
            if not connection.has_eof:
                self._watch(connection)
            on_decided(decision)

    def dispatch(self, connection: ClientConnection, reader: RequestReader, is_streamed: bool = False) -> None:
        """Run a request where the policy says."""
        self.stop_watching(connection)
        connection.reader = None
        connection.received = reader.rest
        connection.closes_after_response = not reader.is_complete
        connection.send_buffer.reset()
        self._worker.count_request()
        connection.context = copy_context()
        connection.response_steps = self._worker.respond(connection, reader, is_streamed)
        runner = "pool" if is_streamed else self._policy.runner(reader.request.path)
        if runner == "loop":
            self._main_loop.call_soon(self._on_step_done, connection, connection.run_step())
        else:
            self._worker.run_in_thread(partial(self._run_in_thread, connection), reserved=runner == "reserved")

    def _run_in_thread(self, connection: ClientConnection) -> None:
        result = connection.run_step()
        self._main_loop.call_soon(self._on_step_done, connection, result)

    def _on_step_done(self, connection: ClientConnection, result: bool | StreamDetached | None) -> None:
        """Continue after a step in a thread."""
        self._receiver.release(connection)
        if isinstance(result, StreamDetached):
            connection.is_closed = True
            self._worker.stream(connection.conn, result)
            return
        if result is not None:
            connection.response_steps = connection.context = None
            connection.closes_after_response |= not result
        self.continue_response(connection)

    # Sending

    def send_response(self, connection: ClientConnection, data: bytes, on_sent: OnSent | None) -> None:
        """Send a whole response, then wait for the next request or close the connection.

        `on_sent` is called once: with True when all data was passed to the system, with False if the connection is
        closed before, or if a client that had closed its side refuses the data: it had gone.
        """
        connection.on_sent = on_sent
        try:
            connection.send_buffer.sendall(data)
        except OSError:
            self.drop(connection)
            return
        self.continue_response(connection)

    def continue_response(self, connection: ClientConnection) -> None:
        """Wait until unsent data is sent, then run the next step of the response or end it."""
        if connection.send_buffer.unsent:
            self._sender.send_rest(connection)
        elif connection.response_steps is not None:
            self._worker.run_in_thread(partial(self._run_in_thread, connection))
        else:
            self._sender.end(connection)

    def end_response(self, connection: ClientConnection) -> None:
        """End a response that was sent: wait for the next request, or close the connection."""
        connection.report_sent(is_sent=True)
        connection.send_buffer.reset()
        if connection.closes_after_response:
            self.stop_watching(connection)
            self._worker.close_lingering(connection.conn)
            return
        if not connection.is_watched and not connection.has_eof:
            self._watch(connection)
        self._handle_received(connection)

    def _wait_for_request(self, connection: ClientConnection) -> None:
        """Wait for the next request. If too many connections are idle, close the one that has waited longest."""
        connection.started = time.monotonic()
        self._idle.add(connection, self._worker.idle_seconds)
        if len(self._idle) > self._worker.max_keepalived:
            self.drop(self._idle.oldest)

    # Closing

    def stop_watching(self, connection: ClientConnection) -> None:
        """Stop waiting for the client: its response is not ready yet, or the connection ends."""
        self.unwatch(connection)
        self._sender.discard(connection)
        self._idle.discard(connection)
        self._receiver.discard(connection)

    def drop(self, connection: ClientConnection) -> None:
        """Close a connection. The application still completes a pending request."""
        if connection.is_closed:
            return
        connection.is_closed = True
        connection.report_sent(is_sent=False)
        self.stop_watching(connection)
        self._receiver.release(connection)
        connection.reader = None
        steps, context = connection.response_steps, connection.context
        if steps is not None and context is not None:
            self._worker.run_in_thread(partial(_abort, steps, context))
        self._worker.close_connection(connection.conn)


def _read_size(reader: RequestReader) -> int:
    """Return how many bytes to receive at once for a request that is incomplete."""
    return _CHUNKED_READ_BYTES if reader.is_chunked else min(max(reader.missing, _READ_BYTES), _MAX_READ_BYTES)


def _abort(steps: Generator[None, None, bool], context: Context) -> None:
    """Tell the application, in a thread, that its response was not sent."""
    try:
        context.run(steps.close)
    except BaseException:
        log.exception("Closing a response failed.")
