"""The format `avro`: Avro's JSON encoding for clients, its binary encoding in Kafka, schemas from the registry."""

from collections.abc import Sequence
from io import BytesIO
from typing import Any

from fastavro import parse_schema, schemaless_reader, schemaless_writer

from kafka_http.errors import InvalidValue
from kafka_http.schemas.avro_depth import check_depth
from kafka_http.schemas.avro_schema import AvroCompiler
from kafka_http.schemas.registry import Schema
from kafka_http.schemas.schema_serializer import Codec, SchemaSerializer


class AvroSerializer(SchemaSerializer):
    """Serializes with Avro schemas."""

    type = "AVRO"

    def compile(self, schema: Schema, dependencies: Sequence[tuple[str, Schema]]) -> Codec:
        return AvroCodec(schema.text, [each.text for _, each in dependencies])


class AvroCodec:
    """Encodes and decodes messages of one schema. Safe in many threads."""

    def __init__(self, text: str, dependencies: Sequence[str] = ()) -> None:
        """`dependencies` are the texts of the schemas that this one uses, in an order in which each can be compiled.

        Raises `InvalidSchema`.
        """
        compiler = AvroCompiler()
        parsed: dict[str, Any] = {}
        for each in (*dependencies, text):
            self._type = compiler.compile(each)
            # fastavro parses a schema that is not a record again for each message: a record of one field has the same
            # bytes as the field.
            fields = [{"name": "v", "type": self._type.schema}]
            self._schema = parse_schema({"type": "record", "name": f"m{len(parsed)}", "fields": fields}, parsed)
        self._is_recursive = compiler.is_recursive
        self._defaults_budget = compiler.defaults_budget

    def encode(self, data: Any) -> bytes:
        self._defaults_budget.used = 0
        value = self._type.encode(data)
        buffer = BytesIO()
        schemaless_writer(buffer, self._schema, {"v": value})
        encoded = buffer.getvalue()
        if self._is_recursive:
            check_depth(self._type, encoded)
        return encoded

    def decode(self, data: bytes) -> Any:
        if self._is_recursive:
            check_depth(self._type, data)
        buffer = BytesIO(data)
        try:
            message: Any = schemaless_reader(buffer, self._schema, None, return_named_type=True)
        except (EOFError, IndexError, UnicodeDecodeError):
            raise InvalidValue("the bytes do not match the schema") from None
        if buffer.read(1):
            raise InvalidValue("the message has more bytes than its schema describes")
        value, decode = message["v"], self._type.decode
        return value if decode is None else decode(value)
