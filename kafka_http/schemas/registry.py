"""The schema registry, any server with Confluent's API: schemas by id, by subject and version, and new ones.

What a registry says of an id or of a numbered version never changes, so it is asked once. It may be away as long as all
that is asked for is in the cache.
"""

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal
from urllib.parse import quote

import msgspec
from msgspec import Struct

from kafka_http.errors import InvalidSchema, RegistryUnavailable
from kafka_http.schemas.loading_cache import LoadingCache
from kafka_http.schemas.registry_connection import RegistryConnection, RegistryResponse
from kafka_http.schemas.registry_settings import RegistrySettings
from kafka_http.schemas.schema import Reference, Schema, SchemaType

Version = int | Literal["latest"]
MAX_REFERENCES = 100
"""How many other schemas one may need, all told."""
_MAX_ID = 2**31 - 1
_OVERHEAD = 500
"""Bytes that a schema in the cache takes beside its text, about."""


class SchemaNotFound(InvalidSchema):
    """The registry has no such schema."""


class SchemaRegistry:
    """Schemas from the registry and its caches. Safe in many threads; connects when it is first asked.

    Each method raises `RegistryUnavailable` where the registry has to be asked and does not answer within `timeout`,
    `SchemaNotFound` where it has no such schema, `InvalidSchema` for one that is too large or that it refuses, and with
    `blocking=False` `WouldBlock` where it would have to be asked.
    """

    def __init__(self, settings: RegistrySettings) -> None:
        self._connection = RegistryConnection(settings)
        self._settings = settings
        size = settings.cache_bytes
        self._by_id: LoadingCache[int, Schema | SchemaNotFound] = LoadingCache(size, _weight, self._lifetime_of_id)
        self._by_version: LoadingCache[tuple[str, Version], Schema] = LoadingCache(
            size, _weight, self._lifetime_of_version
        )
        self._registered: LoadingCache[tuple[str, str, str], Schema] = LoadingCache(size, _weight)

    @property
    def name(self) -> str:
        """The registry as an error calls it."""
        return self._connection.name

    @property
    def cache_bytes(self) -> int:
        """How many bytes of schemas a cache may hold."""
        return self._settings.cache_bytes

    def by_id(self, schema_id: int, *, blocking: bool = True) -> Schema:
        """The schema of an id."""
        found = self._by_id.get(schema_id, partial(self._fetch_id, schema_id), blocking=blocking)
        if isinstance(found, SchemaNotFound):
            raise SchemaNotFound(found.problem)
        return found

    def by_version(self, subject: str, version: Version, *, blocking: bool = True) -> Schema:
        """A subject's schema. `latest` is asked for again after `latest_ttl`; while the registry is away it stays."""
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
        """The schema of this text under the subject; registered where it is not there yet, and if `check` lets it."""
        register = partial(self._register, subject, type_, text, check)
        return self._registered.get((subject, type_, text), register, blocking=blocking)

    def dependencies(self, schema: Schema) -> list[tuple[str, Schema]]:
        """All the schemas that one needs, by the names they are referred to, each after those that it needs itself.

        Raises `InvalidSchema` for a cycle, for two schemas of one name, and where there are too many.
        """
        return _Closure(self, self._settings).of(schema)

    def _lifetime_of_id(self, schema_id: int, found: Schema | SchemaNotFound) -> float:
        return float("inf") if isinstance(found, Schema) else self._settings.latest_ttl

    def _lifetime_of_version(self, key: tuple[str, Version], found: Schema) -> float:
        return self._settings.latest_ttl if key[1] == "latest" else float("inf")

    def _fetch_id(self, schema_id: int) -> Schema | SchemaNotFound:
        missing = SchemaNotFound(f"the schema registry has none of the id {schema_id}.")
        if not 0 <= schema_id <= _MAX_ID:
            return missing
        answer = self._connection.ask("GET", f"/schemas/ids/{schema_id}")
        return missing if answer.is_missing else self._schema(answer, schema_id)

    def _fetch_version(self, subject: str, version: Version) -> Schema:
        try:
            answer = self._connection.ask("GET", f"{_of(subject)}/versions/{version}")
        except RegistryUnavailable:
            old = self._by_version.peek((subject, version))
            if old is None:
                raise
            return old
        if answer.is_missing:
            raise SchemaNotFound(f"the schema registry has no version {version} of the subject {subject!r}.")
        return self._remember(self._schema(answer))

    def _register(self, subject: str, type_: SchemaType, text: str, check: Callable[[], object]) -> Schema:
        self._check_size(len(text.encode()))
        body: Mapping[str, Any] = {"schema": text, **({} if type_ == "AVRO" else {"schemaType": type_})}
        answer = self._connection.ask("POST", _of(subject), body)
        if answer.is_missing:
            check()
            answer = self._connection.ask("POST", f"{_of(subject)}/versions", body)
        if answer.status >= 300:
            raise InvalidSchema(f"the schema registry refuses it for the subject {subject!r}: {answer.problem}")
        return self.by_id(self._decoded(answer).id)  # Apicurio's answer lacks its type

    def _remember(self, schema: Schema) -> Schema:
        self._by_id.put(schema.id, schema)
        return schema

    def _schema(self, answer: RegistryResponse, schema_id: int | None = None) -> Schema:
        """The schema of an answer, which names its id, or is the answer for one."""
        if answer.status >= 300:
            raise InvalidSchema(f"the schema registry refuses it: {answer.problem}")
        told = self._decoded(answer)
        if told.type not in {"AVRO", "PROTOBUF", "JSON"}:
            raise InvalidSchema(f"it is of the type {told.type!r}, which is not known here.")
        self._check_size(len(told.schema.encode()))
        return Schema(told.id if schema_id is None else schema_id, told.type, told.schema, told.references)  # type: ignore[arg-type]

    def _decoded(self, answer: RegistryResponse) -> "_Told":
        try:
            return _told.decode(answer.body)
        except msgspec.MsgspecError:
            raise RegistryUnavailable(f"{self._connection.name} answers as no schema registry does.") from None

    def _check_size(self, size: int) -> None:
        limit = self._settings.max_schema_bytes
        if size > limit:
            raise InvalidSchema(f"it has {size} bytes; {limit} are the most it may have (max_schema_bytes).")


