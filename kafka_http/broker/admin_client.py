"""Committed offsets, groups and topics through kafka-python's admin client."""

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

from kafka_http.broker.client_lifecycle import ClientHolder
from kafka_http.broker.error_map import CONNECTION_LOST, translate
from kafka_http.errors import GroupHasMembers, NotAuthorized
from kafka_http.records import CommittedOffset, GroupMember, PartitionOffsets
from kafka_http.records import TopicPartition as OurPartition

Answer = TypeVar("Answer")

_LOST = (*CONNECTION_LOST, CoordinatorNotAvailableError, NotControllerError, NotCoordinatorError)
"""The client may have in memory what is no longer so; it remembers a group's coordinator for ever."""
_SOON = (*_LOST, CoordinatorLoadInProgressError, UnstableOffsetCommitError)
_PAUSE = 0.1


class Admin:
    """The one admin client of a process. Any thread may call; a call takes at most `timeout` seconds, or twice that
    where Kafka stops answering in its midst."""

    def __init__(self, settings: Mapping[str, Any], timeout: float, reachable: Callable[[], None]) -> None:
        """`settings` are those of `KafkaAdminClient`; `reachable` raises where no broker answers."""
        self._kept = ClientHolder(KafkaAdminClient, KafkaAdminClient.close, settings, reachable)
        self._timeout = timeout
        self._reachable = reachable

    def run(self, ask: Callable[[KafkaAdminClient], Answer], topic: str | None = None) -> Answer:
        """What `ask` returns, tried again while a coordinator is on its way. Raises our errors."""
        deadline = time.monotonic() + self._timeout
        while True:
            client = self._kept.get()
            try:
                return ask(client)
            except _SOON as error:
                if isinstance(error, CONNECTION_LOST):
                    self._reachable()
                lost = isinstance(error, _LOST) and self._kept.drop(client)
                if time.monotonic() + _PAUSE > deadline:
                    raise translate(error, topic) from error
                time.sleep(0 if lost else _PAUSE)
            except KafkaError as error:
                raise translate(error, topic) from error

    def create_topic(self, topic: str) -> None:
        """Create a topic as the brokers' defaults have it; one that is there already is as good."""

        def ask(client: KafkaAdminClient) -> None:
            with suppress(TopicAlreadyExistsError):
                client.create_topics([topic])

        self.run(ask, topic)

    def message_limit(self, topic: str) -> int:
        """The topic's max.message.bytes. Raises `NotAuthorized` where ACLs hide it."""
        return int(self.configs(topic, "max.message.bytes")["max.message.bytes"])

    def configs(self, topic: str, *names: str) -> dict[str, str]:
        """The topic's settings of these names, or all; those whose value Kafka does not tell are left out."""
        resource = ConfigResource(ConfigResourceType.TOPIC, topic, dict.fromkeys(names) or None)
        described = self.run(lambda client: client.describe_configs([resource], config_filter="all"), topic)
        settings = described["topic"][topic]
        if not settings:
            raise NotAuthorized(f"Kafka's ACLs hide the settings of the topic {topic}.")
        return {name: str(each["value"]) for name, each in settings.items() if each["value"] is not None}

    def remove_member(self, group: str, instance_id: str, member_id: str | None) -> None:
        """Let a group forget a static member, where its member id is still this one (None: whichever)."""
        member = MemberToRemove(member_id=member_id, group_instance_id=instance_id)

        def ask(client: KafkaAdminClient) -> None:
            for error in client.remove_group_members(group, [member]).values():
                if error not in (NoError, UnknownMemberIdError):
                    raise error

        self.run(ask)

    def close(self) -> None:
        if (client := self._kept.close()) is not None:
            client.close()


class KafkaGroups:
    """The `Groups` of a Kafka cluster."""

    def __init__(self, admin: Admin) -> None:
        self._admin = admin

    def committed(self, group: str, topic: str, partitions: Collection[int]) -> dict[int, int]:
        found = self._list(group, [TopicPartition(topic, each) for each in partitions])
        return {each.partition: at.offset for each, at in found.items()}

    def commit(self, group: str, topic: str, offsets: PartitionOffsets) -> None:
        wanted = {TopicPartition(topic, each): OffsetAndMetadata(at, "", -1) for each, at in offsets.items()}
        self._change(group, topic, lambda client: client.alter_group_offsets(group, wanted))

    def committed_offsets(
        self, group: str, partitions: Collection[OurPartition]
    ) -> dict[OurPartition, CommittedOffset]:
        found = self._list(group, [TopicPartition(*each) for each in partitions])
        return {OurPartition(*place): CommittedOffset(at.offset, at.metadata or "") for place, at in found.items()}

    def commit_offsets(self, group: str, offsets: Mapping[OurPartition, CommittedOffset]) -> None:
        by_topic: dict[str, dict[TopicPartition, OffsetAndMetadata]] = {}
        for place, at in offsets.items():
            of_topic = by_topic.setdefault(place.topic, {})
            of_topic[TopicPartition(*place)] = OffsetAndMetadata(at.offset, at.metadata, -1)
        for topic, wanted in by_topic.items():
            self._change(group, topic, partial(KafkaAdminClient.alter_group_offsets, group_id=group, offsets=wanted))

    def forget(self, group: str, topic: str) -> None:
        there = [each for each in self._list(group, None) if each.topic == topic]
        if there:
            self._change(group, topic, lambda client: client.delete_group_offsets(group, there))

    def members(self, group: str) -> list[GroupMember]:
        described = self._admin.run(lambda client: client.describe_groups([group]))[group]
        return [
            GroupMember(each["member_id"], each["client_id"], each["client_host"].removeprefix("/"))
            for each in described["members"]
        ]

    def close(self) -> None:
        self._admin.close()

    def _list(self, group: str, partitions: list[TopicPartition] | None) -> dict[TopicPartition, OffsetAndMetadata]:
        def ask(client: KafkaAdminClient) -> dict[TopicPartition, OffsetAndMetadata]:
            try:
                return client.list_group_offsets({group: partitions})[group]  # type: ignore[no-any-return]
            except GroupIdNotFoundError:
                return {}

        return {each: found for each, found in self._admin.run(ask).items() if found.offset >= 0}

    def _change(
        self, group: str, topic: str, ask: Callable[[KafkaAdminClient], Mapping[Any, type[KafkaError]]]
    ) -> None:
        def checked(client: KafkaAdminClient) -> None:
            for error in ask(client).values():
                if error is not NoError:
                    raise error

        try:
            self._admin.run(checked, topic)
        except GroupHasMembers:
            raise self._has_members(group) from None

    def _has_members(self, group: str) -> GroupHasMembers:
        members = self.members(group)
        named = ", ".join(f"{each.client_id} on {each.host}" for each in members)
        return GroupHasMembers(
            f"The consumer {group} has live members of its own that commit its offsets"
            f"{': ' + named if named else ''}. Stop them first, or use another consumer's name.",
            members=[{"client_id": each.client_id, "host": each.host} for each in members],
        )
