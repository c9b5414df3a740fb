"""Records in the JSON of the REST Proxy v2 API: parses produce requests and renders the records of reads."""

from collections.abc import Iterable
from itertools import repeat
from typing import Any, TypeVar

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from kafka_http.encoding import encode_base64
from kafka_http.errors import InvalidRequest, InvalidValue, KafkaHttpError
from kafka_http.publish.publisher import PublishRequest
from kafka_http.records import Headers, ProducerRecord, RecordColumns
from kafka_http.schemas.formats import Formats, SchemaChoice, Schemas
from kafka_http.schemas.topic_formats import TopicFormat
from kafka_http.web.json_bodies import (
    Partition,
    Timestamp,
    check_utf8,
    decode,
    decode_header,
    json_text,
    not_empty,
    parse_bare_records,
)
from kafka_http.web.publish_limits import PublishLimits

CANNOT_DESERIALIZE = 40801
_SLICE = 500
"""Records that are rendered at a time. Nothing else runs for some hundred microseconds meanwhile."""
_encode = msgspec.json.Encoder().encode
Decoded = TypeVar("Decoded")


class V2Header(Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """A header of a record. The value is base64."""

    key: str
    value: str | None = None


class V2Record(Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """A record to produce. A field that is null counts as left out."""

    key: Raw = Raw()
    value: Raw = Raw()
    partition: Partition | None = None
    timestamp: Timestamp | None = None
    headers: list[V2Header] | None = None


class V2Body(Struct, frozen=True, forbid_unknown_fields=True):
    """The body of a produce request."""

    records: list[V2Record]
    key_schema: str | None = None
    key_schema_id: int | None = None
    value_schema: str | None = None
    value_schema_id: int | None = None


_body = msgspec.json.Decoder(V2Body, strict=False)  # some clients put integers in quotes


def parse_v2(
    body: bytes,
    formats: TopicFormat,
    limits: PublishLimits,
    invalid: type[KafkaHttpError] = InvalidRequest,
    *,
    required: bool = False,
    bare: bool = False,
) -> PublishRequest:
    """Parse a produce request, whose keys and values have these formats.

    `bare`: the format of values stores their texts verbatim, so the records may be `BareValues`. `required` tells
    whether formats with schemas need one in the request. `limits` limits the number of records. Raises `InvalidRequest`
    if the body is not a JSON object or a header is not base64, an error of class `invalid` if a field is not valid, and
    the errors of `limits`.
    """
    if bare and (values := parse_bare_records(body, limits)) is not None:
        return PublishRequest(values)
    if limits.may_exceed_records(body):
        limits.check_records(body)
    try:
        parsed = decode_object(_body, body, invalid)
    except invalid as error:
        if error.message.startswith("records must be an array, got") and not error.message.endswith("null."):
            raise InvalidRequest(error.message, **error.fields) from None  # as other servers of this API
        raise
    limits.reserve_records(len(parsed.records))
    records: list[ProducerRecord] = []
    for start, part in limits.slices(parsed.records):
        records += [_producer_record(index, each, formats) for index, each in enumerate(part, start)]
    key = SchemaChoice(schema=parsed.key_schema, schema_id=parsed.key_schema_id)
    value = SchemaChoice(schema=parsed.value_schema, schema_id=parsed.value_schema_id)
    return PublishRequest(not_empty(records, invalid), Schemas(key, value, required))


def _producer_record(index: int, record: V2Record, formats: TopicFormat) -> ProducerRecord:
    return ProducerRecord(
        json_text(record.value),
        json_text(record.key),
        record.partition,
        record.timestamp,
        [(header.key, _header_bytes(index, header)) for header in record.headers] if record.headers else (),
        formats.value,
        formats.key,
    )


def decode_object(
    decoder: msgspec.json.Decoder[Decoded], body: bytes, invalid: type[KafkaHttpError] = InvalidValue
) -> Decoded:
    """Decode a JSON object.

    Raises `InvalidRequest` if the body is not a JSON object, and an error of class `invalid` if a field is not valid.
    """
    check_utf8(body)
    return decode(decoder, body, invalid=invalid if body.lstrip()[:1] == b"{" else InvalidRequest)


def _header_bytes(record: int, header: V2Header) -> bytes | None:
    return None if header.value is None else decode_header(record, header.key, header.value)


class V2Message(Struct, gc=False):
    """The JSON of a record that was read. UNSET fields are left out."""

    topic: str
    key: Raw | str | None
    value: Raw | str | None
    partition: int
    offset: int
    timestamp: int | None
    headers: list[dict[str, str | None]] | UnsetType
    error: dict[str, Any] | UnsetType


def render_v2(formats: Formats, format_: str, parts: Iterable[RecordColumns], key_format: str | None = None) -> bytes:
    """Render the parts of a page as a JSON array.

    A key or value that cannot be decoded is rendered as base64, with an error that names it. The format of keys is
    `key_format`, by default the topic's key format, by default the format of values.
    """
    slices = (each for part in parts for each in part.slices(_SLICE))
    return b"[%b]\n" % b",".join([_encode(_messages(formats, format_, key_format, each))[1:-1] for each in slices])


def _messages(formats: Formats, format_: str, key_format: str | None, records: RecordColumns) -> list[V2Message]:
    topic, headers = records.topic, records.headers
    key_format = key_format or formats.topic_format(topic).key or format_
    keys = formats.decode_all(topic, key_format, headers, records.keys)
    values = formats.decode_all(topic, format_, headers, records.values)
    fields: tuple[Iterable[Any], ...] = keys, values, repeat(UNSET)
    if InvalidValue in {*map(type, keys), *map(type, values)}:
        fields = map(_or_base64, keys, records.keys), map(_or_base64, values, records.values), map(_error, keys, values)
    shown_headers = map(_headers, headers) if any(headers) else repeat(UNSET)
    columns = (*fields[:2], repeat(records.partition), records.offsets, records.timestamps, shown_headers, fields[2])
    return list(map(V2Message, repeat(topic), *columns))


def _or_base64(text: Raw | InvalidValue | None, data: bytes | None) -> Raw | str | None:
    return encode_base64(data or b"") if isinstance(text, InvalidValue) else text


def _error(key: Raw | InvalidValue | None, value: Raw | InvalidValue | None) -> dict[str, Any] | UnsetType:
    fields = {"key": key, "value": value}
    undecoded = [f"{field}: {each.message}" for field, each in fields.items() if isinstance(each, InvalidValue)]
    return {"error_code": CANNOT_DESERIALIZE, "message": "; ".join(undecoded)} if undecoded else UNSET


def _headers(headers: Headers) -> list[dict[str, str | None]] | UnsetType:
    listed = [{"key": name, "value": None if value is None else encode_base64(value)} for name, value in headers]
    return listed or UNSET
