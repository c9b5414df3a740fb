"""Limits of one publish request while its body is parsed: the number of records, their memory, the time."""

import math
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import count, islice
from typing import TypeVar

import msgspec
from msgspec import Raw, Struct

from kafka_http.errors import InvalidRequest, PublishTimeout, TooLarge
from kafka_http.web.negotiation import NDJSON

RECORD_BYTES = 800
"""What a record counts for in `max_in_flight` beside its bytes in the body."""
HEADERS_PER_RECORD = 10
"""A request has at most this many headers for each record that `max_records` allows."""
_SLICE = 10_000
"""Records that are counted or made between two looks at the clock."""
_LEAST_ELEMENT = 2
"""Bytes of a list's element with the comma behind it, at least."""
_MOST_MEMBERS = 1000
"""Members of one object that are looked at. With more it repeats names, or has unknown ones: the known are ten."""

Item = TypeVar("Item")
_value = msgspec.json.Decoder(Raw)
_name = msgspec.json.Decoder(str)
_COLON = ord(":")
_CLOSING = b"]}"
_OPENING = re.compile(rb"[ \t\r\n]*[\[{]")
_ESCAPED_LETTER = b"\\u00"
_END = re.compile(r"trailing characters \(byte (\d+)\)")
_LINE = re.compile(rb"\S[^\n]*")
"""A line that is not empty, from its first character on that is no white space."""


class _BodyOutline(Struct, frozen=True, gc=False):
    """A record of which only the headers matter."""

    headers: Raw = Raw()


_outline = msgspec.json.Decoder(_BodyOutline)


