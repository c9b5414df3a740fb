"""Requests to the coordinators of consumer groups: all groups, their members, share groups' offsets, deletion."""

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any, TypeVar

from kafka.errors import (
    GroupIdNotFoundError,
    IncompatibleBrokerVersion,
    NoError,
    UnknownTopicOrPartitionError,
    UnsupportedVersionError,
    for_code,
)
from kafka.net.manager import KafkaConnectionManager
from kafka.protocol.admin import DeleteGroupsRequest, ListGroupsRequest
from kafka.protocol.metadata import FindCoordinatorRequest

from kafka_http.administration import DescribedGroup, GroupOffset, GroupType, ListedGroup
from kafka_http.broker.connections import ConnectionPool, ask_any
from kafka_http.broker.group_descriptions import check_group_error, describe_requests, described_groups
from kafka_http.broker.messages import DeleteShareGroupOffsetsRequest, DescribeShareGroupOffsetsRequest
from kafka_http.broker.topic_metadata import ask_metadata
from kafka_http.errors import GroupNotFound, QueuesUnsupported, RetriableBrokerError
from kafka_http.records import TopicPartition
from kafka_http.share_groups import ShareProgress

Result = TypeVar("Result")

_RETRY_DELAY = 0.1
_TYPES: Mapping[str, GroupType] = {"": "classic", "classic": "classic", "consumer": "consumer", "share": "share"}
"""By Kafka's names in lower case. Brokers before Kafka 3.8 name no type."""


class GroupRequests:
    """Asks the brokers about groups. Any thread may call; each call has its own connection.

    Groups of Kafka Streams with a protocol of their own (KIP-1071) are left out.
    """

    def __init__(self, connections: ConnectionPool, timeout: float) -> None:
        """`timeout` limits the attempts while a coordinator moves, in seconds."""
        self._connections = connections
        self._timeout = timeout

    def list_all(self) -> list[ListedGroup]:
        """Return all groups that this server may describe, sorted by name."""
        groups = self._retried(self._list)
        return sorted(groups, key=lambda each: each.group)

    def describe(self, groups: Collection[str]) -> list[DescribedGroup]:
        """Return these groups, sorted by name, without those that do not exist."""
        described = self._retried(lambda: self._describe(groups)) if groups else []
        return sorted(described, key=lambda each: each.group)

    def share_offsets(
        self, groups: Collection[str], partitions: Collection[TopicPartition] | None
    ) -> dict[str, dict[TopicPartition, GroupOffset]]:
        """Return the start offsets of share groups and their lag, of these partitions or of all (None)."""
        found = self._retried(lambda: self._share_progress(groups, partitions)) if groups else {}
        return {
            group: {tp: GroupOffset(each.start, each.lag) for tp, each in progress.items() if each.start >= 0}
            for group, progress in found.items()
        }

    def share_progress(self, group: str) -> dict[TopicPartition, ShareProgress]:
        """Return how far a share group is in the partitions of all topics. Raises `QueuesUnsupported`."""
        return self._retried(lambda: self._share_progress([group], None)).get(group, {})

    def delete_share_offsets(self, group: str, topic: str) -> None:
        """Delete a share group's offsets of a topic. Raises `GroupNotFound`, `GroupHasMembers`."""
        self._retried(lambda: self._delete_share_offsets(group, topic))

    def delete(self, group: str) -> None:
        """Delete a group. Raises `GroupNotFound`, `GroupHasMembers`."""
        self._retried(lambda: self._delete(group))

    def _retried(self, ask: Callable[[], Result]) -> Result:
        """Repeat a call while a coordinator is loading or moving."""
        deadline = time.monotonic() + self._timeout
        while True:
            try:
                return ask()
            except RetriableBrokerError:
                if time.monotonic() + _RETRY_DELAY > deadline:
                    raise
                time.sleep(_RETRY_DELAY)

    def _list(self) -> list[ListedGroup]:
        async def ask(manager: KafkaConnectionManager) -> list[Any]:
            brokers = (await ask_metadata(manager, [])).brokers
            return await _ask_nodes(manager, [(each.node_id, ListGroupsRequest(min_version=0)) for each in brokers])

        responses = self._connections.run(ask)
        for each in responses:
            check_group_error(each.error_code, self._connections.servers)
        listed = [each for response in responses for each in response.groups]
        return [
            ListedGroup(each.group_id, group_type, each.group_state or "")
            for each in listed
            if (group_type := _TYPES.get((each.group_type or "").lower())) is not None
        ]

    def _describe(self, groups: Collection[str]) -> list[DescribedGroup]:
        """Ask each coordinator by all types of groups: the type of a group is not known, and may change."""

        async def ask(manager: KafkaConnectionManager) -> list[Any]:
            coordinators = await _coordinators(manager, groups)
            requests = [(node, each) for node, names in coordinators.items() for each in describe_requests(names)]
            return await _ask_nodes(manager, requests)

        responses, servers = self._connections.run(ask), self._connections.servers
        return [each for response in responses for each in described_groups(response, servers)]

    def _share_progress(
        self, groups: Collection[str], partitions: Collection[TopicPartition] | None
    ) -> dict[str, dict[TopicPartition, ShareProgress]]:
        topics = None if partitions is None else list(_by_topic(partitions).items())

        async def ask(manager: KafkaConnectionManager) -> list[Any]:
            coordinators = await _coordinators(manager, groups)
            new_request: Any = DescribeShareGroupOffsetsRequest
            requests = [
                (node, new_request(groups=[(each, topics) for each in names])) for node, names in coordinators.items()
            ]
            return await _ask_nodes(manager, requests)

        progress: dict[str, dict[TopicPartition, ShareProgress]] = {}
        for each in (each for response in self._connections.run(ask) for each in response.groups):
            if for_code(each.error_code) is not GroupIdNotFoundError:  # it was just deleted
                self._check_share(each.error_code)
                progress[each.group_id] = dict(_progress(each))
        return progress

    def _delete_share_offsets(self, group: str, topic: str) -> None:
        new_request: Any = DeleteShareGroupOffsetsRequest

        async def ask(manager: KafkaConnectionManager) -> Any:
            [node] = await _coordinators(manager, [group])
            return await manager.send(new_request(group_id=group, topics=[new_request.Topic(topic_name=topic)]), node)

        response = self._connections.run(ask)
        if for_code(response.error_code) is GroupIdNotFoundError:
            raise GroupNotFound(group)
        for each in (response, *response.responses):
            if for_code(each.error_code) is not UnknownTopicOrPartitionError:  # it has no offsets of this topic
                self._check_share(each.error_code)

    def _check_share(self, error_code: int) -> None:
        if for_code(error_code) is UnsupportedVersionError:
            raise QueuesUnsupported
        check_group_error(error_code, self._connections.servers)

    def _delete(self, group: str) -> None:
        async def ask(manager: KafkaConnectionManager) -> Any:
            [node] = await _coordinators(manager, [group])
            return await manager.send(DeleteGroupsRequest(groups_names=[group]), node)

        [result] = self._connections.run(ask).results
        if for_code(result.error_code) is GroupIdNotFoundError:
            raise GroupNotFound(group)
        check_group_error(result.error_code, self._connections.servers)


