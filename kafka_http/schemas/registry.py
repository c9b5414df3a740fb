"""Client of the schema registry (any server with Confluent's API): schemas by id, by subject and version, new schemas.

The schema of an id or of a numbered version never changes, so it is fetched once. While the registry is down, cached
schemas stay usable.
"""

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal
from urllib.parse import quote

import msgspec
from msgspec import Struct

from kafka_http.errors import InvalidSchema, RegistryUnavailable
from kafka_http.loading_cache import LoadingCache
from kafka_http.schemas.registry_connection import RegistryConnection, RegistryResponse
from kafka_http.schemas.registry_settings import RegistrySettings

SchemaType = Literal["AVRO", "PROTOBUF", "JSON"]
Version = int | Literal["latest"]
MAX_REFERENCES = 100
"""Other schemas that one schema may need, directly or not."""
_MAX_ID = 2**31 - 1
_OVERHEAD = 500
"""Approximate bytes of a cached schema without its text."""


class Reference(Struct, frozen=True):
    """A reference to another schema. `name` is what the text calls it: a full name, a file to import, or a URI."""

    name: str
    subject: str
    version: int


class Schema(Struct, frozen=True):
    """A schema with its id, which is in each message written with it."""

    id: int
    type: SchemaType
    text: str
    references: tuple[Reference, ...] = ()


class SchemaNotFound(InvalidSchema):
    """The registry has no such schema."""


class SchemaRegistry:
    """Schemas from the registry, cached. Safe in many threads; connects on first use.

    Methods that ask the registry block for `timeout` at most. They raise `RegistryUnavailable` if it does not answer,
    `SchemaNotFound` if it has no such schema, and `InvalidSchema` for a schema that is too large or that it rejects.
    With `blocking=False` they raise `WouldBlock` instead of asking the registry.
    """

    def __init__(self, settings: RegistrySettings) -> None:
        self._connection = RegistryConnection(settings)
        self._settings = settings
        size = settings.cache_bytes
        self._by_id: LoadingCache[int, Schema | SchemaNotFound] = LoadingCache(size, _size, self._id_lifetime)
        self._by_version: LoadingCache[tuple[str, Version], Schema] = LoadingCache(size, _size, self._version_lifetime)
        self._registered: LoadingCache[tuple[str, str, str], Schema] = LoadingCache(size, _size)

    @property
    def name(self) -> str:
        """The registry's name in error messages."""
        return self._connection.name

    @property
    def cache_bytes(self) -> int:
        """Bytes of schemas that each cache may hold."""
        return self._settings.cache_bytes

    def by_id(self, schema_id: int, *, blocking: bool = True) -> Schema:
        """Return the schema of an id."""
        found = self._by_id.get(schema_id, partial(self._fetch_id, schema_id), blocking=blocking)
        if isinstance(found, SchemaNotFound):  # a new exception: one that is raised again grows its traceback
            raise SchemaNotFound(found.problem)
        return found

    def by_version(self, subject: str, version: Version, *, blocking: bool = True) -> Schema:
        """Return a subject's schema. `latest` is fetched again after `latest_ttl`, or kept if the registry is down."""
        fetch = partial(self._fetch_version, subject, version)
        return self._by_version.get((subject, version), fetch, blocking=blocking)

    def register(
        self,
        subject: str,
        type_: SchemaType,
        text: str,
        *,
        check: Callable[[], object] = lambda: None,
        blocking: bool = True,
    ) -> Schema:
        """Return the subject's schema with this text. If it is not registered, call `check` and register it.

        `check` raises to refuse the schema.
        """
        register = partial(self._register, subject, type_, text, check)
        return self._registered.get((subject, type_, text), register, blocking=blocking)

    def dependencies(self, schema: Schema) -> list[tuple[str, Schema]]:
        """Return all schemas that one needs, by the names of the references, each after those that it needs itself.

        Raises `InvalidSchema` for a cycle, for two schemas of the same name, and if there are too many.
        """
        return _DependencyWalk(self, self._settings).collect(schema)

    def _id_lifetime(self, schema_id: int, found: Schema | SchemaNotFound) -> float:
        return float("inf") if isinstance(found, Schema) else self._settings.latest_ttl

    def _version_lifetime(self, key: tuple[str, Version], found: Schema) -> float:
        return self._settings.latest_ttl if key[1] == "latest" else float("inf")

    def _fetch_id(self, schema_id: int) -> Schema | SchemaNotFound:
        missing = SchemaNotFound(f"the schema registry has no schema with the id {schema_id}.")
        if not 0 <= schema_id <= _MAX_ID:
            return missing
        response = self._connection.ask("GET", f"/schemas/ids/{schema_id}")
        return missing if response.is_missing else self._to_schema(response, schema_id)

    def _fetch_version(self, subject: str, version: Version) -> Schema:
        try:
            response = self._connection.ask("GET", f"{_subject_path(subject)}/versions/{version}")
        except RegistryUnavailable:
            cached = self._by_version.peek((subject, version))
            if cached is None:
                raise
            return cached
        if response.is_missing:
            raise SchemaNotFound(f"the schema registry has no version {version} of the subject {subject!r}.")
        schema = self._to_schema(response)
        self._by_id.put(schema.id, schema)
        return schema

    def _register(self, subject: str, type_: SchemaType, text: str, check: Callable[[], object]) -> Schema:
        self._check_size(len(text.encode()))
        body: Mapping[str, Any] = {"schema": text, **({} if type_ == "AVRO" else {"schemaType": type_})}
        # Look the text up first: that needs no right to register schemas.
        response = self._connection.ask("POST", _subject_path(subject), body)
        if response.is_missing:
            check()
            response = self._connection.ask("POST", f"{_subject_path(subject)}/versions", body)
        if response.status >= 300:
            raise InvalidSchema(f"the schema registry rejects it for the subject {subject!r}: {response.problem}")
        return self.by_id(self._decode(response).id)  # Apicurio's response does not have the schema's type

    def _to_schema(self, response: RegistryResponse, schema_id: int | None = None) -> Schema:
        """Return the schema in a response. `schema_id` is its id if the response does not have it."""
        if response.status >= 300:
            raise InvalidSchema(f"the schema registry rejects the request: {response.problem}")
        body = self._decode(response)
        if body.type not in {"AVRO", "PROTOBUF", "JSON"}:
            raise InvalidSchema(f"the schema has the unknown type {body.type!r}.")
        self._check_size(len(body.schema.encode()))
        return Schema(body.id if schema_id is None else schema_id, body.type, body.schema, body.references)  # type: ignore[arg-type]

    def _decode(self, response: RegistryResponse) -> "_ResponseBody":
        try:
            return _body_decoder.decode(response.body)
        except msgspec.MsgspecError:
            raise RegistryUnavailable(f"{self._connection.name} does not answer like a schema registry.") from None

    def _check_size(self, size: int) -> None:
        limit = self._settings.max_schema_bytes
        if size > limit:
            raise InvalidSchema(f"the schema has {size} bytes, the limit is {limit} (max_schema_bytes).")


