"""Which calls of queues the main loop makes itself, and what becomes of pages that are not sent."""

from collections.abc import Callable
from threading import Event
from typing import Any

import pytest
from flask.testing import FlaskClient

from kafka_http.app_lifecycle import AppLifecycle
from kafka_http.consumers.queue_registry import QueueRegistry
from kafka_http.consumers.queue_service import QueueName, QueuePage
from kafka_http.errors import Unavailable, WouldBlock
from kafka_http.pending import DoneCallbacks
from kafka_http.schemas.formats import Formats
from kafka_http.server.app_interface import Client
from kafka_http.web.queue_requests import AcquireRequest
from kafka_http.web.responses import RenderedResponse
from tests.support.fake_broker import FakeBroker
from tests.support.fast_path_app import FastPathMiddleware
from tests.support.polling import wait_for
from tests.support.v2_consumer import write

QUEUE = "/messages/t/workers/queue"
LONG = "lock=3600"
"""No lock ends during a test on a busy machine."""
CLIENT = Client("127.0.0.1")


@pytest.fixture
def is_fast_path() -> bool:
    return True


@pytest.fixture
def used(client: FlaskClient, broker: FakeBroker) -> FlaskClient:
    """A client of a queue with a message. A view has checked that its topic exists."""
    write(broker, b"1")
    lease = acquired(client)["lease"]
    assert client.delete(f"{QUEUE}/{lease}").status_code == 200
    write(broker, b"2", b"3", b"4")
    return client


def acquired(client: FlaskClient) -> Any:
    (record,) = client.post(f"{QUEUE}?wait=20&{LONG}").json["records"]  # type: ignore[index]
    return record


def is_taken(client: FlaskClient, call: Callable[[], Any]) -> bool:
    """Whether the fast path makes a call that is successful."""
    middleware = client.application.wsgi_app
    assert isinstance(middleware, FastPathMiddleware)
    before = middleware.taken
    assert call().status_code == 200
    return middleware.taken > before


def test_loop_acquires_few_messages_and_settles_leases_of_this_node(used: FlaskClient) -> None:
    acquire = f"{QUEUE}?wait=20&{LONG}"
    assert is_taken(used, lambda: used.post(acquire))
    lease = acquired(used)["lease"]
    assert is_taken(used, lambda: used.put(f"{QUEUE}/{lease}?lock=60"))
    assert is_taken(used, lambda: used.delete(f"{QUEUE}/{lease}"))


@pytest.mark.parametrize(
    ("query", "headers"),
    [
        ("limit=51", {}),
        ("", {"Accept": "application/octet-stream"}),
        ("", {"Kafka-Http-Node": "of another node"}),
    ],
)
def test_views_acquire_large_pages_octets_and_for_other_nodes(
    used: FlaskClient, query: str, headers: dict[str, str]
) -> None:
    assert not is_taken(used, lambda: used.post(f"{QUEUE}?wait=20&{LONG}&{query}", headers=headers))


def test_view_checks_that_the_topic_exists_before_the_loop_acquires(client: FlaskClient, broker: FakeBroker) -> None:
    assert not is_taken(client, lambda: client.post(QUEUE))
    assert is_taken(client, lambda: client.post(QUEUE))


def test_dead_topic_is_checked_by_a_view_first(used: FlaskClient, broker: FakeBroker) -> None:
    broker.create_topic("dead")
    acquire = f"{QUEUE}?wait=20&{LONG}&dead=dead"
    assert [is_taken(used, lambda: used.post(acquire)) for _ in range(2)] == [False, True]


def test_state_and_deletion_of_a_queue_are_left_to_the_views(client: FlaskClient) -> None:
    hooks = client.application.extensions["kafka_http"]
    for method in ("GET", "DELETE", "PUT"):
        assert hooks.fast_path.prepare(method, QUEUE, {}, CLIENT) is None
    assert hooks.fast_path.prepare("POST", f"{QUEUE}/0:1:0.abc1", {}, CLIENT) is None


