"""Counters that the workers of a node share."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from kafka_http.security.shared_counters import OpenCounts, Rate, SharedBuckets
from tests.support.clock import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def buckets(clock: Clock) -> SharedBuckets:
    return SharedBuckets(64, clock)


def test_bucket_gives_its_burst_then_its_rate(buckets: SharedBuckets, clock: Clock) -> None:
    bucket = buckets.bucket("a", Rate(10, 20))
    assert [bucket.take() for _ in range(20)] == [0.0] * 20
    assert bucket.take() == pytest.approx(0.1)
    clock.now += 0.11
    assert (bucket.take(), bucket.take()) == (0.0, pytest.approx(0.09))
    clock.now += 100
    assert [bucket.take() for _ in range(21)][19:] == [0.0, pytest.approx(0.1)]


def test_bucket_of_the_same_key_and_rate_is_the_same(buckets: SharedBuckets) -> None:
    assert buckets.bucket("a", Rate(1, 1)).take() == 0
    assert buckets.bucket("a", Rate(1, 1)).wait() == pytest.approx(1)
    assert buckets.bucket("b", Rate(1, 1)).wait() == 0
    assert buckets.bucket("a", Rate(2, 1)).wait() == 0, "a reload that changes the rate begins with a full bucket"


def test_take_of_more_than_the_burst_passes_when_full_and_owes_the_rest(buckets: SharedBuckets, clock: Clock) -> None:
    bucket = buckets.bucket("a", Rate(10, 20))
    assert bucket.take(100) == 0
    assert bucket.take(100) == pytest.approx(10)
    assert bucket.take(1) == pytest.approx(8.1)
    clock.now += 10.01
    assert bucket.take(100) == 0


def test_add_gives_back_what_was_taken(buckets: SharedBuckets) -> None:
    bucket = buckets.bucket("a", Rate(1, 2))
    bucket.add(5)
    assert bucket.wait() == pytest.approx(4)
    bucket.add(-5)
    bucket.add(-5)
    assert [bucket.take() for _ in range(3)] == [0.0, 0.0, pytest.approx(1)], "no more than the burst"


def test_table_without_room_forgets_the_client_that_used_least(buckets: SharedBuckets) -> None:
    heavy = buckets.bucket("heavy", Rate(1, 1000))
    heavy.take(900)
    for number in range(1000):
        assert buckets.bucket(str(number), Rate(1, 1000)).take() == 0
    assert heavy.wait(200) == pytest.approx(100)


def test_bucket_is_shared_with_processes_that_were_forked_later() -> None:
    buckets = SharedBuckets()
    rate = Rate(0.001, 10)
    for _ in range(2):
        if not (child := os.fork()):
            os._exit(sum(buckets.bucket("a", rate).take() == 0 for _ in range(4)))
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 4
    assert [buckets.bucket("a", rate).take() == 0 for _ in range(3)] == [True, True, False]


def test_open_count_is_released_once() -> None:
    counts = OpenCounts(4, 32)
    first, second = counts.acquire("a", 2), counts.acquire("a", 2)
    assert first is not None
    assert second is not None
    assert counts.acquire("a", 2) is None
    assert counts.acquire("b", 2) is not None
    first()
    first()
    assert counts.acquire("a", 2) is not None
    assert counts.acquire("a", 2) is None
    assert counts.acquire("a", 3) is not None


def test_open_counts_of_all_processes_add_up() -> None:
    counts = OpenCounts()
    with process_with_open_counts(counts, 2), process_with_open_counts(counts, 3):
        assert counts.acquire("a", 6) is not None
        assert counts.acquire("a", 6) is None


def test_open_counts_of_a_killed_process_are_forgotten() -> None:
    counts = OpenCounts(2)
    for _ in range(5):  # more than there are tables
        with process_with_open_counts(counts, 2):
            assert counts.acquire("a", 2) is None
    kept = counts.acquire("a", 1)
    assert kept is not None


def test_open_counts_without_a_free_place_are_not_counted() -> None:
    counts = OpenCounts(1, 32)
    held = [counts.acquire(str(each), 1) for each in range(40)]
    assert None not in held
    assert [counts.acquire(str(each), 1) is None for each in range(40)].count(True) == 32
    for each in held:
        assert each is not None
        each()
    assert counts.acquire("0", 1) is not None


@contextmanager
def process_with_open_counts(counts: OpenCounts, number: int) -> Iterator[None]:
    """Fork a process that holds counts of the key `a`, and kill it at the end."""
    ready, done = os.pipe()
    if not (child := os.fork()):
        for _ in range(number):
            counts.acquire("a", 1000)
        os.write(done, b"x")
        signal.pause()
    os.read(ready, 1)
    try:
        yield
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(ready)
        os.close(done)


def test_open_counts_work_where_memory_files_are_forbidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(name: str) -> int:
        raise PermissionError

    monkeypatch.setattr(os, "memfd_create", forbidden)
    counts = OpenCounts(2)
    with process_with_open_counts(counts, 1):
        assert counts.acquire("a", 1) is None
    assert counts.acquire("a", 1) is not None
