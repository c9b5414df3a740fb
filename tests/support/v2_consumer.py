"""A client for consumer instances of the REST Proxy v2 API."""

import json
from threading import Event
from typing import Any

import pytest
from flask.testing import FlaskClient

from kafka_http.consumers.instance_registry import InstanceRegistry
from kafka_http.consumers.instance_service import ReadLease
from kafka_http.records import NewRecord
from tests.support.fake_broker import FakeBroker

V2 = "application/vnd.kafka.v2+json"
JSON_V2 = "application/vnd.kafka.json.v2+json"
BINARY_V2 = "application/vnd.kafka.binary.v2+json"
AVRO_V2 = "application/vnd.kafka.avro.v2+json"
PARTITIONS = {"partitions": [{"topic": "t", "partition": 0}]}
NOT_FOUND = (404, 40403, "Consumer instance not found.")
ONE_WAY = (
    "IllegalStateError: You must choose only one way to configure your consumer: (1) subscribe to specific topics by "
    "name, (2) subscribe to topics matching a regex pattern, (3) assign itself specific topic-partitions."
)


def send(client: FlaskClient, method: str, path: str, body: Any = None, **headers: str) -> Any:
    data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    return client.open(path, method=method, data=data, headers={"Content-Type": V2, **headers})


def error(answer: Any) -> tuple[int, int, str]:
    """Return status, code and message of an error, and check that its body has no other fields."""
    assert answer.json.keys() == {"error_code", "message"}
    assert answer.content_type == V2
    return answer.status_code, answer.json["error_code"], answer.json["message"]


class Consumer:
    """A consumer instance, which the constructor creates."""

    def __init__(self, client: FlaskClient, group: str = "g", name: str = "c", **settings: Any) -> None:
        self.client = client
        self.path = f"/consumers/{group}/instances/{name}"
        answer = send(client, "POST", f"/consumers/{group}", {"name": name, "format": "json", **settings})
        assert answer.status_code == 200, answer.text

    def call(self, method: str, path: str = "", body: Any = None, **headers: str) -> Any:
        return send(self.client, method, self.path + path, body, **headers)

    def done(self, method: str, path: str, body: Any = None) -> None:
        answer = self.call(method, path, body)
        assert (answer.status_code, answer.data) == (204, b""), answer.text

    def subscribed(self, *topics: str) -> "Consumer":
        self.done("POST", "/subscription", {"topics": list(topics) or ["t"]})
        return self

    def assigned(self, *partitions: tuple[str, int]) -> "Consumer":
        self.done("POST", "/assignments", {"partitions": [refer(*each) for each in partitions or [("t", 0)]]})
        return self

    def records(self, timeout: int = 1000, **query: Any) -> list[Any]:
        answer = self.client.get(f"{self.path}/records", query_string={"timeout": timeout, **query})
        assert answer.status_code == 200, answer.text
        return list(answer.json)

    def values(self, timeout: int = 1000, **query: Any) -> list[Any]:
        return [each["value"] for each in self.records(timeout, **query)]

    def committed(self, *partitions: tuple[str, int]) -> list[tuple[str, int, int]]:
        body = {"partitions": [refer(*each) for each in partitions or [("t", 0)]]}
        answer = self.call("GET", "/offsets", body)
        assert answer.status_code == 200, answer.text
        return [(each["topic"], each["partition"], each["offset"]) for each in answer.json["offsets"]]


def refer(topic: str, partition: int) -> dict[str, Any]:
    return {"topic": topic, "partition": partition}


def write(broker: FakeBroker, *values: bytes | None, topic: str = "t", partition: int = 0) -> None:
    broker.publish(topic, [NewRecord(each, partition=partition) for each in values], 1).result()


def next_lease(monkeypatch: pytest.MonkeyPatch) -> Event:
    """Return an event that is set when a read of an instance has begun."""
    has_begun, acquire = Event(), InstanceRegistry.acquire_lease

    def acquire_lease(*arguments: Any) -> ReadLease:
        lease = acquire(*arguments)
        has_begun.set()
        return lease

    monkeypatch.setattr(InstanceRegistry, "acquire_lease", acquire_lease)
    return has_begun
