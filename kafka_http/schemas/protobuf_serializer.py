"""`protobuf`: Protobuf's JSON encoding in requests and answers, its binary one in Kafka, the schema in the registry.

Before the message stands which of its file's messages it is:
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
from kafka_http.schemas.protobuf_from_json import Fillers, check_required
from kafka_http.schemas.protobuf_limits import Budget, MemoryCheck
from kafka_http.schemas.protobuf_to_json import Readers
from kafka_http.schemas.registry import SchemaRegistry
from kafka_http.schemas.schema import Schema
from kafka_http.schemas.schema_serializer import Codec, SchemaSerializer

Indexes = tuple[int, ...]
"""Where a message is declared: the how many-th of its file, then of the message around it."""
_FIRST: Indexes = (0,)
_DEEPEST = 32
"""Messages declared inside each other, as protoc takes them."""
_PROTO2 = {"", "proto2"}


class ProtobufSerializer(SchemaSerializer):
    type = "PROTOBUF"

    def __init__(self, settings: Mapping[str, Any], *, registry: SchemaRegistry) -> None:
        super().__init__(settings, registry=registry)
        protoc()

    def compile(self, schema: Schema, dependencies: Sequence[tuple[str, Schema]]) -> Codec:
        return ProtobufCodec(schema.text, [(name, each.text) for name, each in dependencies])


class ProtobufCodec:
    """A file of messages: the first is written, each is read."""

    def __init__(self, text: str, references: Sequence[tuple[str, str]] = ()) -> None:
        """Raises `InvalidSchema`."""
        compiled = compile_files(text, references)
        self._names = dict(_declared(compiled.file[-1]))
        if _FIRST not in self._names:
            raise InvalidSchema("there is no message in it.")
        self._pool = DescriptorPool()
        try:
            for file in compiled.file:
                self._pool.Add(file)
            self._class_of(_FIRST)
        except (TypeError, KeyError) as error:
            raise InvalidSchema(str(error)[:300]) from None
        self._fillers, self._readers = Fillers(self._pool), Readers(self._pool)
        self._memory = MemoryCheck(compiled.file)

    def encode(self, data: Any) -> bytes:
        message = self._class_of(_FIRST)()
        self._fillers[self._names[_FIRST]](message, data, Budget())
        check_required(message)
        return b"\0" + message.SerializeToString(deterministic=True)

    def decode(self, data: bytes) -> Any:
        indexes, start = read_indexes(data)
        if indexes not in self._names:
            raise InvalidValue(f"the schema has no message at {list(indexes)}")
        self._memory.check(data)
        try:
            message = self._class_of(indexes).FromString(data[start:])
        except DecodeError:
            raise InvalidValue("its bytes do not fit its schema") from None
        return self._readers[self._names[indexes]](message, Budget())

    def _class_of(self, indexes: Indexes) -> type[Message]:
        return GetMessageClass(self._pool.FindMessageTypeByName(self._names[indexes]))


def _declared(file: FileDescriptorProto) -> Iterator[tuple[Indexes, str]]:
    """Each message that the file declares, by where it does, and its full name.

    As Java counts them: without what protoc declares itself, for the entries of a map and for a group.
    """
    package = f"{file.package}." if file.package else ""
    yield from _within(file.message_type, file.extension, package, (), file.syntax in _PROTO2)


def _within(
    messages: Sequence[DescriptorProto],
    fields: Sequence[FieldDescriptorProto],
    prefix: str,
    above: Indexes,
    has_groups: bool,
) -> Iterator[tuple[Indexes, str]]:
    of_groups = {each.type_name for each in fields if has_groups and each.type == FieldDescriptorProto.TYPE_GROUP}
    declared = (each for each in messages if not each.options.map_entry and f".{prefix}{each.name}" not in of_groups)
    for index, message in enumerate(declared):
        name, indexes = f"{prefix}{message.name}", (*above, index)
        yield indexes, name
        inner = [*message.field, *message.extension]
        yield from _within(message.nested_type, inner, f"{name}.", indexes, has_groups)


def read_indexes(data: bytes) -> tuple[Indexes, int]:
    """Which message it is, and where it begins. The single byte 0 stands for the first."""
    count, at = _number(data, 0)
    if count == 0:
        return _FIRST, at
    if not 0 < count <= _DEEPEST:
        raise InvalidValue("it does not say which message of its schema it is")
    indexes = []
    for _ in range(count):
        index, at = _number(data, at)
        indexes.append(index)
    return tuple(indexes), at


def _number(data: bytes, at: int) -> tuple[int, int]:
    """A zigzag varint, and where it ends."""
    number = 0
    for shift in range(0, 35, 7):
        if at >= len(data):
            break
        byte = data[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return (number >> 1) ^ -(number & 1), at
    raise InvalidValue("it does not say which message of its schema it is")
