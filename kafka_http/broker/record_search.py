"""Finding records by their place in the log, past what no reader sees: control records, compacted gaps, aborted
transactions."""

from collections.abc import Callable, Mapping

from kafka_http.broker.batch_codec import CorruptBatch
from kafka_http.broker.prefetch_buffer import PrefetchedBatches
from kafka_http.records import Isolation, Positions, TopicPartition

_SHARE = 1 << 14
_MOST_LOOKS = 32
"""At the end of a log: enough for some thousand control records."""
_SHARE_OF_WINDOW = 1 << 18
_MOST_BYTES = 16 << 20
"""To be read for one search, over all partitions."""
_LARGEST_FIRST_WINDOW = 10_000
_ANY = 1 << 62

Ranges = Mapping[TopicPartition, tuple[int, int]]
"""The first offset of each partition's log, and its end."""
Rests = Callable[[Positions, int, Isolation], dict[TopicPartition, PrefetchedBatches]]
"""So many bytes of each partition from its position on."""


class RecordSearch:
    """Looks at the ends of logs. Any thread may call."""

    def __init__(self, fetch: Rests) -> None:
        self._fetch = fetch

    def trailing_ends(self, positions: Positions, isolation: Isolation) -> dict[TopicPartition, int]:
        """As `Log.trailing_ends`."""
        found: dict[TopicPartition, int] = {}
        left = dict(positions)
        for _ in range(_MOST_LOOKS):
            if not left:
                break
            following = {}
            for place, rest in self._fetch(left, _SHARE, isolation).items():
                if _has_record(rest):
                    continue
                if rest.is_at_end:
                    found[place] = rest.batches.position
                else:  # perhaps others took all room in the answer
                    following[place] = rest.batches.position
            left = following
        return found

    def last(
        self, counts: Mapping[TopicPartition, int], ranges: Ranges, isolation: Isolation
    ) -> dict[TopicPartition, int]:
        """As `Log.last`."""
        searches = {place: _Countdown(count, *ranges[place]) for place, count in counts.items()}
        left = _MOST_BYTES
        while left > 0 and (open_ := {place: each for place, each in searches.items() if not each.is_over}):
            share = min(_SHARE_OF_WINDOW, max(1, left // len(open_)))
            positions = {place: each.position for place, each in open_.items()}
            for place, rest in self._fetch(positions, share, isolation).items():
                left -= open_[place].add(rest)
            if all(each.position == positions[place] for place, each in open_.items()):
                break
        return {place: each.start for place, each in searches.items()}


def _has_record(rest: PrefetchedBatches) -> bool:
    try:
        return bool(rest.batches.take(1, _ANY, _ANY)[0])
    except CorruptBatch:
        return True


class _Countdown:
    """Where the last records of a partition begin, found window by window from the end of the log on backwards.

    A window has as many offsets as records are missing at least, the next twice as many: logs with few records for
    their offsets take few looks.
    """

    def __init__(self, count: int, earliest: int, latest: int) -> None:
        self._missing = count
        self._earliest = earliest
        self._end = latest
        self._width = min(count, _LARGEST_FIRST_WINDOW)
        self._offsets: list[int] = []
        self.position = 0
        """What to read next."""
        self._open_window()

    @property
    def start(self) -> int:
        """The answer; while it is not found, that of a log with a record at each offset."""
        return max(self._earliest, self._end - self._missing)

    @property
    def is_over(self) -> bool:
        return self.start == self._earliest or not self._missing

    def add(self, rest: PrefetchedBatches) -> int:
        """Take what was read at `position`, and say how many bytes that were."""
        size = rest.batches.memory
        records, _ = rest.batches.take(_ANY, _ANY, _ANY)
        self._offsets += [each.offset for each in records if each.offset < self._end]
        self.position = rest.batches.position
        if self.position >= self._end or rest.is_at_end:
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
