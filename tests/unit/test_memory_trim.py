"""When a worker trims its allocator, and when it collects garbage first. Time, CPU time and memory are given."""

import weakref
from collections.abc import Callable

import pytest

from kafka_http.server import memory_trim
from kafka_http.server.memory_trim import MemoryTrimmer

MB = 1_000_000


class Process:
    """Replaces the clocks and the memory of the process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = self.cpu = 100.0
        self.resident = 70 * MB
        self.trims = self.releases = 0
        monkeypatch.setattr(memory_trim, "time", self)
        monkeypatch.setattr(memory_trim, "_resident_bytes", lambda: self.resident)
        self.trimmer = MemoryTrimmer()
        self.pass_seconds(1000, cpu=0)

    def monotonic(self) -> float:
        return self.now

    def process_time(self) -> float:
        return self.cpu

    def _release(self) -> None:
        self.releases += 1

    def pass_seconds(self, seconds: int, cpu: float) -> int:
        """Let the main loop check each second, with `cpu` seconds of work in each. Return the number of trims."""
        before = self.trims
        for _ in range(seconds):
            self.now += 1
            self.cpu += cpu
            self.trimmer.check(self._run, self._release)
        return self.trims - before

    def _run(self, trim: Callable[[], None]) -> None:
        self.trims += 1
        trim()


class Node:
    """Part of a reference cycle."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture
def process(monkeypatch: pytest.MonkeyPatch) -> Process:
    return Process(monkeypatch)


def test_memory_is_trimmed_only_after_it_has_changed(process: Process) -> None:
    assert process.pass_seconds(100, cpu=0) == 0
    process.resident += 10 * MB
    assert process.pass_seconds(100, cpu=0) == 0
    process.resident += 10 * MB
    assert process.pass_seconds(100, cpu=0) == 6


def test_idle_process_collects_garbage_before_trim(process: Process) -> None:
    """Published bodies in reference cycles kept 200 MB of an idle worker for good."""
    garbage = weakref.ref(Node())
    process.resident += 200 * MB
    process.pass_seconds(10, cpu=0.01)
    assert garbage() is None
    assert process.releases > 0


def test_busy_process_is_trimmed_without_garbage_collection(process: Process) -> None:
    process.pass_seconds(5, cpu=0.9)
    released = process.releases
    process.resident += 200 * MB
    assert process.pass_seconds(10, cpu=0.9) == 2
    assert process.releases == released
    process.pass_seconds(10, cpu=0)
    assert process.releases > released
