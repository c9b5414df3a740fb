"""The one read path: positions in, records and the next positions out."""

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
    TopicIds,
    TopicPartition,
)
from kafka_http.topics import NEW_PARTITIONS_SECONDS, OffsetRange

WAIT_SLICE = 1.0


class Page(Struct, frozen=True):
    """Records, of one partition after another, and where to read on in every partition asked for.

    `last` is the offset of the last record of each partition that there are any of.
    """

    records: Sequence[Record]
    next: Positions
    last: Positions = {}


class PageMemory(Protocol):
    """The memory that a page is granted."""

    size: int
    """Bytes of keys and values."""

    def wait(self) -> None:
        """Give back what a page does not need that waits for its first message: `size` is smaller from now on."""


class ReadLimits(Struct, frozen=True):
    """How much a page may hold: messages, and bytes of keys and values (but one message whatever its size)."""

    records: int
    size: int
    room: PageMemory | None = None

    @property
    def bytes_now(self) -> int:
        return self.size if self.room is None else min(self.size, self.room.size)


class PageReader:
    """Reads pages. Keeps nothing between two of them."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._stopping = threading.Event()

    def stop(self) -> None:
        """From now on wait for nothing: those that do so return within `WAIT_SLICE` seconds."""
        self._stopping.set()

    @property
    def is_stopping(self) -> bool:
        return self._stopping.is_set()

    def pause(self, seconds: float) -> bool:
        """Wait for so long, or until `stop`; true where it was called."""
        return self._stopping.wait(seconds)

    def partitions(self, topic: str) -> list[int]:
        """The topic's partitions, as they were at most `NEW_PARTITIONS_SECONDS` ago. Raises `TopicNotFound`."""
        return [each.partition for each in self._log.partitions(topic, NEW_PARTITIONS_SECONDS)]

    def _starts_of_new(self, positions: Positions) -> Positions:
        topic = next(iter(positions)).topic
        new = self.starts_of_new(topic, {each.partition for each in positions})
        return {TopicPartition(topic, partition): offset for partition, offset in new.items()}

    def starts_of_new(self, topic: str, known: Collection[int]) -> PartitionOffsets:
        """The first offset of each partition that the topic has beside those known. Raises as `partitions` does."""
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
        """Read what the log holds from these positions on, waiting up to `wait` seconds while it holds nothing.

        An empty page means that every partition was at its end. The partitions share the page evenly as long as each
        has records. A position that the log does not have is set to its end that `reset` names, or is an error. Raises
        `TopicNotFound`, `PartitionNotFound`, `OffsetOutOfRange`, `BrokerUnavailable`, and `TopicRecreated` where a
        topic has another id than `ids` says.

        `has_all`: the positions are those of all partitions of one topic; those that it gets meanwhile are read, too.
        """
        page = _PageInMaking(positions, limits)
        deadline = time.monotonic() + wait
        active = list(positions)
        random.shuffle(active)  # so that none is always the one left out where they do not all fit
        while active and not page.is_full:
            left = 0 if page.has_records or self._stopping.is_set() else max(0, deadline - time.monotonic())
            fetched = self._log.fetch(
                {place: page.next[place] for place in active},
                max_records=page.records_left,
                max_bytes=page.bytes_left,
                wait=min(left, WAIT_SLICE),
                isolation=isolation,
                ids=ids,
            )
            ends = {place: OffsetRange(*both) for place, both in fetched.out_of_range.items()}
            if ends and reset is None:
                raise _out_of_range(page.next, ends)
            page.next.update({place: getattr(both, str(reset)) for place, both in ends.items()})
            page.add(fetched)
            active = [place for place in active if place not in fetched.ended]
            if not active and not page.has_records and left:
                if has_all:
                    page.include(self._starts_of_new(positions))
                active = list(page.next)
                page.wait(limits)
        return page.done()


class _PageInMaking:
    """A page while fetches are added to it."""

    def __init__(self, positions: Positions, limits: ReadLimits) -> None:
        self.next = dict(positions)
        self.records_left = limits.records
        self.bytes_left = limits.bytes_now
        self._enough = self.bytes_left // 8  # another fetch for less than this would cost more than it brings
        self._records: dict[TopicPartition, list[Record]] = {place: [] for place in positions}

    @property
    def has_records(self) -> bool:
        return any(self._records.values())

    @property
    def is_full(self) -> bool:
        return self.records_left <= 0 or (self.bytes_left <= self._enough and self.has_records)

    def include(self, positions: Positions) -> None:
        """Read these partitions as well."""
        self.next = {**positions, **self.next}
        for place in positions:
            self._records.setdefault(place, [])

    def wait(self, limits: ReadLimits) -> None:
        """There is nothing yet: hold no more memory than it takes to wait."""
        if limits.room is not None:
            limits.room.wait()
            self.bytes_left = limits.bytes_now
            self._enough = self.bytes_left // 8

    def add(self, fetched: Fetched) -> None:
        if fetched.size > self.bytes_left and self.has_records:
            self.bytes_left = 0  # it is one record, which comes first on the next page
            return
        for place, records in fetched.records.items():
            self._records[place] += records
            self.records_left -= len(records)
        self.bytes_left -= fetched.size
        self.next.update(fetched.next)

    def done(self) -> Page:
        lists = [self._records[place] for place in sorted(self._records)]
        last = {place: records[-1].offset for place, records in self._records.items() if records}
        return Page(list(chain.from_iterable(lists)), self.next, last)


def _out_of_range(positions: Positions, ends: Mapping[TopicPartition, OffsetRange]) -> OffsetOutOfRange:
    """The error of one topic's partitions; where there are several topics, of the first."""
    topic = min(ends).topic
    asked = {place.partition: offset for place, offset in positions.items() if place.topic == topic}
    return out_of_range(topic, asked, {place.partition: both for place, both in ends.items() if place.topic == topic})
