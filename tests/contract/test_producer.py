"""Publishing: the same tests for the fake and for Kafka."""

import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from threading import Event
from typing import cast

import pytest

from kafka_http.broker_protocols import Broker, Producer
from kafka_http.errors import (
    BrokerUnavailable,
    InvalidRequest,
    InvalidValue,
    KafkaHttpError,
    OutcomePending,
    PartitionNotFound,
    TooLarge,
    TopicNotFound,
)
from kafka_http.records import NewRecord, Record, RecordMetadata, RecordResult
from tests.contract.conftest import Cluster
from tests.support.polling import scaled
from tests.support.topic_fetch import fetch

JAVA_MURMUR2 = {  # of Apache Kafka's UtilsTest
    b"21": -973932308,
    b"foobar": -790332482,
    b"a-little-bit-long-string": -985981536,
    b"a-little-bit-longer-string": -1486304829,
    b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
    b"abc": 479470107,
}


class Started:
    """A producer whose `produce` calls `start` and waits for `on_done`."""

    def __init__(self, producer: Producer) -> None:
        self._producer = producer

    def produce(self, topic: str, records: Sequence[NewRecord], timeout: float) -> list[RecordResult]:
        with suppress(KafkaHttpError):
            self._producer.produce(topic, [], timeout)  # it has to know the topic
        done = Event()
        pending = self._producer.start(topic, records, timeout, done.set)
        if pending is None:
            return self._producer.produce(topic, records, timeout)
        self._producer.send()
        assert done.wait(timeout)
        return pending.results()


