"""What the machine can do without HTTP: kafka-python alone, and confluent-kafka where it is installed."""

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from importlib.util import find_spec
from typing import Any

from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from kafka_http.bench.conversations import values
from kafka_http.bench.results import MANY, ONE_BY_ONE, Baseline, percentile
from kafka_http.bench.topics import client_settings
from kafka_http.config import Config

_DIFFERENT_VALUES = 1000
_PAGE = 1000

KAFKA_PYTHON = "kafka-python"
CONFLUENT = "confluent-kafka"

Run = Callable[[], Baseline]


def has_confluent() -> bool:
    return find_spec("confluent_kafka") is not None


def publishing(config: Config, topic: str, size: int, seconds: float) -> Iterator[tuple[str, Run]]:
    """What each is called, and what runs it for so many seconds."""
    made = [each.encode() for each in values(_DIFFERENT_VALUES, size)]
    yield f"{KAFKA_PYTHON} {ONE_BY_ONE}", lambda: _one_by_one(config, topic, made, seconds)
    yield f"{KAFKA_PYTHON} {MANY}", lambda: _many(config, topic, made, seconds)
    if has_confluent():
        yield f"{CONFLUENT} {ONE_BY_ONE}", lambda: _confluent_one_by_one(config, topic, made, seconds)
        yield f"{CONFLUENT} {MANY}", lambda: _confluent_many(config, topic, made, seconds)


def reading(config: Config, topic: str, seconds: float) -> Iterator[tuple[str, Run]]:
    """As `publishing`; it reads the topic from its beginning, again and again."""
    yield f"{KAFKA_PYTHON} alone", lambda: _consume(config, topic, seconds)
    if has_confluent():
        yield f"{CONFLUENT} alone", lambda: _confluent_consume(config, topic, seconds)


def _one_by_one(config: Config, topic: str, made: list[bytes], seconds: float) -> Baseline:
    with closing(_producer(config)) as producer:
        producer.send(topic, made[0]).get(30)
        return _timed(KAFKA_PYTHON, made, seconds, lambda value: producer.send(topic, value).get(30))


def _timed(client: str, made: list[bytes], seconds: float, send: Callable[[bytes], object]) -> Baseline:
    taken: list[float] = []
    begin = moment = time.monotonic()
    while moment < begin + seconds:
        send(made[len(taken) % len(made)])
        last, moment = moment, time.monotonic()
        taken.append(moment - last)
    return Baseline(client, ONE_BY_ONE, len(taken) / (moment - begin), percentile(sorted(taken), 50) * 1000)


def _many(config: Config, topic: str, made: list[bytes], seconds: float) -> Baseline:
    with closing(_producer(config)) as producer:
        producer.send(topic, made[0]).get(30)
        begin, count = time.monotonic(), 0
        while time.monotonic() < begin + seconds:
            for value in made:
                producer.send(topic, value)
            count += len(made)
        producer.flush()
        return Baseline(KAFKA_PYTHON, MANY, count / (time.monotonic() - begin))


def _producer(config: Config) -> KafkaProducer:
    ours = {"acks": "all", "batch_size": 262_144, "max_block_ms": 30_000}
    return KafkaProducer(**ours | client_settings(config, "producer", KafkaProducer.DEFAULT_CONFIG))


def _consume(config: Config, topic: str, seconds: float) -> Baseline:
    settings = client_settings(config, "consumer", KafkaConsumer.DEFAULT_CONFIG)
    with closing(KafkaConsumer(**settings | {"enable_auto_commit": False})) as consumer:
        partitions = [TopicPartition(topic, number) for number in sorted(consumer.partitions_for_topic(topic) or ())]
        consumer.assign(partitions)
        held = sum(consumer.end_offsets(partitions).values()) - sum(consumer.beginning_offsets(partitions).values())

        def rewind() -> None:
            consumer.seek_to_beginning(*partitions)

        def take() -> int:
            return sum(map(len, consumer.poll(1000, max_records=_PAGE).values()))

        return _read(KAFKA_PYTHON, rewind, take, held, seconds)


def _read(client: str, rewind: Callable[[], None], take: Callable[[], int], held: int, seconds: float) -> Baseline:
    rewind()
    take()
    begin, count, left = time.monotonic(), 0, 0
    while time.monotonic() < begin + seconds:
        if left <= 0:
            rewind()
            left = held
        taken = take()
        count, left = count + taken, left - taken
    return Baseline(client, MANY, count / (time.monotonic() - begin))


def _confluent_settings(config: Config) -> dict[str, Any]:
    """What is said for kafka-python, as far as librdkafka has a name for it."""
    own = {"bootstrap.servers": ",".join(config.bootstrap_servers)}
    names = {
        "security_protocol": "security.protocol",
        "ssl_cafile": "ssl.ca.location",
        "sasl_mechanism": "sasl.mechanism",
        "sasl_plain_username": "sasl.username",
        "sasl_plain_password": "sasl.password",
    }
    return own | {theirs: config.kafka[ours] for ours, theirs in names.items() if ours in config.kafka}


def _confluent_one_by_one(config: Config, topic: str, made: list[bytes], seconds: float) -> Baseline:
    from confluent_kafka import Producer

    producer = Producer(_confluent_settings(config) | {"acks": "all", "enable.idempotence": True, "linger.ms": 0})

    def send(value: bytes) -> None:
        producer.produce(topic, value)
        producer.flush(30)

    send(made[0])
    return _timed(CONFLUENT, made, seconds, send)


def _confluent_many(config: Config, topic: str, made: list[bytes], seconds: float) -> Baseline:
    from confluent_kafka import Producer

    producer = Producer(_confluent_settings(config) | {"acks": "all", "enable.idempotence": True})
    producer.produce(topic, made[0])
    producer.flush(30)
    begin, count = time.monotonic(), 0
    while time.monotonic() < begin + seconds:
        for value in made:
            _produce(producer, topic, value)
        count += len(made)
    producer.flush(60)
    return Baseline(CONFLUENT, MANY, count / (time.monotonic() - begin))


def _produce(producer: Any, topic: str, value: bytes) -> None:
    while True:
        try:
            producer.produce(topic, value)
        except BufferError:
            producer.poll(0.01)
        else:
            return


def _confluent_consume(config: Config, topic: str, seconds: float) -> Baseline:
    from confluent_kafka import OFFSET_BEGINNING, Consumer
    from confluent_kafka import TopicPartition as Partition

    settings = _confluent_settings(config) | {"group.id": topic, "enable.auto.commit": False}
    with closing(Consumer(settings)) as consumer:
        numbers = list(consumer.list_topics(topic, 30).topics[topic].partitions)
        partitions = [Partition(topic, number, OFFSET_BEGINNING) for number in numbers]
        ends = [consumer.get_watermark_offsets(each, 30) for each in partitions]

        def rewind() -> None:
            consumer.assign(partitions)

        def take() -> int:
            return len(consumer.consume(_PAGE, 1.0))

        return _read(CONFLUENT, rewind, take, sum(high - low for low, high in ends), seconds)
