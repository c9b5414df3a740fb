"""Names that are both of a queue and of an ordinary group, by the manual's "Names"; Kafka without share groups."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import pytest
import requests

from kafka_http.config import Config
from kafka_http.demo.embedded_kafka import EmbeddedKafka, create_topics
from tests.conftest import TopicFactory
from tests.integration.conftest import ServiceFactory
from tests.support.group_member import live_member
from tests.support.polling import wait_for
from tests.support.queue_load import Queue
from tests.support.server_process import Service
from tests.support.share_version import set_share_version

V2 = "application/vnd.kafka.v2+json"


def refusal(answer: requests.Response) -> tuple[int, int]:
    """Return the status of an error response and its code."""
    body: dict[str, Any] = answer.json()
    return answer.status_code, body["error"]["code"] if "error" in body else body["error_code"]


# An ordinary group has the name


@contextmanager
def committed_offsets(service: Service, topic: str, name: str) -> Iterator[None]:
    assert service.delete(f"/messages/{topic}/{name}/0:0").status_code == 204
    yield


@contextmanager
def v2_instance(service: Service, topic: str, name: str) -> Iterator[None]:
    created = service.post(f"/consumers/{name}", json={"format": "json"}, headers={"Content-Type": V2})
    assert created.status_code == 200, created.text
    path = f"/consumers/{name}/instances/{created.json()['instance_id']}"
    answer = service.post(f"{path}/subscription", json={"topics": [topic]}, headers={"Content-Type": V2})
    assert answer.status_code == 204, answer.text
    service.get(f"{path}/records", headers={"Accept": "application/vnd.kafka.json.v2+json"})  # this joins the group
    yield
    assert service.delete(path, headers={"Content-Type": V2}).status_code == 204


@contextmanager
def classic_member(service: Service, topic: str, name: str) -> Iterator[None]:
    with live_member(service.bootstrap_servers, topic, name, "other"):
        yield


@contextmanager
def consumer_member(service: Service, topic: str, name: str) -> Iterator[None]:
    with live_member(service.bootstrap_servers, topic, name, "other", group_type="consumer"):
        yield


@pytest.mark.parametrize("ordinary", [committed_offsets, v2_instance, classic_member, consumer_member])
def test_calls_of_queues_are_refused_while_an_ordinary_group_has_the_name(
    service: Service, topic: TopicFactory, ordinary: Callable[[Service, str, str], Any]
) -> None:
    queue = Queue(service, topic(), f"ordinary-{uuid4().hex[:8]}")
    queue.publish(1)
    with ordinary(service, queue.topic, queue.consumer):
        answers = [queue.post(wait=0), service.get(queue.path), service.delete(queue.path)]
        assert [refusal(each) for each in answers] == [(409, 40905)] * 3, [each.text for each in answers]
        assert all(queue.consumer in each.json()["error"]["message"] for each in answers)
        assert service.get(f"/consumers/{queue.consumer}").json()["type"] in ("classic", "consumer")


def test_name_of_an_ordinary_group_is_free_for_a_queue_once_the_group_is_deleted(
    service: Service, topic: TopicFactory
) -> None:
    """A group without offsets still has its name, for minutes, until Kafka removes it."""
    queue = Queue(service, topic(), f"ordinary-{uuid4().hex[:8]}")
    queue.publish(1)
    with committed_offsets(service, queue.topic, queue.consumer):
        assert refusal(queue.post(wait=0)) == (409, 40905)
    assert service.delete(f"/messages/{queue.topic}/{queue.consumer}").status_code == 204
    assert refusal(queue.post(wait=0)) == (409, 40905)
    assert service.delete(f"/consumers/{queue.consumer}").status_code == 204
    [record] = queue.acquire()
    assert queue.acknowledge(record).status_code == 200


# A queue has the name

OFFSET_CALLS = [
    ("GET", ""),
    ("DELETE", ""),
    ("PUT", "/0:0"),
    ("DELETE", "/0:0"),
    ("GET", "/committed"),
    ("GET", "/committed?ack=previous"),
    ("GET", "/0:1?ack=previous"),
]


@pytest.mark.parametrize("is_settled", [False, True])
def test_calls_for_offsets_are_refused_while_a_queue_has_the_name(
    service: Service, topic: TopicFactory, is_settled: bool
) -> None:
    """A queue has the name from its first call on, also before Kafka has offsets of it."""
    queue = Queue(service, topic())
    queue.publish(2)
    [record] = queue.acquire(1)
    if is_settled:
        assert queue.acknowledge(record).status_code == 200
    consumer = f"/messages/{queue.topic}/{queue.consumer}"
    for method, path in OFFSET_CALLS:
        answer = service.request(method, consumer + path)
        assert refusal(answer) == (409, 40905), f"{method} {path}: {answer.text}"
        assert "/queue" in answer.json()["error"]["message"], answer.text
    v2 = service.post(f"/consumers/{queue.consumer}", json={"format": "json"}, headers={"Content-Type": V2})
    assert refusal(v2) == (409, 40905), v2.text
    assert len(service.get(f"{consumer}/earliest").json()["records"]) == 2, "plain reads are allowed"
    assert [each["offset"] for each in queue.acquire(wait=5)] == [1], "nothing was changed"


# Kafka without share groups


@pytest.mark.slow
def test_calls_of_queues_are_a_501_until_share_groups_are_switched_on(
    fresh_kafka: EmbeddedKafka, start_service: ServiceFactory
) -> None:
    """A cluster that was upgraded to Kafka 4.2 has share.version=0, until `kafka-features.sh upgrade`."""
    create_topics(fresh_kafka.bootstrap_servers, {"t": 1})
    config = Config(bootstrap_servers=(fresh_kafka.bootstrap_servers,))
    set_share_version(config, 0)
    service = start_service(fresh_kafka.bootstrap_servers, workers=1)
    queue = Queue(service, "t", "workers")
    queue.publish(1)
    wait_for(lambda: queue.post(wait=0).status_code == 501, 30)
    for answer in (queue.post(wait=5), service.get(queue.path), service.delete(queue.path)):
        assert answer.status_code == 501, answer.text
        assert "share.version" in answer.json()["error"]["message"]
    assert service.delete("/messages/t/ordinary/0:0").status_code == 204
    assert service.get("/consumers/ordinary").json()["type"] == "classic"
    assert service.get("/messages/t/ordinary").status_code == 200
    set_share_version(config, 1)
    wait_for(lambda: queue.post(limit=1, wait=0, lock=1).status_code == 200, 30)
    record = wait_for(lambda: queue.acquire(wait=5))[0]
    assert queue.acknowledge(record).status_code == 200
