"""The producer before brokers that are played in the same process: topics, leaders, rounds, limits and its end."""

import logging
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from kafka_http.broker.idempotent_producer import IdempotentProducer
from kafka_http.broker.partition_queue import MAX_EPOCH
from kafka_http.broker.pending_publish import KafkaPendingPublish
from kafka_http.errors import (
    BrokerUnavailable,
    InvalidValue,
    OutcomePending,
    OutcomeUnknown,
    PartitionNotFound,
    RetriableBrokerError,
    TooLarge,
    TooMuchInFlight,
    TopicNotFound,
)
from kafka_http.records import BareValues, NewRecord, PartitionInfo, RecordMetadata
from tests.support.fake_leaders import SETTINGS, FakeLeaders, ProducerRun
from tests.support.polling import wait_for

T = 20.0


@pytest.fixture
def run() -> Iterator[ProducerRun]:
    run = ProducerRun()
    run.brokers.create("t", 1)
    yield run
    run.close()


def values(*each: bytes) -> BareValues:
    return BareValues(each)


def to(partition: int, *each: bytes) -> list[NewRecord]:
    """Return records for a partition."""
    return [NewRecord(value, partition=partition) for value in each]


def publish(run: ProducerRun, records: Sequence[NewRecord] | BareValues, topic: str = "t") -> KafkaPendingPublish:
    return run.producer.publish(topic, records, T)


def stored(run: ProducerRun, topic: str = "t", partition: int = 0) -> list[bytes]:
    return [each.name for each in run.brokers.stored(topic, partition)]


def places(pending: KafkaPendingPublish) -> list[tuple[int, int]]:
    """Return partition and offset of each record. All must be written."""
    results = pending.result(0)
    assert all(isinstance(each, RecordMetadata) for each in results), results
    return [(each.partition, each.offset) for each in results if isinstance(each, RecordMetadata)]


def published(run: ProducerRun, *each: bytes, topic: str = "t") -> KafkaPendingPublish:
    """Publish values, and wait for the result."""
    pending = publish(run, values(*each), topic)
    run.run_until_done(pending)
    return pending


# Topics


def test_first_publish_reads_the_topic_and_connects(run: ProducerRun) -> None:
    assert places(published(run, b"a", b"b")) == [(0, 0), (0, 1)]
    assert sorted(run.brokers.calls) == ["connect", "new_identity", "partitions"]


def test_publishes_that_wait_for_metadata_keep_their_order(run: ProducerRun) -> None:
    publishes = [publish(run, to(0, b"%d" % each)) for each in range(500)]
    run.run_until_done(*publishes)
    assert stored(run) == [b"%d" % each for each in range(500)]
    assert len(run.brokers.answered) == 1


def test_failed_metadata_fails_the_publishes_that_wait_and_later_ones_succeed(run: ProducerRun) -> None:
    run.brokers.errors["partitions"] = [BrokerUnavailable("No Kafka broker answers.")]
    publishes = [publish(run, values(b"%d" % each)) for each in range(3)]
    run.run_until_done(*publishes)
    for each in publishes:
        with pytest.raises(BrokerUnavailable):
            each.result(0)
    assert places(published(run, b"a")) == [(0, 0)]


def test_failed_producer_id_is_asked_for_again(run: ProducerRun) -> None:
    run.brokers.errors["new_identity"] = [RetriableBrokerError("The coordinator is loading.")]
    first = publish(run, values(b"a"))
    run.run_until_done(first)
    assert isinstance(first.error, RetriableBrokerError)
    published(run, b"b")
    assert run.brokers.calls.count("new_identity") == 2


def test_missing_topics_are_forgotten(run: ProducerRun) -> None:
    for each in range(10):
        pending = publish(run, values(b"a"), f"missing-{each}")
        run.run_until_done(pending)
        assert isinstance(pending.error, TopicNotFound)
    assert not run.producer._topics


def test_unknown_topics_are_forgotten_during_an_outage(run: ProducerRun) -> None:
    """A client that invents names would fill the memory."""
    run.brokers.errors["partitions"] = [BrokerUnavailable("No Kafka broker answers.") for _ in range(10)]
    for each in range(10):
        pending = publish(run, values(b"a"), f"invented-{each}")
        run.run_until_done(pending)
    assert not run.producer._topics


