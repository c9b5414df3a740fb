"""Limits for requests that the main loop receives: time, memory, size and syntax."""

import json
import socket
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest
from gunicorn.config import Config

from kafka_http.server.worker import MAX_ACCEPTS, Worker
from tests.support.clock import Clock
from tests.unit.test_connection_loop import Loop

HEAD = b"PUT /x HTTP/1.1\r\nHost: h\r\n"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr("kafka_http.server.client_connection.time.monotonic", made)
    return made


@pytest.fixture
def loop(clock: Clock) -> Iterator[Loop]:
    made = Loop()
    made.idle_seconds = 75.0
    yield made
    made.close()


def read_error(client: socket.socket) -> tuple[int, dict[str, Any]]:
    head, _, body = client.recv(65536).partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)["error"]


def step(loop: Loop, clock: Clock, seconds: float) -> None:
    """Let time pass in steps of a second."""
    for _ in range(int(seconds)):
        clock.now += 1
        loop.run_once()


def test_head_that_takes_over_10_s_gets_408(loop: Loop, clock: Clock) -> None:
    with loop.connect() as client:
        step(loop, clock, 30)
        assert loop.ended == [], "before the first byte the idle timeout applies"
        client.sendall(HEAD)
        loop.run_once()
        step(loop, clock, 9)
        client.sendall(b"X: y\r\n")
        loop.run_once()
        assert loop.ended == []
        step(loop, clock, 2)
        status, error = read_error(client)
        assert (status, error["code"]) == (408, 408)
        assert "10 s" in error["message"]
        assert len(loop.ended) == 1
        assert loop.in_threads == []


@pytest.mark.parametrize("framing", [b"Content-Length: 100000\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n20000\r\n"])
def test_body_below_the_rate_gets_408_after_20_s(loop: Loop, clock: Clock, framing: bytes) -> None:
    with loop.connect() as client:
        client.sendall(HEAD + framing)
        loop.run_once()
        for _ in range(19):
            client.sendall(b"x" * 100)
            step(loop, clock, 1)
        assert loop.ended == []
        step(loop, clock, 2)
        status, error = read_error(client)
        assert status == 408
        assert "1024 bytes per second" in error["message"]


def test_body_at_min_body_rate_has_no_time_limit(loop: Loop, clock: Clock) -> None:
    with loop.connect() as client:
        client.sendall(HEAD + b"Content-Length: 100000\r\n\r\n")
        loop.run_once()
        for _ in range(90):
            client.sendall(b"x" * 1100)
            step(loop, clock, 1)
        client.sendall(b"x" * 1000)
        loop.run_once()
        assert [len(each) for each in loop.in_threads] == [len(HEAD) + 26 + 100_000]


def test_body_incomplete_10_s_after_stop_gets_503(loop: Loop, clock: Clock) -> None:
    """A slow body delayed the stop for the whole graceful timeout and got no response."""
    with loop.connect() as client:
        client.sendall(HEAD + b"Content-Length: 1000000\r\n\r\n")
        loop.run_once()
        loop.connections.begin_stop(clock.now + 2)
        for _ in range(9):
            client.sendall(b"x" * 2000)
            step(loop, clock, 1)
        assert loop.ended == []
        step(loop, clock, 2)
        status, error = read_error(client)
        assert (status, error["code"]) == (503, 503)
        assert "stopping" in error["message"]
        assert loop.in_threads == []


def test_empty_lines_do_not_extend_idle_timeout(loop: Loop, clock: Clock) -> None:
    with loop.connect() as client:
        for _ in range(74):
            client.sendall(b"\r\n")
            step(loop, clock, 1)
        assert loop.ended == []
        step(loop, clock, 2)
        assert len(loop.ended) == 1


def test_incomplete_bodies_over_half_of_max_in_flight_end_the_slowest(loop: Loop, clock: Clock) -> None:
    loop.policy.max_in_flight = 1 << 20
    begin = HEAD + b"Content-Length: 2000000\r\n\r\n"
    with loop.connect() as slow, loop.connect() as fast:
        send(loop, slow, begin + b"x" * 200_000)
        step(loop, clock, 8)
        send(loop, fast, begin + b"x" * 250_000)
        assert loop.ended == []
        send(loop, fast, b"x" * 100_000)
        assert read_error(slow)[0] == 408
        send(loop, fast, b"x" * 1_650_000)
        assert len(loop.in_threads) == 1, "a single body may be larger"


