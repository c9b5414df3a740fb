"""The connections of a worker that no thread uses.

The main loop receives each request in full before a thread gets it, and sends what clients do not accept at once. A
publish on the fast path needs no thread at all: the loop passes it to the application and sends the response when Kafka
has answered.
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

from kafka_http.server.app_interface import FastPathHandler, RequestPolicy
from kafka_http.server.client_connection import ClientConnection, ConnectionTimeouts
from kafka_http.server.fast_path import FastPath
from kafka_http.server.fast_path_parser import MAX_BODY, MAX_FIELDS, MAX_HEAD, NotFastPath, parse
from kafka_http.server.request_reader import RequestReader, without_blank_lines
from kafka_http.server.request_receiver import SMALL_BYTES, RequestReceiver
from kafka_http.server.stream_sender import StreamDetached

if TYPE_CHECKING:
    from kafka_http.server.worker import Worker

log = logging.getLogger(__name__)

_READ_BYTES = MAX_BODY + MAX_HEAD
_CHUNKED_READ_BYTES = 1 << 15
"""Smaller, because a chunk of one byte costs as much time as a large one, and the loop has other clients."""
_MIN_SECONDS = 1.0
"""Minimum age of a connection before it is closed to make room for another one."""


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
        worker: "Worker",
        policy: RequestPolicy,
        handler: FastPathHandler | None,
        poller: BaseSelector,
        *,
        stall: float,
    ) -> None:
        """Create a loop without connections.

        `handler` is None if there is no fast path. `stall`: seconds without progress after which a client that does
        not accept its response is disconnected.
        """
        self.worker = worker
        self._policy = policy
        self._poller = poller
        self._stall = stall
        self._receiver = RequestReceiver(self, policy)
        self._fast_path = None if handler is None else FastPath(self, handler)
        self._idle, self._sending = ConnectionTimeouts(), ConnectionTimeouts()
        pending = () if self._fast_path is None else (self._fast_path.pending,)
        self._all: tuple[ConnectionTimeouts, ...] = (
            self._idle,
            self._receiver.heads,
            self._receiver.bodies,
            *pending,
            self._sending,
        )
        self._next_unsent_check = 0.0

    def add(self, conn: TConn) -> None:
        """Wait for the first request of a new connection."""
        connection = ClientConnection(conn)
        conn.sock.setblocking(False)
        self._watch(connection)
        self._wait_for_request(connection)

    def end_round(self) -> None:
        """Finish one round of the main loop."""
        if self._fast_path is not None:
            self._fast_path.end_round()

    @property
    def next_deadline(self) -> float:
        """When `expire` must be called next, on the monotonic clock."""
        return min(each.next_deadline for each in self._all)

    def expire(self) -> None:
        """Close idle and stalled connections, and respond to publishes that Kafka has not answered in time."""
        now = time.monotonic()
        for connection in self._idle.pop_expired(now):
            self.drop(connection)
        self._receiver.expire(now)
        for connection in self._sending.pop_expired(now):
            log.info("Closed a connection after %s s without progress.", self._stall)
            self.drop(connection)
        if self._fast_path is not None:
            self._fast_path.expire(now)
        if len(self._sending) > 1 and now >= self._next_unsent_check:
            self._next_unsent_check = now + _MIN_SECONDS
            self._limit_unsent()

    def make_room(self) -> bool:
        """Close the least active connection. Return False if none is old enough."""
        since = time.monotonic() - _MIN_SECONDS
        for waiting in (self._receiver.heads, self._idle, self._receiver.bodies, self._sending):
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
        self._poller.register(connection.conn.sock, EVENT_READ, partial(self._on_readable, connection))

    def _unwatch(self, connection: ClientConnection) -> None:
        if connection.is_watched:
            connection.is_watched = False
            self._poller.unregister(connection.conn.sock)

    def _on_readable(self, connection: ClientConnection, client: socket.socket) -> None:
        if not connection.is_watched or connection.send_buffer.unsent:
            return  # its state has changed during this round
        reader = connection.reader
        try:
            data = client.recv(_CHUNKED_READ_BYTES if reader is not None and reader.is_chunked else _READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            self.drop(connection)
            return
        if not data:
            connection.has_eof = True
            self._unwatch(connection)
        if reader is not None:
            self._receiver.receive(connection, reader, data)
            return
        connection.received += data
        if connection.pending_response is None:
            self._handle_received(connection)
        elif len(connection.received) > _READ_BYTES:  # enough pipelined requests
            self._unwatch(connection)

    def _handle_received(self, connection: ClientConnection) -> None:
        """Start the request at the start of the received data, or wait for one."""
        if connection.received[:1] == b"\r":
            connection.received = without_blank_lines(connection.received)
        if not connection.received or connection.received == b"\r":
            if connection.has_eof:
                self.drop(connection)
            elif connection not in self._idle:
                self._wait_for_request(connection)
            return
        may_be_fast_path = False
        if self._fast_path is not None:
            try:
                request = parse(connection.received)
            except NotFastPath:
                pass
            else:
                may_be_fast_path = request is None
                if request is not None and self._fast_path.begin(connection, request):
                    return
        self._idle.discard(connection)
        if may_be_fast_path and connection not in self._receiver.heads and not connection.has_eof:
            self._receiver.start(connection)  # many clients send head and body separately
        else:
            self.read_request(connection, may_be_fast_path=may_be_fast_path)

    def read_request(self, connection: ClientConnection, *, may_be_fast_path: bool) -> None:
        """Receive a request with a `RequestReader`."""
        data, connection.received = connection.received, b""
        reader = RequestReader(self.worker.cfg, connection.conn.client, may_be_fast_path)
        connection.reader = reader
        if connection not in self._receiver.heads:
            self._receiver.start(connection)
        self._receiver.receive(connection, reader, data)

    def begin_buffered(self, connection: ClientConnection, reader: RequestReader) -> bool:
        """Start a request that arrived in pieces on the fast path, or do nothing and return False."""
        if self._fast_path is None or reader.size > _READ_BYTES:
            return False
        self._receiver.release(connection)
        if self._fast_path.begin_buffered(connection, reader):
            return True
        self._receiver.count(connection, reader)
        return False

    # Requests for threads

    def dispatch(self, connection: ClientConnection, reader: RequestReader, is_streamed: bool = False) -> None:
        """Run a request where the policy says."""
        self.stop_watching(connection)
        connection.reader = None
        connection.received = reader.rest
        connection.closes_after_response = not reader.is_complete
        connection.send_buffer.reset()
        self.worker.count_request()
        connection.context = copy_context()
        connection.response_steps = self.worker.respond(connection, reader, is_streamed)
        runner = "pool" if is_streamed else self._policy.runner(reader.request.path)
        if runner == "loop":
            self._on_step_done(connection, self._run_step(connection))
        else:
            self.worker.run_in_thread(partial(self._run_in_thread, connection), reserved=runner == "reserved")

    def _run_in_thread(self, connection: ClientConnection) -> None:
        result = self._run_step(connection)
        self.worker.method_queue.defer(self._on_step_done, connection, result)

    @staticmethod
    def _run_step(connection: ClientConnection) -> bool | StreamDetached | None:
        """Create more of a response.

        Return whether the connection may be kept open, or None if unsent data must be sent first.
        """
        steps, context = connection.response_steps, connection.context
        assert steps is not None  # noqa: S101  set with each request
        assert context is not None  # noqa: S101
        try:
            context.run(next, steps)
        except StopIteration as end:
            return bool(end.value)
        except StreamDetached as detached:
            return detached
        except BaseException:
            log.exception("Response was not completed.")
            return False
        return None

    def _on_step_done(self, connection: ClientConnection, result: bool | StreamDetached | None) -> None:
        """Continue after a step in a thread."""
        self._receiver.release(connection)
        if isinstance(result, StreamDetached):
            connection.is_closed = True
            self.worker.stream(connection.conn, result)
            return
        if result is not None:
            connection.response_steps = connection.context = None
            connection.closes_after_response |= not result
        self.continue_response(connection)

    # Sending

    def continue_response(self, connection: ClientConnection) -> None:
        """Wait until unsent data is sent, then run the next step of the response or end it."""
        if connection.send_buffer.unsent:
            self._unwatch(connection)
            connection.is_watched = True
            self._poller.register(connection.conn.sock, EVENT_WRITE, partial(self._on_writable, connection))
            self._sending.add(connection, self._stall)
        elif connection.response_steps is not None:
            self.worker.run_in_thread(partial(self._run_in_thread, connection))
        else:
            self._end_response(connection)

    def _on_writable(self, connection: ClientConnection, _: socket.socket) -> None:
        if connection not in self._sending:
            return
        try:
            has_progress = connection.send_buffer.flush()
        except OSError:
            self.drop(connection)
            return
        if not connection.send_buffer.unsent:
            self._sending.discard(connection)
            self._unwatch(connection)
            self.continue_response(connection)
        elif has_progress:
            self._sending.add(connection, self._stall)

    def _limit_unsent(self) -> None:
        """Close the slowest connections if unsent data uses most of `max_answers_in_flight`."""
        excess = sum(each.send_buffer.size for each in self._sending) - self._policy.max_answers_in_flight * 3 // 4
        if excess <= 0:
            return
        now = time.monotonic()
        large = [
            each for each in self._sending if each.send_buffer.size > SMALL_BYTES and now - each.started > _MIN_SECONDS
        ]
        large.sort(key=lambda each: each.send_buffer.sent_bytes / (now - each.started))
        for each in large[:-1]:
            if excess > 0:
                excess -= each.send_buffer.size
                log.info("Closed a slow connection: max_answers_in_flight is reached.")
                self.drop(each)

    def _end_response(self, connection: ClientConnection) -> None:
        connection.send_buffer.reset()
        if connection.closes_after_response:
            self.stop_watching(connection)
            self.worker.close_lingering(connection.conn)
            return
        if not connection.is_watched and not connection.has_eof:
            self._watch(connection)
        self._handle_received(connection)

    def _wait_for_request(self, connection: ClientConnection) -> None:
        """Wait for the next request. If too many connections are idle, close the one that has waited longest."""
        connection.started = time.monotonic()
        self._idle.add(connection, self.worker.idle_seconds)
        if len(self._idle) > self.worker.max_keepalived:
            self.drop(self._idle.oldest)

    # Closing

    def stop_watching(self, connection: ClientConnection) -> None:
        """Stop waiting for the client: its response is not ready yet, or the connection ends."""
        self._unwatch(connection)
        self._sending.discard(connection)
        self.cancel_receive_timeouts(connection)

    def cancel_receive_timeouts(self, connection: ClientConnection) -> None:
        self._idle.discard(connection)
        self._receiver.discard(connection)

    def drop(self, connection: ClientConnection) -> None:
        """Close a connection. The application still completes a pending publish."""
        if connection.is_closed:
            return
        connection.is_closed = True
        self.stop_watching(connection)
        self._receiver.release(connection)
        connection.reader = None
        steps, context = connection.response_steps, connection.context
        if steps is not None and context is not None:
            self.worker.run_in_thread(partial(_abort, steps, context))
        self.worker.close_connection(connection.conn)


def _abort(steps: Generator[None, None, bool], context: Context) -> None:
    """Tell the application, in a thread, that its response was not sent."""
    try:
        context.run(steps.close)
    except BaseException:
        log.exception("Closing a response failed.")
