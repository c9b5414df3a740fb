"""Reads a topic with kafka-python, or with librdkafka."""

import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

from confluent_kafka import Consumer, Message
from confluent_kafka import TopicPartition as Place
from kafka import KafkaConsumer, TopicPartition


def read_topic(bootstrap_servers: str, topic: str, partitions: int) -> list[Any]:
    """Return all records of a topic; those of a partition are in their order."""
    with closing(KafkaConsumer(bootstrap_servers=bootstrap_servers, consumer_timeout_ms=20_000)) as consumer:
        wanted = [TopicPartition(topic, partition) for partition in range(partitions)]
        consumer.assign(wanted)
        consumer.seek_to_beginning(*wanted)
        count = sum(consumer.end_offsets(wanted).values())
        return [next(consumer) for _ in range(count)]


def read_messages(bootstrap_servers: str, topic: str, seconds: float = 120) -> Iterator[Message]:
    """Yield all messages of a topic; those of a partition are in their order.

    librdkafka knows all codecs and is fast enough for millions of messages. Raises `AssertionError` after `seconds`.
    """
    settings = {"bootstrap.servers": bootstrap_servers, "group.id": "reader", "enable.auto.commit": False}
    with closing(Consumer(settings | {"log_level": 0, "fetch.wait.max.ms": 50})) as consumer:
        places = [Place(topic, each) for each in consumer.list_topics(topic, timeout=30).topics[topic].partitions]
        marks = {each.partition: consumer.get_watermark_offsets(each, timeout=30) for each in places}
        consumer.assign([Place(topic, partition, low) for partition, (low, _) in marks.items()])
        missing = {partition: high for partition, (low, high) in marks.items() if high > low}
        limit = time.monotonic() + seconds
        while missing:
            assert time.monotonic() < limit, f"partitions could not be read to their end: {missing}"
            for message in consumer.consume(10_000, 1.0):
                if message.error() is None:
                    yield message
                    if message.offset() + 1 >= missing.get(message.partition(), 0):
                        missing.pop(message.partition(), None)
