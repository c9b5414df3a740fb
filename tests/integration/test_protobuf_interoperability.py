"""Protobuf with a real registry: our serializer and confluent-kafka's (the judge) read what the other writes."""

import subprocess
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from confluent_kafka.schema_registry import Schema, SchemaReference, SchemaRegistryClient
from confluent_kafka.schema_registry.protobuf import ProtobufDeserializer, ProtobufSerializer
from confluent_kafka.serialization import MessageField, SerializationContext
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from google.type import money_pb2

from kafka_http.demo.embedded_registry import EmbeddedRegistry
from kafka_http.errors import InvalidPayload, InvalidSchema
from kafka_http.schemas.protobuf_compiler import protoc
from kafka_http.schemas.protobuf_serializer import ProtobufSerializer as OurSerializer
from kafka_http.schemas.registry import SchemaRegistry
from kafka_http.schemas.registry_settings import RegistrySettings
from kafka_http.schemas.schema_serializer import Role

FIELDS: dict[str, Role] = {MessageField.KEY: "key", MessageField.VALUE: "value"}


@pytest.fixture
def ours(registry: EmbeddedRegistry) -> OurSerializer:
    """Return a serializer with empty caches."""
    return OurSerializer({}, registry=SchemaRegistry(RegistrySettings(url=(registry.url,))))


@pytest.fixture
def topic() -> str:
    return f"topic-{uuid4().hex[:12]}"


class Classes:
    """Message classes for the judge, from files that protoc compiles."""

    def __init__(self, directory: Path, files: dict[str, str]) -> None:
        for name, text in files.items():
            (directory / name).parent.mkdir(parents=True, exist_ok=True)
            (directory / name).write_text(text)
        compiled = directory / "compiled"
        googles = Path(money_pb2.__file__).parents[2]
        flags = ("-I", directory, "-I", googles, "--include_imports", f"--descriptor_set_out={compiled}")
        subprocess.run([protoc(), *flags, *files], check=True)
        self._pool = DescriptorPool()
        for file in FileDescriptorSet.FromString(compiled.read_bytes()).file:
            self._pool.Add(file)

    def __getitem__(self, name: str) -> Any:
        return GetMessageClass(self._pool.FindMessageTypeByName(name))


EVERYTHING = """
syntax = "proto3";
package everything;
import "google/protobuf/any.proto";
import "google/protobuf/duration.proto";
import "google/protobuf/field_mask.proto";
import "google/protobuf/struct.proto";
import "google/protobuf/timestamp.proto";
import "google/protobuf/wrappers.proto";
import "google/type/money.proto";
message Everything {
  double a_double = 1; float a_float = 2; int32 an_int32 = 3; int64 an_int64 = 4; uint32 a_uint32 = 5;
  uint64 a_uint64 = 6; sint32 a_sint32 = 7; sint64 a_sint64 = 8; fixed32 a_fixed32 = 9; fixed64 a_fixed64 = 10;
  sfixed32 a_sfixed32 = 11; sfixed64 a_sfixed64 = 12; bool a_bool = 13; string a_string = 14; bytes a_bytes = 15;
  Suit an_enum = 16; Everything other = 17; repeated int64 numbers = 18; repeated string texts = 19;
  map<string, Suit> suits = 20; map<int32, Everything> others = 21; optional int32 maybe = 22;
  oneof choice { string this = 23; bool that = 24; }
  google.protobuf.Timestamp time = 30; google.protobuf.Duration duration = 31; google.protobuf.Struct object = 32;
  google.protobuf.Int64Value wrapped = 33; google.protobuf.Any any = 34; google.protobuf.FieldMask mask = 35;
  google.type.Money price = 36;
}
enum Suit { SPADES = 0; HEARTS = 1; }
"""
IN_JSON: dict[str, Any] = {
    "aDouble": 1e300, "aFloat": 1.1, "anInt32": -5, "anInt64": "-9223372036854775808", "aUint32": 4294967295,
    "aUint64": "18446744073709551615", "aSint32": -1, "aSint64": "-1", "aFixed32": 1, "aFixed64": "1", "aSfixed32": -1,
    "aSfixed64": "-1", "aBool": True, "aString": "ü😀", "aBytes": "/wA=", "anEnum": "HEARTS",
    "numbers": ["1", "-1"], "texts": ["", "x"], "suits": {"a": "HEARTS", "b": "SPADES"}, "others": {}, "maybe": 0,
    "that": False, "time": "2026-11-21T10:00:00.500Z", "duration": "-1.500s", "object": {"a": [1.0, None, "x"]},
    "wrapped": "0", "any": {"@type": "type.googleapis.com/google.protobuf.StringValue", "value": "x"},
    "mask": "aString,other.aBool", "price": {"currencyCode": "EUR", "units": "12", "nanos": 500000000},
}  # fmt: skip
NOTHING_IN_JSON: dict[str, Any] = {
    "aDouble": 0.0, "aFloat": 0.0, "anInt32": 0, "anInt64": "0", "aUint32": 0, "aUint64": "0", "aSint32": 0,
    "aSint64": "0", "aFixed32": 0, "aFixed64": "0", "aSfixed32": 0, "aSfixed64": "0", "aBool": False, "aString": "",
    "aBytes": "", "anEnum": "SPADES", "numbers": [], "texts": [], "suits": {}, "others": {},
}  # fmt: skip


