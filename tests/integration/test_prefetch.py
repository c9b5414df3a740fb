"""Small pages one after the other, on a real Kafka: what is kept of a fetch for the next page shows nothing wrong."""

import random
import time
from collections.abc import Iterator
from contextlib import closing
from uuid import uuid4

import pytest
from kafka import KafkaAdminClient, KafkaProducer
from kafka import TopicPartition as KafkaTopicPartition

from kafka_http.broker import KafkaBroker
from kafka_http.broker.prefetch_buffer import MAX_AGE_SECONDS
from kafka_http.config import Config
from kafka_http.demo.embedded_kafka import EmbeddedKafka, create_topics
from kafka_http.errors import BrokerUnavailable, OffsetOutOfRange
from kafka_http.read.page_reader import PageReader, ReadLimits
from kafka_http.records import Isolation, NewRecord, Positions, Record, TopicPartition
from tests.conftest import TopicFactory
from tests.support.polling import scaled, wait_for
from tests.support.topic_fetch import fetch

ENOUGH = 1 << 20


@pytest.fixture
def broker(kafka: EmbeddedKafka) -> Iterator[KafkaBroker]:
    broker = KafkaBroker(Config(bootstrap_servers=(kafka.bootstrap_servers,)))
    yield broker
    broker.close(5)


def write(broker: KafkaBroker, topic: str, numbers: range, partition: int = 0) -> None:
    broker.producer.publish(topic, [NewRecord(b"%d" % each, partition=partition) for each in numbers], 10).result()


def read_one(broker: KafkaBroker, topic: str, offset: int, isolation: Isolation = "read_uncommitted") -> bytes | None:
    fetched = fetch(broker, topic, {0: offset}, max_records=1, max_bytes=ENOUGH, isolation=isolation)
    if fetched.out_of_range:
        raise OffsetOutOfRange("The log does not have it.")
    return fetched.records[0][0].value if fetched.records[0] else None


def read_slowly(broker: KafkaBroker, topic: str, offsets: range) -> None:
    """Read one record after the other, with a pause after each."""
    for offset in offsets:
        read_one(broker, topic, offset)
        time.sleep(0.05)


def pages(
    broker: KafkaBroker, topic: str, partitions: int, isolation: Isolation = "read_uncommitted"
) -> Iterator[list[Record]]:
    """Pages of some records, until one is empty: that says that all has been read."""
    reader = PageReader(broker.log)
    positions: Positions = {TopicPartition(topic, each): 0 for each in range(partitions)}
    while True:
        page = reader.read(positions, ReadLimits(random.randint(1, 40), ENOUGH), isolation=isolation)
        if not page.records:
            return
        yield list(page.records)
        positions = page.next


def test_small_pages_return_the_whole_log(kafka: EmbeddedKafka, broker: KafkaBroker, topic: TopicFactory) -> None:
    name = topic(3)
    for codec in ("gzip", None):
        with closing(KafkaProducer(bootstrap_servers=kafka.bootstrap_servers, compression_type=codec)) as producer:
            for number in range(300):
                producer.send(name, b"%d" % number, partition=number % 3, headers=[("n", b"%d" % number)])
    read = [record for page in pages(broker, name, 3) for record in page]
    for partition in range(3):
        mine = [each for each in read if each.partition == partition]
        assert [each.offset for each in mine] == list(range(200))
        assert [each.value for each in mine] == [b"%d" % each for each in range(partition, 300, 3)] * 2
        assert all(list(each.headers) == [("n", each.value)] for each in mine)


def test_small_pages_read_committed_skip_aborted_records(
    kafka: EmbeddedKafka, broker: KafkaBroker, topic: TopicFactory
) -> None:
    name = topic()
    settings = {"bootstrap_servers": kafka.bootstrap_servers, "transactional_id": uuid4().hex}
    with closing(KafkaProducer(**settings)) as producer:
        producer.init_transactions()
        for number in range(20):
            producer.begin_transaction()
            for _ in range(10):
                producer.send(name, b"%d" % number)
            (producer.abort_transaction if number % 3 else producer.commit_transaction)()
    read = [record.value for page in pages(broker, name, 1, "read_committed") for record in page]
    assert read == [b"%d" % number for number in range(0, 20, 3) for _ in range(10)]


def test_pages_end_only_at_the_real_end(broker: KafkaBroker, topic: TopicFactory) -> None:
    name = topic(2)
    write(broker, name, range(60))
    written, read = 60, 0
    for page in pages(broker, name, 2):
        read += len(page)
        if written < 300:
            write(broker, name, range(5), partition=written % 2)
            written += 5
    assert read == written


