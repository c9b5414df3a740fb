"""Conversion between Avro's JSON encoding and its binary encoding, and hostile schemas and messages.

The expected bytes are worked out by hand from the specification:

https://avro.apache.org/docs/1.12.0/specification/#binary-encoding
"""

import json
import struct
import threading
from typing import Any

import pytest

from kafka_http.errors import InvalidPayload, InvalidSchema, InvalidValue
from kafka_http.schemas.avro_serializer import AvroCodec

MAX_INT, MAX_LONG = 2**31 - 1, 2**63 - 1
ENUM = {"type": "enum", "name": "Suit", "symbols": ["SPADES", "HEARTS"]}
FIXED = {"type": "fixed", "name": "Pair", "namespace": "org.example", "size": 2}
POINT = {"type": "record", "name": "Point", "fields": [{"name": "x", "type": "int"}, {"name": "y", "type": "int"}]}
LIST = {
    "type": "record",
    "name": "LongList",
    "fields": [{"name": "value", "type": "long"}, {"name": "next", "type": ["null", "LongList"]}],
}
TREE = {
    "type": "record",
    "name": "Tree",
    "namespace": "a",
    "fields": [{"name": "children", "type": {"type": "array", "items": "Tree"}}],
}


def codec(schema: Any, *dependencies: Any) -> AvroCodec:
    return AvroCodec(json.dumps(schema), [json.dumps(each) for each in dependencies])


def record(*fields: dict[str, Any], name: str = "R") -> dict[str, Any]:
    return {"type": "record", "name": name, "fields": list(fields)}


