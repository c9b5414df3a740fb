"""Queues under load while processes are killed, stopped and frozen: what happens to each message.

A message may be delivered twice. It is never lost, and a response that acknowledges it is final.
"""

import os
import random
import signal
from collections.abc import Callable
from contextlib import closing
from itertools import chain

import pytest
from kafka import KafkaAdminClient
from kafka.admin import ConfigResource, ConfigResourceType

from kafka_http.demo.embedded_kafka import EmbeddedKafka, create_topics
from tests.conftest import TopicFactory
from tests.integration.conftest import ServiceFactory
from tests.support.embedded_cluster import EmbeddedCluster
from tests.support.frozen_process import Process, frozen
from tests.support.polling import wait_for
from tests.support.queue_load import Counts, Place, Queue, QueueLoad, place_of
from tests.support.server_process import Service

pytestmark = pytest.mark.slow

PARTITIONS = 3
MESSAGES = 900
TIMES = 2
"""How often something is killed while the messages are processed."""


def kill_worker(service: Service) -> None:
    os.kill(random.choice(sorted(service.workers)), signal.SIGKILL)


def kill_daemon(service: Service) -> None:
    os.kill(service.daemon, signal.SIGKILL)


def restart_server(service: Service) -> None:
    """Restart the server. Its daemon keeps the leases meanwhile."""
    service.terminate()
    service.wait_for_end()
    service.start()


def restart_server_and_daemon(service: Service) -> None:
    service.terminate()
    service.wait_for_end()
    service.end_daemon()
    service.start()


@pytest.mark.parametrize("disturb", [kill_worker, kill_daemon, restart_server, restart_server_and_daemon])
def test_queue_loses_no_message_when_processes_of_the_server_end(
    kafka: EmbeddedKafka, topic: TopicFactory, start_service: ServiceFactory, disturb: Callable[[Service], None]
) -> None:
    service = start_service(kafka.bootstrap_servers, queue_attempts=9)
    queue = Queue(service, topic(PARTITIONS))
    check(counts_under_load(queue, lambda: disturb(service)))


def test_queue_loses_no_message_when_the_broker_is_killed(
    fresh_kafka: EmbeddedKafka, start_service: ServiceFactory
) -> None:
    create_topics(fresh_kafka.bootstrap_servers, {"work": PARTITIONS})

    def restart() -> None:
        fresh_kafka.kill()
        fresh_kafka.start()

    service = start_service(fresh_kafka.bootstrap_servers, queue_attempts=9)
    check(counts_under_load(Queue(service, "work"), restart))


def test_queue_loses_no_message_when_a_leader_of_three_is_killed(
    kafka_cluster: EmbeddedCluster, start_service: ServiceFactory
) -> None:
    with closing(KafkaAdminClient(bootstrap_servers=kafka_cluster.bootstrap_servers)) as admin:
        admin.create_topics({"work": {"num_partitions": PARTITIONS}})
        admin.wait_for_topics(["work"])
    service = start_service(kafka_cluster.bootstrap_servers, queue_attempts=9)

    def kill_leader() -> None:
        leader = service.get("/messages/work").json()["partitions"][0]["leader"]
        kafka_cluster.brokers[leader].kill()

    check(counts_under_load(Queue(service, "work"), kill_leader, times=1))


def test_messages_of_a_frozen_daemon_go_to_another_server(
    kafka: EmbeddedKafka, admin: KafkaAdminClient, topic: TopicFactory, start_service: ServiceFactory
) -> None:
    """The servers are no nodes of one store. Kafka ends the locks of the frozen one, and its leases are lost."""
    hung, other = (start_service(kafka.bootstrap_servers, queue_attempts=9) for _ in range(2))
    queue = Queue(hung, topic(PARTITIONS))
    config = {"share.record.lock.duration.ms": "15000"}
    admin.alter_configs([ConfigResource(ConfigResourceType.GROUP, queue.consumer, config)])
    queues = [queue, queue.at(other)]
    places = queue.publish(MESSAGES, PARTITIONS)
    held = queue.acquire(20)
    load = QueueLoad(queues)
    with load.running():
        wait_for_share(load, 0.2)
        with frozen(Process(hung.daemon)):
            wait_until_empty(queues[1], load, places)
        wait_until_empty(queue, load, places)
    assert queue.acknowledge(*held).status_code == 409
    assert {each.attempt for record in held for each in load.deliveries[place_of(record)]} == {2}
    check(final_counts(queues[1], load, places))


def counts_under_load(queue: Queue, disturb: Callable[[], None], times: int = TIMES) -> Counts:
    """Disturb the clients several times while they process messages, and return what happened to these."""
    places = queue.publish(MESSAGES, PARTITIONS)
    load = QueueLoad([queue])
    with load.running():
        for number in range(times):
            wait_for_share(load, number / (times + 1))
            disturb()
        wait_until_empty(queue, load, places)
    return final_counts(queue, load, places)


def wait_for_share(load: QueueLoad, share: float) -> None:
    """Wait until a share of the messages was acknowledged."""
    wait_for(lambda: len(load.acknowledged) > MESSAGES * share, 30)


def wait_until_empty(queue: Queue, load: QueueLoad, places: set[Place]) -> None:
    try:
        wait_for(queue.is_empty, 60)
    except AssertionError:
        print(queue.server.get(queue.path).text, load.counts(places))
        raise


def final_counts(queue: Queue, load: QueueLoad, places: set[Place]) -> Counts:
    counts = load.counts(places)
    print(counts, "highest attempt:", max(each.attempt for each in chain(*load.deliveries.values())))
    assert load.unexpected == []
    assert set(load.deliveries) == places
    assert queue.acquire(wait=1) == []
    return counts


def check(counts: Counts) -> None:
    assert (counts.messages, counts.lost) == (MESSAGES, 0)
    assert (counts.acknowledged_twice, counts.after_acknowledgement) == (0, 0)
