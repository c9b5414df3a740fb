"""Reloads of a worker: each one that the arbiter counts, one at a time, repeated until it succeeds."""

import signal
from collections.abc import Callable, Iterator
from threading import Event, Lock
from types import SimpleNamespace
from typing import Any

import pytest

from kafka_http.config import Config, ConfigError
from kafka_http.server.app_interface import DefaultHooks
from kafka_http.server.main_loop import MainLoop
from kafka_http.server.reload import ArbiterReload, WorkerReload
from tests.support.polling import wait_for


class Hooks(DefaultHooks):
    """Counts reloads. `failure` is raised by the next ones."""

    def __init__(self) -> None:
        self.count = 0
        self.failure: Exception | None = None
        self.can_go_on = Event()
        self.can_go_on.set()
        self._lock = Lock()

    @property
    def is_reloading(self) -> bool:
        return self._lock.locked()

    def reload(self) -> None:
        assert self._lock.acquire(blocking=False), "two at the same time"
        try:
            self.can_go_on.wait(20)
            if self.failure is not None:
                raise self.failure
            self.count += 1
        finally:
            self._lock.release()


@pytest.fixture
def arbiter() -> ArbiterReload:
    return ArbiterReload(Config(), DefaultHooks(), lambda _: None)


@pytest.fixture
def hooks() -> Hooks:
    return Hooks()


@pytest.fixture
def start(arbiter: ArbiterReload, hooks: Hooks) -> Iterator[Callable[[WorkerReload], Callable[[], None]]]:
    """Start a worker's part. The returned function runs a round of its main loop."""
    before, loop = signal.getsignal(signal.SIGHUP), MainLoop()

    def start(worker: WorkerReload) -> Callable[[], None]:
        worker.start(hooks, loop)
        return lambda: loop.run_round(0, lambda: None)

    yield start
    signal.signal(signal.SIGHUP, before)


def worker_of(arbiter: ArbiterReload | None) -> WorkerReload:
    return WorkerReload(SimpleNamespace(arbiter_reload=arbiter))


def test_worker_reloads_once_for_each_reload_of_the_arbiter(arbiter: ArbiterReload, hooks: Hooks, start: Any) -> None:
    run_round = start(worker_of(arbiter))
    for count in range(1, 4):
        arbiter.run()
        for _ in range(2):  # the second signal means nothing
            signal.raise_signal(signal.SIGHUP)
            run_round()
        wait_for(lambda count=count: hooks.count == count)
    run_round()
    assert hooks.count == 3


def test_signal_without_a_reload_of_the_arbiter_has_no_effect(arbiter: ArbiterReload, hooks: Hooks, start: Any) -> None:
    """A terminal that closes sends SIGHUP to all processes."""
    arbiter.run()
    run_round = start(worker_of(arbiter))
    signal.raise_signal(signal.SIGHUP)
    run_round()
    assert hooks.count == 0


def test_worker_that_misses_the_signal_reloads_at_its_start(arbiter: ArbiterReload, hooks: Hooks, start: Any) -> None:
    """A process that was just forked has no handler yet."""
    worker = worker_of(arbiter)
    arbiter.run()
    start(worker)
    wait_for(lambda: hooks.count == 1)


def test_reloads_during_a_reload_follow_it(arbiter: ArbiterReload, hooks: Hooks, start: Any) -> None:
    """The last one must read what the files have at the end."""
    worker = worker_of(arbiter)
    start(worker)
    hooks.can_go_on.clear()
    for _ in range(5):
        arbiter.run()
        worker.check()
        wait_for(lambda: hooks.is_reloading)
    hooks.can_go_on.set()
    wait_for(lambda: hooks.count == 2)
    worker.check()
    assert hooks.count == 2


def test_failed_reload_is_repeated_and_logged_once(
    arbiter: ArbiterReload, hooks: Hooks, start: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Such as one without a free file descriptor: the worker must not accept a revoked key for ever."""
    worker = worker_of(arbiter)
    start(worker)
    for failure, text in ((ConfigError("keys.toml is faulty."), "keys.toml is faulty."), (OSError("x"), "OSError")):
        hooks.failure = failure
        arbiter.run()
        wait_for(lambda worker=worker, text=text: worker.check() or text in caplog.text)
    for _ in range(20):
        worker.check()
    hooks.failure = None
    wait_for(lambda: worker.check() or hooks.count == 1)
    assert [each.levelname for each in caplog.records if "could not reload" in each.message] == ["WARNING", "WARNING"]


def test_worker_of_another_arbiter_leaves_sighup_alone(hooks: Hooks, start: Any) -> None:
    """`gunicorn -k kafka_http.server.worker.Worker wsgi:app` replaces its workers."""
    before = signal.getsignal(signal.SIGHUP)
    worker = worker_of(None)
    start(worker)
    worker.check()
    assert signal.getsignal(signal.SIGHUP) == before
    assert hooks.count == 0


def test_unexpected_failure_in_the_arbiter_changes_nothing(hooks: Hooks, caplog: pytest.LogCaptureFixture) -> None:
    arbiter = ArbiterReload(Config(), hooks, lambda _: None)
    hooks.failure = RuntimeError("unexpected")
    assert not arbiter.run()
    assert arbiter.count.value == 0
    assert "Reload failed, nothing has changed." in caplog.text
