"""What the cluster says of its topics, remembered for a moment."""

import time
from collections.abc import Collection, Iterable, Mapping
from typing import Any
from uuid import UUID

from kafka.errors import TopicAuthorizationFailedError, UnknownTopicOrPartitionError, for_code
from kafka.net.manager import KafkaConnectionManager
from kafka.protocol.metadata import MetadataRequest

from kafka_http.broker.connections import ConnectionPool, ask_any
from kafka_http.broker.error_map import translate
from kafka_http.errors import BrokerUnavailable, KafkaHttpError, PartitionNotFound
from kafka_http.records import PartitionInfo, TopicPartition


class NoLeader(BrokerUnavailable):
    """The one broker that could answer is not there just now."""


class TopicMetadata:
    """Topics and their partitions. Looks never create a topic. Any thread may call."""

    def __init__(self, connections: ConnectionPool) -> None:
        self._connections = connections
        self._known: dict[str, tuple[float, list[PartitionInfo]]] = {}
        self._ids: dict[str, UUID | None] = {}

    def alive(self) -> None:
        """Return where a broker answers. Raises `BrokerUnavailable`."""
        self._ask([])

    def cluster_id(self) -> str:
        return self._ask([]).cluster_id or ""

    def brokers(self) -> list[int]:
        return sorted(each.node_id for each in self._ask([]).brokers)

    def topics(self) -> list[str]:
        """The names of all topics but the internal ones, sorted."""
        answer = self._ask(None)
        return sorted(each.name for each in answer.topics if not each.is_internal)

    def partitions(self, topic: str, max_age: float = 0) -> list[PartitionInfo]:
        """A topic's partitions in their order, as they were at most `max_age` seconds ago. Raises `TopicNotFound`."""
        if (known := self.known(topic, max_age)) is not None:
            return known
        try:
            described = self._ask([topic]).topics[0]
            if described.error_code:
                raise translate(for_code(described.error_code), topic)
        except KafkaHttpError:
            self.forget(topic)
            raise
        known = sorted((_info(each) for each in described.partitions), key=lambda each: each.partition)
        self._ids[topic] = _id(described)
        self._known[topic] = (time.monotonic(), known)
        return known

    def known(self, topic: str, max_age: float) -> list[PartitionInfo] | None:
        """As `partitions`, None where they would have to be asked for. Does not block."""
        at, known = self._known.get(topic, (float("-inf"), []))
        return known if time.monotonic() - at < max_age else None

    def topic_id(self, topic: str, max_age: float = float("inf")) -> UUID | None:
        """What tells a topic from a later one of its name; None where the brokers are too old for ids.

        Raises `TopicNotFound`.
        """
        self.partitions(topic, max_age)
        return self._ids[topic]

    def topic_ids(self, topics: Collection[str], timeout: float | None = None) -> dict[str, UUID | None]:
        """The ids of topics as they are now, topics that do not exist left out. `timeout` is that of the request."""
        ids = {}
        for described in self._ask(sorted(topics), timeout).topics if topics else ():
            error = for_code(described.error_code)
            if issubclass(error, TopicAuthorizationFailedError):
                raise translate(error, described.name)
            if error is not UnknownTopicOrPartitionError:
                ids[described.name] = _id(described)
        return ids

    def by_leader(self, partitions: Collection[TopicPartition]) -> Mapping[int, list[TopicPartition]]:
        """The partitions grouped by the node to ask, from memory until `forget`. Raises `PartitionNotFound`."""
        groups: dict[int, list[TopicPartition]] = {}
        for topic in dict.fromkeys(each.topic for each in partitions):
            wanted = [each.partition for each in partitions if each.topic == topic]
            for partition, leader in self._leaders(topic, wanted).items():
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
                raise NoLeader(f"Partition {partition} of {topic} has no leader just now.", partition=partition)
            leaders[partition] = leader
        return leaders

    def forget(self, topic: str) -> None:
        """Ask the cluster at the next look."""
        self._known.pop(topic, None)

    def _ask(self, topics: Iterable[str] | None, timeout: float | None = None) -> Any:
        async def ask(manager: KafkaConnectionManager) -> Any:
            named = None if topics is None else [MetadataRequest.MetadataRequestTopic(name=each) for each in topics]
            answer = await ask_any(manager, MetadataRequest(topics=named, allow_auto_topic_creation=False))
            if {each.node_id for each in answer.brokers} != {each.node_id for each in manager.cluster.brokers()}:
                manager.cluster.update_metadata(answer)
            return answer

        return self._connections.run(ask, timeout)


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
