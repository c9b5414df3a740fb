"""The decoder of the chunked transfer coding: any division of the bytes gives the same result."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kafka_http.chunked import ChunkedDecoder


def decode(pieces: list[bytes]) -> tuple[bytes, ChunkedDecoder]:
    decoder = ChunkedDecoder()
    return b"".join(decoder.feed(piece) for piece in pieces), decoder


@given(
    st.lists(st.binary(min_size=1, max_size=40), max_size=8),
    st.sampled_from([b"", b";a=b", b" ;a"]),
    st.sampled_from([b"", b"A: b\r\n", b"A: b\r\nC: d\r\n"]),
    st.lists(st.integers(0, 400), max_size=20),
)
def test_chunked_body_in_any_pieces_is_decoded(
    data: list[bytes], extension: bytes, trailers: bytes, cuts: list[int]
) -> None:
    coded = b"".join(b"%x%s\r\n%s\r\n" % (len(each), extension, each) for each in data)
    coded += b"0%s\r\n%s\r\n" % (extension, trailers)
    places = [0, *sorted(min(each, len(coded)) for each in cuts), len(coded)]
    pieces = [coded[start:end] for start, end in itertools.pairwise(places)]
    decoded, decoder = decode(pieces)
    assert decoded == b"".join(data)
    assert (decoder.has_ended, decoder.error) == (True, None)
    assert not decode([coded[:-1]])[1].has_ended


@pytest.mark.parametrize(
    "bad",
    [
        b"x\r\n", b"\r\n", b"-1\r\n", b"0x1\r\n", b" 1\r\n", b"1 \r\n", b"1\n", b"1\r", b"1;\r\r\n",
        b"10000000000000000\r\n", b"1" * 9000, b"1;" + b"x" * 9000, b"1\r\nab\r\n", b"1\r\na\n0\r\n\r\n",
        b"0\r\n" + b"A: b\r\n" * 200, b"0\r\n" + b"A" * 9000,
    ],
)  # fmt: skip
def test_malformed_chunk_stops_the_decoder_with_an_error(bad: bytes) -> None:
    decoded, decoder = decode([b"2\r\nab\r\n" + bad, b"0\r\n\r\n"])
    assert decoded.startswith(b"ab"), "the data before the error"
    assert decoder.error is not None
    assert not decoder.has_ended
