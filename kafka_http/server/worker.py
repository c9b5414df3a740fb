"""Our worker class: gunicorn's threads, which slow and silent clients cannot use up.

    gunicorn -k kafka_http.server.worker.Worker wsgi:app

With gunicorn's own, a client that keeps its side open after `Connection: close` stops the whole worker for 2 s, one
that connects and sends nothing holds a thread for 5 s, and one that vanishes amid a request holds one for ever.
"""

import errno
import logging
import signal
import socket
import ssl
import struct
import time
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime
from functools import partial
from selectors import EVENT_READ, BaseSelector
from typing import Any, cast

from gunicorn.http import wsgi
from gunicorn.http.parser import RequestParser
from gunicorn.workers.gthread import TConn, ThreadWorker

from kafka_http.server.app_interface import (
    CAME,
    FLUSH_SECONDS,
    RECEIVED,
    REFUSAL,
    AnyApplication,
    ServedApp,
    lifecycle_of,
)
from kafka_http.server.connection_loop import ConnectionLoop, is_possible, is_receiving_possible
from kafka_http.server.gunicorn_responses import ErrorPage
from kafka_http.server.idle_connections import ClientConnection
from kafka_http.server.memory_trim import MemoryTrimmer
from kafka_http.server.request_reader import RequestReader
from kafka_http.server.stream_sender import HAND_OVER, HandedOver, StreamSender, are_possible, hand_over

LINGER_SECONDS = 2.0
LINGER_BYTES = 16 << 20
"""How long, and for how much, a closed connection is still read, so that the client sees the end of its answer (RFC
9112, 9.6): what arrives on a closed socket is answered by a reset, which throws away what the client has not read."""

HEADER_PAIRS = "kafka_http.headers"
"""In the environ: the headers as a list of (name, value)."""

STALL_SECONDS = 30
"""How long a client may take nothing of its answer."""

ACCEPTS = 16
"""Connections that one round of the main loop accepts: with one, the last of a thousand clients waits for seconds."""
PAUSE_SECONDS = 0.5
"""How long no connection is accepted after the system had no room for one."""
_LOG_SECONDS = 60.0
_PIECE = 1 << 16
_NOT_HERE = frozenset((errno.EAGAIN, errno.EWOULDBLOCK, errno.ECONNABORTED, errno.EINTR))
"""Of `accept`: the connection is another's, or gone."""


