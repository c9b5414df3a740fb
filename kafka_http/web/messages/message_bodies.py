"""Message sets in JSON: the envelope `{"records": […]}`, arrays, NDJSON."""

from collections.abc import Iterable, Iterator
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta, Raw, Struct

from kafka_http.encoding import check_json, decode_base64
from kafka_http.errors import InvalidRequest, KafkaHttpError
from kafka_http.records import Headers, ProducerRecord
from kafka_http.schemas.topic_formats import TopicFormat
from kafka_http.web.publish_limits import NO_LIMITS, PublishLimits
from kafka_http.web.query_parameters import MAX_INT32, MAX_INT64

_PIECE = 1 << 16
Partition = Annotated[int, Meta(ge=0, le=MAX_INT32)]
Timestamp = Annotated[int, Meta(ge=0, le=MAX_INT64)]
Decoded = TypeVar("Decoded")


class Base64(Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    base64: str


HeaderValue = str | Base64 | None


class EnvelopeRecord(Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """A record of the envelope. A field that is null is as if left out, key and value excepted; `Raw` is JSON text."""

    value: Raw
    key: Raw = Raw()
    partition: Partition | None = None
    timestamp: Timestamp | None = None
    headers: dict[str, HeaderValue] | list[tuple[str, HeaderValue]] | None = None
    format: str | None = None
    key_format: str | None = None


class LineRecord(EnvelopeRecord, frozen=True, gc=False, forbid_unknown_fields=True):
    """A record on a line: of the envelope, or as a page or a stream has it."""

    value: Raw = Raw()
    topic: Raw = Raw()
    offset: Raw = Raw()
    error: Raw = Raw()


class Envelope(Struct, frozen=True, forbid_unknown_fields=True):
    records: list[EnvelopeRecord]


class _Outline(Struct, frozen=True, forbid_unknown_fields=True):
    records: Raw


_envelope = msgspec.json.Decoder(Envelope)
_outline = msgspec.json.Decoder(_Outline)
_array = msgspec.json.Decoder(list[Raw])
_line = msgspec.json.Decoder(LineRecord)
_string = msgspec.json.Decoder(str)


def parse_json(body: bytes, default: TopicFormat, admission: PublishLimits) -> list[ProducerRecord]:
    """The messages of an `application/json` body: an envelope, an array, or else the body as one message.

    `default` are the formats of records that name none; None stands for `json`, and for the rules of the envelope's
    keys. Raises `InvalidRequest`, and what `admission` raises.
    """
    first = body.lstrip()[:1]
    if first == b"[":
        return _array_records(body, default, admission)
    if first == b"{" and _may_be_envelope(body) and (envelope := _as_envelope(body, admission)) is not None:
        check_utf8(body)
        admission.admit(len(envelope.records))
        made: list[ProducerRecord] = []
        for start, some in admission.slices(envelope.records):
            made += [_producer_record(index, each, default) for index, each in enumerate(some, start)]
        return not_empty(made)
    _check_json("The body", body)
    admission.admit(1)
    return [ProducerRecord(body, format=default.value)]


def _array_records(body: bytes, default: TopicFormat, admission: PublishLimits) -> list[ProducerRecord]:
    admission.check_list(body)
    elements = decode(_array, body)
    check_utf8(body)
    admission.admit(len(elements))
    format_ = default.value or "json"
    made: list[ProducerRecord] = []
    for _, some in admission.slices(elements):
        made += [ProducerRecord(json_text(raw), format=format_) for raw in some]
    return not_empty(made)


def _may_be_envelope(body: bytes) -> bool:
    """Whether it has the one key: as it is, or escaped."""
    return b'"records"' in body or b"\\" in body


def _as_envelope(body: bytes, admission: PublishLimits) -> Envelope | None:
    """The envelope, None for another object. What is wrong counts where there is the one key `records`, a list."""
    if admission.may_exceed(body):
        if _records_of(body) is None:
            return None
        admission.check_objects(body)
    try:
        return decode(_envelope, body)
    except InvalidRequest:
        if _records_of(body) is not None:
            raise
        return None


def _records_of(body: bytes) -> Raw | None:
    """The list of an envelope, None for another body."""
    try:
        records = _outline.decode(body).records
    except (msgspec.DecodeError, RecursionError):
        return None
    return records if bytes(memoryview(records)[:1]) == b"[" else None


def parse_lines(body: bytes, format_: str | None, admission: PublishLimits) -> list[ProducerRecord]:
    """NDJSON: each line that is not empty is a message, byte for byte."""
    return _collect_lines(body, values_of(lines_of(body), format_), admission)


def parse_record_lines(
    body: bytes, default: TopicFormat, keep_partitions: bool, admission: PublishLimits
) -> list[ProducerRecord]:
    """NDJSON whose lines are records, as an envelope or a page has them."""
    return _collect_lines(body, records_of(lines_of(body), default, keep_partitions, admission=admission), admission)


def _collect_lines(body: bytes, records: Iterable[ProducerRecord], admission: PublishLimits) -> list[ProducerRecord]:
    admission.admit(admission.count_lines(body))
    return not_empty(admission.collect(records))


Lines = Iterable[tuple[int, bytes]]
"""Lines that are not empty, without their ends, and the number of each, from 1."""


def lines_of(text: bytes, first: int = 1) -> Iterator[tuple[int, bytes]]:
    """The lines of a text that begins with that number, empty ones left out."""
    start = 0
    while start <= len(text):  # in pieces: there may be millions of lines
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
    """Lines that are values, from the record of that index on. Raises `InvalidRequest` at the first that is none."""
    for index, (number, line) in enumerate(lines, first):
        _check_json(f"records[{index}] (line {number})", line, index)
        yield ProducerRecord(line, format=format_)


def records_of(
    lines: Lines, default: TopicFormat, keep_partitions: bool, first: int = 0, admission: PublishLimits = NO_LIMITS
) -> Iterator[ProducerRecord]:
    """As `values_of`, of lines that are records."""
    for index, (number, line) in enumerate(lines, first):
        try:
            if len(line) >= admission.long_line:
                admission.check_headers(line)
            record = decode(_line, line, f"records[{index}]", index)
            str(line, "utf-8")
        except UnicodeDecodeError as error:
            raise InvalidRequest(f"records[{index}] (line {number}): {error}.", record=index) from None
        if not bytes(record.value) or bytes(record.error):
            raise InvalidRequest(
                f"records[{index}] (line {number}): a record needs a value and must not carry an error.",
                record=index,
                field="error" if bytes(record.error) else "value",
            )
        if record.headers:
            admission.admit_headers(len(record.headers))
        parsed = _producer_record(index, record, default)
        yield parsed if keep_partitions else msgspec.structs.replace(parsed, partition=None)


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


def _headers(index: int, given: dict[str, HeaderValue] | list[tuple[str, HeaderValue]]) -> Headers:
    pairs = given.items() if isinstance(given, dict) else given
    return [(name, header_bytes(index, name, value)) for name, value in pairs]


def header_bytes(index: int, name: str, value: HeaderValue) -> bytes | None:
    """A header's bytes. Raises `InvalidRequest` for bad base64."""
    if not isinstance(value, Base64):
        return None if value is None else value.encode()
    try:
        return decode_base64(value.base64)
    except ValueError as error:
        field = f"headers.{name}"
        raise InvalidRequest(f"records[{index}].{field}: {error}.", record=index, field=field) from None


def json_text(raw: Raw) -> bytes | None:
    """The JSON text of a value, None for null and for one that is not there."""
    text = bytes(raw)
    return None if not text or text == b"null" else text


def not_empty(records: list[ProducerRecord], invalid: type[KafkaHttpError] = InvalidRequest) -> list[ProducerRecord]:
    if not records:
        raise invalid("The message set is empty: send one record at least.", field="records")
    return records


def decode(
    decoder: msgspec.json.Decoder[Decoded],
    text: bytes,
    at: str = "",
    record: int | None = None,
    *,
    invalid: type[KafkaHttpError] = InvalidRequest,
) -> Decoded:
    """Decode, or raise an error that says what is wrong and where: its record's index, its field.

    It is `InvalidRequest` for what is no JSON, `invalid` for JSON of another shape. `at` stands for `$` in the path of
    what is wrong, `record` is its index where it is not part of that path.
    """
    try:
        return decoder.decode(text)
    except RecursionError:
        raise InvalidRequest(f"{at or 'The body'}: JSON nested too deeply.") from None
    except msgspec.ValidationError as error:
        message, fields = _located(error, at, record)
        raise invalid(message, **fields) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"{at or 'The body'} is not JSON: {error}.", **_where(record, None)) from None


def _located(error: msgspec.ValidationError, at: str, record: int | None) -> tuple[str, dict[str, Any]]:
    """msgspec says ``Expected `int`, got `str` - at `$.records[1].partition` ``: put the place first."""
    what, _, place = str(error).replace("`", "").partition(" - at $")
    path = (at + place).lstrip(".")
    head, _, field = path.partition(".")
    if record is None and head.startswith("records[") and head[8:-1].isdigit():
        record = int(head[8:-1])
    if "field " in what:
        field = f"{field}.{what.rpartition('field ')[2]}".lstrip(".")
    return f"{path or 'The body'}: {what}.", _where(record, field or None)


def _where(record: int | None, field: str | None) -> dict[str, Any]:
    return {name: value for name, value in (("record", record), ("field", field)) if value is not None}


def _check_json(what: str, text: bytes, record: int | None = None) -> None:
    try:
        check_json(text)
    except ValueError as error:
        raise InvalidRequest(f"{what} is not JSON: {error}.", **_where(record, None)) from None


def check_utf8(body: bytes) -> None:
    """`Raw` skips over strings without decoding them."""
    try:
        if not body.isascii():
            str(body, "utf-8")
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"The body is not JSON: {error}.") from None
