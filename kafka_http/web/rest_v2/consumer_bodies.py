"""Parses the bodies of requests for consumer instances in the REST Proxy v2 API."""

import logging
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from kafka_http.config.spelling import within_edits
from kafka_http.consumers.consumer_offsets import check_consumer_name
from kafka_http.errors import IllegalState, InvalidConsumerConfig, InvalidRequest, InvalidValue, UnsupportedFormat
from kafka_http.records import InstanceSettings, OffsetEntry, OffsetReset, TopicPartition
from kafka_http.schemas.formats import Formats
from kafka_http.topics import check_topic_name
from kafka_http.web.json_bodies import Partition
from kafka_http.web.messages.position_syntax import milliseconds
from kafka_http.web.query_parameters import MAX_INT64
from kafka_http.web.rest_v2.v2_records import decode_object

log = logging.getLogger(__name__)

MAX_TIMEOUT = 60.0
"""Seconds. A longer timeout is shortened."""
_MAX_NAME = 200
_TYPO_EDITS = 2
_WHOLE_NUMBER = re.compile(r"-?[0-9]{1,18}")
_MAX_PATTERN = 256
_BAD_CONFIG = "Invalid consumer configuration"
_ONE_WAY = (
    "IllegalStateError: You must choose only one way to configure your consumer: (1) subscribe to specific topics by "
    "name, (2) subscribe to topics matching a regex pattern, (3) assign itself specific topic-partitions."
)
Offset = Annotated[int, Meta(ge=0, lt=MAX_INT64)]
Metadata = Annotated[str, Meta(max_length=4096)]
"""Metadata of a committed offset, up to Kafka's default limit (`offset.metadata.max.bytes`).

Kafka would commit the other offsets of a request and reject this one.
"""


class PartitionBody(Struct, frozen=True):
    """A partition in a request."""

    topic: str
    partition: Partition


class OffsetBody(PartitionBody, frozen=True):
    """An offset to commit or to seek to."""

    offset: Offset
    metadata: Metadata | None = None


class TimeBody(PartitionBody, frozen=True):
    """A time to seek to, in ISO 8601."""

    timestamp: str


class PartitionsBody(Struct, frozen=True, forbid_unknown_fields=True):
    """The body of `assignments`, `positions/beginning` and `positions/end`, and of a GET of `offsets`."""

    partitions: list[PartitionBody]


class SeekBody(Struct, frozen=True, forbid_unknown_fields=True):
    """The body of `positions`."""

    offsets: list[OffsetBody] | None = None
    timestamps: list[TimeBody] | None = None


class CommitBody(Struct, frozen=True, forbid_unknown_fields=True):
    """The body of a POST of `offsets`."""

    offsets: list[OffsetBody] | None = None


class SubscriptionBody(Struct, frozen=True, forbid_unknown_fields=True):
    """The body of `subscription`."""

    topics: list[str] | None = None
    topic_pattern: str | None = None


_create = msgspec.json.Decoder(dict[str, Any])
# Some clients put integers in quotes, which `strict=False` accepts.
_partitions = msgspec.json.Decoder(PartitionsBody, strict=False)
_seek = msgspec.json.Decoder(SeekBody, strict=False)
_commit = msgspec.json.Decoder(CommitBody, strict=False)
_subscription = msgspec.json.Decoder(SubscriptionBody)


def parse_create(body: bytes, reset: OffsetReset, formats: Formats) -> tuple[str | None, InstanceSettings]:
    """Return the name, or None, and the settings of a new instance. `reset` is the default for `auto.offset.reset`.

    Raises `InvalidRequest`, `InvalidValue`, `InvalidConsumerConfig`.
    """
    fields = {name: value for name, value in decode_object(_create, body or b"{}").items() if value is not None}
    name, id_ = fields.pop("name", None), fields.pop("id", None)
    settings: dict[str, Any] = {"reset": reset}
    for field, value in fields.items():
        if field in _SETTINGS:
            attribute, parse = _SETTINGS[field]
            settings[attribute] = parse(field, _text(field, value))
        else:
            _check_unknown(field)
    created = InstanceSettings(**settings)
    try:
        formats.check(created.format)
    except UnsupportedFormat as error:
        raise InvalidConsumerConfig(f"{_BAD_CONFIG}: format: {error.message}", field="format") from None
    return _name(id_ if name is None else name), created


