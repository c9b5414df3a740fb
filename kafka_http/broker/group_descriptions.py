"""Descriptions of consumer groups of all types, from the responses of their coordinators."""

import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from kafka.errors import GroupIdNotFoundError, NoError, UnsupportedVersionError, for_code
from kafka.protocol.admin import DescribeGroupsRequest, DescribeGroupsResponse
from kafka.protocol.consumer.metadata import ConsumerProtocolAssignment

from kafka_http.administration import DescribedGroup, GroupType
from kafka_http.broker.error_map import translate
from kafka_http.broker.messages import (
    ConsumerGroupDescribeRequest,
    ConsumerGroupDescribeResponse,
    ShareGroupDescribeRequest,
    ShareGroupDescribeResponse,
)
from kafka_http.records import GroupMember, TopicPartition

_TYPES: Mapping[type, GroupType] = {
    DescribeGroupsResponse: "classic",
    ConsumerGroupDescribeResponse: "consumer",
    ShareGroupDescribeResponse: "share",
}
"""The type of the groups that a response describes."""
_NEWER_REQUESTS: Sequence[tuple[Any, int]] = ((ConsumerGroupDescribeRequest, 0), (ShareGroupDescribeRequest, 1))
"""The requests of the newer types, and their first versions."""
_CONSUMER_PROTOCOL = "consumer"
"""The protocol type of classic groups of consumers. Kafka Connect has another."""
_ABSENT = (GroupIdNotFoundError, UnsupportedVersionError)
"""There is no such group of this type. The second one: share groups are switched off (share.version is 0)."""
_DEAD = "Dead"
"""The state that older brokers report for a group that does not exist."""


def describe_requests(groups: list[str]) -> Iterator[Any]:
    """Yield a request for each type of groups. A coordinator finds a group with the request for its type only."""
    yield DescribeGroupsRequest(groups=groups, include_authorized_operations=False)
    for request, first_version in _NEWER_REQUESTS:
        yield request(group_ids=groups, include_authorized_operations=False, min_version=first_version)


def described_groups(response: Any, servers: str) -> Iterator[DescribedGroup]:
    """Yield the groups that a response describes, without those that do not exist or have another type.

    Raises the errors of `kafka_http.errors` for other error codes.
    """
    group_type = _TYPES[type(response)]
    describe = _described_classic if group_type == "classic" else _described
    for group in response.groups:
        if for_code(group.error_code) not in _ABSENT:
            check_group_error(group.error_code, servers)
            if group.group_state != _DEAD:
                yield describe(group, group_type)


def check_group_error(error_code: int, servers: str) -> None:
    """Raise the error of `kafka_http.errors` for an error code of a group. `servers` is that of `translate`."""
    if (error := for_code(error_code)) is not NoError:
        raise translate(error, servers=servers)


def _described_classic(group: Any, group_type: GroupType) -> DescribedGroup:
    has_consumers = group.protocol_type == _CONSUMER_PROTOCOL
    members = tuple(
        _member(each, each.group_instance_id, _classic_assignment(each) if has_consumers else ())
        for each in group.members
    )
    return DescribedGroup(group.group_id, group_type, group.group_state, group.protocol_data, members)


def _described(group: Any, group_type: GroupType) -> DescribedGroup:
    members = tuple(
        _member(
            each,
            getattr(each, "instance_id", None),
            [(topic.topic_name, topic.partitions) for topic in each.assignment.topic_partitions],
        )
        for each in group.members
    )
    return DescribedGroup(group.group_id, group_type, group.group_state, group.assignor_name, members)


def _classic_assignment(member: Any) -> list[tuple[str, Sequence[int]]]:
    """Return the partitions of a member, none if its client wrote what is not an assignment of consumers."""
    try:
        decoded = ConsumerProtocolAssignment.decode(member.member_assignment)
    except (struct.error, ValueError):  # a member without an assignment yet, or a protocol of its own
        return []
    return [(each.topic, each.partitions) for each in decoded.assigned_partitions]


def _member(member: Any, instance_id: str | None, topics: Iterable[tuple[str, Iterable[int]]]) -> GroupMember:
    partitions = [TopicPartition(topic, each) for topic, numbers in topics for each in numbers]
    host = member.client_host.removeprefix("/")
    return GroupMember(member.member_id, member.client_id, host, instance_id, tuple(sorted(partitions)))