def everything(cls: Any) -> Any:
    """Return the message of `IN_JSON`, made with Python's own API."""
    message = cls(
        a_double=1e300, a_float=1.1, an_int32=-5, an_int64=-(2**63), a_uint32=2**32 - 1, a_uint64=2**64 - 1,
        a_sint32=-1, a_sint64=-1, a_fixed32=1, a_fixed64=1, a_sfixed32=-1, a_sfixed64=-1, a_bool=True, a_string="ü😀",
        a_bytes=b"\xff\0", an_enum=1, numbers=[1, -1], texts=["", "x"], suits={"a": 1, "b": 0}, maybe=0, that=False,
    )  # fmt: skip
    message.time.seconds, message.time.nanos = 1795255200, 500_000_000
    message.duration.seconds, message.duration.nanos = -1, -500_000_000
    message.object.fields["a"].list_value.values.add().number_value = 1
    message.object.fields["a"].list_value.values.add().null_value = 0
    message.object.fields["a"].list_value.values.add().string_value = "x"
    message.wrapped.SetInParent()
    message.any.type_url, message.any.value = "type.googleapis.com/google.protobuf.StringValue", b"\x0a\x01x"
    message.mask.paths.extend(["a_string", "other.a_bool"])
    message.price.currency_code, message.price.units, message.price.nanos = "EUR", 12, 500_000_000
    return message


def serializer(cls: Any, judge: SchemaRegistryClient) -> ProtobufSerializer:
    return ProtobufSerializer(cls, judge, {"use.deprecated.format": False})


def deserializer(cls: Any) -> ProtobufDeserializer:
    return ProtobufDeserializer(cls, {"use.deprecated.format": False})


@pytest.mark.parametrize("field", FIELDS)
def test_messages_are_compatible_with_confluent_kafka(
    judge: SchemaRegistryClient, ours: OurSerializer, topic: str, field: str, tmp_path: Path
) -> None:
    cls = Classes(tmp_path, {"everything.proto": EVERYTHING})["everything.Everything"]
    context = SerializationContext(topic, field)
    message = everything(cls)
    message.other.CopyFrom(everything(cls))
    message.others[-7].SetInParent()
    data = {**IN_JSON, "other": IN_JSON, "others": {"-7": NOTHING_IN_JSON}}

    theirs = serializer(cls, judge)(message, context)
    assert theirs is not None
    assert ours.deserialize(topic, [], theirs) == data

    written = ours.for_request(FIELDS[field], topic).serialize(topic, [], data)  # the schema that the judge registered
    assert written[:5] == theirs[:5]
    assert deserializer(cls)(written, context) == message


def test_schema_registered_as_text_is_compatible_with_confluent_kafka(
    ours: OurSerializer, topic: str, tmp_path: Path
) -> None:
    cls = Classes(tmp_path, {"everything.proto": EVERYTHING})["everything.Everything"]
    context = SerializationContext(topic, MessageField.VALUE)

    written = ours.for_request("value", topic, schema=EVERYTHING).serialize(topic, [], IN_JSON)

    assert deserializer(cls)(written, context) == everything(cls)  # it asks the registry for nothing
    assert ours.deserialize(topic, [], written) == IN_JSON


ADDRESS = """
syntax = "proto3"; package a; import "geo/point.proto"; message Address { string zip = 1; geo.Point at = 2; }
"""
POINT = 'syntax = "proto3"; package geo; message Point { double x = 1; }'
CUSTOMER = """
syntax = "proto3";
import "a/address.proto";
import "geo/point.proto";
message Customer { a.Address address = 1; geo.Point home = 2; }
"""
CUSTOMER_IN_JSON = {"address": {"zip": "1", "at": {"x": 1.5}}, "home": {"x": 2.5}}


@pytest.mark.parametrize("field", FIELDS)
def test_messages_with_references_are_compatible_with_confluent_kafka(
    judge: SchemaRegistryClient, ours: OurSerializer, topic: str, field: str, tmp_path: Path
) -> None:
    files = {"geo/point.proto": POINT, "a/address.proto": ADDRESS, "customer.proto": CUSTOMER}
    cls = Classes(tmp_path, files)["Customer"]
    message = cls()
    message.address.zip, message.address.at.x, message.home.x = "1", 1.5, 2.5
    context = SerializationContext(topic, field)

    theirs = serializer(cls, judge)(message, context)
    assert theirs is not None
    assert ours.deserialize(topic, [], theirs) == CUSTOMER_IN_JSON

    request = ours.for_request(FIELDS[field], topic)
    assert request.serialize(topic, [], CUSTOMER_IN_JSON) == theirs
    with pytest.raises(InvalidPayload) as raised:
        request.serialize(topic, [], {"address": {"at": {"x": "!"}}})
    assert raised.value.path == ".address.at.x"