def test_error_of_many_publishes_does_not_collect_tracebacks(run: ProducerRun) -> None:
    """Each `raise` adds a traceback to the error that the publishes share, and a traceback holds a request."""
    publishes = [publish(run, values(b"a"), "missing") for _ in range(50)]
    run.run_until_done(*publishes)
    depths = []
    for each in publishes:
        with pytest.raises(TopicNotFound) as raised:
            each.result(0)
        depths.append(len(raised.traceback))
    assert len(set(depths)) == 1


def test_publish_of_a_callback_to_a_missing_topic_is_answered(run: ProducerRun) -> None:
    first = publish(run, values(b"a"), "missing")
    later: list[KafkaPendingPublish] = []
    first.add_done_callback(lambda: later.append(publish(run, values(b"b"), "missing")))
    run.run_until(lambda: later and later[0].is_done)
    assert isinstance(later[0].error, TopicNotFound)
    run.brokers.create("missing", 1)
    publishes = [publish(run, values(b"%d" % each), "missing") for each in range(2)]
    run.run_until_done(*publishes)
    assert stored(run, "missing") == [b"0", b"1"]


def test_deleted_topic_fails_records_that_were_not_sent(run: ProducerRun) -> None:
    published(run, b"a")
    run.brokers.delete("t")
    pending = publish(run, values(b"b"))
    run.run_until_done(pending)
    with pytest.raises(TopicNotFound):
        pending.result(0)


def test_deleted_topic_without_a_leader_fails_records_that_were_just_published(run: ProducerRun) -> None:
    """The end of the round raised `KeyError`, which ended the worker."""
    run.brokers.topics["u"] = [PartitionInfo(0, None, (1,), ())]
    first = publish(run, values(b"a"), "u")
    run.run_until(lambda: "u" in run.producer._topics and run.producer._topics["u"].queues)
    del run.brokers.topics["u"]
    run.run_until(lambda: run.producer._topics["u"].is_reading)
    second = publish(run, values(b"b"), "u")
    run.run_until_done(first, second)
    with pytest.raises(TopicNotFound):
        second.result(0)


def test_topic_made_again_does_not_see_used_sequence_numbers(run: ProducerRun) -> None:
    """Brokers may know the producer of the topic before: a number used twice would pass for a duplicate."""
    published(run, b"a")
    log = run.brokers.logs["t", 0]
    run.brokers.delete("t")
    run.run_until_done(publish(run, values(b"b")))
    run.brokers.create("t", 1)
    run.brokers.logs["t", 0] = log  # the deletion was an error of one broker's metadata
    assert places(published(run, b"c")) == [(0, 1)]
    assert stored(run) == [b"a", b"c"]


def test_records_for_an_added_partition_wait_for_metadata(run: ProducerRun) -> None:
    published(run, b"a")
    run.brokers.create("t", 1, 1)
    pending = publish(run, to(1, b"b"))
    run.run_until_done(pending)
    assert places(pending) == [(1, 0)]


def test_missing_partition_is_not_found(run: ProducerRun) -> None:
    for _ in range(2):
        pending = publish(run, to(5, b"a"))
        run.run_until_done(pending)
        with pytest.raises(PartitionNotFound):
            pending.result(0)


@pytest.mark.parametrize("has_key", [False, True])
def test_publish_without_a_partition_goes_to_one_that_a_recreated_topic_has(
    run: ProducerRun, monkeypatch: pytest.MonkeyPatch, *, has_key: bool
) -> None:
    """Another process created the topic again with fewer partitions: the publish chose one that is gone, a 404."""
    monkeypatch.setattr("kafka_http.broker.topic_queues.random.choice", max)
    run.brokers.create("u", 1, 1, 1)
    records = [NewRecord(b"b", key=b"k1")] if has_key else values(b"b", b"c")
    first = publish(run, records, "u")
    run.run_until_done(first)
    assert {partition for partition, _ in places(first)} != {0}

    run.brokers.delete("u")
    run.brokers.create("u", 1)
    again = publish(run, records, "u")
    run.run_until_done(again)
    assert places(again) == [(0, each) for each in range(len(records))]


def test_publish_that_waits_is_retried_during_a_short_outage(run: ProducerRun) -> None:
    """No other event was due that would have read the metadata again."""
    published(run, b"a")
    run.brokers.errors["partitions"] = [BrokerUnavailable("No Kafka broker answers.") for _ in range(3)]
    run.brokers.create("t", 1, 1)
    pending = publish(run, to(1, b"b"))
    run.run_until_done(pending)
    assert places(pending) == [(1, 0)]


