"""Conversion between Protobuf's JSON and its binary encoding, and hostile schemas and messages.

The expected bytes are worked out by hand from the specification:
https://protobuf.dev/programming-guides/encoding/ and https://protobuf.dev/programming-guides/json/
"""

import base64
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto

from kafka_http.errors import InvalidPayload, InvalidSchema, InvalidValue
from kafka_http.schemas import protobuf_compiler
from kafka_http.schemas.protobuf_serializer import ProtobufCodec
from tests.support.polling import scaled

WELL_KNOWN = "".join(
    f'import "google/protobuf/{name}.proto"; '
    for name in ("any", "duration", "empty", "field_mask", "struct", "timestamp", "wrappers")
)


def fields(text: str, syntax: str = 'syntax = "proto3"') -> ProtobufCodec:
    """A message `M` of these fields; `Point` and `Suit` are there too."""
    label = "" if "proto3" in syntax or "edition" in syntax else "optional "
    point = f"message Point {{ {label}int32 x = 1; {label}int32 y = 2; }}"
    return ProtobufCodec(
        f"{syntax}; {WELL_KNOWN if 'google' in text else ''} message M {{ {text} }} {point} "
        "enum Suit { SPADES = 0; HEARTS = 1; }"
    )


GOLDEN: list[tuple[str, Any, str]] = [
    # a tag is the field's number << 3 | wire type: 08 is field 1 as a varint
    ("int32 f = 1;", 1, "08 01"),
    ("int32 f = 1;", 150, "08 96 01"),
    ("int32 f = 1;", -1, "08 ff ff ff ff ff ff ff ff ff 01"),
    ("int32 f = 16;", 1, "80 01 01"),
    ("int64 f = 1;", "9223372036854775807", "08 ff ff ff ff ff ff ff ff 7f"),
    ("uint64 f = 1;", "18446744073709551615", "08 ff ff ff ff ff ff ff ff ff 01"),
    ("sint32 f = 1;", -1, "08 01"),
    ("sint32 f = 1;", 2147483647, "08 fe ff ff ff 0f"),
    ("sint64 f = 1;", "-64", "08 7f"),
    ("fixed32 f = 1;", 1, "0d 01 00 00 00"),
    ("sfixed32 f = 1;", -1, "0d ff ff ff ff"),
    ("fixed64 f = 1;", "1", "09 01 00 00 00 00 00 00 00"),
    ("sfixed64 f = 1;", "-1", "09 ff ff ff ff ff ff ff ff"),
    ("float f = 1;", 1.1, "0d cd cc 8c 3f"),
    ("float f = 1;", "NaN", "0d 00 00 c0 7f"),
    ("double f = 1;", -1.5, "09 00 00 00 00 00 00 f8 bf"),
    ("double f = 1;", "Infinity", "09 00 00 00 00 00 00 f0 7f"),
    ("double f = 1;", "-Infinity", "09 00 00 00 00 00 00 f0 ff"),
    ("bool f = 1;", True, "08 01"),
    ("string f = 1;", "aé", "0a 03 61 c3 a9"),
    ("string f = 1;", "\0", "0a 01 00"),
    ("bytes f = 1;", "AP8=", "0a 02 00 ff"),
    ("Suit f = 1;", "HEARTS", "08 01"),
    ("Suit f = 1;", 7, "08 07"),
    ("repeated int32 f = 1;", [1, 150], "0a 03 01 96 01"),
    ("repeated int32 f = 1 [packed = false];", [1, 2], "08 01 08 02"),
    ("repeated string f = 1;", ["a", ""], "0a 01 61 0a 00"),
    ("Point f = 1;", {"x": 1, "y": 0}, "0a 02 08 01"),
    ("Point f = 1;", {"x": 0, "y": 0}, "0a 00"),
    ("repeated Point f = 1;", [{"x": 1, "y": 0}, {"x": 0, "y": 2}], "0a 02 08 01 0a 02 10 02"),
    ("map<string, int32> f = 1;", {"a": 1}, "0a 05 0a 01 61 10 01"),
    ("map<bool, string> f = 1;", {"true": "x"}, "0a 05 08 01 12 01 78"),
    ("map<int64, Point> f = 1;", {"-1": {"x": 1, "y": 0}}, "0a 0f 08 ff ff ff ff ff ff ff ff ff 01 12 02 08 01"),
    ("map<string, string> f = 1;", {"a": "", "b": ""}, "0a 05 0a 01 61 12 00 0a 05 0a 01 62 12 00"),
    ("map<string, Suit> f = 1;", {"a": "HEARTS"}, "0a 05 0a 01 61 10 01"),
    ("oneof o { int32 e = 2; string f = 1; }", "", "0a 00"),
    ("optional int32 f = 1;", 0, "08 00"),
    ("M f = 1;", {"f": {}}, "0a 02 0a 00"),
    ("google.protobuf.Timestamp f = 1;", "1970-01-01T00:00:01.500Z", "0a 08 08 01 10 80 ca b5 ee 01"),
    ("google.protobuf.Duration f = 1;", "-1s", "0a 0b 08 ff ff ff ff ff ff ff ff ff 01"),
    ("google.protobuf.FieldMask f = 1;", "a,bC.d", "0a 0a 0a 01 61 0a 05 62 5f 63 2e 64"),
    ("google.protobuf.Int64Value f = 1;", "0", "0a 00"),
    ("google.protobuf.StringValue f = 1;", "x", "0a 03 0a 01 78"),
    ("google.protobuf.BoolValue f = 1;", True, "0a 02 08 01"),
    ("google.protobuf.BytesValue f = 1;", "AA==", "0a 03 0a 01 00"),
    ("google.protobuf.Empty f = 1;", {}, "0a 00"),
    ("google.protobuf.Value f = 1;", None, "0a 02 08 00"),
    ("google.protobuf.Value f = 1;", "x", "0a 03 1a 01 78"),
    ("google.protobuf.Struct f = 1;", {"a": True}, "0a 09 0a 07 0a 01 61 12 02 20 01"),
    ("google.protobuf.ListValue f = 1;", [None], "0a 04 0a 02 08 00"),
    (
        "google.protobuf.Any f = 1;",
        {"@type": "type.googleapis.com/Point", "x": 1, "y": 0},
        "0a 1f 0a 19 " + b"type.googleapis.com/Point".hex(" ") + " 12 02 08 01",
    ),
    (
        "google.protobuf.Any f = 1;",
        {"@type": "t/google.protobuf.BoolValue", "value": True},
        "0a 21 0a 1b " + b"t/google.protobuf.BoolValue".hex(" ") + " 12 02 08 01",
    ),
]


