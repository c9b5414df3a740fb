"""The bodies of the v2 API's calls of consumers."""

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
from kafka_http.records import InstanceSettings, OffsetReset, RecordPlace, TopicPartition
from kafka_http.schemas.formats import Formats
from kafka_http.topics import check_topic_name
from kafka_http.web.json_bodies import Partition
from kafka_http.web.messages.position_syntax import milliseconds
from kafka_http.web.query_parameters import MAX_INT64
from kafka_http.web.rest_v2.v2_records import decode_object

log = logging.getLogger(__name__)

MAX_TIMEOUT = 60.0
"""In seconds; a longer one counts as that."""
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
"""Of a committed offset. Kafka's default limit (`offset.metadata.max.bytes`): it commits the others of a request."""


class PartitionBody(Struct, frozen=True):
    topic: str
    partition: Partition


class OffsetBody(PartitionBody, frozen=True):
    offset: Offset
    metadata: Metadata | None = None


class TimeBody(PartitionBody, frozen=True):
    timestamp: str


class PartitionsBody(Struct, frozen=True, forbid_unknown_fields=True):
    partitions: list[PartitionBody]


class SeekBody(Struct, frozen=True, forbid_unknown_fields=True):
    offsets: list[OffsetBody] | None = None
    timestamps: list[TimeBody] | None = None


class CommitBody(Struct, frozen=True, forbid_unknown_fields=True):
    offsets: list[OffsetBody] | None = None


class SubscriptionBody(Struct, frozen=True, forbid_unknown_fields=True):
    topics: list[str] | None = None
    topic_pattern: str | None = None


_create = msgspec.json.Decoder(dict[str, Any])
# Some clients put integers in quotes, which `strict=False` accepts.
_partitions = msgspec.json.Decoder(PartitionsBody, strict=False)
_seek = msgspec.json.Decoder(SeekBody, strict=False)
_commit = msgspec.json.Decoder(CommitBody, strict=False)
_subscription = msgspec.json.Decoder(SubscriptionBody)


def parse_create(body: bytes, reset: OffsetReset, formats: Formats) -> tuple[str | None, InstanceSettings]:
    """The name, where one is given, and the settings of an instance; `reset` is for one that names none.

    Raises `InvalidRequest`, `InvalidValue`, `InvalidConsumerConfig`.
    """
    fields = {name: value for name, value in decode_object(_create, body or b"{}").items() if value is not None}
    name, other_name = fields.pop("name", None), fields.pop("id", None)
    settings: dict[str, Any] = {"reset": reset}
    for field, value in fields.items():
        if field in _SETTINGS:
            ours, parse = _SETTINGS[field]
            settings[ours] = parse(field, _text(field, value))
        else:
            _check_foreign(field)
    created = InstanceSettings(**settings)
    try:
        formats.check(created.format)
    except UnsupportedFormat as error:
        raise InvalidConsumerConfig(f"{_BAD_CONFIG}: format: {error.message}", field="format") from None
    return _name(other_name if name is None else name), created


def _check_foreign(field: str) -> None:
    """Raise for a field that is not a setting, unless it is one of another server: those have a dot."""
    shown = field[:100]
    if field == "group.instance.id":
        raise InvalidConsumerConfig(
            f"{_BAD_CONFIG}: group.instance.id: it cannot be set. Each instance is a static member of its group under "
            "an id that this server makes. Leave the field out.",
            field=field,
        )
    if suggestion := within_edits(shown.lower(), _SETTINGS, _TYPO_EDITS):
        raise InvalidConsumerConfig(
            f"{_BAD_CONFIG}: {shown}: there is no such setting. Did you mean {suggestion}?", field=shown
        )
    if "." not in field:
        there = ", ".join(("name", *_SETTINGS))
        raise InvalidValue(f"{shown}: there is no such field; there are: {there}.", field=shown)
    log.debug("Ignored a consumer setting of another server: %s", shown)


def _name(given: Any) -> str | None:
    if given is None:
        return None
    if isinstance(given, str) and 0 < len(given) <= _MAX_NAME and given.isprintable() and given not in {".", ".."}:
        return given
    raise InvalidValue(f"name: expected 1 to {_MAX_NAME} printable characters, but neither '.' nor '..'.", field="name")


