"""Share groups: the same tests for the fake and for Kafka."""

from collections.abc import Callable, Iterator
from uuid import uuid4

import pytest

from kafka_http.administration import TopicChange, TopicSettings
from kafka_http.broker_protocols import Broker
from kafka_http.errors import (
    BrokerUnavailable,
    GroupHasMembers,
    GroupNotFound,
    KafkaHttpError,
    LeaseLost,
    TopicNotFound,
    WrongGroupType,
)
from kafka_http.records import CommittedOffset, NewRecord, Record, TopicPartition
from kafka_http.share_groups import Acknowledgement, AckType, ShareGroupSettings
from tests.contract.conftest import Cluster
from tests.support.polling import scaled, wait_for
from tests.support.share_reader import ShareReader

Join = Callable[[str], ShareReader]


@pytest.fixture
def group(broker: Broker) -> str:
    """The name of a new share group, with its settings."""
    name = f"queue-{uuid4().hex[:12]}"
    broker.share_groups.prepare(name, 6)
    return name


@pytest.fixture
def join(broker: Broker, group: str) -> Iterator[Join]:
    """Joins the group to read a topic."""
    readers = []

    def join(topic: str) -> ShareReader:
        readers.append(ShareReader(broker, group, topic))
        return readers[-1]

    yield join
    for each in readers:
        each.close()


def publish(broker: Broker, topic: str, *values: bytes, partition: int = 0) -> None:
    records = [NewRecord(each, partition=partition) for each in values]
    for each in broker.producer.publish(topic, records, scaled(10)).result(scaled(10)):
        assert not isinstance(each, KafkaHttpError)


def numbered(count: int) -> list[bytes]:
    return [b"%d" % each for each in range(count)]


def values(records: list[Record]) -> list[bytes | None]:
    return [each.value for each in records]


def test_new_group_gets_its_settings_once(broker: Broker) -> None:
    name = f"queue-{uuid4().hex[:12]}"
    assert broker.share_groups.prepare(name, 4) == ShareGroupSettings(4, 30.0, 4000)
    assert broker.share_groups.prepare(name, 7) == ShareGroupSettings(4, 30.0, 4000)
    assert broker.share_groups.settings(name) == ShareGroupSettings(4, 30.0, 4000)


def test_group_without_settings_has_those_of_kafka(broker: Broker) -> None:
    assert broker.share_groups.settings(f"queue-{uuid4().hex[:12]}") == ShareGroupSettings(5, 30.0, 2000)


def test_member_acquires_as_many_messages_as_it_wants(cluster: Cluster, broker: Broker, join: Join) -> None:
    topic = cluster.topic()
    headers = [("a", b"1"), ("b", None)]
    broker.producer.publish(topic, [NewRecord(b"v", b"k", 0, 1_700_000_000_000, headers)] * 20, 10).result(scaled(10))
    reader = join(topic)
    taken = reader.take(7)
    assert [each.offset for each in taken] == list(range(7))
    assert reader.attempts == [1] * 7
    assert (taken[0].topic, taken[0].timestamp, taken[0].key, taken[0].value) == (topic, 1_700_000_000_000, b"k", b"v")
    assert list(taken[0].headers) == headers
    assert [each.offset for each in reader.take(5)] == list(range(7, 12))


def test_progress_of_a_group_has_its_lag(cluster: Cluster, broker: Broker, join: Join, group: str) -> None:
    topic = cluster.topic()
    publish(broker, topic, *numbered(10))
    reader = join(topic)
    taken = reader.take(10)
    assert reader.settle(taken[:5]) == [None] * 5
    wait_for(lambda: broker.share_groups.progress(group, topic)[0].lag == 5)
    assert reader.settle(taken[5:]) == [None] * 5
    wait_for(lambda: broker.share_groups.progress(group, topic)[0].lag == 0)
    assert broker.share_groups.progress(group, topic)[0].start in (5, 10)
    [listed] = [each for each in broker.groups.list_groups() if each.group == group]
    assert listed.type == "share"
    assert broker.groups.group_offsets([listed])[group][TopicPartition(topic, 0)].lag == 0


def test_one_of_ten_messages_is_acknowledged_alone(cluster: Cluster, broker: Broker, join: Join) -> None:
    topic = cluster.topic()
    publish(broker, topic, *numbered(10))
    first = join(topic)
    assert first.settle(first.take(10)[4:5]) == [None]
    first.close()
    second = join(topic)
    assert [each.offset for each in second.take(9)] == [0, 1, 2, 3, 5, 6, 7, 8, 9]
    assert second.attempts == [2] * 9


