"""Reads a topic with kafka-python."""

from contextlib import closing
from typing import Any

from kafka import KafkaConsumer, TopicPartition


def read_topic(bootstrap_servers: str, topic: str, partitions: int) -> list[Any]:
    """Return all records of a topic; those of a partition are in their order."""
    with closing(KafkaConsumer(bootstrap_servers=bootstrap_servers, consumer_timeout_ms=20_000)) as consumer:
        wanted = [TopicPartition(topic, partition) for partition in range(partitions)]
        consumer.assign(wanted)
        consumer.seek_to_beginning(*wanted)
        count = sum(consumer.end_offsets(wanted).values())
        return [next(consumer) for _ in range(count)]
