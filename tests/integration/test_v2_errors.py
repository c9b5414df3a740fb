"""Errors and media types of the REST Proxy v2 API with a real Kafka."""

import base64
import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple
from uuid import uuid4

import pytest
import requests

from kafka_http.demo.embedded_kafka import EmbeddedKafka
from kafka_http.demo.local_resources import free_ports
from tests.conftest import TopicFactory
from tests.integration.conftest import ServiceFactory
from tests.support.server_process import Service

V2 = "application/vnd.kafka.v2+json"
JSON_V2 = "application/vnd.kafka.json.v2+json"
BINARY_V2 = "application/vnd.kafka.binary.v2+json"
AVRO_V2 = "application/vnd.kafka.avro.v2+json"
MISMATCH = "The requested embedded data format does not match the deserializer for this consumer instance"
TAKEN = "Consumer with specified consumer ID already exists in the specified consumer group."
ONE_WAY = "IllegalStateError: You must choose only one way to configure your consumer: (1) subscribe to specific topics"


class Call(NamedTuple):
    """A request and its error. The error starts with `message`, or contains it if it starts with `…`."""

    method: str
    path: str
    code: int
    message: str
    body: Any = None
    headers: Mapping[str, str] = {}


def produced(record: Any, code: int, message: str, content_type: str = JSON_V2, path: str = "/topics/{topic}") -> Call:
    return Call("POST", path, code, message, {"records": [record]}, {"Content-Type": content_type})


ASSIGNED = "/consumers/{group}/instances/assigned"
FRESH = "/consumers/{group}/instances/fresh"
CALLS = [
    Call("POST", "/topics/{topic}", 400, "Body is not valid JSON", b"{"),
    Call("POST", "/topics/{topic}", 400, "Body must be an object", b"[]"),
    produced({"value": "%"}, 400, "records[0].value: bad base64", BINARY_V2),
    Call("GET", "/topics/{topic}-nope", 40401, "Topic not found."),
    produced({"value": 1}, 40401, "Topic not found.", path="/topics/{topic}-nope"),
    Call("GET", "/topics/{topic}/partitions/7", 40402, "Partition not found."),
    produced({"value": 1}, 40402, "Partition not found.", path="/topics/{topic}/partitions/7"),
    produced({"value": 1, "partition": 7}, 40402, "Partition not found."),
    Call("GET", "/consumers/{group}/instances/nobody/records", 40403, "Consumer instance not found."),
    Call("PUT", "/consumers/{group}", 405, "…POST"),
    Call("GET", "/consumers/{group}-nope", 40406, "There is no consumer group"),
    Call("GET", "/topics/{topic}/else", 404, "There is nothing at"),
    Call("GET", "/topics", 406, f"…{V2}", headers={"Accept": "application/vnd.kafka.v3+json"}),
    Call("GET", f"{ASSIGNED}/records", 406, f"…{JSON_V2}", headers={"Accept": "text/html"}),
    Call("GET", f"{ASSIGNED}/records", 40601, MISMATCH, headers={"Accept": BINARY_V2}),
    Call("GET", f"{ASSIGNED}/records", 40601, MISMATCH, headers={"Accept": AVRO_V2}),
    Call("POST", "/consumers/{group}", 40902, TAKEN, {"name": "assigned"}),
    Call("GET", f"{FRESH}/records", 40903, "Illegal state: "),
    Call("POST", f"{ASSIGNED}/subscription", 40903, "Illegal state: ", {"topics": ["t"]}),
    Call("POST", f"{FRESH}/subscription", 40903, ONE_WAY, {}),
    Call("POST", f"{FRESH}/subscription", 40903, ONE_WAY, {"topics": ["t"], "topic_pattern": "t"}),
    Call(
        "POST",
        f"{ASSIGNED}/positions/end",
        40903,
        "Illegal state: ",
        {"partitions": [{"topic": "other", "partition": 0}]},
    ),
    Call("POST", f"{FRESH}/assignments", 40402, "Part", {"partitions": [{"topic": "{topic}", "partition": 9}]}),
    produced({"value": "x" * (2 << 20)}, 413, "…larger"),
    produced({"value": 1}, 400, 'records[0].value: format "binary"', V2),
    produced({"value": 1}, 415, "…schema_registry.url", AVRO_V2),
    produced({"value": 1}, 415, f"…{JSON_V2}", "application/vnd.kafka.json.v3+json"),
    Call("POST", "/consumers/{group}", 415, f"…{V2}", {"name": "x"}, {"Content-Type": "text/plain"}),
    produced({"valeu": 1}, 422, "…valeu"),
    produced({"value": 1, "partition": "x"}, 422, "records[0].partition"),
    Call("POST", "/topics/{topic}", 422, "…records", {}),
    Call("POST", "/consumers/{group}", 422, "name must have 1 to 200", {"name": "a\nb"}),
    Call("POST", f"{ASSIGNED}/offsets", 422, "…unknown field 'partitions'.", {"partitions": []}),
    Call("POST", f"{FRESH}/subscription", 422, "topics must be an array", {"topics": "t"}),
    Call("POST", f"{FRESH}/subscription", 422, "…topic_pattern", {"topic_pattern": "(?=t)"}),
    Call("POST", "/consumers/{group}", 42204, "Invalid consumer configuration: format", {"format": "nope"}),
    Call("POST", "/consumers/{group}", 42204, "…Did you mean auto.commit.enable?", {"auto.comit.enable": False}),
]