def test_references_registered_as_text_are_resolved(
    judge: SchemaRegistryClient, ours: OurSerializer, topic: str
) -> None:
    """Java's serializers register references as texts."""
    point = SchemaReference("geo/point.proto", f"{topic}-point", 1)
    address = SchemaReference("a/address.proto", f"{topic}-address", 1)
    judge.register_schema(f"{topic}-point", Schema(POINT, "PROTOBUF"))
    judge.register_schema(f"{topic}-address", Schema(ADDRESS, "PROTOBUF", [point]))
    schema_id = judge.register_schema(f"{topic}-value", Schema(CUSTOMER, "PROTOBUF", [address, point]))

    request = ours.for_request("value", topic)
    written = request.serialize(topic, [], CUSTOMER_IN_JSON)

    assert request.schema_id == schema_id
    assert ours.deserialize(topic, [], written) == CUSTOMER_IN_JSON


SEVERAL = """
syntax = "proto3";
message First { int32 a = 1; message Inner { string b = 1; message Innermost { bool c = 1; } } }
message Second { double d = 1; message Also { bytes e = 1; } message Last { int64 f = 1; } }
"""


def test_each_message_type_of_a_file_is_read(
    judge: SchemaRegistryClient, ours: OurSerializer, topic: str, tmp_path: Path
) -> None:
    classes = Classes(tmp_path, {"several.proto": SEVERAL})
    context = SerializationContext(topic, MessageField.VALUE)
    for name, value, decoded in (
        ("First", {"a": 1}, {"a": 1}),
        ("First.Inner", {"b": "x"}, {"b": "x"}),
        ("First.Inner.Innermost", {"c": True}, {"c": True}),
        ("Second", {"d": 1.5}, {"d": 1.5}),
        ("Second.Also", {"e": b"\0"}, {"e": "AA=="}),
        ("Second.Last", {"f": 7}, {"f": "7"}),
    ):
        theirs = serializer(classes[name], judge)(classes[name](**value), context)
        assert theirs is not None
        assert ours.deserialize(topic, [], theirs) == decoded


def test_first_message_type_of_a_file_is_written(
    judge: SchemaRegistryClient, ours: OurSerializer, topic: str, tmp_path: Path
) -> None:
    cls = Classes(tmp_path, {"several.proto": SEVERAL})["First"]
    context = SerializationContext(topic, MessageField.VALUE)
    theirs = serializer(cls, judge)(cls(a=1), context)
    assert ours.for_request("value", topic).serialize(topic, [], {"a": 1}) == theirs


@pytest.mark.parametrize(
    "syntax", ['syntax = "proto2"; message M { required int32 a = 1; optional group G = 2 { repeated int32 b = 3; } }',
               'edition = "2023"; message M { int32 a = 1; message G { repeated int32 b = 3; } '
               "G g = 2 [features.message_encoding = DELIMITED]; }"]
)  # fmt: skip
def test_proto2_and_editions_are_compatible_with_confluent_kafka(
    judge: SchemaRegistryClient, ours: OurSerializer, topic: str, tmp_path: Path, syntax: str
) -> None:
    cls = Classes(tmp_path, {"other.proto": syntax})["M"]
    message = cls(a=0)
    message.g.b.extend([1, 2])
    context = SerializationContext(topic, MessageField.VALUE)

    theirs = serializer(cls, judge)(message, context)
    assert theirs is not None
    assert ours.deserialize(topic, [], theirs) == {"a": 0, "g": {"b": [1, 2]}}
    written = ours.for_request("value", topic).serialize(topic, [], {"a": 0, "g": {"b": [1, 2]}})
    assert deserializer(cls)(written, context) == message


def test_invalid_schema_is_not_registered(ours: OurSerializer, judge: SchemaRegistryClient, topic: str) -> None:
    for text in ("message M {", 'syntax = "proto3"; enum E { A = 0; }', 'import "../x.proto"; message M { }'):
        with pytest.raises(InvalidSchema):
            ours.for_request("value", topic, schema=text)
    assert f"{topic}-value" not in judge.get_subjects()


def test_schema_that_registry_rejects_is_rejected(ours: OurSerializer, topic: str) -> None:
    ours.for_request("value", topic, schema='syntax = "proto3"; message M { int32 a = 1; }')
    with pytest.raises(InvalidSchema, match="rejects it for the subject"):
        ours.for_request("value", topic, schema='syntax = "proto3"; message M { string a = 1; }')


def test_schema_of_another_format_is_rejected(judge: SchemaRegistryClient, ours: OurSerializer, topic: str) -> None:
    schema_id = judge.register_schema(f"{topic}-value", Schema('"int"', "AVRO"))
    with pytest.raises(InvalidSchema, match="is one of AVRO, not of PROTOBUF"):
        ours.for_request("value", topic, schema_id=schema_id)
