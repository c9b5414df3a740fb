"""The description of the API describes each call, parameter, header and error of the code, and nothing else."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from flask import Flask
from openapi_spec_validator import OpenAPIV31SpecValidator

import kafka_http
from kafka_http.app import create_app
from kafka_http.config.sources import load_config
from kafka_http.errors import KafkaHttpError, status_of
from kafka_http.web.access_check import OPEN
from tests.support.fake_broker import FakeBroker
from tests.support.manual import ROOT
from tests.support.openapi_document import (
    COMMON_HEADERS,
    FILE,
    Operation,
    SchemaCheck,
    document,
    formatted,
    operations,
    resolved,
)

HEADERS_ELSEWHERE = {
    "accept": "OpenAPI ignores a parameter of this name: the types of the responses",
    "content-type": "OpenAPI ignores a parameter of this name: the types of the body",
    "authorization": "OpenAPI ignores a parameter of this name: a security scheme",
    "x-api-key": "a security scheme",
    **dict.fromkeys(("host", "transfer-encoding", "connection", "expect"), "HTTP itself"),
    **dict.fromkeys(("origin", "sec-fetch-site", "access-control-request-method"), "browsers send it by themselves"),
    **dict.fromkeys(("x-forwarded-for", "x-forwarded-prefix", "forwarded"), "proxies send it"),
    "kafka-http-node": "other nodes send it",
    "kafka-http-principal": "other nodes send it",
}
"""Headers that the code reads and that are no parameter, each with the reason."""
BEFORE_THE_APPLICATION = {408, 414, 431}
"""Statuses of errors that the worker sends by itself, in the form of `/messages`."""
READ_HEADER = re.compile(r"""headers\.get\("([A-Za-z-]+)"|"([a-z-]+)" (?:not )?in (?:\w+\.)*headers""")
WRITTEN_HEADER = re.compile(r"""(?:response\.|\b)headers\["([A-Z][A-Za-z-]+)"\] = """)


@pytest.fixture(scope="module")
def app() -> Flask:
    return create_app(load_config({"console": True}, environ={}), FakeBroker())


def rule_of(operation: Operation) -> str:
    path = operation.path.replace("{", "<").replace("}", ">")
    return re.sub(r"^(/docs.*|/console)/<name>$", r"\1/<path:name>", path)


def test_file_is_formatted() -> None:
    """Run `python -m tests.support.openapi_document` to format it."""
    assert FILE.read_text() == formatted(document())


def test_document_is_valid_openapi() -> None:
    assert [str(each) for each in OpenAPIV31SpecValidator(dict(document())).iter_errors()] == []


def test_version_is_that_of_the_package() -> None:
    assert document()["info"]["version"] == kafka_http.__version__


def test_every_call_is_described_and_no_other(app: Flask) -> None:
    calls = {
        (method.lower(), rule.rule)
        for rule in app.url_map.iter_rules()
        for method in rule.methods or ()
        if method not in {"HEAD", "OPTIONS"}
    }
    described = {(each.method, rule_of(each)) for each in operations()}
    assert described == calls


def test_calls_without_security_are_those_that_are_open(app: Flask) -> None:
    endpoints = {rule.rule: rule.endpoint for rule in app.url_map.iter_rules() if "GET" in (rule.methods or ())}
    described = {endpoints[rule_of(each)] for each in operations() if each.fields.get("security") == []}
    assert described == OPEN


def test_every_call_has_an_id_of_its_own_and_known_tags() -> None:
    ids = [each.fields["operationId"] for each in operations()]
    assert len(set(ids)) == len(ids)
    tags = {tag for each in operations() for tag in each.fields["tags"]}
    assert tags == {each["name"] for each in document()["tags"]}


def test_every_name_in_a_path_is_a_parameter() -> None:
    for each in operations():
        assert each.names("path") == set(re.findall(r"\{(\w+)\}", each.path)), each.name


def refs(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        yield from [value["$ref"]] if "$ref" in value else []
        value = list(value.values())
    if isinstance(value, list):
        for each in value:
            yield from refs(each)


def test_every_component_is_used() -> None:
    """Schemas of the events and lines of streams are named in texts: OpenAPI 3.1 cannot refer to them."""
    used = {tuple(each.split("/")[2:]) for each in refs(document())}
    texts = FILE.read_text()
    for kind in ("parameters", "headers", "responses", "schemas"):
        for name in document()["components"][kind]:
            is_in_text = kind == "schemas" and re.search(rf"\ba {name}\b|\ban {name}\b", texts)
            assert (kind, name) in used or name.lower() in COMMON_HEADERS or is_in_text, (kind, name)


# errors


def all_errors(cls: type[KafkaHttpError] = KafkaHttpError) -> set[type[KafkaHttpError]]:
    return {cls}.union(*(all_errors(each) for each in cls.__subclasses__()))


def codes_of(response: Mapping[str, Any]) -> set[int]:
    """The codes that the schemas of a response allow."""
    codes: set[int] = set()
    for content in resolved(response).get("content", {}).values():
        fields = content.get("schema", {}).get("properties", {})
        fields = fields.get("error", {}).get("properties", fields)
        codes.update(fields.get("error_code", fields.get("code", {})).get("enum", ()))
    return codes


def test_every_error_code_is_described_below_its_status() -> None:
    described: set[int] = set()
    for each in operations():
        for status, response in each.fields["responses"].items():
            codes = codes_of(response)
            assert {status_of(code) for code in codes} <= {int(status)}, each.name
            assert bool(codes) == (int(status) >= 400), (each.name, status)
            described |= codes
    assert described == {each.code for each in all_errors()} | BEFORE_THE_APPLICATION


@pytest.mark.parametrize("operation", operations(), ids=lambda each: each.name)
def test_errors_have_the_form_of_their_api(operation: Operation) -> None:
    is_v2 = operation.path == "/" or operation.path.startswith(("/topics", "/consumers", "/brokers"))
    for status, response in operation.fields["responses"].items():
        for content in resolved(response)["content"].values() if int(status) >= 400 else ():
            is_v2_error = content["schema"]["$ref"].endswith("V2Error")
            assert is_v2_error == (is_v2 and int(status) not in BEFORE_THE_APPLICATION), status


# headers


def sources() -> str:
    package = ROOT / "kafka_http"
    files = [package / "app.py", *(path for each in ("web", "security") for path in (package / each).rglob("*.py"))]
    return "\n".join(each.read_text() for each in files)


def test_every_request_header_that_the_code_reads_is_described() -> None:
    read = {name.lower() for found in READ_HEADER.findall(sources()) for name in found if name}
    read |= {"idempotency-key", "kafka-key", "kafka-key-base64", "kafka-partition", "kafka-timestamp", "if-none-match"}
    described = {name.lower() for each in operations() for name in each.names("header")}
    assert read - described - HEADERS_ELSEWHERE.keys() == set()
    assert {each for each in described - read if not each.endswith("-name")} == {"traceparent", "tracestate"}


def test_every_response_header_that_the_code_writes_is_described() -> None:
    written = {each.lower() for each in WRITTEN_HEADER.findall(sources())} - {"content-type", "vary"}
    described = {each.lower() for each in document()["components"]["headers"]}
    assert {each for each in written - described if not each.startswith("access-control-")} == set()
    assert len(written) > 8


def test_query_parameters_of_the_v2_api_are_those_that_its_code_reads() -> None:
    """It ignores unknown ones, so no error lists them."""
    files = (ROOT / "kafka_http" / "web" / "rest_v2").glob("*.py")
    reading = re.compile(r"""(?:args\.get|args\.getlist|_number|_seconds)\("(\w+)\"""")
    read = {name for each in files for name in reading.findall(each.read_text())}
    v2 = [each for each in operations() if each.path.startswith(("/topics", "/consumers/", "/brokers"))]
    assert {name for each in v2 for name in each.names("query")} == read


# examples


def examples() -> Iterator[tuple[str, Mapping[str, Any], Any]]:
    """Each example with the schema that it must match."""
    for operation in operations():
        for parameter in operation.parameters:
            if "example" in parameter:
                yield f"{operation.name} {parameter['name']}", parameter["schema"], parameter["example"]
        bodies = {"body": operation.fields.get("requestBody", {})}
        bodies |= {status: resolved(each) for status, each in operation.fields["responses"].items()}
        for what, body in bodies.items():
            for media_type, content in body.get("content", {}).items():
                for example in media_examples(content):
                    yield f"{operation.name} {what} {media_type}", content["schema"], example


def media_examples(content: Mapping[str, Any]) -> list[Any]:
    named = [each["value"] for each in content.get("examples", {}).values()]
    return named + ([content["example"]] if "example" in content else [])


def test_every_example_matches_its_schema() -> None:
    checked = [(where, SchemaCheck(schema, strict=True).problems(value)) for where, schema, value in examples()]
    assert [each for each in checked if each[1]] == []
    assert len(checked) > 300


def test_every_json_response_of_a_call_has_an_example() -> None:
    for each in operations():
        for status, response in each.fields["responses"].items():
            content = resolved(response).get("content", {})
            is_json = "application/json" in content and each.path != "/openapi.json"
            assert not is_json or any(media_examples(one) for one in content.values()), (each.name, status)
