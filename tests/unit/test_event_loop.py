"""The loop in a thread of its own: calls from other threads, sockets, deadlines and its end."""

import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from selectors import EVENT_READ, EVENT_WRITE

import pytest

from kafka_http.event_loop import LoopThread
from tests.support.polling import wait_for

THREADS, CALLS = 8, 2000


class Driven:
    """What a loop drives. It counts the rounds."""

    def __init__(self) -> None:
        self.next_deadline = float("inf")
        self.rounds = 0
        self.fails = False

    def end_round(self) -> None:
        self.rounds += 1
        if self.fails:
            raise ValueError("the round fails")


@pytest.fixture
def driven() -> Driven:
    return Driven()


@pytest.fixture
def loop(driven: Driven) -> Iterator[LoopThread]:
    loop = LoopThread(driven, "loop")
    yield loop
    loop.stop(5)
    assert not loop.thread.is_alive()


def in_loop(loop: LoopThread, call: Callable[[], object]) -> None:
    """Let the loop make a call, and wait for it."""
    done = threading.Event()

    def call_and_tell() -> None:
        call()
        done.set()

    loop.call_soon(call_and_tell)
    assert done.wait(5)


def test_calls_of_many_threads_are_all_made_in_order(loop: LoopThread) -> None:
    made: list[tuple[int, int]] = []

    def call(thread: int) -> None:
        for each in range(CALLS):
            loop.call_soon(made.append, (thread, each))

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(call, range(THREADS)))
    wait_for(lambda: len(made) == THREADS * CALLS)
    for thread in range(THREADS):
        assert [each for owner, each in made if owner == thread] == list(range(CALLS))


def test_call_wakes_a_loop_that_waits(loop: LoopThread) -> None:
    for _ in range(200):
        woken = threading.Event()
        loop.call_soon(woken.set)
        assert woken.wait(5)


def test_calls_are_made_by_the_loop_thread(loop: LoopThread) -> None:
    threads: list[threading.Thread] = []
    in_loop(loop, lambda: threads.append(threading.current_thread()))
    assert threads == [loop.thread]


def test_call_of_a_call_is_made_in_the_next_round(loop: LoopThread, driven: Driven) -> None:
    rounds: list[int] = []
    done = threading.Event()

    def first() -> None:
        rounds.append(driven.rounds)
        loop.call_soon(second)

    def second() -> None:
        rounds.append(driven.rounds)
        done.set()

    loop.call_soon(first)
    assert done.wait(5)
    assert rounds[1] == rounds[0] + 1


def test_idle_loop_does_not_run(loop: LoopThread, driven: Driven) -> None:
    in_loop(loop, lambda: None)
    wait_for(lambda: driven.rounds)
    before = driven.rounds
    time.sleep(0.2)
    assert driven.rounds <= before + 1


def test_round_ends_at_the_deadline(loop: LoopThread, driven: Driven) -> None:
    def set_deadline() -> None:
        driven.next_deadline = time.monotonic() + 0.1

    in_loop(loop, set_deadline)
    before = driven.rounds
    wait_for(lambda: driven.rounds > before + 1)
    driven.next_deadline = float("inf")


def test_sockets_are_watched_until_they_are_unregistered(loop: LoopThread) -> None:
    ours, theirs = socket.socketpair()
    events: list[str] = []

    def read(sock: socket.socket) -> None:
        events.append("read")
        sock.recv(10)

    def write(sock: socket.socket) -> None:
        events.append("write")
        loop.modify(sock, EVENT_READ, read)

    in_loop(loop, lambda: loop.register(ours, EVENT_WRITE, write))
    wait_for(lambda: events == ["write"])
    theirs.send(b"x")
    wait_for(lambda: events == ["write", "read"])
    in_loop(loop, lambda: loop.unregister(ours))
    theirs.send(b"x")
    in_loop(loop, lambda: None)
    assert events == ["write", "read"]
    ours.close()
    theirs.close()


@pytest.mark.parametrize("failing", ["call", "callback", "round"])
def test_error_does_not_end_the_loop(
    loop: LoopThread, driven: Driven, failing: str, caplog: pytest.LogCaptureFixture
) -> None:
    ours, theirs = socket.socketpair()

    def fail(*_: object) -> None:
        if failing == "callback":
            loop.unregister(ours)
        raise ValueError("it fails")

    with caplog.at_level(logging.ERROR):
        if failing == "call":
            loop.call_soon(fail)
        elif failing == "callback":
            in_loop(loop, lambda: loop.register(ours, EVENT_WRITE, fail))
        else:
            driven.fails = True
        in_loop(loop, lambda: None)
        in_loop(loop, lambda: None)
        driven.fails = False
    assert "failed" in caplog.text
    ours.close()
    theirs.close()


def test_calls_before_the_end_are_made(driven: Driven) -> None:
    loop = LoopThread(driven, "loop")
    made: list[int] = []
    for each in range(100):
        loop.call_soon(made.append, each)
    loop.stop(5)
    assert made == list(range(100))


def test_calls_before_the_end_may_use_sockets(driven: Driven) -> None:
    """The loop may have ended before they were made: connections stayed open, and publishes without a result."""
    for _ in range(20):
        loop = LoopThread(driven, "loop")
        ours, theirs = socket.socketpair()
        steps: list[str] = []
        loop.call_soon(loop.register, ours, EVENT_READ, steps.append)
        loop.call_soon(loop.unregister, ours)
        loop.call_soon(steps.append, "unregistered")
        loop.stop(5)
        assert steps == ["unregistered"]
        loop.call_soon(ours.close)
        theirs.close()


def test_calls_after_the_end_are_made_at_once(driven: Driven) -> None:
    """A publish or a new connection that comes late must end, too."""
    loop = LoopThread(driven, "loop")
    loop.stop(5)
    made: list[int] = []
    loop.call_soon(made.append, 1)
    assert made == [1]


def test_calls_of_threads_at_the_end_are_all_made() -> None:
    for _ in range(20):
        loop = LoopThread(Driven(), "loop")
        made: list[int] = []
        with ThreadPoolExecutor(4) as pool:
            calls = [pool.submit(loop.call_soon, made.append, each) for each in range(200)]
            loop.stop(5)
        assert all(each.exception() is None for each in calls)
        assert len(made) == 200


def test_ended_loop_writes_to_no_file(driven: Driven) -> None:
    """The number of its closed pipe may be that of another connection."""
    loop = LoopThread(driven, "loop")
    loop.stop(5)
    ends = [os.pipe() for _ in range(4)]
    for each in range(10):
        loop.call_soon([].append, each)
    for read, write in ends:
        os.set_blocking(read, False)
        with pytest.raises(BlockingIOError):
            os.read(read, 1)
        os.close(read)
        os.close(write)
