"""Rendering of messages: a page as JSON, a record as JSON, one message byte for byte."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import groupby, repeat
from operator import attrgetter
from typing import Any

import msgspec
from flask import Response
from msgspec import UNSET, Raw, Struct, UnsetType

from kafka_http.consumers.queue_service import QueueMessage, QueueName, QueuePage
from kafka_http.encoding import encode_base64
from kafka_http.errors import InvalidValue
from kafka_http.read.page_reader import Page
from kafka_http.records import Headers, Record, RecordColumns
from kafka_http.schemas.formats import AUTO, Formats
from kafka_http.schemas.topic_formats import TopicFormat
from kafka_http.web.messages.position_syntax import page_position

_SLICE = 500
"""Records that are rendered at a time. Nothing else runs for some hundred microseconds meanwhile."""
_encode = msgspec.json.Encoder().encode
_MAX_HEADERS = 80
"""Headers of a message in a response of octets: clients such as Python's accept 100 in all."""
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


class _Message(Struct, gc=False):
    """The JSON of a record. UNSET fields are left out."""

    partition: int
    offset: int
    timestamp: int | None
    key: Raw | str | None
    key_format: str | UnsetType
    value: Raw | UnsetType | None
    error: Mapping[str, Any] | UnsetType
    format: str | None
    headers: Sequence[tuple[str, str | dict[str, str] | None]]


class _LeasedMessage(_Message, gc=False):
    """The JSON of a message of a queue."""

    lease: str
    attempt: int
    locked_until: int


_ShownKey = tuple[Raw | str | None, str | UnsetType]
_ShownValue = tuple[Raw | UnsetType | None, Mapping[str, Any] | UnsetType, str | None]
"""The fields `value`, `error` and `format`."""


def render_page(
    formats: Formats, topic: str, consumer: str, decode_as: TopicFormat, page: Page, *, next_position: str
) -> bytes:
    """Render a page as JSON. Without a format in `decode_as`, the format of each value is detected."""
    slices = (each for part in page.parts for each in part.slices(_SLICE))
    texts = [_encode(_messages(formats, topic, decode_as, each))[1:-1] for each in slices] or [b""]
    # Extend the first and the last text, not the joined one: that would copy a large page once more.
    begin = b'{"topic":%b,"consumer":%b,"records":[' % (_encode(topic), _encode(consumer))
    texts[0] = begin + texts[0]
    texts[-1] += b'],"next":"%b","ack":%b}\n' % (next_position.encode(), _encode(page_position(page.last) or None))
    return b",".join(texts)


def render_queue_page(formats: Formats, queue: QueueName, decode_as: TopicFormat, page: QueuePage) -> bytes:
    """Render a page of a queue as JSON. `blocked` and `warnings` are left out if there are none."""
    shown: list[_LeasedMessage] = []
    for _, messages in groupby(page.messages, lambda each: each.record.partition):
        part = list(messages)
        leases = zip(*[(each.lease, each.attempt, each.locked_until) for each in part], strict=True)
        records = RecordColumns.from_records([each.record for each in part])
        shown += map(_LeasedMessage, *_columns(formats, queue.topic, decode_as, records), *leases)
    body: dict[str, Any] = {"topic": queue.topic, "consumer": queue.consumer, "records": shown}
    body |= {"blocked": page.blocked} if page.blocked else {}
    body |= {"warnings": page.warnings} if page.warnings else {}
    return _encode(body)


def render_records(formats: Formats, topic: str, decode_as: TopicFormat, records: Sequence[Record]) -> list[bytes]:
    """Render records of any partitions as JSON, each on one or more lines."""
    parts = [RecordColumns.from_records(list(part)) for _, part in groupby(records, attrgetter("partition"))]
    return [_encode(each) for part in parts for each in _messages(formats, topic, decode_as, part)]


def shown_texts(
    formats: Formats, topic: str, decode_as: TopicFormat, records: RecordColumns
) -> tuple[Sequence[bytes | None], Sequence[bytes | None]]:
    """Return the JSON texts of the keys and of the values in their formats; none for a column without a format."""
    columns = ((decode_as.key, records.keys), (decode_as.value, records.values))
    decoded = (_decoded(formats, topic, name, records.headers, data) for name, data in columns)
    keys, values = ([bytes(each) if isinstance(each, Raw) else None for each in texts] for texts in decoded)
    return keys, values


def _decoded(
    formats: Formats, topic: str, format_: str | None, headers: Sequence[Headers], data: Sequence[bytes | None]
) -> Sequence[Raw | InvalidValue | None]:
    if format_ is None:
        return []
    if format_ == AUTO:
        return formats.recognize_all(topic, headers, data)[1]
    return formats.decode_all(topic, format_, headers, data)


def _messages(formats: Formats, topic: str, decode_as: TopicFormat, records: RecordColumns) -> list[_Message]:
    """Return what is shown of records."""
    return list(map(_Message, *_columns(formats, topic, decode_as, records)))


