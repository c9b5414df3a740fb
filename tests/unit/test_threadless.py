"""The connections of a worker that are in no thread, one socket pair each, without gunicorn around them."""

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


class Owed:
    def __init__(self, body: bytes, done: Callable[[], None], timeout: float) -> None:
        self.timeout = timeout
        self.done = done
        self.answered = 0
        self._body = body

    def answer(self) -> tuple[str, Sequence[tuple[str, str]], bytes]:
        self.answered += 1
        return "200 OK", [("Content-Length", str(len(self._body)))], self._body


class Loop:
    """Stands for the worker and its application: `begun` are the requests that it was given."""

    def __init__(self) -> None:
        self.poller = selectors.DefaultSelector()
        self.deferred: list[Callable[[], None]] = []
        self.begun: list[Owed] = []
        self.in_threads: list[bytes] = []
        self.refusals: list[Exception | None] = []
        self.refused: list[Exception] = []
        self.cfg = Config()
        self.policy = DefaultRequestPolicy()
        self.ended: list[TConn] = []
        self.takes = True
        self.sockets: list[socket.socket] = []
        self.body = b"said"
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
    ) -> Owed | None:
        if not self.takes:
            return None
        self.begun.append(Owed(self.body + body, done, self.timeout))
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

    def turn(self) -> None:
        """One round of the main loop."""
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


def read_answer(client: socket.socket) -> bytes:
    """One answer, without its head."""
    received = b""
    while b"\r\n\r\n" not in received:
        received += client.recv(65536)
    head, _, body = received.partition(b"\r\n\r\n")
    length = int(head.rpartition(b"Content-Length: ")[2])
    while len(body) < length:
        body += client.recv(65536)
    return body


def test_an_answer_comes_when_the_application_is_done(loop: Loop) -> None:
    with loop.connect() as client:
        client.sendall(REQUEST + b"1")
        loop.turn()
        (owed,) = loop.begun
        loop.turn()
        assert owed.answered == 0
        owed.done()
        loop.turn()
        assert read_answer(client) == b"said1"


def test_what_one_round_brings_is_sent_together(loop: Loop) -> None:
    with loop.connect() as one, loop.connect() as other:
        loop.turn()
        assert loop.sends == []
        for client in (one, other):
            client.sendall(REQUEST + b"1" + REQUEST + b"2")
        loop.turn()
        assert loop.sends == [2]
        for owed in list(loop.begun):
            owed.done()
        loop.turn()  # answers both, and finds that they have sent more
        assert loop.sends == [2, 4]
        assert [read_answer(client) for client in (one, other)] == [b"said1"] * 2


def test_who_is_done_before_it_has_begun(loop: Loop) -> None:
    loop.at_once = True
    with loop.connect() as client:
        for number in b"12":
            client.sendall(REQUEST + b"%c" % number)
            loop.turn()
            assert read_answer(client) == b"said%c" % number


def test_requests_in_a_row_are_answered_in_their_order(loop: Loop) -> None:
    with loop.connect() as client:
        client.sendall(REQUEST + b"1" + REQUEST + b"2")
        for number in (b"1", b"2"):
            loop.turn()
            loop.begun[-1].done()
            loop.turn()
            assert read_answer(client) == b"said" + number


def test_an_answer_larger_than_the_client_takes_at_once_follows_as_it_reads(loop: Loop) -> None:
    loop.body = bytes(range(256)) * 4000
    with loop.connect(buffer=4096) as client:
        client.sendall(REQUEST + b"1" + REQUEST + b"2")
        loop.turn()
        loop.begun[0].done()
        loop.turn()
        assert len(loop.begun) == 1  # the second waits until the first has been sent
        received = b""
        while len(received) < len(loop.body):
            received += client.recv(65536)
            loop.turn()
        assert loop.body[-1000:] + b"1" in received
        loop.begun[1].done()
        loop.turn()
        assert len(loop.begun) == 2


def test_who_takes_nothing_of_his_answer_is_let_go(monkeypatch: pytest.MonkeyPatch, loop: Loop) -> None:
    now = 0.0
    monkeypatch.setattr("kafka_http.server.client_connection.time.monotonic", lambda: now)
    loop.body = b"x" * 1_000_000
    with loop.connect(buffer=4096) as client:
        client.sendall(REQUEST + b"1")
        loop.turn()
        loop.begun[0].done()
        loop.turn()
        assert loop.ended == []
        now = STALL + 1
        loop.turn()
        assert len(loop.ended) == 1
        assert loop.begun[0].answered == 1


def test_who_is_done_too_late_changes_nothing(loop: Loop) -> None:
    loop.timeout = 0.0
    with loop.connect() as client:
        client.sendall(REQUEST + b"1")
        loop.turn()
        loop.turn()
        assert read_answer(client) == b"said1"
        loop.timeout = 5.0
        client.sendall(REQUEST + b"2")
        loop.turn()
        loop.begun[0].done()
        loop.turn()
        assert [each.answered for each in loop.begun] == [1, 0]
        loop.begun[1].done()
        loop.turn()
        assert read_answer(client) == b"said2"


def test_the_application_hears_of_an_answer_that_nobody_waits_for(loop: Loop) -> None:
    with loop.connect() as client:
        client.sendall(REQUEST + b"1")
        loop.turn()
    loop.turn()
    loop.begun[0].done()
    loop.turn()
    loop.turn()
    assert loop.begun[0].answered == 1
    assert len(loop.ended) == 1


@pytest.mark.parametrize("request_", [b"GET / HTTP/1.1\r\n\r\n", REQUEST + b"1"])
def test_what_the_application_does_not_take_goes_to_a_thread_whole(loop: Loop, request_: bytes) -> None:
    loop.takes = False
    with loop.connect() as client:
        client.sendall(request_)
        loop.turn()
        assert loop.in_threads == [request_]


def test_where_too_many_are_idle_who_waited_longest_goes(loop: Loop) -> None:
    loop.max_keepalived = 2
    clients = [loop.connect() for _ in range(3)]
    loop.turn()
    assert len(loop.ended) == 1
    assert clients[0].recv(1) == b""
    for client in clients:
        client.close()


def test_an_answer_is_the_last_where_the_worker_stops(loop: Loop) -> None:
    with loop.connect() as client:
        client.sendall(REQUEST + b"1")
        loop.turn()
        loop.allows_keepalive = False
        loop.begun[0].done()
        loop.turn()
        assert b"Connection: close" in client.recv(4096)
        assert len(loop.ended) == 1
