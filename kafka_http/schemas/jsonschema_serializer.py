"""The format `jsonschema`: the JSON text of the value as the client sent it, after the id of the schema it fits."""

from collections.abc import Mapping, Sequence
from typing import Any

from kafka_http.encoding import check_json
from kafka_http.errors import InvalidPayload, InvalidSchema
from kafka_http.records import Headers
from kafka_http.schemas.json_values import path_step
from kafka_http.schemas.jsonschema_checker import Mismatch, SchemaChecker, SchemaError, parse_schema
from kafka_http.schemas.jsonschema_cost import estimate_work
from kafka_http.schemas.jsonschema_process import CheckAborted, CheckingProcess
from kafka_http.schemas.registry import Schema, SchemaRegistry
from kafka_http.schemas.schema_serializer import Codec, SchemaSerializer, split_message

_MAX_COMPILE_WORK = 20_000
_MAX_CHECK_WORK = 10_000_000
"""Limits for work in a worker, where a check stops all threads: this much takes about half a second."""


class JsonSchemaSerializer(SchemaSerializer):
    """Checks values against JSON Schemas."""

    type = "JSON"
    json_text = True
    immediate = False

    def __init__(self, settings: Mapping[str, Any], *, registry: SchemaRegistry) -> None:
        super().__init__(settings, registry=registry)
        self._process = CheckingProcess()

    def compile(self, schema: Schema, dependencies: Sequence[tuple[str, Schema]]) -> Codec:
        return JsonSchemaCodec(schema.text, [(name, each.text) for name, each in dependencies], self._process)

    def deserialize(self, topic: str, headers: Headers, data: bytes) -> bytes:
        """Return the JSON text. This needs neither the schema nor the registry."""
        _, text = split_message(data)
        check_json(text)
        return text


class JsonSchemaCodec:
    """Checks values against one schema: in this process if that is quick, else in the checking process."""

    def __init__(self, text: str, references: Sequence[tuple[str, str]], process: CheckingProcess) -> None:
        """`references` are the names and texts of other schemas. Raises `InvalidSchema`."""
        self._schema = (text, references)
        self._process = process
        self._checker: SchemaChecker | None = None
        try:
            self._work = estimate_work(parse_schema(text), {name: parse_schema(each) for name, each in references})
            if self._work <= _MAX_COMPILE_WORK:
                self._checker = SchemaChecker(text, references)
            else:
                process.compile(text, references)
        except SchemaError as error:
            raise InvalidSchema(str(error)) from None
        except CheckAborted as reason:
            raise InvalidSchema(f"compiling the schema {reason}.") from None

    def encode(self, data: bytes) -> bytes:
        mismatch = self._find_mismatch(data)
        if mismatch is not None:
            path = "".join(f"[{each}]" if isinstance(each, int) else path_step(each) for each in mismatch.path)
            raise InvalidPayload(mismatch.problem, path)
        return data

    def decode(self, data: bytes) -> bytes:
        check_json(data)
        return data

    def _find_mismatch(self, data: bytes) -> Mismatch | None:
        if self._checker is not None and self._work * len(data) <= _MAX_CHECK_WORK:
            return self._checker.find_mismatch(data)
        try:
            return self._process.find_mismatch(*self._schema, data)
        except CheckAborted as reason:
            raise InvalidPayload(f"the check against the schema {reason}") from None
