"""Values of each format with a schema, with the value that is read or the error."""

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

SCHEMA_TYPES = {"avro": "AVRO", "protobuf": "PROTOBUF", "jsonschema": "JSON"}

DRAFTS = {
    "4": "http://json-schema.org/draft-04/schema#",
    "6": "http://json-schema.org/draft-06/schema#",
    "7": "http://json-schema.org/draft-07/schema#",
    "2019": "https://json-schema.org/draft/2019-09/schema",
    "2020": "https://json-schema.org/draft/2020-12/schema",
}


class Wrong(NamedTuple):
    """An error: its code, and a part of its message after the index of the record and the role."""

    message: str
    code: int = 42206


class Case(NamedTuple):
    """`value` is the value of a record, or its key if `role` says so; `expected` is what is read, or the error."""

    format: str
    schema: str
    value: Any
    expected: Any
    role: str = "value"
    references: tuple[tuple[str, str], ...] = ()
    """Names and texts of the referenced schemas."""


SAME = object()


def avro(schema: Any, value: Any, expected: Any = SAME, **more: Any) -> Case:
    return Case("avro", json.dumps(schema), value, value if expected is SAME else expected, **more)


def protobuf(schema: str, value: Any, expected: Any = SAME, **more: Any) -> Case:
    syntax = "" if schema.startswith("syntax") else 'syntax = "proto3"; '
    return Case("protobuf", syntax + schema, value, value if expected is SAME else expected, **more)


def jsonschema(schema: Any, value: Any, expected: Any = SAME, **more: Any) -> Case:
    schema = {"$schema": DRAFTS["7"], **schema}  # Apicurio rejects a short schema without $schema
    return Case("jsonschema", json.dumps(schema), value, value if expected is SAME else expected, **more)


def record(name: str, /, *, default_: Any = SAME, **fields: Any) -> Any:
    """Return an Avro record. `default_` is the default of each field, if given."""
    more = {} if default_ is SAME else {"default": default_}
    listed = [{"name": field, "type": type_, **more} for field, type_ in fields.items()]
    return {"type": "record", "name": name, "namespace": "org.example", "fields": listed}


ADDRESS = record("Address", zip="string")
CUSTOMER = record("Customer", name="string", address=ADDRESS)
CHAIN = record("Chain", next=["null", "Chain"])
TWO = {"type": "fixed", "name": "Two", "size": 2}
SUIT = {"type": "enum", "name": "Suit", "symbols": ["SPADES", "HEARTS"]}
THREE = record("Three", is_=["null", "string", "long", ADDRESS])


def chain(depth: int) -> Any:
    return {"next": {"org.example.Chain": chain(depth - 1)} if depth else None}