class _Told(Struct):
    """An answer of the registry, as far as it matters. Avro is what it does not name."""

    id: int = -1
    schema: str = ""
    type: str = msgspec.field(default="AVRO", name="schemaType")
    references: tuple[Reference, ...] = ()


_told = msgspec.json.Decoder(_Told)


class _Closure:
    """All that a schema refers to, and what that refers to, while it is being put together."""

    def __init__(self, registry: SchemaRegistry, settings: RegistrySettings) -> None:
        self._registry = registry
        self._deadline = time.monotonic() + settings.timeout
        self._limit = settings.max_schema_bytes
        self._found: dict[str, Schema] = {}
        self._above: list[str] = []

    def of(self, schema: Schema) -> list[tuple[str, Schema]]:
        self._limit -= len(schema.text)
        self._follow(schema)
        return list(self._found.items())

    def _follow(self, schema: Schema) -> None:
        for reference in schema.references:
            found = self._look_up(reference)
            if reference.name in self._found:
                if self._found[reference.name].id != found.id:
                    raise InvalidSchema(f"it refers to two different schemas by the name {reference.name!r}.")
                continue
            self._above.append(reference.name)
            self._count(found)
            self._follow(found)
            self._above.pop()
            self._found[reference.name] = found

    def _count(self, schema: Schema) -> None:
        self._limit -= len(schema.text)
        if len(self._found) + len(self._above) > MAX_REFERENCES or self._limit < 0:
            raise InvalidSchema(
                f"it refers to more than {MAX_REFERENCES} others, or is with them larger than a schema may be."
            )

    def _look_up(self, reference: Reference) -> Schema:
        if reference.name in self._above:
            raise InvalidSchema(f"its references form a cycle through {reference.name!r}.")
        if time.monotonic() > self._deadline:
            raise RegistryUnavailable(f"{self._registry.name} takes too long to give all that a schema refers to.")
        return self._registry.by_version(reference.subject, reference.version)


def _of(subject: str) -> str:
    """The path of a subject."""
    if subject in {"", ".", ".."}:
        raise SchemaNotFound(f"{subject!r} is no subject of a schema registry.")
    return f"/subjects/{quote(subject, safe='')}"


def _weight(schema: Schema | SchemaNotFound) -> int:
    return _OVERHEAD + (len(schema.text) if isinstance(schema, Schema) else 0)
