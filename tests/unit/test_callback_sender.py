"""`CallbackSender`: each callback is delivered or given up, despite bad receivers, store outages and a stop."""

import logging
import random
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from typing import Any, NamedTuple

import pytest

from kafka_http.backoff import Backoff
from kafka_http.config.sources import load_config
from kafka_http.node.callbacks import CallbackDelivery, CallbackGuard, CallbackResult, CallbackSender, DueCallback
from tests.support.callback_receiver import Receiver

PATIENCE = 60.0
SECRET = "a secret of sorts"  # noqa: S105  of the tests' own


class Reported(NamedTuple):
    what: str
    attempts: int
    delay: float
    reason: str


class FakeStore:
    """A `CallbackStore` in memory. A retry is due at once; instead its task has ended earlier by the delay."""

    def __init__(self) -> None:
        self.now = 1_790_000_000.0
        self.refused: Counter[str] = Counter()
        self.reports: dict[str, list[Reported]] = {}
        self.broken: Callable[[str], bool] = lambda _what: False
        self.asked = 0
        self._open: dict[str, DueCallback] = {}
        self._changed = threading.Condition()

    def add(self, task_id: str, url: str) -> None:
        with self._changed:
            self._open[task_id] = DueCallback(task_id, url, b'{"task":{}}', 0, self.now)

    def clock(self) -> float:
        return self.now

    def remove(self, task_id: str) -> None:
        with self._changed:
            del self._open[task_id]

    @property
    def ended(self) -> dict[str, Reported]:
        return {task_id: reports[-1] for task_id, reports in self.reports.items() if reports[-1].what != "retry"}

    def wait(self, until: Callable[[], bool]) -> None:
        with self._changed:
            assert self._changed.wait_for(until, PATIENCE), self.reports

    def due(self, limit: int, busy: Collection[str]) -> list[DueCallback]:
        with self._changed:
            self.asked += 1
            self._changed.notify_all()
            self._check("due")
            return [each for each in self._open.values() if each.task_id not in busy][:limit]

    def next_due(self) -> float | None:
        with self._changed:
            self._check("next_due")
            return 0.0 if self._open else None

    def claim(self, task_id: str) -> bool:
        return True

    def delivered(self, task_id: str, attempts: int) -> None:
        self._end(task_id, Reported("delivered", attempts, 0.0, ""))

    def failed(self, task_id: str, attempts: int, reason: str) -> None:
        self._end(task_id, Reported("failed", attempts, 0.0, reason))

    def retry(self, task_id: str, attempts: int, delay_seconds: float, reason: str) -> None:
        with self._changed:
            self._check("retry")
            old = self._open.pop(task_id)  # it goes behind the others
            self._open[task_id] = DueCallback(task_id, old.url, old.body, attempts, old.since - delay_seconds)
            self._note(task_id, Reported("retry", attempts, delay_seconds, reason))

    def _end(self, task_id: str, report: Reported) -> None:
        with self._changed:
            self._check(report.what)
            self._open.pop(task_id, None)
            self._note(task_id, report)

    def _note(self, task_id: str, report: Reported) -> None:
        self.reports.setdefault(task_id, []).append(report)
        self._changed.notify_all()

    def _check(self, what: str) -> None:
        self._changed.notify_all()
        if self.broken(what):
            self.refused[what] += 1
            raise ConnectionError("the database is away")


@pytest.fixture
def store() -> FakeStore:
    return FakeStore()


Start = Callable[..., CallbackSender]


@pytest.fixture
def start(store: FakeStore) -> Iterator[Start]:
    """Starts senders with `store`, which are stopped after the test."""
    senders = []

    def start(post: Callable[[DueCallback], CallbackResult], **others: Any) -> CallbackSender:
        settings = {
            "workers": 8,
            "retry_for": 3600.0,
            "clock": store.clock,
            "store_backoff": lambda: Backoff(0.01, 0.01),
            **others,
        }
        sender = CallbackSender(store, post, **settings)
        senders.append(sender)
        sender.start()
        return sender

    yield start
    for sender in senders:
        sender.stop(PATIENCE)


