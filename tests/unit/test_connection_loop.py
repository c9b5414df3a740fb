"""The connection loop of a worker, with one socket pair per connection and without gunicorn. Plain, and over TLS."""

import socket
import ssl
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import ExitStack, suppress
from typing import Any, cast

import pytest
from gunicorn.config import Config
from gunicorn.glogging import Logger
from gunicorn.workers.gthread import TConn

from kafka_http import metrics
from kafka_http.logs import request_id
from kafka_http.server.app_interface import Client, Decision, DefaultRequestPolicy, FastPathResponse
from kafka_http.server.client_connection import ClientConnection, SendBuffer
from kafka_http.server.connection_loop import ConnectionLoop
from kafka_http.server.main_loop import MainLoop
from kafka_http.server.request_reader import RequestReader
from kafka_http.server.stream_sender import StreamDetached
from kafka_http.server.tls import TlsHandshakes
from tests.support.certificates import Authority
from tests.support.tls_pair import TlsEnds

REQUEST = b"PUT /messages/t HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\n"
STALL = 5.0


class FakePendingResponse:
    def __init__(self, body: bytes, timeout: float, request_id: str) -> None:
        self.timeout = timeout
        self.answered = 0
        self.body = body
        self.sent: list[bool] = []
        """What `on_sent` was called with."""
        self.on_sent: Callable[[bool], None] = self.sent.append
        self._request_id = request_id
        self._callbacks: list[Callable[[], None]] = []

    def add_done_callback(self, callback: Callable[[], None]) -> None:
        self._callbacks.append(callback)

    def done(self) -> None:
        for each in self._callbacks:
            each()

    def finish(self) -> FastPathResponse:
        self.answered += 1
        request_id.set(self._request_id)
        return FastPathResponse(200, {}, "text/plain", self._request_id, self.body, "", "/", "t", 1, self.on_sent)


class FakePreparedRequest:
    def __init__(self, loop: "Loop", *, is_reusable: bool) -> None:
        self.is_reusable = is_reusable
        self._loop = loop

    @property
    def is_current(self) -> bool:
        return self._loop.is_current

    def has_room(self, size: int, connection: Any) -> bool:
        return self._loop.has_room

    def start(self, body: bytes, connection: Any) -> FakePendingResponse | None:
        return self._loop.begin(body)


class FixedPolicy(DefaultRequestPolicy):
    """Has a fixed decision about all requests whose bodies are incomplete."""

    decision: Decision | None = Decision(is_refused=False, value=None)

    after_thread: Decision | None = None
    """The decision in a thread, if `decision` is None."""

    def admit(
        self, method: str, target: str, headers: Mapping[str, str], client: Client, size: int, *, blocking: bool
    ) -> Decision | None:
        return self.after_thread if blocking else self.decision


class Conn:
    """Replaces gunicorn's `TConn`."""

    client = ("127.0.0.1", 1)

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock


