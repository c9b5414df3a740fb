"""Record batches, from bytes to records."""

import struct
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import pytest
from aiokafka.record.legacy_records import LegacyRecordBatchBuilder
from hypothesis import given, settings
from hypothesis import strategies as st

from kafka_http.broker.batch_codec import BatchReader, CorruptBatch, record_size
from kafka_http.records import Record, TopicPartition
from tests.support.record_batches import GZIP, LZ4, NONE, SNAPPY, TRANSACTIONAL, ZSTD, batch, marker


def offsets(records: Sequence[Record]) -> list[int]:
    return [each.offset for each in records]


def decode(data: bytes, partition: int, offset: int, most: int, *aborted: Any) -> tuple[list[Record], int]:
    """The records from an offset on, taken at once, and the offset to read next."""
    batches = BatchReader(data, TopicPartition("t", partition), offset, *aborted)
    return list(batches.take(most, 1 << 30, 0)[0]), batches.position


def test_decode_of_no_bytes_returns_no_records() -> None:
    assert decode(b"", 0, 7, 10) == ([], 7)


def test_decode_returns_all_fields_of_a_record() -> None:
    records, position = decode(batch(3, [b"v"]), 2, 3, 10)
    assert records == [Record("t", 2, 3, 5, b"k", b"v", (("h", None),))]
    assert position == 4


def test_decode_of_record_without_timestamp_returns_none() -> None:
    ((record,), _) = decode(batch(0, [b"v"], timestamp=-1), 0, 0, 10)
    assert record.timestamp is None


@pytest.mark.parametrize("codec", [NONE, GZIP, SNAPPY, LZ4, ZSTD])
def test_decode_reads_each_compression_codec(codec: int) -> None:
    values = [b"value " * 50] * 100
    data = batch(0, values, codec=codec) + batch(100, values, codec=codec)
    assert (len(data) < 10_000) == (codec != NONE)
    records, position = decode(data, 0, 0, 1000)
    assert [each.value for each in records] == values * 2
    assert position == 200


def test_decode_skips_records_before_the_offset() -> None:
    data = batch(10, [b"a", b"b", b"c"]) + batch(13, [b"d"])
    assert [offsets(decode(data, 0, at, 10)[0]) for at in (10, 11, 12)] == [[10, 11, 12, 13], [11, 12, 13], [12, 13]]


def test_decode_returns_at_most_max_records() -> None:
    data = batch(0, [b"a", b"b", b"c"]) + batch(3, [b"d", b"e"])
    pages = [(offsets(records), position) for records, position in (decode(data, 0, 0, most) for most in range(1, 6))]
    assert pages == [([0], 1), ([0, 1], 2), ([0, 1, 2], 3), ([0, 1, 2, 3], 4), ([0, 1, 2, 3, 4], 5)]


def test_decode_ignores_a_truncated_last_batch() -> None:
    data = batch(0, [b"a"]) + batch(1, [b"b"])
    for end in range(len(batch(0, [b"a"])), len(data)):
        assert (offsets(decode(data[:end], 0, 0, 10)[0]), decode(data[:end], 0, 0, 10)[1]) == ([0], 1)


def test_decode_skips_gaps_of_compaction() -> None:
    data = batch(4, [b"a", b"b"], deltas=[1, 3], last=6) + batch(20, [], last=4) + batch(30, [b"c"])
    records, position = decode(data, 0, 0, 10)
    assert (offsets(records), position) == ([5, 7, 30], 31)
    assert decode(batch(4, [b"a"], deltas=[1], last=6), 0, 8, 10) == ([], 11)


def test_decode_skips_control_batches() -> None:
    data = batch(0, [b"a"], producer=1, attributes=TRANSACTIONAL) + marker(1, 1, commit=True)
    assert (offsets(decode(data, 0, 0, 10)[0]), decode(data, 0, 0, 10)[1]) == ([0], 2)
    assert decode(data, 0, 1, 10) == ([], 2)


