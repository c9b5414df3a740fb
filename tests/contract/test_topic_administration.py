"""Creation, changes and deletion of topics: the same tests for the fake and for Kafka."""

from collections.abc import Iterator
from unittest.mock import ANY
from uuid import uuid4

import pytest

from kafka_http.administration import TopicChange, TopicSettings
from kafka_http.broker_protocols import Broker
from kafka_http.errors import (
    BrokerUnavailable,
    InvalidRequest,
    InvalidValue,
    OffsetOutOfRange,
    TopicExists,
    TopicNotFound,
)
from kafka_http.records import EARLIEST, LATEST, BareValues, NewRecord, RecordMetadata, TopicPartition
from tests.contract.conftest import Cluster


@pytest.fixture
def name(broker: Broker) -> Iterator[str]:
    """The name of a topic to create."""
    topic = f"admin-{uuid4().hex[:12]}"
    yield topic
    if topic in broker.log.topics():
        broker.topic_admin.delete(topic)


def publish(broker: Broker, topic: str, count: int = 1) -> None:
    records = [NewRecord(b"%d" % each, partition=0) for each in range(count)]
    broker.producer.publish(topic, records, 10).result()


def test_create_topic_with_defaults_can_be_used_at_once(cluster: Cluster, broker: Broker, name: str) -> None:
    broker.topic_admin.create(name, TopicSettings())
    assert [each.partition for each in broker.log.partitions(name)] == [0]
    assert broker.log.own_config(name) == {}
    publish(broker, name)
    publish(cluster.another(), name)
    assert broker.log.offsets(name, {0: LATEST}) == {0: 2}


def test_create_topic_with_settings_has_them(broker: Broker, name: str) -> None:
    settings = TopicSettings(3, 1, {"retention.ms": "3600000", "cleanup.policy": "compact"})
    broker.topic_admin.create(name, settings)
    assert len(broker.log.partitions(name)) == 3
    assert broker.log.own_config(name) == settings.config
    assert broker.log.configs(name).items() >= settings.config.items()


def test_create_topic_that_exists_raises_topic_exists(cluster: Cluster, broker: Broker) -> None:
    with pytest.raises(TopicExists):
        broker.topic_admin.create(cluster.topic(), TopicSettings())


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        (TopicSettings(config={"retention.years": "1"}), "retention.years"),
        (TopicSettings(config={"retention.ms": "long"}), "retention.ms"),
        (TopicSettings(replication_factor=100), "100"),
        (TopicSettings(partitions=2_000_000_000), "(?i)partitions"),
    ],
)
def test_create_topic_with_invalid_settings_raises_with_the_reason(
    broker: Broker, name: str, settings: TopicSettings, reason: str
) -> None:
    with pytest.raises(InvalidValue, match=reason):
        broker.topic_admin.create(name, settings)
    assert name not in broker.log.topics()


def test_create_topic_with_an_invalid_name_raises_invalid_request(broker: Broker) -> None:
    with pytest.raises(InvalidRequest):
        broker.topic_admin.create("no!", TopicSettings())


def test_create_topic_whose_name_collides_raises_with_the_reason(broker: Broker, name: str) -> None:
    existing = f"{name}.a_b"
    broker.topic_admin.create(existing, TopicSettings())
    with pytest.raises(InvalidRequest, match=f"collides with existing topic: {existing}"):
        broker.topic_admin.create(f"{name}_a.b", TopicSettings())
    broker.topic_admin.delete(existing)


def test_change_sets_and_resets_settings_and_keeps_the_others(broker: Broker, name: str) -> None:
    broker.topic_admin.create(name, TopicSettings(config={"retention.ms": "1000", "segment.ms": "2000"}))
    broker.topic_admin.change(name, TopicChange(config={"retention.ms": None, "max.message.bytes": "5000"}))
    assert broker.log.own_config(name) == {"segment.ms": "2000", "max.message.bytes": "5000"}


def test_change_adds_partitions_that_can_be_used_at_once(broker: Broker, name: str) -> None:
    broker.topic_admin.create(name, TopicSettings())
    publish(broker, name)
    broker.topic_admin.change(name, TopicChange(partitions=3))
    assert [each.partition for each in broker.log.partitions(name)] == [0, 1, 2]
    broker.producer.publish(name, [NewRecord(b"x", partition=2)], 10).result()
    assert broker.log.offsets(name, dict.fromkeys(range(3), LATEST)) == {0: 1, 1: 0, 2: 1}


