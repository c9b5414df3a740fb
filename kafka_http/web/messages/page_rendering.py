"""Rendering of messages: a page as JSON, a record as JSON, one message byte for byte."""

import re
from contextlib import suppress
from functools import lru_cache

import msgspec
from flask import Response

from kafka_http.encoding import encode_base64
from kafka_http.errors import InvalidValue
from kafka_http.read.page_reader import Page
from kafka_http.records import Headers, Record
from kafka_http.schemas.formats import Formats
from kafka_http.schemas.topic_formats import TopicFormat
from kafka_http.web.messages.position_syntax import page_position

_RECORD = b'{"partition":%d,"offset":%d,"timestamp":%d,"key":%b,"%b":%b,"format":%b,"headers":%b}'
_RECORD_WITHOUT_TIMESTAMP = _RECORD.replace(b'"timestamp":%d', b'"timestamp":%b')
_json = lru_cache(msgspec.json.encode)
"""Caches the JSON of the names of formats."""
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


def render_page(
    formats: Formats, topic: str, consumer: str, decode_as: TopicFormat, page: Page, *, next_position: str
) -> bytes:
    """Render a page as JSON. Without a format in `decode_as`, the format of each value is detected."""
    ack = page_position(page.last)
    texts = [render_record(formats, topic, decode_as, record) for record in page.records] or [b""]
    # Extend the first and the last text, not the joined one: that would copy a large page once more.
    begin = b'{"topic":%b,"consumer":%b,"records":[' % (msgspec.json.encode(topic), msgspec.json.encode(consumer))
    texts[0] = begin + texts[0]
    texts[-1] += b'],"next":"%b","ack":%b}\n' % (next_position.encode(), msgspec.json.encode(ack or None))
    return b",".join(texts)


def render_record(formats: Formats, topic: str, decode_as: TopicFormat, record: Record) -> bytes:
    """Render a record as JSON on one or more lines.

    `"value": null` is always a tombstone. For a value that cannot be decoded an error is shown, for a key its text.
    """
    timestamp, key, value, headers = record.timestamp, record.key, record.value, record.headers
    field, name = b"value", decode_as.value
    if value is None:
        name, text = None, b"null"
    elif name is None:
        name, text = formats.detect(value)
    else:
        field, name, text = _decode_value(formats, topic, name, headers, value)
    return (_RECORD_WITHOUT_TIMESTAMP if timestamp is None else _RECORD) % (
        record.partition,
        record.offset,
        b"null" if timestamp is None else timestamp,
        b"null" if key is None else _render_key(formats, topic, decode_as.key, headers, key),
        field,
        text,
        _json(name),
        _headers(headers) if headers else b"[]",
    )


def _decode_value(
    formats: Formats, topic: str, format_: str, headers: Headers, value: bytes
) -> tuple[bytes, str, bytes]:
    """Return the name of the field, the format and the JSON that show a value."""
    try:
        text = formats.decode(topic, format_, headers, value)
    except InvalidValue as error:
        return b"error", format_, msgspec.json.encode(error.as_object())
    return b"value", *((format_, text) if text.strip() != b"null" else formats.detect(text))


def _render_key(formats: Formats, topic: str, format_: str | None, headers: Headers, key: bytes) -> bytes:
    if format_ is not None:
        with suppress(InvalidValue):
            text = formats.decode(topic, format_, headers, key)
            if text.strip() != b"null":  # null is a missing key
                return b'%b,"key_format":"%b"' % (text, format_.encode())
    try:
        return msgspec.json.encode(str(key, "utf-8"))
    except UnicodeDecodeError:
        return b'"%b","key_format":"binary"' % encode_base64(key).encode()


def _headers(headers: Headers) -> bytes:
    return msgspec.json.encode([(name, _header_value(value)) for name, value in headers])


def _header_value(value: bytes | None) -> str | dict[str, str] | None:
    try:
        return None if value is None else str(value, "utf-8")
    except UnicodeDecodeError:
        return {"base64": encode_base64(value or b"")}


def raw_response(page: Page) -> Response:
    """Return the one message of a page: its value in the body, the rest in headers. 204 without a message."""
    if not page.records:
        return Response(status=204)
    record = page.records[0]
    response = Response(record.value or b"", 200, content_type="application/octet-stream")
    response.headers["Kafka-Partition"] = str(record.partition)
    response.headers["Kafka-Offset"] = str(record.offset)
    if record.timestamp is not None:
        response.headers["Kafka-Timestamp"] = str(record.timestamp)
    if record.value is None:
        response.headers["Kafka-Tombstone"] = "true"
    if record.key is not None:
        _add_header(response, "Kafka-Key", "Kafka-Key-Base64", record.key)
    omitted = sum(not _add_message_header(response, name, value) for name, value in record.headers)
    if omitted:
        response.headers["Kafka-Headers-Omitted"] = str(omitted)
    return response


def add_positions(response: Response, page: Page, next_position: str) -> Response:
    """Add the positions to the headers of a response whose body does not contain them."""
    response.headers["Kafka-Next"] = next_position
    if page.records:
        response.headers["Kafka-Ack"] = page_position(page.last)
    return response


def _add_message_header(response: Response, name: str, value: bytes | None) -> bool:
    """Add a record's header. Return false if HTTP cannot represent it: a name that is not a token, or null."""
    if value is None or not _TOKEN.fullmatch(name):
        return False
    plain = f"Kafka-Header-{name}"
    if name.lower().startswith("base64-"):  # the name of another header's base64 form
        plain = ""
    _add_header(response, plain, f"Kafka-Header-Base64-{name}", value)
    return True


def _add_header(response: Response, plain: str, encoded: str, value: bytes) -> None:
    text = value.decode("latin-1")
    if plain and text.isascii() and text.isprintable() and text == text.strip():
        response.headers.add(plain, text)
    else:
        response.headers.add(encoded, encode_base64(value))
