"""Reads pages: the records from some positions on, and the positions to read next."""

import random
import threading
import time
from collections.abc import Collection, Mapping, Sequence
from itertools import chain
from typing import Protocol

from msgspec import Struct

from kafka_http.broker_protocols import Log
from kafka_http.errors import OffsetOutOfRange
from kafka_http.read.start_positions import out_of_range
from kafka_http.records import (
    EARLIEST,
    Fetched,
    Isolation,
    OffsetReset,
    PartitionOffsets,
    Positions,
    Record,
    RecordColumns,
    TopicIds,
    TopicPartition,
)
from kafka_http.topics import NEW_PARTITIONS_SECONDS, OffsetRange

WAIT_SLICE = 1.0
"""The longest wait of one fetch, in seconds, so that `PageReader.stop` is noticed."""


class Page(Struct, frozen=True):
    """The result of a read.

    parts: the records, in order of their partitions. A part has at least one record, and all are of one partition.
    next: the offset to read next of each requested partition.
    last: the offset of the last record of each partition that has records.
    size: the size of all keys and values in bytes.
    """

    parts: Sequence[RecordColumns]
    next: Positions
    last: Positions = {}
    size: int = 0

    @property
    def records(self) -> list[Record]:
        """The records. This makes an object for each: use `parts` if there may be many."""
        return list(chain.from_iterable(self.parts))

    @property
    def count(self) -> int:
        """The number of records."""
        return sum(map(len, self.parts))


class PageMemory(Protocol):
    """The memory that was reserved for a page."""

    size: int
    """The size of keys and values in bytes."""

    def wait(self) -> None:
        """Reduce `size` while the page waits for its first record."""


class ReadLimits(Struct, frozen=True):
    """The limits of a page: the number of records, and the size of keys and values in bytes.

    A page may have one record of any size.
    """

    records: int
    size: int
    memory: PageMemory | None = None

    @property
    def current_size(self) -> int:
        """The size, or less if less memory is reserved now."""
        return self.size if self.memory is None else min(self.size, self.memory.size)


class PageReader:
    """Reads pages. It has no state between them. The composition root creates one; any thread may call."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._stopping = threading.Event()

    def stop(self) -> None:
        """Do not wait for records any more. Reads in progress return within `WAIT_SLICE` seconds. Does not block."""
        self._stopping.set()

    @property
    def is_stopping(self) -> bool:
        """Whether `stop` was called."""
        return self._stopping.is_set()

    def pause(self, seconds: float) -> bool:
        """Wait for a time or until `stop` is called. Return whether it was called."""
        return self._stopping.wait(seconds)

    def partitions(self, topic: str) -> list[int]:
        """Return the topic's partitions, at most `NEW_PARTITIONS_SECONDS` old. Raises `TopicNotFound`."""
        return [each.partition for each in self._log.partitions(topic, NEW_PARTITIONS_SECONDS)]

    def starts_of_new(self, topic: str, known: Collection[int]) -> PartitionOffsets:
        """Return the first offset of each partition that is not among the known ones. Raises `TopicNotFound`."""
        new = [each for each in self.partitions(topic) if each not in known]
        return self._log.offsets(topic, dict.fromkeys(new, EARLIEST)) if new else {}

    def read(
        self,
        positions: Positions,
        limits: ReadLimits,
        *,
        wait: float = 0,
        isolation: Isolation = "read_uncommitted",
        reset: OffsetReset | None = None,
        ids: TopicIds | None = None,
        has_all: bool = False,
    ) -> Page:
        """Read records from these positions on. Wait up to `wait` seconds while there are none.

        An empty page means that all partitions were read to their end. The partitions share the page evenly while each
        has records. With `reset`, a position that is out of range moves to that end of the log. With `has_all`, the
        positions are those of all partitions of one topic, and new partitions are read, too. Raises `TopicNotFound`,
        `PartitionNotFound`, `OffsetOutOfRange`, `BrokerUnavailable`, and `TopicRecreated` if a topic does not have its
        id in `ids`.
        """
        page = _PageBuilder(positions, limits)
        deadline = time.monotonic() + wait
        # In random order, so that it is not always the same partition that does not fit
        active = random.sample(list(positions), len(positions))
        while active and not page.is_full:
            left = 0 if page.has_records or self._stopping.is_set() else max(0, deadline - time.monotonic())
            fetched = self._log.fetch(
                {tp: page.next[tp] for tp in active},
                max_records=page.records_left,
                max_bytes=page.bytes_left,
                wait=min(left, WAIT_SLICE),
                isolation=isolation,
                ids=ids,
            )
            page.add(fetched, reset)
            active = [tp for tp in active if tp not in fetched.ended]
            if not active and not page.has_records and left:
                if has_all:
                    page.include(self._new_positions(positions))
                active = list(page.next)
                page.wait(limits)
        return page.build()

    def _new_positions(self, positions: Positions) -> Positions:
        topic = next(iter(positions)).topic
        new = self.starts_of_new(topic, {each.partition for each in positions})
        return {TopicPartition(topic, partition): offset for partition, offset in new.items()}


