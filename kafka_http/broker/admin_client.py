"""Committed offsets, groups and topics, through kafka-python's admin client."""

import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

from kafka import KafkaAdminClient, TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType, MemberToRemove
from kafka.errors import (
    CoordinatorLoadInProgressError,
    CoordinatorNotAvailableError,
    GroupIdNotFoundError,
    KafkaError,
    NoError,
    NotControllerError,
    NotCoordinatorError,
    TopicAlreadyExistsError,
    UnknownMemberIdError,
    UnstableOffsetCommitError,
)
from kafka.structs import OffsetAndMetadata

from kafka_http.administration import DescribedGroup, GroupOffset, ListedGroup, TopicConfig
from kafka_http.broker.client_lifecycle import ClientHolder
from kafka_http.broker.error_map import CONNECTION_LOST, count_error, translate
from kafka_http.broker.group_requests import GroupRequests
from kafka_http.errors import GroupHasMembers, NotAuthorized, WrongGroupType
from kafka_http.records import CommittedOffset, GroupMember, PartitionOffsets
from kafka_http.records import TopicPartition as OurPartition
from kafka_http.request_facts import waiting_for_kafka

Result = TypeVar("Result")

_STALE_CLIENT = (*CONNECTION_LOST, CoordinatorNotAvailableError, NotControllerError, NotCoordinatorError)
"""Errors after which a new client is created, because a client never refreshes the coordinator of a group."""
_TRANSIENT = (*_STALE_CLIENT, CoordinatorLoadInProgressError, UnstableOffsetCommitError)
_RETRY_DELAY = 0.1
_SET_ON_TOPIC = "DYNAMIC_TOPIC_CONFIG"
"""The source of a config that is set on the topic itself."""


class Admin:
    """The admin client of a process. Any thread may call.

    A call takes at most `timeout` seconds, or twice that if Kafka stops answering during it.
    """

    def __init__(self, settings: Mapping[str, Any], timeout: float, check_reachable: Callable[[], None]) -> None:
        """`settings` are those of `KafkaAdminClient`. `check_reachable` raises if no broker answers."""
        self._client = ClientHolder(KafkaAdminClient, KafkaAdminClient.close, settings, check_reachable)
        self._servers = ", ".join(settings["bootstrap_servers"])
        self._timeout = timeout
        self._check_reachable = check_reachable

    def run(self, call: Callable[[KafkaAdminClient], Result], topic: str | None = None) -> Result:
        """Return what `call` returns; retry transient errors. Raises errors of `kafka_http.errors`."""
        with waiting_for_kafka():
            return self._run(call, topic)

    def _run(self, call: Callable[[KafkaAdminClient], Result], topic: str | None) -> Result:
        deadline = time.monotonic() + self._timeout
        while True:
            client = self._client.get()
            try:
                return call(client)
            except _TRANSIENT as error:
                count_error(type(error))
                if isinstance(error, CONNECTION_LOST):
                    self._check_reachable()
                lost = isinstance(error, _STALE_CLIENT) and self._client.drop(client)
                if time.monotonic() + _RETRY_DELAY > deadline:
                    raise translate(error, topic, servers=self._servers) from error
                time.sleep(0 if lost else _RETRY_DELAY)
            except KafkaError as error:
                count_error(type(error))
                raise translate(error, topic, servers=self._servers) from error

    def create_topic(self, topic: str) -> None:
        """Create a topic with the brokers' defaults, unless it exists."""

        def call(client: KafkaAdminClient) -> None:
            with suppress(TopicAlreadyExistsError):
                client.create_topics([topic])

        self.run(call, topic)

    def message_limit(self, topic: str) -> int:
        """Return the topic's max.message.bytes. Raises `NotAuthorized` if ACLs hide it."""
        return int(self.configs(topic, "max.message.bytes")["max.message.bytes"])

    def configs(self, topic: str, *names: str) -> dict[str, str]:
        """Return the topic's configs of these names, or all. Configs whose value Kafka hides are left out."""
        settings = self._described_configs(topic, *names)
        if not settings:
            raise NotAuthorized(f"Kafka's ACLs hide the settings of the topic {topic}.")
        return {name: str(each["value"]) for name, each in settings.items() if each["value"] is not None}

    def own_config(self, topic: str) -> TopicConfig | None:
        """Return the configs that are set on the topic itself; None if ACLs hide them."""
        settings = self._described_configs(topic)
        own = {name: each["value"] for name, each in settings.items() if each["config_source"] == _SET_ON_TOPIC}
        return {name: str(value) for name, value in own.items() if value is not None} if settings else None

    def _described_configs(self, topic: str, *names: str) -> Mapping[str, Any]:
        resource = ConfigResource(ConfigResourceType.TOPIC, topic, dict.fromkeys(names) or None)
        described = self.run(lambda client: client.describe_configs([resource], config_filter="all"), topic)
        settings: Mapping[str, Any] = described["topic"][topic]
        return settings

    def remove_member(self, group: str, instance_id: str, member_id: str | None) -> None:
        """Remove a static member from a group if its member id is still `member_id` (None: any)."""
        member = MemberToRemove(member_id=member_id, group_instance_id=instance_id)

        def call(client: KafkaAdminClient) -> None:
            for error in client.remove_group_members(group, [member]).values():
                if error not in (NoError, UnknownMemberIdError):
                    raise error

        self.run(call)

    def close(self) -> None:
        if (client := self._client.close()) is not None:
            client.close()


