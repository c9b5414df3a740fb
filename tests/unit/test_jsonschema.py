"""JSON Schema: what fits is stored as it was written, what does not is told by its path; schemas that mean harm."""

import json
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest

from kafka_http.errors import InvalidPayload, InvalidSchema, InvalidValue
from kafka_http.schemas.jsonschema_cost import ENDLESS, work_of
from kafka_http.schemas.jsonschema_process import CheckingProcess
from kafka_http.schemas.jsonschema_serializer import JsonSchemaCodec, JsonSchemaSerializer
from kafka_http.schemas.registry import SchemaRegistry
from kafka_http.schemas.registry_settings import RegistrySettings
from tests.attempts import scaled

DRAFTS = {
    "4": "http://json-schema.org/draft-04/schema#",
    "6": "http://json-schema.org/draft-06/schema#",
    "7": "http://json-schema.org/draft-07/schema#",
    "2019-09": "https://json-schema.org/draft/2019-09/schema",
    "2020-12": "https://json-schema.org/draft/2020-12/schema",
}


@pytest.fixture(scope="module")
def process() -> CheckingProcess:
    """The process that checks with what may take long, one for all tests."""
    return CheckingProcess()


class Codecs:
    """Makes codecs; those of `elsewhere` check in the process, whatever their schema is."""

    def __init__(self, process: CheckingProcess, is_elsewhere: bool) -> None:
        self._process = process
        self._is_elsewhere = is_elsewhere

    def __call__(self, schema: Any, *references: tuple[str, Any]) -> JsonSchemaCodec:
        if self._is_elsewhere and isinstance(schema, dict):
            schema = {**schema, "unevaluatedItems": True}  # which refuses nothing
        text = schema if isinstance(schema, str) else json.dumps(schema)
        return JsonSchemaCodec(text, [(name, json.dumps(each)) for name, each in references], self._process)


@pytest.fixture(params=["here", "elsewhere"])
def codec(process: CheckingProcess, request: pytest.FixtureRequest) -> Codecs:
    return Codecs(process, request.param == "elsewhere")


PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1},
        "address": {"type": "object", "properties": {"zip": {"type": "string"}}, "required": ["zip"]},
        "tags": {"type": "array", "items": {"type": "string"}},
    },
    "required": ["name"],
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    "text",
    [b'{"name": "a", "address": {"zip": "1"}}', b'{ "tags" : [ ] , "name":"\\u00e9" }', b'{"name":"a","name":"b"}'],
)
def test_what_fits_is_stored_as_it_was_written(codec: Codecs, text: bytes) -> None:
    encoded = codec(PERSON).encode(text)
    assert encoded == text
    assert codec(PERSON).decode(encoded) == text


@pytest.mark.parametrize(
    ("value", "path", "problem"),
    [
        (5, "", "expected object, got number"),
        ({}, ".name", "is missing, and the schema requires it"),
        ({"name": None}, ".name", "expected string, got null"),
        ({"name": ""}, ".name", "it is shorter than 1 character"),
        ({"name": "a", "address": {"zip": 1}}, ".address.zip", "expected string, got number"),
        ({"name": "a", "address": {}}, ".address.zip", "is missing, and the schema requires it"),
        ({"name": "a", "tags": ["b", {}]}, ".tags[1]", "expected string, got object"),
        ({"name": "a", "a b": 1}, "", "Additional properties are not allowed ('a b' was unexpected)"),
    ],
)
def test_what_does_not_fit(codec: Codecs, value: Any, path: str, problem: str) -> None:
    with pytest.raises(InvalidPayload) as raised:
        codec(PERSON).encode(json.dumps(value).encode())
    assert (raised.value.path, raised.value.problem) == (path, problem)


