"""Formats with schemas in both dialects of a real server, with a real Kafka and a real registry."""

import json
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import pytest
import requests
from confluent_kafka.schema_registry import Schema, SchemaReference, SchemaRegistryClient

from kafka_http.demo.embedded_kafka import EmbeddedKafka, create_topics
from kafka_http.demo.embedded_registry import EmbeddedRegistry
from tests.conftest import TopicFactory
from tests.support.schema_cases import BAD_SCHEMAS, CASES, DRAFTS, SCHEMA_TYPES, Case, Wrong
from tests.support.server_process import Service

FIRST_SCHEMAS = {
    "avro": '"int"',
    "protobuf": 'syntax = "proto3"; message X { }',
    "jsonschema": json.dumps({"$schema": DRAFTS["7"]}),
}


class Place(NamedTuple):
    """A topic for one format, whose subjects accept any schema, and a consumer instance that reads it."""

    server: Service
    topic: str
    format: str

    @property
    def content_type(self) -> dict[str, str]:
        return {"Content-Type": f"application/vnd.kafka.{self.format}.v2+json"}

    def v2(self, records: Any, **named: Any) -> requests.Response:
        body = json.dumps({"records": records, **named})
        return self.server.post(f"/topics/{self.topic}", body, headers=self.content_type)

    def messages(self, records: Any, **query: Any) -> requests.Response:
        return self.server.post(f"/messages/{self.topic}", json={"records": records}, params=query)

    def consumer(self) -> str:
        return f"/consumers/{self.topic}/instances/one"

    def consume(self) -> list[Any]:
        answer = self.server.get(
            f"{self.consumer()}/records?timeout=5000", headers={"Accept": self.content_type["Content-Type"]}
        )
        assert answer.status_code == 200, answer.text
        records: list[Any] = answer.json()
        return records

    def read(self, offset: int) -> list[Any]:
        query = {"format": self.format, "key_format": self.format}
        answer = self.server.get(f"/messages/{self.topic}/reader/{offset}", params=query)
        assert answer.status_code == 200, answer.text
        records: list[Any] = answer.json()["records"]
        return records