class KafkaGroups:
    """The `Groups` of a Kafka cluster."""

    def __init__(self, admin: Admin, requests: GroupRequests) -> None:
        self._admin = admin
        self._requests = requests

    def committed(self, group: str, topic: str, partitions: Collection[int]) -> dict[int, int]:
        offsets_found = self._list(group, [TopicPartition(topic, each) for each in partitions])
        return {each.partition: at.offset for each, at in offsets_found.items()}

    def commit(self, group: str, topic: str, offsets: PartitionOffsets) -> None:
        commits = {TopicPartition(topic, each): OffsetAndMetadata(at, "", -1) for each, at in offsets.items()}
        self._change(group, topic, lambda client: client.alter_group_offsets(group, commits))

    def committed_offsets(
        self, group: str, partitions: Collection[OurPartition]
    ) -> dict[OurPartition, CommittedOffset]:
        offsets_found = self._list(group, [TopicPartition(*each) for each in partitions])
        return {OurPartition(*tp): CommittedOffset(at.offset, at.metadata or "") for tp, at in offsets_found.items()}

    def commit_offsets(self, group: str, offsets: Mapping[OurPartition, CommittedOffset]) -> None:
        by_topic: dict[str, dict[TopicPartition, OffsetAndMetadata]] = {}
        for tp, at in offsets.items():
            topic_offsets = by_topic.setdefault(tp.topic, {})
            topic_offsets[TopicPartition(*tp)] = OffsetAndMetadata(at.offset, at.metadata, -1)
        for topic, commits in by_topic.items():
            self._change(group, topic, partial(KafkaAdminClient.alter_group_offsets, group_id=group, offsets=commits))

    def delete_offsets(self, group: str, topic: str) -> None:
        present = [each for each in self._list(group, None) if each.topic == topic]
        if present:
            self._change(group, topic, lambda client: client.delete_group_offsets(group, present))

    def members(self, group: str) -> list[GroupMember]:
        return [member for each in self._requests.describe([group]) for member in each.members]

    def list_groups(self) -> list[ListedGroup]:
        return self._requests.list_all()

    def describe_groups(self, groups: Collection[str]) -> list[DescribedGroup]:
        return self._requests.describe(groups)

    def group_offsets(
        self, groups: Collection[ListedGroup | DescribedGroup], partitions: Collection[OurPartition] | None = None
    ) -> dict[str, dict[OurPartition, GroupOffset]]:
        share = [each.group for each in groups if each.type == "share"]
        others = [each.group for each in groups if each.type != "share"]
        return self._requests.share_offsets(share, partitions) | self._committed_of_all(others, partitions)

    def delete_group(self, group: str) -> None:
        try:
            self._requests.delete(group)
        except GroupHasMembers:
            raise self._has_members(group, "Nothing was done. Stop them first.") from None

    def close(self) -> None:
        self._admin.close()

    def _list(self, group: str, partitions: list[TopicPartition] | None) -> dict[TopicPartition, OffsetAndMetadata]:
        def call(client: KafkaAdminClient) -> dict[TopicPartition, OffsetAndMetadata]:
            try:
                return client.list_group_offsets({group: partitions})[group]  # type: ignore[no-any-return]
            except GroupIdNotFoundError:
                return {}

        return {
            each: offsets_found for each, offsets_found in self._admin.run(call).items() if offsets_found.offset >= 0
        }

    def _committed_of_all(
        self, groups: Collection[str], partitions: Collection[OurPartition] | None
    ) -> dict[str, dict[OurPartition, GroupOffset]]:
        wanted = None if partitions is None else [TopicPartition(*each) for each in partitions]

        def call(client: KafkaAdminClient) -> Mapping[str, Mapping[TopicPartition, OffsetAndMetadata]]:
            try:
                return client.list_group_offsets(dict.fromkeys(groups, wanted)) if groups else {}
            except GroupIdNotFoundError:  # one was just deleted
                return {each: self._list(each, wanted) for each in groups}

        return {
            group: {OurPartition(*tp): GroupOffset(at.offset) for tp, at in offsets.items() if at.offset >= 0}
            for group, offsets in self._admin.run(call).items()
        }

    def _change(
        self, group: str, topic: str, call: Callable[[KafkaAdminClient], Mapping[Any, type[KafkaError]]]
    ) -> None:
        def call_and_check(client: KafkaAdminClient) -> None:
            for error in call(client).values():
                if error is GroupIdNotFoundError:  # else Kafka would make it
                    raise WrongGroupType(f"{group} is a queue, which has no committed offsets.", group=group)
                if error is not NoError:
                    raise error

        try:
            self._admin.run(call_and_check, topic)
        except GroupHasMembers:
            raise self._has_members(group) from None

    def _has_members(
        self, group: str, remedy: str = "Stop them first, or use another consumer name."
    ) -> GroupHasMembers:
        members = self.members(group)
        names = ", ".join(f"{each.client_id} on {each.host}" for each in members)
        return GroupHasMembers(
            f"The consumer {group} has active members that commit its offsets{': ' + names if names else ''}. {remedy}",
            members=[{"client_id": each.client_id, "host": each.host} for each in members],
        )