class _PageBuilder:
    """Collects the fetches of one page."""

    def __init__(self, positions: Positions, limits: ReadLimits) -> None:
        self.next = dict(positions)
        self.records_left = limits.records
        self._parts: dict[TopicPartition, list[RecordColumns]] = {tp: [] for tp in positions}
        self._size = 0
        self._set_size(limits)

    def _set_size(self, limits: ReadLimits) -> None:
        self.bytes_left = limits.current_size
        self._min_fetch_bytes = self.bytes_left // 8  # another fetch for less costs more than it brings

    @property
    def has_records(self) -> bool:
        return any(self._parts.values())

    @property
    def is_full(self) -> bool:
        return self.records_left <= 0 or (self.bytes_left <= self._min_fetch_bytes and self.has_records)

    def include(self, positions: Positions) -> None:
        """Read more partitions."""
        self.next = {**positions, **self.next}
        for tp in positions:
            self._parts.setdefault(tp, [])

    def wait(self, limits: ReadLimits) -> None:
        """Reduce the reserved memory while there are no records."""
        if limits.memory is not None:
            limits.memory.wait()
            self._set_size(limits)

    def _reset(self, fetched: Fetched, to: OffsetReset | None) -> None:
        """Move the positions that are out of range to an end of the log. Raises `OffsetOutOfRange` if `to` is None."""
        ranges = {tp: OffsetRange(*both) for tp, both in fetched.out_of_range.items()}
        if ranges and to is None:
            raise _out_of_range(self.next, ranges)
        self.next.update({tp: getattr(each, str(to)) for tp, each in ranges.items()})

    def add(self, fetched: Fetched, reset: OffsetReset | None) -> None:
        self._reset(fetched, reset)
        if fetched.size > self.bytes_left and self.has_records:
            self.bytes_left = 0  # this is one record, which comes first on the next page
            return
        for tp, records in fetched.records.items():
            if records:
                self._parts[tp].append(RecordColumns.from_records(records))
            self.records_left -= len(records)
        self.bytes_left -= fetched.size
        self._size += fetched.size
        self.next.update(fetched.next)

    def build(self) -> Page:
        parts = [part for tp in sorted(self._parts) for part in self._parts[tp]]
        last = {tp: parts[-1].offsets[-1] for tp, parts in self._parts.items() if parts}
        return Page(parts, self.next, last, self._size)


def _out_of_range(positions: Positions, ranges: Mapping[TopicPartition, OffsetRange]) -> OffsetOutOfRange:
    """Return the error for the partitions of one topic, the first if there are several."""
    topic = min(ranges).topic
    requested = {tp.partition: offset for tp, offset in positions.items() if tp.topic == topic}
    at_topic = {tp.partition: at for tp, at in ranges.items() if tp.topic == topic}
    hint = " To start at an end of the log, add ?reset=earliest or ?reset=latest."
    return out_of_range(topic, requested, at_topic, hint)
