"""Reading the body of a streaming upload."""

from kafka_http.web.body_reader import LimitedSource
from tests.support.polling import wait_for


class Pieces:
    """A `BodySource` of pieces that have all arrived."""

    def __init__(self, *pieces: bytes) -> None:
        self._pieces = list(pieces)

    @property
    def has_ended(self) -> bool:
        return not self._pieces

    def wait(self, seconds: float) -> bool:
        return True

    def can_send(self) -> bool:
        return True

    def read(self) -> bytes:
        return self._pieces.pop(0)


def test_limited_source_pauses_for_as_long_as_the_limit_says() -> None:
    counted: list[int] = []

    def add_bytes(size: int) -> float:
        counted.append(size)
        return 0.0 if len(counted) == 1 else 0.2

    source = LimitedSource(Pieces(b"a", b"bc", b"def"), add_bytes)
    assert (source.wait(1), source.read()) == (True, b"a")
    assert (source.wait(1), source.read()) == (True, b"bc")
    assert not source.wait(0.001)
    wait_for(lambda: source.wait(0.01))
    assert (source.read(), source.has_ended, counted) == (b"def", True, [1, 2, 3])
