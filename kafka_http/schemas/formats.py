"""Apply formats (serializers) to records on their way to Kafka and back."""

import math
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import repeat
from typing import Any, Literal

import msgspec
from msgspec import Raw, Struct

from kafka_http.encoding import check_json, has_more_values, json_texts
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
    WouldBlock,
)
from kafka_http.records import BareValues, Headers, NewRecord, ProducerRecord, Record
from kafka_http.schemas.schemaless_serializers import JsonSerializer
from kafka_http.schemas.serializers import Serializers
from kafka_http.schemas.topic_formats import TopicFormat, TopicFormats

Role = Literal["key", "value"]
AUTO = "auto"
"""In a read: the topic's format, else the format that recognizes the bytes, else what `detect` finds."""
MAX_ENCODED = 256 << 20
"""Limit of bytes for the serialized records of a request: defaults in a schema can make a small request large."""

MAX_VALUES = 1_000_000
"""JSON values in a key or value that a serializer gets as Python objects: each takes about 100 bytes of memory."""


class SchemaChoice(Struct, frozen=True, omit_defaults=True):
    """The schema that a request names for its keys or its values. If it names none, the format's default applies."""

    schema: str | None = None
    schema_id: int | None = None
    subject: str | None = None
    version: str | None = None

    def params(self) -> dict[str, Any]:
        """Return the parameters for a serializer's `for_request`."""
        return {name: value for name, value in msgspec.structs.asdict(self).items() if value is not None}


class Schemas(Struct, frozen=True):
    """The schemas that a request names. `required`: a format that needs a schema has no default."""

    key: SchemaChoice = SchemaChoice()
    value: SchemaChoice = SchemaChoice()
    required: bool = False


NO_SCHEMAS = Schemas()
_NO_CHOICE = SchemaChoice()


class Encoded(Struct, frozen=True, gc=False):
    """The serialized records of a request, and the ids of the schemas in use."""

    records: Sequence[NewRecord] | BareValues
    schema_ids: Mapping[Role, int]


