"""What a request says of its messages beside the body: key, partition, timestamp, headers.

It says so in the query (`?key=`), in headers (`Kafka-Key`), or in the headers of a part of a multipart body.
"""

from collections.abc import Collection, Iterable, Iterator

import msgspec

from kafka_http.encoding import decode_base64
from kafka_http.errors import InvalidRequest
from kafka_http.records import Headers, ProducerRecord
from kafka_http.web.query_parameters import MAX_INT32, MAX_INT64, QueryParameters, integer

_HEADER = "kafka-header-"
_HEADER_BASE64 = "kafka-header-base64-"
_TRACE = {"traceparent", "tracestate"}
_SINGLE = frozenset(("kafka-key", "kafka-key-base64", "kafka-partition", "kafka-timestamp"))
_PREFIXES = ("kafka-", "ce-", *_TRACE)


class MessageAttributes(msgspec.Struct, frozen=True):
    """What is said once for all messages of a request, or for one part of it. None where nothing is said."""

    key: bytes | None = None
    partition: int | None = None
    timestamp: int | None = None
    headers: Headers = ()

    def fill(self, record: ProducerRecord) -> ProducerRecord:
        """The record with these attributes where it has none of its own; of headers, each name it has not."""
        if self == _NONE:
            return record
        key_is_ours = record.key is None and self.key is not None
        own = {name for name, _ in record.headers}
        return ProducerRecord(
            record.value,
            self.key if key_is_ours else record.key,
            self.partition if record.partition is None else record.partition,
            self.timestamp if record.timestamp is None else record.timestamp,
            [*record.headers, *(pair for pair in self.headers if pair[0] not in own)],
            record.format,
            None if key_is_ours else record.key_format,
        )


_NONE = MessageAttributes()


def request_attributes(query: QueryParameters, headers: Collection[tuple[str, str]]) -> MessageAttributes | None:
    """Those of a whole request, whose header names are in lower case; None where it says nothing.

    Raises `InvalidRequest` where query and header disagree.
    """
    ours = [(name.title(), value) for name, value in headers if name.startswith(_PREFIXES)]
    from_query = _query_attributes(query) if query else _NONE
    if not ours and from_query == _NONE:
        return None
    from_headers = header_attributes(ours)
    for field in ("key", "partition", "timestamp"):
        said, also = getattr(from_query, field), getattr(from_headers, field)
        if said is not None and also is not None and said != also:
            raise InvalidRequest(
                f"The query's {field} and the header Kafka-{field.capitalize()} disagree: send one of them.",
                field=field,
            )
        if said is not None:
            from_headers = msgspec.structs.replace(from_headers, **{field: said})
    in_lower_case = [(name.lower(), value) for name, value in from_headers.headers]
    return msgspec.structs.replace(from_headers, headers=in_lower_case)


def _query_attributes(query: QueryParameters) -> MessageAttributes:
    key, partition, timestamp = query.text("key"), query.text("partition"), query.text("timestamp")
    return MessageAttributes(
        None if key is None else key.encode(),
        None if partition is None else integer("partition", partition, 0, MAX_INT32),
        None if timestamp is None else integer("timestamp", timestamp, 0, MAX_INT64),
    )


def header_attributes(headers: Collection[tuple[str, str]]) -> MessageAttributes:
    """Those in HTTP headers (`Kafka-Key`, `Kafka-Header-<name>`, …, trace context, CloudEvents' `ce-*`).

    Values are as HTTP has them, a character a byte; one that is not printable ASCII must come in the base64 form.
    """
    known: dict[str, tuple[str, str]] = {}
    for name, value in headers:
        lower = name.lower()
        if lower in known:
            raise InvalidRequest(f"{name} is there twice: send it once.", field=name)
        if lower in _SINGLE:
            known[lower] = name, value
    return MessageAttributes(
        _key(known),
        _number(known, "kafka-partition", MAX_INT32),
        _number(known, "kafka-timestamp", MAX_INT64),
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
        raise InvalidRequest("Kafka-Key and Kafka-Key-Base64 disagree: send one of them.", field="Kafka-Key")
    return decoded


def _number(headers: dict[str, tuple[str, str]], name: str, high: int) -> int | None:
    return None if name not in headers else integer(headers[name][0], headers[name][1].strip(), 0, high)


def _message_headers(headers: Iterable[tuple[str, str]]) -> Iterator[tuple[str, bytes]]:
    for name, value in headers:
        lower = name.lower()
        if lower.startswith(_HEADER_BASE64):
            yield _name(name, _HEADER_BASE64), _from_base64(name, value)
        elif lower.startswith(_HEADER):
            yield _name(name, _HEADER), _printable(name, value)
        elif lower in _TRACE:
            yield lower, _printable(name, value)
        elif lower.startswith("ce-") and len(lower) > 3:
            yield "ce_" + lower[3:], _printable(name, value)


def _name(name: str, prefix: str) -> str:
    if len(name) == len(prefix):
        raise InvalidRequest(f"{name}: a Kafka header needs a name behind the prefix.", field=name)
    return name[len(prefix) :]


def _printable(name: str, value: str) -> bytes:
    if not (value.isascii() and value.isprintable()):
        form = "Kafka-Key-Base64" if name.lower() == "kafka-key" else "Kafka-Header-Base64-<name>"
        raise InvalidRequest(f"{name}: not printable ASCII; send its bytes in base64 as {form}.", field=name)
    return value.encode()


def _from_base64(name: str, value: str) -> bytes:
    try:
        return decode_base64(value.strip())
    except ValueError as error:
        raise InvalidRequest(f"{name}: {error}.", field=name) from None