class PublishLimits:
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
        if _may_have_more(body, limit) and self._count_elements(memoryview(body), limit) > limit:
            raise self._too_many()

    def may_exceed(self, body: bytes) -> bool:
        """A cheap upper bound: false where no list of objects in a JSON body can be too much for `check_objects`."""
        limit = self._max_records
        return _may_have_more(body, limit) and (
            body.count(b"{") > limit or _may_have_more(body, HEADERS_PER_RECORD * limit)
        )

    def check_objects(self, body: bytes) -> None:
        """Raise `TooLarge` where the member `records` of a body, a JSON object, has more than `max_records` elements,
        or where these have too many headers in sum.

        Counts without decoding them what a decoder would make of them, also where the body is malformed after it and
        where a name comes twice: a decoder finds the mistake, or the second list, only after it has made the first.
        Raises `InvalidRequest`, `PublishTimeout`.
        """
        left = self._max_records
        may_have_headers = _may_have_more(body, HEADERS_PER_RECORD * left) and (
            b'"headers"' in body or _ESCAPED_LETTER in body
        )
        headers: list[memoryview] = []
        for records in self._members(memoryview(body), "records"):
            for record, separator in self._parts(records):
                left -= 1
                if left < 0:
                    raise self._too_many()
                if may_have_headers:
                    headers += self._headers_in(record)
                if separator == _COLON:  # an object, or malformed: a decoder ends here
                    break
        self._check_sum(headers)

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

        Raises `TooLarge`, `TooMuchInFlight`, `PublishTimeout`.
        """
        self.check_count(count)
        if self._hold is not None:
            self._held += self._hold(RECORD_BYTES * count, self._body_size)
            self.check_time()

    def check_headers(self, record: bytes) -> None:
        """As `check_objects`, of the headers of one record."""
        self._check_sum(self._headers_in(memoryview(record)))

    def admit_headers(self, count: int) -> None:
        """Take note of a record's headers. Raises `TooLarge`."""
        self._headers_left -= count
        if self._headers_left < 0:
            raise self._too_many_headers()

    def slices(self, items: Sequence[Item]) -> Iterator[tuple[int, Sequence[Item]]]:
        """The items, some at a time, each time with the index of the first. Raises `PublishTimeout`."""
        if len(items) <= _SLICE:
            yield 0, items
            return
        for start in range(0, len(items), _SLICE):
            self.check_time()
            yield start, items[start : start + _SLICE]

    def collect(self, items: Iterable[Item]) -> list[Item]:
        """The items as they are made. Raises `PublishTimeout`."""
        made: list[Item] = []
        source = iter(items)
        while more := list(islice(source, _SLICE)):
            made += more
            if len(more) < _SLICE:
                break
            self.check_time()
        return made

    def check_time(self) -> None:
        """Raise `PublishTimeout` once the deadline has passed."""
        if time.monotonic() > self.deadline:
            raise PublishTimeout

    def release(self) -> None:
        """Give back what was held."""
        if self._hold is not None and self._held:
            self._hold(-self._held, 0)
            self._held = 0

    def _check_sum(self, headers: Sequence[memoryview]) -> None:
        """Raise `TooLarge` where these lists and objects have too many elements in sum."""
        left = HEADERS_PER_RECORD * self._max_records
        if sum(bytes(each).count(b",") + 1 for each in headers) <= left:
            return
        for each in headers:
            left -= self._count_elements(each, left)
            if left < 0:
                raise self._too_many_headers()

    def _headers_in(self, record: memoryview) -> list[memoryview]:
        """The values of the member `headers`; in a short record only the last, since the others are soon freed."""
        if len(record) < self.long_line:
            with suppress(msgspec.DecodeError, RecursionError):
                return [memoryview(_outline.decode(record).headers)]
        return list(self._members(record, "headers"))

    def _members(self, text: memoryview, name: str) -> Iterator[memoryview]:
        """The values of all members of that name in a JSON object. Raises `InvalidRequest`, `PublishTimeout`."""
        is_named = False
        for index, (part, _) in enumerate(self._parts(text)):
            if index > 2 * _MOST_MEMBERS:
                raise InvalidRequest(f"The body: an object has more than {_MOST_MEMBERS} members. Send each one once.")
            if index % 2 == 0:
                is_named = _is_name(part, name)
            elif is_named:
                yield part

    def _count_elements(self, text: memoryview, limit: int) -> int:
        """How many elements a JSON list or object has, `limit` + 1 for more than that."""
        elements = (None for _, separator in self._parts(text) if separator != _COLON)
        return sum(1 for _ in islice(elements, limit + 1))

    def _parts(self, text: memoryview) -> Iterator[tuple[memoryview, int]]:
        """The elements of a JSON list, or the names and the values of an object, each with the character behind it.

        A list or object in it that is malformed is the last part, as far as the text goes: with 0.

        Takes 2 us a part, and no memory: msgspec skips over one value, and its error says where the value ends.
        Raises `InvalidRequest`, `PublishTimeout`.
        """
        opening = _OPENING.match(text)
        start, separator = opening.end() if opening else len(text), 0
        for step in count():
            if separator in _CLOSING or start >= len(text):
                return
            if not step % _SLICE:
                self.check_time()
            end = _end_of_value(text[start:])
            if end is None:
                if _OPENING.match(text[start:]):
                    yield text[start:], 0
                return
            separator = text[start + end - 1]
            yield text[start : start + end - 1], separator
            start += end

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


NO_LIMITS = PublishLimits(1 << 62)
"""For who has made sure of the limits in another way."""


def _may_have_more(body: bytes, limit: int) -> bool:
    """A cheap upper bound: false where a JSON text surely has no list of more than `limit` elements."""
    return len(body) >= _LEAST_ELEMENT * limit and body.count(b",") >= limit


def _is_name(text: memoryview, name: str) -> bool:
    try:
        return _name.decode(text) == name
    except msgspec.DecodeError:
        return False


def _end_of_value(text: memoryview) -> int | None:
    """Bytes to the end of the first JSON value in a text, with the character behind it; None where the text ends."""
    try:
        _value.decode(text)
    except RecursionError:
        raise InvalidRequest("The body: JSON nested too deeply.") from None
    except msgspec.DecodeError as error:
        found = _END.search(str(error))
        return None if found is None else int(found[1])
    return None