class Formats:
    """Serializes and deserializes by the name of a format. Safe in many threads."""

    def __init__(self, serializers: Serializers, topics: Mapping[str, Any] | None = None) -> None:
        """`topics` is the settings section of default formats. Raises `ConfigError`."""
        self._serializers = serializers.loaded
        self._missing = serializers.missing
        self._immediate = self._names_with("immediate")
        self._decoded_at_once = self._immediate - {
            name for name, each in self._serializers.items() if hasattr(each, "for_request")
        }
        self._verbatim = self._names_with("verbatim")
        self._takes_json_text = {name: getattr(each, "json_text", False) for name, each in self._serializers.items()}
        self._recognizers = {
            name: each.recognizes for name, each in self._serializers.items() if hasattr(each, "recognizes")
        }
        self._topics = TopicFormats(topics or {}, self.check)

    def _names_with(self, attribute: str) -> set[str | None]:
        return {None, *(name for name, each in self._serializers.items() if getattr(each, attribute, False))}

    @property
    def names(self) -> list[str]:
        """The available formats."""
        return list(self._serializers)

    def check(self, name: str) -> None:
        """Raise `UnsupportedFormat` if no format of this name is available."""
        if name not in self._serializers:
            problem = self._missing.get(name, f"Unknown format {name!r}.")
            raise UnsupportedFormat(f"{problem} Available formats: {', '.join(self.names)}.", formats=self.names)

    def topic_format(self, topic: str) -> TopicFormat:
        """Return the default formats of a topic's keys and values."""
        return self._topics.find(topic)

    def takes_schema(self, name: str) -> bool:
        """Return whether a request may name a schema for a format."""
        return hasattr(self._serializers[name], "for_request")

    def is_verbatim(self, name: str | None) -> bool:
        """Return whether a format, or None, stores the texts of values as they are."""
        return name in self._verbatim

    def encode(
        self,
        topic: str,
        records: Sequence[ProducerRecord] | BareValues,
        schemas: Schemas = NO_SCHEMAS,
        *,
        blocking: bool = True,
        first: int = 0,
        deadline: float = math.inf,
    ) -> Encoded:
        """Serialize the records of a request. `first` is the index of the first record in the request.

        Raises for a bad schema before it looks at any record, and for the first record that cannot be serialized, with
        its index and field. With `blocking=False` raises `WouldBlock` instead of waiting; after `deadline` (monotonic
        clock) raises `PublishTimeout`.
        """
        if isinstance(records, BareValues):
            return Encoded(records, {})
        formats = {each.format for each in records} | {each.key_format for each in records}
        # The common case, JSON texts and bytes: nothing is called for each record.
        if schemas.key == schemas.value == _NO_CHOICE and formats <= self._verbatim:
            return Encoded(records, {})
        if not (blocking or formats <= self._immediate):
            raise WouldBlock
        return _RequestEncoder(self, topic, schemas, blocking, deadline).encode(records, first)

    def serializer(self, name: str) -> Any:
        """Return the serializer of a format. Raises `UnsupportedFormat`."""
        self.check(name)
        return self._serializers[name]

    def decode(self, topic: str, name: str, headers: Headers, data: bytes) -> bytes:
        """Return the JSON text of stored bytes.

        Raises `InvalidValue` if the format cannot read them, and `Unavailable` if the schema registry is needed and
        does not answer.
        """
        try:
            value = self._serializers[name].deserialize(topic, headers, data)
            return value if self._takes_json_text[name] else msgspec.json.encode(value)
        except Unavailable:
            raise
        except Exception as error:
            raise InvalidValue(f"format {name!r} cannot read it: {error}") from error

    def decode_all(
        self, topic: str, name: str, headers: Sequence[Headers], data: Sequence[bytes | None]
    ) -> Sequence[Raw | InvalidValue | None]:
        """Return the JSON text of the stored bytes of each record, or the error if the format cannot read them.

        Raises `Unavailable` if the schema registry is needed and does not answer.
        """
        if isinstance(self._serializers[name], JsonSerializer) and (texts := json_texts(data)) is not None:
            return texts
        return [
            None if each is None else self._decode_or_error(topic, name, of_each, each)
            for of_each, each in zip(headers, data, strict=True)
        ]

    def _decode_or_error(self, topic: str, name: str, headers: Headers, data: bytes) -> Raw | InvalidValue:
        try:
            return Raw(self.decode(topic, name, headers, data))
        except InvalidValue as error:
            return error

    def detect_all(self, data: Sequence[bytes | None]) -> tuple[Iterable[str | None], Sequence[Raw | None]]:
        """Return the formats of many values and their JSON texts, as `detect` does. Both are None for None."""
        texts = json_texts(data)
        if texts is not None and b"null" not in map(bytes.strip, filter(None, data)):
            return repeat("json") if all(data) else [None if each is None else "json" for each in data], texts
        detected = [(None, None) if each is None else self.detect(each) for each in data]
        return [name for name, _ in detected], [None if text is None else Raw(text) for _, text in detected]

    def recognize_all(
        self, topic: str, headers: Sequence[Headers], data: Sequence[bytes | None]
    ) -> tuple[list[str | None], list[Raw | None]]:
        """Return the formats that recognize stored bytes as their own, and the JSON texts. Both are None for others.

        If the schema registry does not answer, the rest is not recognized: each attempt would wait for it.
        """
        names: list[str | None] = [None] * len(data)
        texts: list[Raw | None] = [None] * len(data)
        with suppress(Unavailable):
            for at, each in enumerate(data):
                name = None if each is None else self._format_of(each)
                decoded = (
                    None if each is None or name is None else self._decode_or_error(topic, name, headers[at], each)
                )
                if isinstance(decoded, Raw):
                    names[at], texts[at] = name, decoded
        return names, texts

    def _format_of(self, data: bytes) -> str | None:
        return next((name for name, recognizes in self._recognizers.items() if recognizes(data)), None)

    def may_wait(self, decode_as: TopicFormat, records: Iterable[Record]) -> bool:
        """Return whether decoding these records may wait for the schema registry."""
        names = {decode_as.key, decode_as.value} - {AUTO}
        if not names <= self._decoded_at_once:
            return True
        has_auto = AUTO in (decode_as.key, decode_as.value) and self._recognizers
        return bool(has_auto) and any(
            each is not None and self._format_of(each) is not None
            for record in records
            for each in (record.key, record.value)
        )

    def detect(self, data: bytes) -> tuple[str, bytes]:
        """Return the first of `json`, `text` and `binary` that can read these bytes, and their JSON text.

        The four bytes `null` are text, so that a null in a response always is a null in Kafka.
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


class _Writer(Struct, frozen=True):
    serialize: Callable[[str, Headers, Any], Any]
    takes_json_text: bool


class _RequestEncoder:
    """Serializes the records of one request."""

    def __init__(self, formats: Formats, topic: str, schemas: Schemas, blocking: bool, deadline: float) -> None:
        self._formats = formats
        self._topic = topic
        self._schemas = schemas
        self._blocking = blocking
        self._deadline = deadline
        self._writers: dict[tuple[Role, str], _Writer] = {}
        self._schema_ids: dict[Role, int] = {}
        self._bytes_left = MAX_ENCODED

    def encode(self, records: Sequence[ProducerRecord], first: int) -> Encoded:
        if self._schemas.key != _NO_CHOICE:
            self._check_schema("key", {each.key_format for each in records})
        if self._schemas.value != _NO_CHOICE:
            self._check_schema("value", {each.format for each in records})
        encoded = [self._encode_record(index, record) for index, record in enumerate(records, first)]
        return Encoded(encoded, self._schema_ids)

    def _check_schema(self, role: Role, names: Collection[str | None]) -> None:
        with_schema = [name for name in names if name is not None and self._formats.takes_schema(name)]
        if not with_schema:
            raise InvalidRequest(
                f"The request names a schema for the {role}s, but no {role} format uses one.", field=role
            )
        for name in with_schema:
            self._writers[role, name] = self._create_writer(role, name)

    def _encode_record(self, index: int, record: ProducerRecord) -> NewRecord:
        if time.monotonic() > self._deadline:
            raise PublishTimeout
        value, key = record.value, record.key
        if value is not None and record.format is not None:
            value = self._encode_field(index, record, "value", record.format)
        if key is not None and record.key_format is not None:
            key = self._encode_field(index, record, "key", record.key_format)
        return NewRecord(value, key, record.partition, record.timestamp, record.headers)

    def _encode_field(self, index: int, record: ProducerRecord, role: Role, name: str) -> bytes:
        writer = self._writers.get((role, name)) or self._first_writer(index, role, name)
        text: bytes = getattr(record, role)
        try:
            data = text if writer.takes_json_text else _parse(text)
            stored = _as_bytes(writer.serialize(self._topic, record.headers, data))
        except WouldBlock:
            raise
        except Exception as error:
            raise _with_location(error, index, role) from error
        # A default in a schema can make a small text large, so the limit of the body is not enough.
        self._bytes_left -= len(stored)
        if self._bytes_left < 0:
            raise TooLarge(f"The serialized records have more than {MAX_ENCODED} bytes.")
        return stored

    def _first_writer(self, index: int, role: Role, name: str) -> _Writer:
        """Return the writer of a format that first occurs in the record with this index."""
        try:
            self._formats.check(name)
        except UnsupportedFormat as error:
            raise _with_location(error, index, role) from None
        writer = self._writers[role, name] = self._create_writer(role, name)
        return writer

    def _create_writer(self, role: Role, name: str) -> _Writer:
        serializer = self._formats.serializer(name)
        target = self._for_request(serializer, role, name) if self._formats.takes_schema(name) else serializer
        return _Writer(target.serialize, getattr(serializer, "json_text", False))

    def _for_request(self, serializer: Any, role: Role, name: str) -> Any:
        choice = getattr(self._schemas, role)
        if self._schemas.required and choice == _NO_CHOICE and getattr(serializer, "needs_schema", False):
            missing = MissingKeySchema if role == "key" else MissingValueSchema
            raise missing(
                f"Request includes {role}s but does not include {role} schema: send {role}_schema_id or {role}_schema."
            )
        params = {} if self._blocking else {"blocking": False}
        try:
            for_request = serializer.for_request(role, self._topic, **choice.params(), **params)
        except (KafkaHttpError, WouldBlock):
            raise
        except Exception as error:
            raise InvalidValue(f"Format {name!r} cannot serialize the {role}s: {error}", field=role) from error
        schema_id = getattr(for_request, "schema_id", None)
        if schema_id is not None:
            self._schema_ids[role] = schema_id
        return for_request


def _parse(text: bytes) -> Any:
    """Return the Python value of a JSON text. Raises `TooLarge`."""
    if has_more_values(text, MAX_VALUES):
        raise TooLarge(f"The text has more than {MAX_VALUES} JSON values.", limit=MAX_VALUES)
    return msgspec.json.decode(text)


def _as_bytes(stored: Any) -> bytes:
    if not isinstance(stored, bytes | bytearray | memoryview):
        raise TypeError(f"the serializer returned {type(stored).__name__}, expected bytes")
    return bytes(stored)


def _with_location(error: Exception, index: int, role: Role) -> KafkaHttpError:
    """Return the error of a record with the record's index and field."""
    where = f"records[{index}].{role}"
    if isinstance(error, InvalidPayload):
        return type(error)(error.problem, where + error.path, record=index, field=role + error.path)
    if isinstance(error, KafkaHttpError):
        return type(error)(f"{where}: {error.message}", **{"record": index, "field": role, **error.fields})
    return InvalidValue(f"{where}: {error}", record=index, field=role)
