"""What fetches brought beyond what was read of them: kept for a moment for the reader who goes on there."""

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from threading import Lock
from typing import NamedTuple

from kafka_http.broker.batch_codec import BatchReader
from kafka_http.records import Isolation, Positions, TopicIds, TopicPartition

SECONDS = 1.0
"""How old may be what is read. Kafka changes nothing at an offset, but it removes: for so long one may read what has
been deleted since, or was in another topic of that name."""

_LEAST_READERS = 4
"""One must leave room for others."""
_ENTRY_BYTES = 1000
"""About what an entry takes beside its batches."""


class PrefetchedBatches:
    """What is left of a partition's part of a fetch answer, perhaps nothing."""

    def __init__(self, batches: BatchReader, end: int, at: float) -> None:
        """`end` is where the log ended at the time `at`."""
        self.batches = batches
        self._end = end
        self._at = at

    @property
    def is_at_end(self) -> bool:
        """Whether the log had nothing behind it."""
        return self.batches.position >= self._end

    @property
    def has_more(self) -> bool:
        """Whether there may be records in it."""
        return not self.batches.is_over and not self.is_at_end

    def is_since(self, time: float) -> bool:
        return self._at > time


class PrefetchedRead(NamedTuple):
    """Readers who see the same: the topics' ids by their names, and the isolation."""

    topic_ids: TopicIds
    isolation: Isolation


class PrefetchBuffer:
    """Keeps rests by where they go on, within a limit. Any thread may call.

    Who takes a rest has it for himself. Where there is none, Kafka is to be asked, and nothing is lost but time.
    """

    def __init__(self, limit: int, clock: Callable[[], float] = time.monotonic) -> None:
        """`limit` is in bytes of memory; `clock` tells seconds."""
        self._limit = limit
        self._clock = clock
        self._lock = Lock()
        self._rests: OrderedDict[_Key, tuple[PrefetchedBatches, int]] = OrderedDict()
        self.size = 0
        """Bytes that are kept, about."""

    def take(self, positions: Positions, reading: PrefetchedRead) -> dict[TopicPartition, PrefetchedBatches]:
        """The rests that go on at these positions; one without records tells that its reader does."""
        if not self._rests:
            return {}
        oldest = self._clock() - SECONDS
        with self._lock:
            found = {place: self._pop(_key(place, at, reading)) for place, at in positions.items()}
        return {place: rest for place, rest in found.items() if rest is not None and rest.is_since(oldest)}

    def keep(self, rests: Mapping[TopicPartition, PrefetchedBatches], reading: PrefetchedRead) -> None:
        """Put rests aside; the oldest make room for them."""
        with self._lock:
            for place, rest in rests.items():
                key = _key(place, rest.batches.position, reading)
                size = rest.batches.memory + _ENTRY_BYTES
                self._pop(key)
                if size <= self._limit // _LEAST_READERS:
                    self._rests[key] = rest, size
                    self.size += size
            self._make_room()

    def _pop(self, key: "_Key") -> PrefetchedBatches | None:
        rest, size = self._rests.pop(key, (None, 0))
        self.size -= size
        return rest

    def _make_room(self) -> None:
        oldest = self._clock() - SECONDS
        while self._rests:
            first = next(iter(self._rests))
            if self.size <= self._limit and self._rests[first][0].is_since(oldest):
                return
            self._pop(first)


_Key = tuple[TopicPartition, int, object, Isolation]


def _key(place: TopicPartition, offset: int, reading: PrefetchedRead) -> _Key:
    return place, offset, reading.topic_ids[place.topic], reading.isolation