def test_page_of_large_values_is_the_same_as_the_views(used: FlaskClient, broker: FakeBroker) -> None:
    """A thread renders it."""
    while records(used):
        pass
    value = b'"%b"' % (b"x" * 100_000)
    write(broker, value)
    record = acquired(used)
    assert record["value"] == "x" * 100_000
    assert record["format"] == "json"


def test_pages_that_wait_for_the_schema_registry_do_not_delay_large_pages(
    used: FlaskClient, broker: FakeBroker, hooks: AppLifecycle, monkeypatch: pytest.MonkeyPatch
) -> None:
    answered, render = Event(), AcquireRequest.render

    def render_late(asked: AcquireRequest, formats: Formats, page: QueuePage) -> RenderedResponse:
        if asked.decode_as.key == "text":
            answered.wait(60)
        return render(asked, formats, page)

    monkeypatch.setattr(AcquireRequest, "render", render_late)
    monkeypatch.setattr(Formats, "may_wait", lambda _, decode_as, __: decode_as.key == "text")
    waiting = [started(hooks, "wait=20&key_format=text") for _ in range(3)]
    wait_for(lambda: len(used.get(QUEUE).json["held"]) == len(waiting))  # type: ignore[index]
    write(broker, b'"%b"' % (b"x" * 100_000))
    assert len(acquired(used)["value"]) == 100_000
    answered.set()
    done: list[bool] = []
    for each in waiting:
        each.add_done_callback(lambda: done.append(True))
    wait_for(lambda: len(done) == len(waiting))
    assert [each.finish().records for each in waiting] == [1] * 3


def records(client: FlaskClient) -> Any:
    return client.post(f"{QUEUE}?limit=50&wait=0.3&{LONG}").json["records"]  # type: ignore[index]


# Pages that are not sent


class StubCall(DoneCallbacks):
    """A `PendingCall` that the test completes."""

    def __init__(self) -> None:
        super().__init__()
        self.page: QueuePage | None = None
        self.is_abandoned = False

    def result(self, timeout: float | None = None) -> QueuePage:
        if self.page is None:
            raise Unavailable("lost")
        return self.page

    def abandon(self) -> None:
        self.is_abandoned = True


class StubQueues:
    """A `LoopQueues` that notes its calls."""

    def __init__(self) -> None:
        self.calls: list[StubCall] = []
        self.waits: list[float] = []
        self.is_full = False

    def start_acquire(self, queue: QueueName, limit: int, wait: float, lock: float, dead: str = "") -> StubCall:
        if self.is_full:
            raise WouldBlock
        self.calls.append(StubCall())
        self.waits.append(wait)
        return self.calls[-1]


@pytest.fixture
def hooks(used: FlaskClient) -> AppLifecycle:
    hooks = used.application.extensions["kafka_http"]
    assert isinstance(hooks, AppLifecycle)
    return hooks


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch) -> dict[str, bool]:
    """The pages that were ended, and whether they were sent."""
    ended: dict[str, bool] = {}
    confirm, release = QueueRegistry.confirm_pages, QueueRegistry.release_page

    def confirmed(registry: QueueRegistry, pages: list[str]) -> None:
        ended.update(dict.fromkeys(pages, True))
        confirm(registry, pages)

    def released(registry: QueueRegistry, page: str) -> None:
        ended[page] = False
        release(registry, page)

    monkeypatch.setattr(QueueRegistry, "confirm_pages", confirmed)
    monkeypatch.setattr(QueueRegistry, "release_page", released)
    return ended


def started(hooks: AppLifecycle, query: str = "") -> Any:
    assert hooks.fast_path is not None
    prepared = hooks.fast_path.prepare("POST", f"{QUEUE}?{LONG}&{query}", {}, CLIENT)
    assert prepared is not None
    return prepared.start(b"")