def _text(field: str, value: Any) -> str:
    """A setting's value as text: numbers and booleans may be quoted."""
    if not isinstance(value, str | int | float):
        raise InvalidValue(f"{field}: expected a text, a number or a boolean.", field=field)
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
    return InvalidConsumerConfig(f"{_BAD_CONFIG}: {field}: expected {expected}, got {text[:100]!r}.", field=field)


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
"""The API's settings of an instance: what we call them, and how they are read."""


def check_group(group: str) -> None:
    """Raise `InvalidValue` for a name that is no good for a group."""
    try:
        check_consumer_name(group)
    except InvalidRequest as error:
        raise InvalidValue(error.message, **error.fields) from None


def parse_subscription(body: bytes) -> tuple[list[str], str | None]:
    """The topics, or the pattern, to subscribe to. An empty list of topics unsubscribes. Raises `IllegalState` where
    the body has both, or neither."""
    asked = decode_object(_subscription, body)
    unsubscribes = asked.topics == [] and asked.topic_pattern is None
    if bool(asked.topics) == bool(asked.topic_pattern) and not unsubscribes:
        raise IllegalState(_ONE_WAY)
    if len(asked.topic_pattern or "") > _MAX_PATTERN:
        raise InvalidValue(f"topic_pattern: it is longer than {_MAX_PATTERN} characters.", field="topic_pattern")
    for index, topic in enumerate(asked.topics or ()):
        _check_topic(f"topics[{index}]", topic)
    return list(dict.fromkeys(asked.topics or ())), asked.topic_pattern or None


def parse_partitions(body: bytes) -> list[TopicPartition]:
    """The partitions that a body lists."""
    return _listed(decode_object(_partitions, body).partitions)


def _listed(partitions: Sequence[PartitionBody]) -> list[TopicPartition]:
    _check_topics("partitions", partitions)
    return list(dict.fromkeys(TopicPartition(each.topic, each.partition) for each in partitions))


def parse_asked_partitions(body: bytes, topic: str | None, partitions: Sequence[str]) -> list[TopicPartition]:
    """The partitions that a GET asks for, in its body or in its query."""
    if body.strip():
        return parse_partitions(body)
    if topic is None or not partitions:
        raise InvalidValue("Which partitions? Name them in the query, ?topic=…&partition=…, or in a body.")
    numbers = [each for listed in partitions for each in listed.split(",")]
    asked = [
        {"topic": topic, "partition": int(each) if each.isdecimal() and len(each) < 11 else -1} for each in numbers
    ]
    return parse_partitions(msgspec.json.encode({"partitions": asked}))


def parse_seek(body: bytes) -> tuple[list[RecordPlace], list[RecordPlace]]:
    """The offsets to seek to, and the times: milliseconds in place of their offsets."""
    asked = decode_object(_seek, body)
    if asked.offsets is None and asked.timestamps is None:
        raise InvalidValue("Seek to what? Send offsets, or timestamps.", field="offsets")
    _check_topics("timestamps", asked.timestamps or ())
    times = [
        RecordPlace(each.topic, each.partition, _time(index, each.timestamp))
        for index, each in enumerate(asked.timestamps or ())
    ]
    return _places(asked.offsets or ()), times


def _time(index: int, text: str) -> int:
    try:
        return milliseconds(datetime.fromisoformat(text))
    except (ValueError, OverflowError):
        field = f"timestamps[{index}].timestamp"
        raise InvalidValue(
            f"{field}: expected a time as ISO 8601 has it, such as 2026-11-21T10:00:00Z.", field=field
        ) from None


def parse_commit(body: bytes) -> list[RecordPlace] | None:
    """The offsets to commit; None for what was delivered."""
    asked = decode_object(_commit, body).offsets if body.strip() else None
    return None if asked is None else _places(asked)


def _places(offsets: Sequence[OffsetBody]) -> list[RecordPlace]:
    _check_topics("offsets", offsets)
    return [RecordPlace(each.topic, each.partition, each.offset, each.metadata or "") for each in offsets]


def _check_topics(field: str, named: Collection[PartitionBody]) -> None:
    for index, each in enumerate(named):
        _check_topic(f"{field}[{index}].topic", each.topic)


def _check_topic(field: str, topic: str) -> None:
    try:
        check_topic_name(topic)
    except InvalidRequest as error:
        raise InvalidValue(f"{field}: {error.message}", field=field) from None