def test_released_messages_come_again_and_rejected_ones_do_not(cluster: Cluster, broker: Broker, join: Join) -> None:
    topic = cluster.topic()
    publish(broker, topic, *numbered(4))
    reader = join(topic)
    taken = reader.take(4)
    assert reader.settle(taken[:2], AckType.REJECT) == [None, None]
    assert reader.settle(taken[2:], AckType.RELEASE) == [None, None]
    assert [each.offset for each in reader.take(2)] == [2, 3]
    assert reader.attempts == [1, 1, 1, 1, 2, 2]


def test_message_is_delivered_until_the_limit_of_attempts(cluster: Cluster, broker: Broker) -> None:
    topic, group = cluster.topic(), f"queue-{uuid4().hex[:12]}"
    broker.share_groups.prepare(group, 2)
    publish(broker, topic, b"first", b"last")
    reader = ShareReader(broker, group, topic)
    for _ in range(2):
        assert reader.settle(reader.take(1), AckType.RELEASE) == [None]
    assert values(reader.take(1)) == [b"last"]
    reader.close()


def test_refused_acknowledgement_does_not_spoil_others(cluster: Cluster, broker: Broker, join: Join) -> None:
    topic = cluster.topic()
    publish(broker, topic, *numbered(20))
    reader = join(topic)
    taken = reader.take(20)
    assert reader.settle(taken[10:11]) == [None]
    results = reader.settle(taken[1:])  # the first one keeps the start offset below
    assert [type(each) for each in results] == [LeaseLost if at == 10 else type(None) for at in range(1, 20)]


def test_lock_is_renewed_beside_an_acknowledgement(cluster: Cluster, broker: Broker, join: Join) -> None:
    topic = cluster.topic()
    publish(broker, topic, *numbered(3))
    reader = join(topic)
    taken = reader.take(3)
    reader.want(1)
    assert reader.settle(taken[:2], AckType.RENEW) == [None, None]
    assert reader.settle(taken) == [None] * 3


def test_renewal_and_acknowledgement_of_one_message_have_a_result_each(
    cluster: Cluster, broker: Broker, join: Join
) -> None:
    topic = cluster.topic()
    publish(broker, topic, b"0")
    reader = join(topic)
    reader.take(1)
    both = [Acknowledgement(0, 0, each) for each in (AckType.RENEW, AckType.ACCEPT)]
    reader.member.acknowledge(both)
    reader.wait_until(lambda: len(reader.results) == 2)
    assert reader.results == dict.fromkeys(both)


def test_member_tells_that_no_leader_has_messages(cluster: Cluster, broker: Broker, join: Join) -> None:
    topic = cluster.topic(2)
    reader = join(topic)
    reader.want(5)
    reader.wait_until(lambda: reader.exhausted)
    publish(broker, topic, *numbered(3), partition=1)
    reader.wait_until(lambda: len(reader.records) == 3)
    before = reader.exhausted
    reader.member.wake()
    reader.wait_until(lambda: reader.exhausted > before)


def test_messages_that_are_there_come_before_the_member_is_exhausted(
    cluster: Cluster, broker: Broker, join: Join
) -> None:
    topic = cluster.topic(3)
    for each in range(3):
        publish(broker, topic, b"x", partition=each)
    reader = join(topic)
    reader.want(4)
    reader.wait_until(lambda: reader.exhausted)
    assert len(reader.records) == 3


def test_waiting_member_gets_messages_of_all_partitions(cluster: Cluster, broker: Broker, join: Join) -> None:
    topic = cluster.topic(3)
    reader = join(topic)
    reader.want(6)
    for each in (2, 0, 1, 1, 0, 2):
        publish(broker, topic, b"x", partition=each)
    reader.wait_until(lambda: len(reader.records) == 6)
    assert sorted(each.partition for each in reader.records) == [0, 0, 1, 1, 2, 2]


def test_two_members_get_each_message_once(cluster: Cluster, broker: Broker, join: Join) -> None:
    topic = cluster.topic(2)
    for each in range(2):
        publish(broker, topic, *numbered(50), partition=each)
    one, other = join(topic), join(topic)
    one.take(30)
    other.take(70)
    both = [(each.partition, each.offset) for each in (*one.records, *other.records)]
    assert len(both) == len(set(both)) == 100


