"""The broker interface on a cluster of three brokers, whose leaders move."""

import threading
import time
from collections.abc import Callable

import pytest
from kafka import KafkaAdminClient

from kafka_http.broker import KafkaBroker
from kafka_http.config import Config
from kafka_http.demo.admin import create_topics
from kafka_http.demo.cluster import EmbeddedCluster
from kafka_http.errors import KafkaHttpError
from kafka_http.records import Delivery, Fetched, NewRecord


def values(fetched: Fetched) -> list[bytes | None]:
    return [each.value for records in fetched.records.values() for each in records]


def eventually(attempt: Callable[[], object], within: float) -> float:
    """The seconds until an attempt succeeded."""
    began = time.monotonic()
    while True:
        try:
            attempt()
            return time.monotonic() - began
        except KafkaHttpError:
            if time.monotonic() - began > within:
                raise


@pytest.mark.slow
def test_leaders_that_move(kafka_cluster: EmbeddedCluster) -> None:
    create_topics(kafka_cluster.bootstrap_servers, {"t": 6, "o": 6})
    broker = KafkaBroker(Config(bootstrap_servers=tuple(kafka_cluster.bootstrap_servers.split(","))))
    written: list[bytes] = []

    def write() -> None:
        batch = [b"%d" % (len(written) + each) for each in range(60)]
        records = [NewRecord(value, partition=number % 6) for number, value in enumerate(batch)]
        outcomes = broker.producer.produce("t", records, 10)
        assert all(isinstance(each, Delivery) for each in outcomes), outcomes
        written.extend(batch)

    def read() -> Fetched:
        return broker.log.fetch("t", dict.fromkeys(range(6), 0), max_records=1000, max_bytes=1 << 20)

    def all_is_there() -> None:
        """A new leader learns only from its followers how far the log is acknowledged."""
        deadline = time.monotonic() + 5
        while sorted(values(read()), key=lambda value: int(value or b"")) != written:
            assert time.monotonic() < deadline

    def commit() -> None:
        broker.groups.commit("g", "t", {0: len(written)})
        assert broker.groups.committed("g", "t", [0]) == {0: len(written)}

    try:
        assert {each.leader for each in broker.log.partitions("t")} == {1, 2, 3}
        write()
        all_is_there()
        eventually(commit, within=10)
        _waiting_over_several_leaders(broker)
        for number in (1, 2):
            kafka_cluster.brokers[number].kill()
            assert eventually(read, within=15) < 10
            assert eventually(commit, within=15) < 10
            write()
            all_is_there()
            _start_and_wait_until_in_sync(kafka_cluster, number)
            write()
        _elect_preferred_leaders(kafka_cluster)
        write()
        all_is_there()
        assert len(broker.log.offsets("t", dict.fromkeys(range(6), "latest"))) == 6
    finally:
        broker.close(5)


def _waiting_over_several_leaders(broker: KafkaBroker) -> None:
    ends = broker.log.offsets("t", dict.fromkeys(range(6), "latest"))
    began = time.monotonic()
    fetched = broker.log.fetch("t", ends, max_records=1, max_bytes=1000, wait=0.5)
    assert 0.45 < time.monotonic() - began < 3
    assert values(fetched) == []

    timer = threading.Timer(0.3, lambda: broker.producer.produce("o", [NewRecord(b"new", partition=4)], 10))
    timer.start()
    fetched = broker.log.fetch("o", dict.fromkeys(range(6), 0), max_records=1, max_bytes=1000, wait=10)
    timer.join()
    assert values(fetched) == [b"new"]
    assert time.monotonic() - began < 5


def _start_and_wait_until_in_sync(cluster: EmbeddedCluster, number: int) -> None:
    cluster.brokers[number].launch()
    cluster.brokers[number].wait_until_ready(brokers=3)
    admin = KafkaAdminClient(bootstrap_servers=cluster.bootstrap_servers)
    deadline = time.monotonic() + 30
    try:
        while any(len(each["isr_nodes"]) < 3 for each in admin.describe_topics(["t"])[0]["partitions"]):
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        admin.close()


def _elect_preferred_leaders(cluster: EmbeddedCluster) -> None:
    """Leaders move back without any broker's going away."""
    admin = KafkaAdminClient(bootstrap_servers=cluster.bootstrap_servers)
    try:
        admin.elect_leaders(0, raise_errors=False)
    finally:
        admin.close()
