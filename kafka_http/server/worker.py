"""Our worker class: gunicorn's threads, which slow and silent clients cannot use up.

    gunicorn -k kafka_http.server.worker.Worker wsgi:app

With gunicorn's own, a client that keeps its side open after `Connection: close` stops the whole worker for 2 s, one
that connects and sends nothing holds a thread for 5 s, and one that vanishes amid a request holds one for ever.
"""

import logging
import signal
import socket
import ssl
import struct
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from selectors import EVENT_READ, BaseSelector
from typing import Any, cast

from gunicorn.http.parser import RequestParser
from gunicorn.workers.gthread import TConn, ThreadWorker

from kafka_http.server.answers import ErrorPage
from kafka_http.server.lifecycle import FLUSH_SECONDS, Lifecycle, lifecycle_of
from kafka_http.server.streams import HandedOver, Streams, are_possible, offering
from kafka_http.server.threadless import Threadless, is_possible

LINGER_SECONDS = 2.0
LINGER_BYTES = 65536
"""How long, and for how much, a closed connection is still read, so that the client sees the end of its answer (RFC
9112, 9.6): what arrives on a closed socket is answered by a reset, which throws away what the client has not read."""

HEADER_PAIRS = "kafka_http.headers"
"""In the environ: the headers as a list of (name, value)."""

STALL_SECONDS = 30
"""How long a client may send nothing amid its request, or take nothing of its answer."""


