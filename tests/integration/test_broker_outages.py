"""What callers are told while Kafka is away, and how soon all is well again."""

import contextlib
import functools
import itertools
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from kafka_http.broker import KafkaBroker
from kafka_http.config import Config
from kafka_http.demo.embedded_kafka import EmbeddedKafka, create_topics
from kafka_http.errors import BrokerUnavailable, KafkaHttpError, OutcomePending, OutcomeUnknown
from kafka_http.records import NewRecord, RecordMetadata, RecordResult
from tests.support.frozen_process import frozen
from tests.support.polling import eventually, scaled, wait_for
from tests.support.topic_fetch import fetch

QUICK = {"request_timeout_ms": 700, "delivery_timeout_ms": 1500}


@contextmanager
def connected(kafka: EmbeddedKafka, **settings: Any) -> Iterator[KafkaBroker]:
    broker = KafkaBroker(Config(bootstrap_servers=(kafka.bootstrap_servers,), **settings))
    try:
        yield broker
    finally:
        broker.close(3)


def write(broker: KafkaBroker, value: bytes = b"x", timeout: float = 5) -> RecordMetadata:
    (outcome,) = broker.producer.publish("t", [NewRecord(value)], timeout).result()
    if isinstance(outcome, KafkaHttpError):
        raise outcome
    return outcome


def read_all(broker: KafkaBroker) -> list[bytes | None]:
    values: list[bytes | None] = []
    position = 0
    while True:
        fetched = fetch(broker, "t", {0: position}, max_records=5000, max_bytes=1 << 20)
        values += [each.value for each in fetched.records[0]]
        position = fetched.next[0]
        if fetched.ended:
            return values


@pytest.mark.slow
def test_publish_works_after_an_outage_longer_than_the_delivery_timeout(fresh_kafka: EmbeddedKafka) -> None:
    """kafka-python by itself never asks for a producer id again once a batch has expired that was being retried."""
    create_topics(fresh_kafka.bootstrap_servers, {"t": 1})
    with connected(fresh_kafka, producer=QUICK) as broker:
        write(broker)
        with frozen(fresh_kafka), pytest.raises(OutcomeUnknown):
            write(broker, b"maybe", timeout=4)
        assert eventually(lambda: write(broker, b"after"), within=5) < scaled(2)
        assert b"after" in read_all(broker)