def test_messages_deleted_under_a_lock_are_acknowledged(cluster: Cluster, broker: Broker, join: Join) -> None:
    topic = cluster.topic()
    publish(broker, topic, *numbered(5))
    reader = join(topic)
    taken = reader.take(5)
    broker.topic_admin.change(topic, TopicChange(delete_before={0: 3}))
    assert reader.settle(taken) == [None] * 5


def test_unknown_topic_fails_until_it_is_created(cluster: Cluster, broker: Broker, join: Join, group: str) -> None:
    reader = join(f"never-{uuid4().hex[:12]}")
    reader.want(1)
    reader.wait_until(lambda: any(isinstance(each, TopicNotFound) for each in reader.failures))


def test_recreated_topic_is_read_from_its_start(cluster: Cluster, broker: Broker, join: Join) -> None:
    topic = cluster.topic()
    publish(broker, topic, b"old")
    reader = join(topic)
    reader.take(1)
    broker.topic_admin.delete(topic)
    reader.want(1)
    reader.wait_until(lambda: any(isinstance(each, TopicNotFound) for each in reader.failures))
    assert 0 in reader.lost
    broker.topic_admin.create(topic, TopicSettings(partitions=1, replication_factor=1))
    publish(broker, topic, b"new")
    reader.wait_until(lambda: len(reader.records) == 2)
    assert (reader.records[1].offset, reader.records[1].value) == (0, b"new")
    # nobody is told of the time in which the group does not know the new topic yet
    assert [each for each in reader.failures if each is not None and not isinstance(each, TopicNotFound)] == []


def test_name_of_an_ordinary_group_is_refused(cluster: Cluster, broker: Broker) -> None:
    topic, name = cluster.topic(), f"ordinary-{uuid4().hex[:12]}"
    broker.groups.commit(name, topic, {0: 0})
    with pytest.raises(WrongGroupType, match=name):
        broker.share_groups.prepare(name, 6)
    reader = ShareReader(broker, name, topic)
    reader.want(1)
    reader.wait_until(lambda: any(isinstance(each, WrongGroupType) for each in reader.failures))
    reader.close()


def test_share_group_has_no_committed_offsets(cluster: Cluster, broker: Broker, join: Join, group: str) -> None:
    topic = cluster.topic()
    publish(broker, topic, b"0")
    join(topic).take(1)
    with pytest.raises(WrongGroupType, match=group):
        broker.groups.commit(group, topic, {0: 1})
    with pytest.raises(WrongGroupType, match=group):
        broker.groups.commit_offsets(group, {TopicPartition(topic, 0): CommittedOffset(1)})
    assert broker.groups.committed(group, topic, [0]) == {}
    broker.groups.delete_offsets(group, topic)


def test_deleting_the_last_topic_deletes_the_group(cluster: Cluster, broker: Broker, join: Join, group: str) -> None:
    topic = cluster.topic()
    publish(broker, topic, b"0")
    reader = join(topic)
    reader.take(1)
    with pytest.raises(GroupHasMembers):
        broker.share_groups.delete_offsets(group, topic)
    reader.close()
    broker.share_groups.delete_offsets(group, topic)
    with pytest.raises(GroupNotFound):
        broker.share_groups.progress(group, topic)
    with pytest.raises(GroupNotFound):
        broker.share_groups.delete_offsets(group, topic)


def test_deleting_one_of_two_topics_keeps_the_other(cluster: Cluster, broker: Broker, join: Join, group: str) -> None:
    topics = [cluster.topic(), cluster.topic()]
    for each in topics:
        publish(broker, each, b"0", b"1")
        reader = join(each)
        assert reader.settle(reader.take(1)) == [None]
        reader.close()
    broker.share_groups.delete_offsets(group, topics[0])
    assert broker.share_groups.progress(group, topics[0]) == {}
    assert broker.share_groups.progress(group, topics[1])[0].lag == 1
    assert values(join(topics[0]).take(2)) == [b"0", b"1"]


def test_calls_without_a_broker_are_unavailable(cluster: Cluster) -> None:
    broker = cluster.unreachable()
    with pytest.raises(BrokerUnavailable):
        broker.share_groups.prepare("q", 6)
    with pytest.raises(BrokerUnavailable):
        broker.share_groups.progress("q", "t")
    reader = ShareReader(broker, "q", "t")
    reader.want(1)
    reader.wait_until(lambda: any(isinstance(each, BrokerUnavailable) for each in reader.failures))
    reader.close()
    broker.close(1)