@pytest.mark.parametrize(
    ("schema", "value", "problem"),
    [
        ({"type": ["integer", "null"]}, "x", "expected null or integer, got string"),
        ({"enum": ["a", "b"]}, "c", 'it is not one of "a" or "b"'),
        ({"const": 1}, 2, "1 was expected"),
        ({"pattern": "^a"}, "b", 'it does not match "^a"'),
        ({"oneOf": [{}, {}]}, 1, "it is valid under more than one of the schemas listed in the 'oneOf' keyword"),
        ({"format": "date"}, "x", 'it is not a "date"'),
        ({"multipleOf": 0.1}, 0.35, "it is not a multiple of 0.1"),
        (False, 1, "False schema does not allow it"),
    ],
)
def test_problems_in_words_that_do_not_repeat_the_value(codec: Codecs, schema: Any, value: Any, problem: str) -> None:
    with pytest.raises(InvalidPayload) as raised:
        codec(schema).encode(json.dumps(value).encode())
    assert raised.value.problem == problem


def test_a_step_that_is_no_plain_name(codec: Codecs) -> None:
    with pytest.raises(InvalidPayload) as raised:
        codec({"properties": {"a b": {"items": {"type": "null"}}}}).encode(b'{"a b": [1]}')
    assert raised.value.path == '["a b"][0]'


@pytest.mark.parametrize("number", [b"1.00", b"12345678901234567890123", b"1e2", b"-0.0"])
def test_numbers_keep_their_digits(codec: Codecs, number: bytes) -> None:
    assert codec({"type": "number", "minimum": -1}).encode(number) == number


@pytest.mark.parametrize(
    ("draft", "schema", "value", "fits"),
    [
        ("4", {"minimum": 3, "exclusiveMinimum": True}, 3, False),
        ("6", {"exclusiveMinimum": 3}, 3, False),
        ("4", {"const": 1}, 2, True),  # no keyword yet
        ("6", {"const": 1}, 2, False),
        ("6", {"if": {"type": "number"}, "then": False}, 2, True),
        ("7", {"if": {"type": "number"}, "then": False}, 2, False),
        ("7", {"items": [{"type": "string"}]}, [1], False),
        ("7", {"prefixItems": [{"type": "string"}]}, [1], True),
        ("2019-09", {"dependentRequired": {"a": ["b"]}}, {"a": 1}, False),
        ("2020-12", {"prefixItems": [{"type": "string"}]}, [1], False),
        ("2020-12", {"unevaluatedProperties": False, "properties": {"a": {}}}, {"b": 1}, False),
        ("2020-12", {"$dynamicRef": "#x", "$defs": {"x": {"$dynamicAnchor": "x", "type": "string"}}}, 1, False),
        (None, {"prefixItems": [{"type": "string"}]}, [1], True),  # draft 7, as Confluent's serialisers have it
        (None, {"format": "date"}, "x", False),
    ],
)
def test_drafts(codec: Codecs, draft: str | None, schema: Any, value: Any, fits: bool) -> None:
    text = json.dumps(value).encode()
    made = codec(schema if draft is None else {"$schema": DRAFTS[draft], **schema})
    if fits:
        assert made.encode(text) == text
    else:
        with pytest.raises(InvalidPayload):
            made.encode(text)


STRING = {"type": "string"}


@pytest.mark.parametrize(
    ("schema", "references"),
    [
        ({"$ref": "x.json"}, [("x.json", STRING)]),
        ({"$ref": "x.json#/definitions/y"}, [("x.json", {"definitions": {"y": STRING}})]),
        ({"$ref": "x.json#y"}, [("x.json", {"definitions": {"y": {"$id": "#y", **STRING}}})]),
        ({"$ref": "dir/x.json"}, [("dir/x.json", {"$ref": "y.json"}), ("y.json", STRING)]),
        ({"$ref": "http://a.example/x.json"}, [("http://a.example/x.json", STRING)]),
        ({"$ref": "urn:example:x"}, [("urn:example:x", STRING)]),
        ({"$id": "http://a.example/b/c.json", "allOf": [{"$ref": "x.json"}]}, [("x.json", STRING)]),
        ({"$id": "http://a.example/b/c.json", "allOf": [{"$ref": "x.json"}]}, [("http://a.example/b/x.json", STRING)]),
        ({"$id": "http://a.example/b/c.json", "allOf": [{"$ref": "../x.json"}]}, [("../x.json", STRING)]),
        (
            {"allOf": [{"$ref": "http://a.example/x.json"}]},
            [("x", {"$id": "http://a.example/x.json", "$ref": "#/definitions/y", "definitions": {"y": STRING}})],
        ),
    ],
)
def test_references(codec: Codecs, schema: Any, references: list[tuple[str, Any]]) -> None:
    made = codec(schema, *references)
    assert made.encode(b'"x"') == b'"x"'
    with pytest.raises(InvalidPayload, match="expected string, got number"):
        made.encode(b"1")