def _check_unknown(field: str) -> None:
    """Raise an error for an unknown field, unless it has a dot: then it may be a setting of another server."""
    shown = field[:100]
    if field == "group.instance.id":
        raise InvalidConsumerConfig(
            f"{_BAD_CONFIG}: group.instance.id cannot be set: the server creates the id of each static member. "
            "Leave the field out.",
            field=field,
        )
    if suggestion := within_edits(shown.lower(), _SETTINGS, _TYPO_EDITS):
        raise InvalidConsumerConfig(f"{_BAD_CONFIG}: {shown}: Unknown setting. Did you mean {suggestion}?", field=shown)
    if "." not in field:
        known = ", ".join(("name", *_SETTINGS))
        raise InvalidValue(f"{shown}: Unknown field. Known fields: {known}.", field=shown)
    log.debug("Ignored a consumer setting of another server: %s", shown)


def _name(name: Any) -> str | None:
    if name is None:
        return None
    if isinstance(name, str) and 0 < len(name) <= _MAX_NAME and name.isprintable() and name not in {".", ".."}:
        return name
    raise InvalidValue(
        f"name must have 1 to {_MAX_NAME} printable characters and must not be '.' or '..'.", field="name"
    )


def _text(field: str, value: Any) -> str:
    """Return a setting's value as text: clients may quote numbers and booleans."""
    if not isinstance(value, str | int | float):
        raise InvalidValue(f"{field} must be a string, a number or a boolean.", field=field)
    return str(value).strip().lower()


def _one_of(choices: Mapping[str, Any]) -> Callable[[str, str], Any]:
    def parse(field: str, text: str) -> Any:
        if text not in choices:
            raise _bad_setting(field, text, " or ".join(choices))
        return choices[text]

    return parse


def _number(low: int) -> Callable[[str, str], int]:
    def parse(field: str, text: str) -> int:
        if not _WHOLE_NUMBER.fullmatch(text) or int(text) < low:
            raise _bad_setting(field, text, f"a whole number of at least {low}")
        return int(text)

    return parse


def _seconds(field: str, text: str) -> float:
    return min(_number(0)(field, text) / 1000, MAX_TIMEOUT)


def _bad_setting(field: str, text: str, expected: str) -> InvalidConsumerConfig:
    return InvalidConsumerConfig(f"{_BAD_CONFIG}: {field} must be {expected}, got {text[:100]!r}.", field=field)


_BOOLEAN = _one_of({"true": True, "false": False})
_SETTINGS: Mapping[str, tuple[str, Callable[[str, str], Any]]] = {
    "format": ("format", lambda _, text: text),
    "auto.offset.reset": ("reset", _one_of({each: each for each in ("earliest", "latest")})),
    "auto.commit.enable": ("auto_commit", _BOOLEAN),
    "enable.auto.commit": ("auto_commit", _BOOLEAN),
    "fetch.min.bytes": ("min_bytes", _number(-1)),
    "fetch.max.bytes": ("max_bytes", _number(1)),
    "max.poll.records": ("max_records", _number(1)),
    "isolation.level": ("isolation", _one_of({each: each for each in ("read_uncommitted", "read_committed")})),
    "consumer.request.timeout.ms": ("timeout", _seconds),
}
"""The settings of an instance in the API: the attribute of `InstanceSettings`, and the parser."""


