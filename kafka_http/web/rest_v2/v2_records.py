"""Records in the JSON of the REST Proxy v2 API: parses produce requests and renders the records of reads."""

from collections.abc import Sequence
from functools import lru_cache
from typing import TypeVar

import msgspec
from msgspec import Raw, Struct

from kafka_http.encoding import encode_base64
from kafka_http.errors import InvalidRequest, InvalidValue, KafkaHttpError
from kafka_http.publish.publisher import PublishRequest
from kafka_http.records import Headers, ProducerRecord, Record
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
_RECORD = b'{"topic":%b,"key":%b,"value":%b,"partition":%d,"offset":%d,"timestamp":%d%b%b}'
_RECORD_WITHOUT_TIMESTAMP = _RECORD.replace(b'"timestamp":%d', b'"timestamp":%b')
_encode_topic = lru_cache(msgspec.json.encode)
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


def render_v2(formats: Formats, format_: str, records: Sequence[Record], key_format: str | None = None) -> bytes:
    """Render records as a JSON array.

    A key or value that cannot be decoded is rendered as base64, with an error that names it. The format of keys is
    `key_format`, by default the topic's key format, by default the format of values.
    """
    return b"[%b]\n" % b",".join([_render(formats, format_, key_format, record) for record in records])


def _render(formats: Formats, format_: str, key_format: str | None, record: Record) -> bytes:
    topic, key, value, timestamp, headers = record.topic, record.key, record.value, record.timestamp, record.headers
    key_format = key_format or formats.topic_format(topic).key or format_
    undecoded = ""
    json_key = json_value = b"null"
    if key is not None:
        try:
            json_key = formats.decode(topic, key_format, headers, key)
        except InvalidValue as error:
            json_key = _base64(key)
            undecoded = f"key: {error.message}"
    if value is not None:
        try:
            json_value = formats.decode(topic, format_, headers, value)
        except InvalidValue as error:
            json_value = _base64(value)
            undecoded = f"{undecoded}; value: {error.message}".removeprefix("; ")
    return (_RECORD_WITHOUT_TIMESTAMP if timestamp is None else _RECORD) % (
        _encode_topic(topic),
        json_key,
        json_value,
        record.partition,
        record.offset,
        b"null" if timestamp is None else timestamp,
        _headers(headers) if headers else b"",
        _error(undecoded) if undecoded else b"",
    )


def _error(message: str) -> bytes:
    return b',"error":%b' % msgspec.json.encode({"error_code": CANNOT_DESERIALIZE, "message": message})


def _headers(headers: Headers) -> bytes:
    listed = [{"key": name, "value": None if value is None else encode_base64(value)} for name, value in headers]
    return b',"headers":%b' % msgspec.json.encode(listed)


def _base64(data: bytes) -> bytes:
    return msgspec.json.encode(encode_base64(data))
