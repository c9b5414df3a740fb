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

from kafka_http.errors import InvalidRequest, PublishTimeout, TooLarge, WouldBlock
from kafka_http.web.negotiation import NDJSON

RECORD_BYTES = 800
"""Bytes that a record counts in `max_in_flight`, in addition to its bytes in the body."""
HEADERS_PER_RECORD = 10
"""A request may have this many headers for each record that `max_records` allows."""
_SLICE = 10_000
"""Records that are counted or made between two checks of the deadline."""
_MIN_ELEMENT = 2
"""Minimum bytes of an array's element with its comma."""
_MAX_MEMBERS = 1000
"""Members of one object. One with more has repeated or unknown names: ten are known."""

Item = TypeVar("Item")
_value = msgspec.json.Decoder(Raw)
_name = msgspec.json.Decoder(str)
_COLON = ord(":")
_CLOSING = b"]}"
_OPENING = re.compile(rb"[ \t\r\n]*[\[{]")
_ESCAPED_LETTER = b"\\u00"
_END = re.compile(r"trailing characters \(byte (\d+)\)")
_LINE = re.compile(rb"\S[^\n]*")
"""A line that is not empty, from its first character that is not white space."""


class _RecordHeaders(Struct, frozen=True, gc=False):
    """The headers of a record, undecoded."""

    headers: Raw = Raw()


_record_headers = msgspec.json.Decoder(_RecordHeaders)


