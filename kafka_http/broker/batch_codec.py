"""Decodes record batches. Their format is in the Kafka protocol guide (KIP-98).

`aiokafka.record` parses them, in C if its wheel has the extension.
"""

from collections.abc import Iterable, Iterator
from functools import partial
from itertools import chain, dropwhile, islice
from struct import Struct
from typing import Any

from aiokafka.record.memory_records import MemoryRecords

from kafka_http.errors import BrokerError
from kafka_http.records import Headers, RecordColumns, TopicPartition, count_within

Aborted = Iterable[tuple[int, int]]
"""(producer id, first offset) of each aborted transaction in the range of a fetch."""

_HEAD = Struct(">qiib")  # base offset, length of the rest, leader epoch or CRC, magic
_COUNT = Struct(">i")  # of a batch's records
_COUNT_AT = 57
_LENGTH_FROM = 12
_LEAST_LENGTH = {0: 14, 1: 22, 2: 49}
_DECODE_RECORDS = 1000
"""Records that are decoded at a time."""
_PARSE_RECORDS = 200
"""Parsed records that exist at a time. The garbage collector would run after 350, and visit all objects at times."""
_ALL = 1 << 31
_RECORD_BYTES = 300
"""Approximate memory of a decoded record without its key and value."""


class CorruptBatch(BrokerError):
    """The bytes of a batch do not match its checksum or its offsets."""


def record_size(data: bytes) -> int | None:
    """Return the average stored size of the records of the first batch; None if the batch has no count."""
    if len(data) < _COUNT_AT + _COUNT.size:
        return None
    _, length, _, magic = _HEAD.unpack_from(data)
    count = _COUNT.unpack_from(data, _COUNT_AT)[0]
    return (_LENGTH_FROM + length) // count if magic == 2 and count > 0 else None


class BatchReader:
    """A partition's part of a fetch response. `take` returns its records step by step. For one thread at a time.

    Control batches are skipped, and with `aborted` (`read_committed`) aborted transactions. `position` moves past them.
    """

    def __init__(self, data: bytes, tp: TopicPartition, offset: int, aborted: Aborted | None = None) -> None:
        """`offset` is the first offset to return. The last batch of `data` may be incomplete."""
        self.position = offset
        """The offset to read next."""
        self._place = tp
        self._offset = self._decoded_to = offset
        self._size = len(data)
        self._decompressed = 0
        self._aborted = _AbortedTransactions(aborted or ())
        self._batches = _batches(data, offset)
        self._batch: Iterator[Any] | None = None
        self._end: int | None = None
        self._is_compressed = False
        self._decoded = RecordColumns(tp)
        self._is_exhausted = False

    @property
    def is_over(self) -> bool:
        """Whether all records were returned. If it is false, there may be none left."""
        return self._is_exhausted and not self._decoded

    @property
    def memory(self) -> int:
        """Approximate memory in bytes."""
        return 0 if self.is_over else self._size + self._decompressed + _RECORD_BYTES * len(self._decoded)

    def take(self, max_records: int, size: int, first: int) -> tuple[RecordColumns, int]:
        """Return the next records, at most `max_records`, and the size of their keys and values, at most `size` bytes.

        A first record of at most `first` bytes is returned even if it is larger than `size`. Raises `CorruptBatch` if
        no record can be read. A corrupt batch after readable ones ends the reader; the next fetch raises.
        """
        taken = RecordColumns(self._place)
        used = 0
        while len(taken) < max_records and (
            records := self._decoded or self._decode(min(max_records - len(taken), _DECODE_RECORDS))
        ):
            selected = records if len(records) <= max_records - len(taken) else records[: max_records - len(taken)]
            more = selected.size
            if used + more > size:
                count = count_within(selected, size - used)
                selected = selected[: count or int(not taken and selected[:1].size <= first)]
                more = selected.size
            taken = taken + selected if taken else selected
            used += more
            self._decoded = RecordColumns(self._place) if selected is records else records[len(selected) :]
            if self._decoded:
                break
        if taken or not self._decoded:
            self.position = taken.offsets[-1] + 1 if self._decoded else self._decoded_to
        return taken, used

    def _decode(self, max_records: int) -> RecordColumns:
        """Decode up to `max_records` records; of a compressed batch all."""
        columns = _Columns()
        offsets, is_compressed, count = columns.offsets, False, 0
        try:
            while (count := len(offsets)) < max_records and (batch := self._batch or self._open()) is not None:
                self._batch = None
                is_compressed |= self._is_compressed
                columns.add(batch, _ALL if self._is_compressed else max_records - count)
                if not self._is_compressed and len(offsets) == max_records:
                    self._batch = batch
                    self._decoded_to = offsets[-1] + 1
                    break
                self._decoded_to = self._end or (offsets[-1] + 1 if offsets else self._decoded_to)
        except Exception as error:  # the parser raises anything on corrupt bytes
            self._is_exhausted = True
            if not count and self._decoded_to == self._offset:
                raise _corrupt(self._place, self._offset, error) from error
            columns.truncate(count)
        records = columns.build(self._place)
        if is_compressed:
            self._decompressed = records.size
        return records

    def _open(self) -> Iterator[Any] | None:
        """Return the records of the next visible batch; None at the end."""
        for batch, end in self._batches:
            if self._aborted.skips(batch, end):
                self._decoded_to = end or self._decoded_to
                continue
            self._end = end
            self._is_compressed = end is None or batch.compression_type != 0
            records = chain(batch)  # a batch can be iterated once
            if end is None or batch.base_offset < self._offset:
                return dropwhile(partial(_is_before, self._decoded_to), records)
            return records
        self._is_exhausted = True
        return None


