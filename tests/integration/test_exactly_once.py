"""Full load while brokers, workers and topics fail: each value that was published is where its response says.

`check_exactly_once` compares all responses with the log. The load is 64 connections, which repeat nothing.
"""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from kafka import KafkaAdminClient
from kafka.admin import NewPartitions

from kafka_http.demo.embedded_kafka import EmbeddedKafka, create_topics
from tests.conftest import TopicFactory
from tests.integration.conftest import ServiceFactory
from tests.integration.test_recreated_topics import recreate
from tests.support.embedded_cluster import EmbeddedCluster
from tests.support.frozen_process import frozen
from tests.support.polling import scaled, wait_for
from tests.support.publish_load import PublishLoad, check_exactly_once, check_in_time, check_statuses

RECOVERY_SECONDS = 2
TIMEOUT = 10
SLACK_SECONDS = 3
PARTITIONS = 6
MILLION = 1_000_000
UNAVAILABLE: set[int | None] = {200, 503, 504}


def kill_for(kafka: EmbeddedKafka, seconds: float) -> None:
    kafka.kill()
    threading.Event().wait(seconds)
    kafka.start()


def freeze_for(kafka: EmbeddedKafka, seconds: float) -> None:
    with frozen(kafka):
        threading.Event().wait(seconds)
    kafka.wait_until_ready()


def wait_until_well(load: PublishLoad, requests: int = 200) -> None:
    """Wait until everything is acknowledged; it must be soon after this call."""
    load.wait_until_well(time.monotonic(), RECOVERY_SECONDS, requests)


def check(load: PublishLoad, bootstrap_servers: str, timeout: float = TIMEOUT, since: float = 0) -> None:
    check_in_time(load.published, scaled(timeout + SLACK_SECONDS))
    check_exactly_once(load, bootstrap_servers, since)


class Outage(NamedTuple):
    run: Callable[[EmbeddedKafka, float], None]
    seconds: float
    timeout: float
    """That of a publish."""


KILLED_BRIEFLY, KILLED = Outage(kill_for, 1, TIMEOUT), Outage(kill_for, 4, 2)
FROZEN_BRIEFLY, FROZEN = Outage(freeze_for, 1, TIMEOUT), Outage(freeze_for, 4, 2)


@pytest.mark.parametrize(
    ("outage", "count"),
    [
        pytest.param(KILLED_BRIEFLY, 100, id="killed for a moment"),
        pytest.param(KILLED_BRIEFLY, 1, id="killed for a moment, single values", marks=pytest.mark.slow),
        pytest.param(KILLED, 100, id="killed for longer than a publish may take", marks=pytest.mark.slow),
        pytest.param(KILLED, 1, id="killed for long, single values", marks=pytest.mark.slow),
        pytest.param(FROZEN_BRIEFLY, 100, id="frozen for a moment", marks=pytest.mark.slow),
        pytest.param(FROZEN_BRIEFLY, 1, id="frozen for a moment, single values"),
        pytest.param(FROZEN, 100, id="frozen for longer than a publish may take"),
        pytest.param(FROZEN, 1, id="frozen for long, single values", marks=pytest.mark.slow),
    ],
)
def test_broker_outage_under_full_load(
    fresh_kafka: EmbeddedKafka, start_service: ServiceFactory, outage: Outage, count: int
) -> None:
    publish_through_outage(fresh_kafka, start_service, outage, count)


@pytest.mark.parametrize("outage", [FROZEN, pytest.param(KILLED, marks=pytest.mark.slow)])
def test_broker_outage_under_load_of_threads(
    fresh_kafka: EmbeddedKafka, start_service: ServiceFactory, outage: Outage
) -> None:
    """Without the fast path, all publishes come from threads."""
    publish_through_outage(fresh_kafka, start_service, outage, 10, fast_path=False)


def publish_through_outage(
    kafka: EmbeddedKafka, start_service: ServiceFactory, outage: Outage, count: int, **settings: Any
) -> None:
    create_topics(kafka.bootstrap_servers, {"t": PARTITIONS})
    service = start_service(kafka.bootstrap_servers, access_log=False, timeout=outage.timeout, **settings)
    load = PublishLoad(service, "t", count=count)
    with load.running():
        wait_for(lambda: load.successes() > 500, 20)
        outage.run(kafka, outage.seconds)
        wait_until_well(load)
    check_statuses(load.published, UNAVAILABLE)
    check(load, kafka.bootstrap_servers, outage.timeout)


