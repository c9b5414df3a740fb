"""`jsonschema`: the value's JSON text as the client wrote it, behind the id of the schema that it was checked with."""

from collections.abc import Mapping, Sequence
from typing import Any

from kafka_http.encoding import check_json
from kafka_http.errors import InvalidPayload, InvalidSchema
from kafka_http.records import Headers
from kafka_http.schemas.jsonschema_checker import Checker, Fault, SchemaFault, parsed
from kafka_http.schemas.jsonschema_cost import work_of
from kafka_http.schemas.jsonschema_process import CheckerElsewhere, CheckingProcess, TookTooLong
from kafka_http.schemas.registry import SchemaRegistry
from kafka_http.schemas.schema import Schema
from kafka_http.schemas.schema_serializer import Codec, SchemaSerializer, unframed
from kafka_http.schemas.value_errors import step

_MOST_WORK_TO_COMPILE = 20_000
_MOST_WORK = 10_000_000
"""Beyond that a process of its own checks, for none of a worker's threads runs meanwhile: about half a second."""


class JsonSchemaSerializer(SchemaSerializer):
    type = "JSON"
    json_text = True
    immediate = False

    def __init__(self, settings: Mapping[str, Any], *, registry: SchemaRegistry) -> None:
        super().__init__(settings, registry=registry)
        self._elsewhere = CheckingProcess()

    def compile(self, schema: Schema, dependencies: Sequence[tuple[str, Schema]]) -> Codec:
        return JsonSchemaCodec(schema.text, [(name, each.text) for name, each in dependencies], self._elsewhere)

    def deserialize(self, topic: str, headers: Headers, data: bytes) -> bytes:
        """The JSON text. Its schema is not needed for that, nor the registry."""
        _, text = unframed(data)
        check_json(text)
        return text


class JsonSchemaCodec:
    """A schema with those it refers to, by their names."""

    def __init__(self, text: str, references: Sequence[tuple[str, str]], elsewhere: CheckingProcess) -> None:
        """Raises `InvalidSchema`."""
        self._schema = (text, references)
        self._elsewhere = elsewhere
        self._there: CheckerElsewhere | None = None
        self._here: Checker | None = None
        try:
            self._work = work_of(parsed(text), {name: parsed(each) for name, each in references})
            if self._work <= _MOST_WORK_TO_COMPILE:
                self._here = Checker(text, references)
            else:
                self._there = elsewhere.compile(text, references)
        except SchemaFault as fault:
            raise InvalidSchema(str(fault)) from None
        except TookTooLong as reason:
            raise InvalidSchema(f"to compile it {reason}.") from None

    def encode(self, data: bytes) -> bytes:
        fault = self._fault_in(data)
        if fault is not None:
            path = "".join(f"[{each}]" if isinstance(each, int) else step(each) for each in fault.path)
            raise InvalidPayload(fault.problem, path)
        return data

    def decode(self, data: bytes) -> bytes:
        check_json(data)
        return data

    def _fault_in(self, data: bytes) -> Fault | None:
        if self._here is not None and self._work * len(data) <= _MOST_WORK:
            return self._here.fault_in(data)
        try:
            if self._there is None:
                self._there = self._elsewhere.compile(*self._schema)
            return self._there.fault_in(data)
        except TookTooLong as reason:
            raise InvalidPayload(f"to check it against its schema {reason}") from None