def test_keys_choose_the_partition_of_the_java_client(run: ProducerRun) -> None:
    run.brokers.create("t", 1, 1, 1)
    pending = publish(run, [NewRecord(b"v", key=each) for each in (b"21", b"foobar", b"abc")])
    run.run_until_done(pending)
    expected = [(each & 0x7FFFFFFF) % 3 for each in (-973932308, -790332482, 479470107)]
    assert [partition for partition, _ in places(pending)] == expected


# Leaders


def test_moved_leader_gets_the_records_after_new_metadata(run: ProducerRun) -> None:
    published(run, b"a")
    run.brokers.create("t", 2)
    assert places(published(run, b"b")) == [(0, 1)]
    assert [node for node, _ in run.brokers.answered] == [1, 1, 2]


def test_round_sends_one_request_to_each_leader(run: ProducerRun) -> None:
    run.brokers.create("t", 1, 2, 1, 2, 1)
    run.run_until_done(*[publish(run, to(each, b"first")) for each in range(5)])
    run.brokers.answered.clear()
    publishes = [publish(run, to(each, b"x")) for each in range(5)]
    run.run_until_done(*publishes)
    assert sorted((node, sorted(request.batches)) for node, request in run.brokers.answered) == [
        (1, [("t", 0), ("t", 2), ("t", 4)]),
        (2, [("t", 1), ("t", 3)]),
    ]


def test_lost_connection_is_opened_again_and_nothing_is_written_twice(run: ProducerRun) -> None:
    published(run, b"a")
    for written in (False, True):
        pending = publish(run, values(b"written %d" % written))
        run.loop.run_round()
        (peer,) = run.brokers.peers[1]
        (request,) = peer.read()
        if written:
            run.brokers.logs["t", 0].append(request.batches["t", 0])
        run.brokers.peers[1].clear()
        peer.sock.close()
        run.run_until_done(pending)
        assert places(pending)
    assert stored(run) == [b"a", b"written 0", b"written 1"]


def test_connection_that_fails_is_retried_with_a_backoff() -> None:
    run = ProducerRun(retry_backoff_ms=100)
    run.brokers.create("t", 1)
    run.brokers.errors["connect"] = [BrokerUnavailable("Tried: broker1:9092 (connection refused).")] * 2
    began = time.monotonic()
    pending = publish(run, values(b"a"))
    run.run_until(lambda: "broker1:9092 (connection refused)" in str(pending.result(0)[0]))
    run.run_until_done(pending)
    assert run.brokers.calls.count("connect") == 3
    assert time.monotonic() - began >= 0.3
    run.close()


def test_records_of_a_silent_broker_are_unknown_after_their_deadline() -> None:
    run = ProducerRun(delivery_timeout_ms=100, request_timeout_ms=50)
    run.brokers.create("t", 1)
    run.brokers.silent.add(1)
    pending = run.producer.publish("t", values(b"a"), 0.1)
    run.run_until_done(pending)
    assert isinstance(pending.result(0)[0], OutcomeUnknown)
    run.close()


def test_publish_that_keeps_trying_outlives_its_timeout() -> None:
    run = ProducerRun(delivery_timeout_ms=100, request_timeout_ms=50)
    run.brokers.create("t", 1)
    run.brokers.silent.add(1)
    pending = run.producer.publish("t", values(b"a"), 0.1, keeps_trying=True)
    run.run_until(lambda: run.brokers.calls.count("connect") > 2)
    assert isinstance(pending.result(0)[0], OutcomePending)
    run.brokers.silent.clear()
    run.run_until_done(pending)
    assert stored(run) == [b"a"]
    run.close()


def test_login_is_renewed_on_another_connection() -> None:
    run = ProducerRun()
    run.brokers.create("t", 1)
    run.brokers.lifetime = 0.3
    published(run, b"0")

    def is_renewed() -> bool:
        published(run, b"x")
        return run.brokers.calls.count("connect") >= 3

    run.run_until(is_renewed)
    run.close()


def test_replaced_connection_that_is_silent_times_out() -> None:
    """Nobody looked after it: its batches waited for ever, and all later records of their partitions."""
    run = ProducerRun(request_timeout_ms=300)
    run.brokers.create("t", 1)
    run.brokers.lifetime = 0.2
    published(run, b"a")
    run.brokers.silent.add(1)
    stuck = publish(run, values(b"b"))
    run.loop.run_round()
    silent = run.brokers.peers.pop(1)
    run.brokers.silent.clear()
    time.sleep(0.16)  # 0.7 of the lifetime
    run.brokers.create("t", 1, 1)
    run.run_until_done(publish(run, to(1, b"other")))  # makes another connection
    assert not stuck.is_done
    run.run_until_done(stuck)
    assert stored(run) == [b"a", b"b"]
    for each in silent:
        each.sock.close()
    run.close()


