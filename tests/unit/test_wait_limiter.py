"""How many threads may wait, and which requests are answered at once."""

from contextlib import ExitStack

from kafka_http.web.wait_limiter import WaitLimiter


def test_half_of_the_threads_may_wait() -> None:
    limiter = WaitLimiter(8)
    with ExitStack() as waiting:
        assert [waiting.enter_context(limiter.acquire(5)) for _ in range(5)] == [5, 5, 5, 5, 0]
    with limiter.acquire(3) as seconds:
        assert seconds == 3


def test_another_quarter_may_wait_for_a_first_assignment() -> None:
    limiter = WaitLimiter(8)
    with ExitStack() as waiting:
        joining = [waiting.enter_context(limiter.acquire(5, joining=True)) for _ in range(7)]
        assert joining == [5, 5, 5, 5, 5, 5, 0]
        assert waiting.enter_context(limiter.acquire(5)) == 0
    with ExitStack() as waiting:
        assert [waiting.enter_context(limiter.acquire(5)) for _ in range(5)] == [5, 5, 5, 5, 0]
        assert [waiting.enter_context(limiter.acquire(5, joining=True)) for _ in range(3)] == [5, 5, 0]


def test_request_that_does_not_wait_takes_no_slot() -> None:
    limiter = WaitLimiter(2)
    with limiter.acquire(0) as none, limiter.acquire(-1) as less, limiter.acquire(5) as some:
        assert (none, less, some) == (0, 0, 5)
