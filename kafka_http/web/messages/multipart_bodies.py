"""Message sets in `multipart/mixed` or `multipart/form-data`: one message a part, byte for byte."""

from typing import TYPE_CHECKING, cast

from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser

from kafka_http.errors import InvalidRequest
from kafka_http.records import ProducerRecord
from kafka_http.web.messages.message_attributes import header_attributes
from kafka_http.web.messages.message_bodies import not_empty
from kafka_http.web.publish_limits import PublishLimits

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

_PIECE = 1 << 16
"""Bytes that are parsed between two looks at the clock."""
_LONGEST_BOUNDARY = 256
"""What the parser takes; RFC 2046 allows 70."""
Part = tuple[list[tuple[str, str]], bytes]


class _Parts:
    """Collects parts from the parser's callbacks."""

    def __init__(self, admission: PublishLimits) -> None:
        self.parts: list[Part] = []
        self._admission = admission
        self.ended = False
        self._headers: list[tuple[str, str]] = []
        self._name = bytearray()
        self._value = bytearray()
        self._data = bytearray()

    def on_part_begin(self) -> None:
        self._admission.check_count(len(self.parts) + 1)
        self._headers = []
        self._data = bytearray()

    def on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def on_header_end(self) -> None:
        self._admission.admit_headers(1)
        self._headers.append((self._name.decode("latin-1"), self._value.decode("latin-1").strip()))
        self._name = bytearray()
        self._value = bytearray()

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        self._data += data[start:end]

    def on_part_end(self) -> None:
        self.parts.append((self._headers, bytes(self._data)))

    def on_end(self) -> None:
        self.ended = True


def parse_multipart(body: bytes, boundary: str | None, admission: PublishLimits) -> list[ProducerRecord]:
    """The messages of a multipart body, each with the attributes that its part's headers give it alone."""
    if not boundary:
        raise InvalidRequest("Content-Type multipart needs a boundary parameter.", field="Content-Type")
    if len(boundary) > _LONGEST_BOUNDARY or any(each > "\xff" for each in boundary):
        raise InvalidRequest(
            f"The multipart boundary must be at most {_LONGEST_BOUNDARY} characters of ASCII, got {len(boundary)}.",
            field="Content-Type",
        )
    parts = _parse(body, boundary, admission)
    admission.admit(len(parts))
    return not_empty(admission.collect(_record(index, part) for index, part in enumerate(parts)))


def _parse(body: bytes, boundary: str, admission: PublishLimits) -> list[Part]:
    collected = _Parts(admission)
    callbacks = {name: getattr(collected, name) for name in dir(collected) if name.startswith("on_")}
    most = len(body) + 1  # the body as a whole is bounded by max_body_bytes already
    try:
        parser = MultipartParser(
            boundary,
            cast("MultipartCallbacks", callbacks),
            max_header_count=most,
            max_header_size=most,
        )
        for start in range(0, len(body), _PIECE):
            admission.check_time()
            parser.write(body[start : start + _PIECE])
        parser.finalize()
    except MultipartParseError as error:
        raise InvalidRequest(f"The body is not multipart with boundary {boundary!r}: {error}.") from None
    if not collected.ended:
        raise InvalidRequest(f"The multipart body breaks off: there is no closing --{boundary}--.")
    return collected.parts


def _record(index: int, part: Part) -> ProducerRecord:
    headers, data = part
    try:
        return header_attributes(headers).fill(ProducerRecord(data))
    except InvalidRequest as error:
        raise InvalidRequest(f"records[{index}]: {error.message}", record=index, **error.fields) from None