AVRO = {
    "boolean": avro("boolean", False),
    "boolean, a number": avro("boolean", 1, Wrong(": expected boolean, got number")),
    "int, the largest": avro("int", 2**31 - 1),
    "int, too large": avro("int", 2**31, Wrong(": expected int, a whole number from -2147483648")),
    "int, with a point": avro("int", 1.0, 1),
    "int, with a fraction": avro("int", 1.5, Wrong(": expected int, a whole number")),
    "int, a boolean": avro("int", True, Wrong(": expected int, got boolean")),
    "long, the least": avro("long", -(2**63)),
    "long, too large": avro("long", 2**63, Wrong(": expected long, a whole number")),
    "float": avro("float", 0.5),
    "float, a whole number": avro("float", 7, 7.0),
    "float, too large": avro("float", 1e39, Wrong("which is too large")),
    "double": avro("double", 1e300),
    "NaN": avro("double", "NaN"),
    "Infinity": avro("double", "Infinity"),
    "-Infinity of a float": avro("float", "-Infinity"),
    "no such number": avro("double", "infinite", Wrong(': expected double (or "NaN"')),
    "bytes": avro("bytes", "\u00ff\u0000"),
    "bytes, another character": avro("bytes", "€", Wrong("from U+0000 to U+00FF")),
    "bytes, a number": avro("bytes", 5, Wrong(": expected bytes as a string, got number")),
    "string": avro("string", "ü😀\u0000"),
    "string, empty": avro("string", ""),
    "string, a number": avro("string", 5, Wrong(": expected string, got number")),
    "fixed": avro(TWO, "\u00fe\u0001"),
    "fixed, too long": avro(TWO, "abc", Wrong(": expected fixed of 2 bytes, got 3")),
    "enum": avro(SUIT, "HEARTS"),
    "enum, another": avro(SUIT, "CLUBS", Wrong(': expected one of SPADES, HEARTS, got "CLUBS"')),
    "array": avro({"type": "array", "items": "int"}, [1, 2]),
    "array, an item": avro({"type": "array", "items": "int"}, [1, "2"], Wrong("[1]: expected int, got string")),
    "map": avro({"type": "map", "values": "int"}, {"a b": 1, "": 2}),
    "map, a value": avro({"type": "map", "values": "int"}, {"a b": "1"}, Wrong('["a b"]: expected int')),
    "record": avro(CUSTOMER, {"name": "Ann", "address": {"zip": "1010"}}),
    "record, a nested field": avro(
        CUSTOMER, {"name": "Ann", "address": {"zip": 1010}}, Wrong(".address.zip: expected string, got number")
    ),
    "record, a missing field": avro(
        CUSTOMER, {"name": "Ann", "address": {}}, Wrong(".address.zip: the field is missing")
    ),
    "record, an unknown field": avro(
        CUSTOMER, {"name": "Ann", "address": {"zip": "1", "street": "x"}}, Wrong(".address.street: the record")
    ),
    "record, a default": avro(record("Defaults", default_=5, a="int", b="int"), {"a": 1}, {"a": 1, "b": 5}),
    "record, none": avro(CUSTOMER, [], Wrong(": expected record org.example.Customer as an object, got array")),
    "union, null": avro(THREE, {"is_": None}),
    "union, a branch": avro(THREE, {"is_": {"long": 5}}),
    "union, a named branch": avro(THREE, {"is_": {"org.example.Address": {"zip": "1"}}}),
    "union, in a branch": avro(
        THREE, {"is_": {"org.example.Address": {"zip": 1}}}, Wrong('.is_["org.example.Address"].zip: expected string')
    ),
    "union, bare": avro(THREE, {"is_": 5}, Wrong('.is_: expected null or {"string": …} or {"long": …}')),
    "union, no such branch": avro(THREE, {"is_": {"double": 5}}, Wrong(".is_: expected null or")),
    "nullable, bare": avro(record("N", a=["null", "int"]), {"a": 5}, {"a": {"int": 5}}),
    "nullable, wrapped": avro(record("N", a=["null", "int"]), {"a": {"int": 5}}),
    "nullable, null": avro(record("N", a=["null", "int"]), {"a": None}),
    "nullable, another": avro(record("N", a=["null", "int"]), {"a": "x"}, Wrong(".a: expected int, got string")),
    "date": avro({"type": "int", "logicalType": "date"}, 20778),
    "timestamp-millis": avro({"type": "long", "logicalType": "timestamp-millis"}, 1795255200000),
    "timestamp-millis, a text": avro(
        {"type": "long", "logicalType": "timestamp-millis"}, "2026-11-21T10:00:00Z", Wrong(": expected long")
    ),
    "decimal": avro({"type": "bytes", "logicalType": "decimal", "precision": 4, "scale": 2}, "\u0004\u00d2"),
    "uuid": avro({"type": "string", "logicalType": "uuid"}, "6f1c0b5e-58b4-4b0e-9a57-0d8f6b8f6f11"),
    "recursive": avro(CHAIN, chain(20)),
    "tombstone": avro("string", None),
    "reference": avro(
        record("Refers", at="org.example.Address"), {"at": {"zip": "1"}},
        references=(("org.example.Address", json.dumps(ADDRESS)),),
    ),
    "reference, in it": avro(
        record("Refers", at="org.example.Address"), {"at": {"zip": None}}, Wrong(".at.zip: expected string, got null"),
        references=(("org.example.Address", json.dumps(ADDRESS)),),
    ),
    "key": avro("long", 7, role="key"),
    "key, a record": avro(CUSTOMER, {"name": "Ann", "address": {"zip": "1010"}}, role="key"),
    "key, a field": avro(CUSTOMER, {"name": "Ann", "address": {"zip": 1}}, Wrong(".address.zip: expected"), role="key"),
}  # fmt: skip

KNOWN = "".join(
    f'import "google/protobuf/{name}.proto"; ' for name in ("any", "duration", "struct", "timestamp", "wrappers")
)
WELL_KNOWN = (
    KNOWN + "message K { google.protobuf.Timestamp time = 1; google.protobuf.Duration duration = 2; "
    "google.protobuf.Int64Value wrapped = 3; google.protobuf.Struct object = 4; google.protobuf.Any any = 5; "
    "google.protobuf.StringValue text = 6; }"
)
INTS = "message I { int32 a_b = 1; int64 c = 2; uint32 d = 3; }"
PLACE = "message Place { Inner inner = 1; repeated Inner all = 2; message Inner { string zip = 1; } }"
EITHER = "message E { oneof it { string a = 1; int32 b = 2; } }"
COLOR = "message C { Color c = 1; enum Color { RED = 0; BLUE = 1; } }"
POINT = 'syntax = "proto3"; package geo; message Point { optional double x = 1; }'
FLOATS = "message F { optional double a = 1; optional float b = 2; }"
PROTO2 = 'syntax = "proto2"; message P { required string a = 1; optional int32 b = 2 [default = 5]; }'

