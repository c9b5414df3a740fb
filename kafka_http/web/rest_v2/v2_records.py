"""Records in the form of the v2 API: the body of a produce request, and the array that a read answers."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, TypeVar

import msgspec
from msgspec import Raw, Struct

from kafka_http.encoding import decode_base64, encode_base64
from kafka_http.errors import InvalidRequest, InvalidValue, KafkaHttpError
from kafka_http.publish.publisher import PublishRequest
from kafka_http.records import Headers, ProducerRecord, Record
from kafka_http.schemas.formats import Formats, SchemaChoice, Schemas
from kafka_http.schemas.topic_formats import TopicFormat
from kafka_http.web.messages.message_bodies import Partition, Timestamp, check_utf8, decode, json_text, not_empty
from kafka_http.web.publish_limits import PublishLimits

CANNOT_DESERIALIZE = 40801
_UNKNOWN_FIELD = "The body: Object contains unknown field"
"""How msgspec's message starts for a field of the body itself, not of something in it."""
_RECORD = b'{"topic":%b,"key":%b,"value":%b,"partition":%d,"offset":%d,"timestamp":%d%b%b}'
_TIMELESS = _RECORD.replace(b'"timestamp":%d', b'"timestamp":%b')
_json = lru_cache(msgspec.json.encode)
"""Of a topic's name, which comes again and again."""
Decoded = TypeVar("Decoded")


class V2Header(Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    key: str
    value: str | None = None


class V2Record(Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """A record to produce; null and left out are the same. Header values are base64."""

    key: Raw = Raw()
    value: Raw = Raw()
    partition: Partition | None = None
    timestamp: Timestamp | None = None
    headers: list[V2Header] | None = None


class V2Body(Struct, frozen=True, forbid_unknown_fields=True):
    records: list[V2Record]
    key_schema: str | None = None
    key_schema_id: int | None = None
    value_schema: str | None = None
    value_schema_id: int | None = None


_body = msgspec.json.Decoder(V2Body, strict=False)  # some clients put integers in quotes


def parse_v2(
    body: bytes,
    formats: TopicFormat,
    admission: PublishLimits,
    invalid: type[KafkaHttpError] = InvalidRequest,
    *,
    required: bool = False,
) -> PublishRequest:
    """The records of a produce request, keys and values to be serialised by these formats, with the schemas that it
    names; `required`: where they need one.

    Raises `InvalidRequest` for what is no JSON object and for bad base64, `invalid` for what breaks the rules of one,
    and what `admission` raises.
    """
    if admission.may_exceed(body):
        admission.check_objects(body)
    try:
        said = decode_object(_body, body, invalid)
    except invalid as error:
        if error.message.startswith("records: Expected array, got") and not error.message.endswith("null."):
            raise InvalidRequest(error.message, **error.fields) from None  # as the other servers of this API
        raise
    admission.admit(len(said.records))
    records: list[ProducerRecord] = []
    for start, some in admission.slices(said.records):
        records += [
            ProducerRecord(
                json_text(each.value),
                json_text(each.key),
                each.partition,
                each.timestamp,
                [(one.key, _header_bytes(index, one)) for one in each.headers] if each.headers else (),
                formats.value,
                formats.key,
            )
            for index, each in enumerate(some, start)
        ]
    key = SchemaChoice(schema=said.key_schema, schema_id=said.key_schema_id)
    value = SchemaChoice(schema=said.value_schema, schema_id=said.value_schema_id)
    return PublishRequest(not_empty(records, invalid), Schemas(key, value, required))


def decode_object(
    decoder: msgspec.json.Decoder[Decoded], body: bytes, invalid: type[KafkaHttpError] = InvalidValue
) -> Decoded:
    """A body that must be a JSON object: `InvalidRequest` where it is none, `invalid` where its fields are wrong."""
    check_utf8(body)
    try:
        return decode(decoder, body, invalid=invalid if body.lstrip()[:1] == b"{" else InvalidRequest)
    except invalid as error:
        if not error.message.startswith(_UNKNOWN_FIELD):
            raise
        body_type: Any = decoder.type
        known = ", ".join(each.name for each in msgspec.structs.fields(body_type))
        raise invalid(f"{error.message} Known fields: {known}.", **error.fields) from None


def _header_bytes(index: int, header: V2Header) -> bytes | None:
    try:
        return None if header.value is None else decode_base64(header.value)
    except ValueError as error:
        field = f"headers.{header.key}"
        raise InvalidRequest(f"records[{index}].{field}: {error}.", record=index, field=field) from None


def render_v2(formats: Formats, format_: str, records: Sequence[Record], key_format: str | None = None) -> bytes:
    """The JSON array of a read. A key or a value that its format cannot read comes in base64, each by itself, with an
    error beside it that names which.

    Keys are read by `key_format`, else by their topic's, else by the format of the values.
    """
    return b"[%b]\n" % b",".join([_render(formats, format_, key_format, record) for record in records])


def _render(formats: Formats, format_: str, key_format: str | None, record: Record) -> bytes:
    topic, key, value, timestamp, headers = record.topic, record.key, record.value, record.timestamp, record.headers
    of_key = key_format or formats.topic_format(topic).key or format_
    unreadable = ""
    shown_key = shown_value = b"null"
    if key is not None:
        try:
            shown_key = formats.decode(topic, of_key, headers, key)
        except InvalidValue as refused:
            shown_key = _base64(key)
            unreadable = f"key: {refused.message}"
    if value is not None:
        try:
            shown_value = formats.decode(topic, format_, headers, value)
        except InvalidValue as refused:
            shown_value = _base64(value)
            unreadable = f"{unreadable}; value: {refused.message}".removeprefix("; ")
    return (_TIMELESS if timestamp is None else _RECORD) % (
        _json(topic),
        shown_key,
        shown_value,
        record.partition,
        record.offset,
        b"null" if timestamp is None else timestamp,
        _headers(headers) if headers else b"",
        _error(unreadable) if unreadable else b"",
    )


def _error(message: str) -> bytes:
    return b',"error":%b' % msgspec.json.encode({"error_code": CANNOT_DESERIALIZE, "message": message})


def _headers(headers: Headers) -> bytes:
    listed = [{"key": name, "value": None if value is None else encode_base64(value)} for name, value in headers]
    return b',"headers":%b' % msgspec.json.encode(listed)


def _base64(data: bytes) -> bytes:
    return msgspec.json.encode(encode_base64(data))
