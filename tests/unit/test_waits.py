"""Who may wait, and who is answered at once."""

from contextlib import ExitStack

from kafka_http.web.wait_limiter import WaitLimiter


def test_half_of_the_threads_wait() -> None:
    waits = WaitLimiter(8)
    with ExitStack() as waiting:
        assert [waiting.enter_context(waits.place(5)) for _ in range(5)] == [5, 5, 5, 5, 0]
    with waits.place(3) as seconds:
        assert seconds == 3


def test_another_quarter_waits_for_its_first_partitions() -> None:
    waits = WaitLimiter(8)
    with ExitStack() as waiting:
        joining = [waiting.enter_context(waits.place(5, joining=True)) for _ in range(7)]
        assert joining == [5, 5, 5, 5, 5, 5, 0]
        assert waiting.enter_context(waits.place(5)) == 0
    with ExitStack() as waiting:
        assert [waiting.enter_context(waits.place(5)) for _ in range(5)] == [5, 5, 5, 5, 0]
        assert [waiting.enter_context(waits.place(5, joining=True)) for _ in range(3)] == [5, 5, 0]


def test_who_does_not_wait_takes_no_place() -> None:
    waits = WaitLimiter(2)
    with waits.place(0) as none, waits.place(-1) as less, waits.place(5) as some:
        assert (none, less, some) == (0, 0, 5)