@pytest.mark.parametrize(("field", "value", "golden"), GOLDEN)
def test_encode_and_decode_match_bytes_of_the_specification(field: str, value: Any, golden: str) -> None:
    codec = fields(field)
    encoded = codec.encode({"f": value})
    assert encoded == b"\0" + bytes.fromhex(golden)  # the zero byte: the first message of the file
    decoded = codec.decode(encoded)
    assert decoded["f"] == value
    assert type(decoded["f"]) is type(value)


@pytest.mark.parametrize(
    ("field", "value", "same"),
    [
        ("int32 f = 1;", 3.0, 3),
        ("int32 f = 1;", "3", 3),
        ("int32 f = 1;", "3e2", 300),
        ("int64 f = 1;", 3, "3"),
        ("double f = 1;", 3, 3.0),
        ("double f = 1;", "1.5", 1.5),
        ("bytes f = 1;", "-_8", "+/8="),
        ("Suit f = 1;", 1, "HEARTS"),
        ("google.protobuf.Timestamp f = 1;", "2026-11-21T11:00:00+01:00", "2026-11-21T10:00:00Z"),
        ("google.protobuf.DoubleValue f = 1;", 2, 2.0),
        ("google.protobuf.Value f = 1;", {"a": [1]}, {"a": [1.0]}),
        ("google.protobuf.NullValue f = 1;", None, None),
        ("repeated int32 f = 1;", None, []),
        ("map<int32, int32> f = 1;", None, {}),
        ("int32 f = 1;", None, 0),
    ],
)
def test_encode_alternative_spelling_gives_same_value(field: str, value: Any, same: Any) -> None:
    codec = fields(field)
    assert codec.decode(codec.encode({"f": value}))["f"] == same


