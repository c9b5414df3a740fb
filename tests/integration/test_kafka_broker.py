"""The broker interface on a real Kafka, beyond what a fake can show."""

import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from uuid import uuid4

import pytest
from kafka import KafkaAdminClient, KafkaProducer, TopicPartition
from kafka.admin import NewPartitions

from kafka_http.broker import KafkaBroker
from kafka_http.broker.topic_metadata import TopicMetadata
from kafka_http.config import Config
from kafka_http.demo.broker_properties import BrokerNode
from kafka_http.demo.embedded_kafka import EmbeddedKafka, create_topics
from kafka_http.demo.local_resources import free_ports
from kafka_http.errors import BrokerUnavailable, TopicNotFound
from kafka_http.records import Isolation, NewRecord, PartitionInfo, RecordMetadata
from tests.conftest import TopicFactory
from tests.support.polling import scaled, wait_for
from tests.support.topic_fetch import fetch


@pytest.fixture(scope="module")
def broker(kafka: EmbeddedKafka) -> Iterator[KafkaBroker]:
    broker = KafkaBroker(Config(bootstrap_servers=(kafka.bootstrap_servers,)))
    yield broker
    broker.close(5)


@pytest.fixture
def admin(kafka: EmbeddedKafka) -> Iterator[KafkaAdminClient]:
    with closing(KafkaAdminClient(bootstrap_servers=kafka.bootstrap_servers)) as admin:
        yield admin


def values(broker: KafkaBroker, topic: str, isolation: Isolation = "read_uncommitted") -> list[bytes | None]:
    """All values of partition 0."""
    found: list[bytes | None] = []
    position = 0
    while True:
        fetched = fetch(broker, topic, {0: position}, max_records=500, max_bytes=1 << 20, isolation=isolation)
        found += [each.value for each in fetched.records[0]]
        position = fetched.next[0]
        if fetched.ended:
            return found


@pytest.mark.parametrize("codec", ["gzip", "snappy", "lz4", "zstd"])
def test_records_in_compressed_logs_are_read(broker: KafkaBroker, topic: TopicFactory, codec: str) -> None:
    name = topic(configs={"compression.type": codec})
    written = [b"value %d " % each * 20 for each in range(1000)]
    outcomes = broker.producer.publish(name, [NewRecord(each) for each in written], 10).result()
    assert all(isinstance(each, RecordMetadata) for each in outcomes)
    assert values(broker, name) == written


def test_read_committed_hides_aborted_and_open_transactions(
    kafka: EmbeddedKafka, broker: KafkaBroker, topic: TopicFactory
) -> None:
    name = topic()
    producer = KafkaProducer(bootstrap_servers=kafka.bootstrap_servers, transactional_id=uuid4().hex)
    with closing(producer):
        producer.init_transactions()
        for number, ending in enumerate((producer.commit_transaction, producer.abort_transaction) * 2):
            producer.begin_transaction()
            producer.send(name, b"%d" % number).get(10)
            ending()
        producer.begin_transaction()
        producer.send(name, b"open").get(10)
        assert values(broker, name) == [b"0", b"1", b"2", b"3", b"open"]
        assert values(broker, name, "read_committed") == [b"0", b"2"]
        assert broker.log.offsets(name, {0: "latest"}) == {0: 9}
        assert broker.log.offsets(name, {0: "latest"}, "read_committed") == {0: 8}
        fetched = fetch(broker, name, {0: 5}, max_records=9, max_bytes=1 << 20, isolation="read_committed")
        records = {partition: list(some) for partition, some in fetched.records.items()}
        assert (records, fetched.next, fetched.ended) == ({0: []}, {0: 8}, frozenset({0}))
        producer.commit_transaction()
    wait_for(lambda: values(broker, name, "read_committed") == [b"0", b"2", b"open"])  # its marker comes later


def test_fetch_of_deleted_records_reports_out_of_range(
    broker: KafkaBroker, admin: KafkaAdminClient, topic: TopicFactory
) -> None:
    name = topic()
    broker.producer.publish(name, [NewRecord(b"%d" % each) for each in range(5)], 10).result()
    admin.delete_records({TopicPartition(name, 0): 3})
    assert broker.log.offsets(name, {0: "earliest"}) == {0: 3}
    assert fetch(broker, name, {0: 2}, max_records=9, max_bytes=99999).out_of_range == {0: (3, 5)}