class Worker(ThreadWorker):
    """A thread a request; while there is nothing to do for a connection, it is the main loop's and costs none."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._lingering: deque[_Lingering] = deque()
        self._threadless: Threadless | None = None
        self._streams: Streams | None = None
        self._keepalive = float(self.cfg.keepalive)
        self._runtime: Lifecycle | None = None

    def init_process(self) -> None:
        self.cfg.set("graceful_timeout", max(1, self.cfg.graceful_timeout - FLUSH_SECONDS))  # this process's alone
        logging.getLogger("gunicorn.error").addFilter(_shorten_stall)
        super().init_process()

    def init_signals(self) -> None:
        super().init_signals()
        # A terminal sends these to all processes; the arbiter tells the workers what to do about it.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    def run(self) -> None:
        runtime = self._runtime = lifecycle_of(self.wsgi)
        if runtime is not None and hasattr(runtime, "started"):
            runtime.started()
        self.wsgi = handing_over_headers(self.wsgi)
        publishes = getattr(runtime, "publishes", None)
        if publishes is not None and is_possible(self.cfg):
            self._threadless = Threadless(self, publishes, self._poller, stall=STALL_SECONDS)
        if runtime is not None and are_possible(self.cfg):
            self._streams = Streams(stall=STALL_SECONDS)
            self.wsgi = offering(self.wsgi)
        try:
            super().run()
        finally:
            if self._streams is not None:
                self._streams.close(LINGER_SECONDS)
            self._close_app()

    def enqueue_req(self, conn: TConn) -> None:
        """Give a connection to a thread; a new one not before its client has sent something."""
        if conn.initialized or conn.data_ready:
            super().enqueue_req(conn)
            return
        _drop_when_stalled(conn.sock)
        if self._threadless is not None:
            self._threadless.watch(conn)
        else:
            conn.timeout = time.monotonic() + (self.cfg.keepalive or LINGER_SECONDS)
            self.pending_conns.append(conn)
            self._watch(conn, partial(self.on_pending_socket_readable, conn))

    def finish_request(self, conn: TConn, fs: "Future[Any]") -> None:
        error = None if fs.cancelled() else fs.exception()
        keeps = fs.result() if not fs.cancelled() and error is None else None
        if isinstance(error, HandedOver) and self._streams is not None:
            self.nr_conns -= 1
            self._streams.add(conn.sock, error.feed, error.is_chunked)
        elif keeps is False:
            self.linger(conn)
        elif keeps is True and self._threadless is not None and not _read_ahead(conn):
            self._threadless.watch(conn)
        else:
            super().finish_request(conn, fs)

    def wait_for_and_dispatch_events(self, timeout: float | None) -> None:
        if self._threadless is not None:
            left = self._threadless.deadline - time.monotonic()
            timeout = max(0.0, left if timeout is None else min(timeout, left))
        super().wait_for_and_dispatch_events(timeout)
        if self._threadless is not None:
            self._threadless.end_round()

    def murder_keepalived(self, force: bool = False) -> None:
        """Called by the main loop after each round, and once more, with `force`, at its end."""
        super().murder_keepalived(force)  # type: ignore[call-arg]  # its stubs are of an older gunicorn
        if self._threadless is not None:
            self._threadless.expire()
            if force:
                self._threadless.close()

    def murder_pending(self) -> None:
        """Called by the main loop, once a second at least."""
        super().murder_pending()
        while self._lingering and self._lingering[0].until <= time.monotonic():
            self._end(self._lingering[0])

    # for connections that are in no thread

    def enqueue_in_thread(self, conn: TConn) -> None:
        super().enqueue_req(conn)

    def count_request(self) -> None:
        """As gunicorn does it for `max_requests`."""
        self.nr += 1
        if self.nr >= self.max_requests and self.alive:
            self.log.info("Autorestarting worker after current request.")
            self.alive = False

    @property
    def keeps_connections(self) -> bool:
        """Whether a connection may be kept open for its next request."""
        return self.alive and self._keepalive > 0

    @property
    def patience(self) -> float:
        """Seconds for which a connection may be idle."""
        return self._keepalive or LINGER_SECONDS if self.alive else LINGER_SECONDS

    def end(self, conn: TConn) -> None:
        self.nr_conns -= 1
        conn.close()

    def set_accept_enabled(self, enabled: bool | None) -> None:
        super().set_accept_enabled(enabled)
        if not self.alive:
            self._begin_stop()

    def is_parent_alive(self) -> bool:
        if not super().is_parent_alive():
            self.alive = False  # the stop is as after SIGTERM
        return self.alive

    def handle_error(self, req: Any, client: socket.socket, addr: Any, exc: BaseException) -> None:
        """Answer a request that is no HTTP, in the form of all our errors, where gunicorn has a page of HTML."""
        page = ErrorPage()
        super().handle_error(req, cast("socket.socket", page), addr, exc)
        with suppress(OSError):
            client.sendall(page.as_json(str(exc)))

    def linger(self, conn: TConn) -> None:
        """Say that nothing more comes, and read on in the main loop until the client has closed as well."""
        try:
            conn.sock.shutdown(socket.SHUT_WR)
        except OSError:  # closed already
            self.end(conn)
            return
        lingering = _Lingering(conn, time.monotonic() + LINGER_SECONDS)
        self._lingering.append(lingering)
        self._watch(conn, partial(self._on_lingering_socket_readable, lingering))

    def _on_lingering_socket_readable(self, lingering: "_Lingering", client: socket.socket) -> None:
        if lingering.is_over(client):
            self._end(lingering)

    def _end(self, lingering: "_Lingering") -> None:
        self._lingering.remove(lingering)
        self._poller.unregister(lingering.conn.sock)
        self.end(lingering.conn)

    def _watch(self, conn: TConn, when_readable: Callable[[socket.socket], None]) -> None:
        conn.sock.setblocking(False)
        self._poller.register(conn.sock, EVENT_READ, when_readable)

    @property
    def _poller(self) -> BaseSelector:
        assert self.poller is not None  # noqa: S101  made in init_process
        return self.poller

    def _begin_stop(self) -> None:
        latest = time.monotonic() + LINGER_SECONDS
        for conn in self.pending_conns:
            conn.timeout = min(conn.timeout or latest, latest)
        if self._threadless is not None:
            self._threadless.begin_stop(latest)
        runtime = self._runtime
        if runtime is not None and hasattr(runtime, "stopping"):
            runtime.stopping()

    def _close_app(self) -> None:
        runtime = self._runtime
        if runtime is None:
            return
        try:
            runtime.close(FLUSH_SECONDS)
        except Exception:
            self.log.exception("The application did not close in order")


class _Lingering:
    """A connection that was answered for the last time, and what its client has sent since."""

    def __init__(self, conn: TConn, until: float) -> None:
        self.conn = conn
        self.until = until
        self._drained = 0

    def is_over(self, client: socket.socket) -> bool:
        """Read what there is; true where the client has closed, or sends too much."""
        try:
            got = len(client.recv(LINGER_BYTES))
        except (BlockingIOError, ssl.SSLWantReadError):
            return False
        except OSError:
            return True
        self._drained += got
        return not got or self._drained > LINGER_BYTES


def handing_over_headers(app: Any) -> Any:
    """The application, which gets the headers one by one: WSGI joins those of one name by commas."""

    def with_headers(environ: dict[str, Any], start_response: Any) -> Any:
        response = getattr(start_response, "__self__", None)  # gunicorn's, which has the request
        if (request := getattr(response, "req", None)) is not None:
            environ[HEADER_PAIRS] = request.headers
        return app(environ, start_response)

    return with_headers


def _read_ahead(conn: TConn) -> bytes:
    """What has been read of the next request."""
    return cast("RequestParser", conn.parser).unreader.buf.getvalue()


def _drop_when_stalled(client: socket.socket) -> None:
    """Bound each wait for the client in a thread: a read or a write that takes longer is an `OSError`."""
    seconds = struct.pack("@ll", STALL_SECONDS, 0)
    with suppress(OSError):
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, seconds)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, seconds)


def _shorten_stall(record: logging.LogRecord) -> bool:
    if record.exc_info and isinstance(record.exc_info[1], BlockingIOError):
        record.levelno, record.levelname = logging.INFO, "INFO"
        record.msg, record.args, record.exc_info = f"A client stalled for {STALL_SECONDS} s; it is let go", None, None
    return True
