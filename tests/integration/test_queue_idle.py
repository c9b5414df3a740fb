"""Idle queues: what hundreds of them cost, when they leave their groups, and that locks outlive idle connections."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from uuid import uuid4

import psutil
import pytest

from kafka_http.broker import KafkaBroker
from kafka_http.config import Config
from kafka_http.consumers.queue_registry import QueueRegistry
from kafka_http.consumers.queue_service import QueueName
from kafka_http.demo.broker_properties import BrokerNode
from kafka_http.demo.embedded_kafka import EmbeddedKafka, create_topics
from kafka_http.demo.local_resources import free_ports
from tests.conftest import TopicFactory
from tests.integration.conftest import ServiceFactory
from tests.support.polling import scaled, wait_for
from tests.support.queue_load import Queue
from tests.support.server_process import Service

QUEUES = 300
KIB = 1024
SESSION_SECONDS = 10


StartKafka = Callable[[dict[str, object]], EmbeddedKafka]


@pytest.fixture
def start_kafka(kafka_parts: None, tmp_path: Path) -> Iterator[StartKafka]:
    """Start a broker with properties, and the topic `jobs`. It ends after the server of the test."""
    with ExitStack() as stack:

        def start(properties: dict[str, object]) -> EmbeddedKafka:
            kafka = EmbeddedKafka(BrokerNode(tmp_path / "kafka", *free_ports(2), properties=properties))
            kafka.start()
            stack.callback(kafka.stop)
            create_topics(kafka.bootstrap_servers, {"jobs": 1})
            return kafka

        yield start


@pytest.mark.slow
def test_idle_queues_cost_a_descriptor_and_little_memory_each_and_stay_members(
    start_kafka: StartKafka, start_service: ServiceFactory
) -> None:
    """Kafka removes a member that sends no heartbeat for some seconds, here 10."""
    properties: dict[str, object] = {
        f"group.share.{name}session.timeout.ms": SESSION_SECONDS * 1000 for name in ("", "min.")
    }
    properties |= {f"group.share.{name}heartbeat.interval.ms": 2000 for name in ("", "min.")}
    service = start_service(start_kafka(properties).bootstrap_servers, workers=1)
    with ThreadPoolExecutor(16) as clients:
        queues = [Queue(service, "jobs", f"queue-{number}") for number in range(QUEUES)]
        assert queues[0].acquire(wait=0) == []
        daemon = psutil.Process(service.daemon)
        descriptors, memory = daemon.num_fds(), daemon.memory_info().rss
        assert not any(clients.map(lambda each: each.acquire(wait=0), queues))
        created = time.monotonic()
        # One for each session; the others are those of calls that run at the same time, which are kept for the next
        wait_for(lambda: daemon.num_fds() < descriptors + 2 * QUEUES, 30)
        per_queue = (daemon.memory_info().rss - memory) / (QUEUES - 1)
        print(f"{daemon.num_fds() - descriptors} more descriptors, {per_queue / KIB:.1f} KiB a queue")
        assert per_queue < 160 * KIB
        wait_for(lambda: time.monotonic() > created + 1.5 * SESSION_SECONDS, 60)
        wait_for(lambda: members(service) == {each.consumer: 1 for each in queues}, 30)
        assert service.post("/messages/jobs", json=["job"]).status_code == 200
        records = list(clients.map(lambda each: each.acquire(wait=20), queues))
        assert [[(each["offset"], each["attempt"]) for each in page] for page in records] == [[(0, 1)]] * QUEUES
        answers = list(clients.map(lambda each, page: each.acknowledge(*page), queues, records))
        assert {each.status_code for each in answers} == {200}


def members(service: Service) -> dict[str, int]:
    """Return the number of members of each group."""
    groups = service.get("/consumers").json()["groups"]
    return {each["group"]: each["members"] for each in groups}


def test_idle_queues_leave_their_groups_free_their_descriptors_and_join_again(
    kafka: EmbeddedKafka, topic: TopicFactory
) -> None:
    broker = KafkaBroker(Config(bootstrap_servers=(kafka.bootstrap_servers,)))
    names = [QueueName(topic(), f"idle-{uuid4().hex[:8]}") for _ in range(2)]
    names += [QueueName(names[0].topic, f"idle-{uuid4().hex[:8]}") for _ in range(18)]
    groups = [each.consumer for each in names]

    def count() -> list[int]:
        return [len(each.members) for each in broker.groups.describe_groups(groups)]

    with closing(QueueRegistry(broker, attempts=5, idle_timeout=2)) as registry, ThreadPoolExecutor(8) as clients:
        for _ in range(2):  # the second time they join again
            list(clients.map(lambda each: registry.acquire_messages(each, 1, 0, 30), names))
            wait_for(lambda: sum(count()) == 0, 30)
            assert len(count()) == len(names)
        idle = psutil.Process().num_fds()
        list(clients.map(lambda each: registry.acquire_messages(each, 1, 0, 30), names))
        wait_for(lambda: sum(count()) == 0, 30)
        wait_for(lambda: psutil.Process().num_fds() <= idle + 8)  # not one for each queue
    broker.close(5)


@pytest.mark.slow
def test_locks_outlive_the_limit_of_idle_connections(start_kafka: StartKafka, start_service: ServiceFactory) -> None:
    """Kafka closes connections that are idle for 10 minutes, and releases their locks. Here it is some seconds."""
    limit = min(scaled(3), 10)
    kafka = start_kafka({"connections.max.idle.ms": int(limit * 1000)})
    constants = {"kafka_http.broker.share_leader.KEEP_ALIVE_SECONDS": 0.5}
    service = start_service(kafka.bootstrap_servers, workers=1, daemon="inline", constants=constants)
    queue = Queue(service, "jobs")
    assert service.post("/messages/jobs", json=["a", "b"]).status_code == 200
    held = queue.acquire(1)
    began = time.monotonic()
    wait_for(lambda: time.monotonic() > began + 2.5 * limit, 60)
    assert [each["lease"] for each in queue.state()["held"]] == [held[0]["lease"]]
    [other] = queue.acquire()
    assert (other["offset"], other["attempt"]) == (1, 1)
    assert queue.acknowledge(*held, other).status_code == 200