def test_produce_and_fetch_with_60_partitions(broker: KafkaBroker, topic: TopicFactory) -> None:
    name = topic(partitions=60)
    records = [NewRecord(b"%d" % each, partition=each % 60) for each in range(600)]
    outcomes = broker.producer.publish(name, records, 10).result()
    assert [(each.partition, each.offset) for each in outcomes if isinstance(each, RecordMetadata)] == [
        (each % 60, each // 60) for each in range(600)
    ]
    fetched = fetch(broker, name, dict.fromkeys(range(60), 0), max_records=1200, max_bytes=1 << 22)
    assert [len(fetched.records[each]) for each in range(60)] == [10] * 60
    assert len(fetched.ended) == 60


def test_concurrent_threads_get_their_own_results(broker: KafkaBroker, topic: TopicFactory) -> None:
    name = topic(partitions=4)
    group = uuid4().hex

    def work(number: int) -> list[tuple[int, int]]:
        places = []
        for _ in range(10):
            outcomes = broker.producer.publish(name, [NewRecord(b"%d" % number)] * 5, 10).result()
            places += [(each.partition, each.offset) for each in outcomes if isinstance(each, RecordMetadata)]
            partition, offset = places[-1]
            fetched = fetch(broker, name, {partition: offset}, max_records=1, max_bytes=1000)
            assert [each.value for each in fetched.records[partition]] == [b"%d" % number]
            broker.groups.commit(f"{group}-{number}", name, {0: offset})
            assert broker.groups.committed(f"{group}-{number}", name, [0]) == {0: offset}
        return places

    with ThreadPoolExecutor(16) as pool:
        places = [place for places in pool.map(work, range(16)) for place in places]
    assert len(set(places)) == len(places) == 16 * 50


def test_waiting_fetch_does_not_block_other_calls(broker: KafkaBroker, topic: TopicFactory) -> None:
    name = topic()
    waiting = threading.Thread(target=lambda: fetch(broker, name, {0: 0}, max_records=1, max_bytes=1000, wait=60))
    waiting.start()
    for _ in range(20):
        began = time.monotonic()
        assert broker.log.offsets(name, {0: "latest"}) == {0: 0}
        assert time.monotonic() - began < scaled(1)
    assert waiting.is_alive()
    broker.producer.publish(name, [NewRecord(b"wake up")], 10).result()
    waiting.join(scaled(5))
    assert not waiting.is_alive()


def test_added_partitions_are_written_and_read(
    broker: KafkaBroker, admin: KafkaAdminClient, topic: TopicFactory
) -> None:
    name = topic(partitions=1)
    broker.producer.publish(name, [NewRecord(b"a", partition=0)], 10).result()
    admin.create_partitions({name: NewPartitions(3)})
    wait_for(lambda: len(broker.log.partitions(name)) == 3)
    (outcome,) = broker.producer.publish(name, [NewRecord(b"b", partition=2)], 10).result()
    assert isinstance(outcome, RecordMetadata)
    assert outcome.partition == 2
    assert fetch(broker, name, {2: 0}, max_records=1, max_bytes=1000).records[2][0].value == b"b"


def test_deleted_topic_raises_topic_not_found(
    broker: KafkaBroker, admin: KafkaAdminClient, topic: TopicFactory
) -> None:
    name = topic()
    broker.producer.publish(name, [NewRecord(b"a")], 10).result()
    admin.delete_topics([name])
    wait_for(lambda: name not in broker.log.topics())
    with pytest.raises(TopicNotFound):
        fetch(broker, name, {0: 0}, max_records=1, max_bytes=1000)
    with pytest.raises(TopicNotFound):
        broker.producer.publish(name, [NewRecord(b"b")], 10).result()


def test_deleted_topic_is_not_requested_repeatedly(
    kafka: EmbeddedKafka, admin: KafkaAdminClient, topic: TopicFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = topic()
    broker = KafkaBroker(Config(bootstrap_servers=(kafka.bootstrap_servers,)))
    broker.producer.publish(name, [NewRecord(b"a")], 10).result()
    admin.delete_topics([name])
    wait_for(lambda: name not in broker.log.topics())
    with pytest.raises(TopicNotFound):
        broker.producer.publish(name, [NewRecord(b"b")], 10).result()
    asked: list[str] = []
    read = TopicMetadata.partitions

    def count(metadata: TopicMetadata, topic: str, max_age: float = 0) -> list[PartitionInfo]:
        asked.append(topic)
        return read(metadata, topic, max_age)

    monkeypatch.setattr(TopicMetadata, "partitions", count)
    threading.Event().wait(1.5)
    assert asked == []
    broker.close(5)


def test_deleted_topic_does_not_keep_the_sender_thread_busy(
    kafka: EmbeddedKafka, admin: KafkaAdminClient, topic: TopicFactory
) -> None:
    name, other = topic(), topic()
    before = set(threading.enumerate())
    broker = KafkaBroker(Config(bootstrap_servers=(kafka.bootstrap_servers,)))
    broker.producer.publish(name, [NewRecord(b"a")], 10).result()
    (sender,) = (each for each in set(threading.enumerate()) - before if each.name == "producer")
    admin.delete_topics([name])
    wait_for(lambda: name not in broker.log.topics())
    threading.Event().wait(1)  # until the producer has heard of it
    broker.producer.publish(other, [NewRecord(b"b")], 10).result()
    began = cpu_of(sender)
    threading.Event().wait(2)
    assert cpu_of(sender) - began < 0.3
    broker.close(5)


def cpu_of(thread: threading.Thread) -> float:
    """The seconds that a thread of this process was at work."""
    said = Path(f"/proc/self/task/{thread.native_id}/stat").read_text().rpartition(")")[2].split()
    return (int(said[11]) + int(said[12])) / os.sysconf("SC_CLK_TCK")


def test_auto_create_topics_creates_a_topic_on_produce_only(kafka: EmbeddedKafka) -> None:
    broker = KafkaBroker(Config(bootstrap_servers=(kafka.bootstrap_servers,), auto_create_topics=True))
    name = f"created-{uuid4().hex}"
    with pytest.raises(TopicNotFound):
        broker.log.partitions(name)
    (outcome,) = broker.producer.publish(name, [NewRecord(b"a")], 10).result()
    assert isinstance(outcome, RecordMetadata)
    assert outcome.offset == 0
    assert values(broker, name) == [b"a"]
    broker.close(5)


def test_close_sends_pending_records_and_ends_all_threads(kafka: EmbeddedKafka, topic: TopicFactory) -> None:
    name = topic()
    before = set(threading.enumerate())
    broker = KafkaBroker(Config(bootstrap_servers=(kafka.bootstrap_servers,)))
    broker.producer.publish(name, [NewRecord(b"a")], 10).result()
    broker.groups.commit(uuid4().hex, name, {0: 1})
    assert broker.log.offsets(name, {0: "latest"}) == {0: 1}
    assert set(threading.enumerate()) > before
    broker.close(5)
    assert set(threading.enumerate()) <= before
    with pytest.raises(BrokerUnavailable):
        broker.producer.publish(name, [NewRecord(b"b")], 10).result()
    with pytest.raises(BrokerUnavailable):
        broker.groups.committed("g", name, [0])
    with pytest.raises(BrokerUnavailable):
        broker.log.topics()


def test_sasl_login_works_and_wrong_password_fails(kafka_parts: None, tmp_path: Path) -> None:
    port, controller_port, sasl_port = free_ports(3)
    kafka = EmbeddedKafka(
        BrokerNode(tmp_path / "kafka", port, controller_port, sasl_port=sasl_port, users={"alice": "wonder"})
    )
    kafka.start()
    try:
        create_topics(kafka.bootstrap_servers, {"t": 1})
        login = {"security_protocol": "SASL_PLAINTEXT", "sasl_mechanism": "PLAIN", "sasl_plain_username": "alice"}
        servers = (kafka.sasl_bootstrap_servers,)
        broker = KafkaBroker(Config(bootstrap_servers=servers, kafka=login | {"sasl_plain_password": "wonder"}))
        (outcome,) = broker.producer.publish("t", [NewRecord(b"a")], 10).result()
        assert isinstance(outcome, RecordMetadata)
        assert values(broker, "t") == [b"a"]
        broker.groups.commit("g", "t", {0: 1})
        broker.close(5)

        stranger = KafkaBroker(Config(bootstrap_servers=servers, kafka=login | {"sasl_plain_password": "wrong"}))
        began = time.monotonic()
        for ask in (stranger.log.topics, lambda: stranger.producer.publish("t", [NewRecord(b"a")], 5).result()):
            with pytest.raises(BrokerUnavailable, match="credentials"):
                ask()
        assert time.monotonic() - began < scaled(10)
        stranger.close(1)
    finally:
        kafka.stop()
