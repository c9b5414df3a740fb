"""The relay over a real store, before a Kafka that does as it is told."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import cast

import pytest

from kafka_http.broker_protocols import Producer
from kafka_http.errors import BrokerUnavailable, KafkaHttpError, OutcomeUnknown, PartitionNotFound, TooLarge
from kafka_http.node.store import StoredTasks, open_database
from kafka_http.publish.outbox_relay import OutboxRelay
from kafka_http.records import BareValues, NewRecord, RecordMetadata, RecordResult
from kafka_http.tasks import NewTask, QueuedTask, Task, encode_records, new_task_id
from tests.support.fake_pending import FakePendingPublish, completed

Answer = Callable[[Sequence[bytes | None]], list[RecordResult] | KafkaHttpError]


def delivered(values: Sequence[bytes | None]) -> list[RecordResult]:
    return [RecordMetadata(0, number, 1) for number in range(len(values))]


class Kafka:
    """A `Producer` whose answers to a topic's calls are given, one after the other; then it delivers."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, list[bytes | None]]] = []
        self.answers: dict[str, list[Answer]] = {}

    def publish(
        self, topic: str, records: Sequence[NewRecord] | BareValues, timeout: float, *, keeps_trying: bool = False
    ) -> FakePendingPublish:
        assert keeps_trying
        values = [each.value for each in cast("Sequence[NewRecord]", records)]
        self.calls.append((topic, values))
        answers = self.answers.get(topic)
        return completed((answers.pop(0) if answers else delivered)(values))


class Outbox:
    """A store, and its relay once `run`."""

    def __init__(self, store: StoredTasks) -> None:
        self.kafka = Kafka()
        self.freed = 0
        self._store = store
        self._ended: dict[str, threading.Event] = {}
        self.relay = OutboxRelay(store, cast("Producer", self.kafka), self._end)

    def add(self, *values: bytes, topic: str = "t") -> str:
        task = NewTask(new_task_id(), topic, time.time(), encode_records([NewRecord(each) for each in values]))
        self._ended[task.id] = threading.Event()
        self._store.add([task])
        return task.id

    def ended(self, task_id: str) -> Task:
        assert self._ended[task_id].wait(15), "it does not end"
        task = self._store.find(task_id)
        assert task is not None
        return task

    def _end(self, over: Sequence[QueuedTask]) -> None:
        self.freed += sum(each.size for each in over)
        for each in over:
            self._ended[each.id].set()


@pytest.fixture
def outbox(tmp_path: Path) -> Iterator[Outbox]:
    with closing(open_database(tmp_path)) as database:
        outbox = Outbox(StoredTasks(database))
        yield outbox
        outbox.relay.stop(5)


def test_waiting_tasks_are_published_in_one_call_in_order(outbox: Outbox) -> None:
    tasks = [outbox.add(b"%d" % number) for number in range(5)]
    outbox.relay.start()
    assert {outbox.ended(each).status for each in tasks} == {"delivered"}
    assert outbox.kafka.calls == [("t", [b"0", b"1", b"2", b"3", b"4"])]
    assert outbox.freed > 5


def test_tasks_that_arrive_one_by_one_are_batched(outbox: Outbox) -> None:
    outbox.relay.start()
    began = time.monotonic()
    tasks = []
    for number in range(100):
        tasks.append(outbox.add(b"%d" % number))
        outbox.relay.wake({"t"})
    assert {outbox.ended(each).status for each in tasks} == {"delivered"}
    assert [value for _, values in outbox.kafka.calls for value in values] == [b"%d" % each for each in range(100)]
    assert len(outbox.kafka.calls) <= (time.monotonic() - began) / 0.02 + 2