@pytest.mark.slow
def test_topic_deleted_and_made_again_under_full_load(
    fresh_kafka: EmbeddedKafka, start_service: ServiceFactory
) -> None:
    """The new topic begins at offset 0 and knows no producer; responses of the old one say nothing of it."""
    create_topics(fresh_kafka.bootstrap_servers, {"t": 3})
    service = start_service(fresh_kafka.bootstrap_servers, access_log=False)
    load = PublishLoad(service, "t", count=10)
    with load.running(), closing(KafkaAdminClient(bootstrap_servers=fresh_kafka.bootstrap_servers)) as admin:
        for _ in range(3):
            wait_for(lambda: load.successes() > 300, 20)
            recreate(admin, "t", 3)
            made = time.monotonic()
            wait_until_well(load)
    check_statuses(load.published, UNAVAILABLE | {207, 404})
    check(load, fresh_kafka.bootstrap_servers, since=made)


@pytest.mark.slow
def test_partitions_added_under_full_load(fresh_kafka: EmbeddedKafka, start_service: ServiceFactory) -> None:
    create_topics(fresh_kafka.bootstrap_servers, {"t": 1})
    service = start_service(fresh_kafka.bootstrap_servers, access_log=False)
    load = PublishLoad(service, "t")
    with load.running(), closing(KafkaAdminClient(bootstrap_servers=fresh_kafka.bootstrap_servers)) as admin:
        for partitions in (2, 4, 12):
            there = load.acknowledged
            wait_for(lambda there=there: load.acknowledged > there + 500, 20)
            admin.create_partitions({"t": NewPartitions(partitions)})
        wait_for(lambda: service.put("/messages/t?partition=11", b"0").ok, 10)
        wait_until_well(load)
    check_statuses(load.published, {200})
    account = check_exactly_once(load, fresh_kafka.bootstrap_servers)
    assert account.unknown == account.not_written == 0


def test_worker_killed_under_full_load(
    kafka: EmbeddedKafka, topic: TopicFactory, start_service: ServiceFactory
) -> None:
    service, name = start_service(kafka.bootstrap_servers, access_log=False), topic(PARTITIONS)
    load = PublishLoad(service, name, count=10)
    with load.running():
        for _ in range(3):
            there = load.acknowledged
            wait_for(lambda there=there: load.acknowledged > there + 5000, 20)
            before = service.workers
            os.kill(min(before), signal.SIGKILL)
            wait_for(lambda before=before: len(service.workers) == 2 and service.workers != before)
        wait_until_well(load)
    check_statuses(load.published, {200, None})
    check(load, kafka.bootstrap_servers)


@pytest.fixture
def small_quorum(kafka_parts: None, tmp_path: Path) -> Iterator[EmbeddedCluster]:
    """Three brokers of which the first alone is a controller, with the topic `t` of min.insync.replicas 2."""
    cluster = EmbeddedCluster(tmp_path, one_controller=True)
    cluster.start()
    try:
        with closing(KafkaAdminClient(bootstrap_servers=cluster.bootstrap_servers)) as admin:
            wanted = {"num_partitions": PARTITIONS, "replication_factor": 3, "configs": {"min.insync.replicas": "2"}}
            admin.create_topics({"t": wanted})
            admin.wait_for_topics(["t"])
        yield cluster
    finally:
        cluster.kill()


def in_sync(cluster: EmbeddedCluster) -> int:
    """The smallest number of in-sync replicas of a partition, as broker 1 knows it; 0 if it does not answer."""
    client = AdminClient({"bootstrap.servers": cluster.brokers[1].bootstrap_servers, "log_level": 0})
    with suppress(KafkaException):
        partitions = client.list_topics("t", timeout=5).topics["t"].partitions.values()
        return min(len(each.isrs) for each in partitions)
    return 0


@pytest.mark.slow
def test_leader_killed_of_three_under_full_load(small_quorum: EmbeddedCluster, start_service: ServiceFactory) -> None:
    service = start_service(small_quorum.bootstrap_servers, access_log=False)
    load = PublishLoad(service, "t", count=10)
    with load.running():
        wait_for(lambda: load.successes() > 300, 20)
        small_quorum.brokers[2].kill()
        wait_for(lambda: in_sync(small_quorum) == 2, 20)
        wait_until_well(load)
        small_quorum.brokers[2].launch()
        small_quorum.brokers[2].wait_until_ready(brokers=3)
        wait_for(lambda: in_sync(small_quorum) == 3, 30)
        wait_until_well(load)
    check_statuses(load.published, UNAVAILABLE)
    check(load, small_quorum.bootstrap_servers)


