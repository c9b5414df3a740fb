"""Publishes with an Idempotency-Key on the fast path: a main loop drives them, and no thread waits."""

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from kafka_http.app_lifecycle import AppLifecycle
from kafka_http.errors import Unavailable
from kafka_http.event_loop import LoopThread
from kafka_http.publish.idempotency_keys import MemoryIdempotencyKeys
from kafka_http.records import ClaimEnd, ClaimRequest, KeyClaimResult
from kafka_http.server.app_interface import Client, FastPathResponse
from kafka_http.web.fast_path import StartedCall
from tests.api.conftest import ClientFactory
from tests.support.fake_broker import FakeBroker
from tests.support.polling import wait_for

CLIENT = Client("127.0.0.1")
JSON_V2 = "application/vnd.kafka.json.v2+json"
KEY = "8e03978e-40d5-43dd-bc93-6894a57f9324"


class Loop:
    """The main loop of an application, in a thread."""

    def __init__(self, hooks: AppLifecycle) -> None:
        assert hooks.fast_path is not None
        self._fast_path = hooks.fast_path
        self._loop = LoopThread(hooks, "main loop of a test")
        self.run(lambda: hooks.attach(self._loop))

    @property
    def thread(self) -> int | None:
        return self._loop.thread.ident

    def run(self, call: Callable[[], Any]) -> Any:
        """Return the result of a call that the loop makes."""
        results: list[Any] = []
        done = threading.Event()

        def run() -> None:
            try:
                results.append(call())
            finally:
                done.set()

        self._loop.call_soon(run)
        assert done.wait(5)
        return results[0]

    def start(self, body: bytes = b"1", target: str = "/messages/t", method: str = "POST", **headers: str) -> Any:
        """Start a publish with a key, and return its pending response."""
        named = {"idempotency-key": KEY} | {name.replace("_", "-"): value for name, value in headers.items()}
        prepared = self._fast_path.prepare(method, target, named, CLIENT)
        return None if prepared is None else self.run(lambda: prepared.start(body))

    def start_together(self, *keys: str) -> list[Any]:
        """Start publishes with these keys in one round of the loop."""
        heads = [self._fast_path.prepare("POST", "/messages/t", {"idempotency-key": key}, CLIENT) for key in keys]
        started: list[Any] = self.run(lambda: [head.start(b"1") for head in heads if head is not None])
        return started

    def finish(self, pending: StartedCall) -> FastPathResponse:
        response: FastPathResponse = self.run(pending.finish)
        return response

    def publish(self, *args: Any, **named: Any) -> FastPathResponse:
        """Publish as the server does: wait until the response is known."""
        pending, done = self.start(*args, **named), threading.Event()
        pending.add_done_callback(done.set)
        assert done.wait(5)
        return self.finish(pending)

    def stop(self) -> None:
        self._loop.stop(5)


@pytest.fixture
def hooks(client: FlaskClient) -> AppLifecycle:
    found = client.application.extensions["kafka_http"]
    assert isinstance(found, AppLifecycle)
    return found


@pytest.fixture
def loop(hooks: AppLifecycle) -> Iterator[Loop]:
    loop = Loop(hooks)
    yield loop
    loop.stop()


def is_replay(response: TestResponse | FastPathResponse) -> bool:
    return response.headers.get("Idempotency-Replayed") == "true"


