"""Third-party client libraries for the v2 API, from PyPI, with this server."""

import json
import logging
from types import ModuleType
from uuid import uuid4

import pytest
from kafka import KafkaAdminClient
from kafka_rest import Consumer, Producer

from tests.conftest import TopicFactory
from tests.support.server_process import Service
from tests.support.v2_client import JSON_TYPE


def test_client_nlp_kafka_rest_api_works(
    service: Service, topic: TopicFactory, admin: KafkaAdminClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The library sends tasks to a topic and finds the results by key in the topic with the suffix -response."""
    asked = topic()
    answered = f"{asked}-response"
    admin.create_topics([answered])
    admin.wait_for_topics([answered])
    monkeypatch.setenv("KAFKA_REST_API_URL", service.url)
    monkeypatch.setenv("TOPIC_ID", asked)
    keys = Producer().produce([{"text": "one"}, {"text": "two"}], "upper")
    assert len(keys) == 2
    serve(service, asked, answered)
    with Consumer(consumer_group=f"group-{uuid4().hex[:8]}") as consumer:
        found = [each for page, _ in consumer.consume(keys, interval_sec=0) for each in page]
        assert {each["key"]: each["value"] for each in found} == {
            keys[0]: {"text": "ONE"},
            keys[1]: {"text": "TWO"},
        }
        assert consumer.consume_earliest() == []
    with Consumer(consumer_group=f"group-{uuid4().hex[:8]}", instance="named") as consumer:
        assert len(consumer.consume_earliest()) == 2


def serve(service: Service, asked: str, answered: str) -> None:
    """Answer the tasks with the same keys."""
    page = service.get(f"/messages/{asked}/worker/earliest").json()["records"]
    records = [
        {"key": json.loads(each["key"]), "value": {"text": each["value"]["payload"]["text"].upper()}} for each in page
    ]
    answer = service.post(f"/topics/{answered}", json.dumps({"records": records}), headers={"Content-Type": JSON_TYPE})
    assert answer.status_code == 200, answer.text


@pytest.fixture
def mapr() -> ModuleType:
    """Import `pymapr_kafkarest.kafkarest` and undo its changes to the root logger."""
    root = logging.getLogger()
    level, handlers = root.level, root.handlers[:]
    from pymapr_kafkarest import kafkarest

    root.setLevel(level)
    root.handlers[:] = handlers
    return kafkarest


def test_client_pymapr_kafkarest_works(service: Service, topic: TopicFactory, mapr: ModuleType) -> None:
    name, group = topic(), f"group-{uuid4().hex[:8]}"
    producer = mapr.MaprKProducer(f"{service.url}/", headers={})
    producer.produce([{"key": "k", "value": {"n": 1}}], topic=name)
    tries = 4  # the library retries even after status 200
    client = mapr.MaprKlient(f"{service.url}/", group, headers={}, topics=[name], instance="i", follow_base_uri=True)
    client.connect()
    client.subscribe()
    assert [(each["key"], each["value"]) for each in client.consume()] == [("k", {"n": 1})] * tries
    assert client.consume() == []
    assert [each["offset"] for each in client.consume(position=2)] == [2, 3]
    assert [each["offset"] for each in client.consume(seek=True)] == [0, 1, 2, 3]
    assert len(client._records(max_bytes=1)) == 0

    again = mapr.MaprKlient(f"{service.url}/", group, headers={}, topics=[name], instance="i")
    again.connect()  # the instance and its subscription exist
    assert again._subscription_topics() == {"topics": [name]}
    again.connect(clear=True)  # creates a new instance
    assert again._subscription_topics() == {"topics": []}
    again.subscribe()
    assert again.consume(position=3)[0]["offset"] == 3
    again._instance_delete()
    assert again._subscription_topics() == {}