class Gate:
    """A `post` function that waits for `opened` if the host starts with `slow`."""

    def __init__(self) -> None:
        self.opened = threading.Event()
        self.begun: Counter[str] = Counter()
        self.most: Counter[str] = Counter()
        self._at_once: Counter[str] = Counter()
        self._lock = threading.Lock()

    def post(self, callback: DueCallback) -> CallbackResult:
        host = callback.url.split("/")[2]
        with self._lock:
            self.begun[host] += 1
            self._at_once[host] += 1
            self.most[host] = max(self.most[host], self._at_once[host])
            self.most["all"] = max(self.most["all"], self._at_once.total())
        if host.startswith("slow"):
            assert self.opened.wait(PATIENCE)
        with self._lock:
            self._at_once[host] -= 1
        return CallbackResult("delivered")


def fails(_callback: DueCallback) -> CallbackResult:
    return CallbackResult("failed", "The receiver answered with status 503.")


def test_due_callbacks_are_delivered_once_and_reported(store: FakeStore, start: Start) -> None:
    for number in range(100):
        store.add(f"t{number}", f"http://{number % 7}.example/")
    gate = Gate()

    start(gate.post)
    store.wait(lambda: len(store.ended) == 100)

    assert set(store.ended.values()) == {Reported("delivered", 1, 0.0, "")}
    assert sum(gate.begun.values()) == 100
    assert gate.most["all"] <= 8


def test_wake_makes_idle_sender_query_the_store(store: FakeStore, start: Start) -> None:
    sender = start(Gate().post)
    store.wait(lambda: store.asked > 0)

    store.add("t1", "http://a.example/")
    sender.wake()

    store.wait(lambda: "t1" in store.ended)


def test_slow_receiver_with_many_callbacks_does_not_delay_others(store: FakeStore, start: Start) -> None:
    gate = Gate()
    for number in range(200):
        store.add(f"slow{number}", "http://slow.example/hook")
    for number in range(50):
        store.add(f"t{number}", f"http://quick{number % 3}.example/")

    start(gate.post)
    store.wait(lambda: len(store.ended) == 50)

    assert not any(task_id.startswith("slow") for task_id in store.ended)
    assert gate.begun["slow.example"] == 4
    gate.opened.set()
    store.wait(lambda: len(store.ended) == 250)
    assert gate.begun["slow.example"] == 200
    assert gate.most["slow.example"] == 4


def test_store_is_not_polled_while_callbacks_wait_for_their_host(store: FakeStore, start: Start) -> None:
    gate = Gate()
    for number in range(100):
        store.add(f"slow{number}", "http://slow.example/")
    store.add("last", "http://quick.example/")
    start(gate.post)
    store.wait(lambda: "last" in store.ended)

    asked = store.asked
    gate.opened.wait(0.5)

    assert store.asked - asked < 20
    gate.opened.set()


@pytest.mark.parametrize(("workers", "share"), [(1, 1), (2, 1), (3, 1), (5, 2), (8, 4)])
def test_host_gets_half_of_the_slots(store: FakeStore, start: Start, workers: int, share: int) -> None:
    gate = Gate()
    for number in range(20):
        store.add(f"t{number}", "http://slow.example/" if number % 2 else "http://SLOW.example/")

    sender = start(lambda callback: gate.post(_lowered(callback)), workers=workers)
    store.wait(lambda: gate.begun["slow.example"] == share)
    if share < workers:
        for _ in range(3):
            _ask_again(sender, store)
    gate.opened.set()
    store.wait(lambda: len(store.ended) == 20)

    assert gate.most["slow.example"] == share


def _ask_again(sender: CallbackSender, store: FakeStore) -> None:
    asked = store.asked
    sender.wake()
    store.wait(lambda: store.asked > asked)


def _lowered(callback: DueCallback) -> DueCallback:
    return DueCallback(callback.task_id, callback.url.lower(), callback.body, callback.attempts, callback.since)


def test_removed_tasks_do_not_block_other_callbacks(store: FakeStore, start: Start) -> None:
    gate = Gate()
    for number in range(40):
        store.add(f"t{number}", "http://slow.example/")
    store.add("last", "http://quick.example/")

    start(gate.post)
    store.wait(lambda: "last" in store.ended)
    for number in range(4, 36):
        store.remove(f"t{number}")
    gate.opened.set()

    store.wait(lambda: len(store.ended) == 9)


