"""Reading: the same tests for the fake and for Kafka."""

import threading
import time
from collections.abc import Callable, Mapping
from uuid import uuid4

import pytest

from kafka_http.broker_protocols import Broker
from kafka_http.errors import BrokerUnavailable, InvalidRequest, PartitionNotFound, TopicNotFound, TopicRecreated
from kafka_http.records import NewRecord, TopicPartition
from tests.contract.conftest import Cluster
from tests.support.polling import scaled
from tests.support.topic_fetch import FetchedOfTopic, fetch

MANY = {"max_records": 1000, "max_bytes": 1 << 20}


def filled(cluster: Cluster, counts: list[int]) -> str:
    """Create a topic with these numbers of records. The value of a record is its offset."""
    topic = cluster.topic(partitions=len(counts))
    for partition, count in enumerate(counts):
        records = [NewRecord(b"%d" % each, partition=partition) for each in range(count)]
        if records:
            cluster.broker.producer.publish(topic, records, 10).result()
    return topic


def offsets_in(fetched: FetchedOfTopic) -> dict[int, list[int]]:
    return {partition: [each.offset for each in records] for partition, records in fetched.records.items()}


def test_topics_are_sorted_without_internal_topics(cluster: Cluster, broker: Broker) -> None:
    names = sorted(cluster.topic() for _ in range(3))
    broker.groups.commit("some-group", names[0], {0: 0})  # Kafka then has a topic of its own
    topics = broker.log.topics()
    assert topics == sorted(topics)
    assert set(names) <= set(topics)
    assert not any(each.startswith("__") for each in topics)


def test_partitions_have_leaders_and_replicas(cluster: Cluster, broker: Broker) -> None:
    partitions = broker.log.partitions(cluster.topic(partitions=3))
    assert [each.partition for each in partitions] == [0, 1, 2]
    assert all(each.leader is not None and each.leader in each.replicas for each in partitions)


def test_offsets_of_earliest_and_latest_are_the_log_bounds(cluster: Cluster, broker: Broker) -> None:
    topic = filled(cluster, [3, 0, 1])
    assert broker.log.offsets(topic, {0: "earliest", 1: "earliest", 2: "earliest"}) == {0: 0, 1: 0, 2: 0}
    assert broker.log.offsets(topic, {0: "latest", 1: "latest", 2: "latest"}) == {0: 3, 1: 0, 2: 1}


def test_offsets_at_a_timestamp_are_of_the_first_record_since(cluster: Cluster, broker: Broker) -> None:
    topic = cluster.topic()
    begin = int(time.time() * 1000) - 60_000
    broker.producer.publish(topic, [NewRecord(b"a", timestamp=begin + 1000 * each) for each in range(3)], 10).result()
    for at, offset in ((begin, 0), (begin + 1, 1), (begin + 2000, 2), (begin + 2001, 3), (0, 0)):
        assert broker.log.offsets(topic, {0: at}) == {0: offset}


def test_last_is_the_position_with_count_records_left(cluster: Cluster, broker: Broker) -> None:
    topic = filled(cluster, [5, 0, 2])
    assert broker.log.last(topic, {0: 3, 1: 3, 2: 3}) == {0: 2, 1: 0, 2: 0}
    assert broker.log.last(topic, {0: 0, 2: 1}) == {0: 5, 2: 1}
    assert broker.log.last(topic, {0: 1 << 60}, "read_committed") == {0: 0}


def test_ends_without_records_leaves_out_partitions_with_more_records(cluster: Cluster, broker: Broker) -> None:
    topic = filled(cluster, [5, 0, 2])
    positions = {TopicPartition(topic, 0): 4, TopicPartition(topic, 1): 0, TopicPartition(topic, 2): 2}
    assert broker.log.ends_without_records(positions) == {TopicPartition(topic, 1): 0, TopicPartition(topic, 2): 2}
    assert broker.log.ends_without_records({TopicPartition(topic, 0): 6}) == {}


def test_topic_ids_leave_out_topics_that_do_not_exist(cluster: Cluster, broker: Broker) -> None:
    topic = cluster.topic()
    assert broker.log.topic_ids([topic, f"{topic}-nope"]) == {topic: broker.log.topic_id(topic)}
    assert broker.log.topic_ids([]) == {}


def test_fetch_by_another_topic_id_raises_topic_recreated(cluster: Cluster, broker: Broker) -> None:
    topic = filled(cluster, [1])
    topic_id = broker.log.topic_id(topic)
    assert topic_id is not None
    assert topic_id != broker.log.topic_id(cluster.topic())
    assert offsets_in(fetch(broker, topic, {0: 0}, **MANY, ids={topic: topic_id})) == {0: [0]}
    with pytest.raises(TopicRecreated):
        fetch(broker, topic, {0: 0}, **MANY, ids={topic: uuid4()})