@pytest.mark.parametrize(
    "request_parts",
    [
        ("POST", "/messages/t", b"1", {}),
        ("PUT", "/messages/t?partition=0&timeout=10&key=%C3%BC+", b"1", {"content_type": "text/plain; charset=utf-8"}),
        ("POST", "/messages/t", b'{"records":[{"value":1}]}', {"content_type": "application/json"}),
        (
            "POST",
            "/messages/t",
            b"1",
            {"kafka_key": "k", "kafka_header_b": "2", "kafka_header_a": "~ é".encode().hex()},
        ),
        ("POST", "/messages/t", b"", {"accept": "*/*", "x_request_id": "mine", "traceparent": "00-1"}),
        ("POST", "/topics/three/partitions/1", b'{"records":[{"value":1}]}', {"content_type": JSON_V2}),
        ("POST", "/messages/t", b"1", {"prefer": "respond-async"}),
    ],
)
def test_view_replays_the_response_of_the_fast_path(
    loop: Loop, client: FlaskClient, request_parts: tuple[str, str, bytes, dict[str, str]]
) -> None:
    """Both have the same fingerprint of a request."""
    method, target, body, headers = request_parts
    if "prefer" in headers:
        client.post("/messages/t", data="makes the topic known", headers={"Prefer": "respond-async"})
    first = loop.publish(body, target, method, **headers)
    assert first.status in {200, 202}, first.body
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    content_type = named.pop("content-type", None)
    sent = {"Idempotency-Key": f'"{KEY}"', **named}
    again = client.open(target, method=method, data=body, content_type=content_type, headers=sent)
    assert (again.status_code, again.data, is_replay(again)) == (first.status, first.body, True)
    assert is_replay(loop.publish(body, target, method, **headers))


