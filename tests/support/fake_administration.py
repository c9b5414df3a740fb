"""The administration of topics and groups of the fake Kafka."""

from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any

from kafka_http.administration import DescribedGroup, GroupOffset, GroupType, ListedGroup, TopicChange, TopicSettings
from kafka_http.errors import (
    GroupHasMembers,
    GroupNotFound,
    InvalidRequest,
    InvalidValue,
    OffsetOutOfRange,
    TopicExists,
)
from kafka_http.records import GroupMember, TopicPartition
from tests.support.fake_topics import FakeTopic

if TYPE_CHECKING:
    from tests.support.fake_broker import FakeBroker

_CONFIGS: Mapping[str, Callable[[str], Any]] = {
    "cleanup.policy": {"delete": 1, "compact": 1, "compact,delete": 1}.__getitem__,
    "max.message.bytes": int,
    "message.timestamp.type": {"CreateTime": 1, "LogAppendTime": 1}.__getitem__,
    "min.insync.replicas": int,
    "retention.bytes": int,
    "retention.ms": int,
    "segment.ms": int,
}
"""The settings that the fake knows, and what fails for a wrong value."""
_MAX_PARTITIONS = 10_000


class FakeTopicAdmin:
    """Implements `TopicAdmin`."""

    def __init__(self, broker: "FakeBroker") -> None:
        self._broker = broker

    def create(self, topic: str, settings: TopicSettings) -> None:
        self._broker.check_name(topic)
        if topic in self._broker.all_topics:
            raise TopicExists(topic)
        for other in self._broker.all_topics:
            if other.replace(".", "_") == topic.replace(".", "_"):
                raise InvalidRequest(
                    f"Kafka rejected the topic {topic}: Topic '{topic}' collides with existing topic: {other}."
                )
        _check_count(topic, settings.partitions or 1)
        if (settings.replication_factor or 1) > 1:
            raise InvalidValue(
                f"Kafka rejected the topic {topic}: Unable to replicate the partition "
                f"{settings.replication_factor} time(s) (InvalidReplicationFactor)."
            )
        _check_config(topic, settings.config)
        self._broker.create_topic(topic, settings.partitions or 1)
        _set_config(self._broker.all_topics[topic], settings.config)

    def change(self, topic: str, change: TopicChange) -> None:
        found = self._broker.found(topic)
        _check_config(topic, {name: value for name, value in change.config.items() if value is not None})
        present = len(found.partitions)
        if change.partitions is not None:
            if change.partitions <= present:
                raise InvalidValue(f"Kafka rejected the change: The topic {topic} has {present} partitions.")
            _check_count(topic, change.partitions)
        for partition, offset in change.delete_before.items():
            log = self._broker.partition_log(topic, partition)
            if offset > log.latest:
                raise OffsetOutOfRange(f"Offset out of range in {topic}: partition {partition}.")
        if change.partitions is not None:
            self._broker.add_partitions(topic, change.partitions - present)
        _set_config(found, change.config)
        for partition, offset in change.delete_before.items():
            self._broker.delete_before(topic, partition, max(offset, found.partitions[partition].earliest))

    def delete(self, topic: str) -> None:
        self._broker.found(topic)
        self._broker.delete_topic(topic)


def _check_count(topic: str, partitions: int) -> None:
    if partitions > _MAX_PARTITIONS:
        raise InvalidValue(f"Kafka rejected the topic {topic}: Excessively large number of partitions per request.")


def _check_config(topic: str, config: Mapping[str, str]) -> None:
    for name, value in config.items():
        if name not in _CONFIGS:
            raise InvalidValue(f"Kafka rejected the topic {topic}: Unknown topic config name: {name} (InvalidConfig).")
        try:
            _CONFIGS[name](value)
        except (KeyError, ValueError):
            raise InvalidValue(
                f"Kafka rejected the topic {topic}: Invalid value {value} for configuration {name} (InvalidConfig)."
            ) from None


def _set_config(topic: FakeTopic, config: Mapping[str, str | None]) -> None:
    for name, value in config.items():
        topic.config.pop(name, None)
        if value is not None:
            topic.config[name] = value
    limit = topic.config.get("max.message.bytes")
    topic.limit = None if limit is None else int(limit)
    topic.compacted = "compact" in topic.config.get("cleanup.policy", "")
    topic.append_time = topic.config.get("message.timestamp.type") == "LogAppendTime"


class FakeGroupAdmin:
    """The part of `Groups` about groups as a whole. `FakeBroker` inherits from it."""

    def __init__(self) -> None:
        self.group_types: dict[str, GroupType] = {}
        """The groups that are not classic ones."""
        self.share_starts: dict[str, dict[TopicPartition, int]] = {}

    def add_share_group(self, group: str, starts: Mapping[TopicPartition, int]) -> None:
        """Add a share group, or set the starts of its windows. `join` adds members."""
        self.group_types[group] = "share"
        self.share_starts.setdefault(group, {}).update(starts)

    def members(self, group: str) -> list[GroupMember]:
        raise NotImplementedError

    def groups_with_offsets(self) -> Mapping[str, dict[TopicPartition, int]]:
        raise NotImplementedError

    def share_lag(self, group: str, partition: TopicPartition) -> int:
        raise NotImplementedError

    def remove_group(self, group: str) -> None:
        raise NotImplementedError

    def list_groups(self) -> list[ListedGroup]:
        names = {*self.groups_with_offsets(), *self.share_starts, *self.groups_with_members()}
        return [ListedGroup(each, self._type(each), self._state(each)) for each in sorted(names)]

    def groups_with_members(self) -> Collection[str]:
        raise NotImplementedError

    def describe_groups(self, groups: Collection[str]) -> list[DescribedGroup]:
        listed = [each for each in self.list_groups() if each.group in groups]
        return [
            DescribedGroup(each.group, each.type, each.state, self._assignor(each), tuple(self.members(each.group)))
            for each in listed
        ]

    def group_offsets(
        self, groups: Collection[ListedGroup | DescribedGroup], partitions: Collection[TopicPartition] | None = None
    ) -> dict[str, dict[TopicPartition, GroupOffset]]:
        committed = self.groups_with_offsets()
        found = {}
        for each in groups:
            offsets = (self.share_starts if each.type == "share" else committed).get(each.group, {})
            found[each.group] = {
                tp: GroupOffset(at, self.share_lag(each.group, tp) if each.type == "share" else -1)
                for tp, at in offsets.items()
                if partitions is None or tp in partitions
            }
        return found

    def delete_group(self, group: str) -> None:
        if group not in {each.group for each in self.list_groups()}:
            raise GroupNotFound(group)
        if members := self.members(group):
            raise GroupHasMembers(
                f"The group {group} has active members: {', '.join(each.client_id for each in members)}.",
                members=[{"client_id": each.client_id, "host": each.host} for each in members],
            )
        self.remove_group(group)
        self.share_starts.pop(group, None)
        self.group_types.pop(group, None)

    def _type(self, group: str) -> GroupType:
        return self.group_types.get(group, "classic")

    def _state(self, group: str) -> str:
        return "Stable" if self.members(group) else "Empty"

    def _assignor(self, group: ListedGroup) -> str:
        if group.state == "Empty":
            return ""
        return {"classic": "range", "consumer": "uniform", "share": "simple"}[group.type]
