"""Members of consumer groups: the same tests for the fake and for Kafka."""

import threading
import time
from collections.abc import Callable, Iterator
from uuid import uuid4

import pytest

from kafka_http.broker_protocols import Broker, Membership
from kafka_http.errors import BrokerUnavailable, KafkaHttpError, RetriableBrokerError
from kafka_http.records import Assignment, Commits, CommittedOffset, MembershipListener, ReleaseCallback, TopicPartition
from tests.contract.conftest import Cluster
from tests.support.polling import scaled


class Listener:
    """Records the callbacks of a membership.

    It releases revoked partitions with the offsets `uncommitted`, unless it `keeps` them.
    """

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.assignments: list[Assignment] = []
        self.has_some = False
        self.uncommitted: Commits = {}
        self.keeps = False
        self.error: KafkaHttpError | None = None
        self.is_fenced = False

    def assigned(self, assignment: Assignment) -> None:
        self.assignments.append(assignment)
        self._now(True)

    def revoking(self, release: ReleaseCallback) -> None:
        self._now(False)
        if not self.keeps:
            release(self.uncommitted)

    def lost(self) -> None:
        self._now(False)

    def failed(self, error: KafkaHttpError) -> None:
        self.error = error
        self._now(False)

    def fenced(self) -> None:
        self.is_fenced = True
        self._now(False)

    @property
    def ears(self) -> MembershipListener:
        return MembershipListener(self.assigned, self.revoking, self.lost, self.failed, self.fenced)

    def _now(self, has_some: bool) -> None:
        with self.changed:
            self.has_some = has_some
            self.changed.notify_all()

    @property
    def partitions(self) -> set[TopicPartition] | None:
        return set(self.assignments[-1].partitions) if self.has_some else None

    def wait(self, condition: Callable[[], object], seconds: float = 10) -> None:
        with self.changed:
            assert self.changed.wait_for(condition, seconds), (self.assignments, self.error)


class Group:
    """A new group and its members."""

    def __init__(self, broker: Broker) -> None:
        self.name = f"group-{uuid4().hex[:12]}"
        self._broker = broker
        self._members: list[Membership] = []

    def join(self, member_id: str, *topics: str, broker: Broker | None = None) -> tuple[Membership, Listener]:
        listener = Listener()
        memberships = (broker or self._broker).memberships
        self._members.append(memberships.join(self.name, member_id, topics, listener.ears))
        return self._members[-1], listener

    def committed(self, topic: str, count: int) -> dict[int, CommittedOffset]:
        found = self._broker.groups.committed_offsets(self.name, all_of(topic, count))
        return {place.partition: at for place, at in found.items()}

    def leave(self) -> None:
        for each in self._members:
            each.leave()


@pytest.fixture
def group(broker: Broker) -> Iterator[Group]:
    group = Group(broker)
    yield group
    group.leave()


def all_of(topic: str, count: int) -> set[TopicPartition]:
    return {TopicPartition(topic, each) for each in range(count)}


def test_single_member_has_all_partitions(cluster: Cluster, broker: Broker, group: Group) -> None:
    one, other = cluster.topic(partitions=3), cluster.topic()
    member, listener = group.join("a", one, other)
    listener.wait(lambda: listener.partitions == all_of(one, 3) | all_of(other, 1))
    assert len(listener.assignments) == 1
    member.commit({TopicPartition(one, 0): CommittedOffset(7, "so far"), TopicPartition(one, 2): CommittedOffset(1)}, 5)
    assert group.committed(one, 3) == {0: CommittedOffset(7, "so far"), 2: CommittedOffset(1)}
    assert len(broker.groups.members(group.name)) == 1
    member.leave()
    assert broker.groups.members(group.name) == []


def test_second_member_shares_partitions_in_the_next_generation(cluster: Cluster, group: Group) -> None:
    topic = cluster.topic(partitions=4)
    _, first = group.join("a", topic)
    first.wait(lambda: first.partitions == all_of(topic, 4))
    member, second = group.join("b", topic)
    for each in (first, second):
        each.wait(lambda each=each: len(each.partitions or ()) == 2)
    assert first.partitions | second.partitions == all_of(topic, 4)
    assert first.assignments[-1].generation == second.assignments[-1].generation
    assert first.assignments[-1].generation == first.assignments[0].generation + 1
    member.leave()
    first.wait(lambda: first.partitions == all_of(topic, 4))