def test_failed_callback_is_retried_with_growing_delays_until_retry_for(store: FakeStore, start: Start) -> None:
    store.add("t1", "http://a.example/")

    start(fails, jitter=lambda: 1.0)
    store.wait(lambda: "t1" in store.ended)

    *retries, end = store.reports["t1"]
    assert [each.delay for each in retries[:10]] == [2, 4, 8, 16, 32, 64, 128, 256, 300, 300]
    assert [each.attempts for each in store.reports["t1"]] == list(range(1, len(retries) + 2))
    assert sum(each.delay for each in retries) == 3600
    assert (end.what, end.reason) == ("failed", "The receiver answered with status 503.")
    assert {each.reason for each in retries} == {end.reason}


def test_retry_delay_is_random_from_one_second(store: FakeStore, start: Start) -> None:
    numbers = random.Random(1)
    for number in range(50):
        store.add(f"t{number}", f"http://{number}.example/")

    start(fails, jitter=numbers.random, retry_for=1000.0)
    store.wait(lambda: len(store.ended) == 50)

    delays = [each.delay for reports in store.reports.values() for each in reports if 6 <= each.attempts <= 8]
    assert len(set(delays)) > 50
    assert all(1 <= delay <= 256 for delay in delays)


def test_retry_for_zero_makes_one_attempt(store: FakeStore, start: Start) -> None:
    store.add("t1", "http://a.example/")

    start(fails, retry_for=0.0)
    store.wait(lambda: "t1" in store.ended)

    assert [each.what for each in store.reports["t1"]] == ["failed"]


def test_callback_after_retry_for_is_tried_once(store: FakeStore, start: Start) -> None:
    store.add("t1", "http://a.example/")
    store.add("t2", "http://slow.example/")
    store.now += 7200
    gate = Gate()
    gate.opened.set()

    start(lambda callback: gate.post(callback) if callback.task_id == "t2" else fails(callback))
    store.wait(lambda: len(store.ended) == 2)

    assert [each.what for each in store.reports["t1"]] == ["failed"]
    assert [each.what for each in store.reports["t2"]] == ["delivered"]


@pytest.mark.parametrize("status", ["gone", "refused"])
def test_permanent_failure_is_given_up_at_once(store: FakeStore, start: Start, status: Any) -> None:
    store.add("t1", "http://a.example/")

    start(lambda _: CallbackResult(status, "It says why."))
    store.wait(lambda: "t1" in store.ended)

    assert store.reports["t1"] == [Reported("failed", 1, 0.0, "It says why.")]