def test_fetch_starts_at_the_position(cluster: Cluster, broker: Broker) -> None:
    topic = filled(cluster, [5])
    fetched = fetch(broker, topic, {0: 3}, **MANY)
    assert offsets_in(fetched) == {0: [3, 4]}
    assert [each.value for each in fetched.records[0]] == [b"3", b"4"]
    assert (fetched.next, fetched.ended, fetched.out_of_range) == ({0: 5}, frozenset({0}), {})


def test_fetch_shares_max_records_evenly(cluster: Cluster, broker: Broker) -> None:
    topic = filled(cluster, [5, 2, 9])
    fetched = fetch(broker, topic, {0: 1, 1: 0, 2: 2}, max_records=5, max_bytes=1 << 20)
    assert offsets_in(fetched) == {0: [1, 2], 1: [0, 1], 2: [2]}
    assert (fetched.next, fetched.ended) == ({0: 3, 1: 2, 2: 3}, frozenset({1}))
    assert {each.partition for each in fetched.records[1]} == {1}


def test_fetch_gives_unused_records_to_later_partitions(cluster: Cluster, broker: Broker) -> None:
    topic = filled(cluster, [1, 0, 9])
    fetched = fetch(broker, topic, {0: 0, 1: 0, 2: 0}, max_records=6, max_bytes=1 << 20)
    assert offsets_in(fetched) == {0: [0], 1: [], 2: [0, 1, 2, 3, 4]}


@pytest.mark.parametrize(
    ("max_bytes", "offsets"), [(59, {0: [0, 1], 1: [0, 1, 2]}), (20, {0: [0], 1: [0]}), (9, {0: [0], 1: []})]
)
def test_fetch_returns_at_most_max_bytes(
    cluster: Cluster, broker: Broker, max_bytes: int, offsets: Mapping[int, list[int]]
) -> None:
    topic = cluster.topic(partitions=2)
    for partition in (0, 1):
        sizes = (10, 10, 10, 50, 10)
        broker.producer.publish(topic, [NewRecord(b"x" * (size - 1), b"k", partition) for size in sizes], 10).result()
    fetched = fetch(broker, topic, {0: 0, 1: 0}, max_records=9, max_bytes=max_bytes)
    assert offsets_in(fetched) == offsets
    assert fetched.next == {each: len(offsets[each]) for each in (0, 1)}


def test_fetch_at_the_end_of_the_log_is_empty(cluster: Cluster, broker: Broker) -> None:
    topic = filled(cluster, [2, 0])
    fetched = fetch(broker, topic, {0: 2, 1: 0}, **MANY)
    assert offsets_in(fetched) == {0: [], 1: []}
    assert (fetched.next, fetched.ended) == ({0: 2, 1: 0}, frozenset({0, 1}))


def test_fetch_reports_positions_out_of_range(cluster: Cluster, broker: Broker) -> None:
    topic = filled(cluster, [2, 3, 0])
    fetched = fetch(broker, topic, {0: 3, 1: 1, 2: 1}, **MANY)
    assert fetched.out_of_range == {0: (0, 2), 2: (0, 0)}
    assert offsets_in(fetched) == {1: [1, 2]}
    assert (fetched.next, fetched.ended) == ({1: 3}, frozenset({1}))


def test_fetch_returns_one_record_of_any_size(cluster: Cluster, broker: Broker) -> None:
    topic = cluster.topic()
    broker.producer.publish(topic, [NewRecord(b"x" * 50_000)], 10).result()
    fetched = fetch(broker, topic, {0: 0}, max_records=10, max_bytes=1)
    assert offsets_in(fetched) == {0: [0]}


def test_fetch_in_small_pages_reads_the_whole_log(cluster: Cluster, broker: Broker) -> None:
    topic = cluster.topic(partitions=2)
    for batch in range(6):
        records = [NewRecord(b"x" * 100, partition=each) for each in (0, 1, 1)]
        broker.producer.publish(topic, records[batch % 2 :], 10).result()
    positions: Mapping[int, int] = {0: 0, 1: 0}
    read: dict[int, list[int]] = {0: [], 1: []}
    for _ in range(100):
        fetched = fetch(broker, topic, positions, max_records=2, max_bytes=100)
        for partition, offsets in offsets_in(fetched).items():
            read[partition] += offsets
        if fetched.ended == {0, 1}:
            break
        positions = dict(reversed(fetched.next.items()))  # the first is served whatever its batch's size
    assert read == {0: list(range(3)), 1: list(range(12))}