def check_group(group: str) -> None:
    """Raise `InvalidValue` if the name of a group is not valid."""
    try:
        check_consumer_name(group)
    except InvalidRequest as error:
        raise InvalidValue(error.message, **error.fields) from None


def parse_subscription(body: bytes) -> tuple[list[str], str | None]:
    """Return the topics or the pattern to subscribe to. An empty list without a pattern unsubscribes.

    Raises `IllegalState` if the body has both or neither.
    """
    parsed = decode_object(_subscription, body)
    topics, pattern = parsed.topics, parsed.topic_pattern
    is_unsubscribe = topics == [] and pattern is None
    if bool(topics) == bool(pattern) and not is_unsubscribe:
        raise IllegalState(_ONE_WAY)
    if len(pattern or "") > _MAX_PATTERN:
        raise InvalidValue(f"topic_pattern must have at most {_MAX_PATTERN} characters.", field="topic_pattern")
    for index, topic in enumerate(topics or ()):
        _check_topic(f"topics[{index}]", topic)
    return list(dict.fromkeys(topics or ())), pattern or None


def parse_partitions(body: bytes) -> list[TopicPartition]:
    """Return the partitions in a body, without duplicates."""
    partitions = decode_object(_partitions, body).partitions
    _check_topics("partitions", partitions)
    return list(dict.fromkeys(TopicPartition(each.topic, each.partition) for each in partitions))


def parse_requested_partitions(body: bytes, topic: str | None, partitions: Sequence[str]) -> list[TopicPartition]:
    """Return the partitions that a GET asks for, in its body or in its query."""
    if body.strip():
        return parse_partitions(body)
    if topic is None or not partitions:
        raise InvalidValue("Partitions are missing. Name them in the query (?topic=…&partition=…) or in the body.")
    numbers = [each for value in partitions for each in value.split(",")]
    listed = [
        {"topic": topic, "partition": int(each) if each.isdecimal() and len(each) < 11 else -1} for each in numbers
    ]
    return parse_partitions(msgspec.json.encode({"partitions": listed}))


def parse_seek(body: bytes) -> tuple[list[OffsetEntry], list[OffsetEntry]]:
    """Return the offsets to seek to, and the times to seek to: entries with milliseconds instead of offsets."""
    parsed = decode_object(_seek, body)
    if parsed.offsets is None and parsed.timestamps is None:
        raise InvalidValue("The body must have offsets, timestamps or both.", field="offsets")
    _check_topics("timestamps", parsed.timestamps or ())
    times = [
        OffsetEntry(each.topic, each.partition, _time(index, each.timestamp))
        for index, each in enumerate(parsed.timestamps or ())
    ]
    return _offset_entries(parsed.offsets or ()), times


def _time(index: int, text: str) -> int:
    try:
        return milliseconds(datetime.fromisoformat(text))
    except (ValueError, OverflowError):
        field = f"timestamps[{index}].timestamp"
        raise InvalidValue(f"{field} must be a time in ISO 8601, such as 2026-11-21T10:00:00Z.", field=field) from None


def parse_commit(body: bytes) -> list[OffsetEntry] | None:
    """Return the offsets to commit, or None to commit those of all delivered records."""
    offsets = decode_object(_commit, body).offsets if body.strip() else None
    return None if offsets is None else _offset_entries(offsets)


def _offset_entries(offsets: Sequence[OffsetBody]) -> list[OffsetEntry]:
    _check_topics("offsets", offsets)
    return [OffsetEntry(each.topic, each.partition, each.offset, each.metadata or "") for each in offsets]


def _check_topics(field: str, partitions: Collection[PartitionBody]) -> None:
    for index, each in enumerate(partitions):
        _check_topic(f"{field}[{index}].topic", each.topic)


def _check_topic(field: str, topic: str) -> None:
    try:
        check_topic_name(topic)
    except InvalidRequest as error:
        raise InvalidValue(f"{field}: {error.message}", field=field) from None