def test_decode_missing_fields_as_kafka_rest_shows_them() -> None:
    """A field without presence has its default. Names are in lowerCamelCase, in the order of the fields' numbers."""
    codec = fields(
        "string last_name = 2; int64 a = 1; bool b = 3; Suit s = 4; repeated int32 r = 5; map<int32, int32> m = 6; "
        "bytes y = 7; double d = 8; Point p = 9; optional int32 o = 10; oneof one { int32 e = 11; } "
        "google.protobuf.Timestamp t = 12;"
    )
    decoded = codec.decode(b"\0")
    assert list(decoded.items()) == [
        ("a", "0"), ("lastName", ""), ("b", False), ("s", "SPADES"), ("r", []), ("m", {}), ("y", ""), ("d", 0.0),
    ]  # fmt: skip


def test_encode_accepts_field_names_of_the_schema() -> None:
    codec = fields("string last_name = 1; int32 a_b = 2 [json_name = 'x'];")
    assert codec.encode({"last_name": "a", "a_b": 1}) == codec.encode({"lastName": "a", "x": 1})
    assert codec.decode(codec.encode({"a_b": 1})) == {"lastName": "", "x": 1}


PROTO2 = """
syntax = "proto2";
message M {
  required int32 f = 1;
  optional string d = 2 [default = "x"];
  repeated group Part = 3 { optional int32 n = 4; }
  extensions 100 to 200;
  optional Closed c = 5;
}
extend M { optional int32 more = 100; repeated M ms = 101; }
enum Closed { ONE = 1; }
"""


def test_proto2_groups_and_extensions_are_encoded_and_decoded() -> None:
    codec = ProtobufCodec(PROTO2)
    value = {"f": 1, "part": [{"n": 2}], "c": "ONE", "[more]": 3}
    encoded = codec.encode(value)
    assert encoded == b"\0" + bytes.fromhex("08 01 1b 20 02 1c 28 01 a0 06 03")
    assert codec.decode(encoded) == value
    value = {"f": 1, "part": [], "[ms]": [{"f": 4, "part": []}]}
    assert codec.encode(value) == b"\0" + bytes.fromhex("08 01 aa 06 02 08 04")
    assert codec.decode(codec.encode(value)) == value


@pytest.mark.parametrize(("value", "path"), [({}, ".f"), ({"f": 1, "[ms]": [{"f": 2}, {}]}, ".ms[1].f")])
def test_encode_missing_required_field_reports_path(value: Any, path: str) -> None:
    with pytest.raises(InvalidPayload) as raised:
        ProtobufCodec(PROTO2).encode(value)
    assert (raised.value.path, raised.value.problem) == (path, "the required field is missing")


def test_decode_accepts_missing_required_field() -> None:
    assert ProtobufCodec(PROTO2).decode(b"\0") == {"part": []}


@pytest.mark.parametrize("edition", ["2023", "2024"])
def test_features_of_editions_are_encoded_and_decoded(edition: str) -> None:
    codec = ProtobufCodec(
        f'edition = "{edition}"; message M {{ int32 f = 1; int32 i = 2 [features.field_presence = IMPLICIT]; '
        "M m = 3 [features.message_encoding = DELIMITED]; }"
    )
    assert codec.decode(b"\0") == {"i": 0}
    encoded = codec.encode({"f": 0, "m": {"f": 1}})
    assert encoded == b"\0" + bytes.fromhex("08 00 1b 08 01 1c")
    assert codec.decode(encoded) == {"f": 0, "i": 0, "m": {"f": 1, "i": 0}}


SEVERAL = """
syntax = "proto2";
enum Not { A = 0; }
message First {
  map<string, string> not = 1;
  message Inner { message Innermost { optional int32 n = 1; } }
  optional group Neither = 2 { }
  message Second { optional int32 n = 1; }
}
extend google.protobuf.FieldOptions { optional group NorThis = 50000 { } }
message Last { optional int32 n = 1; }
import "google/protobuf/descriptor.proto";
"""


