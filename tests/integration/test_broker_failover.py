"""The whole service in front of three brokers, of which one dies."""

import time
from contextlib import closing

import pytest
import requests
from kafka import KafkaAdminClient

from tests.integration.conftest import ServiceFactory
from tests.support.embedded_cluster import EmbeddedCluster
from tests.support.load_clients import Load, check_nothing_lost_or_doubled
from tests.support.polling import scaled, wait_for
from tests.support.server_process import Service

pytestmark = pytest.mark.slow


@pytest.fixture
def service(kafka_cluster: EmbeddedCluster, start_service: ServiceFactory) -> Service:
    """With the topics `kept`, which each broker has, and `single`, of which each broker has one partition alone."""
    with closing(KafkaAdminClient(bootstrap_servers=kafka_cluster.bootstrap_servers)) as admin:
        admin.create_topics({"single": {"num_partitions": 3, "replication_factor": 1}, "kept": {"num_partitions": 3}})
        admin.wait_for_topics(["single", "kept"])
    return start_service(kafka_cluster.bootstrap_servers)


def leader(service: Service, topic: str, partition: int) -> int:
    leads: int = service.get(f"/messages/{topic}").json()["partitions"][partition]["leader"]
    return leads


def test_kill_of_one_broker_under_load_loses_nothing(kafka_cluster: EmbeddedCluster, service: Service) -> None:
    load = Load(service, "kept")
    with load.running(publishers=6):
        wait_for(lambda: len(load.acknowledged) > 200, 20)
        kafka_cluster.brokers[leader(service, "kept", 0)].kill()
        elected = time.monotonic() + min(scaled(8), 60)  # the controller may have died as well
        for kind in ("publish", "read", "ack", "seek"):
            wait_for(lambda kind=kind: len(load.successes(kind, elected)) > 20, 30)
    assert [each for each in load.answers if each.status not in (200, 204) and not each.is_transient] == []
    assert [each for each in load.answers if each.began > elected and each.status not in (200, 204)] == []
    check_nothing_lost_or_doubled(load, kafka_cluster.bootstrap_servers, "kept", 3)


def test_partition_without_broker_returns_503_and_others_work(kafka_cluster: EmbeddedCluster, service: Service) -> None:
    for partition in range(3):
        assert service.put(f"/messages/single?partition={partition}", "before").ok
    assert service.delete("/messages/single/me/0:0").status_code == 204
    broker = kafka_cluster.brokers[leader(service, "single", 1)]
    broker.kill()
    wait_for(lambda: not service.get("/messages/single").ok)

    wait_for(lambda: all(service.put("/messages/single", "elsewhere").ok for _ in range(10)), 30)
    assert service.get("/messages/single/me/0:0,2:0").status_code == 200
    assert service.get("/ready").status_code == 200
    is_away(service.get("/messages/single/me/1:0"))
    is_away(service.get("/messages/single/me/earliest?wait=30"))
    is_away(service.delete("/messages/single/me/1:0"))
    assert service.put("/messages/single?partition=1&timeout=1", "after").status_code in (503, 504)

    broker.start()
    wait_for(lambda: service.put("/messages/single?partition=1", "after").ok, 2)
    wait_for(lambda: service.get("/messages/single/me/earliest").ok, 2)
    wait_for(lambda: service.delete("/messages/single/me/1:0").ok, 2)


def is_away(answer: requests.Response) -> None:
    """An answer that came soon, and says which partition cannot be had, and that it is worth another try."""
    assert answer.status_code == 503, answer.text
    assert answer.headers["Retry-After"]
    assert "artition 1 of single" in answer.json()["error"]["message"]
    assert answer.elapsed.total_seconds() < scaled(5)