# Rounds


def test_publishes_of_a_round_share_a_request(run: ProducerRun) -> None:
    published(run, b"a")
    run.brokers.answered.clear()
    run.run_until_done(*[publish(run, values(b"%d" % each)) for each in range(50)])
    assert len(run.brokers.answered) == 1


def test_partition_that_finds_no_free_request_is_next(run: ProducerRun) -> None:
    """Other partitions took each free request, and it waited for as long as they were busy."""
    partitions = range(8)
    run.brokers.create("t", *[1] * len(partitions))
    run.run_until_done(*[publish(run, to(each, b"first")) for each in partitions])
    run.brokers.silent.add(1)
    for each in range(5):  # as many requests as may be in flight
        publish(run, to(each, b"busy"))
        run.loop.run_round()
    starving = publish(run, to(7, b"starving"))
    run.loop.run_round()
    (peer,) = run.brokers.peers[1]
    for _ in range(3):  # the broker answers one request at a time, and its partition has new records each time
        request = peer.read().pop(0)
        ((_, partition),) = request.batches
        publish(run, to(partition, b"more"))
        results = {place: (0, run.brokers.logs[place].append(data).offset) for place, data in request.batches.items()}
        peer.sock.sendall(peer.response(request.number, results))
        run.loop.run_round()
        if any(("t", 7) in each.batches for each in peer.read()):
            break
    else:
        pytest.fail("the partition is starving")
    run.brokers.silent.clear()
    run.run_until_done(starving)


def test_requests_have_at_most_the_largest_size() -> None:
    run = ProducerRun(max_request_size=1000)
    run.brokers.create("t", *[1] * 6)
    run.run_until_done(*[publish(run, to(each, b"first")) for each in range(6)])
    run.brokers.answered.clear()
    publishes = [publish(run, to(each, b"%d" % each * 400)) for each in range(6)]
    run.run_until_done(*publishes)
    sizes = [sum(map(len, request.batches.values())) for _, request in run.brokers.answered]
    assert len(sizes) == 3
    assert max(sizes) <= 1000
    run.close()


def test_linger_collects_the_records_of_some_rounds() -> None:
    run = ProducerRun(linger_ms=100)
    run.brokers.create("t", 1)
    began = time.monotonic()
    published(run, b"a")
    assert time.monotonic() - began >= 0.1
    run.brokers.answered.clear()
    publishes = []
    for each in range(5):
        publishes.append(publish(run, values(b"%d" % each)))
        run.round()
    assert not run.brokers.answered
    run.run_until_done(*publishes)
    assert len(run.brokers.answered) == 1
    run.close()


def test_full_batch_does_not_linger() -> None:
    run = ProducerRun(linger_ms=60_000, batch_size=1000)
    run.brokers.create("t", 1)
    pending = publish(run, values(bytes(2000)))
    run.run_until_done(pending)
    run.close()


def test_loop_without_records_has_no_deadline(run: ProducerRun) -> None:
    published(run, b"a")
    run.run_until(lambda: run.producer.next_deadline == float("inf"))


def test_waiting_records_do_not_keep_the_loop_busy(run: ProducerRun) -> None:
    """The next deadline is in the future, whatever the records wait for."""
    run.brokers.errors["connect"] = [BrokerUnavailable("Tried: broker1:9092 (connection refused).")] * 1000
    publish(run, values(b"a"))
    for _ in range(50):
        run.round()
        now = time.monotonic()
        assert run.producer.next_deadline > now - 0.04


# Epochs


def test_exhausted_epochs_are_replaced_by_another_producer_id(run: ProducerRun) -> None:
    run.brokers.first_epoch = MAX_EPOCH
    published(run, b"a")
    run.brokers.first_epoch = 0
    pending = run.producer.publish("t", values(b"b"), T)
    run.loop.run_round()
    (peer,) = run.brokers.peers[1]
    peer.answer(peer.read().pop(0), error=45, offset=-1)
    run.run_until_done(pending)
    assert run.brokers.calls.count("new_identity") == 2
    assert stored(run) == [b"a", b"b"]


# Records