@pytest.mark.parametrize(
    ("indexes", "decoded"),
    [
        ("00", {"not": {}}),
        ("02 00", {"not": {}}),  # one, zero
        ("04 00 00", {}),  # two: zero, zero
        ("06 00 00 00", {"n": 7}),
        ("04 00 02", {"n": 7}),  # two: zero, one. The entry of the map and the group are not counted
        ("02 02", {"n": 7}),
    ],
)
def test_message_indexes_count_messages_as_java_does(indexes: str, decoded: Any) -> None:
    body = bytes.fromhex("08 07") if "n" in decoded else b""
    assert ProtobufCodec(SEVERAL).decode(bytes.fromhex(indexes) + body) == decoded


@pytest.mark.parametrize(
    "data",
    ["", "02", "02 04", "02 01", "01", "04 00 08", "fe ff ff ff 0f", "ff ff ff ff ff ff", "80", "42 00", "01 00"],
)
def test_decode_invalid_message_indexes_is_rejected(data: str) -> None:
    with pytest.raises(InvalidValue, match="message"):
        ProtobufCodec(SEVERAL).decode(bytes.fromhex(data))


def test_decode_overlong_varint_and_unknown_field() -> None:
    """Field 1 has five bytes instead of one, and one field is not in the schema."""
    assert fields("int32 f = 1;").decode(b"\0" + bytes.fromhex("88 80 80 80 00 07 10 01")) == {"f": 7}