PROTOBUF = {
    "numbers": protobuf(INTS, {"aB": 1, "c": "9223372036854775807", "d": 4294967295}),
    "int64 as a number": protobuf(INTS, {"c": 5}, {"aB": 0, "c": "5", "d": 0}),
    "int32 as a text": protobuf(INTS, {"aB": "5"}, {"aB": 5, "c": "0", "d": 0}),
    "a field by its name in the file": protobuf(INTS, {"a_b": 5}, {"aB": 5, "c": "0", "d": 0}),
    "null is as if left out": protobuf(INTS, {"aB": None}, {"aB": 0, "c": "0", "d": 0}),
    "int32, too large": protobuf(INTS, {"aB": 2**31}, Wrong(".aB: expected int32")),
    "int32, a fraction": protobuf(INTS, {"aB": 0.5}, Wrong(".aB: expected int32")),
    "uint32, negative": protobuf(INTS, {"d": -1}, Wrong(".d: expected uint32")),
    "int64, a word": protobuf(INTS, {"c": "x"}, Wrong(".c: expected int64")),
    "an unknown field": protobuf(INTS, {"z": 1}, Wrong(".z: ")),
    "no message": protobuf(INTS, [], Wrong(": expected ")),
    "nested": protobuf(PLACE, {"inner": {"zip": "1"}, "all": [{"zip": "2"}, {"zip": ""}]}),
    "nested, a field": protobuf(PLACE, {"inner": {"zip": 1}}, Wrong(".inner.zip: expected string, got number")),
    "repeated, a field": protobuf(PLACE, {"all": [{}, {"zip": []}]}, Wrong(".all[1].zip: expected string, got array")),
    "repeated, no array": protobuf(PLACE, {"all": {}}, Wrong(".all: expected ")),
    "map": protobuf("message M { map<string, int32> m = 1; }", {"m": {"a": 1, "b c": 0}}),
    "map, of messages by number": protobuf(
        "message M { map<int64, V> m = 1; message V { bool b = 1; } }", {"m": {"-5": {"b": True}}}
    ),
    "map, a value": protobuf("message M { map<string, int32> m = 1; }", {"m": {"b c": "x"}}, Wrong('.m["b c"]: ')),
    "map, a key": protobuf("message M { map<int32, int32> m = 1; }", {"m": {"x": 1}}, Wrong(".m")),
    "oneof": protobuf(EITHER, {"b": 0}),
    "oneof, both": protobuf(EITHER, {"a": "", "b": 0}, Wrong(".b: ")),
    "enum": protobuf(COLOR, {"c": "BLUE"}),
    "enum, a number": protobuf(COLOR, {"c": 1}, {"c": "BLUE"}),
    "enum, another": protobuf(COLOR, {"c": "PINK"}, Wrong(".c: expected ")),
    "bytes": protobuf("message B { bytes b = 1; }", {"b": "/wA="}),
    "bytes, no base64": protobuf("message B { bytes b = 1; }", {"b": "!"}, Wrong(".b: expected ")),
    "NaN and Infinity": protobuf(FLOATS, {"a": "NaN", "b": "-Infinity"}),
    "optional, absent": protobuf(FLOATS, {}, {}),
    "optional, a zero": protobuf(FLOATS, {"a": 0.0, "b": 1.1}),
    "timestamp": protobuf(WELL_KNOWN, {"time": "2026-11-21T10:00:00.500Z"}),
    "timestamp, elsewhere": protobuf(
        WELL_KNOWN, {"time": "2026-11-21T11:00:00+01:00"}, {"time": "2026-11-21T10:00:00Z"}
    ),
    "timestamp, none": protobuf(WELL_KNOWN, {"time": "yesterday"}, Wrong(".time: expected ")),
    "duration": protobuf(WELL_KNOWN, {"duration": "-1.500s"}),
    "wrappers": protobuf(WELL_KNOWN, {"wrapped": "0", "text": ""}),
    "wrapper, a word": protobuf(WELL_KNOWN, {"wrapped": "x"}, Wrong(".wrapped: expected ")),
    "struct": protobuf(WELL_KNOWN, {"object": {"a": [1.5, None, {"b": "x"}, True]}}),
    "any": protobuf(
        WELL_KNOWN, {"any": {"@type": "type.googleapis.com/google.protobuf.StringValue", "value": "x"}}
    ),
    "proto2": protobuf(PROTO2, {"a": "x", "b": 1}),
    "proto2, a missing field": protobuf(PROTO2, {"b": 1}, Wrong(".a: ")),
    "protobuf, a tombstone": protobuf(INTS, None),
    "protobuf, a reference": protobuf(
        'import "geo/point.proto"; message R { geo.Point at = 1; }', {"at": {"x": 1.5}},
        references=(("geo/point.proto", POINT),),
    ),
    "protobuf, in a reference": protobuf(
        'import "geo/point.proto"; message R { geo.Point at = 1; }', {"at": {"x": "far"}}, Wrong(".at.x: expected"),
        references=(("geo/point.proto", POINT),),
    ),
    "protobuf, a key": protobuf(INTS, {"aB": 1, "c": "2", "d": 3}, role="key"),
    "protobuf, a key's field": protobuf(INTS, {"aB": "x"}, Wrong(".aB: expected int32"), role="key"),
}  # fmt: skip

