"""JSON Schema: values that fit are stored unchanged, others are rejected with a path; hostile schemas end in time."""

import json
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest

from kafka_http.errors import InvalidPayload, InvalidSchema, InvalidValue
from kafka_http.schemas.jsonschema_cost import UNBOUNDED, estimate_work
from kafka_http.schemas.jsonschema_process import CheckingProcess
from kafka_http.schemas.jsonschema_serializer import JsonSchemaCodec, JsonSchemaSerializer
from kafka_http.schemas.registry import SchemaRegistry
from kafka_http.schemas.registry_settings import RegistrySettings
from tests.support.polling import scaled

DRAFTS = {
    "4": "http://json-schema.org/draft-04/schema#",
    "6": "http://json-schema.org/draft-06/schema#",
    "7": "http://json-schema.org/draft-07/schema#",
    "2019-09": "https://json-schema.org/draft/2019-09/schema",
    "2020-12": "https://json-schema.org/draft/2020-12/schema",
}


@pytest.fixture(scope="module")
def process() -> CheckingProcess:
    """One checking process for all tests."""
    return CheckingProcess()


class Codecs:
    """Makes codecs. With `in_process` false they check in the checking process, whatever their schema is."""

    def __init__(self, process: CheckingProcess, in_process: bool) -> None:
        self._process = process
        self._in_process = in_process

    def __call__(self, schema: Any, *references: tuple[str, Any]) -> JsonSchemaCodec:
        if not self._in_process and isinstance(schema, dict):
            schema = {**schema, "unevaluatedItems": True}  # rejects nothing, but has an unbounded estimate
        text = schema if isinstance(schema, str) else json.dumps(schema)
        return JsonSchemaCodec(text, [(name, json.dumps(each)) for name, each in references], self._process)


@pytest.fixture(params=["here", "process"])
def codec(process: CheckingProcess, request: pytest.FixtureRequest) -> Codecs:
    return Codecs(process, request.param == "here")


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
def test_value_that_fits_is_stored_unchanged(codec: Codecs, text: bytes) -> None:
    encoded = codec(PERSON).encode(text)
    assert encoded == text
    assert codec(PERSON).decode(encoded) == text


@pytest.mark.parametrize(
    ("value", "path", "problem"),
    [
        (5, "", "expected object, got number"),
        ({}, ".name", "the required property is missing"),
        ({"name": None}, ".name", "expected string, got null"),
        ({"name": ""}, ".name", "it is shorter than 1 character"),
        ({"name": "a", "address": {"zip": 1}}, ".address.zip", "expected string, got number"),
        ({"name": "a", "address": {}}, ".address.zip", "the required property is missing"),
        ({"name": "a", "tags": ["b", {}]}, ".tags[1]", "expected string, got object"),
        ({"name": "a", "a b": 1}, "", "Additional properties are not allowed ('a b' was unexpected)"),
    ],
)
def test_value_that_does_not_fit_reports_path(codec: Codecs, value: Any, path: str, problem: str) -> None:
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
def test_problem_does_not_repeat_the_value(codec: Codecs, schema: Any, value: Any, problem: str) -> None:
    with pytest.raises(InvalidPayload) as raised:
        codec(schema).encode(json.dumps(value).encode())
    assert raised.value.problem == problem


def test_path_quotes_names_that_are_not_identifiers(codec: Codecs) -> None:
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
        (None, {"prefixItems": [{"type": "string"}]}, [1], True),  # draft 7, as in Confluent's serializers
        (None, {"format": "date"}, "x", False),
    ],
)
def test_keywords_apply_from_their_draft_on(
    codec: Codecs, draft: str | None, schema: Any, value: Any, fits: bool
) -> None:
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
def test_references_are_resolved(codec: Codecs, schema: Any, references: list[tuple[str, Any]]) -> None:
    made = codec(schema, *references)
    assert made.encode(b'"x"') == b'"x"'
    with pytest.raises(InvalidPayload, match="expected string, got number"):
        made.encode(b"1")