FAULTS: list[tuple[str, Any, str, str]] = [
    ("int32 f = 1;", 5, "", "expected M as an object, got number"),
    ("int32 f = 1;", None, "", "expected M as an object, got null"),
    ("int32 f = 1;", {"g": 1}, ".g", "M has no such field"),
    ("int32 f = 1;", {"F": 1}, ".F", "M has no such field"),
    ("int32 f = 1;", {"[f]": 1}, '["[f]"]', "M has no such field"),
    ("int32 f = 1;", {"f": "x"}, ".f", 'expected int32, a whole number from -2147483648 to 2147483647, got "x"'),
    ("int32 f = 1;", {"f": 1.5}, ".f", "expected int32, a whole number from -2147483648 to 2147483647, got 1.5"),
    ("int32 f = 1;", {"f": 1 << 31}, ".f", "expected int32, a whole number .* got 2147483648"),
    ("int32 f = 1;", {"f": 1e300}, ".f", "expected int32, a whole number .* got 1e"),
    ("int32 f = 1;", {"f": "1e999"}, ".f", 'expected int32, a whole number .* got "1e999"'),
    ("int32 f = 1;", {"f": True}, ".f", "expected int32, got boolean"),
    ("uint32 f = 1;", {"f": -1}, ".f", "expected uint32, a whole number from 0 to 4294967295, got -1"),
    ("int64 f = 1;", {"f": "9223372036854775808"}, ".f", 'expected int64, .* got "9223372036854775808"'),
    ("int64 f = 1;", {"f": {}}, ".f", "expected int64, got object"),
    ("float f = 1;", {"f": 1e39}, ".f", r"expected float, got 1e\+39, which is too large"),
    ("double f = 1;", {"f": 10**400}, ".f", "expected double, got 1000.*…, which is too large"),
    ("double f = 1;", {"f": "nan"}, ".f", "expected double .*, got string"),
    ("bool f = 1;", {"f": "true"}, ".f", "expected boolean, got string"),
    ("string f = 1;", {"f": 1}, ".f", "expected string, got number"),
    ("bytes f = 1;", {"f": "a"}, ".f", "expected bytes as a string of base64"),
    ("bytes f = 1;", {"f": []}, ".f", "expected bytes as a string of base64, got array"),
    ("Suit f = 1;", {"f": "CLUBS"}, ".f", 'expected one of SPADES, HEARTS, got "CLUBS"'),
    ("Suit f = 1;", {"f": []}, ".f", "expected one of SPADES, HEARTS, got array"),
    ("Suit f = 1;", {"f": 1 << 40}, ".f", "expected Suit's number, a whole number"),
    ("repeated int32 f = 1;", {"f": 1}, ".f", "expected array, got number"),
    ("repeated int32 f = 1;", {"f": [1, 2, "x"]}, ".f[2]", "expected int32"),
    ("repeated int32 f = 1;", {"f": [None]}, ".f[0]", "expected int32, got null"),
    ("repeated Point f = 1;", {"f": [{}, None]}, ".f[1]", "expected Point as an object, got null"),
    ("repeated Point f = 1;", {"f": [{}, {"x": "!"}]}, ".f[1].x", "expected int32"),
    ("map<string, Point> f = 1;", {"f": {"a b": {"y": []}}}, '.f["a b"].y', "expected int32, got array"),
    ("map<int32, int32> f = 1;", {"f": {"x": 1}}, ".f.x", "expected int32"),
    ("map<bool, int32> f = 1;", {"f": {"True": 1}}, ".f.True", 'expected "true" or "false" as a key'),
    ("map<int32, int32> f = 1;", {"f": []}, ".f", "expected map as an object, got array"),
    ("map<string, int32> f = 1;", {"f": {"a": None}}, ".f.a", "expected int32, got null"),
    ("Point f = 1;", {"f": {"x": {}}}, ".f.x", "expected int32, got object"),
    (
        "M f = 1; oneof o { int32 a = 2; int32 b = 3; }",
        {"f": {"a": 0, "b": 0}},
        ".f.b",
        "only one field of the oneof o may be set",
    ),
    ("int32 a_b = 1;", {"a_b": 1, "aB": 1}, "", "given by both of its names"),
    ("google.protobuf.Timestamp f = 1;", {"f": "today"}, ".f", 'expected a time such as .*, got "today"'),
    ("google.protobuf.Timestamp f = 1;", {"f": "0000-01-01T00:00:00Z"}, ".f", "expected a time such as"),
    ("google.protobuf.Duration f = 1;", {"f": 1}, ".f", "expected a duration such as .*, got number"),
    ("google.protobuf.Duration f = 1;", {"f": "1"}, ".f", 'expected a duration such as .*, got "1"'),
    ("google.protobuf.Int32Value f = 1;", {"f": "x"}, ".f", "expected int32"),
    ("google.protobuf.Struct f = 1;", {"f": []}, ".f", "expected object, got array"),
    ("google.protobuf.Value f = 1;", {"f": 10**400}, ".f", "a number that is too large for a double"),
    ("google.protobuf.Any f = 1;", {"f": {"x": 1}}, '.f["@type"]', "the type is missing or not a string"),
    ("google.protobuf.Any f = 1;", {"f": {"@type": "a/Nope"}}, '.f["@type"]', 'the schema has no message "Nope"'),
    ("google.protobuf.Any f = 1;", {"f": {"@type": "a/Point", "x": ""}}, ".f.x", "expected int32"),
    (
        "google.protobuf.Any f = 1;",
        {"f": {"@type": "a/google.protobuf.Duration", "value": 1}},
        ".f.value",
        "expected a duration",
    ),
    (
        "google.protobuf.Any f = 1;",
        {"f": {"@type": "a/google.protobuf.Duration"}},
        ".f",
        'expected only "@type" and "value"',
    ),
]


@pytest.mark.parametrize(("field", "value", "path", "problem"), FAULTS)
def test_encode_value_that_does_not_fit_reports_path(field: str, value: Any, path: str, problem: str) -> None:
    with pytest.raises(InvalidPayload, match=problem) as raised:
        fields(field).encode(value)
    assert raised.value.path == path


def test_encode_closed_enum_rejects_unknown_number() -> None:
    codec = ProtobufCodec('syntax = "proto2"; message M { optional E f = 1; } enum E { A = 1; }')
    assert codec.encode({"f": 1}) == b"\0\x08\x01"
    with pytest.raises(InvalidPayload, match="expected one of A, got 2"):
        codec.encode({"f": 2})


