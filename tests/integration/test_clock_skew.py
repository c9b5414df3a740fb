"""A clock that is off: Kafka refuses the timestamps that this server made, and takes the messages all the same."""

import time
from collections.abc import Iterator
from types import SimpleNamespace
from uuid import uuid4

import pytest

from kafka_http.broker import KafkaBroker
from kafka_http.config import Config
from kafka_http.demo.embedded_kafka import EmbeddedKafka
from kafka_http.errors import InvalidValue
from kafka_http.records import NewRecord, RecordMetadata
from tests.conftest import TopicFactory
from tests.support.server_process import Service
from tests.support.topic_fetch import fetch

LATE = {"message.timestamp.before.max.ms": "0"}
"""Kafka takes no timestamp that is a millisecond old: as if this server's clock were behind."""


@pytest.fixture
def broker(kafka: EmbeddedKafka) -> Iterator[KafkaBroker]:
    broker = KafkaBroker(Config(bootstrap_servers=(kafka.bootstrap_servers,)))
    yield broker
    broker.close(3)


def test_publish_with_a_clock_behind_is_written_without_timestamp(broker: KafkaBroker, topic: TopicFactory) -> None:
    name = topic(2, LATE)
    records = [NewRecord(b"%d" % each, partition=each % 2) for each in range(100)]
    outcomes = [outcome for _ in range(20) for outcome in broker.producer.publish(name, records, 10).result()]
    assert [each for each in outcomes if not isinstance(each, RecordMetadata)] == []
    assert None in [each.timestamp for each in outcomes if isinstance(each, RecordMetadata)]
    stored = fetch(broker, name, {0: 0, 1: 0}, max_records=10_000, max_bytes=1 << 20)
    for partition in (0, 1):
        values = [each.value for each in stored.records[partition]]
        assert values == [b"%d" % each for each in range(partition, 100, 2)] * 20


def test_publish_with_a_clock_ahead_is_written_without_timestamp(
    kafka: EmbeddedKafka, topic: TopicFactory, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    name = topic()
    ahead = SimpleNamespace(time=lambda: time.time() + 7200, monotonic=time.monotonic)
    monkeypatch.setattr("kafka_http.broker.pending_publish.time", ahead)
    broker = KafkaBroker(Config(bootstrap_servers=(kafka.bootstrap_servers,)))
    try:
        named = int(time.time() * 1000) - 5000
        records = [NewRecord(b"a"), NewRecord(b"b", timestamp=named), NewRecord(b"c")]
        outcomes = broker.producer.publish(name, records, 10).result()
        assert [each.timestamp for each in outcomes if isinstance(each, RecordMetadata)] == [None, named, None]
        assert isinstance(broker.producer.publish(name, [NewRecord(b"d")], 10).result()[0], RecordMetadata)
        stored = fetch(broker, name, {0: 0}, max_records=10, max_bytes=1 << 20).records[0]
        assert {each.value: each.timestamp for each in stored} == {b"a": None, b"b": named, b"c": None, b"d": None}
        assert caplog.text.count("the clock of this server or a broker is wrong") == 1
    finally:
        broker.close(3)


def test_publish_with_timestamp_that_kafka_rejects_fails_alone(broker: KafkaBroker, topic: TopicFactory) -> None:
    name = topic()
    future = int(time.time() * 1000) + 2 * 3600 * 1000
    records = [NewRecord(b"a"), NewRecord(b"b", timestamp=future), NewRecord(b"c", timestamp=future), NewRecord(b"d")]
    first, second, third, fourth = broker.producer.publish(name, records, 10).result()
    assert isinstance(second, InvalidValue)
    assert isinstance(third, InvalidValue)
    assert [isinstance(each, RecordMetadata) and each.timestamp is not None for each in (first, fourth)] == [True, True]


def test_clock_skew_fails_no_task_and_no_idempotent_publish(service: Service, topic: TopicFactory) -> None:
    name = topic(1, LATE)
    tasks, answers = [], []
    for number in range(20):
        later = {"Prefer": "respond-async"}
        tasks.append(service.put(f"/messages/{name}", f"later-{number}", headers=later).headers["Location"])
        keyed = {"Idempotency-Key": uuid4().hex}
        answers.append(service.put(f"/messages/{name}", f"keyed-{number}", headers=keyed))
        answers.append(service.put(f"/messages/{name}", f"plain-{number}"))
    assert {each.status_code for each in answers} == {200}
    ended = [service.get(f"{each}?wait=30").json()["task"] for each in tasks]
    assert {each["status"] for each in ended} == {"delivered"}
    records = service.records(name)
    assert sorted(each["value"] for each in records) == sorted(
        f"{kind}-{number}" for kind in ("later", "keyed", "plain") for number in range(20)
    )
    assert None in [each["timestamp"] for each in records]
    assert None in [each.json()["records"][0]["timestamp"] for each in answers]
