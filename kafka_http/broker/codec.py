"""Kafka's record batches as bytes, and the records in them. The format is that of Kafka's protocol guide (KIP-98).

Parsed by `aiokafka.record`, in C where its wheel has that.
"""

from collections.abc import Iterable, Iterator
from itertools import dropwhile, islice
from struct import Struct
from typing import Any

from aiokafka.record.memory_records import MemoryRecords

from kafka_http.errors import BrokerError
from kafka_http.records import Record, TopicPartition

Aborted = Iterable[tuple[int, int]]
"""(producer id, offset of its first record) of each aborted transaction in a fetch's range."""

_HEAD = Struct(">qiib")  # base offset, length of what follows it, leader epoch or CRC, magic
_LENGTH_FROM = 12
_LEAST_LENGTH = {0: 14, 1: 22, 2: 49}


class CorruptBatch(BrokerError):
    """The bytes of a partition are not what their checksums and offsets say."""


def decode(
    data: bytes, place: TopicPartition, offset: int, max_records: int, aborted: Aborted | None = None
) -> tuple[list[Record], int]:
    """The records from `offset` on, at most `max_records`, and the offset to read next.

    `data` is a partition's part of a fetch answer; its last batch may be cut off. Control batches are left out and,
    where `aborted` is given (`read_committed`), aborted transactions; the next offset passes them. Raises
    `CorruptBatch` where that is the first batch; a later one ends the list, so that the next call meets it.
    """
    records: list[Record] = []
    position = offset
    hidden = _Hidden(aborted or ())
    try:
        for batch, end in _batches(data, offset):
            if not hidden.covers(batch, end):
                records += _taken(batch, place, position, max_records - len(records))
            if len(records) >= max_records:
                return records, records[-1].offset + 1
            position = end or (records[-1].offset + 1 if records else position)
    except Exception as error:  # whatever the parser makes of broken bytes
        if position == offset:
            raise _corrupt(place, offset, error) from error
    return records, position


class _Hidden:
    """The transactions that a reader of committed records does not see, batch by batch in their order."""

    def __init__(self, aborted: Aborted) -> None:
        self._coming = sorted(aborted, key=lambda each: each[1], reverse=True)
        self._producers: set[int] = set()

    def covers(self, batch: Any, end: int | None) -> bool:
        """Whether no reader sees this batch: a marker, or part of an aborted transaction."""
        while self._coming and end is not None and self._coming[-1][1] < end:
            self._producers.add(self._coming.pop()[0])
        if batch.is_control_batch:
            self._producers.discard(batch.producer_id)
            return True
        return bool(self._producers) and batch.is_transactional and batch.producer_id in self._producers


def _batches(data: bytes, offset: int) -> Iterator[tuple[Any, int | None]]:
    """Each whole batch with its end: the offset after it, or None where the old formats do not say."""
    parsed = MemoryRecords(data)
    start, position, magic = 0, offset, 2
    while len(data) - start >= _HEAD.size:
        base, length, _, magic = _HEAD.unpack_from(data, start)
        if length < _LEAST_LENGTH[magic]:
            raise ValueError(f"a batch of {length} bytes")
        if (start := start + _LENGTH_FROM + length) > len(data):
            break
        batch: Any = parsed.next_batch()
        if not batch.validate_crc():
            raise ValueError("its checksum does not match")
        if magic < 2:
            yield batch, None
            continue
        end = batch.next_offset
        _check_offsets(base, end, position, first=position == offset)
        if end > position:
            position = end
            yield batch, end
    if data and magic == 2 and position == offset:
        raise ValueError("no whole batch at this offset")


def _check_offsets(base: int, end: int, position: int, *, first: bool) -> None:
    """The checksum does not cover the base offset.

    The first batch may begin before what was asked for. Compaction leaves gaps, so any may begin after it.
    """
    if end <= base or (base < position and not first):
        raise ValueError(f"a batch from {base} to {end} where {position} comes next")


def _taken(batch: Any, place: TopicPartition, position: int, most: int) -> list[Record]:
    wanted: Iterable[Any] = batch
    if getattr(batch, "base_offset", -1) < position:
        wanted = dropwhile(lambda record: record.offset < position, batch)
    topic, partition = place
    return [
        Record(
            topic,
            partition,
            each.offset,
            None if (at := each.timestamp) == -1 else at,
            each.key,
            each.value,
            each.headers,
        )
        for each in islice(wanted, most)
    ]


def _corrupt(place: TopicPartition, offset: int, error: Exception) -> CorruptBatch:
    return CorruptBatch(
        f"The record batch at offset {offset} of partition {place.partition} of {place.topic} is corrupt: {error}.",
        topic=place.topic,
        partition=place.partition,
        offset=offset,
    )
