"""The throughput of Kafka's clients without HTTP: kafka-python, and confluent-kafka if it is installed."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from functools import partial
from importlib.util import find_spec
from typing import Any, NamedTuple

from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from kafka_http.bench.bench_result import MANY, ONE_BY_ONE, Baseline, percentile
from kafka_http.bench.bench_server import client_settings
from kafka_http.bench.load_requests import json_values
from kafka_http.config import Config

KAFKA_PYTHON = "kafka-python"
CONFLUENT = "confluent-kafka"

_VALUES = 1000
_POLL_RECORDS = 1000
_CONFLUENT_NAMES = {
    "security_protocol": "security.protocol",
    "ssl_cafile": "ssl.ca.location",
    "sasl_mechanism": "sasl.mechanism",
    "sasl_plain_username": "sasl.username",
    "sasl_plain_password": "sasl.password",
}


class _Producer(NamedTuple):
    """`publish` waits for the acknowledgement, `send` does not, `flush` waits for all."""

    publish: Callable[[bytes], object]
    send: Callable[[bytes], object]
    flush: Callable[[], object]


class _Consumer(NamedTuple):
    """`rewind` goes back to the beginning of the topic, `poll` returns a number of messages."""

    messages: int
    rewind: Callable[[], object]
    poll: Callable[[], int]


BaselineRun = tuple[str, Callable[[], Baseline]]
"""The description of a baseline, and the function that measures it."""


def _clients() -> list[str]:
    """The client libraries that are installed."""
    return [KAFKA_PYTHON] + [CONFLUENT] * (find_spec("confluent_kafka") is not None)


def publish_baselines(config: Config, topic: str, size: int, seconds: float) -> Iterator[BaselineRun]:
    """The baselines of publishing values of `size` bytes, each for so many seconds."""
    values = [each.encode() for each in json_values(_VALUES, size)]
    for client in _clients():
        yield f"{client} {ONE_BY_ONE}", partial(_publish_one_by_one, client, config, topic, values, seconds)
        yield f"{client} {MANY}", partial(_publish_many, client, config, topic, values, seconds)


def read_baselines(config: Config, topic: str, seconds: float) -> Iterator[BaselineRun]:
    """The baselines of reading the topic from its beginning, repeatedly, each for so many seconds."""
    for client in _clients():
        yield f"{client} alone", partial(_read, client, config, topic, seconds)


def _publish_one_by_one(client: str, config: Config, topic: str, values: list[bytes], seconds: float) -> Baseline:
    with _PRODUCERS[client](config, topic, True) as producer:
        producer.publish(values[0])  # connects and fetches the metadata
        latencies: list[float] = []
        begin = now = time.monotonic()
        while now < begin + seconds:
            producer.publish(values[len(latencies) % len(values)])
            before, now = now, time.monotonic()
            latencies.append(now - before)
        p50 = percentile(sorted(latencies), 50) * 1000
        return Baseline(client, ONE_BY_ONE, len(latencies) / (now - begin), p50)


def _publish_many(client: str, config: Config, topic: str, values: list[bytes], seconds: float) -> Baseline:
    with _PRODUCERS[client](config, topic, False) as producer:
        producer.publish(values[0])  # connects and fetches the metadata
        begin, count = time.monotonic(), 0
        while time.monotonic() < begin + seconds:
            for value in values:
                producer.send(value)
            count += len(values)
        producer.flush()
        return Baseline(client, MANY, count / (time.monotonic() - begin))


def _read(client: str, config: Config, topic: str, seconds: float) -> Baseline:
    with _CONSUMERS[client](config, topic) as consumer:
        consumer.rewind()
        consumer.poll()  # connects
        begin, count, left = time.monotonic(), 0, 0
        while time.monotonic() < begin + seconds:
            if left <= 0:
                consumer.rewind()
                left = consumer.messages
            polled = consumer.poll()
            count, left = count + polled, left - polled
        return Baseline(client, MANY, count / (time.monotonic() - begin))


@contextmanager
def _kafka_python_producer(config: Config, topic: str, _: bool) -> Iterator[_Producer]:
    settings = {"acks": "all", "batch_size": 262_144, "max_block_ms": 30_000}
    settings |= client_settings(config, "producer", KafkaProducer.DEFAULT_CONFIG)
    with closing(KafkaProducer(**settings)) as producer:
        send = partial(producer.send, topic)
        yield _Producer(lambda value: send(value).get(30), send, producer.flush)


@contextmanager
def _kafka_python_consumer(config: Config, topic: str) -> Iterator[_Consumer]:
    settings = client_settings(config, "consumer", KafkaConsumer.DEFAULT_CONFIG)
    with closing(KafkaConsumer(**settings | {"enable_auto_commit": False})) as consumer:
        partitions = [TopicPartition(topic, number) for number in sorted(consumer.partitions_for_topic(topic) or ())]
        consumer.assign(partitions)
        messages = sum(consumer.end_offsets(partitions).values()) - sum(consumer.beginning_offsets(partitions).values())
        yield _Consumer(
            messages,
            lambda: consumer.seek_to_beginning(*partitions),
            lambda: sum(map(len, consumer.poll(1000, max_records=_POLL_RECORDS).values())),
        )


@contextmanager
def _confluent_producer(config: Config, topic: str, one_by_one: bool) -> Iterator[_Producer]:
    from confluent_kafka import Producer

    settings = _confluent_settings(config) | {"acks": "all", "enable.idempotence": True}
    producer = Producer(settings | ({"linger.ms": 0} if one_by_one else {}))

    def publish(value: bytes) -> None:
        producer.produce(topic, value)
        producer.flush(30)

    def send(value: bytes) -> None:
        while True:
            try:
                producer.produce(topic, value)
            except BufferError:  # the queue is full
                producer.poll(0.01)
            else:
                return

    yield _Producer(publish, send, lambda: producer.flush(60))


@contextmanager
def _confluent_consumer(config: Config, topic: str) -> Iterator[_Consumer]:
    from confluent_kafka import OFFSET_BEGINNING, Consumer
    from confluent_kafka import TopicPartition as Partition

    settings = _confluent_settings(config) | {"group.id": topic, "enable.auto.commit": False}
    with closing(Consumer(settings)) as consumer:
        numbers = list(consumer.list_topics(topic, 30).topics[topic].partitions)
        partitions = [Partition(topic, number, OFFSET_BEGINNING) for number in numbers]
        ends = [consumer.get_watermark_offsets(each, 30) for each in partitions]
        messages = sum(high - low for low, high in ends)
        yield _Consumer(
            messages, lambda: consumer.assign(partitions), lambda: len(consumer.consume(_POLL_RECORDS, 1.0))
        )


def _confluent_settings(config: Config) -> dict[str, Any]:
    """The settings for kafka-python that librdkafka has, too."""
    named = {theirs: config.kafka[ours] for ours, theirs in _CONFLUENT_NAMES.items() if ours in config.kafka}
    return {"bootstrap.servers": ",".join(config.bootstrap_servers), **named}


_PRODUCERS: dict[str, Callable[[Config, str, bool], AbstractContextManager[_Producer]]] = {
    KAFKA_PYTHON: _kafka_python_producer,
    CONFLUENT: _confluent_producer,
}
_CONSUMERS: dict[str, Callable[[Config, str], AbstractContextManager[_Consumer]]] = {
    KAFKA_PYTHON: _kafka_python_consumer,
    CONFLUENT: _confluent_consumer,
}