def test_unexpected_error_counts_as_failed_attempt(
    store: FakeStore, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    store.add("t1", "http://a.example/")

    def post(callback: DueCallback) -> CallbackResult:
        if callback.attempts == 0:
            raise ZeroDivisionError("hush")
        return CallbackResult("delivered")

    start(post)
    store.wait(lambda: "t1" in store.ended)

    assert [each.what for each in store.reports["t1"]] == ["retry", "delivered"]
    assert "hush" not in store.reports["t1"][0].reason
    assert "the callback of task t1" in caplog.text


@pytest.mark.parametrize("broken", ["due", "next_due", "delivered", "retry", "failed"])
def test_store_outage_is_waited_for_and_logged_once(
    store: FakeStore, start: Start, caplog: pytest.LogCaptureFixture, broken: str
) -> None:
    """Callbacks that were delivered during the outage are not delivered again."""
    caplog.set_level(logging.INFO, "kafka_http.node.callbacks.callback_sender")
    store.broken = lambda what: what == broken and store.refused[what] < 5
    store.add("good", "http://a.example/")
    store.add("bad", "http://b.example/")
    posted: Counter[str] = Counter()

    def post(callback: DueCallback) -> CallbackResult:
        posted[callback.task_id] += 1
        return CallbackResult("delivered") if callback.task_id == "good" else fails(callback)

    sender = start(post, retry_for=20.0, jitter=lambda: 1.0)
    store.wait(lambda: len(store.ended) == 2 and store.refused[broken] == 5)
    for _ in range(2):  # after the second query, everything before it has been logged
        _ask_again(sender, store)
    sender.stop(PATIENCE)

    assert posted["good"] == 1
    assert posted["bad"] == len(store.reports["bad"])
    said = [record.getMessage() for record in caplog.records if "store" in record.getMessage()]
    assert said == [
        "State store failed, callbacks wait for it: ConnectionError: the database is away",
        "State store works again; callbacks continue.",
    ]


def test_retry_is_kept_after_long_store_outage(store: FakeStore, start: Start) -> None:
    def is_broken(what: str) -> bool:
        if what != "retry" or store.refused[what] == 3:
            return False
        store.now += 3600
        return True

    store.add("t1", "http://a.example/")
    store.broken = is_broken

    start(fails)
    store.wait(lambda: "t1" in store.ended)

    assert [each.what for each in store.reports["t1"]] == ["retry", "failed"]


def test_stop_waits_for_callbacks_in_progress_and_starts_no_more(store: FakeStore, start: Start) -> None:
    gate = Gate()
    for number in range(10):
        store.add(f"t{number}", "http://slow.example/")
    sender = start(gate.post)
    store.wait(lambda: gate.begun["slow.example"] == 4)

    threading.Timer(0.1, gate.opened.set).start()
    sender.stop(PATIENCE)

    assert len(store.ended) == 4
    assert gate.begun["slow.example"] == 4


def test_stop_returns_at_timeout_and_unreported_callback_stays_due(store: FakeStore, start: Start) -> None:
    gate = Gate()
    store.add("t1", "http://slow.example/")
    sender = start(gate.post)
    store.wait(lambda: gate.begun["slow.example"] == 1)

    sender.stop(0.05)

    assert store.ended == {}
    assert [each.task_id for each in store.due(10, ())] == ["t1"]
    gate.opened.set()


def test_stop_does_not_wait_for_store_outage(store: FakeStore, start: Start) -> None:
    store.add("t1", "http://a.example/")
    store.broken = lambda what: what == "delivered"
    sender = start(Gate().post, store_backoff=lambda: Backoff(600.0, 600.0))
    store.wait(lambda: store.refused["delivered"] == 1)

    sender.stop(PATIENCE)

    assert store.ended == {}


def test_stop_before_start_returns(store: FakeStore) -> None:
    CallbackSender(store, fails, workers=1, retry_for=1.0).stop(1.0)


GOOD = ["/", "/status/200", "/drip-body"]
BAD = ["/status/503", "/status/410", "/redirect?http://127.0.0.1:1/", "/close", "/noise", "/drip", "/hold"]
SLOW = {"/drip-body", "/drip", "/hold"}


def test_each_callback_is_delivered_or_reported_with_misbehaving_receivers(store: FakeStore, start: Start) -> None:
    delivery = CallbackDelivery(CallbackGuard(["127.0.0.0/8"]), lambda: [SECRET], timeout=1.0)
    with Receiver() as one, Receiver("127.0.0.2") as two, Receiver() as gone:
        for receiver in (one, two):
            for path in GOOD + BAD:
                for number in range(1 if path in SLOW else 12):
                    store.add(f"{path} {receiver.host} {number}", receiver.url(path))
        store.add("forbidden", "http://10.0.0.1/")
        store.add("nowhere", gone.url())
        gone.close()
        start(delivery.post, workers=16, retry_for=6.0, jitter=lambda: 1.0)
        store.wait(lambda: len(store.ended) == 2 * (12 * 7 + 3) + 2)
        arrived = {*one.tasks, *two.tasks}

    assert {task_id for task_id, end in store.ended.items() if end.what == "delivered"} == {
        task_id for task_id in store.ended if task_id.split(" ")[0] in GOOD
    }
    assert arrived == set(store.ended) - {"forbidden", "nowhere"}
    assert store.ended["forbidden"].attempts == 1
    assert store.ended["nowhere"].attempts == 3


def test_hanging_receiver_does_not_delay_another(store: FakeStore) -> None:
    settings = {"callback_allow": "127.0.0.0/8", "callback_secret": SECRET, "callback_timeout": 60}
    with Receiver() as slow, Receiver("127.0.0.2") as quick:
        for number in range(30):
            store.add(f"slow{number}", slow.url("/hold"))
        for number in range(10):
            store.add(f"quick{number}", quick.url())
        sender = CallbackSender.from_config(load_config(settings, {}), store)
        sender.start()
        store.wait(lambda: len(store.ended) == 10)

        assert sorted(quick.tasks) == sorted(store.ended)
        assert len(slow.received) <= 4
        slow.released.set()
        store.wait(lambda: len(store.ended) == 40)
        sender.stop(PATIENCE)
    assert {each.what for each in store.ended.values()} == {"delivered"}