@pytest.fixture(params=["waiting", "started"])
def producer(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[Producer]:
    """A producer that is called with `produce` or with `start`."""
    if request.param == "waiting":
        yield cluster.broker.producer
        return
    yield cast("Producer", Started(cluster.broker.producer))


def stored(broker: Broker, topic: str, partition: int = 0) -> list[Record]:
    """Return all records of a partition."""
    fetched = fetch(broker, topic, {partition: 0}, max_records=10_000, max_bytes=1 << 20)
    return list(fetched.records[partition])


def delivered(results: list[RecordResult]) -> list[tuple[int, int]]:
    """Return partition and offset of records that were all written."""
    places = [(each.partition, each.offset) for each in results if isinstance(each, RecordMetadata)]
    assert len(places) == len(results), results
    return places


def test_results_are_in_the_order_of_the_records(cluster: Cluster, broker: Broker, producer: Producer) -> None:
    topic = cluster.topic()
    assert delivered(producer.produce(topic, [NewRecord(b"a"), NewRecord(b"b")], 10)) == [(0, 0), (0, 1)]
    assert delivered(producer.produce(topic, [NewRecord(b"c")], 10)) == [(0, 2)]
    assert [each.value for each in stored(broker, topic)] == [b"a", b"b", b"c"]


def test_records_are_stored_byte_for_byte(cluster: Cluster, broker: Broker, producer: Producer) -> None:
    topic = cluster.topic()
    at = int(time.time() * 1000) - 60_000
    headers: list[tuple[str, bytes | None]] = [("é", b"\xff\x00"), ("twice", None), ("twice", b""), ("", b"x")]
    written = [
        NewRecord(b"\x00\xff", key=b"\x01", timestamp=at, headers=headers),
        NewRecord(None),
        NewRecord(b"", key=b""),
        NewRecord(None, headers=[("only", None)]),
    ]
    delivered(producer.produce(topic, written, 10))
    read = stored(broker, topic)
    assert [(each.key, each.value, list(each.headers)) for each in read] == [
        (each.key, each.value, list(each.headers)) for each in written
    ]
    assert read[0].timestamp == at


def test_missing_timestamp_is_the_current_time(cluster: Cluster, broker: Broker, producer: Producer) -> None:
    topic = cluster.topic()
    before = int(time.time() * 1000)
    (result,) = producer.produce(topic, [NewRecord(b"a")], 10)
    assert isinstance(result, RecordMetadata)
    assert before <= result.timestamp <= int(time.time() * 1000)
    assert stored(broker, topic)[0].timestamp == result.timestamp


def test_log_append_time_is_the_brokers_time(cluster: Cluster, broker: Broker, producer: Producer) -> None:
    topic = cluster.topic(append_time=True)
    before = int(time.time() * 1000)
    (result,) = producer.produce(topic, [NewRecord(b"a", timestamp=5)], 10)
    assert isinstance(result, RecordMetadata)
    assert result.timestamp >= before
    assert stored(broker, topic)[0].timestamp == result.timestamp


def test_records_without_keys_go_to_one_partition_for_each_request(cluster: Cluster, producer: Producer) -> None:
    topic = cluster.topic(partitions=5)
    used: set[int] = set()

    deadline = time.monotonic() + 10
    while len(used) < 2 and time.monotonic() < deadline:
        places = delivered(producer.produce(topic, [NewRecord(b"%d" % each) for each in range(20)], 10))
        used |= {partition for partition, _ in places}
        assert places == [(places[0][0], places[0][1] + each) for each in range(20)]
    assert len(used) > 1


@pytest.mark.parametrize("partitions", [1, 3, 7])
def test_keyed_records_use_javas_default_partitioner(cluster: Cluster, partitions: int, producer: Producer) -> None:
    topic = cluster.topic(partitions)
    results = producer.produce(topic, [NewRecord(b"v", key=each) for each in JAVA_MURMUR2], 10)
    expected = [(each & 0x7FFFFFFF) % partitions for each in JAVA_MURMUR2.values()]
    assert [partition for partition, _ in delivered(results)] == expected


def test_named_partition_is_used(cluster: Cluster, producer: Producer) -> None:
    topic = cluster.topic(partitions=3)
    results = producer.produce(topic, [NewRecord(b"a", key=b"k", partition=each) for each in (2, 0, 1)], 10)
    assert [partition for partition, _ in delivered(results)] == [2, 0, 1]


def test_missing_partition_raises_partition_not_found(cluster: Cluster, broker: Broker, producer: Producer) -> None:
    topic = cluster.topic(partitions=2)
    with pytest.raises(PartitionNotFound) as raised:
        producer.produce(topic, [NewRecord(b"a", partition=0), NewRecord(b"b", partition=2)], 10)
    assert raised.value.fields == {"topic": topic, "partition": 2, "partitions": 2}
    assert stored(broker, topic) == []


def test_missing_topic_raises_topic_not_found(broker: Broker, producer: Producer) -> None:
    with pytest.raises(TopicNotFound):
        producer.produce("nobody-made-this", [NewRecord(b"a")], 10)
    assert "nobody-made-this" not in broker.log.topics()


@pytest.mark.parametrize("name", ["with space", "ä", "..", "x" * 250])
def test_invalid_topic_name_raises_invalid_request(name: str, producer: Producer) -> None:
    with pytest.raises(InvalidRequest):
        producer.produce(name, [NewRecord(b"a")], 10)


def test_too_large_record_fails_alone(cluster: Cluster, producer: Producer) -> None:
    topic = cluster.topic(limit=2000)
    records = [NewRecord(b"small"), NewRecord(b"x" * 3000), NewRecord(b"small too")]
    first, second, third = producer.produce(topic, records, 10)
    assert isinstance(second, TooLarge)
    assert second.fields["limit"] == 2000
    assert delivered([first, third]) == [(0, 0), (0, 1)]
    assert delivered(producer.produce(topic, [NewRecord(b"next")], 10)) == [(0, 2)]


def test_many_records_larger_than_a_batch_are_written(cluster: Cluster, broker: Broker, producer: Producer) -> None:
    topic = cluster.topic(limit=2000)
    values = [b"%d " % each + b"x" * 200 for each in range(50)]
    places = delivered(producer.produce(topic, [NewRecord(each) for each in values], 10))
    assert places == [(0, each) for each in range(50)]
    assert [each.value for each in stored(broker, topic)] == values


def test_record_that_kafka_rejects_fails_alone(cluster: Cluster, producer: Producer) -> None:
    topic = cluster.topic(compacted=True)
    records = [NewRecord(b"a", key=b"k"), NewRecord(b"b"), NewRecord(None, key=b"k")]
    first, second, third = producer.produce(topic, records, 10)
    assert isinstance(second, InvalidValue)
    assert delivered([first, third]) == [(0, 0), (0, 1)]
    assert delivered(producer.produce(topic, [NewRecord(b"c", key=b"k")], 10)) == [(0, 2)]


def test_start_returns_a_pending_publish_for_a_known_topic(cluster: Cluster, broker: Broker) -> None:
    topic = cluster.topic()
    delivered(broker.producer.produce(topic, [NewRecord(b"first")], 10))
    done = Event()
    pending = broker.producer.start(topic, [NewRecord(b"second")], 10, done.set)
    assert pending is not None
    broker.producer.send()
    assert done.wait(10)
    assert delivered(pending.results()) == [(0, 1)]


def test_send_sends_all_started_requests(cluster: Cluster, broker: Broker) -> None:
    topic = cluster.topic(partitions=2)
    delivered(broker.producer.produce(topic, [NewRecord(b"0", partition=each) for each in (0, 1)], 10))
    broker.producer.send()  # with nothing to send
    done = [Event() for _ in range(20)]
    pendings = [
        broker.producer.start(topic, [NewRecord(str(number).encode(), partition=number % 2)], 10, each.set)
        for number, each in enumerate(done)
    ]
    broker.producer.send()
    assert all(each.wait(10) for each in done)
    results = [result for each in pendings if each is not None for result in each.results()]
    assert delivered(results) == [(number % 2, 1 + number // 2) for number in range(20)]


def test_start_returns_none_for_a_request_that_would_fail(cluster: Cluster, broker: Broker) -> None:
    topic = cluster.topic()
    delivered(broker.producer.produce(topic, [NewRecord(b"first")], 10))
    records = [NewRecord(b"good"), NewRecord(b"nowhere", partition=1)]
    assert broker.producer.start(topic, records, 10, lambda: None) is None
    assert broker.producer.start("nobody-made-this", [NewRecord(b"a")], 10, lambda: None) is None
    assert [each.value for each in stored(broker, topic)] == [b"first"]


def test_late_results_are_passed_to_on_results(cluster: Cluster, broker: Broker) -> None:
    topic = cluster.topic(partitions=2)
    delivered(broker.producer.produce(topic, [NewRecord(b"first", partition=0)], 10, lambda _: None))
    heard: list[list[RecordResult]] = []
    completed = Event()

    def on_results(results: list[RecordResult]) -> None:
        heard.append(results)
        completed.set()

    records = [NewRecord(b"a", partition=1), NewRecord(b"b", partition=0), NewRecord(b"c", partition=1)]
    with cluster.silent():
        results = broker.producer.produce(topic, records, 0.3, on_results)
        assert [type(each) for each in results] == [OutcomePending] * 3
        assert not heard
    assert completed.wait(10)
    assert [delivered(each) for each in heard] == [[(1, 0), (0, 1), (1, 1)]]


def test_on_results_is_not_called_for_final_results(cluster: Cluster, broker: Broker) -> None:
    topic = cluster.topic()
    heard: list[list[RecordResult]] = []
    for _ in range(5):
        delivered(broker.producer.produce(topic, [NewRecord(b"a")], 10, heard.append))
    with pytest.raises(PartitionNotFound):
        broker.producer.produce(topic, [NewRecord(b"a", partition=9)], 10, heard.append)
    assert not heard


def test_produce_without_a_broker_raises_broker_unavailable(cluster: Cluster) -> None:
    broker = cluster.unreachable()
    began = time.monotonic()
    for _ in range(20):
        with pytest.raises(BrokerUnavailable):
            broker.producer.produce("t", [NewRecord(b"a")], 10)
    assert time.monotonic() - began < scaled(5)
    assert broker.producer.start("t", [NewRecord(b"a")], 10, lambda: None) is None
    broker.close(1)