ORDER = {
    "type": "object",
    "properties": {
        "item": {"type": "string", "pattern": "^[a-z]+$"},
        "price": {"type": "number", "minimum": 0},
        "parts": {"type": "array", "items": {"$ref": "#"}, "maxItems": 2},
        "suit": {"enum": ["SPADES", "HEARTS"]},
    },
    "required": ["item"],
    "additionalProperties": False,
}
ZIP = {"$schema": DRAFTS["7"], "$id": "http://a.example/zip.json", "type": "string", "pattern": "^[0-9]{4}$"}
HOME = {"type": "object", "properties": {"zip": {"$ref": "http://a.example/zip.json"}}}
ONE = {"oneOf": [{"type": "string"}, {"type": "object", "required": ["a"]}]}


def drafts() -> Iterator[tuple[str, Case]]:
    for name, draft in DRAFTS.items():
        schema = {"$schema": draft, **ORDER}
        yield f"draft {name}", jsonschema(schema, {"item": "book", "price": 0, "parts": [{"item": "x"}]})
        yield (
            f"draft {name}, a nested field",
            jsonschema(
                schema,
                {"item": "book", "parts": [{"item": "x", "price": "cheap"}]},
                Wrong(".parts[0].price: expected number, got string"),
            ),
        )


JSON_SCHEMA = {
    **dict(drafts()),
    "jsonschema, a missing field": jsonschema(ORDER, {"price": 1}, Wrong("item")),
    "jsonschema, an unknown field": jsonschema(ORDER, {"item": "x", "color": 1}, Wrong("color")),
    "jsonschema, too little": jsonschema(ORDER, {"item": "x", "price": -1}, Wrong(".price: ")),
    "jsonschema, a pattern": jsonschema(ORDER, {"item": "X"}, Wrong(".item: ")),
    "jsonschema, an enum": jsonschema(ORDER, {"item": "x", "suit": "CLUBS"}, Wrong(".suit: ")),
    "jsonschema, too many": jsonschema(ORDER, {"item": "x", "parts": [{"item": "x"}] * 3}, Wrong(".parts: ")),
    "jsonschema, one of": jsonschema(ONE, {"a": [1, None]}),
    "jsonschema, none of": jsonschema(ONE, {"b": 1}, Wrong(": ")),
    "jsonschema, large numbers": jsonschema({"type": "integer"}, 2**70),
    "jsonschema, anything": jsonschema({}, {"ü😀": [True, None, "x"]}),
    "jsonschema, a tombstone": jsonschema(ORDER, None),
    "jsonschema, a reference": jsonschema(
        HOME, {"zip": "1010"}, references=(("http://a.example/zip.json", json.dumps(ZIP)),)
    ),
    "jsonschema, in a reference": jsonschema(
        HOME, {"zip": "x"}, Wrong(".zip: "), references=(("http://a.example/zip.json", json.dumps(ZIP)),)
    ),
    "jsonschema, a key": jsonschema({"type": "string"}, "k", role="key"),
    "jsonschema, a key's field": jsonschema(ORDER, {"item": 1}, Wrong(".item: expected string"), role="key"),
}

CASES = AVRO | PROTOBUF | JSON_SCHEMA

BAD_SCHEMAS = {
    "avro": ["", "{", '"Nothing"', '{"type": "record"}', '{"type": "enum", "name": "E", "symbols": ["a b"]}',
             '["int", "int"]', "[" * 2000],
    "protobuf": ["message M {", 'syntax = "proto3"; enum E { A = 0; }', 'import "../../etc/x.proto"; message M { }',
                 'syntax = "proto3"; message M { Missing a = 1; }'],
    "jsonschema": ["{", "[]", '{"type": "text"}', '{"$ref": "http://127.0.0.1:1/x"}', '{"$ref": "file:///etc/passwd"}'],
}  # fmt: skip
