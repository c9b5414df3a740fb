"""Records in the form of the v2 API: the body of a produce request, and the array that a read answers."""

from collections.abc import Sequence

import msgspec
from msgspec import Raw, Struct

from kafka_http.core.formats import Formats
from kafka_http.encoding import decode_base64, encode_base64
from kafka_http.errors import InvalidRequest, InvalidValue
from kafka_http.records import Headers, ProducerRecord, Record
from kafka_http.web.envelopes import Partition, Timestamp, decode, json_text, not_empty

CANNOT_DESERIALIZE = 40801


class V2Header(Struct, frozen=True, forbid_unknown_fields=True):
    key: str
    value: str | None = None


class V2Record(Struct, frozen=True, forbid_unknown_fields=True):
    """A record to produce; null and left out are the same. Header values are base64."""

    key: Raw = Raw()
    value: Raw = Raw()
    partition: Partition | None = None
    timestamp: Timestamp | None = None
    headers: list[V2Header] | None = None


class V2Body(Struct, frozen=True):
    records: list[V2Record]


_body = msgspec.json.Decoder(V2Body)


def parse_v2(body: bytes, format_: str) -> list[ProducerRecord]:
    """The records of a produce request, keys and values to be serialised by `format_`. Raises `InvalidRequest`."""
    records = decode(_body, body).records
    try:
        str(body, "utf-8")
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"The body is not JSON: {error}.") from None
    return not_empty([_producer_record(index, record, format_) for index, record in enumerate(records)])


def _producer_record(index: int, record: V2Record, format_: str) -> ProducerRecord:
    headers = [(header.key, _header_bytes(index, header)) for header in record.headers or ()]
    value, key = json_text(record.value), json_text(record.key)
    return ProducerRecord(value, format_, key, format_, record.partition, record.timestamp, headers)


def _header_bytes(index: int, header: V2Header) -> bytes | None:
    try:
        return None if header.value is None else decode_base64(header.value)
    except ValueError as error:
        field = f"headers.{header.key}"
        raise InvalidRequest(f"records[{index}].{field}: {error}.", record=index, field=field) from None


def render_v2(formats: Formats, topic: str, format_: str, records: Sequence[Record]) -> bytes:
    """The JSON array of a read. A record that the format cannot read comes in base64 with an error beside it."""
    name = msgspec.json.encode(topic)
    return b"[%b]" % b",".join([_render(formats, topic, name, format_, record) for record in records])


def _render(formats: Formats, topic: str, name: bytes, format_: str, record: Record) -> bytes:
    error = b""
    try:
        key, value = (
            b"null" if data is None else formats.decode(topic, format_, record.headers, data)
            for data in (record.key, record.value)
        )
    except InvalidValue as refused:
        key, value = _base64(record.key), _base64(record.value)
        said = {"error_code": CANNOT_DESERIALIZE, "message": refused.message}
        error = b',"error":%b' % msgspec.json.encode(said)
    return b'{"topic":%b,"key":%b,"value":%b,"partition":%d,"offset":%d,"timestamp":%b%b%b}' % (
        name,
        key,
        value,
        record.partition,
        record.offset,
        b"null" if record.timestamp is None else b"%d" % record.timestamp,
        _headers(record.headers) if record.headers else b"",
        error,
    )


def _headers(headers: Headers) -> bytes:
    listed = [{"key": name, "value": None if value is None else encode_base64(value)} for name, value in headers]
    return b',"headers":%b' % msgspec.json.encode(listed)


def _base64(data: bytes | None) -> bytes:
    return msgspec.json.encode(None if data is None else encode_base64(data))