class _ResponseBody(Struct):
    """The fields of a registry's responses that are used. A registry may leave out the type of an Avro schema."""

    id: int = -1
    schema: str = ""
    type: str = msgspec.field(default="AVRO", name="schemaType")
    references: tuple[Reference, ...] = ()


_body_decoder = msgspec.json.Decoder(_ResponseBody)


class _DependencyWalk:
    """Collects the schemas that one schema needs, directly or not."""

    def __init__(self, registry: SchemaRegistry, settings: RegistrySettings) -> None:
        self._registry = registry
        self._deadline = time.monotonic() + settings.timeout
        self._bytes_left = settings.max_schema_bytes
        self._found: dict[str, Schema] = {}
        self._ancestors: list[str] = []

    def collect(self, schema: Schema) -> list[tuple[str, Schema]]:
        self._bytes_left -= len(schema.text)
        self._follow(schema)
        return list(self._found.items())

    def _follow(self, schema: Schema) -> None:
        for reference in schema.references:
            found = self._fetch(reference)
            if reference.name in self._found:
                if self._found[reference.name].id != found.id:
                    raise InvalidSchema(f"two different schemas are referenced by the name {reference.name!r}.")
                continue
            self._ancestors.append(reference.name)
            self._check_limits(found)
            self._follow(found)
            self._ancestors.pop()
            self._found[reference.name] = found

    def _check_limits(self, schema: Schema) -> None:
        self._bytes_left -= len(schema.text)
        if len(self._found) + len(self._ancestors) > MAX_REFERENCES or self._bytes_left < 0:
            raise InvalidSchema(
                f"the schema needs more than {MAX_REFERENCES} other schemas, or is with them larger than "
                "max_schema_bytes."
            )

    def _fetch(self, reference: Reference) -> Schema:
        if reference.name in self._ancestors:
            raise InvalidSchema(f"the references form a cycle through {reference.name!r}.")
        if time.monotonic() > self._deadline:
            raise RegistryUnavailable(f"{self._registry.name} takes too long to return the references of a schema.")
        return self._registry.by_version(reference.subject, reference.version)


def _subject_path(subject: str) -> str:
    if subject in {"", ".", ".."}:
        raise SchemaNotFound(f"{subject!r} is not a valid subject.")
    return f"/subjects/{quote(subject, safe='')}"


def _size(schema: Schema | SchemaNotFound) -> int:
    return _OVERHEAD + (len(schema.text) if isinstance(schema, Schema) else 0)
