"""The connection loop of a worker, with one socket pair per connection and without gunicorn."""

import selectors
import socket
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from functools import partial
from types import SimpleNamespace
from typing import cast

import pytest
from gunicorn.config import Config
from gunicorn.glogging import Logger
from gunicorn.workers.gthread import TConn

from kafka_http.server.app_interface import DefaultRequestPolicy
from kafka_http.server.client_connection import ClientConnection
from kafka_http.server.connection_loop import ConnectionLoop
from kafka_http.server.request_reader import RequestReader
from kafka_http.server.worker import Worker

REQUEST = b"PUT /messages/t HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\n"
STALL = 5.0


class FakePendingResponse:
    def __init__(self, body: bytes, done: Callable[[], None], timeout: float) -> None:
        self.timeout = timeout
        self.done = done
        self.answered = 0
        self._body = body

    def finish(self) -> tuple[str, Sequence[tuple[str, str]], bytes]:
        self.answered += 1
        return "200 OK", [("Content-Length", str(len(self._body)))], self._body


class Loop:
    """Replaces the worker and the application. `begun` has the publishes that were started."""

    def __init__(self) -> None:
        self.poller = selectors.DefaultSelector()
        self.deferred: list[Callable[[], None]] = []
        self.begun: list[FakePendingResponse] = []
        self.in_threads: list[bytes] = []
        self.refusals: list[Exception | None] = []
        self.refused: list[Exception] = []
        self.cfg = Config()
        self.policy = DefaultRequestPolicy()
        self.ended: list[TConn] = []
        self.takes = True
        self.sockets: list[socket.socket] = []
        self.body = b"body"
        self.timeout = 5.0
        self.at_once = False
        self.sends: list[int] = []
        self.log = Logger(Config())
        self.method_queue = SimpleNamespace(defer=lambda call, *args: self.deferred.append(partial(call, *args)))
        self.allows_keepalive = True
        self.idle_seconds = 5.0
        self.max_keepalived = 100
        self.count_request = lambda: None
        self.close_lingering = self.ended.append
        self.connections = ConnectionLoop(cast("Worker", self), self.policy, self, self.poller, stall=STALL)

    def respond(
        self, connection: ClientConnection, reader: RequestReader, is_streamed: bool
    ) -> Generator[None, None, bool]:
        self.in_threads.append(reader.raw())
        self.refusals.append(reader.body_error)
        yield from ()
        return not connection.closes_after_response

    def handle_error(self, request: object, client: object, address: object, error: Exception) -> None:
        self.refused.append(error)

    def run_in_thread(self, work: Callable[[], None], *, reserved: bool = False) -> None:
        work()

    def close_connection(self, conn: TConn) -> None:
        self.ended.append(conn)
        conn.sock.close()

    def begin(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes, done: Callable[[], None]
    ) -> FakePendingResponse | None:
        if not self.takes:
            return None
        self.begun.append(FakePendingResponse(self.body + body, done, self.timeout))
        if self.at_once:
            done()
        return self.begun[-1]

    def close(self) -> None:
        self.connections.close()
        self.poller.close()
        for each in self.sockets:
            each.close()

    def send(self) -> None:
        self.sends.append(len(self.begun))

    def run_once(self) -> None:
        """Run one round of the main loop."""
        for key, _ in self.poller.select(0.2):
            key.data(key.fileobj)
        while self.deferred:
            self.deferred.pop(0)()
        self.connections.end_round()
        self.connections.expire()

    def connect(self, buffer: int | None = None) -> socket.socket:
        client, server = socket.socketpair()
        if buffer:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer)
        client.settimeout(5)
        self.sockets.append(server)
        conn = SimpleNamespace(sock=server, client=("127.0.0.1", 1))
        self.connections.add(cast("TConn", conn))
        return client


@pytest.fixture
def loop() -> Iterator[Loop]:
    made = Loop()
    yield made
    made.close()


def read_response(client: socket.socket) -> bytes:
    """Read a response and return its body."""
    received = b""
    while b"\r\n\r\n" not in received:
        received += client.recv(65536)
    head, _, body = received.partition(b"\r\n\r\n")
    length = int(head.rpartition(b"Content-Length: ")[2])
    while len(body) < length:
        body += client.recv(65536)
    return body


def test_response_is_sent_when_application_is_done(loop: Loop) -> None:
    with loop.connect() as client:
        client.sendall(REQUEST + b"1")
        loop.run_once()
        (pending,) = loop.begun
        loop.run_once()
        assert pending.answered == 0
        pending.done()
        loop.run_once()
        assert read_response(client) == b"body1"