@pytest.mark.parametrize("is_sent", [True, False])
def test_page_is_confirmed_when_it_was_sent_else_released(
    ended: dict[str, bool], hooks: AppLifecycle, is_sent: bool
) -> None:
    wait_for(lambda: ended)  # the page before it
    ended.clear()
    call = started(hooks, "wait=20")
    done: list[bool] = []
    call.add_done_callback(lambda: done.append(True))
    wait_for(lambda: done)
    response = call.finish()
    assert response.status == 200
    assert response.records == 1
    assert not ended
    response.on_sent(is_sent)
    wait_for(lambda: list(ended.values()) == [is_sent])


def test_empty_page_needs_no_end(hooks: AppLifecycle, monkeypatch: pytest.MonkeyPatch) -> None:
    queues = stub_queues(hooks, monkeypatch)
    call = started(hooks)
    queues.calls[0].page = QueuePage("1")
    queues.calls[0].complete()
    response = call.finish()
    assert (response.status, response.records, response.on_sent) == (200, 0, None)


def test_call_that_waits_asks_again_until_its_time_is_over(
    hooks: AppLifecycle, monkeypatch: pytest.MonkeyPatch
) -> None:
    queues = stub_queues(hooks, monkeypatch)
    call = started(hooks, "wait=60")
    for each in (0, 1, 2):
        assert len(queues.calls) == each + 1
        queues.calls[each].page = QueuePage(str(each))
        queues.calls[each].complete()
    assert queues.waits == [1.0] * 4
    hooks.stop()
    queues.calls[3].page = QueuePage("3")
    queues.calls[3].complete()
    assert len(queues.calls) == 4
    assert call.finish().status == 200


def test_call_that_may_not_ask_again_ends_with_the_empty_page(
    hooks: AppLifecycle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker makes a limited number of calls at a time."""
    queues = stub_queues(hooks, monkeypatch)
    call = started(hooks, "wait=60")
    queues.is_full = True
    queues.calls[0].page = QueuePage("0")
    queues.calls[0].complete()
    response = call.finish()
    assert (response.status, response.on_sent) == (200, None)


def test_call_without_a_result_in_time_is_a_503_and_is_abandoned(
    hooks: AppLifecycle, monkeypatch: pytest.MonkeyPatch
) -> None:
    queues = stub_queues(hooks, monkeypatch)
    call = started(hooks)
    response = call.finish()
    assert (response.status, response.on_sent) == (503, None)
    assert queues.calls[0].is_abandoned


def test_page_that_is_not_rendered_in_time_is_released(
    ended: dict[str, bool], hooks: AppLifecycle, monkeypatch: pytest.MonkeyPatch
) -> None:
    wait_for(lambda: ended)  # the page before it
    ended.clear()
    started_rendering, answered, render = Event(), Event(), AcquireRequest.render

    def render_late(*args: Any) -> RenderedResponse:
        started_rendering.set()
        answered.wait(60)
        return render(*args)

    monkeypatch.setattr(AcquireRequest, "render", render_late)
    monkeypatch.setattr(Formats, "may_wait", lambda *_: True)
    call = started(hooks, "wait=20")
    assert started_rendering.wait(30)
    response = call.finish()
    assert (response.status, response.on_sent) == (503, None)
    answered.set()
    wait_for(lambda: list(ended.values()) == [False])


def test_error_of_the_call_is_the_response(hooks: AppLifecycle, monkeypatch: pytest.MonkeyPatch) -> None:
    queues = stub_queues(hooks, monkeypatch)
    call = started(hooks)
    queues.calls[0].complete()
    assert call.finish().status == 503


def stub_queues(hooks: AppLifecycle, monkeypatch: pytest.MonkeyPatch) -> StubQueues:
    assert hooks.fast_path is not None
    queues = StubQueues()
    (route,) = [each for each in hooks.fast_path.routes if hasattr(each, "queues")]
    monkeypatch.setattr(route, "queues", queues)
    return queues