def nested(depth: int, name: str = "f", innermost: Any = None) -> Any:
    value = {} if innermost is None else innermost
    for _ in range(depth):
        value = {name: value}
    return value


def test_nesting_is_limited_as_in_java() -> None:
    codec = fields("M f = 1;")
    encoded = codec.encode(nested(99))
    assert codec.decode(encoded) == nested(99)
    with pytest.raises(InvalidPayload, match="nested more than 100 messages deep"):
        codec.encode(nested(100))
    with pytest.raises(InvalidPayload, match="nested more than 100 messages deep"):
        codec.encode(nested(600))


def deep_bytes(depth: int) -> bytes:
    body = b""
    for _ in range(depth):
        length = len(body)
        body = b"\x0a" + (bytes([length]) if length < 128 else bytes([length & 127 | 128, length >> 7])) + body
    return body


def test_decode_message_nested_too_deeply_is_rejected() -> None:
    codec = fields("M f = 1;")
    assert codec.decode(b"\0" + deep_bytes(99)) == nested(99)
    with pytest.raises(InvalidValue):
        codec.decode(b"\0" + deep_bytes(5000))


@pytest.mark.parametrize("type_", ["Struct", "Value"])
def test_encode_rejects_struct_depth_that_decode_rejects(type_: str) -> None:
    codec = fields(f"google.protobuf.{type_} f = 1;")
    deepest, problem = 0, ""
    for depth in range(1, 60):
        try:
            encoded = codec.encode({"f": nested(depth, innermost={"x": None})})
        except InvalidPayload as error:
            problem = error.problem
            break
        assert codec.decode(encoded)["f"] == nested(depth, innermost={"x": None})
        deepest = depth
    assert problem == "the value is nested too deeply"
    assert deepest >= 30


def test_any_nested_too_deeply_is_rejected() -> None:
    codec = fields("google.protobuf.Any f = 1;")
    value: Any = {}
    for _ in range(200):
        value = {"@type": "t/google.protobuf.Any", "value": value}
    with pytest.raises(InvalidPayload, match="nested more than 100 messages deep"):
        codec.encode({"f": value})

    message = b""
    for _ in range(300):
        any_ = b"\x0a\x15t/google.protobuf.Any\x12" + varint(len(message)) + message
        message = any_
    with pytest.raises(InvalidPayload, match="nested more than 100 messages deep"):
        codec.decode(b"\0\x0a" + varint(len(message)) + message)


def varint(number: int) -> bytes:
    encoded = b""
    while number > 127:
        encoded += bytes([number & 127 | 128])
        number >>= 7
    return encoded + bytes([number])


@pytest.mark.parametrize("tag", [b"\x0a", b"\x8a\x80\x00"])
def test_message_that_takes_too_much_memory_is_rejected(tag: bytes) -> None:
    """One MiB of empty messages of a type with many fields would take some GiB of memory."""
    wide = "".join(f"int64 f{number} = {number};" for number in range(1, 801))
    codec = ProtobufCodec(f'syntax = "proto3"; message M {{ repeated Wide w = 1; }} message Wide {{ {wide} }}')
    with pytest.raises(InvalidPayload, match="the messages take more than 256 MiB of memory"):
        codec.decode(b"\0" + (tag + b"\0") * 500_000)
    with pytest.raises(InvalidPayload, match="the messages take more than 256 MiB of memory"):
        codec.encode({"w": [{}] * 500_000})
    assert len(codec.decode(b"\0" + (tag + b"\0") * 10)["w"]) == 10


def as_descriptor(text: str, name: str, *references: tuple[str, str]) -> str:
    """Return a schema as confluent-kafka's serializer for Python registers it."""
    descriptor = FileDescriptorProto()
    descriptor.CopyFrom(protobuf_compiler.compile_files(text, references).file[-1])
    descriptor.name = name
    return base64.b64encode(descriptor.SerializeToString()).decode()


ADDRESS = """
syntax = "proto3"; package a; import "geo/point.proto"; message Address { string zip = 1; geo.Point at = 2; }
"""
POINT = 'syntax = "proto3"; package geo; message Point { double x = 1; }'
CUSTOMER = 'syntax = "proto3"; import "a/address.proto"; message Customer { a.Address address = 1; }'


