"""Keeps fetched records that a page had no room for, for the reader that continues there."""

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from threading import Lock
from typing import NamedTuple

from kafka_http.broker.batch_codec import BatchReader
from kafka_http.records import Isolation, Positions, TopicIds, TopicPartition

MAX_AGE_SECONDS = 1.0
"""Maximum age of prefetched records, in seconds.

Kafka never changes a record, but may delete it. For this time a reader may get records that were deleted, or that
belong to a deleted topic of the same name.
"""

_MIN_ENTRIES = 4
"""An entry takes at most this fraction of the buffer."""
_ENTRY_BYTES = 1000
"""Approximate size of an entry without its batches."""


class PrefetchedBatches:
    """The unread records of one partition in a fetch response. There may be none."""

    def __init__(self, reader: BatchReader, end: int, at: float) -> None:
        """`end` is the end offset of the log at the time `at`."""
        self.reader = reader
        self._end = end
        self._at = at

    @property
    def is_at_end(self) -> bool:
        """Whether the log had no records after these."""
        return self.reader.position >= self._end

    @property
    def has_more(self) -> bool:
        """Whether there may be records left."""
        return not self.reader.is_over and not self.is_at_end

    def is_newer_than(self, time: float) -> bool:
        return self._at > time


class ReadConditions(NamedTuple):
    """Reads with equal topic ids (by topic name) and equal isolation may share prefetched records."""

    topic_ids: TopicIds
    isolation: Isolation


class PrefetchBuffer:
    """Entries by topic, offset and isolation, within a memory limit. Any thread may call.

    `take` removes an entry, so that one reader uses it. A missing entry costs a fetch, nothing else.
    """

    def __init__(self, limit: int, clock: Callable[[], float] = time.monotonic) -> None:
        """`limit` is in bytes of memory; `clock` returns seconds."""
        self._limit = limit
        self._clock = clock
        self._lock = Lock()
        self._entries: OrderedDict[_Key, tuple[PrefetchedBatches, int]] = OrderedDict()
        self.size = 0
        """Approximate number of bytes in the buffer."""

    def take(self, positions: Positions, conditions: ReadConditions) -> dict[TopicPartition, PrefetchedBatches]:
        """Remove and return the entries at these positions. An empty entry shows that its reader continues there."""
        if not self._entries:
            return {}
        oldest = self._clock() - MAX_AGE_SECONDS
        with self._lock:
            found = {tp: self._pop(_key(tp, at, conditions)) for tp, at in positions.items()}
        return {tp: entry for tp, entry in found.items() if entry is not None and entry.is_newer_than(oldest)}

    def put(self, entries: Mapping[TopicPartition, PrefetchedBatches], conditions: ReadConditions) -> None:
        """Store entries. The oldest are dropped if there is no room."""
        with self._lock:
            for tp, entry in entries.items():
                key = _key(tp, entry.reader.position, conditions)
                size = entry.reader.memory + _ENTRY_BYTES
                self._pop(key)
                if size <= self._limit // _MIN_ENTRIES:
                    self._entries[key] = entry, size
                    self.size += size
            self._drop_oldest()

    def drop_expired(self) -> None:
        """Drop the entries that are too old to be used."""
        with self._lock:
            self._drop_oldest()

    def _pop(self, key: "_Key") -> PrefetchedBatches | None:
        entry, size = self._entries.pop(key, (None, 0))
        self.size -= size
        return entry

    def _drop_oldest(self) -> None:
        oldest = self._clock() - MAX_AGE_SECONDS
        while self._entries:
            first = next(iter(self._entries))
            if self.size <= self._limit and self._entries[first][0].is_newer_than(oldest):
                return
            self._pop(first)


_Key = tuple[TopicPartition, int, object, Isolation]


def _key(tp: TopicPartition, offset: int, conditions: ReadConditions) -> _Key:
    return tp, offset, conditions.topic_ids[tp.topic], conditions.isolation
