"""What ends a stream."""

from collections.abc import Sequence

from msgspec import Struct

from kafka_http.read.page_reader import ReadLimits
from kafka_http.records import Record, count_within, size_of


class StreamLimits(Struct, frozen=True):
    """What ends a stream: so many messages; so many bytes of keys and values (but one message whatever its size); the
    end of the log as it was at the start."""

    records: int | None = None
    size: int | None = None
    until_end: bool = False


class StreamBudget:
    """What is left of a stream's bounds."""

    __slots__ = ("_is_untouched", "_records", "_size", "is_spent")

    def __init__(self, bounds: StreamLimits) -> None:
        self._records = bounds.records
        self._size = bounds.size
        self._is_untouched = True
        self.is_spent = False

    def limits(self, most: ReadLimits) -> ReadLimits:
        """Those of a page, so that its partitions share evenly what is left."""
        return ReadLimits(min(most.records, self._records or most.records), min(most.size, self._size or most.size))

    def spend(self, records: Sequence[Record]) -> int:
        """How many of these records there may be, from the first on."""
        if self._records is None and self._size is None:
            return len(records)
        count = len(records)
        if self._records is not None:
            count = min(count, self._records)
            self._records -= count
            self.is_spent = self._records == 0
        if self._size is not None and records:
            count = self._spend_size(records[:count], self._size)
        self._is_untouched &= not count
        return count

    def _spend_size(self, records: Sequence[Record], left: int) -> int:
        count = count_within(records, left) or int(self._is_untouched)
        self._size = max(0, left - size_of(records[:count]))
        self.is_spent |= not self._size or count < len(records)
        return count
