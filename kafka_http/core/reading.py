"""The one read path: positions in, records and the next positions out."""

import random
import threading
import time
from collections.abc import Mapping, Sequence

from msgspec import Struct

from kafka_http.core.broker import Log
from kafka_http.core.positions import out_of_range
from kafka_http.core.topics import Ends
from kafka_http.errors import OffsetOutOfRange
from kafka_http.records import Fetched, Isolation, Positions, Record, Reset, TopicPartition

WAIT_SLICE = 1.0

_GUESSED_SIZE = 200
_RECORD_OVERHEAD = 50
"""Bytes: of a record while none has been seen, and of what Kafka keeps beside key and value."""
_LEAST_FETCH = 1 << 16


class Page(Struct, frozen=True):
    """Records, of one partition after another, and where to read on in every partition asked for."""

    records: Sequence[Record]
    next: Positions

    @property
    def last(self) -> dict[TopicPartition, int]:
        """The offset of the last record of each partition that the page has any of."""
        return {TopicPartition(record.topic, record.partition): record.offset for record in self.records}


class Limits(Struct, frozen=True):
    """How much a page may hold: messages, and bytes of keys and values (but one message whatever its size)."""

    records: int
    size: int


class Reader:
    """Reads pages. Keeps nothing between two of them."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._stopping = threading.Event()

    def stop(self) -> None:
        """From now on wait for nothing: those that do so return within `WAIT_SLICE` seconds."""
        self._stopping.set()

    def pause(self, seconds: float) -> bool:
        """Wait for so long, or until `stop`; true where it was called."""
        return self._stopping.wait(seconds)

    def read(
        self,
        positions: Positions,
        limits: Limits,
        *,
        wait: float = 0,
        isolation: Isolation = "read_uncommitted",
        reset: Reset | None = None,
    ) -> Page:
        """Read what the log holds from these positions on, waiting up to `wait` seconds while it holds nothing.

        An empty page means that every partition was at its end. The partitions share the page evenly as long as each
        has records. A position that the log does not have is set to its end that `reset` names, or is an error. Raises
        `TopicNotFound`, `PartitionNotFound`, `OffsetOutOfRange`, `BrokerUnavailable`.
        """
        page = _PageInMaking(positions, limits)
        deadline = time.monotonic() + wait
        active = list(positions)
        random.shuffle(active)  # so that none is always the one left out where they do not all fit
        while active and not page.is_full:
            left = 0 if page.count or self._stopping.is_set() else max(0, deadline - time.monotonic())
            fetched = self._log.fetch(
                {place: page.next[place] for place in active},
                max_records=page.share(len(active)),
                max_bytes=page.bytes_to_fetch,
                wait=min(left, WAIT_SLICE),
                isolation=isolation,
            )
            ends = {place: Ends(*both) for place, both in fetched.out_of_range.items()}
            if ends and reset is None:
                raise _out_of_range(page.next, ends)
            page.next.update({place: getattr(both, str(reset)) for place, both in ends.items()})
            page.add(active, fetched)
            active = [place for place in active if place not in fetched.ended]
            if not active and not page.count and left:
                active = list(positions)
        return page.done()


class _PageInMaking:
    """A page while fetches are added to it."""

    def __init__(self, positions: Positions, limits: Limits) -> None:
        self.next = dict(positions)
        self._size = self.bytes_left = limits.size
        self._enough = limits.size // 8  # another fetch for less than this would cost more than it brings
        self._records_left = limits.records
        self._records: dict[TopicPartition, list[Record]] = {place: [] for place in positions}
        self.count = 0

    @property
    def is_full(self) -> bool:
        return self._records_left <= 0 or (self.count > 0 and self.bytes_left <= self._enough)

    def share(self, partitions: int) -> int:
        """How many records each of that many partitions may still add."""
        return -(-self._records_left // partitions)

    @property
    def bytes_to_fetch(self) -> int:
        """What to ask Kafka for: no more than the records that are missing may take, or it is sent for nothing."""
        size = (self._size - self.bytes_left) / self.count if self.count else _GUESSED_SIZE
        return min(self.bytes_left, max(_LEAST_FETCH, int(self._records_left * (size + _RECORD_OVERHEAD))))

    def add(self, order: Sequence[TopicPartition], fetched: Fetched) -> None:
        """Take a fetch's records partition by partition in this order, until the page is full."""
        for place in order:
            if place not in fetched.next:
                continue
            records = fetched.records.get(place, ())
            taken = self._take(records)
            self._records[place].extend(taken)
            if len(taken) == len(records):
                self.next[place] = fetched.next[place]
            elif taken:
                self.next[place] = taken[-1].offset + 1

    def _take(self, records: Sequence[Record]) -> Sequence[Record]:
        taken = 0
        for record in records[: self._records_left]:
            size = len(record.value or b"") + len(record.key or b"")
            if size > self.bytes_left and self.count + taken:
                self.bytes_left = 0
                break
            self.bytes_left -= size
            taken += 1
        self._records_left -= taken
        self.count += taken
        return records[:taken]

    def done(self) -> Page:
        return Page([record for each in sorted(self._records) for record in self._records[each]], self.next)


def _out_of_range(positions: Positions, ends: Mapping[TopicPartition, Ends]) -> OffsetOutOfRange:
    """The error of one topic's partitions; where there are several topics, of the first."""
    topic = min(ends).topic
    asked = {place.partition: offset for place, offset in positions.items() if place.topic == topic}
    return out_of_range(topic, asked, {place.partition: both for place, both in ends.items() if place.topic == topic})
