"""`avro`: Avro's JSON encoding in requests and answers, its binary encoding in Kafka, the schema in the registry."""

from collections.abc import Sequence
from io import BytesIO
from typing import Any

from fastavro import parse_schema, schemaless_reader, schemaless_writer

from kafka_http.errors import InvalidValue
from kafka_http.schemas.avro_depth import check_depth
from kafka_http.schemas.avro_schema import AvroSchema
from kafka_http.schemas.schema import Schema
from kafka_http.schemas.schema_serializer import Codec, SchemaSerializer


class AvroSerializer(SchemaSerializer):
    type = "AVRO"

    def compile(self, schema: Schema, dependencies: Sequence[tuple[str, Schema]]) -> Codec:
        return AvroCodec(schema.text, [each.text for _, each in dependencies])


class AvroCodec:
    """One schema, which may name the types of those it depends on, in their order."""

    def __init__(self, text: str, dependencies: Sequence[str] = ()) -> None:
        """Raises `InvalidSchema`."""
        compiled = AvroSchema()
        parsed: dict[str, Any] = {}
        for each in (*dependencies, text):
            self._type = compiled.compile(each)
            # a record around it, whose bytes are its own, for fastavro parses what is none again for each message
            fields = [{"name": "v", "type": self._type.schema}]
            self._schema = parse_schema({"type": "record", "name": f"m{len(parsed)}", "fields": fields}, parsed)
        self._is_recursive = compiled.recursive
        self._filled = compiled.filled

    def encode(self, data: Any) -> bytes:
        self._filled.size = 0
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
            raise InvalidValue("its bytes do not fit its schema") from None
        if buffer.read(1):
            raise InvalidValue("it goes on behind the end that its schema says")
        value, decode = message["v"], self._type.decode
        return value if decode is None else decode(value)
