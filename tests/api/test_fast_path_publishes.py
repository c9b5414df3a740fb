"""The interface of the fast path: heads are prepared, publishes started, then sent together."""

from collections.abc import Callable, Mapping
from threading import Event
from typing import Any

import pytest

from kafka_http.app_lifecycle import AppLifecycle
from kafka_http.logs import request_id
from kafka_http.server.app_interface import Client
from tests.api.conftest import ClientFactory
from tests.support.fake_broker import FakeBroker

CLIENT = Client("127.0.0.1")
HEADERS = {"prefer": "respond-async"}


class FakeLoop:
    """An `EventLoop` that is not used."""

    def register(self, sock: Any, events: int, callback: Callable[[Any], None]) -> None: ...

    def modify(self, sock: Any, events: int, callback: Callable[[Any], None]) -> None: ...

    def unregister(self, sock: Any) -> None: ...

    def call_soon(self, call: Callable[..., None], *args: Any) -> None: ...


@pytest.fixture
def hooks(make_client: ClientFactory) -> AppLifecycle:
    client = make_client()
    assert client.post("/messages/t", data=b"makes the topic known", headers=HEADERS).status_code == 202
    hooks = client.application.extensions["kafka_http"]
    assert isinstance(hooks, AppLifecycle)
    hooks.attach(FakeLoop())
    return hooks


def prepared(hooks: AppLifecycle, headers: Mapping[str, str], method: str = "POST", target: str = "/messages/t") -> Any:
    assert hooks.fast_path is not None
    return hooks.fast_path.prepare(method, target, headers, CLIENT)


@pytest.mark.parametrize(("headers", "status"), [({}, 200), (HEADERS, 202)])
def test_publishes_of_a_round_complete_after_its_end(hooks: AppLifecycle, headers: dict[str, str], status: int) -> None:
    done = [Event(), Event()]
    head = prepared(hooks, headers)
    started = [head.start(b"hello") for _ in done]
    for each, event in zip(started, done, strict=True):
        each.add_done_callback(event.set)
    hooks.end_round()
    assert all(each.wait(5) for each in done)
    assert [each.finish().status for each in started] == [status] * 2


def test_response_before_the_result_says_that_it_is_unknown(hooks: AppLifecycle) -> None:
    started = prepared(hooks, {}).start(b"hello")
    assert started.finish().status == 504


@pytest.mark.parametrize(
    ("headers", "is_reusable"),
    [
        ({"accept": "*/*", "kafka-key": "k", "content-type": "text/plain"}, True),
        ({"x-request-id": "mine"}, False),
        ({"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}, False),
        ({"idempotency-key": "k"}, False),
    ],
)
def test_head_with_what_only_one_request_has_is_not_reusable(
    hooks: AppLifecycle, headers: dict[str, str], is_reusable: bool
) -> None:
    assert prepared(hooks, headers).is_reusable is is_reusable


def test_head_that_needs_a_view_is_not_prepared(hooks: AppLifecycle) -> None:
    assert prepared(hooks, {**HEADERS, "x-forwarded-prefix": "/"}) is None


@pytest.mark.parametrize("target", ["/messages/t", "/messages/t/me", "/messages/t/me/0:3", "/topics/t"])
def test_delete_is_no_publish(hooks: AppLifecycle, target: str) -> None:
    assert prepared(hooks, {}, "DELETE", target) is None


def test_requests_with_one_head_share_nothing_but_the_head(hooks: AppLifecycle, broker: FakeBroker) -> None:
    head = prepared(hooks, {"kafka-key": "k", "content-type": "application/json"})
    started = [head.start(body) for body in (b"1", b"[2, 3]", b'{"records": [{"value": 4, "key": "other"}]}')]
    assert head.start(b"[") is None
    hooks.end_round()
    responses = [each.finish() for each in started]
    assert len({each.request_id for each in responses}) == 3
    assert [each.body.count(b"offset") for each in responses] == [1, 2, 1]
    stored = [(each.key, each.value) for each in broker.records("t")]
    assert stored[-4:] == [(b"k", b"1"), (b"k", b"2"), (b"k", b"3"), (b"other", b"4")]


def test_request_id_of_the_client_is_in_the_response(hooks: AppLifecycle) -> None:
    started = prepared(hooks, {"x-request-id": "mine"}).start(b"1")
    hooks.end_round()
    assert started.finish().request_id == "mine"


def test_unexpected_error_is_answered_with_500_and_not_repeated(
    hooks: AppLifecycle, broker: FakeBroker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Kafka may have some of the records."""
    with monkeypatch.context() as patched:
        patched.setattr(broker, "publish", lambda *_, **__: 1 / 0)
        started = prepared(hooks, {}).start(b"1")
    response = started.finish()
    assert (response.status, response.request_id in response.body.decode()) == (500, True)
    assert "ZeroDivisionError" in caplog.text


def test_later_log_lines_of_the_main_loop_do_not_have_the_request_id(
    hooks: AppLifecycle, broker: FakeBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that stopped logged the id of its last publish."""
    before = request_id.get()
    assert prepared(hooks, {"x-request-id": "mine"}).start(b"1").finish().status != 500
    monkeypatch.setattr(broker, "publish", lambda *_, **__: 1 / 0)
    assert prepared(hooks, {"x-request-id": "mine"}).start(b"1").finish().status == 500
    assert request_id.get() == before


@pytest.mark.parametrize("body", [b"x" * 100, b"[1,2,3]", b'{"records":[{"value":1},{"value":2}]}'])
def test_publish_counts_in_max_in_flight_until_its_end(
    make_client: ClientFactory, broker: FakeBroker, body: bytes
) -> None:
    """Body and 800 bytes for each record, on the bare path as on the others."""
    count = max(1, body.count(b",") + 1 if body[:1] in b"[{" else 1)
    size = len(body) + 800 * count
    client = make_client(max_in_flight=2 * size)
    hooks = client.application.extensions["kafka_http"]
    broker.silent = True
    head = prepared(hooks, {"content-type": "application/json" if body[:1] in b"[{" else "text/plain"})
    first, second = head.start(body), head.start(body)
    assert head.start(body) is None
    first.finish()
    third = head.start(body)
    assert third is not None
    assert head.start(body) is None
    second.finish()
    third.finish()


@pytest.mark.parametrize(
    ("content_type", "body", "is_immediate"),
    [
        ("application/json", b"[" + b"1," * 20_000 + b"1]", False),
        ("application/vnd.kafka.json.v2+json", b'{"records":[' + b'{"value":1},' * 20_000 + b'{"value":1}]}', False),
        ("application/x-ndjson", b"1\n" * 20_000, False),
        ("application/x-ndjson", b'"' + b"," * 20_000 + b'"', True),
        ("text/plain", b",\n" * 20_000, True),
    ],
)
def test_body_with_too_many_values_for_the_main_loop_needs_a_view(
    hooks: AppLifecycle, content_type: str, body: bytes, is_immediate: bool
) -> None:
    started = prepared(hooks, {"content-type": content_type}).start(body)
    assert (started is not None) is is_immediate