class Loop:
    """Replaces the worker and the application. `begun` has the publishes that were started."""

    def __init__(self, ends: TlsEnds | None = None) -> None:
        """`ends` are the contexts of server and clients. None: plain HTTP."""
        self.main_loop = MainLoop()
        self.begun: list[FakePendingResponse] = []
        self.prepared: list[Mapping[str, str]] = []
        self.in_threads: list[bytes] = []
        self.refusals: list[Exception | None] = []
        self.refused: list[Exception] = []
        self.cfg: Any = Config()
        self.policy = FixedPolicy()
        self.decisions: list[Any] = []
        self.streamed: list[bool] = []
        self.has_room = True
        self.is_current = True
        self.ended: list[TConn] = []
        self.takes = True
        self.sockets: list[socket.socket] = []
        self.body = b"body"
        self.timeout = 5.0
        self.at_once = False
        self.rounds: list[int] = []
        self.log: Any = Logger(Config())
        self.allows_keepalive = True
        self.idle_seconds = 5.0
        self.max_keepalived = 100
        self.connections = ConnectionLoop(self, self.policy, self, self.main_loop, stall=STALL)
        self.ends = ends
        self.handshakes = None if ends is None else self._new_handshakes(ends)

    def _new_handshakes(self, ends: TlsEnds) -> TlsHandshakes:
        return TlsHandshakes(
            self.main_loop,
            ends,
            start=self.connections.add,
            close=self.close_connection,
            close_lingering=self.close_lingering,
        )

    def count_request(self) -> None:
        pass

    def close_lingering(self, conn: TConn) -> None:
        self.ended.append(conn)

    def stream(self, conn: TConn, detached: StreamDetached) -> None:
        raise NotImplementedError

    def respond(
        self, connection: ClientConnection, reader: RequestReader, is_streamed: bool
    ) -> Generator[None, None, bool]:
        self.in_threads.append(reader.head + reader.whole_body())
        self.refusals.append(reader.body_error)
        self.decisions.append(reader.decision)
        self.streamed.append(is_streamed)
        yield from ()
        return not connection.closes_after_response

    def handle_error(self, req: Any, client: Any, addr: Any, exc: BaseException) -> None:
        self.refused.append(cast("Exception", exc))

    def run_in_thread(self, work: Callable[[], None], *, reserved: bool = False) -> None:
        work()

    def close_connection(self, conn: TConn) -> None:
        self.ended.append(conn)
        conn.sock.close()

    decides_by_client = False

    def prepare(self, method: str, target: str, headers: Mapping[str, str], client: Client) -> FakePreparedRequest:
        self.prepared.append(headers)
        return FakePreparedRequest(self, is_reusable="x-request-id" not in headers)

    def begin(self, body: bytes) -> FakePendingResponse | None:
        request_id.set("of-this-request")  # as the application does
        if not self.takes:
            return None
        self.begun.append(FakePendingResponse(self.body + body, self.timeout, f"id-{len(self.begun)}"))
        if self.at_once:
            self.begun[-1].add_done_callback = lambda callback: callback()  # type: ignore[method-assign]
        return self.begun[-1]

    def close(self) -> None:
        self.connections.close()
        for each in (*self.sockets, *(conn.sock for conn in self.ended)):
            each.close()

    def run_once(self) -> None:
        """Run one round of the main loop."""
        self.main_loop.run_round(0.2, lambda: self.rounds.append(len(self.begun)))
        self.connections.expire()

    def let_send(self, client: socket.socket, data: bytes) -> None:
        """Let a client send all data, and run the loop meanwhile."""
        client.setblocking(False)
        while data:
            with suppress(BlockingIOError, ssl.SSLWantWriteError):
                data = data[client.send(data) :]
            self.run_once()
        client.settimeout(5)

    def let_receive(self, client: socket.socket) -> bytes:
        """Run the loop, and return what a client has received, perhaps nothing."""
        self.run_once()
        client.setblocking(False)
        received = b""
        with suppress(BlockingIOError, ssl.SSLWantReadError):
            while data := client.recv(65536):
                received += data
        client.settimeout(5)
        return received

    def connect(self, buffer: int | None = None, *, is_tcp: bool = False) -> socket.socket:
        client, server = tcp_pair() if is_tcp else socket.socketpair()
        if buffer:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer)
        client.settimeout(5)
        self.sockets.append(server)
        conn = cast("TConn", Conn(server))
        if self.handshakes is None or self.ends is None:
            self.connections.add(conn)
            return client
        self.handshakes.add(conn)
        return self.ends.connect(client, lambda: self.main_loop.run_round(0.01, lambda: None))


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        return client, listener.accept()[0]


@pytest.fixture(scope="module")
def tls_ends(tmp_path_factory: pytest.TempPathFactory) -> TlsEnds:
    authority = Authority(tmp_path_factory.mktemp("tls"))
    return TlsEnds.issued_by(authority)


@pytest.fixture(params=["plain", "tls"])
def loop(request: pytest.FixtureRequest, tls_ends: TlsEnds) -> Iterator[Loop]:
    made = Loop(tls_ends if request.param == "tls" else None)
    yield made
    made.close()