def noted_threads(broker: FakeBroker, monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """Return the threads that publish from now on."""
    threads: set[int] = set()
    publish = broker.publish

    def noted(*args: Any, **named: Any) -> Any:
        threads.add(threading.get_ident())
        assert named["keeps_trying"]
        return publish(*args, **named)

    monkeypatch.setattr(broker, "publish", noted)
    return threads


def test_main_loop_publishes_what_it_has_claimed(
    loop: Loop, broker: FakeBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = noted_threads(broker, monkeypatch)
    assert loop.publish().status == 200
    assert threads == {loop.thread}


def test_body_that_would_delay_the_main_loop_is_published_by_a_thread(
    loop: Loop, broker: FakeBroker, hooks: AppLifecycle, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = noted_threads(broker, monkeypatch)
    body = b"[" + b",".join([b"1"] * 15_001) + b"]"
    response = loop.publish(body, content_type="application/json")
    assert (response.status, response.body.count(b"offset")) == (200, 15_001)
    assert loop.thread not in threads
    assert is_replay(loop.publish(body, content_type="application/json"))
    assert len(threads) == 1


@pytest.mark.parametrize(
    ("headers", "status"), [({"idempotency_key": "a b"}, None), ({"kafka_partition": "7"}, 404), ({}, 400)]
)
def test_error_response_is_stored_or_left_to_the_view(
    loop: Loop, broker: FakeBroker, headers: dict[str, str], status: int | None
) -> None:
    body = b"[" if status == 400 else b"1"
    if status is None:
        assert loop.start(body, **headers) is None
        return
    first, again = (loop.publish(body, content_type="application/json", **headers) for _ in range(2))
    assert (first.status, is_replay(first)) == (status, False)
    assert (again.status, again.body, is_replay(again)) == (status, first.body, True)
    assert not broker.records("t")


def test_response_after_a_504_is_the_late_result(loop: Loop, broker: FakeBroker) -> None:
    broker.silent = True
    pending = loop.start()
    wait_for(lambda: broker.unanswered == 1, 5)
    assert loop.publish().status == 409
    assert loop.finish(pending).status == 504
    assert loop.publish().status == 409
    broker.answer()
    late = wait_for(lambda: found if is_replay(found := loop.publish()) else None, 5)
    assert (late.status, len(broker.records("t"))) == (200, 1)


def test_key_in_two_requests_of_a_round_is_published_once(loop: Loop, broker: FakeBroker) -> None:
    pending = loop.start_together(KEY, KEY, KEY)
    done = [threading.Event() for _ in pending]
    for each, event in zip(pending, done, strict=True):
        each.add_done_callback(event.set)
    assert all(each.wait(5) for each in done)
    assert sorted(loop.finish(each).status for each in pending) == [200, 409, 409]
    assert len(broker.records("t")) == 1


class Store(MemoryIdempotencyKeys):
    """Keys in a store that can block and fail."""

    def __init__(self) -> None:
        super().__init__(3600)
        self.entered, self.leave = threading.Event(), threading.Event()
        self.leave.set()
        self.fails = False
        self.stored: list[int] = []

    def update_keys(self, claims: Sequence[ClaimRequest], ends: Sequence[ClaimEnd]) -> list[KeyClaimResult]:
        self.entered.set()
        assert self.leave.wait(10)
        if self.fails:
            raise Unavailable("It is away.")
        self.stored += [each.response.status for each in ends if each.response is not None]
        return super().update_keys(claims, ends)


@pytest.fixture
def store(hooks: AppLifecycle) -> Store:
    store = Store()
    hooks._node.idempotency._keys = store
    return store


def test_request_whose_claim_is_overdue_gets_503_and_writes_nothing(
    loop: Loop, broker: FakeBroker, store: Store
) -> None:
    store.leave.clear()
    pending = loop.start()
    assert store.entered.wait(5)
    refused = loop.finish(pending)
    assert (refused.status, b"Nothing was written" in refused.body) == (503, True)
    store.leave.set()
    first = wait_for(lambda: found if (found := loop.publish()).status != 409 else None, 5)
    assert (first.status, is_replay(first)) == (200, False)
    assert len(broker.records("t")) == 1


def test_request_that_waits_for_its_key_counts_in_max_in_flight(make_client: ClientFactory, broker: FakeBroker) -> None:
    """While the daemon was stopped, a worker held a body of each connection, whatever the limit."""
    hooks = make_client(max_in_flight=1500).application.extensions["kafka_http"]
    store = hooks._node.idempotency._keys = Store()
    loop = Loop(hooks)
    body, done = b'"%b"' % (b"x" * 1000), threading.Event()
    store.leave.clear()
    waiting = loop.start(body, idempotency_key="a")
    assert loop.start(body, idempotency_key="b") is None  # the view responds with 429
    store.leave.set()
    waiting.add_done_callback(done.set)
    assert done.wait(5)
    assert loop.finish(waiting).status == 200
    assert loop.publish(body, idempotency_key="b").status == 200
    assert len(broker.records("t")) == 2
    loop.stop()


def test_response_is_sent_after_it_was_stored(loop: Loop, broker: FakeBroker, store: Store) -> None:
    broker.silent = True
    pending = loop.start()
    done = threading.Event()
    pending.add_done_callback(done.set)
    wait_for(lambda: broker.unanswered == 1, 5)
    store.leave.clear()
    store.entered.clear()
    broker.answer()
    assert store.entered.wait(5)
    assert not done.is_set()
    store.leave.set()
    assert done.wait(5)
    assert store.stored == [200]
    assert loop.finish(pending).status == 200


def test_response_that_cannot_be_stored_is_sent_and_stored_later(loop: Loop, broker: FakeBroker, store: Store) -> None:
    broker.silent = True
    pending = loop.start()
    done = threading.Event()
    pending.add_done_callback(done.set)
    wait_for(lambda: broker.unanswered == 1, 5)
    store.fails = True
    broker.answer()
    assert done.wait(5)
    first = loop.finish(pending)
    assert (first.status, store.stored) == (200, [])
    store.fails = False
    wait_for(lambda: store.stored, 5)
    again = wait_for(lambda: loop.start() and loop.publish(), 5)
    assert (again.body, is_replay(again)) == (first.body, True)
    assert len(broker.records("t")) == 1


def test_requests_of_a_round_get_503_while_the_store_is_down(
    loop: Loop, broker: FakeBroker, store: Store, client: FlaskClient
) -> None:
    """Later requests wait for the store in threads, until it responds."""
    store.fails = True
    pending = loop.start_together("a", "b", "c")
    done = [threading.Event() for _ in pending]
    for each, event in zip(pending, done, strict=True):
        each.add_done_callback(event.set)
    assert all(each.wait(5) for each in done)
    refused = [loop.finish(each) for each in pending]
    assert {(each.status, each.headers["Retry-After"]) for each in refused} == {(503, "1")}
    assert all(b"does not respond. Nothing was written." in each.body for each in refused)
    assert not broker.records("t")
    assert loop.start() is None
    assert client.post("/messages/t", data="1", headers={"Idempotency-Key": KEY}).status_code == 503
    store.fails = False
    assert client.post("/messages/t", data="1", headers={"Idempotency-Key": KEY}).status_code == 200
    assert loop.publish(idempotency_key="another").status == 200
    assert len(broker.records("t")) == 2