def test_error_of_in_flight_limit_goes_to_application_at_once(loop: Loop) -> None:
    def reserve(size: int, reserved: int = 0) -> int:
        if size > 0:
            raise MemoryError
        return size

    loop.policy.reserve = reserve  # type: ignore[method-assign]
    with loop.connect() as client:
        client.sendall(HEAD + b"Content-Length: 1000\r\n\r\nx")
        loop.run_once()
        assert isinstance(loop.refusals[0], MemoryError)


@pytest.mark.parametrize("more", [b"", b"Expect: 100-continue\r\n"])
def test_body_over_max_body_bytes_goes_to_application_at_once(loop: Loop, more: bytes) -> None:
    loop.policy.max_body_bytes = 1000
    with loop.connect() as client:
        client.sendall(HEAD + b"Content-Length: 20000000\r\n" + more + b"\r\n")
        loop.run_once()
        assert len(loop.in_threads) == 1
        assert len(loop.ended) == 1, "the connection must be closed"


def test_invalid_head_is_rejected_before_its_end(loop: Loop) -> None:
    for bad in (b"GET / HTTP/1.1\nHost: x\n", b"GET /" + b"a" * 9000, b"GET / HTTP/1.1\r\nX: \n", b"GET / X\r\n\r\n"):
        with loop.connect() as client:
            client.sendall(bad)
            loop.run_once()
            assert loop.refused.pop() is not None, bad
    assert loop.in_threads == []


def test_full_worker_closes_connection_that_has_waited_longest(loop: Loop, clock: Clock) -> None:
    with loop.connect() as idle, loop.connect() as slow, loop.connect() as new:
        slow.sendall(HEAD)
        loop.run_once()
        step(loop, clock, 2)
        new.sendall(HEAD)
        loop.run_once()
        assert loop.connections.make_room()
        assert slow.recv(1) == b""
        assert loop.connections.make_room()
        assert idle.recv(1) == b""
        assert not loop.connections.make_room(), "a new connection must stay"


def test_unsent_responses_over_limit_close_the_slowest_connection(loop: Loop, clock: Clock) -> None:
    loop.policy.max_answers_in_flight = 3_000_000
    loop.body = b"x" * 2_000_000
    with loop.connect(buffer=4096) as first, loop.connect(buffer=4096) as second:
        for client in (first, second):
            client.sendall(b"PUT /messages/t HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\n1")
            loop.run_once()
            loop.begun[-1].done()
            step(loop, clock, 3)
        assert len(loop.ended) == 1
        assert first.recv(1, socket.MSG_PEEK), "data from the kernel's buffer"


def send(loop: Loop, client: socket.socket, data: bytes) -> None:
    """Send more data than the socket's buffer has room for."""
    client.setblocking(False)
    left = memoryview(data)
    while left:
        try:
            left = left[client.send(left) :]
        except BlockingIOError:
            loop.run_once()
    client.settimeout(5)
    loop.run_once()
    loop.run_once()


def worker_that_accepts(accept: Callable[[], Any]) -> Any:
    """Return a worker with only the method `accept`."""
    paused: list[OSError] = []
    taken: list[Any] = []
    worker = SimpleNamespace(
        nr_conns=0, worker_connections=1000, cfg=Config(), enqueue_req=taken.append, taken=taken, paused=paused,
        _pause_accepting=paused.append, _admit=lambda conn: True,
    )  # fmt: skip
    worker.accept = lambda: Worker.accept(cast("Worker", worker), cast("socket.socket", SimpleNamespace(
        accept=accept, getsockname=lambda: ("127.0.0.1", 1))))  # fmt: skip
    return worker


def test_accept_accepts_several_connections_per_round() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=100) as listener:
        listener.setblocking(False)
        clients = [socket.create_connection(listener.getsockname()) for _ in range(MAX_ACCEPTS + 4)]
        worker = worker_that_accepts(listener.accept)
        worker.accept()
        assert len(worker.taken) == MAX_ACCEPTS
        worker.accept()
        assert len(worker.taken) == worker.nr_conns == MAX_ACCEPTS + 4
        assert worker.paused == []
        for each in [*clients, *(conn.sock for conn in worker.taken)]:
            each.close()


@pytest.mark.parametrize("name", ["EMFILE", "ENFILE", "ENOBUFS", "ENOMEM", "EPERM", "ENETDOWN"])
def test_failed_accept_pauses_and_does_not_raise(name: str) -> None:
    import errno

    def accept() -> Any:
        raise OSError(getattr(errno, name), name)

    worker = worker_that_accepts(accept)
    worker.accept()
    assert len(worker.paused) == 1