@pytest.fixture
def no_socket(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Any socket that is made fails the test, also where the error is swallowed."""
    made: list[object] = []

    def refuse(*given: object, **more: object) -> None:
        made.append(given)
        raise OSError("no socket, please")

    monkeypatch.setattr(socket, "socket", refuse)
    yield
    assert made == []


@pytest.mark.parametrize(
    ("schema", "problem"),
    [
        ("[", "it is not JSON: "),
        ("", "it is not JSON: "),
        ("[]", 'it is not of types "boolean", "object"'),
        ("null", 'it is not of types "boolean", "object"'),
        ({"type": "text"}, "at type, it is not valid under any of the schemas listed in the 'anyOf' keyword"),
        ({"properties": {"a": {"minLength": "x"}}}, "at properties/a/minLength, it is not of type"),
        ({"pattern": "("}, 'at pattern, it is not a "regex"'),
        ({"pattern": "((a{100}){100}){100}"}, 'at pattern, it is not a "regex"'),
        ({"$schema": "http://a.example/meta"}, 'refers to "http://a.example/meta", which is not among its references'),
        ({"$ref": "#/nope"}, "Pointer '/nope' does not exist"),
        ({"$ref": "x.json"}, 'it refers to "x.json", which is not among its references'),
        ({"$ref": "../../etc/passwd"}, 'it refers to "etc/passwd", which is not among its references'),
        ({"$ref": "/etc/passwd"}, 'it refers to "etc/passwd", which is not among its references'),
        ({"$ref": "file:///etc/passwd"}, 'it refers to "file:///etc/passwd", which is not among its references'),
        ({"$ref": "http://127.0.0.1:1/x"}, 'it refers to "http://127.0.0.1:1/x", which is not among its references'),
        ({"$ref": "https://json-schema.example/x"}, "which is not among its references"),
        ({"definitions": {"unused": {"$ref": "http://127.0.0.1:1/x"}}}, "which is not among its references"),
        ("[" * 100_000, "it is nested too deeply"),
        ('{"items":' * 400 + "{}" + "}" * 400, "Recursion limit reached"),
    ],
)
def test_a_schema_that_is_at_fault(process: CheckingProcess, no_socket: None, schema: Any, problem: str) -> None:
    with pytest.raises(InvalidSchema) as raised:
        Codecs(process, False)(schema)
    assert problem in str(raised.value)
    assert len(str(raised.value)) < 500


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#"},
        {"allOf": [{"$ref": "#"}]},
        {"allOf": [{"$ref": "#/definitions/a"}], "definitions": {"a": {"$ref": "#/definitions/a"}}},
        {"$schema": DRAFTS["2020-12"], "$dynamicRef": "#x", "$dynamicAnchor": "x"},
    ],
)
def test_a_schema_that_refers_to_itself_in_place(process: CheckingProcess, schema: Any) -> None:
    """It says nothing, so everything fits; it must not run for ever."""
    assert Codecs(process, False)(schema).encode(b"1") == b"1"


def test_references_in_a_cycle(process: CheckingProcess) -> None:
    tree = ("tree", {"properties": {"forest": {"$ref": "forest"}, "n": {"type": "integer"}}})
    forest = ("forest", {"items": {"$ref": "tree"}})
    codec = Codecs(process, False)({"$ref": "tree"}, tree, forest)
    with pytest.raises(InvalidPayload) as raised:
        codec.encode(b'{"forest": [{"forest": [{"n": "x"}]}]}')
    assert raised.value.path == ".forest[0].forest[0].n"


def test_deep_values(codec: Codecs) -> None:
    made = codec({"items": {"$ref": "#"}})
    assert made.encode(b"[" * 500 + b"]" * 500)
    with pytest.raises(InvalidPayload, match="nested too deeply"):
        made.encode(b"[" * 100_000 + b"]" * 100_000)


def test_a_value_that_goes_down_two_ways_at_each_level(process: CheckingProcess) -> None:
    branch = {"properties": {"a": {"$ref": "#"}}}
    schema = {"anyOf": [{**branch, "required": ["x"]}, {**branch, "required": ["y"]}, {"type": "integer"}]}
    value = b'{"a":' * 40 + b"{}" + b"}" * 40
    began = time.monotonic()
    with pytest.raises(InvalidPayload):
        Codecs(process, False)(schema).encode(value)
    assert time.monotonic() - began < 10


def laughs(depth: int) -> dict[str, Any]:
    """Each definition refers twice to the next: 2**depth checks."""
    twice = {f"d{number}": {"allOf": [{"$ref": f"#/definitions/d{number + 1}"}] * 2} for number in range(depth)}
    return {"definitions": {**twice, f"d{depth}": {"type": "integer"}}, "$ref": "#/definitions/d0"}


ENDLESS_CHECKS: list[tuple[dict[str, Any], bytes]] = [
    (laughs(60), b"1"),
    ({"pattern": "[ab]*a[ab]{5000}c"}, b'"' + b"ab" * 200_000 + b'"'),
    (
        {"patternProperties": {f"^[ab]*{number}": {} for number in range(2000)}},
        json.dumps({"ab" * 50 + str(number): 1 for number in range(20_000)}).encode(),
    ),
]


@pytest.mark.parametrize(("schema", "text"), ENDLESS_CHECKS, ids=["laughs", "pattern", "patternProperties"])
def test_a_check_without_end_is_ended(process: CheckingProcess, schema: Any, text: bytes) -> None:
    codec = Codecs(process, False)(schema)
    began = time.monotonic()
    with pytest.raises(InvalidPayload, match="to check it against its schema takes too long"):
        codec.encode(text)
    assert time.monotonic() - began < 10
    assert Codecs(process, True)(PERSON).encode(b'{"name": "a"}')  # the next is checked as if nothing had been


@pytest.mark.parametrize("pattern", ["^(a+)+$", "^(a|a)*$", "(.*)*(.*)*x", "^(?=(a+)+$)b", r"^(a|a)*\1$"])
def test_a_pattern_that_explodes_elsewhere(process: CheckingProcess, pattern: str) -> None:
    codec = Codecs(process, False)({"pattern": pattern})
    began = time.monotonic()
    with pytest.raises(InvalidPayload):
        codec.encode(b'"' + b"a" * 10_000 + b'!"')
    assert time.monotonic() - began < scaled(5)


def test_a_schema_that_takes_too_long_to_compile(process: CheckingProcess) -> None:
    patterns = {"allOf": [{"pattern": f"(a{{300}}){{20}}{number}"} for number in range(18_000)]}
    began = time.monotonic()
    with pytest.raises(InvalidSchema, match="to compile it takes too"):
        Codecs(process, False)(patterns)
    assert time.monotonic() - began < 15


@pytest.mark.parametrize(
    "schema",
    [
        {"properties": {f"p{number}": {"type": "string"} for number in range(15_000)}},
        {"enum": [f"value {number}" for number in range(40_000)]},
        {"anyOf": [{"const": number} for number in range(20_000)]},
    ],
)
def test_a_large_schema(process: CheckingProcess, schema: Any) -> None:
    codec = Codecs(process, False)(schema)
    value = b'"value 39999"' if "enum" in schema else b"19999"
    assert codec.encode(value) == value


class Killed(CheckingProcess):
    """A process that has ended since it was asked last."""

    def kill(self) -> None:
        assert self._process
        self._process.kill()
        self._process.wait()


def test_a_process_that_ended_is_started_again() -> None:
    process = Killed()
    codec = Codecs(process, True)(PERSON)
    process.kill()
    assert codec.encode(b'{"name": "a"}') == b'{"name": "a"}'


@pytest.mark.parametrize(
    ("schema", "work"),
    [
        (True, 1),
        ({"type": "string"}, 2),
        ({"properties": {"a": {"type": "string"}, "definitions": {"type": "string"}}}, 5),
        ({"$ref": "#/definitions/a", "definitions": {"a": {"type": "string"}, "unused": PERSON}}, 3),
        ({"pattern": "^[0-9]{4}$"}, 1 + 50 + 10 + 20),
        ({"pattern": "^([0-9]{4}){3}$"}, 1 + 50 + 15 + 60),
        ({"patternProperties": {"a{7}": {}}}, 1 + 50 + 4 + 35 + 1),
        (laughs(5), pytest.approx(32 * 4, rel=0.6)),
        (laughs(30), ENDLESS),
        ({"items": {"$ref": "#"}}, 2),
        ({"properties": {"left": {"$ref": "#"}, "right": {"$ref": "#"}, "n": {"type": "integer"}}}, 5),
        ({"properties": {"next": {"oneOf": [{"type": "null"}, {"$ref": "#"}]}}}, 5),
        ({"items": {"$ref": "#"}, "contains": {"$ref": "#"}}, ENDLESS),
        ({"properties": {"a": {"anyOf": [{"$ref": "#"}, {"$ref": "#"}]}}}, ENDLESS),
        ({"properties": {"a": {"$ref": "#"}}, "allOf": [{"properties": {"a": {"$ref": "#"}}}]}, ENDLESS),
        ({"not": {"$ref": "#/$defs/b"}, "$defs": {"b": {"allOf": [{"items": {"$ref": "#"}}] * 2}}}, ENDLESS),
        ({"properties": {"a": {"$ref": "#"}}, "patternProperties": {"a": {"$ref": "#"}}}, ENDLESS),
        ({"$ref": "x.json"}, ENDLESS),
        ({"$ref": "#anchor"}, ENDLESS),
        ({"properties": {"a": {"$id": "http://a.example/"}}}, ENDLESS),
        ({"$id": "http://a.example/", "type": "string"}, 3),
        ({"unevaluatedProperties": False}, ENDLESS),
        ({"pattern": "(?=a)b"}, ENDLESS),
        ({"pattern": r"(a)\1"}, ENDLESS),
        ({"pattern": "(?:a)b"}, 1 + 50 + 6),
        ({"properties": {"pattern": {"type": "string"}, "$ref": {"type": "string"}}}, 5),
    ],
)
def test_how_much_work_a_schema_is(schema: Any, work: Any) -> None:
    assert work_of(schema) == work


@pytest.mark.parametrize(
    ("schema", "references", "work"),
    [
        ({"$ref": "x"}, {"x": STRING}, 3),
        ({"$ref": "x#/definitions/y"}, {"x": {"definitions": {"y": {"items": {"$ref": "#"}}}}}, 4),
        ({"$id": "http://a.example/b", "allOf": [{"$ref": "http://a.example/x"}]}, {"http://a.example/x": STRING}, 5),
        ({"$id": "http://a.example/b", "allOf": [{"$ref": "x"}]}, {"x": STRING}, ENDLESS),
        ({"properties": {"a": {"$ref": "x"}}}, {"x": {"items": {"$ref": "y"}}, "y": {"items": {"$ref": "x"}}}, 6),
        ({"$ref": "x"}, {"x": {"anyOf": [{"items": {"$ref": "x"}}, {"items": {"$ref": "x"}}]}}, ENDLESS),
        ({"$ref": "x#y"}, {"x": {"definitions": {"y": {"$id": "#y"}}}}, ENDLESS),
    ],
)
def test_how_much_work_it_is_with_references(schema: Any, references: dict[str, Any], work: float) -> None:
    assert work_of(schema, references) == work


def test_reading_needs_neither_schema_nor_registry() -> None:
    settings = RegistrySettings(url=("http://127.0.0.1:1",), timeout=0.2)
    serializer = JsonSchemaSerializer({}, registry=SchemaRegistry(settings))
    assert serializer.deserialize("t", [], b"\0\0\0\0\7" + b'{"a": 1.00}') == b'{"a": 1.00}'
    for data in (b"", b"\0\0\0\0", b"\1\0\0\0\7{}", b"\0\0\0\0\7", b"\0\0\0\0\7{", b"\0\0\0\0\7\xff"):
        with pytest.raises((InvalidValue, ValueError)):
            serializer.deserialize("t", [], data)
