"""What the formats with schemas share: the schema of a request, the framing of messages, compiled schemas.

A message is a zero byte, the schema's id in four bytes (big endian), and the body that the schema's codec encodes:
https://docs.confluent.io/platform/current/schema-registry/fundamentals/serdes-develop/index.html#wire-format
"""

import struct
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, Literal, Protocol

from msgspec import Struct

from kafka_http.errors import (
    InvalidPayload,
    InvalidRequest,
    InvalidSchema,
    InvalidValue,
    MissingKeySchema,
    MissingValueSchema,
    NotSerializable,
    Unavailable,
)
from kafka_http.loading_cache import LoadingCache
from kafka_http.records import Headers
from kafka_http.schemas.registry import Schema, SchemaNotFound, SchemaRegistry, SchemaType, Version

Role = Literal["key", "value"]
_PREFIX = struct.Struct(">bI")
_INVALID_LIFETIME = 60.0
"""Seconds until a schema that could not be compiled is compiled again."""


class Codec(Protocol):
    """A compiled schema. Safe in many threads.

    `encode` raises `InvalidPayload` with the path of a value that does not fit. Any other exception of either method
    rejects the record too.
    """

    def encode(self, data: Any) -> bytes: ...

    def decode(self, data: bytes) -> Any: ...


class _CachedCodec(Struct):
    codec: Codec | InvalidSchema
    size: int


class SchemaSerializer(ABC):
    """Base of the formats whose messages begin with the id of their schema."""

    type: ClassVar[SchemaType]
    immediate = True
    needs_schema = True

    def __init__(self, settings: Mapping[str, Any], *, registry: SchemaRegistry) -> None:
        self._registry = registry
        self._codecs: LoadingCache[int, _CachedCodec] = LoadingCache(
            registry.cache_bytes, lambda each: each.size, _codec_lifetime
        )

    @abstractmethod
    def compile(self, schema: Schema, dependencies: Sequence[tuple[str, Schema]]) -> Codec:
        """Return the codec of a schema.

        `dependencies` are all schemas that it needs, by the names of the references, each after those that it needs
        itself. Raises `InvalidSchema`.
        """

    def for_request(
        self,
        role: Role,
        topic: str,
        *,
        schema: str | None = None,
        schema_id: int | None = None,
        subject: str | None = None,
        version: str | None = None,
        blocking: bool = True,
    ) -> "SchemaForRequest":
        """Return a serializer for one schema: that of a text (which is registered), an id, or a subject and version.

        The default subject is `<topic>-<role>`, the default version the latest. Raises `InvalidSchema`,
        `RegistryUnavailable`, and `MissingKeySchema` or `MissingValueSchema` if the request names no schema and the
        default subject has none. With `blocking=False` raises `WouldBlock` instead of waiting.
        """
        if sum(each is not None for each in (schema, schema_id, version)) > 1 or (schema_id is not None and subject):
            raise InvalidRequest(
                f"The request names several schemas for the {role}s: send one of text, id and version."
            )
        target = subject or f"{topic}-{role}"
        if schema_id is not None:
            found = self._registry.by_id(schema_id, blocking=blocking)
        elif schema is not None:
            check = partial(self.compile, Schema(0, self.type, schema), ())
            found = self._registry.register(target, self.type, schema, check=check, blocking=blocking)
        elif subject or version is not None:
            found = self._registry.by_version(target, _parse_version(version), blocking=blocking)
        else:
            found = self._default_schema(role, target, blocking=blocking)
        return SchemaForRequest(found.id, self._codec(found, blocking=blocking), self.deserialize)

    def serialize(self, topic: str, headers: Headers, data: Any) -> bytes:
        return self.for_request("value", topic).serialize(topic, headers, data)

    def deserialize(self, topic: str, headers: Headers, data: bytes) -> Any:
        """Read a message with the schema whose id it begins with."""
        schema_id, body = split_message(data)
        return self._codec(self._registry.by_id(schema_id)).decode(body)

    def recognizes(self, data: bytes) -> bool:
        """Return whether the bytes are a message of this format: they begin with the id of a schema of its type.

        Raises `RegistryUnavailable`.
        """
        if data[:1] != b"\0":  # the common case
            return False
        try:
            schema_id, _ = split_message(data)
            return self._registry.by_id(schema_id).type == self.type
        except (InvalidValue, InvalidSchema):
            return False

    def _default_schema(self, role: Role, subject: str, *, blocking: bool) -> Schema:
        try:
            return self._registry.by_version(subject, "latest", blocking=blocking)
        except SchemaNotFound:
            missing = MissingKeySchema if role == "key" else MissingValueSchema
            raise missing(
                f"Request includes {role}s but does not include {role} schema, and the schema registry has none under "
                f"the subject {subject!r}."
            ) from None

    def _codec(self, schema: Schema, *, blocking: bool = True) -> Codec:
        codec = self._codecs.get(schema.id, partial(self._load_codec, schema), blocking=blocking).codec
        if isinstance(codec, InvalidSchema):  # a new exception: one that is raised again grows its traceback
            raise InvalidSchema(codec.problem)
        return codec

    def _load_codec(self, schema: Schema) -> _CachedCodec:
        size = len(schema.text)
        try:
            if schema.type != self.type:
                raise InvalidSchema(f"the schema with the id {schema.id} is one of {schema.type}, not of {self.type}.")
            dependencies = self._registry.dependencies(schema)
            size += sum(len(each.text) for _, each in dependencies)
            return _CachedCodec(self.compile(schema, dependencies), size)
        except InvalidSchema as error:
            return _CachedCodec(error, size)  # records with a bad schema must not compile it again each


def _codec_lifetime(schema_id: int, cached: _CachedCodec) -> float:
    return _INVALID_LIFETIME if isinstance(cached.codec, InvalidSchema) else float("inf")


def _parse_version(version: str | None) -> Version:
    if version is None or version == "latest":
        return "latest"
    if not (version.isascii() and version.isdigit() and len(version) < 10):
        raise InvalidRequest(f"The version must be a number or latest, got {version!r}.", field="version")
    return int(version)


def split_message(data: bytes) -> tuple[int, bytes]:
    """Return the schema id and the body of a message. Raises `InvalidValue`."""
    if len(data) < _PREFIX.size or data[0]:
        raise InvalidValue("the bytes do not begin with a zero byte and the id of a schema")
    return _PREFIX.unpack_from(data)[1], data[_PREFIX.size :]


class SchemaForRequest(Struct, frozen=True):
    """Serializes the keys or the values of a request with one schema."""

    schema_id: int
    codec: Codec
    deserialize: Callable[[str, Headers, bytes], Any]

    def serialize(self, topic: str, headers: Headers, data: Any) -> bytes:
        try:
            return _PREFIX.pack(0, self.schema_id) + self.codec.encode(data)
        except (InvalidPayload, Unavailable):
            raise
        except RecursionError:
            raise InvalidPayload("the value is nested too deeply") from None
        except Exception as error:
            raise NotSerializable(str(error)) from error