async def _coordinators(manager: KafkaConnectionManager, groups: Collection[str]) -> dict[int, list[str]]:
    """Return the groups by the node id of their coordinator."""
    nodes: dict[int, list[str]] = {}
    request = FindCoordinatorRequest(key_type=0, coordinator_keys=list(groups), min_version=4)
    for each in (await ask_any(manager, request)).coordinators:
        if (error := for_code(each.error_code)) is not NoError:
            raise error
        nodes.setdefault(each.node_id, []).append(each.key)
    if not nodes.keys() <= {each.node_id for each in manager.cluster.brokers()}:
        await ask_metadata(manager, [])  # a coordinator is a new broker
    return nodes


async def _ask_nodes(manager: KafkaConnectionManager, requests: Iterable[tuple[int, Any]]) -> list[Any]:
    """Send requests to nodes at the same time. Return the responses, without those that brokers do not support."""
    sent = [manager.send(request, node) for node, request in requests]
    responses = []
    for each in sent:
        try:
            responses.append(await each)
        except IncompatibleBrokerVersion:
            continue
    return responses


def _by_topic(partitions: Collection[TopicPartition]) -> dict[str, list[int]]:
    topics: dict[str, list[int]] = {}
    for topic, partition in partitions:
        topics.setdefault(topic, []).append(partition)
    return topics


def _progress(group: Any) -> Iterator[tuple[TopicPartition, ShareProgress]]:
    for topic in group.topics:
        for each in topic.partitions:
            if not each.error_code:
                progress = ShareProgress(each.start_offset, each.lag)
                yield TopicPartition(topic.topic_name, each.partition_index), progress