def _columns(formats: Formats, topic: str, decode_as: TopicFormat, records: RecordColumns) -> Iterator[Iterable[Any]]:
    """Yield the columns of `_Message` for records.

    `"value": null` is always a tombstone. For a value that cannot be decoded an error is shown, for a key its text.
    """
    yield from (
        repeat(records.partition),
        records.offsets,
        records.timestamps,
        *_shown_keys(formats, topic, decode_as.key, records),
        *_shown_values(formats, topic, decode_as.value, records),
        map(_shown_headers, records.headers) if any(records.headers) else repeat(()),
    )


def _shown_values(
    formats: Formats, topic: str, format_: str | None, records: RecordColumns
) -> tuple[Iterable[Raw | UnsetType | None], Iterable[Mapping[str, Any] | UnsetType], Iterable[str | None]]:
    """Return the columns `value`, `error` and `format`."""
    if format_ is None:
        names, texts = formats.detect_all(records.values)
        return texts, repeat(UNSET), names
    if format_ == AUTO:
        return _detected_values(formats, topic, records)
    decoded = formats.decode_all(topic, format_, records.headers, records.values)
    values, errors, names = zip(*[_shown_value(formats, format_, each) for each in decoded], strict=True)
    return values, errors, names


def _detected_values(
    formats: Formats, topic: str, records: RecordColumns
) -> tuple[Iterable[Raw | None], Iterable[UnsetType], Iterable[str | None]]:
    """Return the columns `value`, `error` and `format`. What a format recognizes takes precedence."""
    names, texts = formats.detect_all(records.values)
    recognized, decoded = formats.recognize_all(topic, records.headers, records.values)
    shown_names = (name or other for name, other in zip(recognized, names, strict=False))
    return [text or other for text, other in zip(decoded, texts, strict=True)], repeat(UNSET), shown_names


def _shown_value(formats: Formats, format_: str, decoded: Raw | InvalidValue | None) -> _ShownValue:
    if decoded is None:
        return None, UNSET, None
    if isinstance(decoded, InvalidValue):
        return UNSET, decoded.as_object(), format_
    if (text := bytes(decoded)).strip() == b"null":
        format_, text = formats.detect(text)
    return Raw(text), UNSET, format_


def _shown_keys(
    formats: Formats, topic: str, format_: str | None, records: RecordColumns
) -> tuple[Iterable[Raw | str | None], Iterable[str | UnsetType]]:
    """Return the columns `key` and `key_format`."""
    if records.keys.count(None) == len(records):
        return repeat(None), repeat(UNSET)
    decoded: Sequence[Raw | InvalidValue | None] = [None] * len(records)
    names: Iterable[str | None] = repeat(format_)
    if format_ == AUTO:
        names, decoded = formats.recognize_all(topic, records.headers, records.keys)
    elif format_ is not None:
        decoded = formats.decode_all(topic, format_, records.headers, records.keys)
    else:
        with suppress(UnicodeDecodeError):
            return [None if each is None else str(each, "utf-8") for each in records.keys], repeat(UNSET)
    keys, key_formats = zip(*map(_shown_key, names, records.keys, decoded), strict=False)
    return keys, key_formats


def _shown_key(format_: str | None, key: bytes | None, decoded: Raw | InvalidValue | None) -> _ShownKey:
    if key is None:
        return None, UNSET
    if format_ is not None and isinstance(decoded, Raw) and bytes(decoded).strip() != b"null":  # null is a missing key
        return decoded, format_
    try:
        return str(key, "utf-8"), UNSET
    except UnicodeDecodeError:
        return encode_base64(key), "binary"


def _shown_headers(headers: Headers) -> list[tuple[str, str | dict[str, str] | None]]:
    return [(name, _header_value(value)) for name, value in headers]


def _header_value(value: bytes | None) -> str | dict[str, str] | None:
    try:
        return None if value is None else str(value, "utf-8")
    except UnicodeDecodeError:
        return {"base64": encode_base64(value or b"")}


def raw_response(record: Record | None) -> Response:
    """Return a message: its value in the body, the rest in headers. 204 without a message."""
    if record is None:
        return Response(status=204)
    response = Response(record.value or b"", 200, content_type="application/octet-stream")
    response.headers["Kafka-Partition"] = str(record.partition)
    response.headers["Kafka-Offset"] = str(record.offset)
    if record.timestamp is not None:
        response.headers["Kafka-Timestamp"] = str(record.timestamp)
    if record.value is None:
        response.headers["Kafka-Tombstone"] = "true"
    if record.key is not None:
        _add_header(response, "Kafka-Key", "Kafka-Key-Base64", record.key)
    shown = record.headers[:_MAX_HEADERS]
    omitted = len(record.headers) - sum(_add_message_header(response, name, value) for name, value in shown)
    if omitted:
        response.headers["Kafka-Headers-Omitted"] = str(omitted)
    return response


def add_lease(response: Response, message: QueueMessage) -> Response:
    """Add the lease of a message to the headers of a response whose body does not contain it."""
    response.headers["Kafka-Lease"] = message.lease
    response.headers["Kafka-Attempt"] = str(message.attempt)
    response.headers["Kafka-Locked-Until"] = str(message.locked_until)
    return response


def add_positions(response: Response, page: Page, next_position: str) -> Response:
    """Add the positions to the headers of a response whose body does not contain them."""
    response.headers["Kafka-Next"] = next_position
    if page.parts:
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