@pytest.fixture(scope="module")
def server(
    kafka: EmbeddedKafka, registry: EmbeddedRegistry, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    service = Service(
        tmp_path_factory.mktemp("schemas"), kafka.bootstrap_servers, workers=1, schema_registry__url=registry.url
    )
    with ExitStack() as stack:
        stack.callback(lambda: print(service.log))
        stack.callback(service.stop)
        service.start()
        yield service
        assert "Traceback" not in service.log


@pytest.fixture(scope="module")
def places(
    server: Service, kafka: EmbeddedKafka, registry: EmbeddedRegistry, judge: SchemaRegistryClient
) -> Iterator[dict[str, Place]]:
    found = {each: Place(server, f"{each}-{uuid4().hex[:12]}", each) for each in SCHEMA_TYPES}
    create_topics(kafka.bootstrap_servers, {place.topic: 1 for place in found.values()})
    for place in found.values():
        for role in ("key", "value"):
            judge.register_schema(
                f"{place.topic}-{role}", Schema(FIRST_SCHEMAS[place.format], SCHEMA_TYPES[place.format])
            )
            allow_any_schema(registry, f"{place.topic}-{role}")
        made = server.post(f"/consumers/{place.topic}", json.dumps({"name": "one", "format": place.format}))
        assert made.status_code == 200, made.text
        partitions = {"partitions": [{"topic": place.topic, "partition": 0}]}
        assert server.post(f"{place.consumer()}/assignments", json.dumps(partitions)).status_code == 204
    yield found
    for place in found.values():
        server.delete(place.consumer())


def allow_any_schema(registry: EmbeddedRegistry, subject: str) -> None:
    """Let a subject have incompatible schemas."""
    answer = requests.put(f"{registry.url}/config/{subject}", json={"compatibility": "NONE"}, timeout=10)
    assert answer.status_code == 200, answer.text


def registered(judge: SchemaRegistryClient, place: Place, case: Case) -> int:
    references = []
    for name, text in case.references:
        subject = f"{place.topic}-{name}"
        judge.register_schema(subject, Schema(text, SCHEMA_TYPES[case.format]))
        references.append(SchemaReference(name, subject, 1))
    schema = Schema(case.schema, SCHEMA_TYPES[case.format], references)
    return judge.register_schema(f"{place.topic}-{case.role}", schema)


def publish(judge: SchemaRegistryClient, place: Place, case: Case) -> list[requests.Response]:
    """Publish in v2 with the schema's text (unless it has references) and with its id, in /messages with its id."""
    record = {"value": None, case.role: case.value}
    answers = []
    if not case.references:
        answers.append(place.v2([record], **{f"{case.role}_schema": case.schema}))
    schema_id = registered(judge, place, case)
    answers.append(place.v2([record], **{f"{case.role}_schema_id": schema_id}))
    prefix = "key_" if case.role == "key" else ""
    query = {f"{prefix}format": place.format, f"{prefix}schema_id": schema_id}
    if case.value is not None or case.role == "key":
        answers.append(place.messages([record], **query))
    for answer in answers[: 1 if case.references else 2]:
        if answer.ok:
            assert answer.json()[f"{case.role}_schema_id"] == schema_id
    return answers


@pytest.mark.parametrize("name", CASES)
def test_value_is_the_same_in_both_dialects(judge: SchemaRegistryClient, places: dict[str, Place], name: str) -> None:
    case = CASES[name]
    place = places[case.format]
    answers = publish(judge, place, case)
    if isinstance(case.expected, Wrong):
        for answer in answers:
            assert (answer.status_code, *error_of(answer)[:1]) == (422, case.expected.code), answer.text
            message = error_of(answer)[1]
            assert f"records[0].{case.role}" in message
            assert case.expected.message in message
        return
    for answer in answers:
        assert answer.status_code == 200, answer.text
    (first, *_) = answers[0].json()["offsets"]
    read = place.read(first["offset"])
    consumed = [each for each in place.consume() if each["offset"] >= first["offset"]]
    assert [each[case.role] for each in read] == [case.expected] * len(answers)
    assert [each[case.role] for each in consumed] == [case.expected] * len(answers)


def error_of(answer: requests.Response) -> tuple[int, str]:
    body = answer.json()
    if "error_code" in body:
        return body["error_code"], body["message"]
    return body["error"]["code"], body["error"]["message"]


def test_there_are_at_least_60_cases() -> None:
    assert len(CASES) >= 60


@pytest.mark.parametrize(("format_", "schema"), [(name, text) for name, all_ in BAD_SCHEMAS.items() for text in all_])
def test_invalid_schema_is_reported_before_records(
    judge: SchemaRegistryClient, places: dict[str, Place], format_: str, schema: str
) -> None:
    place = places[format_]
    before = judge.get_versions(f"{place.topic}-value")
    answer = place.v2([{"value": {"fits": "nothing"}}], value_schema=schema)
    assert answer.status_code == 422, answer.text
    code, message = error_of(answer)
    assert code == 42205
    assert message.startswith("Invalid schema")
    assert tempfile.gettempdir() not in message
    assert judge.get_versions(f"{place.topic}-value") == before


@pytest.mark.parametrize("format_", SCHEMA_TYPES)
def test_missing_schema_is_rejected(
    places: dict[str, Place], format_: str, server: Service, topic: TopicFactory
) -> None:
    place = places[format_]
    new = Place(server, topic(), format_)
    one: list[Any] = [{"value": 1, "key": 1}]
    for answer, code in (
        (place.v2(one, value_schema_id=2_000_000_000, key_schema_id=2_000_000_000), 42205),
        (place.messages(one, format=format_, schema_id=2_000_000_000), 42205),
        (place.messages(one, format=format_, subject="never-there"), 42205),
        (place.messages(one, format=format_, version=99), 42205),
        (place.v2([{"value": 1}]), 42202),
        (place.v2([{"key": 1, "value": None}]), 42201),
        (new.messages([{"value": 1}], format=format_), 42202),
        (new.messages([{"key": 1, "value": None}], key_format=format_), 42201),
    ):
        assert (answer.status_code, error_of(answer)[0]) == (422, code), answer.text
    assert server.records(new.topic) == []


@pytest.mark.parametrize("format_", SCHEMA_TYPES)
def test_null_is_published_without_schema(
    places: dict[str, Place], format_: str, server: Service, topic: TopicFactory
) -> None:
    place = Place(server, topic(), format_)
    assert place.v2([{"value": None}, {"key": None, "value": None}]).status_code == 200
    assert place.messages([{"value": None}], format=format_).status_code == 200
    assert [(each["key"], each["value"]) for each in place.read(0)] == [(None, None)] * 3


def test_several_schemas_for_one_role_are_rejected(places: dict[str, Place]) -> None:
    place = places["avro"]
    for answer in (
        place.v2([{"value": 1}], value_schema='"int"', value_schema_id=1),
        place.messages([{"value": 1}], format="avro", schema_id=1, version=1),
        place.messages([{"value": 1}], format="avro", schema_id=1, subject="s"),
    ):
        assert answer.status_code in {400, 422}, answer.text
        assert "one of" in error_of(answer)[1]


def test_keys_and_values_use_latest_schemas_by_default(
    server: Service, topic: TopicFactory, judge: SchemaRegistryClient
) -> None:
    place = Place(server, topic(), "avro")
    records = [{"key": 1, "value": "a"}, {"key": 2, "value": None}, {"key": None, "value": "b"}]
    answer = place.v2(records, key_schema='"long"', value_schema='"string"')
    assert answer.status_code == 200, answer.text
    ids = {role: judge.get_latest_version(f"{place.topic}-{role}").schema_id for role in ("key", "value")}
    assert answer.json()["key_schema_id"] == ids["key"]
    assert answer.json()["value_schema_id"] == ids["value"]

    assert place.messages(records, format="avro", key_format="avro").status_code == 200
    by_name = {"subject": f"{place.topic}-value", "version": 1, "key_version": "latest"}
    assert place.messages(records, format="avro", key_format="avro", **by_name).status_code == 200

    read = [{"key": each["key"], "value": each["value"]} for each in place.read(0)]
    assert read == records * 3


def test_error_has_index_of_invalid_record(places: dict[str, Place], server: Service) -> None:
    place = places["avro"]
    end = server.get(f"/messages/{place.topic}").json()["partitions"][0]
    answer = place.v2([{"value": 1}, {"value": None}, {"value": "x"}, {"value": "y"}], value_schema='"int"')
    assert error_of(answer)[0] == 42206
    assert "records[2].value: expected int, got string" in error_of(answer)[1]
    assert server.get(f"/messages/{place.topic}").json()["partitions"][0] == end


@pytest.mark.parametrize("format_", SCHEMA_TYPES)
def test_format_without_registry_names_the_setting(service: Service, topic: TopicFactory, format_: str) -> None:
    place = Place(service, topic(), format_)
    for answer in (place.v2([{"value": 1}], value_schema_id=1), place.messages([{"value": 1}], format=format_)):
        assert answer.status_code == 415, answer.text
        assert "schema_registry.url" in error_of(answer)[1]


def test_missing_extra_is_named(
    kafka: EmbeddedKafka, topic: TopicFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Modules that cannot be imported hide the packages of the extra."""
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    for name in ("fastavro", "jsonschema_rs", "urllib3"):
        (hidden / f"{name}.py").write_text(f"raise ModuleNotFoundError({name!r}, name={name!r})")
    monkeypatch.setenv("PYTHONPATH", str(hidden))
    service = Service(tmp_path, kafka.bootstrap_servers, workers=1, schema_registry__url="http://127.0.0.1:1")
    try:
        service.start()
        place = Place(service, topic(), "avro")
        for answer in (place.v2([{"value": 1}], value_schema_id=1), place.messages([{"value": 1}], format="avro")):
            assert answer.status_code == 415, answer.text
            assert "pip install '.[schemas]'" in error_of(answer)[1]
        assert place.messages([{"value": 1}]).status_code == 200
    finally:
        service.stop()
