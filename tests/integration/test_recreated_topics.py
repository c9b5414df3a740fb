"""A topic that was deleted and created again: no record of the old topic is read, and all of the new one are."""

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack
from http.client import HTTPResponse
from typing import Any

import pytest
from kafka import KafkaAdminClient

from kafka_http.demo.embedded_kafka import EmbeddedKafka
from tests.conftest import TopicFactory
from tests.integration.conftest import running
from tests.support.event_parser import EventParser
from tests.support.polling import wait_for
from tests.support.server_process import Service
from tests.support.stream_clients import NDJSON, events_of, opened


def recreate(admin: KafkaAdminClient, topic: str, partitions: int = 1) -> None:
    admin.delete_topics([topic])

    def is_created() -> bool:
        [answer] = admin.create_topics({topic: {"num_partitions": partitions}}, raise_errors=False)["topics"]
        return bool(answer["error_code"] == 0)

    wait_for(is_created, 20)
    admin.wait_for_topics([topic])


def publish(service: Service, topic: str, values: range) -> None:
    wait_for(lambda: service.post(f"/messages/{topic}", json=list(values)).status_code == 200, 20)


def values(answer: Any) -> list[int]:
    return [record["value"] for record in answer.json()["records"]]


@pytest.fixture(scope="module")
def one_worker(kafka: EmbeddedKafka, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A server with one worker, so that all requests share its caches."""
    with running(Service(tmp_path_factory.mktemp("one-worker"), kafka.bootstrap_servers, workers=1)) as service:
        yield service


def test_page_after_recreation_has_no_prefetched_record_of_the_old_topic(
    one_worker: Service, topic: TopicFactory, admin: KafkaAdminClient
) -> None:
    name = topic()
    publish(one_worker, name, range(100))
    assert values(one_worker.get(f"/messages/{name}/me/0:0?limit=1")) == [0]
    seen = time.monotonic()
    recreate(admin, name)
    publish(one_worker, name, range(500, 600))
    wait_for(lambda: time.monotonic() > seen + 0.2)  # so long the topic is taken for the same
    assert values(one_worker.get(f"/messages/{name}/me/0:1?limit=1")) == [501]


@pytest.mark.parametrize("count", [3, 20])
def test_streams_of_a_recreated_topic_end_and_resume_with_the_new_one(
    one_worker: Service, topic: TopicFactory, admin: KafkaAdminClient, count: int
) -> None:
    """The new topic has fewer or more records than the old one."""
    name = topic()
    publish(one_worker, name, range(10))
    paths = [f"/messages/{name}/me/earliest", f"/messages/{name}/me/earliest?partition=0"]
    with ExitStack() as clients:
        answers = [clients.enter_context(opened(one_worker.url + path)) for path in paths]
        lines = clients.enter_context(opened(one_worker.url + paths[0], NDJSON))
        parsers = [EventParser() for _ in answers]
        for answer, parser in zip(answers, parsers, strict=True):
            assert [each.json["value"] for each in events_of(answer, 10, parser)] == list(range(10))
        recreate(admin, name)
        publish(one_worker, name, range(100, 100 + count))
        for answer, parser in zip(answers, parsers, strict=True):
            [last] = events_of(answer, 1, parser)
            assert (last.type, last.json["error"]["code"]) == ("error", 40401)
            assert read_from(one_worker, name, parser.last_id, count) == list(range(100, 100 + count))
            assert values(one_worker.get(f"/messages/{name}/me/{last.json['next']}")) == list(range(100, 100 + count))
        last_line = next(line for line in map(json.loads, filter(bytes.strip, lines)) if "error" in line)
        assert last_line["error"]["code"] == 40401
        assert values(one_worker.get(f"/messages/{name}/me/{last_line['next']}")) == list(range(100, 100 + count))


def read_from(service: Service, topic: str, last_id: str, count: int) -> list[int]:
    """Resume a stream like a browser's EventSource."""
    with opened(f"{service.url}/messages/{topic}/me/latest", **{"Last-Event-ID": last_id}) as answer:
        assert answer.status == 200
        return [each.json["value"] for each in events_of(answer, count)]


def test_stream_opened_after_recreation_reads_the_new_topic(
    one_worker: Service, topic: TopicFactory, admin: KafkaAdminClient
) -> None:
    """Streams share one follower, which may not have noticed the recreation yet."""
    name = topic()
    publish(one_worker, name, range(10))
    with ExitStack() as clients:

        def open_() -> HTTPResponse:
            return clients.enter_context(opened(f"{one_worker.url}/messages/{name}/me/earliest"))

        assert len(events_of(open_(), 10)) == 10
        recreate(admin, name)
        publish(one_worker, name, range(100, 105))
        new = open_()
        assert [each.json["value"] for each in events_of(new, 5)] == list(range(100, 105))
        publish(one_worker, name, range(105, 120))
        assert [each.json["value"] for each in events_of(new, 15)] == list(range(105, 120))


def test_consumer_of_a_recreated_topic_starts_at_its_beginning(
    one_worker: Service, topic: TopicFactory, admin: KafkaAdminClient
) -> None:
    name = topic()
    publish(one_worker, name, range(10))
    assert one_worker.delete(f"/messages/{name}/me/0:9").status_code == 204
    recreate(admin, name)
    publish(one_worker, name, range(100, 104))
    wait_for(lambda: values(one_worker.get(f"/messages/{name}/me/committed")) == list(range(100, 104)))
    (progress,) = one_worker.get(f"/messages/{name}/me").json()["partitions"]
    assert (progress["committed"], progress["lag"]) == (None, 4)
    for offset in range(4):
        assert one_worker.delete(f"/messages/{name}/me/0:{offset}").status_code == 204
        assert values(one_worker.get(f"/messages/{name}/me/committed")) == list(range(101 + offset, 104))
