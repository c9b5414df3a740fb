"""Bodies in `multipart/mixed` or `multipart/form-data`: each part is a message, byte for byte."""

from typing import TYPE_CHECKING, cast

from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser

from kafka_http.errors import InvalidRequest
from kafka_http.records import ProducerRecord
from kafka_http.web.json_bodies import not_empty
from kafka_http.web.messages.message_attributes import header_attributes
from kafka_http.web.publish_limits import PublishLimits

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

_PIECE = 1 << 16
"""Bytes that are parsed between two checks of the deadline."""
_MAX_BOUNDARY = 256
"""The parser's limit. RFC 2046 allows 70."""
Part = tuple[list[tuple[str, str]], bytes]


class _PartCollector:
    """Collects parts from the parser's callbacks."""

    def __init__(self, limits: PublishLimits) -> None:
        self.parts: list[Part] = []
        self._limits = limits
        self.has_ended = False
        self._headers: list[tuple[str, str]] = []
        self._name = bytearray()
        self._value = bytearray()
        self._data = bytearray()

    def on_part_begin(self) -> None:
        self._limits.check_count(len(self.parts) + 1)
        self._headers = []
        self._data = bytearray()

    def on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def on_header_end(self) -> None:
        self._limits.count_headers(1)
        self._headers.append((self._name.decode("latin-1"), self._value.decode("latin-1").strip()))
        self._name = bytearray()
        self._value = bytearray()

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        self._data += data[start:end]

    def on_part_end(self) -> None:
        self.parts.append((self._headers, bytes(self._data)))

    def on_end(self) -> None:
        self.has_ended = True


def parse_multipart(body: bytes, boundary: str | None, limits: PublishLimits) -> list[ProducerRecord]:
    """Parse a multipart body. The headers of a part are the attributes of its message.

    Raises `InvalidRequest`, and what `limits` raises.
    """
    if not boundary:
        raise InvalidRequest("Content-Type lacks the boundary parameter of multipart.", field="Content-Type")
    if len(boundary) > _MAX_BOUNDARY or any(each > "\xff" for each in boundary):
        raise InvalidRequest(
            f"Multipart boundary must have at most {_MAX_BOUNDARY} ASCII characters, got {len(boundary)}.",
            field="Content-Type",
        )
    limits.check_separators(body, b"\n")
    parts = _parse(body, boundary, limits)
    limits.reserve_records(len(parts))
    return not_empty(limits.collect(_record(index, part) for index, part in enumerate(parts)))


def _parse(body: bytes, boundary: str, limits: PublishLimits) -> list[Part]:
    collected = _PartCollector(limits)
    callbacks = {name: getattr(collected, name) for name in dir(collected) if name.startswith("on_")}
    no_limit = len(body) + 1  # max_body_bytes limits the body
    try:
        parser = MultipartParser(
            boundary,
            cast("MultipartCallbacks", callbacks),
            max_header_count=no_limit,
            max_header_size=no_limit,
        )
        for start in range(0, len(body), _PIECE):
            limits.check_time()
            parser.write(body[start : start + _PIECE])
        parser.finalize()
    except MultipartParseError as error:
        raise InvalidRequest(f"Body is not valid multipart with boundary {boundary!r}: {error}.") from None
    if not collected.has_ended:
        raise InvalidRequest(f"Multipart body is incomplete: it lacks the closing --{boundary}--.")
    return collected.parts


def _record(index: int, part: Part) -> ProducerRecord:
    headers, data = part
    try:
        return header_attributes(headers).fill(ProducerRecord(data))
    except InvalidRequest as error:
        raise InvalidRequest(f"records[{index}]: {error.message}", record=index, **error.fields) from None
