"""The formats there are: each a serialiser, applied to records on their way in and out."""

import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Literal

import msgspec
from msgspec import Struct

from kafka_http.encoding import check_json, has_more_values
from kafka_http.errors import (
    InvalidPayload,
    InvalidRequest,
    InvalidValue,
    KafkaHttpError,
    MissingKeySchema,
    MissingValueSchema,
    PublishTimeout,
    TooLarge,
    Unavailable,
    UnsupportedFormat,
)
from kafka_http.records import Headers, NewRecord, ProducerRecord
from kafka_http.schemas.loading_cache import WouldBlock
from kafka_http.schemas.serializers import Serializers
from kafka_http.schemas.topic_formats import TopicFormat, TopicFormats

Role = Literal["key", "value"]
MAX_ENCODED = 256 << 20
"""Bytes that a request's records may come to when they are serialised: a few that were sent may stand for very many."""

MAX_VALUES = 1_000_000
"""JSON values in one record's key or value, for a format that needs them as objects: each takes 100 bytes of memory."""


class SchemaChoice(Struct, frozen=True, omit_defaults=True):
    """Which schema a request names for its keys or its values; the default of their format where it names none."""

    schema: str | None = None
    schema_id: int | None = None
    subject: str | None = None
    version: str | None = None

    def params(self) -> dict[str, Any]:
        """Of `for_request`."""
        return {name: value for name, value in msgspec.structs.asdict(self).items() if value is not None}


class Schemas(Struct, frozen=True):
    """The schemas that a request names. `required`: a format that needs one has no default."""

    key: SchemaChoice = SchemaChoice()
    value: SchemaChoice = SchemaChoice()
    required: bool = False


NO_SCHEMAS = Schemas()
_NONE = SchemaChoice()


class Encoded(Struct, frozen=True):
    """A request's records as Kafka is to store them, and the ids of the schemas that they were written with, if any."""

    records: Sequence[NewRecord]
    schema_ids: Mapping[Role, int]


class Formats:
    """Serialises and deserialises by name. Safe in many threads."""

    def __init__(self, serializers: Serializers, topics: Mapping[str, Any] | None = None) -> None:
        """`topics` are the settings of formats by topic. Raises `ConfigError`."""
        self._serializers = serializers.loaded
        self._missing = serializers.missing
        immediate = {name for name, each in self._serializers.items() if getattr(each, "immediate", False)}
        self._immediate: set[str | None] = {None, *immediate}
        verbatim = {name for name, each in self._serializers.items() if getattr(each, "verbatim", False)}
        self._verbatim: set[str | None] = {None, *verbatim}
        self._takes_json_text = {name: getattr(each, "json_text", False) for name, each in self._serializers.items()}
        self._topics = TopicFormats(topics or {}, self.check)

    @property
    def names(self) -> list[str]:
        return list(self._serializers)

    def check(self, name: str) -> None:
        """Raise `UnsupportedFormat` where no serialiser has that name."""
        if name not in self._serializers:
            why = self._missing.get(name, f"No serialiser is named {name!r}.")
            raise UnsupportedFormat(f"{why} There are: {', '.join(self._serializers)}.", formats=self.names)

    def of_topic(self, topic: str) -> TopicFormat:
        """The formats of a topic's keys and values where a request does not name them."""
        return self._topics.of(topic)

    def takes_schema(self, name: str) -> bool:
        """Whether a format is told of the schemas that a request names."""
        return hasattr(self._serializers[name], "for_request")

    def are_immediate(self, records: Sequence[ProducerRecord]) -> bool:
        """Whether these records are serialised without waiting for anything, or raise `WouldBlock`."""
        return _formats(records) <= self._immediate

    def encode(
        self,
        topic: str,
        records: Sequence[ProducerRecord],
        schemas: Schemas = NO_SCHEMAS,
        *,
        blocking: bool = True,
        first: int = 0,
        deadline: float = math.inf,
    ) -> Encoded:
        """Serialise a request's records, from that of the index `first` on. Raises for the first that cannot be, naming
        its index and field.

        What is wrong with a schema is raised before any record is looked at. With `blocking=False` raises `WouldBlock`
        where a serialiser would have to wait, `PublishTimeout` once `deadline` (monotonic clock) has passed.
        """
        if schemas == NO_SCHEMAS and _formats(records) <= self._verbatim:
            return Encoded(records, {})
        return _Encoding(self, topic, schemas, blocking, deadline).of(records, first)

    def serializer(self, name: str) -> Any:
        """What is called to serialise. Raises `UnsupportedFormat`."""
        self.check(name)
        return self._serializers[name]

    def decode(self, topic: str, name: str, headers: Headers, data: bytes) -> bytes:
        """The JSON text of stored bytes. Raises `InvalidValue` where the format cannot read them, and
        `Unavailable` where it cannot be known now whether it can."""
        try:
            value = self._serializers[name].deserialize(topic, headers, data)
            return value if self._takes_json_text[name] else msgspec.json.encode(value)
        except Unavailable:
            raise
        except Exception as error:
            raise InvalidValue(f"format {name!r} cannot read it: {error}") from error

    def detect(self, data: bytes) -> tuple[str, bytes]:
        """The format that fits these bytes, and their JSON text: `json`, else `text`, else `binary`.

        The four bytes `null` are text, so that a null in an answer always is a tombstone.
        """
        try:
            check_json(data)
            if data.strip() != b"null":
                return "json", data
        except ValueError:
            pass
        try:
            return "text", msgspec.json.encode(str(data, "utf-8"))
        except UnicodeDecodeError:
            return "binary", self.decode("", "binary", [], data)


