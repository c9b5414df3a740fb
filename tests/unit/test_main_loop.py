"""The event loop of a worker's main thread."""

import os
import select
import socket
import time
from collections.abc import Iterator
from selectors import EVENT_READ, EVENT_WRITE
from threading import Thread
from typing import Any

import pytest

from kafka_http.server import main_loop
from kafka_http.server.main_loop import MainLoop
from tests.support.polling import scaled


@pytest.fixture(params=["epoll", "poll"])
def loop(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> MainLoop:
    if request.param == "poll":
        monkeypatch.setattr(main_loop, "select", NoEpoll)
    return MainLoop()


class NoEpoll:
    """The module `select` of a system without epoll."""

    poll = select.poll


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    one, other = socket.socketpair()
    with one, other:
        yield one, other


def no_op() -> None:
    pass


def run(loop: MainLoop, timeout: float = 0.0) -> None:
    loop.run_round(timeout, no_op)


def wait_for_wake(loop: MainLoop) -> None:
    """Register what gunicorn registers."""
    loop.register(loop.fileno(), EVENT_READ, loop.run_callbacks)


def test_callback_gets_its_socket(loop: MainLoop, pair: tuple[socket.socket, socket.socket]) -> None:
    called: list[Any] = []
    loop.register(pair[0], EVENT_READ, called.append)
    run(loop)
    assert called == []
    pair[1].send(b"x")
    run(loop, 5)
    assert called == [pair[0]]
    loop.modify(pair[0], EVENT_WRITE, lambda sock: called.append("writable"))
    run(loop, 5)
    assert called == [pair[0], "writable"]
    loop.unregister(pair[0])
    run(loop)
    assert len(called) == 2


def test_callback_is_not_called_after_another_has_unregistered_it(loop: MainLoop) -> None:
    pairs = [socket.socketpair() for _ in range(2)]
    called = []

    def on_readable(sock: socket.socket) -> None:
        called.append(sock)
        loop.unregister(pairs[0][0] if sock is pairs[1][0] else pairs[1][0])

    for one, other in pairs:
        loop.register(one, EVENT_READ, on_readable)
        other.send(b"x")
    run(loop, 5)
    assert len(called) == 1
    for each in pairs:
        each[0].close()
        each[1].close()


def test_unregistering_unknown_socket_raises_key_error(
    loop: MainLoop, pair: tuple[socket.socket, socket.socket]
) -> None:
    with pytest.raises(KeyError):
        loop.unregister(pair[0])


def test_round_ends_before_and_after_deferred_calls(loop: MainLoop, pair: tuple[socket.socket, socket.socket]) -> None:
    order: list[str] = []

    def on_readable(sock: socket.socket) -> None:
        order.append("event")
        loop.call_soon(on_call)

    def on_call() -> None:
        order.append("call")
        loop.call_soon(order.append, "call of the next round")

    loop.register(pair[0], EVENT_READ, on_readable)
    pair[1].send(b"x")
    loop.run_round(5, lambda: order.append("end"))
    assert order == ["event", "end", "call", "end"]
    loop.unregister(pair[0])
    began = time.monotonic()
    loop.run_round(60, lambda: order.append("end"))
    assert order[4:] == ["end", "call of the next round", "end"]
    assert time.monotonic() - began < scaled(5), "waiting calls end the wait"


def test_failed_call_does_not_stop_the_others(loop: MainLoop) -> None:
    done: list[int] = []
    loop.call_soon(done.remove, 1)
    loop.call_soon(done.append, 1)
    run(loop)
    assert done == [1]


def test_call_from_thread_wakes_loop(loop: MainLoop) -> None:
    wait_for_wake(loop)
    called: list[float] = []

    def call_later() -> None:
        time.sleep(0.05)
        loop.call_soon(called.append, time.monotonic())

    thread = Thread(target=call_later)
    thread.start()
    run(loop, 60)
    thread.join()
    assert time.monotonic() - called[0] < scaled(5)


def test_calls_of_many_threads_are_not_lost(loop: MainLoop) -> None:
    """Each call is made without the time-out, although most of them find the loop awake and do not wake it."""
    wait_for_wake(loop)
    called: list[tuple[int, int]] = []
    threads, calls = 4, 2000

    def call_often(thread: int) -> None:
        for number in range(calls):
            loop.call_soon(called.append, (thread, number))
            if number % 10 == 0:
                time.sleep(0.0001)

    started = [Thread(target=call_often, args=(thread,)) for thread in range(threads)]
    for each in started:
        each.start()
    longest = 0.0
    while len(called) < threads * calls:
        began = time.monotonic()
        run(loop, 30)
        longest = max(longest, time.monotonic() - began)
    for each in started:
        each.join()
    assert longest < scaled(20)
    for thread in range(threads):
        assert [number for name, number in called if name == thread] == list(range(calls))


def test_calls_while_loop_is_awake_write_nothing(loop: MainLoop, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[bytes] = []
    monkeypatch.setattr(os, "write", lambda fd, data: written.append(data))
    for _ in range(3):
        loop.call_soon(no_op)
    run(loop)
    loop.call_soon(no_op)
    assert written == []
