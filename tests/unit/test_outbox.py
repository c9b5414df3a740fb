"""The outbox over a real store, before a Kafka that takes all."""

import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from kafka_http.node.store import StoredTasks, open_database
from kafka_http.publish.outbox import Outbox
from kafka_http.records import NewRecord
from kafka_http.tasks import NewTask, Task, callback_body, encode_records, new_task_id, task_to_dict
from tests.support.fake_broker import FakeBroker


class Callbacks:
    """Counts how often it was told that some are due."""

    def __init__(self) -> None:
        self.woken = 0

    def start(self) -> None: ...

    def wake(self) -> None:
        self.woken += 1

    def stop(self, timeout: float) -> None: ...


@pytest.fixture
def callbacks() -> Callbacks:
    return Callbacks()


@pytest.fixture
def outbox(tmp_path: Path, callbacks: Callbacks) -> Iterator[Outbox]:
    kafka = FakeBroker()
    kafka.create_topic("t")
    with closing(open_database(tmp_path)) as database:
        made = Outbox(StoredTasks(database), kafka, callbacks, max_bytes=1_000_000, retention=60)
        yield made
        made.close(5)


def new_task(callback_url: str | None = None) -> NewTask:
    return NewTask(new_task_id(), "t", time.time(), encode_records([NewRecord(b"a")]), callback_url)


def test_ended_task_wakes_callbacks_only_if_it_has_a_callback_url(outbox: Outbox, callbacks: Callbacks) -> None:
    outbox.relay.start()
    for callback_url in (None, "http://example.com/", None):
        task = new_task(callback_url)
        assert outbox.accept_tasks([task]) == 1
        found = outbox.find_task(task.id, wait=10)
        assert found is not None
        assert found.status == "delivered"
    outbox.close(5)  # what it had to tell it has told
    assert callbacks.woken == 1


def test_cancelled_task_wakes_callbacks_if_it_has_a_callback_url(outbox: Outbox, callbacks: Callbacks) -> None:
    for callback_url, woken in [(None, 0), ("http://example.com/", 1)]:
        task = new_task(callback_url)
        outbox.accept_tasks([task])
        outbox.cancel_task(task.id)
        assert callbacks.woken == woken


def test_callback_body_does_not_name_the_owner() -> None:
    task = Task("1", "t", "delivered", 1.0, 2.0, owner="alice")
    assert task_to_dict(task)["owner"] == "alice"
    assert b"alice" not in callback_body(task)
