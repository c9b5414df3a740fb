"""Callbacks of real tasks, made by the daemon of a real server."""

import json
import os
import signal
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest

from kafka_http.demo.embedded_kafka import EmbeddedKafka
from kafka_http.node.callbacks.callback_delivery import sign
from tests.conftest import TopicFactory
from tests.integration.conftest import ServiceFactory
from tests.support.callback_receiver import Receiver
from tests.support.polling import wait_for
from tests.support.postgresql import PostgreSQL
from tests.support.server_process import Service

SECRETS = ("a secret of the tests", "the secret before it")


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


@pytest.fixture
def calling(kafka: EmbeddedKafka, start_service: ServiceFactory) -> Service:
    """A server that may call 127.0.0.1, retries for three seconds, and has a timeout of one second."""
    return start_service(
        kafka.bootstrap_servers,
        callback_allow=["127.0.0.1"],
        callback_secret=list(SECRETS),
        callback_retry_for=3.0,
        callback_timeout=1.0,
    )


def publish(service: Service, topic: str, url: str, data: bytes = b"x") -> str:
    answer = service.put(f"/messages/{topic}", data, params={"callback": url})
    assert answer.status_code == 202, answer.text
    return answer.headers["Location"]


def task(service: Service, location: str) -> Any:
    return service.get(location).json()["task"]


def ended(service: Service, location: str) -> Any:
    """The task, after its callback was delivered or given up."""
    return wait_for(lambda: (found := task(service, location))["callback"]["status"] != "pending" and found, 30)


def test_delivered_task_is_reported_by_signed_callback(
    calling: Service, topic: TopicFactory, receiver: Receiver
) -> None:
    location = publish(calling, topic(), receiver.url("/hook?a=b"))
    found = ended(calling, location)
    (received,) = receiver.received
    assert found["callback"] == {"url": receiver.url("/hook?a=b"), "status": "delivered", "attempts": 1}
    assert json.loads(received.body) == {"task": {name: each for name, each in found.items() if name != "callback"}}
    assert received.headers["Content-Type"] == "application/json"
    assert received.headers["Kafka-Http-Attempt"] == "1"
    assert f"/tasks/{received.headers['Kafka-Http-Task']}" == location
    signature = received.headers["Kafka-Http-Signature"]
    assert signature == sign(received.body, int(signature[2:].partition(",")[0]), SECRETS)


def test_failed_task_is_reported_by_callback(calling: Service, topic: TopicFactory, receiver: Receiver) -> None:
    name = topic(1, {"max.message.bytes": "1000"})
    found = ended(calling, publish(calling, name, receiver.url(), b"x" * 5000))
    assert json.loads(receiver.received[0].body)["task"]["error"]["code"] == 413
    assert found["status"] == "failed"


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("/status/500", "500"),
        ("/redirect?http://127.0.0.1:1/", "307"),
        *(pytest.param(path, says, marks=pytest.mark.slow) for path, says in (("/hold", "1 s"), ("/drip", ""))),
        pytest.param("/close", "", marks=pytest.mark.slow),
    ],
)
def test_undeliverable_callback_fails_with_reason(
    calling: Service, topic: TopicFactory, receiver: Receiver, path: str, says: str
) -> None:
    name = topic()
    bad, good = publish(calling, name, receiver.url(path)), publish(calling, name, receiver.url("/good"))
    assert ended(calling, good)["callback"]["status"] == "delivered"
    callback = ended(calling, bad)["callback"]
    assert (callback["status"], callback["attempts"] > 1) == ("failed", True)
    assert says in callback["reason"]
    assert receiver.tasks.count(bad.removeprefix("/tasks/")) == callback["attempts"]


def test_status_410_gives_up_at_once(calling: Service, topic: TopicFactory, receiver: Receiver) -> None:
    callback = ended(calling, publish(calling, topic(), receiver.url("/status/410")))["callback"]
    assert (callback["status"], callback["attempts"]) == ("failed", 1)


@pytest.mark.parametrize("url", ["http://127.0.0.2/", "http://169.254.169.254/x", "http://[::1]/", "ftp://example.org"])
def test_forbidden_callback_url_returns_422(calling: Service, topic: TopicFactory, url: str) -> None:
    answer = calling.put(f"/messages/{topic()}", b"x", params={"callback": url})
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, 422)
    v2 = {"Content-Type": "application/vnd.kafka.json.v2+json"}
    answer = calling.post(f"/topics/{topic()}", '{"records":[{"value":1}]}', params={"callback": url}, headers=v2)
    assert (answer.status_code, answer.json()["error_code"]) == (422, 422)


def test_callback_host_with_internal_address_fails_with_reason(
    kafka: EmbeddedKafka, topic: TopicFactory, start_service: ServiceFactory
) -> None:
    service = start_service(kafka.bootstrap_servers, callback_retry_for=0.0)
    callback = ended(service, publish(service, topic(), f"http://{os.uname().nodename}:1/"))["callback"]
    assert callback["status"] == "failed"
    assert "callback_allow" in callback["reason"] or "resolve" in callback["reason"]


def test_callbacks_survive_a_killed_daemon(calling: Service, topic: TopicFactory, receiver: Receiver) -> None:
    name = topic()
    locations = [publish(calling, name, receiver.url("/hold")) for _ in range(4)]
    wait_for(lambda: receiver.received, 10)
    os.kill(calling.daemon, signal.SIGKILL)
    receiver.released.set()
    for each in locations:
        assert ended(calling, each)["callback"]["status"] == "delivered"


def test_callback_is_made_by_one_of_several_nodes(
    kafka: EmbeddedKafka,
    topic: TopicFactory,
    start_service: ServiceFactory,
    postgresql: PostgreSQL,
    receiver: Receiver,
) -> None:
    settings: dict[str, Any] = {"store_url": postgresql.database(f"callbacks_{uuid4().hex}")}
    settings |= {"callback_allow": ["127.0.0.0/8"], "callback_secret": list(SECRETS)}
    nodes = [start_service(kafka.bootstrap_servers, **settings) for _ in range(2)]
    name = topic()
    locations = [publish(nodes[number % 2], name, receiver.url()) for number in range(20)]
    for each in locations:
        assert ended(nodes[0], each)["callback"] == {"url": receiver.url(), "status": "delivered", "attempts": 1}
    assert sorted(receiver.tasks) == sorted(each.removeprefix("/tasks/") for each in locations)