@pytest.mark.parametrize("base64s", range(8))
def test_references_may_be_texts_or_descriptors(base64s: int) -> None:
    point, address, customer = POINT, ADDRESS, CUSTOMER
    texts = (("geo/point.proto", POINT), ("a/address.proto", ADDRESS))
    if base64s & 1:
        point = as_descriptor(POINT, "point")
    if base64s & 2:
        address = as_descriptor(ADDRESS, "address", *texts)
    if base64s & 4:
        customer = as_descriptor(CUSTOMER, "customer", *texts)
    codec = ProtobufCodec(customer, [("geo/point.proto", point), ("a/address.proto", address)])
    value = {"address": {"zip": "1", "at": {"x": 1.5}}}
    assert codec.decode(codec.encode(value)) == value
    with pytest.raises(InvalidPayload, match="expected double") as raised:
        codec.encode({"address": {"at": {"x": []}}})
    assert raised.value.path == ".address.at.x"


@pytest.mark.parametrize("name", ["schema.proto", "_schema.proto"])
def test_reference_may_have_the_name_of_the_main_file(name: str) -> None:
    text = f'syntax = "proto3"; import "{name}"; message M {{ geo.Point p = 1; }}'
    codec = ProtobufCodec(text, [("schema.proto", POINT), (name, POINT)])
    assert codec.encode({"p": {}}) == b"\0\x0a\0"


@pytest.mark.parametrize(
    ("imported", "field"),
    [
        ("google/type/money.proto", "google.type.Money"),
        ("google/type/datetime.proto", "google.type.DateTime"),
        ("google/protobuf/api.proto", "google.protobuf.Api"),
        ("google/protobuf/java_features.proto", "int32"),
        ("confluent/meta.proto", "confluent.Meta"),
        ("confluent/type/decimal.proto", "confluent.type.Decimal"),
        ("confluent/types/decimal.proto", "confluent.type.Decimal"),
        ("confluent/type/variant.proto", "confluent.type.Variant"),
    ],
)
def test_well_known_file_needs_no_reference(imported: str, field: str) -> None:
    codec = ProtobufCodec(f'syntax = "proto3"; import "{imported}"; message M {{ {field} f = 1; }}')
    assert codec.encode({}) == b"\0"


def test_reference_cannot_replace_well_known_type() -> None:
    timestamp = 'syntax = "proto3"; package google.protobuf; message Timestamp { string x = 1; }'
    codec = ProtobufCodec(
        'syntax = "proto3"; import "google/protobuf/timestamp.proto"; message M { google.protobuf.Timestamp f = 1; }',
        [("google/protobuf/timestamp.proto", timestamp)],
    )
    assert codec.encode({"f": "1970-01-01T00:00:01Z"}) == b"\0\x0a\x02\x08\x01"


BAD: list[tuple[str, str]] = [
    ("", "the schema has no message"),
    ("hello", r"line 1, column 1: Expected top-level statement"),
    ('syntax = "proto3"; enum E { A = 0; }', "the schema has no message"),
    ('syntax = "proto3"; message M { int32 f = 1 }', r"line 1, column 44: Expected .;"),
    ('syntax = "proto3"; message M { Nope f = 1; }', '"Nope" is not defined'),
    ('syntax = "proto3"; message M { int32 f = 1; int32 g = 1; }', "Field number 1 has already been used"),
    ('syntax = "proto9"; message M { }', "Unrecognized syntax"),
    (
        'syntax = "proto3"; import "nope.proto"; message M { }',
        'the schema imports "nope.proto", which is not among its ref',
    ),
    (
        'syntax = "proto3"; import "/etc/passwd"; message M { }',
        'the schema imports "/etc/passwd", which is not among its',
    ),
    ('syntax = "proto3"; import "../x.proto"; message M { }', "not allowed in the virtual path"),
    ('syntax = "proto3"; import "schema.proto"; message M { }', "recursively imports itself"),
    ('syntax = "proto3"; import "files/schema.proto"; message M { }', "which is not among its references"),
    ('syntax = "proto3"; import "google/protobuf/nope.proto"; message M { }', "which is not among its references"),
    ('syntax = "proto3";' + "message M {" * 5000, "maximum recursion limit for nested messages"),
    ('syntax = "proto3"; option (x) = ' + "{a:" * 50_000 + "}" * 50_000 + "; message M { }", "unknown"),
    ('syntax = "proto3"; message M { repeated repeated int32 f = 1; }', "Missing field number"),
    (base64.b64encode(b"\x0a\x01x\x22\x04\x0a\x02\xff\xff").decode(), "Invalid symbol name"),
    (base64.b64encode(b"\xff" * 50).decode(), "the schema has no message"),  # it begins with //
    ("syntax = 'proto3'; message \u00e4 { }", "non ascii codepoint"),
    ("\0", "Invalid control characters"),
]