def test_change_deletes_records_before_offsets(broker: Broker, name: str) -> None:
    broker.topic_admin.create(name, TopicSettings(2))
    publish(broker, name, 5)
    broker.topic_admin.change(name, TopicChange(delete_before={0: 3, 1: 0}))
    assert broker.log.offsets(name, {0: EARLIEST, 1: EARLIEST}) == {0: 3, 1: 0}
    broker.topic_admin.change(name, TopicChange(delete_before={0: 2}))  # they are gone already
    assert broker.log.offsets(name, {0: EARLIEST}) == {0: 3}
    with pytest.raises(OffsetOutOfRange):
        broker.topic_admin.change(name, TopicChange(delete_before={0: 6}))


def test_change_deletes_records_of_a_topic_that_it_compacts(broker: Broker, name: str) -> None:
    """The new cleanup.policy was set first, and then Kafka rejected the deletion: half of the change was done."""
    broker.topic_admin.create(name, TopicSettings())
    publish(broker, name, 5)
    broker.topic_admin.change(name, TopicChange(config={"cleanup.policy": "compact"}, delete_before={0: 3}))
    assert broker.log.offsets(name, {0: EARLIEST}) == {0: 3}
    assert broker.log.own_config(name) == {"cleanup.policy": "compact"}


@pytest.mark.parametrize(
    "change",
    [
        TopicChange(3, {"retention.ms": "1000", "retention.years": "1"}),
        TopicChange(1, {"retention.ms": "1000"}),
        TopicChange(3, {"retention.ms": "soon"}),
    ],
)
def test_change_with_an_invalid_part_changes_nothing(broker: Broker, name: str, change: TopicChange) -> None:
    broker.topic_admin.create(name, TopicSettings(2))
    with pytest.raises(InvalidValue):
        broker.topic_admin.change(name, change)
    assert (len(broker.log.partitions(name)), broker.log.own_config(name)) == (2, {})


def test_delete_removes_a_topic_at_once(cluster: Cluster, broker: Broker) -> None:
    topic = cluster.topic(2)
    publish(broker, topic)
    broker.topic_admin.delete(topic)
    assert topic not in broker.log.topics()
    for log in (broker.log, cluster.another().log):
        with pytest.raises(TopicNotFound):
            log.partitions(topic)
    with pytest.raises(TopicNotFound):
        broker.producer.publish(topic, BareValues([b"1"]), 5).result()


def test_deleted_topic_is_gone_for_a_process_that_has_used_it(cluster: Cluster, broker: Broker, name: str) -> None:
    other = cluster.another()
    for value in (b"old", b"new"):
        broker.topic_admin.create(name, TopicSettings(config={"max.message.bytes": "100000"}))
        [result] = other.producer.publish(name, BareValues([value]), 10).result()
        assert result == RecordMetadata(0, 0, ANY)
        fetched = other.log.fetch({TopicPartition(name, 0): 0}, max_records=10, max_bytes=1000, wait=5)
        assert [each.value for each in fetched.records[TopicPartition(name, 0)]] == [value]
        broker.topic_admin.delete(name)
        with pytest.raises(TopicNotFound):
            other.producer.publish(name, BareValues([value]), 10).result()


def test_topic_that_is_deleted_and_created_again_is_empty(broker: Broker, name: str) -> None:
    broker.topic_admin.create(name, TopicSettings(2))
    publish(broker, name, 3)
    broker.topic_admin.delete(name)
    broker.topic_admin.create(name, TopicSettings())
    publish(broker, name)
    fetched = broker.log.fetch({TopicPartition(name, 0): 0}, max_records=10, max_bytes=1000, wait=5)
    assert [each.value for each in fetched.records[TopicPartition(name, 0)]] == [b"0"]


def test_administration_of_a_missing_topic_raises_topic_not_found(broker: Broker) -> None:
    for change in (TopicChange(3), TopicChange(config={"retention.ms": "1"}), TopicChange(delete_before={0: 0})):
        with pytest.raises(TopicNotFound):
            broker.topic_admin.change("nobody-made-this", change)
    with pytest.raises(TopicNotFound):
        broker.topic_admin.delete("nobody-made-this")
    with pytest.raises(TopicNotFound):
        broker.log.own_config("nobody-made-this")


def test_administration_without_a_broker_raises_broker_unavailable(cluster: Cluster) -> None:
    broker = cluster.unreachable()
    with pytest.raises(BrokerUnavailable):
        broker.topic_admin.create("t", TopicSettings())
    with pytest.raises(BrokerUnavailable):
        broker.topic_admin.change("t", TopicChange(3))
    with pytest.raises(BrokerUnavailable):
        broker.topic_admin.delete("t")
    broker.close(0)