def test_backlog_is_published_without_pauses(outbox: Outbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kafka_http.publish.outbox_relay._LINGER_SECONDS", 20)
    tasks = [outbox.add(b"%d" % number) for number in range(1001)]
    outbox.relay.start()
    assert {outbox.ended(each).status for each in tasks} == {"delivered"}
    assert [len(values) for _, values in outbox.kafka.calls] == [500, 500, 1]


def test_acknowledged_records_are_not_sent_again(outbox: Outbox) -> None:
    first, second = outbox.add(b"a", b"b"), outbox.add(b"c")
    outbox.kafka.answers["t"] = [lambda _: [RecordMetadata(0, 7, 1), OutcomeUnknown("?"), BrokerUnavailable("away")]]
    outbox.relay.start()
    assert outbox.ended(second).status == "delivered"
    assert outbox.kafka.calls == [("t", [b"a", b"b", b"c"]), ("t", [b"b", b"c"])]
    assert b'"offset":7' in (outbox.ended(first).outcome or b"")


def test_task_that_may_be_written_cannot_be_cancelled(outbox: Outbox) -> None:
    task = outbox.add(b"a")
    again = threading.Event()

    def unknown_then_away(_: object) -> list[RecordResult]:
        outbox.kafka.answers["t"] = [lambda _: BrokerUnavailable("away"), held]
        return [OutcomeUnknown("?")]

    def held(values: Sequence[bytes | None]) -> list[RecordResult]:
        assert again.wait(15)
        return delivered(values)

    outbox.kafka.answers["t"] = [unknown_then_away]
    outbox.relay.start()
    deadline = time.monotonic() + 15
    while len(outbox.kafka.calls) < 3:
        assert time.monotonic() < deadline
        with outbox.relay.while_unsent(task) as is_unsent:
            assert not outbox.kafka.calls or not is_unsent
        time.sleep(0.01)
    again.set()
    assert outbox.ended(task).status == "delivered"


def test_task_that_fails_its_batch_is_isolated(outbox: Outbox) -> None:
    def refused(values: Sequence[bytes | None]) -> list[RecordResult] | KafkaHttpError:
        return PartitionNotFound("t", 9, 1) if b"bad" in values else delivered(values)

    good, bad, last = outbox.add(b"good"), outbox.add(b"bad"), outbox.add(b"last")
    outbox.kafka.answers["t"] = [refused] * 4
    outbox.relay.start()
    assert [outbox.ended(each).status for each in (good, bad, last)] == ["delivered", "failed", "delivered"]
    assert [values for _, values in outbox.kafka.calls] == [[b"good", b"bad", b"last"], [b"good"], [b"bad"], [b"last"]]


def test_task_that_cannot_be_written_does_not_block_others(outbox: Outbox) -> None:
    bad, good = outbox.add(b"bad", b"too"), outbox.add(b"good")
    outbox.kafka.answers["t"] = [lambda _: [TooLarge("no"), RecordMetadata(0, 0, 1), RecordMetadata(0, 1, 1)]]
    outbox.relay.start()
    assert outbox.ended(good).status == "delivered"
    task = outbox.ended(bad)
    assert task.status == "failed"
    assert b'"code":413' in (task.outcome or b"")


def test_topic_that_is_retried_does_not_block_others(outbox: Outbox) -> None:
    outbox.kafka.answers["t"] = [lambda _: BrokerUnavailable("no leader")] * 4
    waiting, other = outbox.add(b"1"), outbox.add(b"2", topic="u")
    outbox.relay.start()
    assert outbox.ended(other).status == "delivered"
    assert outbox.ended(waiting).status == "delivered"
    assert [values for topic, values in outbox.kafka.calls if topic == "t"] == [[b"1"]] * 5


def test_unexpected_exception_is_logged_and_retried(outbox: Outbox, caplog: pytest.LogCaptureFixture) -> None:
    def broken(_: object) -> list[RecordResult]:
        raise RuntimeError("a defect")

    outbox.kafka.answers["t"] = [broken]
    task = outbox.add(b"1")
    outbox.relay.start()
    assert outbox.ended(task).status == "delivered"
    assert "a defect" in caplog.text
