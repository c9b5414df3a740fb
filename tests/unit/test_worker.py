"""The rounds of a worker's main loop, without gunicorn's arbiter."""

import math
import time
from types import SimpleNamespace
from typing import Any

import pytest

from kafka_http.server.app_interface import DefaultHooks
from kafka_http.server.main_loop import MainLoop
from kafka_http.server.worker import MAX_ACCEPTS, Worker


class Producer(DefaultHooks):
    """Counts rounds. `next_deadline` is the time of the next one that it asks for."""

    next_deadline: float = math.inf

    def __init__(self) -> None:
        self.rounds = 0
        self.due: list[float] = []
        """Times of later rounds."""
        self.closed_with: list[float] = []
        self.next_deadline = math.inf

    def end_round(self) -> None:
        self.rounds += 1
        if time.monotonic() >= self.next_deadline:
            self.next_deadline = self.due.pop(0) if self.due else math.inf

    def close(self, timeout: float) -> None:
        self.closed_with.append(timeout)


class BareWorker(Worker):
    """A worker with only its main loop."""

    def __init__(self, producer: Producer) -> None:
        self.alive = True
        self.nr_conns = 0
        self.worker_connections = 100
        self._accepting = True
        self._accepts_from = 0.0
        self._connections = None
        self._hooks = producer
        self._main_loop = MainLoop()
        self.log: Any = SimpleNamespace(exception=pytest.fail)

    def call(self, timeout: float) -> float:
        """Return how long a call took, as gunicorn makes it."""
        began = time.monotonic()
        self.wait_for_and_dispatch_events(timeout)
        return time.monotonic() - began

    def close_app(self) -> None:
        self._close_app()


@pytest.fixture
def producer() -> Producer:
    return Producer()


@pytest.fixture
def worker(producer: Producer) -> BareWorker:
    return BareWorker(producer)


def test_idle_loop_waits_for_whole_timeout_in_one_round(worker: BareWorker, producer: Producer) -> None:
    assert worker.call(0.2) >= 0.2
    assert producer.rounds <= 3


def test_call_runs_many_rounds(worker: BareWorker, producer: Producer) -> None:
    def call_again(left: int) -> None:
        if left:
            worker._main_loop.call_soon(call_again, left - 1)

    call_again(50)
    assert worker.call(0.2) >= 0.2
    assert producer.rounds >= 50


def test_rounds_end_by_deadlines_of_producer(worker: BareWorker, producer: Producer) -> None:
    began = time.monotonic()
    producer.next_deadline, producer.due = began + 0.05, [began + 0.1, began + 0.15]
    assert worker.call(0.3) >= 0.3
    assert producer.due == []
    assert producer.rounds <= 10


def test_call_ends_when_worker_is_to_stop(worker: BareWorker) -> None:
    worker._main_loop.call_soon(setattr, worker, "alive", False)
    assert worker.call(30) < 20


def test_call_ends_when_worker_is_almost_full(worker: BareWorker) -> None:
    worker._main_loop.call_soon(setattr, worker, "nr_conns", 100 - MAX_ACCEPTS + 1)
    assert worker.call(30) < 20


def test_pause_of_accepting_ends_call_in_time(worker: BareWorker, producer: Producer) -> None:
    worker._accepting = False
    worker._accepts_from = time.monotonic() + 0.1
    assert 0.1 <= worker.call(30) < 20
    assert producer.rounds <= 2


def test_pending_publishes_are_completed_before_application_is_closed(worker: BareWorker, producer: Producer) -> None:
    began = time.monotonic()
    producer.next_deadline, producer.due = began, [began + 0.05, began + 0.1]
    worker.close_app()
    assert producer.next_deadline == math.inf
    assert time.monotonic() - began >= 0.1
    assert len(producer.closed_with) == 1
