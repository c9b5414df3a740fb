"""Publishing: the same tests for the fake and for Kafka."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import chain
from threading import Event

import pytest

from kafka_http.broker_protocols import Broker, Producer
from kafka_http.errors import (
    BrokerUnavailable,
    InvalidRequest,
    InvalidValue,
    OutcomePending,
    PartitionNotFound,
    TooLarge,
    TopicNotFound,
)
from kafka_http.records import BareValues, NewRecord, Record, RecordMetadata, RecordResult
from tests.contract.conftest import Cluster
from tests.support.polling import scaled, wait_for
from tests.support.topic_fetch import fetch

JAVA_MURMUR2 = {  # of Apache Kafka's UtilsTest
    b"21": -973932308,
    b"foobar": -790332482,
    b"a-little-bit-long-string": -985981536,
    b"a-little-bit-longer-string": -1486304829,
    b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
    b"abc": 479470107,
}


Publish = Callable[[str, Sequence[NewRecord], float], Sequence[RecordResult]]


def wait_for_result(
    producer: Producer, topic: str, records: Sequence[NewRecord], timeout: float
) -> Sequence[RecordResult]:
    return producer.publish(topic, records, timeout).result()


def wait_for_callback(
    producer: Producer, topic: str, records: Sequence[NewRecord], timeout: float
) -> Sequence[RecordResult]:
    done = Event()
    pending = producer.publish(topic, records, timeout)
    pending.add_done_callback(done.set)
    assert done.wait(timeout)
    assert pending.is_done
    return pending.result(0)


@pytest.fixture(params=[wait_for_result, wait_for_callback])
def publish(cluster: Cluster, request: pytest.FixtureRequest) -> Publish:
    """Publishes records and waits for their results, with `result` or with a callback."""
    return partial(request.param, cluster.broker.producer)


def stored(broker: Broker, topic: str, partition: int = 0) -> list[Record]:
    """Return all records of a partition."""
    fetched = fetch(broker, topic, {partition: 0}, max_records=10_000, max_bytes=1 << 20)
    return list(fetched.records[partition])


def delivered(results: Sequence[RecordResult]) -> list[tuple[int, int]]:
    """Return partition and offset of records that were all written."""
    places = [(each.partition, each.offset) for each in results if isinstance(each, RecordMetadata)]
    assert len(places) == len(results), results
    return places


def test_results_are_in_the_order_of_the_records(cluster: Cluster, broker: Broker, publish: Publish) -> None:
    topic = cluster.topic()
    assert delivered(publish(topic, [NewRecord(b"a"), NewRecord(b"b")], 10)) == [(0, 0), (0, 1)]
    assert delivered(publish(topic, [NewRecord(b"c")], 10)) == [(0, 2)]
    assert [each.value for each in stored(broker, topic)] == [b"a", b"b", b"c"]


def test_records_are_stored_byte_for_byte(cluster: Cluster, broker: Broker, publish: Publish) -> None:
    topic = cluster.topic()
    at = int(time.time() * 1000) - 60_000
    headers: list[tuple[str, bytes | None]] = [("é", b"\xff\x00"), ("twice", None), ("twice", b""), ("", b"x")]
    written = [
        NewRecord(b"\x00\xff", key=b"\x01", timestamp=at, headers=headers),
        NewRecord(None),
        NewRecord(b"", key=b""),
        NewRecord(None, headers=[("only", None)]),
    ]
    delivered(publish(topic, written, 10))
    read = stored(broker, topic)
    assert [(each.key, each.value, list(each.headers)) for each in read] == [
        (each.key, each.value, list(each.headers)) for each in written
    ]
    assert read[0].timestamp == at


def test_missing_timestamp_is_the_current_time(cluster: Cluster, broker: Broker, publish: Publish) -> None:
    topic = cluster.topic()
    before = int(time.time() * 1000)
    (result,) = publish(topic, [NewRecord(b"a")], 10)
    assert isinstance(result, RecordMetadata)
    assert before <= result.timestamp <= int(time.time() * 1000)
    assert stored(broker, topic)[0].timestamp == result.timestamp


def test_log_append_time_is_the_brokers_time(cluster: Cluster, broker: Broker, publish: Publish) -> None:
    topic = cluster.topic(append_time=True)
    before = int(time.time() * 1000)
    (result,) = publish(topic, [NewRecord(b"a", timestamp=5)], 10)
    assert isinstance(result, RecordMetadata)
    assert result.timestamp >= before
    assert stored(broker, topic)[0].timestamp == result.timestamp


def test_records_without_keys_go_to_one_partition_for_each_request(cluster: Cluster, publish: Publish) -> None:
    topic = cluster.topic(partitions=5)
    used: set[int] = set()

    deadline = time.monotonic() + 10
    while len(used) < 2 and time.monotonic() < deadline:
        places = delivered(publish(topic, [NewRecord(b"%d" % each) for each in range(20)], 10))
        used |= {partition for partition, _ in places}
        assert places == [(places[0][0], places[0][1] + each) for each in range(20)]
    assert len(used) > 1


@pytest.mark.parametrize("partitions", [1, 3, 7])
def test_keyed_records_use_javas_default_partitioner(cluster: Cluster, partitions: int, publish: Publish) -> None:
    topic = cluster.topic(partitions)
    results = publish(topic, [NewRecord(b"v", key=each) for each in JAVA_MURMUR2], 10)
    expected = [(each & 0x7FFFFFFF) % partitions for each in JAVA_MURMUR2.values()]
    assert [partition for partition, _ in delivered(results)] == expected


def test_named_partition_is_used(cluster: Cluster, publish: Publish) -> None:
    topic = cluster.topic(partitions=3)
    results = publish(topic, [NewRecord(b"a", key=b"k", partition=each) for each in (2, 0, 1)], 10)
    assert [partition for partition, _ in delivered(results)] == [2, 0, 1]


def test_missing_partition_raises_partition_not_found(cluster: Cluster, broker: Broker, publish: Publish) -> None:
    topic = cluster.topic(partitions=2)
    with pytest.raises(PartitionNotFound) as raised:
        publish(topic, [NewRecord(b"a", partition=0), NewRecord(b"b", partition=2)], 10)
    assert raised.value.fields == {"topic": topic, "partition": 2, "partitions": 2}
    assert stored(broker, topic) == []


def test_missing_topic_raises_topic_not_found(broker: Broker, publish: Publish) -> None:
    with pytest.raises(TopicNotFound):
        publish("nobody-made-this", [NewRecord(b"a")], 10)
    assert "nobody-made-this" not in broker.log.topics()


@pytest.mark.parametrize("name", ["with space", "ä", "..", "x" * 250])
def test_invalid_topic_name_raises_invalid_request(name: str, publish: Publish) -> None:
    with pytest.raises(InvalidRequest):
        publish(name, [NewRecord(b"a")], 10)


def test_too_large_record_fails_alone(cluster: Cluster, publish: Publish) -> None:
    topic = cluster.topic(limit=2000)
    records = [NewRecord(b"small"), NewRecord(b"x" * 3000), NewRecord(b"small too")]
    first, second, third = publish(topic, records, 10)
    assert isinstance(second, TooLarge)
    assert second.fields["limit"] == 2000
    assert delivered([first, third]) == [(0, 0), (0, 1)]
    assert delivered(publish(topic, [NewRecord(b"next")], 10)) == [(0, 2)]


def test_many_records_larger_than_a_batch_are_written(cluster: Cluster, broker: Broker, publish: Publish) -> None:
    topic = cluster.topic(limit=2000)
    values = [b"%d " % each + b"x" * 200 for each in range(50)]
    places = delivered(publish(topic, [NewRecord(each) for each in values], 10))
    assert places == [(0, each) for each in range(50)]
    assert [each.value for each in stored(broker, topic)] == values


def test_record_that_kafka_rejects_fails_alone(cluster: Cluster, publish: Publish) -> None:
    topic = cluster.topic(compacted=True)
    records = [NewRecord(b"a", key=b"k"), NewRecord(b"b"), NewRecord(None, key=b"k")]
    first, second, third = publish(topic, records, 10)
    assert isinstance(second, InvalidValue)
    assert delivered([first, third]) == [(0, 0), (0, 1)]
    assert delivered(publish(topic, [NewRecord(b"c", key=b"k")], 10)) == [(0, 2)]


def test_publishes_that_wait_together_all_complete(cluster: Cluster, broker: Broker) -> None:
    topic = cluster.topic(partitions=2)
    done = [Event() for _ in range(20)]
    pending = [
        broker.producer.publish(topic, [NewRecord(str(number).encode(), partition=number % 2)], 10)
        for number in range(20)
    ]
    for each, event in zip(pending, done, strict=True):
        each.add_done_callback(event.set)
    assert all(each.wait(scaled(10)) for each in done)
    results = [result for each in pending for result in each.result(0)]
    assert delivered(results) == [(number % 2, number // 2) for number in range(20)]


def test_publishes_of_many_threads_keep_their_order(cluster: Cluster, broker: Broker, publish: Publish) -> None:
    topic = cluster.topic()

    def publish_some(thread: int) -> list[int]:
        values = [b"%d %d" % (thread, number) for number in range(30)]
        return [offset for each in values for _, offset in delivered(publish(topic, [NewRecord(each)], 10))]

    with ThreadPoolExecutor(8) as pool:
        offsets = list(pool.map(publish_some, range(8)))
    assert sorted(chain.from_iterable(offsets)) == list(range(240))
    values = [each.value for each in stored(broker, topic)]
    for thread, positions in enumerate(offsets):
        assert [values[each] for each in positions] == [b"%d %d" % (thread, number) for number in range(30)]
        assert positions == sorted(positions)


def test_bare_values_go_to_one_partition(cluster: Cluster, broker: Broker) -> None:
    topic = cluster.topic(partitions=3)
    values = BareValues([b"a", None, b"", b"\xff"])
    results = broker.producer.publish(topic, values, 10).result()
    (partition, offset), *_ = places = delivered(results)
    assert places == [(partition, offset + each) for each in range(4)]
    read = stored(broker, topic, partition)
    assert [(each.key, each.value, list(each.headers)) for each in read] == [(None, each, []) for each in values]
    assert {each.timestamp for each in results if isinstance(each, RecordMetadata)} == {each.timestamp for each in read}


def test_too_large_bare_value_fails_alone(cluster: Cluster, broker: Broker) -> None:
    topic = cluster.topic(limit=2000)
    values = BareValues([b"small", b"x" * 3000, b"small too"])
    first, second, third = broker.producer.publish(topic, values, 10).result()
    assert isinstance(second, TooLarge)
    assert delivered([first, third]) == [(0, 0), (0, 1)]


def test_error_of_the_whole_request_is_in_the_result(cluster: Cluster, broker: Broker) -> None:
    topic = cluster.topic()
    records = [NewRecord(b"good"), NewRecord(b"nowhere", partition=1)]
    for name, kind in ((topic, PartitionNotFound), ("nobody-made-this", TopicNotFound)):
        done = Event()
        pending = broker.producer.publish(name, records, 10)
        pending.add_done_callback(done.set)
        assert done.wait(scaled(10))
        for _ in range(2):
            with pytest.raises(kind):
                pending.result()
    assert stored(broker, topic) == []


def test_late_results_are_final_when_the_callback_is_called(cluster: Cluster, broker: Broker) -> None:
    topic = cluster.topic(partitions=2)
    delivered(broker.producer.publish(topic, [NewRecord(b"first", partition=0)], 10, keeps_trying=True).result())
    completed = Event()
    records = [NewRecord(b"a", partition=1), NewRecord(b"b", partition=0), NewRecord(b"c", partition=1)]
    with cluster.silent():
        pending = broker.producer.publish(topic, records, 0.3, keeps_trying=True)
        pending.add_done_callback(completed.set)
        for timeout in (None, 0, 0.01):
            assert [type(each) for each in pending.result(timeout)] == [OutcomePending] * 3
        assert not pending.is_done
        assert not completed.is_set()
    assert completed.wait(scaled(10))
    assert delivered(pending.result(0)) == [(1, 0), (0, 1), (1, 1)]


def test_callback_is_called_once(cluster: Cluster, broker: Broker) -> None:
    topic = cluster.topic()
    calls: list[int] = []
    for number in range(5):
        pending = broker.producer.publish(topic, [NewRecord(b"a")], 10, keeps_trying=True)
        pending.add_done_callback(partial(calls.append, number))
        delivered(pending.result())
        pending.add_done_callback(partial(calls.append, number))
    wait_for(lambda: len(calls) == 10)
    assert sorted(calls) == [each // 2 for each in range(10)]


def test_publish_without_a_broker_fails_with_broker_unavailable(cluster: Cluster) -> None:
    broker = cluster.unreachable()
    began = time.monotonic()
    for _ in range(20):
        with pytest.raises(BrokerUnavailable):
            broker.producer.publish("t", [NewRecord(b"a")], 10).result()
    assert time.monotonic() - began < scaled(5)
    broker.close(1)