def test_unknown_result_is_reported_after_the_delivery_timeout(
    fresh_kafka: EmbeddedKafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who asks for the outcome is told later than who only waits; 120 s are 3 s here."""
    monkeypatch.setattr("kafka_http.broker.client_settings.DELIVERY_SECONDS", 3.0)
    create_topics(fresh_kafka.bootstrap_servers, {"t": 1})
    calls: list[None] = []
    with connected(fresh_kafka, producer=QUICK) as broker:
        (outcome,) = broker.producer.publish("t", [NewRecord(b"x")], 5, keeps_trying=True).result()
        assert isinstance(outcome, RecordMetadata)
        with frozen(fresh_kafka):
            began = time.monotonic()
            pending = broker.producer.publish("t", [NewRecord(b"maybe")], 1, keeps_trying=True)
            pending.add_done_callback(lambda: calls.append(None))
            assert isinstance(pending.result()[0], OutcomePending)
            wait_for(lambda: calls, 20)
            (outcome,) = pending.result(0)
            assert time.monotonic() - began > 2.5
        assert isinstance(outcome, OutcomeUnknown)
        assert not isinstance(outcome, OutcomePending)
        eventually(lambda: broker.producer.publish("t", [NewRecord(b"y")], 5, keeps_trying=True).result(), within=20)
        assert len(calls) == 1


class Writer(threading.Thread):
    """Publishes numbers one after the other, and knows which of them were acknowledged."""

    def __init__(self, broker: KafkaBroker, name: str) -> None:
        super().__init__()
        self.acknowledged: set[bytes] = set()
        self.longest = 0.0
        self.failures: set[type[RecordResult]] = set()
        self.stopping = threading.Event()
        self._broker = broker
        self._name = name

    def run(self) -> None:
        number = 0
        while not self.stopping.is_set():
            values = [f"{self._name}-{number + each}".encode() for each in range(10)]
            number += 10
            began = time.monotonic()
            try:
                outcomes = self._broker.producer.publish("t", [NewRecord(each) for each in values], 3).result()
            except KafkaHttpError as error:
                outcomes = [error] * len(values)
                self.stopping.wait(0.05)
            self.longest = max(self.longest, time.monotonic() - began)
            for value, outcome in zip(values, outcomes, strict=True):
                if isinstance(outcome, RecordMetadata):
                    self.acknowledged.add(value)
                else:
                    self.failures.add(type(outcome))


@pytest.mark.parametrize("down", [0.5, pytest.param(4, marks=pytest.mark.slow)])
def test_broker_kill_loses_and_doubles_no_acknowledged_record(fresh_kafka: EmbeddedKafka, down: float) -> None:
    create_topics(fresh_kafka.bootstrap_servers, {"t": 1})
    with connected(fresh_kafka, producer={"request_timeout_ms": 1500, "delivery_timeout_ms": 3000}) as broker:
        write(broker, b"first")
        writers = [Writer(broker, name) for name in "abc"]
        for writer in writers:
            writer.start()
        try:
            wait_for(lambda: all(len(each.acknowledged) > 500 for each in writers), 10)
            fresh_kafka.kill()
            threading.Event().wait(down)
            fresh_kafka.start()
            probes = itertools.count()
            back_in = eventually(lambda: write(broker, b"back %d" % next(probes)), within=10)
            counts = [len(each.acknowledged) for each in writers]
            for writer, count in zip(writers, counts, strict=True):
                wait_for(lambda w=writer, n=count: len(w.acknowledged) > n, 5)
        finally:
            for writer in writers:
                writer.stopping.set()
                writer.join()
        assert back_in < scaled(2)
        assert max(each.longest for each in writers) < scaled(3 + 1)
        assert all(issubclass(kind, BrokerUnavailable | OutcomeUnknown) for each in writers for kind in each.failures)
        stored = read_all(broker)
        assert set.union(*(each.acknowledged for each in writers)) <= set(stored)
        assert len(stored) == len(set(stored))


CALLS: dict[str, Callable[[KafkaBroker], object]] = {
    "fetch": lambda broker: fetch(broker, "t", {0: 0}, max_records=1, max_bytes=1000),
    "offsets": lambda broker: broker.log.offsets("t", {0: "latest"}),
    "topics": lambda broker: broker.log.topics(),
    "check_reachable": lambda broker: broker.log.check_reachable(),
    "commit": lambda broker: broker.groups.commit("g", "t", {0: 1}),
    "committed": lambda broker: broker.groups.committed("g", "t", [0]),
    "produce": write,
}


def test_killed_broker_and_its_return_are_noticed_at_once(fresh_kafka: EmbeddedKafka) -> None:
    create_topics(fresh_kafka.bootstrap_servers, {"t": 1})
    with connected(fresh_kafka, producer=QUICK) as broker:
        for call in CALLS.values():
            eventually(lambda call=call: call(broker), within=10)
        fresh_kafka.kill()
        with pytest.raises((BrokerUnavailable, OutcomeUnknown)):
            write(broker, timeout=1)
        for name, call in CALLS.items():
            began = time.monotonic()
            with pytest.raises(BrokerUnavailable):
                call(broker)
            assert time.monotonic() - began < scaled(1), name
        fresh_kafka.start()
        began = time.monotonic()
        for call in CALLS.values():
            eventually(lambda call=call: call(broker), within=10)
        assert time.monotonic() - began < scaled(2)


@pytest.mark.slow
def test_calls_to_a_frozen_broker_fail_within_the_timeout(fresh_kafka: EmbeddedKafka) -> None:
    create_topics(fresh_kafka.bootstrap_servers, {"t": 1})
    with connected(fresh_kafka, producer=QUICK) as broker:
        for call in CALLS.values():
            eventually(lambda call=call: call(broker), within=10)
        long_poll = functools.partial(fetch, broker, "t", {0: 99}, max_records=1, max_bytes=1000, wait=1)
        calls = [functools.partial(call, broker) for call in CALLS.values()] + [long_poll]
        with frozen(fresh_kafka), ThreadPoolExecutor(len(calls)) as pool:
            began = time.monotonic()
            failures = [each.exception(timeout=20) for each in [pool.submit(call) for call in calls]]
            assert time.monotonic() - began < scaled(6 + 1)
        assert all(isinstance(each, BrokerUnavailable | OutcomeUnknown) for each in failures), failures
        for call in CALLS.values():
            assert eventually(lambda call=call: call(broker), within=5) < scaled(2)


@pytest.mark.slow
def test_outages_leak_no_descriptors_and_no_threads(fresh_kafka: EmbeddedKafka) -> None:
    create_topics(fresh_kafka.bootstrap_servers, {"t": 1})
    with connected(fresh_kafka, producer=QUICK) as broker:

        def all_well() -> None:
            for call in CALLS.values():
                eventually(lambda call=call: call(broker), within=10)

        def held() -> tuple[int, int]:
            return len(list(Path("/proc/self/fd").iterdir())), threading.active_count()

        def failing() -> None:
            for call in CALLS.values():
                with contextlib.suppress(KafkaHttpError):
                    call(broker)

        all_well()
        before = held()
        for _ in range(2):
            fresh_kafka.kill()
            until = time.monotonic() + 2
            with ThreadPoolExecutor(8) as pool:
                while time.monotonic() < until:
                    list(pool.map(lambda _: failing(), range(8)))
            fresh_kafka.start()
            all_well()
        descriptors, threads = held()
        assert descriptors <= before[0] + 4
        assert threads <= before[1]
