"""The gunicorn worker class of this server.

    gunicorn -k kafka_http.server.worker.Worker wsgi:app

It extends gunicorn's threads so that slow and silent clients cannot occupy them. With gunicorn's own class, a client
that keeps its side open after `Connection: close` stops the whole worker for 2 s, a client that connects and sends
nothing occupies a thread for 5 s, and a client that vanishes during a request occupies a thread forever.
"""

import errno
import logging
import math
import signal
import socket
import sys
import time
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from selectors import EVENT_READ
from typing import Any, cast

from gunicorn.arbiter import Arbiter
from gunicorn.workers.gthread import TConn, ThreadWorker

from kafka_http.config import ConfigError
from kafka_http.logs import LogOnce
from kafka_http.metrics import CONNECTIONS, OTHER, REQUESTS_IN_FLIGHT, count_request
from kafka_http.server.app_interface import (
    FLUSH_SECONDS,
    AdmittedConnection,
    DefaultHooks,
    ServerHooks,
    TlsContext,
    hooks_of,
)
from kafka_http.server.client_connection import ClientConnection, CountedConnection
from kafka_http.server.connection_loop import ConnectionLoop, can_receive_requests, can_use_fast_path
from kafka_http.server.gunicorn_responses import ErrorPage, hide_credentials, render_error
from kafka_http.server.lingering_close import LINGER_SECONDS, LingeringConnections
from kafka_http.server.main_loop import MainLoop
from kafka_http.server.memory_trim import MemoryTrimmer
from kafka_http.server.reload import WorkerReload
from kafka_http.server.request_reader import RequestReader
from kafka_http.server.stream_sender import StreamDetached, StreamSender, can_send_streams
from kafka_http.server.tls import TlsHandshakes
from kafka_http.server.view_responder import STALL_SECONDS, ViewResponder, set_socket_timeouts, with_request_details

MAX_ACCEPTS = 16
"""Connections accepted in one round of the main loop. With 1, the last of a thousand clients waits for seconds."""
_SWITCH_SECONDS = 0.0005
"""Time that a thread keeps the interpreter while the main loop waits for it, in workers with a fast path. The loop
gives the interpreter up with each socket call. With Python's 5 ms, publishes beside threads that render large pages
took 2.5 times as long. Without a fast path, 0.5 ms only costs: 15 % more CPU time for a publish."""
_ACCEPT_PAUSE_SECONDS = 0.5
_LOG_SECONDS = 60.0
_TOO_MANY_CONNECTIONS = render_error(
    429,
    "Too Many Requests",
    "Your address has too many open connections. Close some, or retry later.",
    code=42902,
    headers="Retry-After: 5\r\n",
)
_NO_CONNECTION = frozenset((errno.EAGAIN, errno.EWOULDBLOCK, errno.ECONNABORTED, errno.EINTR))
"""Errors of `accept` if another worker has the connection or the client has closed it."""


