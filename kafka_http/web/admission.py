"""Limits of one publish request while its body is parsed: the number of records, their memory, the time."""

import math
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import TypeVar

import msgspec
from msgspec import Raw, Struct

from kafka_http.errors import OutOfTime, TooLarge
from kafka_http.web.negotiation import NDJSON

RECORD_BYTES = 800
"""What a record counts for in `max_in_flight` beside its bytes in the body."""
HEADERS_PER_RECORD = 10
"""A request has at most this many headers for each record that `max_records` allows."""
_SLICE = 10_000
"""Records that are counted or made between two looks at the clock."""
_LEAST_ELEMENT = 2
"""Bytes of a list's element with the comma behind it, at least."""

Item = TypeVar("Item")
_value = msgspec.json.Decoder(Raw)
_COLON = ord(":")
_END = re.compile(r"trailing characters \(byte (\d+)\)")
_LINE = re.compile(rb"\S[^\n]*")
"""A line that is not empty, from its first character on that is no white space."""


class HeadersOfRecord(Struct, frozen=True, gc=False):
    headers: Raw = Raw()


class HeaderOutline(Struct, frozen=True):
    """A body's records, or one record, of which only the headers matter."""

    records: list[HeadersOfRecord]


HeaderDecoder = msgspec.json.Decoder[HeaderOutline] | msgspec.json.Decoder[HeadersOfRecord]


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
        self.long_line = _LEAST_ELEMENT * HEADERS_PER_RECORD * max_records
        """Bytes of a line that `check_headers` has to see."""

    def check_list(self, body: bytes) -> None:
        """Raise `TooLarge` where a body, a JSON list, has more than `max_records` elements, without decoding them."""
        limit = self._max_records
        if _may_have_more(body, limit) and self._count_elements(memoryview(body)[body.index(b"[") :], limit) > limit:
            raise self._too_many()

    def check_objects(self, body: bytes, list_in: Callable[[bytes], Raw | None]) -> None:
        """As `check_list`, of the list of objects that `list_in` finds in a body."""
        limit = self._max_records
        if not _may_have_more(body, limit) or body.count(b"{") <= limit:
            return
        if (found := list_in(body)) is not None and self._count_elements(memoryview(found), limit) > limit:
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

    def check_headers(self, body: bytes, outline: HeaderDecoder) -> None:
        """Raise `TooLarge` where the records in a body, which `outline` decodes, have too many headers in sum."""
        limit = HEADERS_PER_RECORD * self._max_records
        if not _may_have_more(body, limit):
            return
        try:
            said = outline.decode(body)
        except (msgspec.DecodeError, RecursionError):
            return
        listed = [bytes(each.headers) for each in (said.records if isinstance(said, HeaderOutline) else [said])]
        if sum(each.count(b",") + 1 for each in listed if each) <= limit:
            return
        left = limit
        for each in listed:
            left -= self._count_elements(memoryview(each), left)
            if left < 0:
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

    def _count_elements(self, text: memoryview, limit: int) -> int:
        """How many elements a JSON list or object has; `limit` + 1 for more than that, fewer where it is malformed.

        Takes 2 us an element, and no memory: msgspec skips over one value, and its error says where the value ends.
        Raises `OutOfTime`.
        """
        position, count = 1, 0
        for step in range(2 * limit + 2):  # an object has a colon and a comma for each element
            if not step % _SLICE:
                self.check_time()
            try:
                _value.decode(text[position:])
                break
            except (msgspec.DecodeError, RecursionError) as error:
                end = _END.search(str(error))
            if end is None:
                break
            position += int(end[1])
            count += text[position - 1] != _COLON
            if count > limit:
                break
        return count

    def _too_many(self) -> TooLarge:
        return TooLarge(
            f"The request has more than {self._max_records} records (max_records). Nothing was written. Send several "
            f"requests, or stream the records: POST {NDJSON} to /messages/<topic> with Accept: {NDJSON}.",
            limit=self._max_records,
        )

    def _too_many_headers(self) -> TooLarge:
        limit = HEADERS_PER_RECORD * self._max_records
        return TooLarge(
            f"The records have more than {limit} headers in sum, {HEADERS_PER_RECORD} for each record that max_records "
            "allows.",
            limit=limit,
        )


NO_LIMITS = Admission(1 << 62)
"""For who has made sure of the limits in another way."""


def _may_have_more(body: bytes, limit: int) -> bool:
    """A cheap upper bound: false where a JSON text surely has no list of more than `limit` elements."""
    return len(body) >= _LEAST_ELEMENT * limit and body.count(b",") >= limit
