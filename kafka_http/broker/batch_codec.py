"""Kafka's record batches as bytes, and the records in them. The format is that of Kafka's protocol guide (KIP-98).

Parsed by `aiokafka.record`, in C where its wheel has that.
"""

from collections.abc import Iterable, Iterator
from functools import partial
from itertools import chain, dropwhile, islice
from struct import Struct
from typing import Any

from aiokafka.record.memory_records import MemoryRecords

from kafka_http.errors import BrokerError
from kafka_http.records import Record, TopicPartition, count_within, size_of

Aborted = Iterable[tuple[int, int]]
"""(producer id, offset of its first record) of each aborted transaction in a fetch's range."""

_HEAD = Struct(">qiib")  # base offset, length of what follows it, leader epoch or CRC, magic
_COUNT = Struct(">i")  # of a batch's records
_COUNT_AT = 57
_LENGTH_FROM = 12
_LEAST_LENGTH = {0: 14, 1: 22, 2: 49}
_PIECE = 1000
"""Records that are decoded at a time, where it is not known how many a page has room for."""
_RECORD_BYTES = 300
"""Of memory, about: what a decoded record takes beside key and value."""


class CorruptBatch(BrokerError):
    """The bytes of a partition are not what their checksums and offsets say."""


def bytes_a_record(data: bytes) -> int | None:
    """How large the records of the first batch are, as Kafka keeps them; None where it does not say."""
    if len(data) < _COUNT_AT + _COUNT.size:
        return None
    _, length, _, magic = _HEAD.unpack_from(data)
    count = _COUNT.unpack_from(data, _COUNT_AT)[0]
    return (_LENGTH_FROM + length) // count if magic == 2 and count > 0 else None


class BatchReader:
    """A partition's part of a fetch answer, whose records are taken piece by piece. For one thread at a time.

    Control batches are left out and, where `aborted` is given (`read_committed`), aborted transactions; `position`
    passes them.
    """

    def __init__(self, data: bytes, place: TopicPartition, offset: int, aborted: Aborted | None = None) -> None:
        """`offset` is where to begin in the first batch; the last batch of `data` may be cut off."""
        self.position = offset
        """The offset to read next."""
        self._place = place
        self._offset = self._decoded_to = offset
        self._size = len(data)
        self._unpacked = 0
        self._hidden = _AbortedTransactions(aborted or ())
        self._batches = _batches(data, offset)
        self._batch: Iterator[Any] | None = None
        self._end: int | None = None
        self._is_packed = False
        self._held: list[Record] = []
        self._is_exhausted = False

    @property
    def is_over(self) -> bool:
        """Whether it has been seen that there are no more."""
        return self._is_exhausted and not self._held

    @property
    def memory(self) -> int:
        """About how many bytes this takes."""
        return 0 if self.is_over else self._size + self._unpacked + _RECORD_BYTES * len(self._held)

    def take(self, most: int, size: int, first: int) -> tuple[list[Record], int]:
        """The next records, at most `most`, and the bytes of their keys and values, at most `size`; but one of at most
        `first` bytes comes whatever `size` says.

        Raises `CorruptBatch` where no record can be read; a later broken batch ends this, so that the next fetch meets
        it.
        """
        taken: list[Record] = []
        used = 0
        while len(taken) < most and (records := self._held or self._decode(min(most - len(taken), _PIECE))):
            wanted = records[: most - len(taken)]
            more = size_of(wanted)
            if used + more > size:
                count = count_within(wanted, size - used)
                wanted = wanted[: count or int(not taken and size_of(wanted[:1]) <= first)]
                more = size_of(wanted)
            taken += wanted
            used += more
            self._held = records[len(wanted) :]
            if self._held:
                break
        if taken or not self._held:
            self.position = taken[-1].offset + 1 if self._held else self._decoded_to
        return taken, used

    def _decode(self, most: int) -> list[Record]:
        """So many records, or fewer where there are no more; of a compressed batch all."""
        records: list[Record] = []
        try:
            while len(records) < most and (batch := self._batch or self._open()) is not None:
                self._batch = None
                records += _records(batch, self._place, None if self._is_packed else most - len(records))
                if self._is_packed:
                    self._unpacked = size_of(records)
                elif len(records) == most:
                    self._batch = batch
                    self._decoded_to = records[-1].offset + 1
                    break
                self._decoded_to = self._end or (records[-1].offset + 1 if records else self._decoded_to)
        except Exception as error:  # whatever the parser makes of broken bytes
            self._is_exhausted = True
            if not records and self._decoded_to == self._offset:
                raise _corrupt(self._place, self._offset, error) from error
        return records

    def _open(self) -> Iterator[Any] | None:
        """The records of the next batch that a reader sees."""
        for batch, end in self._batches:
            if self._hidden.covers(batch, end):
                self._decoded_to = end or self._decoded_to
                continue
            self._end = end
            self._is_packed = end is None or batch.compression_type != 0
            records = chain(batch)  # a batch begins its own iteration once and no more
            if end is None or batch.base_offset < self._offset:
                return dropwhile(partial(_is_before, self._decoded_to), records)
            return records
        self._is_exhausted = True
        return None


def _is_before(offset: int, record: Any) -> bool:
    return bool(record.offset < offset)


class _AbortedTransactions:
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


def _records(batch: Iterator[Any], place: TopicPartition, most: int | None) -> list[Record]:
    """The next records of a batch: at most so many, or all."""
    topic, partition = place
    return [
        Record(
            topic,
            partition,
            each.offset,
            None if (at := each.timestamp) == -1 else at,
            each.key,
            each.value,
            tuple(headers) if (headers := each.headers) else (),
        )
        for each in islice(batch, most)
    ]


def _corrupt(place: TopicPartition, offset: int, error: Exception) -> CorruptBatch:
    return CorruptBatch(
        f"The record batch at offset {offset} of partition {place.partition} of {place.topic} is corrupt: {error}.",
        topic=place.topic,
        partition=place.partition,
        offset=offset,
    )