def test_publishes_of_one_round_are_sent_together(loop: Loop) -> None:
    with loop.connect() as one, loop.connect() as other:
        loop.run_once()
        assert loop.sends == []
        for client in (one, other):
            client.sendall(REQUEST + b"1" + REQUEST + b"2")
        loop.run_once()
        assert loop.sends == [2]
        for pending in list(loop.begun):
            pending.done()
        loop.run_once()  # sends both responses and starts the next requests
        assert loop.sends == [2, 4]
        assert [read_response(client) for client in (one, other)] == [b"body1"] * 2


def test_publish_that_is_done_before_begin_returns_is_answered(loop: Loop) -> None:
    loop.at_once = True
    with loop.connect() as client:
        for number in b"12":
            client.sendall(REQUEST + b"%c" % number)
            loop.run_once()
            assert read_response(client) == b"body%c" % number


def test_pipelined_requests_are_answered_in_order(loop: Loop) -> None:
    with loop.connect() as client:
        client.sendall(REQUEST + b"1" + REQUEST + b"2")
        for number in (b"1", b"2"):
            loop.run_once()
            loop.begun[-1].done()
            loop.run_once()
            assert read_response(client) == b"body" + number


def test_large_response_is_sent_as_client_reads(loop: Loop) -> None:
    loop.body = bytes(range(256)) * 4000
    with loop.connect(buffer=4096) as client:
        client.sendall(REQUEST + b"1" + REQUEST + b"2")
        loop.run_once()
        loop.begun[0].done()
        loop.run_once()
        assert len(loop.begun) == 1  # the second request waits until the first response is sent
        received = b""
        while len(received) < len(loop.body):
            received += client.recv(65536)
            loop.run_once()
        assert loop.body[-1000:] + b"1" in received
        loop.begun[1].done()
        loop.run_once()
        assert len(loop.begun) == 2


def test_client_that_does_not_read_response_is_disconnected(monkeypatch: pytest.MonkeyPatch, loop: Loop) -> None:
    now = 0.0
    monkeypatch.setattr("kafka_http.server.client_connection.time.monotonic", lambda: now)
    loop.body = b"x" * 1_000_000
    with loop.connect(buffer=4096) as client:
        client.sendall(REQUEST + b"1")
        loop.run_once()
        loop.begun[0].done()
        loop.run_once()
        assert loop.ended == []
        now = STALL + 1
        loop.run_once()
        assert len(loop.ended) == 1
        assert loop.begun[0].answered == 1


def test_late_answer_is_not_used_for_next_request(loop: Loop) -> None:
    loop.timeout = 0.0
    with loop.connect() as client:
        client.sendall(REQUEST + b"1")
        loop.run_once()
        loop.run_once()
        assert read_response(client) == b"body1"
        loop.timeout = 5.0
        client.sendall(REQUEST + b"2")
        loop.run_once()
        loop.begun[0].done()
        loop.run_once()
        assert [each.answered for each in loop.begun] == [1, 0]
        loop.begun[1].done()
        loop.run_once()
        assert read_response(client) == b"body2"


def test_application_is_asked_for_response_of_disconnected_client(loop: Loop) -> None:
    with loop.connect() as client:
        client.sendall(REQUEST + b"1")
        loop.run_once()
    loop.run_once()
    loop.begun[0].done()
    loop.run_once()
    loop.run_once()
    assert loop.begun[0].answered == 1
    assert len(loop.ended) == 1


@pytest.mark.parametrize("request_", [b"GET / HTTP/1.1\r\n\r\n", REQUEST + b"1"])
def test_request_rejected_by_fast_path_goes_to_thread_in_full(loop: Loop, request_: bytes) -> None:
    loop.takes = False
    with loop.connect() as client:
        client.sendall(request_)
        loop.run_once()
        assert loop.in_threads == [request_]


def test_too_many_idle_connections_close_the_oldest(loop: Loop) -> None:
    loop.max_keepalived = 2
    clients = [loop.connect() for _ in range(3)]
    loop.run_once()
    assert len(loop.ended) == 1
    assert clients[0].recv(1) == b""
    for client in clients:
        client.close()


def test_response_of_stopping_worker_closes_connection(loop: Loop) -> None:
    with loop.connect() as client:
        client.sendall(REQUEST + b"1")
        loop.run_once()
        loop.allows_keepalive = False
        loop.begun[0].done()
        loop.run_once()
        assert b"Connection: close" in client.recv(4096)
        assert len(loop.ended) == 1
