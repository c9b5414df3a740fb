"""Committed offsets: the same tests for the fake and for Kafka."""

import time
from uuid import uuid4

import pytest

from kafka_http.broker_protocols import Broker
from kafka_http.errors import BrokerUnavailable, GroupHasMembers, TopicNotFound
from kafka_http.records import CommittedOffset, TopicPartition
from tests.contract.conftest import Cluster
from tests.support.polling import scaled


@pytest.fixture
def group() -> str:
    return f"group-{uuid4().hex[:12]}"


def test_committed_of_a_new_group_is_empty(cluster: Cluster, broker: Broker, group: str) -> None:
    assert broker.groups.committed(group, cluster.topic(), [0]) == {}


def test_commit_keeps_offsets_of_other_partitions(cluster: Cluster, broker: Broker, group: str) -> None:
    topic = cluster.topic(partitions=3)
    broker.groups.commit(group, topic, {0: 5, 2: 0})
    assert broker.groups.committed(group, topic, [0, 1, 2]) == {0: 5, 2: 0}
    assert broker.groups.committed(group, topic, [2]) == {2: 0}
    broker.groups.commit(group, topic, {0: 3})
    assert broker.groups.committed(group, topic, [0, 2]) == {0: 3, 2: 0}


def test_commit_does_not_affect_other_groups_and_topics(cluster: Cluster, broker: Broker, group: str) -> None:
    one, other = cluster.topic(), cluster.topic()
    broker.groups.commit(group, one, {0: 1})
    broker.groups.commit(group, other, {0: 2})
    broker.groups.commit(group + "-b", one, {0: 3})
    assert broker.groups.committed(group, one, [0]) == {0: 1}
    assert broker.groups.committed(group, other, [0]) == {0: 2}
    assert broker.groups.committed(group + "-b", one, [0]) == {0: 3}


def test_commit_offsets_of_several_topics_keeps_metadata(cluster: Cluster, broker: Broker, group: str) -> None:
    one, other = TopicPartition(cluster.topic(partitions=2), 1), TopicPartition(cluster.topic(), 0)
    offsets = {one: CommittedOffset(5, "half way, é"), other: CommittedOffset(0)}
    broker.groups.commit_offsets(group, offsets)
    assert broker.groups.committed_offsets(group, [one, other, one._replace(partition=0)]) == offsets
    assert broker.groups.committed(group, one.topic, [0, 1]) == {1: 5}
    with pytest.raises(TopicNotFound):
        broker.groups.commit_offsets(group, {TopicPartition("nobody-made-this", 0): CommittedOffset(1)})


@pytest.mark.parametrize("name", ["a b/c?", "é" * 100, "x" * 249])
def test_commit_accepts_unusual_group_names(cluster: Cluster, broker: Broker, name: str) -> None:
    topic = cluster.topic()
    broker.groups.commit(name, topic, {0: 1})
    assert broker.groups.committed(name, topic, [0]) == {0: 1}


def test_forget_removes_the_offsets_of_a_topic(cluster: Cluster, broker: Broker, group: str) -> None:
    topic, other = cluster.topic(partitions=2), cluster.topic()
    broker.groups.commit(group, topic, {0: 1, 1: 1})
    broker.groups.commit(group, other, {0: 1})
    broker.groups.forget(group, topic)
    assert broker.groups.committed(group, topic, [0, 1]) == {}
    assert broker.groups.committed(group, other, [0]) == {0: 1}
    broker.groups.forget(group, topic)
    broker.groups.forget("never-" + group, topic)


def test_commit_to_missing_topic_raises_topic_not_found(broker: Broker, group: str) -> None:
    with pytest.raises(TopicNotFound):
        broker.groups.commit(group, "nobody-made-this", {0: 1})


def test_commit_with_live_members_raises_group_has_members(cluster: Cluster, broker: Broker, group: str) -> None:
    topic = cluster.topic()
    broker.groups.commit(group, topic, {0: 7})
    with cluster.member(group, topic, "reader-7"):
        (member,) = broker.groups.members(group)
        assert (member.client_id, member.host) == ("reader-7", "127.0.0.1")
        with pytest.raises(GroupHasMembers, match="reader-7") as raised:
            broker.groups.commit(group, topic, {0: 1})
        assert raised.value.fields["members"] == [{"client_id": "reader-7", "host": "127.0.0.1"}]
        with pytest.raises(GroupHasMembers, match="reader-7"):
            broker.groups.forget(group, topic)
    assert broker.groups.members(group) == []
    broker.groups.commit(group, topic, {0: 1})
    assert broker.groups.committed(group, topic, [0]) == {0: 1}


def test_members_of_a_new_group_are_empty(broker: Broker, group: str) -> None:
    assert broker.groups.members(group) == []


def test_groups_without_a_broker_raise_broker_unavailable(cluster: Cluster, group: str) -> None:
    broker = cluster.unreachable()
    began = time.monotonic()
    with pytest.raises(BrokerUnavailable):
        broker.groups.committed(group, "t", [0])
    with pytest.raises(BrokerUnavailable):
        broker.groups.commit(group, "t", {0: 1})
    with pytest.raises(BrokerUnavailable):
        broker.groups.forget(group, "t")
    with pytest.raises(BrokerUnavailable):
        broker.groups.members(group)
    assert time.monotonic() - began < scaled(5)
    broker.close(1)
