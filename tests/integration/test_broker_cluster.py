"""The broker interface on a cluster of three brokers, whose leaders move."""

import threading
import time
from collections.abc import Iterator

import pytest
from kafka import KafkaAdminClient

from kafka_http.broker import KafkaBroker
from kafka_http.config import Config
from kafka_http.demo.embedded_kafka import create_topics
from kafka_http.records import NewRecord, RecordMetadata
from tests.support.embedded_cluster import EmbeddedCluster
from tests.support.polling import eventually, scaled, wait_for
from tests.support.topic_fetch import FetchedOfTopic, fetch

PARTITIONS = 6
BEGINNINGS = dict.fromkeys(range(PARTITIONS), 0)


class Traffic:
    """Writes numbers to all partitions of a topic, reads all of them back, and acknowledges."""

    def __init__(self, broker: KafkaBroker) -> None:
        self._broker = broker
        self._written: list[bytes] = []

    def write(self) -> None:
        values = [b"%d" % (len(self._written) + each) for each in range(10 * PARTITIONS)]
        records = [NewRecord(value, partition=number % PARTITIONS) for number, value in enumerate(values)]
        outcomes = self._broker.producer.publish("t", records, 10).result()
        assert all(isinstance(each, RecordMetadata) for each in outcomes), outcomes
        self._written += values

    def read(self) -> FetchedOfTopic:
        return fetch(self._broker, "t", BEGINNINGS, max_records=1000, max_bytes=1 << 20)

    def commit(self) -> None:
        offset = len(self._written)
        self._broker.groups.commit("g", "t", {0: offset})
        assert self._broker.groups.committed("g", "t", [0]) == {0: offset}

    def all_is_there(self) -> None:
        """A new leader learns only from its followers how far the log is acknowledged, so look again."""
        wait_for(lambda: sorted(values_of(self.read()), key=lambda value: int(value or b"")) == self._written, 5)


@pytest.fixture
def broker(kafka_cluster: EmbeddedCluster) -> Iterator[KafkaBroker]:
    create_topics(kafka_cluster.bootstrap_servers, {"t": PARTITIONS, "waited-for": PARTITIONS})
    broker = KafkaBroker(Config(bootstrap_servers=tuple(kafka_cluster.bootstrap_servers.split(","))))
    yield broker
    broker.close(5)


@pytest.mark.slow
def test_calls_continue_while_leaders_move(kafka_cluster: EmbeddedCluster, broker: KafkaBroker) -> None:
    assert {each.leader for each in broker.log.partitions("t")} == {1, 2, 3}
    traffic = Traffic(broker)
    traffic.write()
    traffic.all_is_there()
    eventually(traffic.commit, within=10)
    waiting_over_several_leaders(broker)
    for number in (1, 2):
        kafka_cluster.brokers[number].kill()
        assert eventually(traffic.read, within=15) < scaled(10)
        assert eventually(traffic.commit, within=15) < scaled(10)
        traffic.write()
        traffic.all_is_there()
        start_and_wait_until_in_sync(kafka_cluster, number)
        traffic.write()
    elect_preferred_leaders(kafka_cluster)
    traffic.write()
    traffic.all_is_there()
    assert len(broker.log.offsets("t", dict.fromkeys(BEGINNINGS, "latest"))) == PARTITIONS


def values_of(fetched: FetchedOfTopic) -> list[bytes | None]:
    return [each.value for records in fetched.records.values() for each in records]


def waiting_over_several_leaders(broker: KafkaBroker) -> None:
    began = time.monotonic()
    fetched = fetch(broker, "waited-for", BEGINNINGS, max_records=1, max_bytes=1000, wait=0.5)
    assert 0.45 < time.monotonic() - began < scaled(3)
    assert values_of(fetched) == []

    new = NewRecord(b"new", partition=4)
    timer = threading.Timer(0.3, lambda: broker.producer.publish("waited-for", [new], 10).result())
    timer.start()
    fetched = fetch(broker, "waited-for", BEGINNINGS, max_records=1, max_bytes=1000, wait=10)
    timer.join()
    assert values_of(fetched) == [b"new"]
    assert time.monotonic() - began < scaled(5)


def start_and_wait_until_in_sync(cluster: EmbeddedCluster, number: int) -> None:
    cluster.brokers[number].launch()
    cluster.brokers[number].wait_until_ready(brokers=3)
    admin = KafkaAdminClient(bootstrap_servers=cluster.bootstrap_servers)
    try:
        wait_for(lambda: all(len(each["isr_nodes"]) >= 3 for each in admin.describe_topics(["t"])[0]["partitions"]), 30)
    finally:
        admin.close()


def elect_preferred_leaders(cluster: EmbeddedCluster) -> None:
    """Leaders move back without any broker's going away."""
    admin = KafkaAdminClient(bootstrap_servers=cluster.bootstrap_servers)
    try:
        admin.elect_leaders(0, raise_errors=False)
    finally:
        admin.close()
