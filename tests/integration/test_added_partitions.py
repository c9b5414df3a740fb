"""Partitions that are added to a topic while clients read all its partitions."""

import json
import re
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import requests
from kafka import KafkaAdminClient, KafkaProducer
from kafka.admin import NewPartitions

from kafka_http.demo.embedded_kafka import EmbeddedKafka
from tests.conftest import TopicFactory
from tests.support.event_parser import EventParser
from tests.support.polling import scaled, wait_for
from tests.support.server_process import Service
from tests.support.stream_clients import EVENTS, NDJSON, opened

PERIOD = 0.002


class Publisher:
    """Publishes 0, 1, 2, … to all existing partitions in turn."""

    def __init__(self, kafka: EmbeddedKafka, topic: str, partitions: int) -> None:
        self.count = 0
        self.partitions = partitions
        self._topic = topic
        self._producer = KafkaProducer(bootstrap_servers=kafka.bootstrap_servers, metadata_max_age_ms=200)
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def stop(self) -> None:
        self._ends.set()
        self._thread.join(scaled(30))
        self._producer.flush(30)
        self._producer.close()

    def _run(self) -> None:
        while not self._ends.wait(PERIOD):
            known = self._producer.partitions_for(self._topic) or {0}
            partition = self.count % min(self.partitions, len(known))
            self._producer.send(self._topic, b"%d" % self.count, partition=partition)
            self.count += 1


@contextmanager
def publishing(kafka: EmbeddedKafka, topic: str, partitions: int) -> Iterator[Publisher]:
    publisher = Publisher(kafka, topic, partitions)
    try:
        yield publisher
    finally:
        publisher.stop()


def add_partitions(admin: KafkaAdminClient, topic: str, count: int) -> None:
    admin.create_partitions({topic: NewPartitions(total_count=count)})


class Follower:
    """Reads values in its own thread."""

    def __init__(self, read: Iterator[list[Any]]) -> None:
        self.values: Counter[Any] = Counter()
        self._read = read
        self._ends = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        for values in self._read:
            self.values.update(values)
            if self._ends:
                return

    def has(self, count: int) -> bool:
        return self.values.total() >= count

    def stop(self) -> None:
        """Stop after the next values."""
        self._ends = True

    def join(self) -> None:
        self._thread.join(scaled(20))
        assert not self._thread.is_alive()


def events(service: Service, path: str) -> Iterator[list[Any]]:
    parser = EventParser()
    with opened(service.url + path, EVENTS) as answer:
        while data := answer.read1(1 << 16):
            found = parser.feed(data)
            assert {event.type for event in found} <= {"message"}, found
            yield [event.json["value"] for event in found]


def lines(service: Service, path: str) -> Iterator[list[Any]]:
    with opened(service.url + path, NDJSON) as answer:
        for line in answer:
            yield [json.loads(line)["value"]] if line.strip() else []


def pages(service: Service, path: str) -> Iterator[list[Any]]:
    """Read pages, each from the `next` of the last one."""
    position = "earliest"
    while True:
        page = service.get(f"{path}/{position}?limit=300&wait=1").json()
        assert page["next"].endswith(",*:earliest")
        position = page["next"]
        yield [record["value"] for record in page["records"]]


def links(service: Service, path: str) -> Iterator[list[Any]]:
    url = f"{service.url}{path}/earliest?wait=1"
    while True:
        answer = requests.get(url, headers={"Accept": "application/vnd.kafka.json.v2+json"}, timeout=30)
        assert answer.headers["Kafka-Next"].endswith(",*:earliest")
        url = answer.links["next"]["url"]
        yield [record["value"] for record in answer.json()]


def test_added_partitions_are_read_without_loss_or_repeats(
    service: Service, kafka: EmbeddedKafka, topic: TopicFactory, admin: KafkaAdminClient
) -> None:
    """Streams and page readers missed all messages of new partitions (15,651 of 45,220)."""
    name = topic(2)
    path = f"/messages/{name}/me"
    with publishing(kafka, name, 2) as publisher:
        followers = [
            Follower(events(service, f"{path}/earliest")),
            Follower(events(service, f"{path}/0:0,*:earliest")),
            Follower(lines(service, f"{path}/earliest")),
            Follower(pages(service, path)),
            Follower(links(service, path)),
        ]
        wait_for(lambda: all(each.has(100) for each in followers), 30)
        for count in (3, 6):
            add_partitions(admin, name, count)
            publisher.partitions = count
            before = publisher.count
            wait_for(lambda before=before: publisher.count > before + 1000, 30)
    for each in followers:
        wait_for(lambda each=each: each.has(publisher.count), 30)
        assert each.values == Counter(range(publisher.count))
        each.stop()
    latest = [each["latest"] for each in service.get(f"/messages/{name}").json()["partitions"]]
    assert len(latest) == 6
    assert all(each > 100 for each in latest)
    assert service.post(f"/messages/{name}", json=["last"]).status_code == 200
    for each in followers:
        each.join()


def test_reads_of_named_partitions_ignore_new_ones(
    service: Service, topic: TopicFactory, admin: KafkaAdminClient
) -> None:
    name = topic(2)
    parser = EventParser()
    with opened(f"{service.url}/messages/{name}/me/0:0,1:0") as answer:
        parser.feed(answer.read1(1 << 16))
        add_partitions(admin, name, 3)
        wait_for(lambda: len(service.get(f"/messages/{name}").json()["partitions"]) == 3)
        assert service.post(f"/messages/{name}?partition=2", json=[2]).status_code == 200
        assert service.post(f"/messages/{name}?partition=1", json=[1]).status_code == 200
        found: list[Any] = []
        while not found:
            found = parser.feed(answer.read1(1 << 16))
        assert [each.json["value"] for each in found] == [1]
    assert re.fullmatch(r"0:0,1:\d", parser.last_id)
    page = service.get(f"/messages/{name}/me/earliest?partition=0,1").json()
    assert page["next"] == "0:0,1:1"


@pytest.mark.parametrize("position", ["latest", "-5", "committed", "@2020-01-01", "0:0,*:latest"])
def test_next_of_all_partitions_reads_added_ones_from_their_start(
    service: Service, topic: TopicFactory, admin: KafkaAdminClient, position: str
) -> None:
    name = topic(2)
    page = service.get(f"/messages/{name}/me/{position}").json()
    assert page["next"] == "0:0,1:0,*:earliest"
    add_partitions(admin, name, 3)
    wait_for(lambda: service.post(f"/messages/{name}?partition=2", json=[2]).status_code == 200)
    wait_for(lambda: service.get(f"/messages/{name}/me/{page['next']}").json()["records"], 10)
