"""The chunked transfer coding as it is taken from the socket, however it is cut."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kafka_http.chunked import Chunks


def fed(pieces: list[bytes]) -> tuple[bytes, Chunks]:
    chunks = Chunks()
    return b"".join(chunks.feed(piece) for piece in pieces), chunks


@given(
    st.lists(st.binary(min_size=1, max_size=40), max_size=8),
    st.sampled_from([b"", b";a=b", b" ;a"]),
    st.sampled_from([b"", b"A: b\r\n", b"A: b\r\nC: d\r\n"]),
    st.lists(st.integers(0, 400), max_size=20),
)
def test_however_it_is_cut(data: list[bytes], extension: bytes, trailers: bytes, cuts: list[int]) -> None:
    coded = b"".join(b"%x%s\r\n%s\r\n" % (len(each), extension, each) for each in data)
    coded += b"0%s\r\n%s\r\n" % (extension, trailers)
    places = [0, *sorted(min(each, len(coded)) for each in cuts), len(coded)]
    pieces = [coded[start:end] for start, end in itertools.pairwise(places)]
    got, chunks = fed(pieces)
    assert got == b"".join(data)
    assert (chunks.has_ended, chunks.fault) == (True, None)
    assert not fed([coded[:-1]])[1].has_ended


@pytest.mark.parametrize(
    "bad",
    [
        b"x\r\n", b"\r\n", b"-1\r\n", b"0x1\r\n", b" 1\r\n", b"1 \r\n", b"1\n", b"1\r", b"1;\r\r\n",
        b"10000000000000000\r\n", b"1" * 9000, b"1;" + b"x" * 9000, b"1\r\nab\r\n", b"1\r\na\n0\r\n\r\n",
        b"0\r\n" + b"A: b\r\n" * 200, b"0\r\n" + b"A" * 9000,
    ],
)  # fmt: skip
def test_what_is_not_chunked_as_it_should_be(bad: bytes) -> None:
    got, chunks = fed([b"2\r\nab\r\n" + bad, b"0\r\n\r\n"])
    assert got.startswith(b"ab"), "what was good before it"
    assert chunks.fault is not None
    assert not chunks.has_ended