def test_rejected_records_are_results_and_the_others_are_written(run: ProducerRun) -> None:
    records = [
        NewRecord(b"a"),
        NewRecord(b"x", timestamp=-5),
        NewRecord(b"c"),
        NewRecord(b"x", headers=[("\ud800", b"")]),
    ]
    pending = publish(run, records)
    run.run_until_done(pending)
    kinds = [type(each) for each in pending.result(0)]
    assert kinds == [RecordMetadata, InvalidValue, RecordMetadata, InvalidValue]
    assert stored(run) == [b"a", b"c"]


def test_only_rejected_records_end_at_once(run: ProducerRun) -> None:
    pending = publish(run, [NewRecord(b"x", timestamp=-5)])
    run.run_until_done(pending)
    assert isinstance(pending.result(0)[0], InvalidValue)


@pytest.mark.timeout(100)
def test_many_rejected_records_take_linear_time(run: ProducerRun) -> None:
    """Each made a copy of the errors before it. That takes minutes for this number, instead of a second."""
    published(run, b"a")
    pending = publish(run, [NewRecord(b"x", timestamp=-5)] * 100_000)
    assert pending.is_done


def test_too_large_record_names_the_limit_of_the_topic(run: ProducerRun) -> None:
    published(run, b"a")
    run.brokers.limit = 77
    pending = publish(run, values(b"b"))
    run.loop.run_round()
    (peer,) = run.brokers.peers[1]
    peer.answer(peer.read().pop(0), error=10, offset=-1)
    run.run_until_done(pending)
    (error,) = pending.result(0)
    assert isinstance(error, TooLarge)
    assert error.fields["limit"] == 77


def test_publish_without_records_is_done(run: ProducerRun) -> None:
    pending = publish(run, [])
    assert pending.is_done
    assert list(pending.result(0)) == []


def test_too_many_bytes_of_publishes_that_keep_trying_are_refused(
    run: ProducerRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kafka_http.broker.idempotent_producer._MAX_UNACKNOWLEDGED_BYTES", 1000)

    def publish_large() -> KafkaPendingPublish:
        return run.producer.publish("t", values(bytes(300)), T, keeps_trying=True)

    publishes = [publish_large() for _ in range(4)]
    with pytest.raises(TooMuchInFlight):
        publish_large()
    publish(run, values(b"others may publish"))
    run.run_until_done(*publishes)
    run.run_until_done(publish_large())
    assert run.producer._unacknowledged_bytes == 0


# Callbacks and threads


def test_callback_is_called_once(run: ProducerRun) -> None:
    called: list[str] = []
    pending = publish(run, values(b"a"))
    pending.add_done_callback(lambda: called.append("before"))
    run.run_until_done(pending)
    pending.add_done_callback(lambda: called.append("after"))
    run.round()
    assert called == ["before", "after"]


def test_failing_callback_does_not_hide_other_results(run: ProducerRun, caplog: pytest.LogCaptureFixture) -> None:
    publishes = [publish(run, values(b"%d" % each)) for each in range(3)]
    publishes[0].add_done_callback(partial(divmod, 1, 0))
    with caplog.at_level(logging.ERROR):
        run.run_until_done(*publishes)
    assert "ZeroDivisionError" in caplog.text


def test_callback_may_publish(run: ProducerRun) -> None:
    chain: list[KafkaPendingPublish] = [publish(run, values(b"0"))]

    def next_one() -> None:
        if len(chain) < 20:
            chain.append(publish(run, values(b"%d" % len(chain))))
            chain[-1].add_done_callback(next_one)

    chain[0].add_done_callback(next_one)
    run.run_until(lambda: len(chain) == 20 and chain[-1].is_done)
    assert stored(run) == [b"%d" % each for each in range(20)]


class Threaded:
    """A producer with a loop thread of its own. Another thread makes the calls and plays the brokers."""

    def __init__(self) -> None:
        self.brokers = FakeLeaders()
        self.brokers.create("t", 1, 2, 1)
        self.producer = IdempotentProducer(SETTINGS, self.brokers)  # type: ignore[arg-type]
        self._is_stopped = threading.Event()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while not self._is_stopped.wait(0.0005):
            self.brokers.make_calls()
            self.brokers.serve()

    def close(self) -> None:
        self.producer.close(5)
        self._is_stopped.set()
        self._thread.join()
        self.brokers.close()


@pytest.fixture
def threaded() -> Iterator[Threaded]:
    threaded = Threaded()
    yield threaded
    threaded.close()


def test_publishes_of_many_threads_are_all_written_once_and_in_order(threaded: Threaded) -> None:
    calls: list[str] = []

    def write(thread: int) -> None:
        for each in range(100):
            pending = threaded.producer.publish("t", to(thread % 3, b"%d-%d" % (thread, each)), T)
            pending.add_done_callback(lambda: calls.append("done"))
            if each % 10 == 0:
                assert isinstance(pending.result()[0], RecordMetadata)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(write, range(6)))
    wait_for(lambda: len(calls) == 600)
    names = [each.name for partition in range(3) for each in threaded.brokers.stored("t", partition)]
    assert len(set(names)) == len(names) == 600
    for thread in range(6):
        own = [each for each in names if each.startswith(b"%d-" % thread)]
        assert own == [b"%d-%d" % (thread, each) for each in range(100)]


