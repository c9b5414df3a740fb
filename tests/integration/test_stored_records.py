"""Publishes of many threads: what was acknowledged is what another library reads, at those offsets."""

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kafka_http.broker import KafkaBroker
from kafka_http.config import Config
from kafka_http.demo.embedded_kafka import EmbeddedKafka
from kafka_http.records import NewRecord, RecordMetadata

PARTITIONS = 3
THREADS = 6
TopicFactory = Callable[..., str]
Placed = dict[tuple[int, int], tuple[Any, ...]]

BYTES = st.binary(max_size=30) | st.integers(1, 40_000).map(lambda size: b"x" * size)
HEADERS = st.lists(st.tuples(st.text(max_size=5), st.none() | st.binary(max_size=5)), max_size=3)
RECORDS = st.builds(
    NewRecord,
    st.none() | BYTES,
    st.none() | st.binary(max_size=8),
    st.none() | st.integers(0, PARTITIONS - 1),
    st.none() | st.integers(0, 1_700_000_000_000),
    HEADERS,
)
REQUESTS = st.lists(RECORDS, min_size=1, max_size=40) | st.tuples(RECORDS, st.integers(1, 400)).map(
    lambda repeated: [repeated[0]] * repeated[1]
)


@contextmanager
def writing(kafka: EmbeddedKafka, **producer: Any) -> Iterator[KafkaBroker]:
    broker = KafkaBroker(Config(bootstrap_servers=(kafka.bootstrap_servers,), producer=producer))
    try:
        yield broker
    finally:
        broker.close(5)


@pytest.mark.parametrize("codec", [None, "gzip", "snappy", "lz4", "zstd"])
def test_acknowledged_records_are_stored_at_their_offsets(
    kafka: EmbeddedKafka, topic: TopicFactory, codec: str | None
) -> None:
    @settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(st.lists(REQUESTS, min_size=THREADS, max_size=3 * THREADS))
    def any_mixture(requests: list[list[NewRecord]]) -> None:
        name = topic(PARTITIONS)
        with ThreadPoolExecutor(THREADS) as pool:
            answers = pool.map(lambda records: broker.producer.publish(name, records, 20).result(), requests)
            acknowledged = [each for pairs in zip(requests, answers, strict=True) for each in zip(*pairs, strict=True)]
        assert asyncio.run(read(kafka, name, len(acknowledged))) == placed(acknowledged)

    with writing(kafka, compression_type=codec) as broker:
        any_mixture()


def test_batch_over_the_topic_limit_is_split(kafka: EmbeddedKafka, topic: TopicFactory) -> None:
    name = topic(PARTITIONS, {"max.message.bytes": "5000"})
    requests = [[NewRecord(b"%d-%d " % (n, each) + b"x" * 300) for each in range(200)] for n in range(THREADS)]
    with writing(kafka) as broker, ThreadPoolExecutor(THREADS) as pool:
        answers = list(pool.map(lambda records: broker.producer.publish(name, records, 20).result(), requests))
    acknowledged = [each for pairs in zip(requests, answers, strict=True) for each in zip(*pairs, strict=True)]
    assert asyncio.run(read(kafka, name, len(acknowledged))) == placed(acknowledged)
    for answer in answers:  # those of a request stay in their order
        offsets = [each.offset for each in answer if isinstance(each, RecordMetadata)]
        assert offsets == sorted(offsets)


def placed(acknowledged: list[tuple[NewRecord, Any]]) -> Placed:
    """The records by partition and offset, as their deliveries say."""
    assert all(isinstance(delivery, RecordMetadata) for _, delivery in acknowledged)
    found = {
        (delivery.partition, delivery.offset): (delivery.timestamp, record.key, record.value, tuple(record.headers))
        for record, delivery in acknowledged
    }
    assert len(found) == len(acknowledged)
    for record, delivery in acknowledged:
        assert record.partition in (None, delivery.partition)
        assert record.timestamp in (None, delivery.timestamp)
    return found


async def read(kafka: EmbeddedKafka, topic: str, count: int) -> Placed:
    """All that is in the topic, by aiokafka's consumer; at least so many records are awaited."""
    consumer = AIOKafkaConsumer(bootstrap_servers=kafka.bootstrap_servers, auto_offset_reset="earliest")
    await consumer.start()
    try:
        places = [TopicPartition(topic, each) for each in range(PARTITIONS)]
        consumer.assign(places)
        ends = await consumer.end_offsets(places)
        assert sum(ends.values()) == count
        found: Placed = {}
        while len(found) < count:
            for records in (await consumer.getmany(timeout_ms=1000)).values():
                for each in records:
                    found[each.partition, each.offset] = (each.timestamp, each.key, each.value, tuple(each.headers))
        return found
    finally:
        await consumer.stop()