class Worker(ThreadWorker):
    """A thread for each request that is there; a connection that waits for its client is the main loop's.

    Where gunicorn itself speaks TLS, HTTP/2 or the proxy protocol, its own way remains: a thread reads the request.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._lingering: deque[_Lingering] = deque()
        self._threadless: ConnectionLoop | None = None
        self._streams: StreamSender | None = None
        self._aside: ThreadPoolExecutor | None = None
        self._keepalive = float(self.cfg.keepalive)
        self._runtime: ServedApp | None = None
        self._accepts_from = 0.0
        self._logs_from = 0.0

    def init_process(self) -> None:
        self.cfg.set("graceful_timeout", max(1, self.cfg.graceful_timeout - FLUSH_SECONDS))  # this process's alone
        self.cfg.set("sendfile", False)  # it would block
        self.memory = MemoryTrimmer()
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
        if is_receiving_possible(self.cfg):
            receiving = getattr(runtime, "receiving", None) or AnyApplication()
            publishes = getattr(runtime, "publishes", None) if is_possible(self.cfg) else None
            self._threadless = ConnectionLoop(self, receiving, publishes, self._poller, stall=STALL_SECONDS)
            self._aside = ThreadPoolExecutor(1, thread_name_prefix="aside")
        if runtime is not None and are_possible(self.cfg):
            self._streams = StreamSender(stall=STALL_SECONDS)
        try:
            super().run()
        finally:
            if self._streams is not None:
                self._streams.close(LINGER_SECONDS)
            if self._aside is not None:
                self._aside.shutdown(wait=False)
            self._close_app()

    def accept(self, listener: socket.socket) -> None:
        """Accept what there is, up to `ACCEPTS` connections."""
        for _ in range(min(ACCEPTS, self.worker_connections - self.nr_conns)):
            try:
                client, address = listener.accept()
            except OSError as error:
                if error.errno not in _NOT_HERE:
                    self._pause_accepting(error)
                return
            self.nr_conns += 1
            conn = TConn(self.cfg, client, address, listener.getsockname())
            try:
                self.enqueue_req(conn)
            except OSError as error:  # the poller has no room
                self.end(conn)
                self._pause_accepting(error)
                return

    def enqueue_req(self, conn: TConn) -> None:
        """Take a connection in: the main loop's, or gunicorn's own way, where a new one goes to a thread once its
        client has sent something."""
        if self._threadless is not None:
            self._threadless.watch(conn)
        elif conn.initialized or conn.data_ready:
            super().enqueue_req(conn)
        else:
            _drop_when_stalled(conn.sock)
            conn.timeout = time.monotonic() + (self.cfg.keepalive or LINGER_SECONDS)
            self.pending_conns.append(conn)
            self._watch(conn, partial(self.on_pending_socket_readable, conn))

    def finish_request(self, conn: TConn, fs: "Future[Any]") -> None:
        """In gunicorn's own way alone."""
        if not fs.cancelled() and fs.exception() is None and fs.result() is False:
            self.linger(conn)
        else:
            super().finish_request(conn, fs)

    def wait_for_and_dispatch_events(self, timeout: float | None) -> None:
        now = time.monotonic()
        until = now + timeout if timeout is not None else float("inf")
        if self._threadless is not None:
            until = min(until, self._threadless.deadline)
        if now < self._accepts_from:
            until = min(until, self._accepts_from)
        super().wait_for_and_dispatch_events(max(0.0, until - now))
        if self._threadless is not None:
            self._threadless.end_round()

    def murder_keepalived(self, force: bool = False) -> None:
        """Called by the main loop after each round, and once more, with `force`, at its end."""
        super().murder_keepalived(force)  # type: ignore[call-arg]  # its stubs are of an older gunicorn
        if self._threadless is not None:
            self._threadless.expire()
            if force:
                self._threadless.close()
            elif self.alive:
                self._make_room(self.worker_connections - ACCEPTS)

    def murder_pending(self) -> None:
        """Called by the main loop, once a second at least."""
        super().murder_pending()
        self.memory.look(partial(self.run_in_thread, aside=True))
        while self._lingering and self._lingering[0].until <= time.monotonic():
            self._end(self._lingering[0])

    # What the main loop asks for

    def run_in_thread(self, work: Callable[[], None], *, aside: bool = False) -> None:
        """Let a thread of the pool do this, or the one beside it."""
        pool = self._aside if aside else self.tpool
        if pool is None:  # gunicorn's own way
            return
        try:
            pool.submit(work)
        except RuntimeError as error:  # no thread can be started: the work waits for one that is there
            self._log_rarely("No thread can be started: %s", error)

    def stream(self, conn: TConn, handed_over: HandedOver) -> None:
        """Let the thread for streams go on with an answer."""
        assert self._streams is not None  # noqa: S101  who has none hands none over
        self.nr_conns -= 1
        self._streams.add(conn.sock, handed_over.feed, handed_over.is_chunked)

    def respond(
        self, connection: ClientConnection, reader: RequestReader, is_streamed: bool
    ) -> Generator[None, None, bool]:
        """Answer a request, as `ThreadWorker.handle` does. Yields where the client has to take what there is before it
        goes on; the value says whether the connection may be kept."""
        client, outgoing = connection.conn.client, connection.outgoing
        request = reader.request
        try:
            request = self._request(connection, reader, is_streamed)
            return (yield from self._respond(connection, reader, request))
        except OSError as error:
            self.log.debug("A connection broke: %s", error)
        except (Exception, SystemExit) as error:
            if outgoing.has_sent:
                self.log.exception("Error handling request")
            else:
                self.handle_error(request, outgoing, client, error)
        return False

    def _respond(
        self, connection: ClientConnection, reader: RequestReader, request: Any
    ) -> Generator[None, None, bool]:
        outgoing = connection.outgoing
        began, response = datetime.now(), None
        environ: dict[str, Any] = {}
        self.cfg.pre_request(self, request)
        try:
            response, environ = self.make_environ(connection, reader, request)
            if connection.last or not self.keeps_connections:
                response.force_close()
            answer = self.wsgi(environ, response.start_response)
            try:
                for piece in answer:
                    response.write(piece)
                    while outgoing.unsent:
                        yield
                response.close()
                while outgoing.unsent:
                    yield
            finally:
                self.log.access(response, request, environ, datetime.now() - began)
                if hasattr(answer, "close"):
                    answer.close()
            return not response.should_close()
        finally:
            try:
                self.cfg.post_request(self, request, environ, response)
            except Exception:
                self.log.exception("Exception in post_request hook")

    def _request(self, connection: ClientConnection, reader: RequestReader, is_streamed: bool) -> Any:
        """The request with its body: in memory, or for the application to read from the connection."""
        conn = connection.conn
        if not is_streamed:
            reader.request.body = reader.body()
            reader.request._expected_100_continue = False  # the main loop has asked for the body
            return reader.request
        conn.sock.setblocking(True)
        _drop_when_stalled(conn.sock)
        parser = RequestParser(self.cfg, conn.sock, conn.client)
        parser.unreader.unread(reader.received())
        request = next(parser)
        request.force_close()
        return request

    def make_environ(
        self, connection: ClientConnection, reader: RequestReader, request: Any
    ) -> tuple[Any, dict[str, Any]]:
        """The answer to be written, and what the application is told."""
        conn = connection.conn
        create: Any = wsgi.create
        response, environ = create(request, connection.outgoing, conn.client, conn.server, self.cfg)
        environ["wsgi.multithread"] = True
        environ[CAME] = connection.began
        if request is reader.request:
            del environ["gunicorn.socket"]  # the main loop's
            environ[RECEIVED] = reader.body_size
            if reader.refusal is not None:
                environ[REFUSAL] = reader.refusal
        else:
            environ["gunicorn.socket"] = conn.sock
        if self._streams is not None:
            environ[HAND_OVER] = partial(hand_over, request.version == (1, 1))
        return response, environ

    def count_request(self) -> None:
        """As gunicorn does it for `max_requests`."""
        self.nr += 1
        if self.nr >= self.max_requests and self.alive:
            self.log.info("Autorestarting worker after current request.")
            self.alive = False

    @property
    def keeps_connections(self) -> bool:
        """Whether a connection may be kept open for its next request."""
        return self.alive and self._keepalive > 0 and self.max_keepalived > 0

    @property
    def patience(self) -> float:
        """Seconds for which a connection may be idle."""
        return self._keepalive or LINGER_SECONDS if self.alive else LINGER_SECONDS

    def end(self, conn: TConn) -> None:
        self.nr_conns -= 1
        conn.close()

    def set_accept_enabled(self, enabled: bool | None) -> None:
        if enabled and time.monotonic() < self._accepts_from:
            return
        super().set_accept_enabled(enabled)
        if not self.alive:
            self._begin_stop()

    def is_parent_alive(self) -> bool:
        if not super().is_parent_alive():
            self.alive = False  # the stop is as after SIGTERM
        return self.alive

    def handle_error(self, req: Any, client: Any, addr: Any, exc: BaseException) -> None:
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

    # Where there is no room

    def _pause_accepting(self, error: OSError) -> None:
        """The system has no room for another connection, or the network is away: it is not better at once."""
        self._log_rarely("Cannot accept connections: %s. Trying again in %s s.", error.strerror, PAUSE_SECONDS)
        self._accepts_from = time.monotonic() + PAUSE_SECONDS
        self.set_accept_enabled(False)
        self._make_room(self.nr_conns - ACCEPTS)

    def _make_room(self, connections: int) -> None:
        """Close those that are missed the least, where there are more than so many."""
        while self.nr_conns > max(0, connections):
            if self._lingering:
                self._end(self._lingering[0])
            elif self._threadless is None or not self._threadless.make_room():
                return

    def _log_rarely(self, message: str, *args: object) -> None:
        if time.monotonic() >= self._logs_from:
            self._logs_from = time.monotonic() + _LOG_SECONDS
            self.log.warning(message, *args)

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
            got = len(client.recv(_PIECE))
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


def _drop_when_stalled(client: socket.socket) -> None:
    """Bound each wait for the client in a thread: a read or a write that takes longer is an `OSError`."""
    seconds = struct.pack("@ll", STALL_SECONDS, 0)
    with suppress(OSError):
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, seconds)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, seconds)


def _shorten_stall(record: logging.LogRecord) -> bool:
    if record.exc_info and isinstance(record.exc_info[1], BlockingIOError):
        record.levelno, record.levelname = logging.INFO, "INFO"
        record.msg = f"Closed a connection after {STALL_SECONDS} s without progress."
        record.args, record.exc_info = None, None
    return True