class Asked(NamedTuple):
    service: Service
    topic: str
    group: str

    def send(self, call: Call) -> requests.Response:
        body = call.body
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).replace("{topic}", self.topic).encode()
        path = call.path.format(topic=self.topic, group=self.group)
        headers = {"Content-Type": JSON_V2} | dict(call.headers)
        return self.service.request(call.method, path, data=body, headers=headers)


@pytest.fixture(scope="module")
def asked(shared_service: Service, topic: TopicFactory) -> Iterator[Asked]:
    """A topic with one record, and two instances: `assigned` reads it, `fresh` has no subscription."""
    ready = Asked(shared_service, topic(), f"group-{uuid4().hex[:8]}")
    calls = [
        produced({"value": 1}, 0, ""),
        Call("POST", "/consumers/{group}", 0, "", {"name": "assigned", "format": "json"}),
        Call("POST", "/consumers/{group}", 0, "", {"name": "fresh", "format": "json"}),
        Call("POST", f"{ASSIGNED}/assignments", 0, "", {"partitions": [{"topic": "{topic}", "partition": 0}]}),
    ]
    for call in calls:
        answer = ready.send(call)
        assert answer.ok, answer.text
    yield ready
    for path in (ASSIGNED, FRESH):
        assert ready.send(Call("DELETE", path, 0, "")).status_code == 204


@pytest.mark.parametrize("call", CALLS, ids=lambda call: f"{call.code} {call.method} {call.path}")
def test_error_has_code_and_message(asked: Asked, call: Call) -> None:
    answer = asked.send(call)
    assert answer.json().keys() == {"error_code", "message"}, answer.text
    assert (answer.status_code, answer.json()["error_code"]) == (int(str(call.code)[:3]), call.code), answer.text
    said = call.message.removeprefix("…")
    assert said in answer.json()["message"] if said != call.message else answer.json()["message"].startswith(said)
    assert answer.headers["Content-Type"] == V2
    if call.code == 405:
        assert answer.headers["Allow"] == "DELETE, GET, HEAD, OPTIONS, POST"


@pytest.mark.parametrize(
    "accept",
    [
        None,
        "*/*",
        "application/*",
        "application/json",
        "application/octet-stream",
        V2,
        JSON_V2,
        "application/vnd.kafka.json.v1+json",
        f"{AVRO_V2}, {JSON_V2};q=0.1",
        f"text/html, {V2};q=0.5",
    ],
)
def test_accept_selects_content_type(asked: Asked, accept: str | None) -> None:
    partition = {"partitions": [{"topic": "{topic}", "partition": 0}]}
    assert asked.send(Call("POST", f"{ASSIGNED}/positions/beginning", 0, "", partition)).status_code == 204
    headers: Any = {"Accept": accept}  # None: no header
    answer = asked.send(Call("GET", f"{ASSIGNED}/records", 0, "", headers=headers))
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, JSON_V2)
    assert [each["value"] for each in answer.json()] == [1]


def test_accept_of_json_only_gets_errors_in_json(asked: Asked) -> None:
    answer = asked.send(Call("GET", "/topics/{topic}-nope", 0, "", headers={"Accept": "application/json"}))
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.json() == {"error_code": 40401, "message": "Topic not found."}


def test_produce_without_broker_returns_error(start_service: ServiceFactory) -> None:
    service = start_service(f"127.0.0.1:{free_ports(1)[0]}", workers=1)
    value = base64.b64encode(b"x").decode()
    answer = service.post("/topics/t", json.dumps({"records": [{"value": value}]}), headers={"Content-Type": BINARY_V2})
    assert (answer.status_code, answer.json()["error_code"]) == (503, 50302)
    assert int(answer.headers["Retry-After"]) >= 1
    assert service.get("/brokers").json()["error_code"] == 50302


def test_create_over_max_consumer_instances_returns_503(kafka: EmbeddedKafka, start_service: ServiceFactory) -> None:
    service = start_service(kafka.bootstrap_servers, workers=2, max_consumer_instances=1)
    assert service.post("/consumers/g", json.dumps({"name": "one"})).status_code == 200
    answer = service.post("/consumers/g", json.dumps({"name": "two"}))
    assert (answer.status_code, answer.json()["error_code"]) == (503, 503)
    assert int(answer.headers["Retry-After"]) >= 1
    assert service.delete("/consumers/g/instances/one").status_code == 204
    assert service.post("/consumers/g", json.dumps({"name": "two"})).status_code == 200
