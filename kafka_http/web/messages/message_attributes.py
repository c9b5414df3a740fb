"""Attributes of messages outside the body: key, partition, timestamp and headers.

They are in the query (`?key=`), in headers (`Kafka-Key`), or in the headers of a part of a multipart body.
"""

from collections.abc import Collection, Iterable, Iterator

import msgspec

from kafka_http.encoding import decode_base64
from kafka_http.errors import InvalidRequest
from kafka_http.records import Headers, ProducerRecord
from kafka_http.web.query_parameters import MAX_INT32, MAX_INT64, QueryParameters, parse_integer

_HEADER_PREFIX = "kafka-header-"
_HEADER_BASE64_PREFIX = "kafka-header-base64-"
_TRACE = {"traceparent", "tracestate"}
_SINGLE = frozenset(("kafka-key", "kafka-key-base64", "kafka-partition", "kafka-timestamp"))
_PREFIXES = ("kafka-", "ce-", *_TRACE)


class MessageAttributes(msgspec.Struct, frozen=True):
    """The attributes for all messages of a request, or for one part of its body. None means not given."""

    key: bytes | None = None
    partition: int | None = None
    timestamp: int | None = None
    headers: Headers = ()

    def fill(self, record: ProducerRecord) -> ProducerRecord:
        """Return the record with these attributes in place of missing ones, and with headers of other names added."""
        if self == _NONE:
            return record
        uses_key = record.key is None and self.key is not None
        own = {name for name, _ in record.headers}
        return ProducerRecord(
            record.value,
            self.key if uses_key else record.key,
            self.partition if record.partition is None else record.partition,
            self.timestamp if record.timestamp is None else record.timestamp,
            [*record.headers, *(pair for pair in self.headers if pair[0] not in own)],
            record.format,
            None if uses_key else record.key_format,
        )


_NONE = MessageAttributes()


def request_attributes(query: QueryParameters, headers: Collection[tuple[str, str]]) -> MessageAttributes | None:
    """Return the attributes of a whole request, or None if it has none. Header names are in lower case.

    Raises `InvalidRequest`, also if query and headers disagree.
    """
    named = [(name.title(), value) for name, value in headers if name.startswith(_PREFIXES)]
    from_query = _query_attributes(query) if query else _NONE
    if not named and from_query == _NONE:
        return None
    from_headers = header_attributes(named)
    for field in ("key", "partition", "timestamp"):
        in_query, in_header = getattr(from_query, field), getattr(from_headers, field)
        if in_query is not None and in_header is not None and in_query != in_header:
            raise InvalidRequest(
                f"Query parameter {field} and header Kafka-{field.capitalize()} disagree. Send one of them.",
                field=field,
            )
        if in_query is not None:
            from_headers = msgspec.structs.replace(from_headers, **{field: in_query})
    lower_case = [(name.lower(), value) for name, value in from_headers.headers]
    return msgspec.structs.replace(from_headers, headers=lower_case)


def _query_attributes(query: QueryParameters) -> MessageAttributes:
    key, partition, timestamp = query.text("key"), query.text("partition"), query.text("timestamp")
    return MessageAttributes(
        None if key is None else key.encode(),
        None if partition is None else parse_integer("partition", partition, 0, MAX_INT32),
        None if timestamp is None else parse_integer("timestamp", timestamp, 0, MAX_INT64),
    )


def header_attributes(headers: Collection[tuple[str, str]]) -> MessageAttributes:
    """Return the attributes in HTTP headers: `Kafka-Key`, `Kafka-Header-<name>`, …, trace context, CloudEvents' `ce-*`.

    Values have one character for each byte, as in HTTP. Those that are not printable ASCII require the base64 form.
    Raises `InvalidRequest`.
    """
    single: dict[str, tuple[str, str]] = {}
    for name, value in headers:
        lower = name.lower()
        if lower in single:
            raise InvalidRequest(f"{name} occurs twice. Send it once.", field=name)
        if lower in _SINGLE:
            single[lower] = name, value
    return MessageAttributes(
        _key(single),
        _number(single, "kafka-partition", MAX_INT32),
        _number(single, "kafka-timestamp", MAX_INT64),
        tuple(_message_headers(headers)),
    )


def _key(headers: dict[str, tuple[str, str]]) -> bytes | None:
    plain = headers.get("kafka-key")
    encoded = headers.get("kafka-key-base64")
    key = None if plain is None else _printable(*plain)
    if encoded is None:
        return key
    decoded = _from_base64(*encoded)
    if key is not None and key != decoded:
        raise InvalidRequest("Kafka-Key and Kafka-Key-Base64 disagree. Send one of them.", field="Kafka-Key")
    return decoded


def _number(headers: dict[str, tuple[str, str]], name: str, high: int) -> int | None:
    return None if name not in headers else parse_integer(headers[name][0], headers[name][1].strip(), 0, high)


def _message_headers(headers: Iterable[tuple[str, str]]) -> Iterator[tuple[str, bytes]]:
    for name, value in headers:
        lower = name.lower()
        if lower.startswith(_HEADER_BASE64_PREFIX):
            yield _header_name(name, _HEADER_BASE64_PREFIX), _from_base64(name, value)
        elif lower.startswith(_HEADER_PREFIX):
            yield _header_name(name, _HEADER_PREFIX), _printable(name, value)
        elif lower in _TRACE:
            yield lower, _printable(name, value)
        elif lower.startswith("ce-") and len(lower) > 3:
            yield "ce_" + lower[3:], _printable(name, value)


def _header_name(name: str, prefix: str) -> str:
    if len(name) == len(prefix):
        raise InvalidRequest(f"{name} lacks the name of a Kafka header after its prefix.", field=name)
    return name[len(prefix) :]


def _printable(name: str, value: str) -> bytes:
    if not (value.isascii() and value.isprintable()):
        form = "Kafka-Key-Base64" if name.lower() == "kafka-key" else "Kafka-Header-Base64-<name>"
        raise InvalidRequest(f"{name} is not printable ASCII. Send its bytes in base64 as {form}.", field=name)
    return value.encode()


def _from_base64(name: str, value: str) -> bytes:
    try:
        return decode_base64(value.strip())
    except ValueError as error:
        raise InvalidRequest(f"{name}: {error}.", field=name) from None
