"""Limits of one publish request while its body is parsed: the number of records, their memory, the time."""

import math
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import TypeVar

import msgspec
from msgspec import Raw

from kafka_http.errors import OutOfTime, TooLarge
from kafka_http.web.negotiation import NDJSON

RECORD_BYTES = 800
"""What a record counts for in `max_in_flight` beside its bytes in the body."""
HEADERS_PER_RECORD = 10
"""A request has at most this many headers for each record that `max_records` allows."""
_SLICE = 10_000
"""Records that are made between two looks at the clock."""
_LEAST_ELEMENT = 2
"""Bytes of a list's element with the comma behind it, at least."""

Item = TypeVar("Item")
_value = msgspec.json.Decoder(Raw)
_COMMA = ord(",")
_END = re.compile(r"trailing characters \(byte (\d+)\)")
_LINE = re.compile(rb"\S[^\n]*")
"""A line that is not empty, from its first character on that is no white space."""


class Admission:
    """Created for each request by the thread that parses its body, which calls `release` at its end."""

    def __init__(
        self,
        max_records: int,
        deadline: float = math.inf,
        hold: Callable[[int, int], int] | None = None,
        body_size: int = 0,
    ) -> None:
        """`deadline` is on the monotonic clock. `hold` is `Bodies.hold`, which counts `body_size` bytes of this request
        already."""
        self.deadline = deadline
        self._max_records = max_records
        self._hold = hold
        self._body_size = body_size
        self._held = 0
        self._headers_left = HEADERS_PER_RECORD * max_records

    def check_list(self, body: bytes) -> None:
        """Raise `TooLarge` where a body, a JSON list, has more than `max_records` elements, without decoding them."""
        limit = self._max_records
        if _may_have_more(body, limit) and has_more_elements(memoryview(body)[body.index(b"[") :], limit):
            raise self._too_many()

    def check_objects(self, body: bytes, list_in: Callable[[bytes], Raw | None]) -> None:
        """As `check_list`, of the list of objects that `list_in` finds in a body."""
        limit = self._max_records
        if not _may_have_more(body, limit) or body.count(b"{") <= limit:
            return
        if (found := list_in(body)) is not None and has_more_elements(memoryview(found), limit):
            raise self._too_many()

    def count_lines(self, text: bytes) -> int:
        """How many lines are not empty, at most; not counted on where they are too many."""
        if (ends := text.count(b"\n")) < self._max_records:
            return ends + (not text.endswith(b"\n"))
        return sum(1 for _ in islice(_LINE.finditer(text), self._max_records + 1))

    def check_count(self, count: int) -> None:
        """Raise `TooLarge` for more records than `max_records`."""
        if count > self._max_records:
            raise self._too_many()

    def admit(self, count: int) -> None:
        """Take note of the number of records, before they are made.

        Raises `TooLarge`, `TooMuchInFlight`, `OutOfTime`.
        """
        self.check_count(count)
        if self._hold is not None:
            self._held += self._hold(RECORD_BYTES * count, self._body_size)
            self.check_time()

    def check_headers(self, text: bytes) -> None:
        """Raise `TooLarge` where a record's headers, a JSON list or object, are more than there may be still."""
        left = self._headers_left
        if _may_have_more(text, left) and has_more_elements(memoryview(text), left):
            raise self._too_many_headers()

    def admit_headers(self, count: int) -> None:
        """Take note of a record's headers. Raises `TooLarge`."""
        self._headers_left -= count
        if self._headers_left < 0:
            raise self._too_many_headers()

    def slices(self, items: Sequence[Item]) -> Iterator[tuple[int, Sequence[Item]]]:
        """The items, some at a time, each time with the index of the first. Raises `OutOfTime`."""
        if len(items) <= _SLICE:
            yield 0, items
            return
        for start in range(0, len(items), _SLICE):
            self.check_time()
            yield start, items[start : start + _SLICE]

    def collect(self, items: Iterable[Item]) -> list[Item]:
        """The items as they are made. Raises `OutOfTime`."""
        made: list[Item] = []
        source = iter(items)
        while more := list(islice(source, _SLICE)):
            made += more
            if len(more) < _SLICE:
                break
            self.check_time()
        return made

    def check_time(self) -> None:
        """Raise `OutOfTime` once the deadline has passed."""
        if time.monotonic() > self.deadline:
            raise OutOfTime

    def release(self) -> None:
        """Give back what was held."""
        if self._hold is not None and self._held:
            self._hold(-self._held, 0)
            self._held = 0

    def _too_many(self) -> TooLarge:
        return TooLarge(
            f"The request has more than {self._max_records} records (max_records). Nothing was written. Send several "
            f"requests, or stream the records: POST {NDJSON} to /messages/<topic> with Accept: {NDJSON}.",
            limit=self._max_records,
        )

    def _too_many_headers(self) -> TooLarge:
        limit = HEADERS_PER_RECORD * self._max_records
        return TooLarge(
            f"The request's records have more than {limit} headers, {HEADERS_PER_RECORD} for each record that "
            "max_records allows. Nothing was written. Send several requests.",
            limit=limit,
        )


NO_LIMITS = Admission(1 << 62)
"""For who has made sure of the limits in another way."""


def _may_have_more(body: bytes, limit: int) -> bool:
    """A cheap upper bound: false where a JSON text surely has no list of more than `limit` elements."""
    return len(body) >= _LEAST_ELEMENT * limit and body.count(b",") >= limit


def has_more_elements(text: memoryview, limit: int) -> bool:
    """Whether a JSON list or object has more than `limit` elements. False where it is malformed before that.

    Takes 2 us an element, and no memory: msgspec skips over one value, and its error says where the value ends.
    """
    position, commas = 1, 0
    for _ in range(2 * limit + 1):  # an object has a colon and a comma for each element
        try:
            _value.decode(text[position:])
            return False
        except (msgspec.DecodeError, RecursionError) as error:
            end = _END.search(str(error))
        if end is None:
            return False
        position += int(end[1])
        commas += text[position - 1] == _COMMA
        if commas >= limit:
            return True
    return False