def test_fetch_wait_ends_when_a_record_arrives(cluster: Cluster, broker: Broker) -> None:
    topic = filled(cluster, [1, 1])
    produced_at: list[float] = []

    def produce() -> None:
        produced_at.append(time.monotonic())
        broker.producer.publish(topic, [NewRecord(b"new", partition=1)], 10).result()

    timer = threading.Timer(0.3, produce)
    timer.start()
    fetched = fetch(broker, topic, {0: 1, 1: 1}, **MANY, wait=60)
    came_at = time.monotonic()
    timer.join()
    assert [each.value for each in fetched.records[1]] == [b"new"]
    assert came_at - produced_at[0] < 30


def test_fetch_wait_ends_after_its_time(cluster: Cluster, broker: Broker) -> None:
    topic = filled(cluster, [1])
    began = time.monotonic()
    fetched = fetch(broker, topic, {0: 1}, **MANY, wait=0.3)
    assert 0.25 < time.monotonic() - began < scaled(3)
    assert offsets_in(fetched) == {0: []}


def test_fetch_does_not_wait_if_there_are_records(cluster: Cluster, broker: Broker) -> None:
    topic = filled(cluster, [1, 1])
    began = time.monotonic()
    assert offsets_in(fetch(broker, topic, {0: 0, 1: 1}, **MANY, wait=20)) == {0: [0], 1: []}
    assert offsets_in(fetch(broker, topic, {0: 5, 1: 1}, **MANY, wait=20)) == {1: []}
    assert time.monotonic() - began < scaled(10)


LOOKS: dict[str, Callable[[Broker, str, int], object]] = {
    "fetch": lambda broker, topic, partition: fetch(broker, topic, {partition: 0}, **MANY),
    "offsets": lambda broker, topic, partition: broker.log.offsets(topic, {partition: "latest"}),
    "last": lambda broker, topic, partition: broker.log.last(topic, {partition: 1}),
    "ends_without_records": lambda broker, topic, partition: broker.log.ends_without_records(
        {TopicPartition(topic, partition): 0}
    ),
    "partitions": lambda broker, topic, partition: broker.log.partitions(topic),
    "topic_id": lambda broker, topic, partition: broker.log.topic_id(topic),
    "configs": lambda broker, topic, partition: broker.log.configs(topic),
}


@pytest.mark.parametrize("look", LOOKS)
def test_missing_topic_raises_topic_not_found(broker: Broker, look: str) -> None:
    with pytest.raises(TopicNotFound):
        LOOKS[look](broker, "nobody-made-this", 0)
    assert "nobody-made-this" not in broker.log.topics()


@pytest.mark.parametrize("look", ["fetch", "offsets", "last", "ends_without_records"])
def test_missing_partition_raises_partition_not_found(cluster: Cluster, broker: Broker, look: str) -> None:
    topic = cluster.topic(partitions=2)
    with pytest.raises(PartitionNotFound) as raised:
        LOOKS[look](broker, topic, 2)
    assert raised.value.fields == {"topic": topic, "partition": 2, "partitions": 2}


@pytest.mark.parametrize("look", LOOKS)
def test_invalid_topic_name_raises_invalid_request(broker: Broker, look: str) -> None:
    with pytest.raises(InvalidRequest):
        LOOKS[look](broker, "with space", 0)


@pytest.mark.parametrize("look", LOOKS)
def test_log_without_a_broker_raises_broker_unavailable(cluster: Cluster, look: str) -> None:
    broker = cluster.unreachable()
    began = time.monotonic()
    for _ in range(20):
        with pytest.raises(BrokerUnavailable):
            LOOKS[look](broker, "t", 0)
    with pytest.raises(BrokerUnavailable):
        broker.log.check_reachable()
    assert time.monotonic() - began < scaled(5)
    broker.close(1)


def test_alive_returns_if_a_broker_answers(broker: Broker) -> None:
    broker.log.check_reachable()


def test_configs_show_the_settings_of_a_topic(cluster: Cluster, broker: Broker) -> None:
    configs = broker.log.configs(cluster.topic(limit=2000, compacted=True))
    assert configs.items() >= {"max.message.bytes": "2000", "cleanup.policy": "compact"}.items()


def test_brokers_are_listed(cluster: Cluster, broker: Broker) -> None:
    (info,) = broker.log.partitions(cluster.topic())
    assert broker.log.brokers() == [info.leader]
    with pytest.raises(BrokerUnavailable):
        cluster.unreachable().log.brokers()


def test_cluster_id_does_not_change(cluster: Cluster, broker: Broker) -> None:
    cluster_id = broker.log.cluster_id()
    assert cluster_id
    assert broker.log.cluster_id() == cluster_id
    with pytest.raises(BrokerUnavailable):
        cluster.unreachable().log.cluster_id()
