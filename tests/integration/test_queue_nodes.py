"""Queues of two nodes that share a PostgreSQL."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import uuid4

import pytest

from kafka_http.demo.embedded_kafka import EmbeddedKafka
from kafka_http.node.store.stored_nodes import LEASE_SECONDS
from tests.conftest import TopicFactory
from tests.integration.conftest import starting_services
from tests.support.polling import wait_for
from tests.support.postgresql import PostgreSQL
from tests.support.queue_load import Queue, place_of
from tests.support.server_process import Service

Nodes = tuple[Service, Service]
MESSAGES, PARTITIONS = 120, 6


@pytest.fixture(scope="module")
def nodes(kafka: EmbeddedKafka, postgresql: PostgreSQL, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    store_url = postgresql.database(f"nodes_{uuid4().hex}")
    with contextmanager(starting_services)(tmp_path_factory.mktemp("nodes"), store_url=store_url) as start:
        yield start(kafka.bootstrap_servers), start(kafka.bootstrap_servers)


def test_clients_of_one_node_get_the_messages_of_all_partitions(nodes: Nodes, topic: TopicFactory) -> None:
    """The assignor gives each node a part of the partitions. A node without clients must not hold up its part."""
    first = Queue(nodes[0], topic(PARTITIONS))
    second = first.at(nodes[1])
    assert first.acquire(wait=0) == second.acquire(wait=0) == []
    records = first.acquire_all(first.publish(MESSAGES, PARTITIONS))
    assert {each["attempt"] for each in records} == {1}
    # Settle through the other node: acknowledge a part, extend another, give back a third.
    acknowledged, extended, released = records[:80], records[80:100], records[100:]
    mixed = second.settle("DELETE", [*acknowledged, {"lease": f"0:0:{'0' * 8}.nobody"}])
    assert mixed.status_code == 207
    errors = [each for each in mixed.json()["leases"] if "error" in each]
    assert [each["error"]["code"] for each in errors] == [40904]
    answer = second.settle("PUT", extended, "?lock=600")
    assert answer.status_code == 200
    assert all(each["locked_until"] < extended[0]["locked_until"] for each in answer.json()["leases"])
    assert second.settle("PUT", released, "?lock=0").status_code == 200
    again = first.acquire_all(set(map(place_of, released)))
    assert {each["attempt"] for each in again} == {2}
    assert second.acknowledge(*extended, *again).status_code == 200
    assert first.is_empty()
    assert second.server.delete(second.path).status_code == 204
    assert [each.server.get(each.path).status_code for each in (first, second)] == [404, 404]


def test_queue_is_deleted_only_when_no_node_holds_messages(nodes: Nodes, topic: TopicFactory) -> None:
    first = Queue(nodes[0], topic())
    second = first.at(nodes[1])
    first.publish(1)
    [record] = first.acquire()
    refused = second.server.delete(second.path)
    assert refused.status_code == 409
    assert second.acknowledge(record).status_code == 200
    assert second.server.delete(second.path).status_code == 204


def test_leases_of_a_killed_daemon_are_lost_at_once(nodes: Nodes, topic: TopicFactory) -> None:
    first = Queue(nodes[0], topic())
    second = first.at(nodes[1])
    first.publish(2)
    records = first.acquire(2)
    os.kill(nodes[0].daemon, signal.SIGKILL)
    wait_for(lambda: second.acknowledge(records[0]).status_code == 409)
    again = second.acquire_all(set(map(place_of, records)))
    assert {each["attempt"] for each in again} == {2}
    assert first.acknowledge(*records).status_code == 409
    assert first.acknowledge(*again).status_code == 200


def test_leases_of_a_killed_node_are_unavailable_and_then_lost(nodes: Nodes, topic: TopicFactory) -> None:
    first = Queue(nodes[0], topic())
    second = first.at(nodes[1])
    first.publish(3)
    records = first.acquire(2)
    [own] = second.acquire_all({(0, 2)})
    nodes[0].kill()
    killed = time.monotonic()
    answer = second.acknowledge(records[0])
    if time.monotonic() < killed + LEASE_SECONDS / 2:
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
    wait_for(lambda: second.acknowledge(records[0]).status_code == 409, 30)
    again = second.acquire_all(set(map(place_of, records)))
    assert {each["attempt"] for each in again} == {2}
    mixed = second.acknowledge(records[1], own)
    assert mixed.status_code == 207
    assert [each.get("acknowledged") for each in mixed.json()["leases"]] == [None, True]
    assert second.acknowledge(*again).status_code == 200
    assert second.is_empty()
    nodes[0].start()