@pytest.mark.parametrize(("text", "problem"), BAD)
def test_invalid_schema_is_rejected(text: str, problem: str) -> None:
    with pytest.raises(InvalidSchema, match=problem) as raised:
        ProtobufCodec(text)
    assert len(str(raised.value)) < 500
    assert tempfile.gettempdir() not in str(raised.value)


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "../x.proto", "a/../../x.proto", "/etc/x.proto", "a//b.proto", "a/", "C:\\x", "a\\b", "-I/etc",
     "a\0b", "a\nb", "é.proto", "a/" * 100 + "b", "a" * 1000, "~/x", "a b", "./x"],
)  # fmt: skip
def test_reference_with_unsafe_file_name_is_rejected(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(InvalidSchema, match="is not a relative path of plain names"):
        ProtobufCodec(CUSTOMER, [(name, POINT)])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("names", [("a", "a/address.proto"), ("a/address.proto", "a"), ("confluent", "confluent/x")])
def test_references_with_conflicting_file_names_are_rejected(names: tuple[str, str]) -> None:
    with pytest.raises(InvalidSchema, match="has the name of the directory of another"):
        ProtobufCodec(CUSTOMER, [(name, POINT) for name in names])


def test_compile_removes_temporary_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    ProtobufCodec(POINT)
    with pytest.raises(InvalidSchema):
        ProtobufCodec("message")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "text",
    [
        "".join(f"message M{number} {{}}" for number in range(25_000)),
        "message M { " + "".join(f"int32 f{number} = {number};" for number in range(1, 17_000)) + " }",
        "message M { " + "".join(f"string f{number} = {number};" for number in range(1, 5000)) + " }",
        "enum E { " + "".join(f"V{number} = {number};" for number in range(25_000)) + " } message M { E e = 1; }",
    ],
)
def test_large_schema_is_compiled_or_rejected_in_time(text: str) -> None:
    began = time.monotonic()
    refusal = ""
    try:
        codec = ProtobufCodec(f'syntax = "proto3"; {text}')
        assert codec.encode({}) == b"\0"
        codec.decode(b"\0")
    except InvalidSchema as error:
        refusal = str(error)
    assert not refusal or "maximum size" in refusal
    assert time.monotonic() - began < scaled(10)


def test_compiler_that_hangs_is_stopped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    slow = tmp_path / "protoc"
    slow.write_text("#!/bin/sh\nexec sleep 60\n")
    slow.chmod(0o700)
    monkeypatch.setattr(protobuf_compiler, "protoc", lambda: slow)
    monkeypatch.setattr(protobuf_compiler, "_TIMEOUT", 0.2)
    with pytest.raises(InvalidSchema, match="protoc did not compile the schema within"):
        ProtobufCodec(POINT)


def test_compiler_that_crashes_is_invalid_schema(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    crashing = tmp_path / "protoc"
    crashing.write_text("#!/bin/sh\nkill -SEGV $$\n")
    crashing.chmod(0o700)
    monkeypatch.setattr(protobuf_compiler, "protoc", lambda: crashing)
    with pytest.raises(InvalidSchema, match="protoc failed without an error message"):
        ProtobufCodec(POINT)
