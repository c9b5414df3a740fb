"""Pages of the /messages dialect: as JSON, and as one message byte for byte."""

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
_TIMELESS = _RECORD.replace(b'"timestamp":%d', b'"timestamp":%b')
_json = lru_cache(msgspec.json.encode)
"""Of the few names that come again and again."""
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


def render_page(
    formats: Formats, topic: str, consumer: str, wanted: TopicFormat, page: Page, *, following: str
) -> bytes:
    """The JSON of a page. Values are read by the format wanted, or by what each looks like. `following` is the position
    of the next page."""
    ack = page_position(page.last)
    texts = [render_record(formats, topic, wanted, record) for record in page.records] or [b""]
    # Around the first and the last, not around all: a large page is copied no more often than it must be.
    begin = b'{"topic":%b,"consumer":%b,"records":[' % (msgspec.json.encode(topic), msgspec.json.encode(consumer))
    texts[0] = begin + texts[0]
    texts[-1] += b'],"next":"%b","ack":%b}\n' % (following.encode(), msgspec.json.encode(ack or None))
    return b",".join(texts)


def render_record(formats: Formats, topic: str, wanted: TopicFormat, record: Record) -> bytes:
    """The JSON of a record. `"value": null` always is a tombstone; a value that its format cannot read is an error, and
    such a key is shown without that format."""
    timestamp, key, value, headers = record.timestamp, record.key, record.value, record.headers
    field, name = b"value", wanted.value
    if value is None:
        name, text = None, b"null"
    elif name is None:
        name, text = formats.detect(value)
    else:
        field, name, text = _decoded(formats, topic, name, headers, value)
    return (_TIMELESS if timestamp is None else _RECORD) % (
        record.partition,
        record.offset,
        b"null" if timestamp is None else timestamp,
        b"null" if key is None else _key(formats, topic, wanted.key, headers, key),
        field,
        text,
        _json(name),
        _headers(headers) if headers else b"[]",
    )


def _decoded(formats: Formats, topic: str, format_: str, headers: Headers, value: bytes) -> tuple[bytes, str, bytes]:
    """What a value is shown as: the name of its field, its format and its JSON."""
    try:
        text = formats.decode(topic, format_, headers, value)
    except InvalidValue as error:
        return b"error", format_, msgspec.json.encode(error.as_object())
    return b"value", *((format_, text) if text.strip() != b"null" else formats.detect(text))


def _key(formats: Formats, topic: str, format_: str | None, headers: Headers, key: bytes) -> bytes:
    if format_ is not None:
        with suppress(InvalidValue):
            text = formats.decode(topic, format_, headers, key)
            if text.strip() != b"null":  # which is a key that is not there
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
    """The one message of a page, its value the body and all else in headers; 204 where there is none."""
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


def with_positions(response: Response, page: Page, following: str) -> Response:
    """The answer with the positions in its headers, for a body that has no room for them."""
    response.headers["Kafka-Next"] = following
    if page.records:
        response.headers["Kafka-Ack"] = page_position(page.last)
    return response


def _add_message_header(response: Response, name: str, value: bytes | None) -> bool:
    """Whether HTTP can carry it: its name must be a token, and HTTP has no null."""
    if value is None or not _TOKEN.fullmatch(name):
        return False
    plain = f"Kafka-Header-{name}"
    if name.lower().startswith("base64-"):  # it would be taken for the encoded form of another
        plain = ""
    _add_header(response, plain, f"Kafka-Header-Base64-{name}", value)
    return True


def _add_header(response: Response, plain: str, encoded: str, value: bytes) -> None:
    text = value.decode("latin-1")
    if plain and text.isascii() and text.isprintable() and text == text.strip():
        response.headers.add(plain, text)
    else:
        response.headers.add(encoded, encode_base64(value))
