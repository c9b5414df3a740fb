"""The metadata of topics, cached."""

import time
from collections.abc import Collection, Iterable, Mapping
from typing import Any
from uuid import UUID

from kafka.errors import TopicAuthorizationFailedError, UnknownTopicOrPartitionError, for_code
from kafka.net.manager import KafkaConnectionManager
from kafka.protocol.metadata import MetadataRequest

from kafka_http.broker.connections import ConnectionPool, ask_any
from kafka_http.broker.error_map import translate
from kafka_http.broker.patches import address_of
from kafka_http.errors import BrokerUnavailable, KafkaHttpError, PartitionNotFound
from kafka_http.records import PartitionInfo, TopicPartition


class NoLeader(BrokerUnavailable):
    """The partition's leader, the only broker that can answer, is not available."""


class TopicMetadata:
    """Topics and their partitions. Never creates a topic. Any thread may call; most methods block."""

    def __init__(self, connections: ConnectionPool) -> None:
        self.addresses: dict[int, str] = {}
        """The brokers' addresses by node id, as last seen."""
        self.servers = connections.servers
        """The addresses of Kafka in the settings, for errors."""
        self._connections = connections
        self._known: dict[str, tuple[float, list[PartitionInfo]]] = {}
        self._ids: dict[str, UUID | None] = {}

    def check_reachable(self) -> None:
        """Raise `BrokerUnavailable` unless a broker answers."""
        self._ask([])

    def cluster_id(self) -> str:
        return self._ask([]).cluster_id or ""

    def brokers(self) -> list[int]:
        return sorted(each.node_id for each in self._ask([]).brokers)

    def topics(self) -> list[str]:
        """Return the sorted names of all topics except internal ones."""
        response = self._ask(None)
        return sorted(each.name for each in response.topics if not each.is_internal)

    def partitions(self, topic: str, max_age: float = 0) -> list[PartitionInfo]:
        """Return a topic's partitions in order, at most `max_age` seconds old. Raises `TopicNotFound`."""
        if (known := self.cached(topic, max_age)) is not None:
            return known
        try:
            described = self._ask([topic]).topics[0]
            if described.error_code:
                raise translate(for_code(described.error_code), topic, servers=self.servers)
        except KafkaHttpError:
            self.remove(topic)
            raise
        known = sorted((_info(each) for each in described.partitions), key=lambda each: each.partition)
        self._ids[topic] = _id(described)
        self._known[topic] = (time.monotonic(), known)
        return known

    def cached(self, topic: str, max_age: float) -> list[PartitionInfo] | None:
        """Return a topic's cached partitions, or None if they are older than `max_age`. Does not block."""
        at, known = self._known.get(topic, (float("-inf"), []))
        return known if time.monotonic() - at < max_age else None

    def topic_id(self, topic: str, max_age: float = float("inf")) -> UUID | None:
        """Return the id that a topic got when it was created; None if the brokers are too old for ids.

        Raises `TopicNotFound`.
        """
        self.partitions(topic, max_age)
        return self._ids[topic]

    def topic_ids(self, topics: Collection[str], timeout: float | None = None) -> dict[str, UUID | None]:
        """Return the current ids of topics, without topics that do not exist. `timeout` is that of the request."""
        ids = {}
        for described in self._ask(sorted(topics), timeout).topics if topics else ():
            error = for_code(described.error_code)
            if issubclass(error, TopicAuthorizationFailedError):
                raise translate(error, described.name, servers=self.servers)
            if error is not UnknownTopicOrPartitionError:
                ids[described.name] = _id(described)
        return ids

    def by_leader(self, partitions: Collection[TopicPartition]) -> Mapping[int, list[TopicPartition]]:
        """Group partitions by their leader, from the cache until `remove`. Raises `PartitionNotFound`, `NoLeader`."""
        groups: dict[int, list[TopicPartition]] = {}
        for topic in dict.fromkeys(each.topic for each in partitions):
            numbers = [each.partition for each in partitions if each.topic == topic]
            for partition, leader in self._leaders(topic, numbers).items():
                groups.setdefault(leader, []).append(TopicPartition(topic, partition))
        return groups

    def _leaders(self, topic: str, partitions: Collection[int]) -> Mapping[int, int]:
        known = {each.partition: each.leader for each in self.partitions(topic, max_age=float("inf"))}
        if not known.keys() >= set(partitions):
            known = {each.partition: each.leader for each in self.partitions(topic)}
        leaders = {}
        for partition in partitions:
            if partition not in known:
                raise PartitionNotFound(topic, partition, len(known))
            leader = known[partition]
            if leader is None:
                raise NoLeader(
                    f"Partition {partition} of {topic} has no leader now. Retry. Kafka: {self.servers}.",
                    partition=partition,
                )
            leaders[partition] = leader
        return leaders

    def remove(self, topic: str) -> None:
        """Remove a topic from the cache."""
        self._known.pop(topic, None)

    def _ask(self, topics: Iterable[str] | None, timeout: float | None = None) -> Any:
        async def ask(manager: KafkaConnectionManager) -> Any:
            response = await ask_metadata(manager, topics)
            self.addresses = {each.node_id: address_of(each) for each in response.brokers}
            return response

        return self._connections.run(ask, timeout)


async def ask_metadata(manager: KafkaConnectionManager, topics: Iterable[str] | None) -> Any:
    """Ask a broker about these topics, or all (None). The manager can then send requests to all live brokers."""
    response = await ask_any(manager, metadata_request(topics))
    if {each.node_id for each in response.brokers} != {each.node_id for each in manager.cluster.brokers()}:
        manager.cluster.update_metadata(response)
    return response


def metadata_request(topics: Iterable[str] | None) -> MetadataRequest:
    """Return a request that never creates a topic."""
    requested = None if topics is None else [MetadataRequest.MetadataRequestTopic(name=each) for each in topics]
    return MetadataRequest(topics=requested, allow_auto_topic_creation=False)


def _id(described: Any) -> UUID | None:
    topic_id: UUID | None = getattr(described, "topic_id", None)
    return topic_id if topic_id is not None and topic_id.int else None


def _info(described: Any) -> PartitionInfo:
    unavailable = described.leader_id < 0
    return PartitionInfo(
        described.partition_index,
        None if unavailable else described.leader_id,
        tuple(described.replica_nodes),
        tuple(described.isr_nodes),
    )
