"""Bodies with messages in JSON: the envelope `{"records": […]}`, arrays, NDJSON."""

from collections.abc import Iterable, Iterator

import msgspec
from msgspec import Raw, Struct

from kafka_http.errors import InvalidRequest
from kafka_http.records import BareValues, Headers, ProducerRecord
from kafka_http.schemas.topic_formats import TopicFormat
from kafka_http.web.json_bodies import (
    Partition,
    Timestamp,
    bare_values,
    check_utf8,
    decode,
    decode_header,
    decode_value,
    json_text,
    not_empty,
    parse_bare_records,
)
from kafka_http.web.publish_limits import NO_LIMITS, PublishLimits

_PIECE = 1 << 16


class Base64(Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """Bytes in JSON: `{"base64": "…"}`."""

    base64: str


HeaderValue = str | Base64 | None
HeaderFields = dict[str, HeaderValue] | list[tuple[str, HeaderValue]]


class EnvelopeRecord(Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """A record of the envelope. Null counts as missing, except for key and value. `Raw` is JSON text."""

    value: Raw
    key: Raw = Raw()
    partition: Partition | None = None
    timestamp: Timestamp | None = None
    headers: HeaderFields | None = None
    format: str | None = None
    key_format: str | None = None


class LineRecord(EnvelopeRecord, frozen=True, gc=False, forbid_unknown_fields=True):
    """A record on a line of NDJSON: as in the envelope, or as in a page or a stream."""

    value: Raw = Raw()
    topic: Raw = Raw()
    offset: Raw = Raw()
    error: Raw = Raw()


class Envelope(Struct, frozen=True, forbid_unknown_fields=True):
    """A body with several messages: `{"records": […]}`."""

    records: list[EnvelopeRecord]


class _RawEnvelope(Struct, frozen=True, forbid_unknown_fields=True):
    records: Raw


_envelope = msgspec.json.Decoder(Envelope)
_raw_envelope = msgspec.json.Decoder(_RawEnvelope)
_array = msgspec.json.Decoder(list[Raw])
_line = msgspec.json.Decoder(LineRecord)
_string = msgspec.json.Decoder(str)


def parse_json(
    body: bytes, default: TopicFormat, limits: PublishLimits, *, bare: bool = False
) -> list[ProducerRecord] | BareValues:
    """Parse an `application/json` body: an envelope, an array of values, or any other value as one message.

    `default` has the formats of records that name none. Its None means `json` for values, and for keys the envelope's
    own rules. `bare`: the format of values stores their texts verbatim, so records without anything else may be
    returned as `BareValues`. Raises `InvalidRequest`, and what `limits` raises.
    """
    first = body.lstrip()[:1]
    if first == b"[":
        return _parse_array(body, default, limits, bare)
    if first == b"{" and b'"records"' in body and bare and (values := parse_bare_records(body, limits)) is not None:
        return values
    if first == b"{" and (envelope := _parse_envelope(body, limits)) is not None:
        check_utf8(body)
        limits.reserve_records(len(envelope.records))
        parsed: list[ProducerRecord] = []
        for start, some in limits.slices(envelope.records):
            parsed += [_producer_record(index, each, default) for index, each in enumerate(some, start)]
        return not_empty(parsed)
    decode_value("Body", body)
    limits.reserve_records(1)
    return BareValues([body]) if bare else [ProducerRecord(body, format=default.value)]


def _parse_array(
    body: bytes, default: TopicFormat, limits: PublishLimits, bare: bool
) -> list[ProducerRecord] | BareValues:
    limits.check_array(body)
    elements = decode(_array, body)
    check_utf8(body)
    limits.reserve_records(len(elements))
    if bare:
        return not_empty(bare_values(elements))
    format_ = default.value or "json"
    parsed: list[ProducerRecord] = []
    for _, some in limits.slices(elements):
        parsed += [ProducerRecord(json_text(raw), format=format_) for raw in some]
    return not_empty(parsed)


def _parse_envelope(body: bytes, limits: PublishLimits) -> Envelope | None:
    """Parse an envelope. Return None for another object: only an array `records` as the one field makes an envelope."""
    if b'"records"' not in body and b"\\" not in body:
        return None
    if limits.may_exceed_records(body):
        if not _has_record_array(body):
            return None
        limits.check_records(body)
    try:
        return decode(_envelope, body)
    except InvalidRequest:
        if _has_record_array(body):
            raise
        return None


def _has_record_array(body: bytes) -> bool:
    try:
        records = _raw_envelope.decode(body).records
    except (msgspec.DecodeError, RecursionError):
        return False
    return bytes(memoryview(records)[:1]) == b"["


def parse_lines(
    body: bytes, format_: str | None, limits: PublishLimits, *, bare: bool = False
) -> list[ProducerRecord] | BareValues:
    """Parse NDJSON whose lines are values. Each line that is not empty is a message, byte for byte.

    `bare` is that of `parse_json`.
    """
    records = _collect_lines(body, values_of(lines_of(body), format_), limits)
    return BareValues(each.value for each in records) if bare else records


def parse_record_lines(
    body: bytes, default: TopicFormat, keep_partitions: bool, limits: PublishLimits
) -> list[ProducerRecord]:
    """Parse NDJSON whose lines are records, as in an envelope or a page."""
    limits.check_separators(body, b",")
    return _collect_lines(body, records_of(lines_of(body), default, keep_partitions, limits=limits), limits)


def _collect_lines(body: bytes, records: Iterable[ProducerRecord], limits: PublishLimits) -> list[ProducerRecord]:
    limits.reserve_records(limits.count_lines(body))
    return not_empty(limits.collect(records))


Lines = Iterable[tuple[int, bytes]]
"""Lines that are not empty, without their line ends, each after its number."""


def lines_of(text: bytes, first: int = 1) -> Iterator[tuple[int, bytes]]:
    """Yield the lines of a text that are not empty, with their numbers, which start at `first`."""
    start = 0
    while start <= len(text):  # piece by piece: a text may have millions of lines
        end = text.find(b"\n", start + _PIECE)
        piece = text[start:] if end < 0 else text[start:end]
        if piece.isspace():
            first += piece.count(b"\n") + 1
        else:
            lines = piece.split(b"\n")
            for number, line in enumerate(lines, first):
                if line and not line.isspace():
                    yield number, line.removesuffix(b"\r")
            first += len(lines)
        start = len(text) + 1 if end < 0 else end + 1


def values_of(lines: Lines, format_: str | None, first: int = 0) -> Iterator[ProducerRecord]:
    """Yield the messages of lines that are values. `first` is the index of the first. Raises `InvalidRequest`."""
    for index, (number, line) in enumerate(lines, first):
        decode_value(f"records[{index}] (line {number})", line, index)
        yield ProducerRecord(line, format=format_)


def records_of(
    lines: Lines, default: TopicFormat, keep_partitions: bool, first: int = 0, limits: PublishLimits = NO_LIMITS
) -> Iterator[ProducerRecord]:
    """Yield the messages of lines that are records. `first` is the index of the first. Raises `InvalidRequest`."""
    for index, (number, line) in enumerate(lines, first):
        record = _parse_line(index, number, line, limits)
        if record.headers:
            limits.count_headers(len(record.headers))
        parsed = _producer_record(index, record, default)
        yield parsed if keep_partitions else msgspec.structs.replace(parsed, partition=None)


def _parse_line(index: int, number: int, line: bytes, limits: PublishLimits) -> LineRecord:
    try:
        if len(line) >= limits.min_checked_line:
            limits.check_headers(line)
        record = decode(_line, line, f"records[{index}]", index)
        str(line, "utf-8")
    except UnicodeDecodeError as error:
        raise InvalidRequest(
            f"records[{index}] (line {number}) is not UTF-8 (byte {error.start}).", record=index
        ) from None
    if not bytes(record.value) or bytes(record.error):
        raise InvalidRequest(
            f"records[{index}] (line {number}) must have a value and no error.",
            record=index,
            field="error" if bytes(record.error) else "value",
        )
    return record


def _producer_record(index: int, record: EnvelopeRecord, default: TopicFormat) -> ProducerRecord:
    key = json_text(record.key)
    key_format = record.key_format or default.key
    if key is not None and key_format is None:
        key = _string.decode(key).encode() if key.startswith(b'"') else msgspec.json.format(key, indent=-1)
    return ProducerRecord(
        json_text(record.value),
        key,
        record.partition,
        record.timestamp,
        _headers(index, record.headers) if record.headers else (),
        record.format or default.value or "json",
        key_format,
    )


def _headers(index: int, fields: HeaderFields) -> Headers:
    pairs = fields.items() if isinstance(fields, dict) else fields
    return [(name, _header_bytes(index, name, value)) for name, value in pairs]


def _header_bytes(index: int, name: str, value: HeaderValue) -> bytes | None:
    if not isinstance(value, Base64):
        return None if value is None else value.encode()
    return decode_header(index, name, value.base64)