def test_page_served_from_prefetch_does_not_report_the_end(broker: KafkaBroker, topic: TopicFactory) -> None:
    name = topic()
    write(broker, name, range(10))
    assert fetch(broker, name, {0: 0}, max_records=9, max_bytes=ENOUGH).ended == frozenset()
    write(broker, name, range(10, 12))
    fetched = fetch(broker, name, {0: 9}, max_records=9, max_bytes=ENOUGH)
    assert (fetched.next, fetched.ended) in (({0: 10}, frozenset()), ({0: 12}, frozenset({0})))
    fetched = fetch(broker, name, {0: 10}, max_records=9, max_bytes=ENOUGH)
    assert (fetched.next, fetched.ended) == ({0: 12}, frozenset({0}))


@pytest.mark.slow
def test_prefetched_records_are_read_while_broker_is_down(fresh_kafka: EmbeddedKafka) -> None:
    create_topics(fresh_kafka.bootstrap_servers, {"t": 1})
    broker = KafkaBroker(Config(bootstrap_servers=(fresh_kafka.bootstrap_servers,)))
    write(broker, "t", range(100))
    assert read_one(broker, "t", 0) == b"0"
    fresh_kafka.kill()
    killed = time.monotonic()
    assert read_one(broker, "t", 1) == b"1"
    with pytest.raises(BrokerUnavailable):
        read_slowly(broker, "t", range(2, 100))
    assert time.monotonic() - killed < scaled(MAX_AGE_SECONDS + 12)
    broker.close(1)


def test_deleted_records_disappear_after_the_prefetch_lifetime(
    broker: KafkaBroker, admin: KafkaAdminClient, topic: TopicFactory
) -> None:
    name = topic()
    write(broker, name, range(100))
    assert read_one(broker, name, 0) == b"0"
    admin.delete_records({KafkaTopicPartition(name, 0): 90})
    deleted = time.monotonic()
    with pytest.raises(OffsetOutOfRange):
        read_slowly(broker, name, range(1, 90))
    assert time.monotonic() - deleted < scaled(MAX_AGE_SECONDS + 1)
    with pytest.raises(OffsetOutOfRange):
        read_one(broker, name, 1)


def test_deleted_records_without_prefetch_disappear_at_once(
    kafka: EmbeddedKafka, admin: KafkaAdminClient, topic: TopicFactory
) -> None:
    name = topic()
    broker = KafkaBroker(Config(bootstrap_servers=(kafka.bootstrap_servers,), max_read_ahead=0))
    write(broker, name, range(100))
    assert read_one(broker, name, 0) == b"0"
    admin.delete_records({KafkaTopicPartition(name, 0): 90})
    with pytest.raises(OffsetOutOfRange):
        read_one(broker, name, 1)
    broker.close(1)


def test_prefetch_of_a_recreated_topic_is_dropped(
    broker: KafkaBroker, admin: KafkaAdminClient, topic: TopicFactory
) -> None:
    name = topic()
    write(broker, name, range(100))
    assert read_one(broker, name, 0) == b"0"
    admin.delete_topics([name])
    wait_for(lambda: name not in broker.log.topics())
    admin.create_topics({name: {"num_partitions": 1}})
    admin.wait_for_topics([name])
    write(broker, name, range(500, 600))
    broker.log.partitions(name)  # as when anybody asks for them
    assert read_one(broker, name, 1) == b"501"


def test_prefetched_uncommitted_records_are_hidden_from_read_committed(
    kafka: EmbeddedKafka, broker: KafkaBroker, topic: TopicFactory
) -> None:
    name = topic()
    write(broker, name, range(2))
    with closing(KafkaProducer(bootstrap_servers=kafka.bootstrap_servers, transactional_id=uuid4().hex)) as producer:
        producer.init_transactions()
        producer.begin_transaction()
        producer.send(name, b"open").get(10)
        assert read_one(broker, name, 0) == b"0"
        assert read_one(broker, name, 1) == b"1"
        assert read_one(broker, name, 2, "read_committed") is None
        assert read_one(broker, name, 2) == b"open"
        producer.abort_transaction()


def test_new_records_of_a_partition_do_not_wait_for_prefetched_ones(broker: KafkaBroker, topic: TopicFactory) -> None:
    name = topic(2)
    write(broker, name, range(1000))
    positions = dict(fetch(broker, name, {0: 0, 1: 0}, max_records=1, max_bytes=ENOUGH).next)
    write(broker, name, range(1), partition=1)
    written = time.monotonic()
    while positions[1] == 0:
        assert time.monotonic() - written < scaled(0.6)
        positions |= fetch(broker, name, positions, max_records=2, max_bytes=ENOUGH).next
        time.sleep(0.01)
    assert positions[0] < 1000