GOLDEN: list[tuple[Any, Any, bytes]] = [
    ("null", None, b""),
    ("boolean", False, b"\x00"),
    ("boolean", True, b"\x01"),
    # zig-zag: 0 -> 0, -1 -> 1, 1 -> 2, -2 -> 3; then seven bits a byte, the lowest first
    ("int", 0, b"\x00"),
    ("int", -1, b"\x01"),
    ("int", 1, b"\x02"),
    ("int", -64, b"\x7f"),
    ("int", 64, b"\x80\x01"),
    ("int", MAX_INT, b"\xfe\xff\xff\xff\x0f"),
    ("int", -MAX_INT - 1, b"\xff\xff\xff\xff\x0f"),
    ("long", MAX_LONG, b"\xfe\xff\xff\xff\xff\xff\xff\xff\xff\x01"),
    ("long", -MAX_LONG - 1, b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"),
    # IEEE 754, the lowest byte first
    ("float", 1.0, b"\x00\x00\x80\x3f"),
    ("float", 1.1, b"\xcd\xcc\x8c\x3f"),
    ("float", 3.4028235e38, b"\xff\xff\x7f\x7f"),
    ("float", "NaN", b"\x00\x00\xc0\x7f"),
    ("float", "-Infinity", b"\x00\x00\x80\xff"),
    ("double", 1.0, b"\x00\x00\x00\x00\x00\x00\xf0\x3f"),
    ("double", "NaN", b"\x00\x00\x00\x00\x00\x00\xf8\x7f"),
    ("double", "Infinity", b"\x00\x00\x00\x00\x00\x00\xf0\x7f"),
    ("double", "-Infinity", b"\x00\x00\x00\x00\x00\x00\xf0\xff"),
    # a length, then bytes or UTF-8
    ("string", "foo", b"\x06foo"),
    ("string", "", b"\x00"),
    ("string", "é€😀", b"\x12\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80"),
    ("bytes", "\u00ff\u0000a", b"\x06\xff\x00a"),
    (FIXED, "\u00ff\u0001", b"\xff\x01"),
    (ENUM, "HEARTS", b"\x02"),
    # the specification's own: a record {"a": 27, "b": "foo"}, an array [3, 27], a union of null and string
    (record({"name": "a", "type": "long"}, {"name": "b", "type": "string"}), {"a": 27, "b": "foo"}, b"\x36\x06foo"),
    ({"type": "array", "items": "long"}, [3, 27], b"\x04\x06\x36\x00"),
    ({"type": "array", "items": "long"}, [], b"\x00"),
    ({"type": "map", "values": "int"}, {"k": 1}, b"\x02\x02k\x02\x00"),
    (["null", "string"], None, b"\x00"),
    (["null", "string"], {"string": "a"}, b"\x02\x02a"),
    (["string", "null"], None, b"\x02"),
    (["int", "long"], {"int": 1}, b"\x00\x02"),
    (["int", "long"], {"long": 1}, b"\x02\x02"),
    (["float", "double"], {"float": 1.1}, b"\x00\xcd\xcc\x8c\x3f"),
    (["double", "float"], {"double": 1.0}, b"\x00\x00\x00\x00\x00\x00\x00\xf0\x3f"),
    (["string", "bytes", FIXED, ENUM], {"org.example.Pair": "\u00ff\u0001"}, b"\x04\xff\x01"),
    (["string", "bytes", FIXED, ENUM], {"bytes": "\u00ff"}, b"\x02\x02\xff"),
    (["string", "bytes", FIXED, ENUM], {"Suit": "HEARTS"}, b"\x06\x02"),
    (["boolean", "int"], {"boolean": True}, b"\x00\x01"),
    ([{"type": "array", "items": "int"}, {"type": "map", "values": "int"}], {"array": [1]}, b"\x00\x02\x02\x00"),
    ([{"type": "map", "values": "int"}, POINT], {"Point": {"x": 1, "y": 2}}, b"\x02\x02\x04"),
    ([{"type": "map", "values": "int"}, POINT], {"map": {"x": 1}}, b"\x00\x02\x02x\x02\x00"),
    (LIST, {"value": 1, "next": {"LongList": {"value": 2, "next": None}}}, b"\x02\x02\x04\x00"),
    (TREE, {"children": [{"children": []}]}, b"\x02\x00\x00"),
    (record(name="Nothing"), {}, b""),
    # a logical type is encoded as its underlying type
    ({"type": "int", "logicalType": "date"}, 19000, b"\xf0\xa8\x02"),
    ({"type": "bytes", "logicalType": "decimal", "precision": 4, "scale": 2}, "\u0004\u00d2", b"\x04\x04\xd2"),
    ({"type": "string", "logicalType": "uuid"}, "no uuid at all", b"\x1cno uuid at all"),
    (["null", {"type": "long", "logicalType": "timestamp-millis"}], {"long": 5}, b"\x02\x0a"),
    ({"type": "fixed", "name": "D", "size": 12, "logicalType": "duration"}, "\u0001" * 12, b"\x01" * 12),
    ({"type": {"type": "string", "avro.java.string": "String"}}, "a", b"\x02a"),
]


@pytest.mark.parametrize(("schema", "data", "encoded"), GOLDEN)
def test_encode_and_decode_match_bytes_of_the_specification(schema: Any, data: Any, encoded: bytes) -> None:
    assert codec(schema).encode(data) == encoded
    assert codec(schema).decode(encoded) == data


@pytest.mark.parametrize(
    ("schema", "data", "same_as"),
    [
        (["null", "string"], "a", {"string": "a"}),
        (["long", "null"], 5, {"long": 5}),
        (["null", POINT], {"x": 1, "y": 2}, {"Point": {"x": 1, "y": 2}}),
        (["null", {"type": "array", "items": "int"}], [1], {"array": [1]}),
        (["null", {"type": "map", "values": "int"}], {"map": 1}, {"map": {"map": 1}}),
        (["null", ENUM], "SPADES", {"Suit": "SPADES"}),
        ("long", 3.0, 3),
        ("double", 3, 3.0),
        ("float", 1.100000023841858, 1.1),
    ],
)
def test_encode_alternative_spelling_gives_same_bytes(schema: Any, data: Any, same_as: Any) -> None:
    assert codec(schema).encode(data) == codec(schema).encode(same_as)
    assert codec(schema).decode(codec(schema).encode(data)) == same_as


PERSON = record(
    {"name": "name", "type": "string"},
    {"name": "address", "type": record({"name": "zip", "type": "string"}, name="Address")},
    {"name": "phones", "type": {"type": "array", "items": ["null", "int"]}, "default": []},
    {"name": "tags", "type": {"type": "map", "values": "string"}, "default": {}},
    {"name": "other", "type": ["null", "Address"], "default": None},
    name="Person",
)
ANNA = {"name": "Anna", "address": {"zip": "1010"}}


@pytest.mark.parametrize(
    ("schema", "data", "path", "problem"),
    [
        (PERSON, {**ANNA, "address": {"zip": 5}}, ".address.zip", "expected string, got number"),
        (PERSON, {**ANNA, "address": None}, ".address", "expected record Address as an object, got null"),
        (PERSON, {**ANNA, "phones": [1, "x"]}, ".phones[1]", "expected int, got string"),
        (PERSON, {**ANNA, "phones": [{"int": 1.5}]}, ".phones[0].int", "expected int, a whole number from"),
        (PERSON, {**ANNA, "tags": {"a": "x", "b c": True}}, '.tags["b c"]', "expected string, got boolean"),
        (PERSON, {**ANNA, "other": {"Address": {}}}, ".other.Address.zip", "the field is missing and has no default"),
        (PERSON, {**ANNA, "other": {"Addres": {}}}, ".other.zip", "the field is missing"),
        (PERSON, {**ANNA, "nick": "A"}, ".nick", "the record Person has no such field"),
        (PERSON, {"address": {"zip": ""}}, ".name", "the field is missing and has no default"),
        (PERSON, [], "", "expected record Person as an object, got array"),
        ("null", 0, "", "expected null, got number"),
        ("boolean", 1, "", "expected boolean, got number"),
        ("int", "1", "", "expected int, got string"),
        ("int", True, "", "expected int, got boolean"),
        ("int", MAX_INT + 1, "", "to 2147483647, got 2147483648"),
        ("long", MAX_LONG + 1, "", "to 9223372036854775807, got 9223372036854775808"),
        ("long", 1.5, "", "a whole number from"),
        ("float", 1e39, "", "too large"),
        ("double", 10**400, "", "too large"),
        ("double", "nan", "", 'or "NaN", "Infinity"'),
        ("string", 1, "", "expected string, got number"),
        ("bytes", "\u0100", "", "U+0000 to U+00FF"),
        ("bytes", 5, "", "expected bytes as a string, got number"),
        (FIXED, "abc", "", "expected fixed of 2 bytes, got 3"),
        (ENUM, "CLUBS", "", 'expected one of SPADES, HEARTS, got "CLUBS"'),
        (ENUM, 1, "", "expected one of SPADES, HEARTS, got number"),
        ({"type": "array", "items": "int"}, {}, "", "expected array, got object"),
        ({"type": "map", "values": "int"}, [], "", "expected map as an object, got array"),
        (["int", "string"], 5, "", 'expected {"int": …} or {"string": …}, got number'),
        (["int", "string"], {"long": 5}, "", "got object"),
        (["int", "string"], {"int": 5, "string": ""}, "", "got object"),
        (["int", "string"], None, "", "got null"),
        (["null", "string"], 5, "", "expected string, got number"),
        (["null", FIXED], {"org.example.Pair": "a"}, '["org.example.Pair"]', "expected fixed of 2 bytes"),
        ([], 5, "", "because the union is empty"),
    ],
)
def test_encode_value_that_does_not_fit_reports_path(schema: Any, data: Any, path: str, problem: str) -> None:
    with pytest.raises(InvalidPayload) as error:
        codec(schema).encode(data)

    assert error.value.path == path
    assert problem in error.value.problem


def test_encode_missing_field_uses_default() -> None:
    fields = [
        {"name": "a", "type": ["null", "string"], "default": None},
        {"name": "b", "type": ["string", "null"], "default": "x"},
        {"name": "c", "type": "bytes", "default": "\u00ff"},
        {"name": "d", "type": POINT, "default": {"x": 1, "y": 2}},
        {"name": "e", "type": ENUM, "default": "HEARTS"},
    ]
    assert codec(record(*fields)).encode({}) == b"\x00" + b"\x00\x02x" + b"\x02\xff" + b"\x02\x04" + b"\x02"


def test_encode_missing_field_with_invalid_default_is_rejected() -> None:
    with pytest.raises(InvalidPayload, match="a: the field is missing"):
        codec(record({"name": "a", "type": "string", "default": None})).encode({})


def test_encode_limits_size_of_defaults() -> None:
    """With two defaults a record and 30 levels of records, a few bytes would become 10**9 bytes."""
    inner: Any = record({"name": "a", "type": "string", "default": "x" * 100}, name="R0")
    for level in range(1, 30):
        first = {"name": "a", "type": inner, "default": {}}
        inner = record(first, {"name": "b", "type": f"R{level - 1}", "default": {}}, name=f"R{level}")
    with pytest.raises(InvalidPayload, match="the field is missing"):
        codec(inner).encode({})

    many = {"type": "array", "items": record({"name": "a", "type": "string", "default": "x" * 10000})}
    with pytest.raises(InvalidPayload, match="defaults of the missing fields take more than 1048576 bytes"):
        codec(many).encode([{}] * 1000)
    assert len(codec(many).encode([{}] * 100)) > 1_000_000 - 100


def test_type_names_are_resolved_by_namespace() -> None:
    schema = {
        "type": "record",
        "name": "a.b.Outer",
        "fields": [
            {"name": "one", "type": {"type": "fixed", "name": "F", "size": 1}},
            {"name": "two", "type": ["null", "F"]},
            {"name": "three", "type": ["null", "a.b.F"]},
            {"name": "four", "type": {"type": "enum", "name": "E", "namespace": "c", "symbols": ["A"]}},
            {"name": "five", "type": ["null", "c.E"]},
        ],
    }
    data = {"one": "a", "two": {"a.b.F": "b"}, "three": None, "four": "A", "five": {"c.E": "A"}}
    assert codec(schema).encode(data) == b"a\x02b\x00\x00\x02\x00"
    assert codec(schema).decode(b"a\x02b\x00\x00\x02\x00") == data


def test_schema_uses_types_of_its_references() -> None:
    street = record({"name": "no", "type": "int"}, name="Street")
    address = record({"name": "street", "type": "Street"}, name="Address")
    person = record({"name": "home", "type": "Address"}, {"name": "work", "type": ["null", "Street"]}, name="Person")
    data = {"home": {"street": {"no": 1}}, "work": {"Street": {"no": 2}}}

    person_codec = codec(person, street, address)

    assert person_codec.encode(data) == b"\x02\x02\x04"
    assert person_codec.decode(b"\x02\x02\x04") == data


@pytest.mark.parametrize(
    ("schema", "problem"),
    [
        ("strng", "the type 'strng' is used before it is defined, or not defined"),
        (5, "got 5"),
        (None, "got null"),
        ({}, 'an object with a "type"'),
        ({"type": None}, 'an object with a "type"'),
        ({"type": "array"}, "missing required field `items`"),
        ({"type": "map", "items": "int"}, "missing required field `values`"),
        ({"type": "record", "name": "R"}, "missing required field `fields`"),
        ({"type": "record", "fields": []}, "missing required field `name`"),
        (record(name="a b"), "'a b' is not a valid name for a type"),
        (record(name="string"), "the type string is already defined"),
        (record(name="a..b"), "'a..b' is not a valid name for a type"),
        ({**record(), "namespace": 5}, "got `int` - at `$.namespace`"),
        (record({"name": "a"}), "missing required field `type` - at `$.fields[0]`"),
        (record({"name": "a b", "type": "int"}), "- at `$.fields[0].name`"),
        (record({"name": "a", "type": "int"}, {"name": "a", "type": "int"}), "two fields of the same name"),
        (record({"name": "a", "type": "R2"}), "the type 'R2' is used before it is defined"),
        ([POINT, POINT], "already defined"),
        (["int", "int"], "two branches of one type"),
        (["int", {"type": "int", "logicalType": "date"}], "two branches of one type"),
        (["int", ["null"]], "a union as a branch"),
        ({**ENUM, "symbols": ["A", "A"]}, "two symbols of the same name"),
        ({**ENUM, "symbols": []}, "length >= 1 - at `$.symbols`"),
        ({**ENUM, "symbols": ["a-b"]}, "- at `$.symbols[0]`"),
        ({**ENUM, "symbols": None}, "Expected `array`, got `null`"),
        ({**FIXED, "size": -1}, "Expected `int` >= 0"),
        ({**FIXED, "size": "2"}, "Expected `int`, got `str`"),
        ({**FIXED, "size": 2**40}, "Expected `int` <= 16777216"),
        ({"type": "array", "items": "null"}, "take no bytes"),
        ({"type": "map", "values": {"type": "array", "items": record()}}, "take no bytes"),
        (record({"name": "a", "type": "R"}), "always contains itself"),
        (record({"name": "a", "type": record({"name": "b", "type": "R"}, name="I")}), "always contains itself"),
        (record(*({"name": f"f{n}", "type": "null"} for n in range(20))), "too many parts that take no bytes"),
    ],
)
def test_invalid_schema_is_rejected(schema: Any, problem: str) -> None:
    with pytest.raises(InvalidSchema, match="Invalid schema: ") as error:
        codec(schema)

    assert problem in error.value.message


@pytest.mark.parametrize("text", ["", "string", "{", '{"type": "string"', "\ud800".encode("utf-8", "replace").decode()])
def test_schema_that_is_not_json_is_rejected(text: str) -> None:
    with pytest.raises(InvalidSchema, match="not JSON"):
        AvroCodec(text)


@pytest.mark.parametrize("depth", [101, 500, 5000, 100_000])
def test_schema_nested_too_deeply_is_rejected(depth: int) -> None:
    for start, end in (('{"type":"array","items":', "}"), ("[", "]"), ('{"type":', "}")):
        with pytest.raises(InvalidSchema, match="nested"):
            AvroCodec(start * depth + '"int"' + end * depth)


def test_schema_nested_too_deeply_by_type_names_is_rejected() -> None:
    schema: list[Any] = [record({"name": "f", "type": "int"}, name="R0")]
    schema += [record({"name": "f", "type": f"R{level - 1}"}, name=f"R{level}") for level in range(1, 5000)]

    with pytest.raises(InvalidSchema, match="nested more than 100 levels"):
        codec(schema)


def test_schema_with_many_parts_that_take_no_bytes_is_rejected() -> None:
    """A message of no bytes would have 2**30 values."""
    schema: list[Any] = [record(name="R0")]
    for level in range(1, 30):
        fields = [{"name": name, "type": f"R{level - 1}"} for name in "ab"]
        schema.append(record(*fields, name=f"R{level}"))

    with pytest.raises(InvalidSchema, match="too many parts"):
        codec(schema)


def test_schema_of_maximum_size_is_compiled() -> None:
    fields = [{"name": f"field_{n}", "type": ["null", "string"], "default": None} for n in range(8000)]
    large = codec(record(*fields))

    assert large.encode({}) == b"\x00" * 8000
    assert len(large.decode(b"\x00" * 8000)) == 8000


@pytest.mark.parametrize(
    ("schema", "encoded"),
    [
        ("int", b""),
        ("int", b"\x80"),
        ("string", b"\x0aab"),
        ("string", b"\x01"),
        ("string", b"\x02\xff"),
        ("string", b"\xfe\xff\xff\xff\xff\xff\xff\xff\xff\x01"),
        ("bytes", b"\xfe\xff\xff\xff\x0fx"),
        (ENUM, b"\x04"),
        (["null", "int"], b"\x04"),
        ({"type": "array", "items": "int"}, b"\xfe\xff\xff\xff\xff\xff\xff\xff\xff\x01"),
        ({"type": "map", "values": "int"}, b"\xfe\xff\xff\xff\x0f\x00"),
        ("int", b"\x02\x02"),
        ("null", b"\x00"),
        (LIST, b"\x02\x02"),
        (LIST, b"\x02\x04"),
        (TREE, b"\xfe\xff\xff\xff\xff\xff\xff\xff\xff\x01"),
    ],
)
def test_decode_invalid_bytes_is_rejected(schema: Any, encoded: bytes) -> None:
    with pytest.raises((InvalidValue, InvalidPayload)):
        codec(schema).decode(encoded)


@pytest.mark.parametrize(
    ("schema", "encoded"),
    [(LIST, b"\x02\x02" * 1_000_000 + b"\x00\x00"), (TREE, b"\x02" * 1_000_000), (TREE, b"\x01\x02" * 1_000_000)],
)
def test_decode_message_nested_too_deeply_is_rejected(schema: Any, encoded: bytes) -> None:
    raised: list[Exception] = []

    def read() -> None:
        try:
            codec(schema).decode(encoded)
        except Exception as error:
            raised.append(error)

    thread = threading.Thread(target=read)  # its stack is smaller than that of the main thread
    thread.start()
    thread.join()

    assert isinstance(raised[0], InvalidPayload)
    assert "nested more than 100 levels" in raised[0].message


def test_encode_rejects_depth_that_decode_rejects() -> None:
    data: Any = None
    for value in range(100):
        data = {"value": value, "next": data}
    lists = codec(LIST)

    assert lists.decode(lists.encode(data))["value"] == 99
    with pytest.raises(InvalidPayload, match="nested more than 100 levels"):
        lists.encode({"value": 100, "next": data})


def test_decode_float_gives_shortest_number() -> None:
    for number in (0.1, 1e-45, 16777216.0, 3.4028234663852886e38, 1 / 3, -2.5e-8):
        stored = struct.unpack("<f", struct.pack("<f", number))[0]
        read = codec("float").decode(struct.pack("<f", number))
        assert struct.pack("<f", read) == struct.pack("<f", stored)
        assert len(repr(read)) <= len(repr(stored))
