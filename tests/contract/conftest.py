"""Fixtures: the fake Kafka and a real one for the same tests."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol
from uuid import uuid4

import pytest

from kafka_http.administration import GroupType
from kafka_http.broker import KafkaBroker
from kafka_http.broker_protocols import Broker
from kafka_http.config import Config
from kafka_http.demo.embedded_kafka import EmbeddedKafka
from kafka_http.demo.local_resources import free_ports
from kafka_http.records import TopicPartition
from tests.support.fake_broker import FakeBroker
from tests.support.frozen_process import frozen
from tests.support.group_member import live_member

TopicFactory = Callable[..., str]


class Cluster(Protocol):
    """What tests do to a cluster, beside the calls of `Broker`."""

    @property
    def broker(self) -> Broker: ...

    def topic(
        self, partitions: int = 1, *, limit: int | None = None, compacted: bool = False, append_time: bool = False
    ) -> str:
        """Create a topic and return its name. `limit` is its max.message.bytes."""

    def member(
        self,
        group: str,
        topic: str,
        client_id: str,
        *,
        group_type: GroupType = "classic",
        instance_id: str | None = None,
    ) -> AbstractContextManager[None]:
        """Run a consumer of the group that subscribes to the topic."""

    def silent(self) -> AbstractContextManager[None]:
        """Make the cluster respond to nothing during the context. It responds to all requests afterwards."""

    def another(self) -> Broker:
        """Return a `Broker` for the same cluster, like that of another process."""

    def unreachable(self) -> Broker:
        """Return a `Broker` for a cluster that cannot be reached."""


class FakeCluster:
    def __init__(self) -> None:
        self.broker = FakeBroker()

    def topic(
        self, partitions: int = 1, *, limit: int | None = None, compacted: bool = False, append_time: bool = False
    ) -> str:
        name = f"topic-{uuid4().hex[:12]}"
        self.broker.create_topic(name, partitions, limit=limit, compacted=compacted, append_time=append_time)
        return name

    @contextmanager
    def member(
        self,
        group: str,
        topic: str,
        client_id: str,
        *,
        group_type: GroupType = "classic",
        instance_id: str | None = None,
    ) -> Iterator[None]:
        self.broker.join(group, topic, client_id, group_type=group_type, instance_id=instance_id)
        if group_type == "share":
            partitions = range(len(self.broker.partitions(topic)))
            self.broker.add_share_group(group, {TopicPartition(topic, each): 0 for each in partitions})
        yield
        self.broker.leave(group)

    @contextmanager
    def silent(self) -> Iterator[None]:
        self.broker.silent = True
        yield
        self.broker.answer()

    def another(self) -> Broker:
        return self.broker

    def unreachable(self) -> Broker:
        broker = FakeBroker()
        broker.down = True
        return broker


class KafkaCluster:
    def __init__(self, broker: KafkaBroker, kafka: EmbeddedKafka, topics: TopicFactory) -> None:
        self.broker = broker
        self._kafka = kafka
        self._bootstrap_servers = kafka.bootstrap_servers
        self._topics = topics
        self._others: list[KafkaBroker] = []

    def silent(self) -> AbstractContextManager[None]:
        return frozen(self._kafka)

    def another(self) -> Broker:
        self._others.append(KafkaBroker(Config(bootstrap_servers=(self._bootstrap_servers,))))
        return self._others[-1]

    def close(self) -> None:
        for each in self._others:
            each.close(1)

    def topic(
        self, partitions: int = 1, *, limit: int | None = None, compacted: bool = False, append_time: bool = False
    ) -> str:
        configs: dict[str, str] = {}
        if limit is not None:
            configs["max.message.bytes"] = str(limit)
        if compacted:
            configs["cleanup.policy"] = "compact"
        if append_time:
            configs["message.timestamp.type"] = "LogAppendTime"
        return self._topics(partitions, configs)

    def member(
        self,
        group: str,
        topic: str,
        client_id: str,
        *,
        group_type: GroupType = "classic",
        instance_id: str | None = None,
    ) -> AbstractContextManager[None]:
        return live_member(
            self._bootstrap_servers, topic, group, client_id, group_type=group_type, instance_id=instance_id
        )

    def unreachable(self) -> Broker:
        return KafkaBroker(Config(bootstrap_servers=(f"127.0.0.1:{free_ports(1)[0]}",)))


@pytest.fixture(scope="session")
def kafka_broker(kafka: EmbeddedKafka) -> Iterator[KafkaBroker]:
    broker = KafkaBroker(Config(bootstrap_servers=(kafka.bootstrap_servers,)))
    yield broker
    broker.close(5)


@pytest.fixture(params=["fake", "kafka"])
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    if request.param == "fake":
        yield FakeCluster()
        return
    yield from kafka_cluster_of(request.getfixturevalue("kafka_broker"), request)


def kafka_cluster_of(broker: KafkaBroker, request: pytest.FixtureRequest) -> Iterator[Cluster]:
    cluster = KafkaCluster(broker, request.getfixturevalue("kafka"), request.getfixturevalue("topic"))
    yield cluster
    cluster.close()


@pytest.fixture
def broker(cluster: Cluster) -> Broker:
    return cluster.broker