def test_released_offsets_are_committed_before_partitions_are_reassigned(cluster: Cluster, group: Group) -> None:
    topic = cluster.topic(partitions=2)
    _, first = group.join("a", topic)
    first.wait(lambda: first.partitions)
    first.uncommitted = {each: CommittedOffset(5) for each in all_of(topic, 2)}
    _, second = group.join("b", topic)
    second.wait(lambda: second.partitions)
    assert group.committed(topic, 2) == {0: CommittedOffset(5), 1: CommittedOffset(5)}


def test_member_that_does_not_release_delays_the_rebalance_only_briefly(cluster: Cluster, group: Group) -> None:
    topic = cluster.topic(partitions=2)
    _, first = group.join("a", topic)
    first.wait(lambda: first.partitions)
    first.keeps = True
    _, second = group.join("b", topic)
    second.wait(lambda: second.partitions)
    assert group.committed(topic, 2) == {}


def test_subscribe_replaces_the_topics(cluster: Cluster, group: Group) -> None:
    one, other = cluster.topic(partitions=2), cluster.topic()
    member, listener = group.join("a", one)
    listener.wait(lambda: listener.partitions == all_of(one, 2))
    member.subscribe([other])
    listener.wait(lambda: listener.partitions == all_of(other, 1))
    member.subscribe([one, other])
    listener.wait(lambda: listener.partitions == all_of(one, 2) | all_of(other, 1))


def test_rejoin_with_the_same_member_id_keeps_the_assignment(cluster: Cluster, group: Group) -> None:
    topic = cluster.topic(partitions=2)
    _, witness = group.join("b", topic)
    member, before = group.join("a", topic)
    before.wait(lambda: len(before.partitions or ()) == 1)
    witness.wait(lambda: len(witness.partitions or ()) == 1)
    seen = len(witness.assignments)
    member.close()
    again, after = group.join("a", topic, broker=cluster.another())
    after.wait(lambda: after.partitions)
    assert after.assignments == before.assignments[-1:]
    again.commit({each: CommittedOffset(1) for each in after.assignments[0].partitions}, 5)
    assert len(witness.assignments) == seen
    assert witness.has_some


def test_join_from_another_process_fences_the_first(cluster: Cluster, group: Group) -> None:
    topic = cluster.topic()
    member, before = group.join("a", topic)
    before.wait(lambda: before.partitions)
    _, after = group.join("a", topic, broker=cluster.another())
    after.wait(lambda: after.partitions == all_of(topic, 1))
    with pytest.raises(RetriableBrokerError):
        member.commit({TopicPartition(topic, 0): CommittedOffset(1)}, 5)
    before.wait(lambda: before.is_fenced)
    member.leave()
    assert after.has_some


def test_commit_without_an_assignment_raises_retriable_broker_error(cluster: Cluster, group: Group) -> None:
    topic = cluster.topic()
    member, listener = group.join("a", topic)
    listener.wait(lambda: listener.partitions)
    member.close()
    with pytest.raises((RetriableBrokerError, BrokerUnavailable)):
        member.commit({TopicPartition(topic, 0): CommittedOffset(1)}, 5)


def test_join_without_a_broker_reports_a_failure(cluster: Cluster) -> None:
    broker = cluster.unreachable()
    listener = Listener()
    member = broker.memberships.join("g", "a", ["t"], listener.ears)
    began = time.monotonic()
    with pytest.raises((RetriableBrokerError, BrokerUnavailable)):
        member.commit({TopicPartition("t", 0): CommittedOffset(1)}, 2)
    listener.wait(lambda: isinstance(listener.error, BrokerUnavailable), 15)
    member.leave()
    assert time.monotonic() - began < scaled(15)
    broker.close(1)