def test_decode_skips_aborted_transactions() -> None:
    data = b"".join(
        [
            batch(0, [b"aborted"], producer=1, attributes=TRANSACTIONAL),
            batch(1, [b"committed"], producer=2, attributes=TRANSACTIONAL),
            batch(2, [b"aborted", b"too"], producer=1, attributes=TRANSACTIONAL),
            batch(4, [b"without a transaction"], producer=1),
            marker(5, 2, commit=True),
            marker(6, 1, commit=False),
            batch(7, [b"committed later"], producer=1, attributes=TRANSACTIONAL),
            marker(8, 1, commit=True),
            batch(9, [b"aborted again"], producer=1, attributes=TRANSACTIONAL),
            marker(10, 1, commit=False),
        ]
    )
    aborted = [(1, 9), (1, 0)]
    assert offsets(decode(data, 0, 0, 100)[0]) == [0, 1, 2, 3, 4, 7, 9]
    records, position = decode(data, 0, 0, 100, aborted)
    assert (offsets(records), position) == ([1, 4, 7], 11)
    assert decode(data[: len(data) // 2], 0, 0, 1, aborted)[1] == 2


PLACE = TopicPartition("t", 0)
MIXED = b"".join(
    [
        batch(0, [b"a", b"bb", b"ccc"], producer=2, attributes=TRANSACTIONAL),
        batch(3, [b"d" * each for each in range(20)], codec=LZ4),
        batch(23, [b"aborted"] * 3, producer=1, attributes=TRANSACTIONAL),
        marker(26, 1, commit=False),
        batch(27, [b"e", b"f"], deltas=[1, 3], last=6),
        marker(34, 2, commit=True),
        batch(35, [None, b"g"]),
    ]
)
ABORTED = [(1, 23)]


@given(
    pieces=st.lists(st.tuples(st.integers(1, 9), st.integers(0, 60), st.integers(0, 60)), min_size=1, max_size=40),
    aborted=st.sampled_from([(), ABORTED]),
)
def test_take_in_any_steps_returns_all_records(
    pieces: list[tuple[int, int, int]], aborted: Sequence[tuple[int, int]]
) -> None:
    whole, end = decode(MIXED, 0, 0, 100, aborted)
    batches = BatchReader(MIXED, PLACE, 0, aborted)
    taken: list[Record] = []
    for most, size, first in pieces:
        piece, used = batches.take(most, size, first)
        assert used == sum(len(each.value or b"") + len(each.key or b"") for each in piece)
        assert len(piece) <= most
        assert used <= size or (len(piece) == 1 and used <= first)
        taken += piece
        assert taken == whole[: len(taken)]
        assert (
            batches.position == end
            or [each for each in whole if each.offset >= batches.position] == whole[len(taken) :]
        )
    rest, _ = batches.take(100, 1 << 20, 0)
    assert [*taken, *rest] == whole
    assert batches.position == end
    assert not batches.take(1, 1, 1)[0]
    assert batches.is_over
    assert batches.memory == 0


def test_take_of_a_record_over_its_size_returns_it_only_within_first() -> None:
    batches = BatchReader(batch(0, [b"x" * 50, b"y", b"z" * 50]), PLACE, 0)
    assert not batches.take(9, 10, 50)[0]
    assert batches.position == 0
    assert offsets(batches.take(9, 10, 51)[0]) == [0]
    assert offsets(batches.take(9, 10, 51)[0]) == [1]
    assert batches.position == 2
    assert not batches.is_over
    assert offsets(batches.take(9, 51, 0)[0]) == [2]


def test_take_stops_before_a_corrupt_batch() -> None:
    batches = BatchReader(batch(0, [b"a", b"b"]) + batch(2, [b"c"])[:-1] + b"!", PLACE, 0)
    assert offsets(batches.take(1, 100, 0)[0]) == [0]
    assert offsets(batches.take(9, 100, 0)[0]) == [1]
    assert (batches.position, batches.is_over) == (2, True)


def test_memory_includes_decompressed_records() -> None:
    values = [b"v" * 1000] * 500
    data = batch(0, values, codec=ZSTD)
    batches = BatchReader(data, PLACE, 0)
    assert batches.memory < 50_000
    batches.take(1, 1 << 20, 0)
    assert batches.memory > 500_000


def test_record_size_is_the_average_of_the_first_batch() -> None:
    size = len(batch(0, [b"v" * 100] * 10))
    assert record_size(batch(0, [b"v" * 100] * 10) + batch(10, [b"v"])) == size // 10
    assert record_size(b"") is None
    assert record_size(batch(0, [], last=3)) is None


@pytest.mark.parametrize("magic", [0, 1])
def test_decode_reads_message_formats_0_and_1(magic: int) -> None:
    builder = LegacyRecordBatchBuilder(magic, 0, 1 << 20)
    for each in range(3):
        builder.append(each, timestamp=5, key=None, value=b"%d" % each)
    data = bytes(builder.build())
    records, position = decode(data, 0, 1, 10)
    assert [(each.offset, each.value, each.headers) for each in records] == [(1, b"1", ()), (2, b"2", ())]
    assert position == 3


@pytest.mark.parametrize(
    "broken",
    [
        lambda data: data[:-1],
        lambda data: data[:20],
        lambda data: data[:-1] + bytes([data[-1] ^ 1]),
        lambda data: data[:8] + struct.pack(">i", 30) + data[12:],
        lambda data: data[:8] + struct.pack(">i", -1) + data[12:],
        lambda data: data[:8] + struct.pack(">i", 1 << 30) + data[12:],
        lambda data: data[:16] + b"\x07" + data[17:],
        lambda data: struct.pack(">q", -5) + data[8:],
    ],
)
def test_decode_of_corrupt_batch_raises_with_its_place(broken: Callable[[bytes], bytes]) -> None:
    data = broken(batch(5, [b"value"]))
    with pytest.raises(CorruptBatch) as raised:
        decode(data, 3, 5, 10)
    assert raised.value.fields == {"topic": "t", "partition": 3, "offset": 5}
    assert decode(batch(4, [b"good"]) + data, 3, 4, 10)[1] == 5


def test_decode_of_unknown_codec_raises_corrupt_batch() -> None:
    with pytest.raises(CorruptBatch):
        decode(batch(0, [b"v"], attributes=6), 0, 0, 10)


def test_decode_skips_batches_with_decreasing_offsets() -> None:
    assert decode(batch(5, [b"a", b"b"]) + batch(6, [b"c"]), 0, 5, 10)[1] == 7


def test_decode_skips_decreasing_offsets_in_a_batch_with_damaged_magic() -> None:
    """No checksum covers the byte that says the format."""
    whole, later = batch(5, [b"a", b"b"]), bytearray(batch(2, [b"c"]))
    later[16] = 0
    records, position = decode(whole + bytes(later), 0, 0, 10)
    assert (offsets(records), position) == ([5, 6], 7)


def test_decode_of_batch_that_ends_before_the_offset_raises() -> None:
    with pytest.raises(CorruptBatch):
        decode(batch(0, [b"a"]), 0, 9, 10)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_decode_of_damaged_bytes_raises_or_moves_forward(data: st.DataObject) -> None:
    whole = batch(0, [b"a" * 30, b"b"], codec=data.draw(st.sampled_from([NONE, GZIP, LZ4, ZSTD, SNAPPY])))
    whole += batch(2, [b"c"]) + marker(3, 9, commit=True)
    damaged = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    try:
        records, position = decode(bytes(damaged), 0, 0, 10)
    except CorruptBatch:
        return
    assert position > 0
    assert all(first < second for first, second in pairwise([*offsets(records), position]))
