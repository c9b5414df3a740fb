"""Counters that the workers of a node share."""

import os

import pytest

from kafka_http.security.shared_counters import Rate, SharedBuckets


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


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
