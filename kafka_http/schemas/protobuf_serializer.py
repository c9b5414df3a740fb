"""The format `protobuf`: Protobuf's JSON for clients, its binary encoding in Kafka, schemas from the registry.

Each message begins with message indexes, which say which message of the schema's file it is:
https://docs.confluent.io/platform/current/schema-registry/fundamentals/serdes-develop/index.html#wire-format
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

from kafka_http.errors import InvalidSchema, InvalidValue
from kafka_http.schemas.protobuf_compiler import compile_files, protoc
from kafka_http.schemas.protobuf_from_json import JsonParser
from kafka_http.schemas.protobuf_limits import MemoryCheck
from kafka_http.schemas.protobuf_to_json import JsonPrinter
from kafka_http.schemas.registry import Schema, SchemaRegistry
from kafka_http.schemas.schema_serializer import Codec, SchemaSerializer

Indexes = tuple[int, ...]
"""Where a message is declared: its index in the file, then its index in each message around it."""
_FIRST: Indexes = (0,)
_MAX_INDEXES = 32
"""Levels of declarations that protoc accepts."""


class ProtobufSerializer(SchemaSerializer):
    """Serializes with Protobuf schemas."""

    type = "PROTOBUF"

    def __init__(self, settings: Mapping[str, Any], *, registry: SchemaRegistry) -> None:
        super().__init__(settings, registry=registry)
        protoc()

    def compile(self, schema: Schema, dependencies: Sequence[tuple[str, Schema]]) -> Codec:
        return ProtobufCodec(schema.text, [(name, each.text) for name, each in dependencies])


class ProtobufCodec:
    """Encodes the first message of a file, and decodes each of its messages. Safe in many threads."""

    def __init__(self, text: str, references: Sequence[tuple[str, str]] = ()) -> None:
        """`references` are the names and texts of other schemas. Raises `InvalidSchema`."""
        compiled = compile_files(text, references)
        self._names = dict(_declared_messages(compiled.file[-1]))
        if _FIRST not in self._names:
            raise InvalidSchema("the schema has no message.")
        self._pool = DescriptorPool()
        try:
            for file in compiled.file:
                self._pool.Add(file)
            self._message_class(_FIRST)  # some errors in a schema occur only now
        except (TypeError, KeyError) as error:
            raise InvalidSchema(str(error)[:300]) from None
        self._parser, self._printer = JsonParser(self._pool), JsonPrinter(self._pool)
        self._memory = MemoryCheck(compiled.file)

    def encode(self, data: Any) -> bytes:
        message = self._parser.parse(self._names[_FIRST], data)
        return b"\0" + message.SerializeToString(deterministic=True)

    def decode(self, data: bytes) -> Any:
        indexes, start = read_indexes(data)
        if indexes not in self._names:
            raise InvalidValue(f"the schema has no message with the indexes {list(indexes)}")
        self._memory.check(data)  # before the message is decoded: two bytes can become kilobytes
        try:
            message = self._message_class(indexes).FromString(data[start:])
        except DecodeError:
            raise InvalidValue("the bytes do not match the schema") from None
        return self._printer.print(self._names[indexes], message)

    def _message_class(self, indexes: Indexes) -> type[Message]:
        return GetMessageClass(self._pool.FindMessageTypeByName(self._names[indexes]))


def _declared_messages(file: FileDescriptorProto) -> Iterator[tuple[Indexes, str]]:
    """Yield the indexes and the full name of each message of a file.

    As in Java, messages that protoc adds for the entries of maps and for groups do not count.
    """
    package = f"{file.package}." if file.package else ""
    has_groups = file.syntax in {"", "proto2"}
    yield from _nested_messages(file.message_type, file.extension, package, (), has_groups)


def _nested_messages(
    messages: Sequence[DescriptorProto],
    fields: Sequence[FieldDescriptorProto],
    prefix: str,
    outer: Indexes,
    has_groups: bool,
) -> Iterator[tuple[Indexes, str]]:
    groups = {each.type_name for each in fields if has_groups and each.type == FieldDescriptorProto.TYPE_GROUP}
    declared = (each for each in messages if not each.options.map_entry and f".{prefix}{each.name}" not in groups)
    for index, message in enumerate(declared):
        name, indexes = f"{prefix}{message.name}", (*outer, index)
        yield indexes, name
        inner = [*message.field, *message.extension]
        yield from _nested_messages(message.nested_type, inner, f"{name}.", indexes, has_groups)


def read_indexes(data: bytes) -> tuple[Indexes, int]:
    """Return the message indexes, and the position after them. The single byte 0 stands for the first message."""
    count, position = _read_number(data, 0)
    if count == 0:
        return _FIRST, position
    if not 0 < count <= _MAX_INDEXES:
        raise _no_indexes()
    indexes = []
    for _ in range(count):
        index, position = _read_number(data, position)
        indexes.append(index)
    return tuple(indexes), position


def _read_number(data: bytes, position: int) -> tuple[int, int]:
    """Return a zigzag varint of at most 32 bits, and the position after it."""
    number = 0
    for shift, byte in zip(range(0, 35, 7), data[position : position + 5], strict=False):
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return (number >> 1) ^ -(number & 1), position + shift // 7 + 1
    raise _no_indexes()


def _no_indexes() -> InvalidValue:
    return InvalidValue("the bytes do not begin with the indexes of a message of the schema")