def _formats(records: Sequence[ProducerRecord]) -> set[str | None]:
    return {each.format for each in records} | {each.key_format for each in records}


class _Writer(Struct, frozen=True):
    serialize: Callable[[str, Headers, Any], Any]
    takes_json_text: bool


class _Encoding:
    """One request's records while they are serialised."""

    def __init__(self, formats: Formats, topic: str, schemas: Schemas, blocking: bool, deadline: float) -> None:
        self._formats = formats
        self._topic = topic
        self._schemas = schemas
        self._blocking = blocking
        self._deadline = deadline
        self._writers: dict[tuple[Role, str], _Writer] = {}
        self._schema_ids: dict[Role, int] = {}
        self._left = MAX_ENCODED

    def of(self, records: Sequence[ProducerRecord], first: int) -> Encoded:
        if self._schemas.key != _NONE:
            self._look_at_schema("key", {each.key_format for each in records})
        if self._schemas.value != _NONE:
            self._look_at_schema("value", {each.format for each in records})
        return Encoded([self._record(index, record) for index, record in enumerate(records, first)], self._schema_ids)

    def _look_at_schema(self, role: Role, names: Collection[str | None]) -> None:
        takers = [name for name in names if name is not None and self._formats.takes_schema(name)]
        if not takers:
            raise InvalidRequest(
                f"A schema is named for the {role}s, and the format of none of them takes one.", field=role
            )
        for name in takers:
            self._writers[role, name] = self._writer(role, name)

    def _record(self, index: int, record: ProducerRecord) -> NewRecord:
        if time.monotonic() > self._deadline:
            raise PublishTimeout
        value, key = record.value, record.key
        if value is not None and record.format is not None:
            value = self._encode(index, record, "value", record.format)
        if key is not None and record.key_format is not None:
            key = self._encode(index, record, "key", record.key_format)
        return NewRecord(value, key, record.partition, record.timestamp, record.headers)

    def _encode(self, index: int, record: ProducerRecord, role: Role, name: str) -> bytes:
        writer = self._writers.get((role, name)) or self._first(index, role, name)
        text: bytes = getattr(record, role)
        try:
            data = text if writer.takes_json_text else _decoded(text)
            stored = _as_bytes(writer.serialize(self._topic, record.headers, data))
        except WouldBlock:
            raise
        except Exception as error:
            raise _located(error, index, role) from error
        self._left -= len(stored)
        if self._left < 0:
            raise TooLarge(f"The records come to more than {MAX_ENCODED} bytes when they are serialised.")
        return stored

    def _first(self, index: int, role: Role, name: str) -> _Writer:
        """The writer of a format where the first record has it."""
        try:
            self._formats.check(name)
        except UnsupportedFormat as error:
            raise _located(error, index, role) from None
        writer = self._writers[role, name] = self._writer(role, name)
        return writer

    def _writer(self, role: Role, name: str) -> _Writer:
        serializer = self._formats.serializer(name)
        writes = self._for_request(serializer, role, name) if self._formats.takes_schema(name) else serializer
        return _Writer(writes.serialize, getattr(serializer, "json_text", False))

    def _for_request(self, serializer: Any, role: Role, name: str) -> Any:
        choice = getattr(self._schemas, role)
        if self._schemas.required and choice == _NONE and getattr(serializer, "needs_schema", False):
            missing = MissingKeySchema if role == "key" else MissingValueSchema
            raise missing(
                f"Request includes {role}s but does not include {role} schema: send {role}_schema_id or {role}_schema."
            )
        params = {} if self._blocking else {"blocking": False}
        try:
            made = serializer.for_request(role, self._topic, **choice.params(), **params)
        except (KafkaHttpError, WouldBlock):
            raise
        except Exception as error:
            raise InvalidValue(f"The format {name!r} cannot serialise the {role}s: {error}", field=role) from error
        schema_id = getattr(made, "schema_id", None)
        if schema_id is not None:
            self._schema_ids[role] = schema_id
        return made


def _decoded(text: bytes) -> Any:
    """The value of a JSON text, as Python objects. Raises `TooLarge`."""
    if has_more_values(text, MAX_VALUES):
        raise TooLarge(f"It has more than {MAX_VALUES} JSON values.", limit=MAX_VALUES)
    return msgspec.json.decode(text)


def _as_bytes(stored: Any) -> bytes:
    if not isinstance(stored, bytes | bytearray | memoryview):
        raise TypeError(f"its serialiser gave {type(stored).__name__} where bytes were wanted")
    return bytes(stored)


def _located(error: Exception, index: int, role: Role) -> KafkaHttpError:
    """The error of a record, with its index and the field."""
    where = f"records[{index}].{role}"
    if isinstance(error, InvalidPayload):
        return type(error)(error.problem, where + error.path, record=index, field=role + error.path)
    if isinstance(error, KafkaHttpError):
        return type(error)(f"{where}: {error.message}", **{"record": index, "field": role, **error.fields})
    return InvalidValue(f"{where}: {error}", record=index, field=role)