def _is_before(offset: int, record: Any) -> bool:
    return bool(record.offset < offset)


class _AbortedTransactions:
    """Tells which batches a `read_committed` reader skips. Batches must come in order."""

    def __init__(self, aborted: Aborted) -> None:
        self._upcoming = sorted(aborted, key=lambda each: each[1], reverse=True)
        self._producers: set[int] = set()

    def skips(self, batch: Any, end: int | None) -> bool:
        """Return whether to skip this batch: a control batch, or part of an aborted transaction."""
        while self._upcoming and end is not None and self._upcoming[-1][1] < end:
            self._producers.add(self._upcoming.pop()[0])
        if batch.is_control_batch:
            self._producers.discard(batch.producer_id)
            return True
        return bool(self._producers) and batch.is_transactional and batch.producer_id in self._producers


def _batches(data: bytes, offset: int) -> Iterator[tuple[Any, int | None]]:
    """Yield each complete batch with the offset after it; None for old formats, which do not have it."""
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
    """Check the base offset, which the checksum does not cover.

    The first batch may begin before the requested offset. Compaction leaves gaps, so any batch may begin after it.
    """
    if end <= base or (base < position and not first):
        raise ValueError(f"a batch from {base} to {end} where {position} comes next")


class _Columns:
    """Collects parsed records by column. Accessing a field takes as long as parsing the record, so it is done once."""

    def __init__(self) -> None:
        self.offsets: list[int] = []
        self._timestamps: list[int | None] = []
        self._keys: list[bytes | None] = []
        self._values: list[bytes | None] = []
        self._headers: list[Headers] = []

    def add(self, batch: Iterator[Any], max_records: int) -> None:
        """Add the next records of a batch, at most `max_records`."""
        while records := list(islice(batch, min(max_records, _PARSE_RECORDS))):
            max_records -= len(records)
            timestamps = [each.timestamp for each in records]
            headers = [each.headers for each in records]
            first, last = records[0].offset, records[-1].offset
            is_consecutive = last - first == len(records) - 1  # compaction leaves gaps
            self.offsets += range(first, last + 1) if is_consecutive else [each.offset for each in records]
            self._timestamps += (
                [None if each == -1 else each for each in timestamps] if -1 in timestamps else timestamps
            )
            self._keys += [each.key for each in records]
            self._values += [each.value for each in records]
            self._headers += map(tuple, headers) if any(headers) else [()] * len(headers)

    def truncate(self, count: int) -> None:
        """Keep the first `count` records."""
        for column in (self.offsets, self._timestamps, self._keys, self._values, self._headers):
            del column[count:]

    def build(self, tp: TopicPartition) -> RecordColumns:
        return RecordColumns(tp, self.offsets, self._timestamps, self._keys, self._values, self._headers)


def _corrupt(tp: TopicPartition, offset: int, error: Exception) -> CorruptBatch:
    return CorruptBatch(
        f"The record batch at offset {offset} of partition {tp.partition} of {tp.topic} is corrupt: {error}.",
        topic=tp.topic,
        partition=tp.partition,
        offset=offset,
    )
