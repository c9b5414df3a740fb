"""Consumer groups of all types, their members and offsets: the same tests for the fake and for Kafka."""

from uuid import uuid4

import pytest

from kafka_http.administration import DescribedGroup, GroupOffset, GroupType, ListedGroup
from kafka_http.broker_protocols import Broker
from kafka_http.errors import BrokerUnavailable, GroupHasMembers, GroupNotFound
from kafka_http.records import NewRecord, TopicPartition
from tests.contract.conftest import Cluster
from tests.support.polling import wait_for

ASSIGNORS = {"classic": "range", "consumer": "uniform", "share": "simple"}


@pytest.fixture
def group() -> str:
    return f"group-{uuid4().hex[:12]}"


def listed(broker: Broker, group: str) -> ListedGroup | None:
    return next((each for each in broker.groups.list_groups() if each.group == group), None)


def described(broker: Broker, group: str) -> DescribedGroup | None:
    return next(iter(broker.groups.describe_groups([group])), None)


def stable(broker: Broker, group: str) -> DescribedGroup | None:
    """Return a group when its only member has its partitions."""
    found = described(broker, group)
    return found if found and found.state == "Stable" and found.members and found.members[0].partitions else None


def test_group_with_offsets_only_is_an_empty_classic_group(cluster: Cluster, broker: Broker, group: str) -> None:
    broker.groups.commit(group, cluster.topic(), {0: 0})
    assert listed(broker, group) == ListedGroup(group, "classic", "Empty")
    assert described(broker, group) == DescribedGroup(group, "classic", "Empty", "")


def test_groups_are_sorted_by_name_without_those_that_do_not_exist(
    cluster: Cluster, broker: Broker, group: str
) -> None:
    topic = cluster.topic()
    names = [f"{group}-{each}" for each in "ab"]
    for each in reversed(names):
        broker.groups.commit(each, topic, {0: 0})
    assert [each.group for each in broker.groups.list_groups() if each.group in names] == names
    assert [each.group for each in broker.groups.describe_groups([names[1], "never-" + group, names[0]])] == names
    assert broker.groups.describe_groups([]) == []


@pytest.mark.parametrize("group_type", ["classic", "consumer", "share"])
def test_group_with_a_member_has_its_type_and_partitions(
    cluster: Cluster, broker: Broker, group: str, group_type: GroupType
) -> None:
    topic = cluster.topic(2)
    with cluster.member(group, topic, "reader-7", group_type=group_type):
        found = wait_for(lambda: stable(broker, group), 20)
        assert (found.type, found.assignor) == (group_type, ASSIGNORS[group_type])
        assert listed(broker, group) == ListedGroup(group, group_type, "Stable")
        [member] = found.members
        assert (member.client_id, member.host, member.instance_id) == ("reader-7", "127.0.0.1", None)
        assert member.partitions == (TopicPartition(topic, 0), TopicPartition(topic, 1))
        assert [each.client_id for each in broker.groups.members(group)] == ["reader-7"]
    wait_for(lambda: broker.groups.members(group) == [], 20)


@pytest.mark.parametrize("group_type", ["classic", "consumer"])
def test_static_member_has_its_instance_id(cluster: Cluster, broker: Broker, group: str, group_type: GroupType) -> None:
    with cluster.member(group, cluster.topic(), "reader", group_type=group_type, instance_id="one"):
        found = wait_for(lambda: stable(broker, group), 20)
        assert [each.instance_id for each in found.members] == ["one"]


def test_group_offsets_are_those_of_all_topics_or_of_some_partitions(
    cluster: Cluster, broker: Broker, group: str
) -> None:
    one, other = cluster.topic(2), cluster.topic()
    broker.groups.commit(group, one, {0: 1, 1: 2})
    broker.groups.commit(group, other, {0: 3})
    broker.groups.commit(group + "-b", other, {0: 4})
    groups = broker.groups.describe_groups([group, group + "-b"])
    offsets = {
        TopicPartition(one, 0): GroupOffset(1), TopicPartition(one, 1): GroupOffset(2),
        TopicPartition(other, 0): GroupOffset(3),
    }  # fmt: skip
    other_offsets = {TopicPartition(other, 0): GroupOffset(4)}
    assert broker.groups.group_offsets(groups) == {group: offsets, group + "-b": other_offsets}
    wanted = [TopicPartition(one, 1)]
    assert broker.groups.group_offsets(groups, wanted) == {group: {wanted[0]: GroupOffset(2)}, group + "-b": {}}
    assert broker.groups.group_offsets([]) == {}


def test_group_offsets_of_a_share_group_are_its_starts(cluster: Cluster, broker: Broker, group: str) -> None:
    topic = cluster.topic(2)
    places = {TopicPartition(topic, 0), TopicPartition(topic, 1)}
    with cluster.member(group, topic, "worker", group_type="share"):
        found = wait_for(lambda: stable(broker, group), 20)

        def starts() -> dict[TopicPartition, GroupOffset]:
            """Return the starts. Kafka stores them when records are acknowledged."""
            broker.producer.publish(topic, [NewRecord(b"1", partition=each) for each in (0, 1)], 10).result()
            return broker.groups.group_offsets([found])[group]

        wait_for(lambda: starts().keys() == places, 20)
        wanted = TopicPartition(topic, 1)
        assert broker.groups.group_offsets([found], [wanted])[group].keys() == {wanted}
        assert broker.groups.group_offsets([found], [TopicPartition(cluster.topic(), 0)]) == {group: {}}


@pytest.mark.parametrize("group_type", ["classic", "consumer", "share"])
def test_delete_group_works_when_its_members_have_left(
    cluster: Cluster, broker: Broker, group: str, group_type: GroupType
) -> None:
    topic = cluster.topic()
    with cluster.member(group, topic, "reader-7", group_type=group_type):
        wait_for(lambda: stable(broker, group), 20)
        with pytest.raises(GroupHasMembers, match="reader-7") as raised:
            broker.groups.delete_group(group)
        assert raised.value.fields["members"] == [{"client_id": "reader-7", "host": "127.0.0.1"}]
    wait_for(lambda: broker.groups.members(group) == [], 20)
    broker.groups.delete_group(group)
    assert listed(broker, group) is None
    assert described(broker, group) is None


def test_delete_group_removes_its_offsets(cluster: Cluster, broker: Broker, group: str) -> None:
    topic = cluster.topic()
    broker.groups.commit(group, topic, {0: 0})
    broker.groups.delete_group(group)
    assert broker.groups.committed(group, topic, [0]) == {}


def test_delete_group_that_does_not_exist_raises_group_not_found(broker: Broker, group: str) -> None:
    with pytest.raises(GroupNotFound):
        broker.groups.delete_group(group)


def test_groups_without_a_broker_raise_broker_unavailable(cluster: Cluster, group: str) -> None:
    broker = cluster.unreachable()
    for call in (
        broker.groups.list_groups,
        lambda: broker.groups.describe_groups([group]),
        lambda: broker.groups.group_offsets([ListedGroup(group, "classic", "Empty")]),
        lambda: broker.groups.delete_group(group),
    ):
        with pytest.raises(BrokerUnavailable):
            call()
    broker.close(0)