def read_response(client: socket.socket) -> bytes:
    """Read a response and return its body."""
    received = b""
    while b"\r\n\r\n" not in received:
        received += client.recv(65536)
    head, _, body = received.partition(b"\r\n\r\n")
    length = int(head.partition(b"Content-Length: ")[2].partition(b"\r\n")[0])
    while len(body) < length:
        body += client.recv(65536)
    return body


def test_response_is_sent_when_application_is_done(loop: Loop) -> None:
    with loop.connect() as client:
        client.sendall(REQUEST + b"1")
        loop.run_once()
        (pending,) = loop.begun
        loop.run_once()
        assert (pending.answered, pending.sent) == (0, [])
        pending.done()
        loop.run_once()
        assert read_response(client) == b"body1"
        assert pending.sent == [True]
    loop.run_once()
    assert pending.sent == [True], "not told again that the client has gone"


def test_requests_of_a_round_are_counted_before_their_responses_are_sent(
    loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a kill, requests may be counted and not answered, but not the other way round."""
    counted_before_sending: list[float] = []
    flush = SendBuffer.sendall

    def sendall(buffer: SendBuffer, data: bytes) -> None:
        counted_before_sending.append(metrics.own_numbers()['["kafka_http_requests_total", "", "/", "PUT", "200"]'])
        flush(buffer, data)

    monkeypatch.setattr(SendBuffer, "sendall", sendall)
    metrics.use_sink(None)
    with loop.connect() as one, loop.connect() as other:
        for client in (one, other):
            client.sendall(REQUEST + b"1")
        loop.run_once()
        for pending in loop.begun:
            pending.done()
        loop.run_once()
        assert [read_response(client) for client in (one, other)] == [b"body1"] * 2

    assert counted_before_sending == [2, 2]


@pytest.mark.parametrize("method", [b"DELETE", b"POST"])
def test_request_without_length_uses_fast_path(loop: Loop, method: bytes) -> None:
    request = method + b" /messages/t/c/queue/0:1:0.a HTTP/1.1\r\nHost: h\r\n\r\n"
    with loop.connect() as client:
        client.sendall(request + request[:20])
        for rest in (request[20:], b""):
            loop.run_once()
            loop.begun[-1].done()
            loop.run_once()
            assert read_response(client) == b"body"
            client.sendall(rest)
    assert (len(loop.begun), loop.in_threads) == (2, [])
    assert len(loop.prepared) == 1


def test_failed_callback_about_a_sent_response_does_not_stop_the_connection(loop: Loop) -> None:
    def fail(_: bool) -> None:
        raise ZeroDivisionError

    with loop.connect() as client:
        client.sendall(REQUEST + b"1" + REQUEST + b"2")
        loop.run_once()
        loop.begun[0].on_sent = fail
        loop.begun[0].done()
        loop.run_once()
        assert read_response(client) == b"body1"
        loop.begun[1].done()
        loop.run_once()
        assert read_response(client) == b"body2"


def test_publishes_of_one_round_are_sent_together(loop: Loop) -> None:
    with loop.connect() as one, loop.connect() as other:
        for client in (one, other):
            client.sendall(REQUEST + b"1" + REQUEST + b"2")
        loop.run_once()
        assert loop.rounds == [2]
        for pending in list(loop.begun):
            pending.done()
        loop.run_once()  # sends both responses and starts the next requests
        assert loop.rounds == [2, 2, 4]
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


def test_pipelined_requests_for_loop_are_answered_one_a_round(loop: Loop) -> None:
    """Thousands of pipelined requests for /health made the loop recurse too deep."""
    loop.policy.runner = lambda path: "loop"  # type: ignore[method-assign]
    with loop.connect() as client:
        client.sendall(b"GET / HTTP/1.1\r\n\r\n" * 2500)
        for _ in range(2501):
            loop.run_once()
        assert len(loop.in_threads) == 2500


@pytest.mark.parametrize("more", [b"", b"X-Request-Id: 1\r\n"])
def test_request_split_anywhere_is_prepared_once(loop: Loop, more: bytes) -> None:
    request = REQUEST.replace(b"Host", more + b"Host").replace(b"Length: 1", b"Length: 3") + b"123"
    for cut in range(1, len(request)):
        prepared = len(loop.prepared)
        with loop.connect() as client:
            client.sendall(request[:cut])
            loop.run_once()
            client.sendall(request[cut:] + REQUEST[:10])
            loop.run_once()
            loop.begun[-1].done()
            loop.run_once()
            assert read_response(client) == b"body123"
            client.sendall(REQUEST[10:] + b"4")
            loop.run_once()
            loop.begun[-1].done()
            loop.run_once()
            assert read_response(client) == b"body4"
        assert len(loop.begun) == 2 * cut
        assert len(loop.prepared) - prepared <= (3 if cut == 1 else 2)
    assert loop.in_threads == []


def test_large_body_in_many_pieces_uses_fast_path(loop: Loop) -> None:
    body = bytes(range(256)) * 4096
    with loop.connect() as client:
        client.sendall(REQUEST.replace(b"Length: 1", b"Length: %d" % len(body)))
        for start in range(0, len(body), 50_000):
            loop.let_send(client, body[start : start + 50_000])
        while not loop.begun:
            loop.run_once()
        loop.begun[0].done()
        loop.run_once()
        assert len(loop.prepared) == 1
        assert loop.begun[0].body == b"body" + body


def test_request_in_pieces_that_needs_a_view_goes_to_thread_in_full(loop: Loop) -> None:
    loop.takes = False
    with loop.connect() as client:
        for piece in (REQUEST[:20], REQUEST[20:], b"1"):
            client.sendall(piece)
            loop.run_once()
        assert loop.in_threads == [REQUEST + b"1"]


def test_requests_with_remembered_head_have_ids_of_their_own(loop: Loop) -> None:
    with loop.connect() as client:
        for number in range(3):
            client.sendall(REQUEST + b"1")
            loop.run_once()
            loop.begun[-1].done()
            loop.run_once()
            assert b"\r\nX-Request-Id: id-%d\r\n" % number in client.recv(4096)
    assert len(loop.prepared) == 1


def test_fast_path_head_has_no_length(loop: Loop) -> None:
    with loop.connect() as client:
        client.sendall(REQUEST + b"1")
        loop.run_once()
        assert loop.prepared == [{"host": "h"}]


def test_incomplete_body_of_disconnected_client_goes_to_thread(loop: Loop) -> None:
    with loop.connect() as client:
        client.sendall(REQUEST)
        loop.run_once()
        client.shutdown(socket.SHUT_WR)
        loop.run_once()
        assert loop.in_threads == [REQUEST]
        assert len(loop.ended) == 1


def test_large_response_is_sent_as_client_reads(loop: Loop) -> None:
    loop.body = bytes(range(256)) * 4000
    with loop.connect(buffer=4096) as client:
        client.sendall(REQUEST + b"1" + REQUEST + b"2")
        loop.run_once()
        loop.begun[0].done()
        loop.run_once()
        assert len(loop.begun) == 1  # the second request waits until the first response is sent
        assert loop.begun[0].sent == []
        received = b""
        while not received.endswith(loop.body[-1000:] + b"1"):
            received += loop.let_receive(client)
        assert loop.begun[0].sent == [True]
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
        assert (loop.begun[0].answered, loop.begun[0].sent) == (1, [False])


def test_client_that_vanishes_before_it_has_read_its_response_did_not_get_it(loop: Loop) -> None:
    loop.body = b"x" * 1_000_000
    with loop.connect(buffer=4096) as client:
        client.sendall(REQUEST + b"1")
        loop.run_once()
        loop.begun[0].done()
        loop.run_once()
        assert loop.begun[0].sent == []
    while not loop.ended:
        loop.run_once()
    assert loop.begun[0].sent == [False]


def test_client_that_vanishes_before_its_response_is_known_did_not_get_it(loop: Loop) -> None:
    with loop.connect(is_tcp=True) as client:
        client.sendall(REQUEST + b"1")
        loop.run_once()
    loop.run_once()
    loop.begun[0].done()
    while not loop.begun[0].sent:
        loop.run_once()
    assert loop.begun[0].sent == [False]


@pytest.mark.parametrize("loop", ["plain"], indirect=True)  # with TLS, the end of the TCP stream alone is an error
def test_client_that_closed_its_side_only_gets_its_response(loop: Loop) -> None:
    with loop.connect(is_tcp=True) as client:
        client.sendall(REQUEST + b"1")
        loop.run_once()
        client.shutdown(socket.SHUT_WR)
        loop.run_once()
        loop.begun[0].done()
        loop.run_once()
        assert loop.begun[0].sent == []
        assert loop.let_receive(client).endswith(b"\r\n\r\nbody1")
        while not loop.ended:
            loop.run_once()
    assert loop.begun[0].sent == [True]


@pytest.mark.parametrize("is_known", [False, True])
def test_response_that_is_not_sent_at_a_stop_counts_as_unsent(loop: Loop, is_known: bool) -> None:
    loop.body = b"x" * 1_000_000
    with loop.connect(buffer=4096) as client:
        client.sendall(REQUEST + b"1")
        loop.run_once()
        if is_known:
            loop.begun[0].done()
            loop.run_once()
        assert loop.begun[0].sent == []
        loop.connections.close()
        if not is_known:
            loop.begun[0].done()
            loop.run_once()
        assert loop.begun[0].sent == [False]


def test_requests_with_different_timeouts_are_answered_in_time(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request that may wait for a minute must not make later ones late."""
    now = 0.0
    monkeypatch.setattr("kafka_http.server.client_connection.time.monotonic", lambda: now)
    with ExitStack() as stack:
        clients = [stack.enter_context(loop.connect()) for _ in range(40)]
        for number, client in enumerate(clients):
            loop.timeout = 60.0 - number
            client.sendall(REQUEST + b"1")
            loop.run_once()
        assert loop.connections.pending_count == 40
        assert loop.connections.next_deadline == 21
        now = 30.5
        loop.run_once()
        assert [each.answered for each in loop.begun] == [0] * 30 + [1] * 10
        assert loop.connections.pending_count == 30


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
    assert (loop.begun[0].answered, loop.begun[0].sent) == (1, [False])
    assert len(loop.ended) == 1


@pytest.mark.parametrize("request_", [b"GET / HTTP/1.1\r\n\r\n", REQUEST + b"1"])
def test_request_rejected_by_fast_path_goes_to_thread_in_full(loop: Loop, request_: bytes) -> None:
    loop.takes = False
    with loop.connect() as client:
        client.sendall(request_)
        loop.run_once()
        assert loop.in_threads == [request_]


@pytest.mark.parametrize("takes", [True, False])
def test_request_id_of_publish_is_not_in_later_log_lines(loop: Loop, takes: bool) -> None:
    """The main loop logged invalid requests of other clients with the id of the last publish."""
    loop.takes = takes
    with loop.connect() as client:
        client.sendall(REQUEST + b"x")
        loop.run_once()
        assert request_id.get() == "-"
        if takes:
            loop.begun[0].done()
            loop.run_once()
            assert read_response(client).endswith(b"bodyx")
            assert request_id.get() == "-"


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


INCOMPLETE = b"PUT /x HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 100\r\n\r\n"


def test_refused_request_runs_without_its_body(loop: Loop) -> None:
    """A body of 64 MiB was received before its sender got a 401."""
    loop.policy.decision = Decision(is_refused=True, value="refusal")
    with loop.connect() as client:
        client.sendall(INCOMPLETE + b"begin")
        loop.run_once()
        assert loop.in_threads == [INCOMPLETE + b"begin"]
        assert (loop.decisions, loop.streamed) == (["refusal"], [False])
        loop.run_once()
        assert len(loop.ended) == 1, "the rest of the body is not the next request"


def test_thread_that_decides_about_a_request_does_not_read_its_body(loop: Loop) -> None:
    """A slow client with a password that was not verified yet occupied the thread until its body had arrived."""
    loop.policy.decision, loop.policy.after_thread = None, Decision(is_refused=False, value="admission")
    with loop.connect() as client:
        client.sendall(INCOMPLETE)
        while b"100 Continue" not in loop.let_receive(client):
            assert loop.in_threads == []
        client.sendall(b"x" * 100)
        loop.run_once()
        assert (loop.in_threads, loop.decisions) == ([INCOMPLETE + b"x" * 100], ["admission"])
        assert loop.streamed == [False]


def test_request_that_a_thread_refuses_runs_without_its_body(loop: Loop) -> None:
    loop.policy.decision, loop.policy.after_thread = None, Decision(is_refused=True, value="refusal")
    with loop.connect() as client:
        client.sendall(INCOMPLETE + b"begin")
        loop.run_once()
        loop.run_once()
        assert (loop.in_threads, loop.decisions) == ([INCOMPLETE + b"begin"], ["refusal"])
        loop.run_once()
        assert len(loop.ended) == 1


def test_connection_whose_client_vanishes_while_a_thread_decides_is_closed(loop: Loop) -> None:
    loop.policy.decision, loop.policy.after_thread = None, Decision(is_refused=False, value="admission")
    decide: list[Callable[[], None]] = []
    loop.run_in_thread = lambda work, **_: decide.append(work)  # type: ignore[method-assign]
    with loop.connect() as client:
        client.sendall(INCOMPLETE)
        loop.run_once()
    decide[0]()
    loop.run_once()
    loop.run_once()
    assert len(loop.ended) == 1
    assert loop.in_threads == []


def test_failed_decision_closes_the_connection(loop: Loop) -> None:
    def fail(*_: Any, blocking: bool) -> Decision | None:
        if blocking:
            raise ZeroDivisionError
        return None

    loop.policy.admit = fail  # type: ignore[method-assign]
    with loop.connect() as client:
        client.sendall(INCOMPLETE)
        loop.run_once()
        loop.run_once()
        assert len(loop.ended) == 1
        assert loop.in_threads == []


@pytest.mark.parametrize("is_refused", [False, True])
def test_streaming_upload_is_decided_about_before_a_thread_reads_it(loop: Loop, is_refused: bool) -> None:
    """Uploads without credentials occupied a thread for 2 s, which it took to give up their bodies."""
    loop.policy.is_streamed = lambda *_: True  # type: ignore[method-assign]
    loop.policy.decision = Decision(is_refused=is_refused, value="decision")
    with loop.connect() as client:
        client.sendall(INCOMPLETE.replace(b"PUT", b"POST"))
        loop.run_once()
        assert (loop.decisions, loop.streamed) == (["decision"], [not is_refused])


def test_client_that_does_not_accept_100_continue_is_disconnected(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has not read its earlier responses. The loop used all of its CPU until the body was late."""
    with loop.connect() as client:
        monkeypatch.setattr(SendBuffer, "_send", lambda *_: 0)  # as if the kernel's buffer was full
        client.sendall(INCOMPLETE + b"begin")
        loop.run_once()
        assert len(loop.ended) == 1


def test_admitted_request_gets_its_decision_with_the_body(loop: Loop) -> None:
    loop.policy.decision = Decision(is_refused=False, value="admission")
    with loop.connect() as client:
        client.sendall(INCOMPLETE)
        loop.run_once()
        assert loop.in_threads == []
        client.sendall(b"x" * 100)
        loop.run_once()
        assert (loop.in_threads, loop.decisions) == ([INCOMPLETE + b"x" * 100], ["admission"])


def test_publish_over_its_limit_is_refused_before_its_body(loop: Loop) -> None:
    loop.has_room = False
    loop.policy.decision = Decision(is_refused=True, value="limit")
    with loop.connect() as client:
        client.sendall(REQUEST.replace(b": 1", b": 100") + b"begin")
        loop.run_once()
        assert loop.begun == []
        assert loop.decisions == ["limit"]


def test_publish_whose_right_is_lost_while_its_body_arrives_goes_to_a_view(loop: Loop) -> None:
    with loop.connect() as client:
        client.sendall(REQUEST.replace(b": 1", b": 10") + b"begin")
        loop.run_once()
        loop.is_current = False
        client.sendall(b"-ends")
        loop.run_once()
        assert loop.begun == []
        assert loop.in_threads == [REQUEST.replace(b": 1", b": 10") + b"begin-ends"]
