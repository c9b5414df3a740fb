"""What the formats with schemas share: which schema a request means, the id before each message, compiled schemas.

A message is a zero byte, the schema's id in four bytes (big endian), and the body that the schema's codec writes:
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
from kafka_http.records import Headers
from kafka_http.schemas.loading_cache import LoadingCache
from kafka_http.schemas.registry import SchemaNotFound, SchemaRegistry
from kafka_http.schemas.schema import Schema, SchemaType

Role = Literal["key", "value"]
_PREFIX = struct.Struct(">bI")
_REFUSED_FOR = 60.0
"""Seconds that a schema which cannot be compiled is remembered as such."""


class Codec(Protocol):
    """A schema, compiled. Safe in many threads.

    `encode` raises `InvalidPayload` with the path to the fault; what else either raises refuses the record, too.
    """

    def encode(self, data: Any) -> bytes: ...

    def decode(self, data: bytes) -> Any: ...


class _Compiled(Struct):
    codec: Codec | InvalidSchema
    weight: int


class SchemaSerializer(ABC):
    """A format whose messages have their schema's id before them."""

    type: ClassVar[SchemaType]
    immediate = True
    needs_schema = True

    def __init__(self, settings: Mapping[str, Any], *, registry: SchemaRegistry) -> None:
        self._registry = registry
        self._codecs: LoadingCache[int, _Compiled] = LoadingCache(
            registry.cache_bytes, lambda each: each.weight, _lifetime
        )

    @abstractmethod
    def compile(self, schema: Schema, dependencies: Sequence[tuple[str, Schema]]) -> Codec:
        """The codec of a schema, given all that it refers to by the names it does so, dependencies first.

        Raises `InvalidSchema`.
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
        """Write with one schema: that of a text, which is registered, of an id, or of a subject and version.

        The subject is `<topic>-<role>` by default, the version the latest. Raises `InvalidSchema`, `MissingKeySchema`,
        `MissingValueSchema` where nothing is named and nothing is there, `RegistryUnavailable`; with `blocking=False`
        also `WouldBlock` where anything has to be waited for.
        """
        if sum(each is not None for each in (schema, schema_id, version)) > 1 or (schema_id is not None and subject):
            raise InvalidRequest(f"Several schemas are named for the {role}s: one of text, id and version is enough.")
        of = subject or f"{topic}-{role}"
        if schema_id is not None:
            found = self._registry.by_id(schema_id, blocking=blocking)
        elif schema is not None:
            check = partial(self.compile, Schema(0, self.type, schema), ())
            found = self._registry.register(of, self.type, schema, check=check, blocking=blocking)
        else:
            found = self._of_subject(role, of, version, is_default=not subject and version is None, blocking=blocking)
        return SchemaForRequest(found.id, self._codec(found, blocking=blocking), self.deserialize)

    def serialize(self, topic: str, headers: Headers, data: Any) -> bytes:
        return self.for_request("value", topic).serialize(topic, headers, data)

    def deserialize(self, topic: str, headers: Headers, data: bytes) -> Any:
        """Read with the schema that the message names."""
        schema_id, body = unframed(data)
        return self._codec(self._registry.by_id(schema_id)).decode(body)

    def _of_subject(self, role: Role, subject: str, version: str | None, *, is_default: bool, blocking: bool) -> Schema:
        number: int | Literal["latest"] = "latest"
        if version not in {None, "latest"}:
            if not (version.isascii() and version.isdigit() and len(version) < 10):
                raise InvalidRequest(f"A version is a number or latest, not {version!r}.", field="version")
            number = int(version)
        try:
            return self._registry.by_version(subject, number, blocking=blocking)
        except SchemaNotFound:
            if not is_default:
                raise
            missing = MissingKeySchema if role == "key" else MissingValueSchema
            raise missing(
                f"Request includes {role}s but does not include {role} schema, and the schema registry has none under "
                f"the subject {subject!r}."
            ) from None

    def _codec(self, schema: Schema, *, blocking: bool = True) -> Codec:
        compiled = self._codecs.get(schema.id, partial(self._compiled, schema), blocking=blocking).codec
        if isinstance(compiled, InvalidSchema):
            raise InvalidSchema(compiled.problem)
        return compiled

    def _compiled(self, schema: Schema) -> _Compiled:
        weight = len(schema.text)
        try:
            if schema.type != self.type:
                raise InvalidSchema(f"that of the id {schema.id} is one of {schema.type}, not of {self.type}.")
            dependencies = self._registry.dependencies(schema)
            weight += sum(len(each.text) for _, each in dependencies)
            return _Compiled(self.compile(schema, dependencies), weight)
        except InvalidSchema as error:
            return _Compiled(error, weight)


def unframed(data: bytes) -> tuple[int, bytes]:
    """The id of a message's schema, and its body. Raises `InvalidValue`."""
    if len(data) < _PREFIX.size or data[0]:
        raise InvalidValue("it does not begin with a zero byte and the id of a schema")
    return _PREFIX.unpack_from(data)[1], data[_PREFIX.size :]


class SchemaForRequest(Struct, frozen=True):
    """Writes a request's messages with one schema."""

    schema_id: int
    codec: Codec
    deserialize: Callable[[str, Headers, bytes], Any]

    def serialize(self, topic: str, headers: Headers, data: Any) -> bytes:
        try:
            return _PREFIX.pack(0, self.schema_id) + self.codec.encode(data)
        except (InvalidPayload, Unavailable):
            raise
        except RecursionError:
            raise InvalidPayload("nested too deeply") from None
        except Exception as error:
            raise NotSerializable(str(error)) from error


def _lifetime(schema_id: int, compiled: _Compiled) -> float:
    return _REFUSED_FOR if isinstance(compiled.codec, InvalidSchema) else float("inf")