def test_callbacks_added_by_many_threads_are_called_once(threaded: Threaded) -> None:
    for _ in range(50):
        pending = threaded.producer.publish("t", values(b"a"), T)
        called: list[int] = []
        with ThreadPoolExecutor(4) as pool:
            for each in range(20):
                pool.submit(pending.add_done_callback, partial(called.append, each))
        assert pending.result()
        wait_for(lambda: len(called) >= 20)  # noqa: B023  it is called at once
        assert sorted(called) == list(range(20))


def test_result_waits_for_its_timeout_only(threaded: Threaded) -> None:
    threaded.brokers.silent |= {1, 2}
    pending = threaded.producer.publish("t", values(b"a"), 0.2)
    assert isinstance(pending.result(0)[0], OutcomePending)
    assert isinstance(pending.result()[0], OutcomePending)
    threaded.brokers.silent.clear()
    assert isinstance(pending.result(10)[0], RecordMetadata)


# The end


def test_close_sends_what_waits(threaded: Threaded) -> None:
    publishes = [threaded.producer.publish("t", to(0, b"%d" % each), T) for each in range(50)]
    threaded.producer.close(10)
    assert all(isinstance(each.result(0)[0], RecordMetadata) for each in publishes)


def test_close_reports_what_is_in_flight_as_unknown_and_the_rest_as_not_written(threaded: Threaded) -> None:
    producer, brokers = threaded.producer, threaded.brokers
    assert isinstance(producer.publish("t", to(0, b"first"), T).result()[0], RecordMetadata)
    brokers.silent |= {1, 2}
    in_flight = producer.publish("t", to(0, b"in flight"), T)
    wait_for(lambda: any(queue._is_in_flight for queue in producer._topics["t"].queues.values()))
    waiting = producer.publish("t", to(0, b"waiting"), T)
    producer.close(0.2)
    assert isinstance(in_flight.result(0)[0], OutcomeUnknown)
    assert not isinstance(in_flight.result(0)[0], OutcomePending)
    assert isinstance(waiting.result(0)[0], BrokerUnavailable)
    assert [each.name for each in brokers.stored("t")] == [b"first"]


def test_close_after_the_attached_loop_ended_sends_what_waits(run: ProducerRun) -> None:
    published(run, b"a")
    pending = publish(run, values(b"b"))
    run.loop.close()
    stop = threading.Event()

    def serve() -> None:
        while not stop.wait(0.001):
            run.brokers.make_calls()
            run.brokers.serve()

    thread = threading.Thread(target=serve)
    thread.start()
    run.producer.close(10)
    stop.set()
    thread.join()
    assert places(pending) == [(0, 1)]


@pytest.mark.parametrize("lost_call", ["partitions", "connect"])
def test_close_makes_the_calls_again_whose_results_the_attached_loop_missed(run: ProducerRun, lost_call: str) -> None:
    pending = publish(run, values(b"a"))
    run.run_until(lambda: lost_call in run.brokers.calls)  # its result waits in the loop that ends
    run.loop.close()
    stop = threading.Event()

    def serve() -> None:
        while not stop.wait(0.001):
            run.brokers.make_calls()
            run.brokers.serve()

    thread = threading.Thread(target=serve)
    thread.start()
    run.producer.close(10)
    stop.set()
    thread.join()
    assert places(pending) == [(0, 0)]


@pytest.mark.parametrize("was_used", [False, True])
def test_publish_after_close_fails_at_once(was_used: bool) -> None:
    threaded = Threaded()
    if was_used:
        threaded.producer.publish("t", values(b"a"), T).result()
    threaded.producer.close(5)
    pending = threaded.producer.publish("t", values(b"b"), T)
    assert pending.is_done
    with pytest.raises(BrokerUnavailable):
        pending.result()
    threaded.close()