class PublishLimits:
    """The limits of one request. The thread that parses its body creates them and calls `release` at the end.

    Large JSON bodies are counted before they are decoded, because decoded records take many times the memory of their
    JSON. Counting also bounds malformed bodies and repeated names: a decoder finds an error, or the second array of the
    same name, only after it has decoded what comes before.
    """

    def __init__(
        self,
        max_records: int,
        deadline: float = math.inf,
        reserve: Callable[[int, int], int] | None = None,
        body_size: int = 0,
    ) -> None:
        """`deadline` is on the monotonic clock.

        `reserve` is `RequestBodies.reserve`, which has reserved `body_size` bytes for this request.
        """
        self.deadline = deadline
        self._max_records = max_records
        self._reserve = reserve
        self._body_size = body_size
        self._reserved = 0
        self._headers_left = HEADERS_PER_RECORD * max_records
        self.min_checked_line = _MIN_ELEMENT * HEADERS_PER_RECORD * max_records
        """Bytes. Longer lines must be checked with `check_headers`."""

    def check_separators(self, body: bytes, separator: bytes) -> None:
        """Raise `WouldBlock` if a main loop parses a body with too many separators for it. Cheap."""

    def check_array(self, body: bytes) -> None:
        """Check the number of elements of a JSON array without decoding them. Raises `TooLarge`, `PublishTimeout`."""
        limit = self._max_records
        if _may_have_more(body, limit) and self._count_elements(memoryview(body), limit) > limit:
            raise self._too_many_records()

    def may_exceed_records(self, body: bytes) -> bool:
        """Return false if `check_records` would surely pass for a JSON body. Cheap: counts characters."""
        limit = self._max_records
        return _may_have_more(body, limit) and (
            body.count(b"{") > limit or _may_have_more(body, HEADERS_PER_RECORD * limit)
        )

    def check_records(self, body: bytes) -> None:
        """Check the number of elements of `records` in a JSON object, and of their headers, without decoding them.

        Raises `TooLarge`, `InvalidRequest`, `PublishTimeout`.
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
                    raise self._too_many_records()
                if may_have_headers:
                    headers += self._headers_in(record)
                if separator == _COLON:  # not an array: a decoder stops here
                    break
        self._check_header_count(headers)

    def count_lines(self, text: bytes) -> int:
        """Return an upper bound of the number of lines that are not empty. Stops counting above `max_records`."""
        if (ends := text.count(b"\n")) < self._max_records:
            return ends + (not text.endswith(b"\n"))
        return sum(1 for _ in islice(_LINE.finditer(text), self._max_records + 1))

    def check_count(self, count: int) -> None:
        """Check a number of records. Raises `TooLarge`."""
        if count > self._max_records:
            raise self._too_many_records()

    def reserve_records(self, count: int) -> None:
        """Check the number of records and reserve their memory, before they are made.

        Raises `TooLarge`, `TooMuchInFlight`, `PublishTimeout`.
        """
        self.check_count(count)
        if self._reserve is not None:
            self._reserved += self._reserve(RECORD_BYTES * count, self._body_size)
            self.check_time()

    def check_headers(self, record: bytes) -> None:
        """Check the number of headers in the JSON of one record.

        Raises `TooLarge`, `InvalidRequest`, `PublishTimeout`.
        """
        self._check_header_count(self._headers_in(memoryview(record)))

    def count_headers(self, count: int) -> None:
        """Count a record's headers. Raises `TooLarge` if the request has too many."""
        self._headers_left -= count
        if self._headers_left < 0:
            raise self._too_many_headers()

    def slices(self, items: Sequence[Item]) -> Iterator[tuple[int, Sequence[Item]]]:
        """Yield slices of the items, each after the index of its first item. Raises `PublishTimeout`."""
        if len(items) <= _SLICE:
            yield 0, items
            return
        for start in range(0, len(items), _SLICE):
            self.check_time()
            yield start, items[start : start + _SLICE]

    def collect(self, items: Iterable[Item]) -> list[Item]:
        """Return all items of an iterator. Raises `PublishTimeout`."""
        collected: list[Item] = []
        source = iter(items)
        while more := list(islice(source, _SLICE)):
            collected += more
            if len(more) < _SLICE:
                break
            self.check_time()
        return collected

    def check_time(self) -> None:
        """Check the deadline. Raises `PublishTimeout`."""
        if time.monotonic() > self.deadline:
            raise PublishTimeout

    def release(self) -> None:
        """Release the reserved memory."""
        if self._reserve is not None and self._reserved:
            self._reserve(-self._reserved, 0)
            self._reserved = 0

    def _check_header_count(self, headers: Sequence[memoryview]) -> None:
        """Check the total number of elements of these arrays and objects. Raises `TooLarge`."""
        left = HEADERS_PER_RECORD * self._max_records
        if sum(bytes(each).count(b",") + 1 for each in headers) <= left:
            return
        for each in headers:
            left -= self._count_elements(each, left)
            if left < 0:
                raise self._too_many_headers()

    def _headers_in(self, record: memoryview) -> list[memoryview]:
        """Return the values of `headers`. Of a short record it is the last one: the others are freed soon."""
        if len(record) < self.min_checked_line:
            with suppress(msgspec.DecodeError, RecursionError):
                return [memoryview(_record_headers.decode(record).headers)]
        return list(self._members(record, "headers"))

    def _members(self, text: memoryview, name: str) -> Iterator[memoryview]:
        """Yield the values of all members of a name in a JSON object. Raises `InvalidRequest`, `PublishTimeout`."""
        is_named = False
        for index, (part, _) in enumerate(self._parts(text)):
            if index > 2 * _MAX_MEMBERS:
                raise InvalidRequest(
                    f"Body has an object with more than {_MAX_MEMBERS} members. Send each member once."
                )
            if index % 2 == 0:
                is_named = _is_name(part, name)
            elif is_named:
                yield part

    def _count_elements(self, text: memoryview, limit: int) -> int:
        """Return the number of elements of a JSON array or object, or `limit` + 1 if it has more."""
        elements = (None for _, separator in self._parts(text) if separator != _COLON)
        return sum(1 for _ in islice(elements, limit + 1))

    def _parts(self, text: memoryview) -> Iterator[tuple[memoryview, int]]:
        """Yield the elements of a JSON array, or the names and values of an object, each with the character after it.

        A malformed array or object is the last part. It extends to the end of the text and has the character 0.

        Takes 2 us for each part and no memory: msgspec skips one value, and its error tells where the value ends.
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

    def _too_many_records(self) -> TooLarge:
        return TooLarge(
            f"Request has more than {self._max_records} records (max_records). Nothing was written. Send several "
            f"requests, or stream the records: POST {NDJSON} to /messages/<topic> with Accept: {NDJSON}.",
            limit=self._max_records,
        )

    def _too_many_headers(self) -> TooLarge:
        limit = HEADERS_PER_RECORD * self._max_records
        return TooLarge(
            f"Records have more than {limit} headers in total, which is {HEADERS_PER_RECORD} for each record that "
            "max_records allows.",
            limit=limit,
        )


class LoopLimits(PublishLimits):
    """The limits of all requests that a main loop parses: a body with too many values for it raises `WouldBlock`.

    Headers are not counted, because their separators are. `PublishView.start` reserves the memory.
    """

    def __init__(self, max_values: int) -> None:
        super().__init__(max_values)
        self._max_values = max_values

    def check_separators(self, body: bytes, separator: bytes) -> None:
        if len(body) >= _MIN_ELEMENT * self._max_values and body.count(separator) >= self._max_values:
            raise WouldBlock

    def check_array(self, body: bytes) -> None:
        self.check_separators(body, b",")

    def may_exceed_records(self, body: bytes) -> bool:
        self.check_separators(body, b",")
        return False

    def check_headers(self, record: bytes) -> None:
        pass

    def count_headers(self, count: int) -> None:
        pass

    def count_lines(self, text: bytes) -> int:
        self.check_separators(text, b"\n")
        return super().count_lines(text)


NO_LIMITS = PublishLimits(1 << 62)
"""For callers that have checked the limits before."""


def _may_have_more(body: bytes, limit: int) -> bool:
    """Return false if a JSON text surely has no array with more than `limit` elements."""
    return len(body) >= _MIN_ELEMENT * limit and body.count(b",") >= limit


def _is_name(text: memoryview, name: str) -> bool:
    try:
        return _name.decode(text) == name
    except msgspec.DecodeError:
        return False


def _end_of_value(text: memoryview) -> int | None:
    """Return the number of bytes of the first JSON value with the character after it; None at the end of the text."""
    try:
        _value.decode(text)
    except RecursionError:
        raise InvalidRequest("Body is not valid JSON: nested too deeply.") from None
    except msgspec.DecodeError as error:
        found = _END.search(str(error))
        return None if found is None else int(found[1])
    return None