@pytest.mark.slow
def test_leader_frozen_of_three_under_full_load(small_quorum: EmbeddedCluster, start_service: ServiceFactory) -> None:
    """It wakes up with requests in its sockets, and for a moment believes that it is still the leader."""
    service = start_service(small_quorum.bootstrap_servers, access_log=False)
    load = PublishLoad(service, "t", count=10)
    with load.running():
        wait_for(lambda: load.successes() > 300, 20)
        for number in (2, 3):
            with frozen(small_quorum.brokers[number]):
                wait_for(lambda: in_sync(small_quorum) == 2, 40)
                wait_until_well(load)
            wait_for(lambda: in_sync(small_quorum) == 3, 40)
        wait_until_well(load)
    check_statuses(load.published, UNAVAILABLE)
    check(load, small_quorum.bootstrap_servers)


@pytest.mark.slow
def test_too_few_in_sync_replicas_under_full_load(small_quorum: EmbeddedCluster, start_service: ServiceFactory) -> None:
    """NOT_ENOUGH_REPLICAS of the one broker that is left, until another is back."""
    service = start_service(small_quorum.bootstrap_servers, access_log=False, timeout=3)
    load = PublishLoad(service, "t", count=10)
    with load.running():
        wait_for(lambda: load.successes() > 300, 20)
        for number in (2, 3):
            small_quorum.brokers[number].kill()
        wait_for(lambda: in_sync(small_quorum) == 1, 20)
        alone = time.monotonic() + scaled(1)
        wait_for(lambda: any(each.began > alone for each in load.since(alone)), 20)
        small_quorum.brokers[2].launch()
        small_quorum.brokers[2].wait_until_ready(brokers=2)
        wait_for(lambda: in_sync(small_quorum) >= 2, 30)
        back = time.monotonic()
        wait_until_well(load)
    refused = [each for each in load.since(alone) if each.ended < back and each.status != 200]
    assert refused
    check_statuses(load.published, UNAVAILABLE | {500})
    check(load, small_quorum.bootstrap_servers, timeout=3)


def test_sigterm_under_full_load(kafka: EmbeddedKafka, topic: TopicFactory, start_service: ServiceFactory) -> None:
    """Each request gets its response or loses its connection, and the server ends within its time."""
    service, name = start_service(kafka.bootstrap_servers, access_log=False), topic(PARTITIONS)
    load = PublishLoad(service, name, count=100)
    with load.running():
        wait_for(lambda: load.successes() > 500, 20)
        began = time.monotonic()
        service.terminate()
        service.wait_for_end(8)
        wait_for(lambda: load.refused_connections > 0)
    check_statuses(load.published, {200, 503, None})
    check_statuses((each for each in load.published if each.ended < began), {200})
    check(load, kafka.bootstrap_servers)


def test_sigterm_while_kafka_is_frozen_under_full_load(
    fresh_kafka: EmbeddedKafka, start_service: ServiceFactory
) -> None:
    """All records are in flight: Kafka gets them, and answers during the stop or after it."""
    create_topics(fresh_kafka.bootstrap_servers, {"t": PARTITIONS})
    service = start_service(fresh_kafka.bootstrap_servers, access_log=False, timeout=3)
    load = PublishLoad(service, "t", count=10)
    with load.running():
        wait_for(lambda: load.successes() > 500, 20)
        with frozen(fresh_kafka):
            service.terminate()
            service.wait_for_end(3 + 10)
            wait_for(lambda: load.refused_connections > 0)
        fresh_kafka.wait_until_ready()
    check_statuses(load.published, UNAVAILABLE | {None})
    check(load, fresh_kafka.bootstrap_servers, timeout=3)


@pytest.mark.slow
@pytest.mark.timeout(480)
def test_million_values_through_kills_and_freezes(fresh_kafka: EmbeddedKafka, start_service: ServiceFactory) -> None:
    """Kills and freezes, shorter and longer than a publish may take, until a million values are acknowledged."""
    create_topics(fresh_kafka.bootstrap_servers, {"t": PARTITIONS})
    service = start_service(fresh_kafka.bootstrap_servers, access_log=False, timeout=3)
    load = PublishLoad(service, "t", count=200)
    outages = [(kill_for, 0.5), (freeze_for, 1.5), (freeze_for, 5.0), (kill_for, 5.0)]
    began = time.monotonic()
    with load.running():
        for outage, seconds in outages * 2:
            there = load.acknowledged
            wait_for(lambda there=there: load.acknowledged > there + 80_000, 60)
            outage(fresh_kafka, seconds)
            wait_until_well(load, requests=50)
        wait_for(lambda: load.acknowledged > MILLION, 240)
    print(f"{load.acknowledged} values acknowledged in {time.monotonic() - began:.0f} s")
    check_statuses(load.published, UNAVAILABLE)
    check(load, fresh_kafka.bootstrap_servers, timeout=3)
