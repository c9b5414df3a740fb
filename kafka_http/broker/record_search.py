"""Finds the last records of a log. Control records, gaps and aborted transactions do not count as records."""

from collections.abc import Callable, Mapping

from kafka_http.broker.batch_codec import CorruptBatch
from kafka_http.broker.prefetch_buffer import PrefetchedBatches
from kafka_http.records import Isolation, Positions, TopicPartition

_END_BYTES = 1 << 14
_MAX_FETCHES = 32
"""At the end of a log: enough for some thousand control records."""
_WINDOW_BYTES = 1 << 18
_MAX_BYTES = 16 << 20
"""Bytes read for one search, over all partitions."""
_MAX_FIRST_WINDOW = 10_000
_ANY = 1 << 62

Ranges = Mapping[TopicPartition, tuple[int, int]]
"""The first offset and the end offset of each partition."""
Fetch = Callable[[Positions, int, Isolation], dict[TopicPartition, PrefetchedBatches]]
"""Fetches that many bytes of each partition, starting at its position."""


class RecordSearch:
    """Searches backwards from the end of logs. Any thread may call."""

    def __init__(self, fetch: Fetch) -> None:
        self._fetch = fetch

    def ends_without_records(self, positions: Positions, isolation: Isolation) -> dict[TopicPartition, int]:
        """Return the end of each partition that has no records from its position on."""
        found: dict[TopicPartition, int] = {}
        remaining = dict(positions)
        for _ in range(_MAX_FETCHES):
            if not remaining:
                break
            next_positions = {}
            for tp, fetched in self._fetch(remaining, _END_BYTES, isolation).items():
                if _has_record(fetched):
                    continue
                if fetched.is_at_end:
                    found[tp] = fetched.reader.position
                else:  # other partitions may have filled the response
                    next_positions[tp] = fetched.reader.position
            remaining = next_positions
        return found

    def last_offsets(
        self, counts: Mapping[TopicPartition, int], ranges: Ranges, isolation: Isolation
    ) -> dict[TopicPartition, int]:
        """Return the offset at which the last `counts` records of each partition begin."""
        searches = {tp: _BackwardSearch(count, *ranges[tp]) for tp, count in counts.items()}
        remaining = _MAX_BYTES
        while remaining > 0 and (unfinished := {tp: each for tp, each in searches.items() if not each.is_over}):
            size = min(_WINDOW_BYTES, max(1, remaining // len(unfinished)))
            positions = {tp: each.position for tp, each in unfinished.items()}
            for tp, fetched in self._fetch(positions, size, isolation).items():
                remaining -= unfinished[tp].add(fetched)
            if all(each.position == positions[tp] for tp, each in unfinished.items()):
                break
        return {tp: each.start for tp, each in searches.items()}


def _has_record(fetched: PrefetchedBatches) -> bool:
    try:
        return bool(fetched.reader.take(1, _ANY, _ANY)[0])
    except CorruptBatch:
        return True


class _BackwardSearch:
    """Finds where the last `count` records of a partition begin, window by window from the end of the log backwards.

    The first window has as many offsets as records are wanted, each next one twice as many: a log with few records
    for its offsets takes few fetches.
    """

    def __init__(self, count: int, earliest: int, latest: int) -> None:
        self._missing = count
        self._earliest = earliest
        self._end = latest
        self._width = min(count, _MAX_FIRST_WINDOW)
        self._offsets: list[int] = []
        self.position = 0
        """The offset to fetch next."""
        self._open_window()

    @property
    def start(self) -> int:
        """The result; until it is found, the result for a log without gaps."""
        return max(self._earliest, self._end - self._missing)

    @property
    def is_over(self) -> bool:
        return self.start == self._earliest or not self._missing

    def add(self, fetched: PrefetchedBatches) -> int:
        """Add what was fetched at `position`. Return its size in bytes."""
        size = fetched.reader.memory
        records, _ = fetched.reader.take(_ANY, _ANY, _ANY)
        self._offsets += [each.offset for each in records if each.offset < self._end]
        self.position = fetched.reader.position
        if self.position >= self._end or fetched.is_at_end:
            self._close_window()
        return size

    def _open_window(self) -> None:
        self._offsets = []
        self.position = max(self._earliest, self._end - self._width)

    def _close_window(self) -> None:
        if len(self._offsets) >= self._missing:
            self._end, self._missing = self._offsets[-self._missing], 0
            return
        self._missing -= len(self._offsets)
        self._end = max(self._earliest, self._end - self._width)
        self._width = max(2 * self._width, self._missing)
        self._open_window()