class Worker(ThreadWorker):
    """Runs requests in threads; the main loop keeps connections that wait for their client or for Kafka.

    With gunicorn's own TLS, HTTP/2 or the proxy protocol, gunicorn's code reads the requests in threads. gunicorn
    creates the worker, forks, and calls `init_process` in the new process, which ends in `run`.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._connections: ConnectionLoop | None = None
        """None if gunicorn's own code reads the requests."""
        self._handshakes: TlsHandshakes | None = None
        """None without the application's TLS."""
        self._streams: StreamSender | None = None
        self._responder: ViewResponder | None = None
        self._reserved_thread: ThreadPoolExecutor | None = None
        self._keepalive = float(self.cfg.keepalive)
        self._hooks: ServerHooks = DefaultHooks()
        self._reload = WorkerReload(self.app)
        self._accepts_from = 0.0
        self._warnings = LogOnce(self.log.error_log, _LOG_SECONDS)

    def init_process(self) -> None:
        self.cfg.set("graceful_timeout", max(1, self.cfg.graceful_timeout - FLUSH_SECONDS))  # in this process only
        self.cfg.set("sendfile", False)  # it would block
        self._memory_trimmer = MemoryTrimmer()
        self.log.error_log.addFilter(_shorten_stall)
        super().init_process()

    def init_signals(self) -> None:
        super().init_signals()
        # A terminal sends these to all processes; the arbiter tells the workers what to do.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    def run(self) -> None:
        loop = self._replace_poller()
        self._lingering = LingeringConnections(loop, self.close_connection)
        hooks = self._hooks = hooks_of(self.wsgi)
        self._start(hooks)
        hooks.attach(loop)
        self._reload.start(hooks, loop)
        self.wsgi = with_request_details(self.wsgi)
        if can_receive_requests(self.cfg):
            handler = hooks.fast_path if can_use_fast_path(self.cfg) else None
            self._connections = ConnectionLoop(self, hooks.request_policy, handler, loop, stall=STALL_SECONDS)
            self._reserved_thread = ThreadPoolExecutor(1, thread_name_prefix="reserved")
            if handler is not None:
                sys.setswitchinterval(_SWITCH_SECONDS)
        if hooks.tls is not None:
            self._handshakes = self._new_handshakes(loop, hooks.tls)
        if can_send_streams(self.cfg):
            self._streams = StreamSender(stall=STALL_SECONDS)
        has_tls, has_streams = self._handshakes is not None, self._streams is not None
        self._responder = ViewResponder(self, is_tls=has_tls, can_detach=has_streams)
        try:
            super().run()
        finally:
            if self._streams is not None:
                self._streams.close(LINGER_SECONDS)
            if self._reserved_thread is not None:
                self._reserved_thread.shutdown(wait=False)
            self._close_app()

    def _start(self, hooks: ServerHooks) -> None:
        try:
            hooks.start()
        except ConfigError as error:  # gunicorn then stops, as when it loads an application with faulty settings
            self.log.error("%s", error)
            sys.exit(Arbiter.WORKER_BOOT_ERROR)

    def _new_handshakes(self, loop: MainLoop, tls: TlsContext) -> TlsHandshakes:
        if self._connections is None:
            self.log.error("tls_cert cannot be combined with gunicorn's certfile, HTTP/2 or proxy protocol.")
            sys.exit(Arbiter.WORKER_BOOT_ERROR)
        return TlsHandshakes(
            loop,
            tls,
            start=self._connections.add,
            close=self.close_connection,
            close_lingering=self.close_lingering,
        )

    def _replace_poller(self) -> MainLoop:
        worker: Any = self
        worker.poller.close()
        worker.method_queue.close()
        worker.poller = worker.method_queue = self._main_loop = MainLoop()
        return self._main_loop

    # Connections

    def accept(self, listener: socket.socket) -> None:
        """Accept waiting connections, up to `MAX_ACCEPTS`."""
        for _ in range(min(MAX_ACCEPTS, self.worker_connections - self.nr_conns)):
            try:
                client, address = listener.accept()
            except OSError as error:
                if error.errno not in _NO_CONNECTION:
                    self._pause_accepting(error)
                return
            self.nr_conns += 1
            conn = CountedConnection(self.cfg, client, address, listener.getsockname())
            if not self._admit(conn):
                continue
            try:
                self.enqueue_req(conn)
            except OSError as error:  # the poller is full
                self.close_connection(conn)
                self._pause_accepting(error)
                return

    def _admit(self, conn: CountedConnection) -> bool:
        """Count a connection, or close it and return False if its address has too many."""
        address = conn.client[0] if isinstance(conn.client, tuple) else ""
        conn.admitted = self._hooks.request_policy.admit_connection(address)
        if conn.admitted is not None:
            return True
        self._warnings.warning("Closed connections: their address has too many (limits, connections).")
        if self._handshakes is None and not self.cfg.is_ssl:  # a handshake would cost what the limit should save
            with suppress(OSError):
                conn.sock.send(_TOO_MANY_CONNECTIONS)
        self.close_lingering(conn)
        return False

    def enqueue_req(self, conn: TConn) -> None:
        """Add a connection to the main loop. Without one, a thread gets it when its client has sent something."""
        if self._handshakes is not None:
            self._handshakes.add(conn)
        elif self._connections is not None:
            self._connections.add(conn)
        elif conn.initialized or conn.data_ready:
            super().enqueue_req(conn)
        else:
            set_socket_timeouts(conn.sock)
            conn.timeout = time.monotonic() + (self.cfg.keepalive or LINGER_SECONDS)
            self.pending_conns.append(conn)
            conn.sock.setblocking(False)
            self._main_loop.register(conn.sock, EVENT_READ, partial(self.on_pending_socket_readable, conn))

    def finish_request(self, conn: TConn, fs: "Future[Any]") -> None:
        """Close or keep a connection whose request gunicorn's own code has read."""
        if not fs.cancelled() and fs.exception() is None and fs.result() is False:
            self.close_lingering(conn)
        else:
            super().finish_request(conn, fs)

    def wait_for_and_dispatch_events(self, timeout: float | None) -> None:
        """Run rounds of the main loop for `timeout` seconds, or until gunicorn has something to do.

        gunicorn does its work for the arbiter and for idle connections after each call, which costs as much as a
        request. While the worker stops, each call is one round.
        """
        end = time.monotonic() + (1.0 if timeout is None else timeout)
        while True:
            self._run_round(end)
            if not self._can_continue or time.monotonic() >= end:
                return

    @property
    def _can_continue(self) -> bool:
        """Whether gunicorn has nothing to do between two rounds: no stop, and no change of whether it accepts."""
        has_room = self.nr_conns <= self.worker_connections - MAX_ACCEPTS
        return has_room and self.alive and bool(self._accepting)  # type: ignore[attr-defined]  # stubs of an older gunicorn

    def _run_round(self, deadline: float) -> None:
        """Run a round that waits until `deadline` at the latest."""
        hooks, connections, now = self._hooks, self._connections, time.monotonic()
        expires = math.inf if connections is None else connections.next_deadline
        deadline = min(deadline, expires, hooks.next_deadline)
        if now < self._accepts_from:
            deadline = min(deadline, self._accepts_from)
        self._main_loop.run_round(max(0.0, deadline - now), hooks.end_round)
        if connections is not None and time.monotonic() >= expires:
            connections.expire()

    def murder_keepalived(self, force: bool = False) -> None:
        """Close idle connections. gunicorn calls this after each round, and with `force` at the end."""
        super().murder_keepalived(force)  # type: ignore[call-arg]  # its stubs are of an older gunicorn
        if self._connections is not None:
            self._connections.expire()
            if force:
                self._connections.close()
                if self._handshakes is not None:
                    self._handshakes.close()
            elif self.alive:
                self._make_room(self.worker_connections - MAX_ACCEPTS)

    def murder_pending(self) -> None:
        """Close connections whose lingering close is over. gunicorn calls this at least once per second."""
        super().murder_pending()
        self._memory_trimmer.check(partial(self.run_in_thread, reserved=True), self._hooks.release_memory)
        self._lingering.expire()
        self._reload.check()
        self._update_gauges()
        if self._handshakes is not None:
            self._handshakes.expire()

    def _update_gauges(self) -> None:
        CONNECTIONS.set(self.nr_conns)
        if self._connections is not None:
            REQUESTS_IN_FLIGHT.set(self._connections.pending_count, "fast_path")
        self._hooks.update_gauges()

    def set_accept_enabled(self, enabled: bool | None) -> None:
        if enabled and time.monotonic() < self._accepts_from:
            return
        super().set_accept_enabled(enabled)
        if not self.alive:
            self._begin_stop()

    def close_connection(self, conn: TConn) -> None:
        self.nr_conns -= 1
        conn.close()

    def close_lingering(self, conn: TConn) -> None:
        """Close a connection after its last response."""
        self._lingering.add(conn)

    def _pause_accepting(self, error: OSError) -> None:
        """Stop accepting for a moment: the system is out of file descriptors or memory, or the network is down."""
        self._warnings.warning(
            "Cannot accept connections: %s. Retrying in %s s.", error.strerror, _ACCEPT_PAUSE_SECONDS
        )
        self._accepts_from = time.monotonic() + _ACCEPT_PAUSE_SECONDS
        self.set_accept_enabled(False)
        self._make_room(self.nr_conns - MAX_ACCEPTS)

    def _make_room(self, limit: int) -> None:
        """Close the least active connections until at most `limit` are left."""
        while self.nr_conns > max(0, limit):
            if self._lingering.close_oldest() or (self._handshakes is not None and self._handshakes.make_room()):
                continue
            if self._connections is None or not self._connections.make_room():
                return

    # Called by the main loop

    def run_in_thread(self, work: Callable[[], None], *, reserved: bool = False) -> None:
        """Run `work` in the thread pool, or in the reserved thread, which requests that wait for Kafka cannot use."""
        pool = self._reserved_thread if reserved else self.tpool
        if pool is None:  # gunicorn's own code reads the requests
            return
        try:
            pool.submit(work)
        except RuntimeError as error:  # no thread can be started; an existing one will do the work
            self._warnings.warning("Cannot start a thread: %s. Existing threads continue.", error)

    def stream(self, conn: TConn, detached: StreamDetached) -> None:
        """Pass a connection to the thread that sends streams."""
        assert self._streams is not None  # noqa: S101  DETACH_STREAM is set only with it
        self.nr_conns -= 1
        admitted = cast("CountedConnection", conn).admitted
        assert admitted is not None  # noqa: S101  set for each connection that is not closed
        self._streams.add(conn.sock, detached.source, detached.is_chunked, partial(_end_stream, admitted, detached))

    def count_request(self) -> None:
        """Count a request toward gunicorn's `max_requests`."""
        self.nr += 1
        if self.nr >= self.max_requests and self.alive:
            self.log.info("Restarting the worker: max_requests is reached.")
            self.alive = False

    @property
    def allows_keepalive(self) -> bool:
        """Whether a connection may be kept open for another request."""
        return self.alive and self._keepalive > 0 and self.max_keepalived > 0

    @property
    def idle_seconds(self) -> float:
        """Time after which an idle connection is closed."""
        return self._keepalive or LINGER_SECONDS if self.alive else LINGER_SECONDS

    def respond(
        self, connection: ClientConnection, reader: RequestReader, is_streamed: bool
    ) -> Generator[None, None, bool]:
        """Respond to a request. See `ViewResponder.respond`."""
        assert self._responder is not None  # noqa: S101  set before the first request
        return self._responder.respond(connection, reader, is_streamed)

    def handle_request(self, req: Any, conn: Any) -> Any:
        """Respond to a request that gunicorn's own code has read."""
        req.admitted = conn.admitted
        return super().handle_request(req, conn)

    def handle_error(self, req: Any, client: Any, addr: Any, exc: BaseException) -> None:
        """Respond to invalid HTTP with a JSON error, where gunicorn responds with HTML."""
        page = ErrorPage()
        hide_credentials(req, exc)
        super().handle_error(req, cast("socket.socket", page), addr, exc)
        count_request("none", OTHER, page.status, 0.0)
        with suppress(OSError):
            client.sendall(page.as_json(str(exc)))

    # The end

    def is_parent_alive(self) -> bool:
        if not super().is_parent_alive():
            self.alive = False  # stop as after SIGTERM
        return self.alive

    def _begin_stop(self) -> None:
        deadline = time.monotonic() + LINGER_SECONDS
        for conn in self.pending_conns:
            conn.timeout = min(conn.timeout or deadline, deadline)
        if self._connections is not None:
            self._connections.begin_stop(deadline)
        if self._handshakes is not None:
            self._handshakes.limit(deadline)
        self._hooks.stop()

    def _close_app(self) -> None:
        """Drive the loop until Kafka has answered all publishes, also those of disconnected clients, then close."""
        deadline = time.monotonic() + FLUSH_SECONDS
        try:
            while self._hooks.next_deadline < math.inf and time.monotonic() < deadline:
                self._run_round(deadline)
            self._hooks.close(max(0.0, deadline - time.monotonic()))
        except Exception:
            self.log.exception("Closing the application failed.")


def _end_stream(admitted: AdmittedConnection, detached: StreamDetached, sent: int) -> None:
    admitted.close()
    if detached.on_end is not None:
        detached.on_end(sent)


def _shorten_stall(record: logging.LogRecord) -> bool:
    """Log a line instead of gunicorn's traceback when a socket timeout is over."""
    if record.exc_info and isinstance(record.exc_info[1], BlockingIOError | TimeoutError):
        record.levelno, record.levelname = logging.INFO, "INFO"
        record.msg = f"Closed a connection after {STALL_SECONDS} s without progress."
        record.args, record.exc_info = None, None
    return True