@pytest.fixture
def no_socket(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fail the test if a socket is created, even if the error is caught."""
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
        ("[", "the text is not JSON: "),
        ("", "the text is not JSON: "),
        ("[]", 'it is not of types "boolean", "object"'),
        ("null", 'it is not of types "boolean", "object"'),
        ({"type": "text"}, "at type, it is not valid under any of the schemas listed in the 'anyOf' keyword"),
        ({"properties": {"a": {"minLength": "x"}}}, "at properties/a/minLength, it is not of type"),
        ({"pattern": "("}, 'at pattern, it is not a "regex"'),
        ({"pattern": "((a{100}){100}){100}"}, 'at pattern, it is not a "regex"'),
        (
            {"$schema": "http://a.example/meta"},
            'the schema refers to "http://a.example/meta", which is not among its references',
        ),
        ({"$ref": "#/nope"}, "Pointer '/nope' does not exist"),
        ({"$ref": "x.json"}, 'the schema refers to "x.json", which is not among its references'),
        ({"$ref": "../../etc/passwd"}, 'the schema refers to "etc/passwd", which is not among its references'),
        ({"$ref": "/etc/passwd"}, 'the schema refers to "etc/passwd", which is not among its references'),
        (
            {"$ref": "file:///etc/passwd"},
            'the schema refers to "file:///etc/passwd", which is not among its references',
        ),
        (
            {"$ref": "http://127.0.0.1:1/x"},
            'the schema refers to "http://127.0.0.1:1/x", which is not among its references',
        ),
        ({"$ref": "https://json-schema.example/x"}, "which is not among its references"),
        ({"definitions": {"unused": {"$ref": "http://127.0.0.1:1/x"}}}, "which is not among its references"),
        ("[" * 100_000, "the schema is nested too deeply"),
        ('{"items":' * 400 + "{}" + "}" * 400, "Recursion limit reached"),
    ],
)
def test_invalid_schema_is_rejected(process: CheckingProcess, no_socket: None, schema: Any, problem: str) -> None:
    with pytest.raises(InvalidSchema) as raised:
        Codecs(process, True)(schema)
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
def test_schema_that_refers_to_itself_accepts_all(process: CheckingProcess, schema: Any) -> None:
    """Such a schema has no rule, so every value fits. The check must end."""
    assert Codecs(process, True)(schema).encode(b"1") == b"1"


def test_references_that_form_a_cycle_are_resolved(process: CheckingProcess) -> None:
    tree = ("tree", {"properties": {"forest": {"$ref": "forest"}, "n": {"type": "integer"}}})
    forest = ("forest", {"items": {"$ref": "tree"}})
    codec = Codecs(process, True)({"$ref": "tree"}, tree, forest)
    with pytest.raises(InvalidPayload) as raised:
        codec.encode(b'{"forest": [{"forest": [{"n": "x"}]}]}')
    assert raised.value.path == ".forest[0].forest[0].n"


def test_value_nested_too_deeply_is_rejected(codec: Codecs) -> None:
    made = codec({"items": {"$ref": "#"}})
    assert made.encode(b"[" * 500 + b"]" * 500)
    with pytest.raises(InvalidPayload, match="the value is nested too deeply"):
        made.encode(b"[" * 100_000 + b"]" * 100_000)


def test_check_with_two_branches_at_each_level_ends_in_time(process: CheckingProcess) -> None:
    branch = {"properties": {"a": {"$ref": "#"}}}
    schema = {"anyOf": [{**branch, "required": ["x"]}, {**branch, "required": ["y"]}, {"type": "integer"}]}
    value = b'{"a":' * 40 + b"{}" + b"}" * 40
    began = time.monotonic()
    with pytest.raises(InvalidPayload):
        Codecs(process, True)(schema).encode(value)
    assert time.monotonic() - began < scaled(10)


def laughs(depth: int) -> dict[str, Any]:
    """Return a schema in which each definition refers twice to the next: 2**depth checks."""
    twice = {f"d{number}": {"allOf": [{"$ref": f"#/definitions/d{number + 1}"}] * 2} for number in range(depth)}
    return {"definitions": {**twice, f"d{depth}": {"type": "integer"}}, "$ref": "#/definitions/d0"}


UNBOUNDED_CHECKS: list[tuple[dict[str, Any], bytes]] = [
    (laughs(60), b"1"),
    ({"pattern": "[ab]*a[ab]{5000}c"}, b'"' + b"ab" * 200_000 + b'"'),
    (
        {"patternProperties": {f"^[ab]*{number}": {} for number in range(2000)}},
        json.dumps({"ab" * 50 + str(number): 1 for number in range(20_000)}).encode(),
    ),
]


@pytest.mark.parametrize(("schema", "text"), UNBOUNDED_CHECKS, ids=["laughs", "pattern", "patternProperties"])
def test_check_that_takes_too_long_is_stopped(process: CheckingProcess, schema: Any, text: bytes) -> None:
    codec = Codecs(process, True)(schema)
    began = time.monotonic()
    with pytest.raises(InvalidPayload, match="the check against the schema takes too long"):
        codec.encode(text)
    assert time.monotonic() - began < scaled(10)
    assert Codecs(process, False)(PERSON).encode(b'{"name": "a"}')  # the process is started again


@pytest.mark.parametrize("pattern", ["^(a+)+$", "^(a|a)*$", "(.*)*(.*)*x", "^(?=(a+)+$)b", r"^(a|a)*\1$"])
def test_pattern_with_catastrophic_backtracking_ends_in_time(process: CheckingProcess, pattern: str) -> None:
    codec = Codecs(process, True)({"pattern": pattern})
    began = time.monotonic()
    with pytest.raises(InvalidPayload):
        codec.encode(b'"' + b"a" * 10_000 + b'!"')
    assert time.monotonic() - began < scaled(5)


def test_schema_that_takes_too_long_to_compile_is_rejected(process: CheckingProcess) -> None:
    patterns = {"allOf": [{"pattern": f"(a{{300}}){{20}}{number}"} for number in range(18_000)]}
    began = time.monotonic()
    with pytest.raises(InvalidSchema, match="compiling the schema takes too"):
        Codecs(process, True)(patterns)
    assert time.monotonic() - began < scaled(15)


@pytest.mark.parametrize(
    "schema",
    [
        {"properties": {f"p{number}": {"type": "string"} for number in range(15_000)}},
        {"enum": [f"value {number}" for number in range(40_000)]},
        {"anyOf": [{"const": number} for number in range(20_000)]},
    ],
)
def test_large_schema_is_compiled(process: CheckingProcess, schema: Any) -> None:
    codec = Codecs(process, True)(schema)
    value = b'"value 39999"' if "enum" in schema else b"19999"
    assert codec.encode(value) == value


class KillableProcess(CheckingProcess):
    """A checking process that a test can kill."""

    def kill(self) -> None:
        assert self._process
        self._process.kill()
        self._process.wait()


def test_checking_process_is_restarted_after_it_ended() -> None:
    process = KillableProcess()
    codec = Codecs(process, False)(PERSON)
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
        (laughs(30), UNBOUNDED),
        ({"items": {"$ref": "#"}}, 2),
        ({"properties": {"left": {"$ref": "#"}, "right": {"$ref": "#"}, "n": {"type": "integer"}}}, 5),
        ({"properties": {"next": {"oneOf": [{"type": "null"}, {"$ref": "#"}]}}}, 5),
        ({"items": {"$ref": "#"}, "contains": {"$ref": "#"}}, UNBOUNDED),
        ({"properties": {"a": {"anyOf": [{"$ref": "#"}, {"$ref": "#"}]}}}, UNBOUNDED),
        ({"properties": {"a": {"$ref": "#"}}, "allOf": [{"properties": {"a": {"$ref": "#"}}}]}, UNBOUNDED),
        ({"not": {"$ref": "#/$defs/b"}, "$defs": {"b": {"allOf": [{"items": {"$ref": "#"}}] * 2}}}, UNBOUNDED),
        ({"properties": {"a": {"$ref": "#"}}, "patternProperties": {"a": {"$ref": "#"}}}, UNBOUNDED),
        ({"$ref": "x.json"}, UNBOUNDED),
        ({"$ref": "#anchor"}, UNBOUNDED),
        ({"properties": {"a": {"$id": "http://a.example/"}}}, UNBOUNDED),
        ({"$id": "http://a.example/", "type": "string"}, 3),
        ({"unevaluatedProperties": False}, UNBOUNDED),
        ({"pattern": "(?=a)b"}, UNBOUNDED),
        ({"pattern": r"(a)\1"}, UNBOUNDED),
        ({"pattern": "(?:a)b"}, 1 + 50 + 6),
        ({"properties": {"pattern": {"type": "string"}, "$ref": {"type": "string"}}}, 5),
    ],
)
def test_estimate_work_of_a_schema_counts_its_parts(schema: Any, work: Any) -> None:
    assert estimate_work(schema) == work


@pytest.mark.parametrize(
    ("schema", "references", "work"),
    [
        ({"$ref": "x"}, {"x": STRING}, 3),
        ({"$ref": "x#/definitions/y"}, {"x": {"definitions": {"y": {"items": {"$ref": "#"}}}}}, 4),
        ({"$id": "http://a.example/b", "allOf": [{"$ref": "http://a.example/x"}]}, {"http://a.example/x": STRING}, 5),
        ({"$id": "http://a.example/b", "allOf": [{"$ref": "x"}]}, {"x": STRING}, UNBOUNDED),
        ({"properties": {"a": {"$ref": "x"}}}, {"x": {"items": {"$ref": "y"}}, "y": {"items": {"$ref": "x"}}}, 6),
        ({"$ref": "x"}, {"x": {"anyOf": [{"items": {"$ref": "x"}}, {"items": {"$ref": "x"}}]}}, UNBOUNDED),
        ({"$ref": "x#y"}, {"x": {"definitions": {"y": {"$id": "#y"}}}}, UNBOUNDED),
    ],
)
def test_estimate_work_of_a_schema_includes_its_references(
    schema: Any, references: dict[str, Any], work: float
) -> None:
    assert estimate_work(schema, references) == work


def test_deserialize_needs_neither_schema_nor_registry() -> None:
    settings = RegistrySettings(url=("http://127.0.0.1:1",), timeout=0.2)
    serializer = JsonSchemaSerializer({}, registry=SchemaRegistry(settings))
    assert serializer.deserialize("t", [], b"\0\0\0\0\7" + b'{"a": 1.00}') == b'{"a": 1.00}'
    for data in (b"", b"\0\0\0\0", b"\1\0\0\0\7{}", b"\0\0\0\0\7", b"\0\0\0\0\7{", b"\0\0\0\0\7\xff"):
        with pytest.raises((InvalidValue, ValueError)):
            serializer.deserialize("t", [], data)
