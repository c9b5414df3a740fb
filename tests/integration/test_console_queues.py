"""The page of a queue in the console, in a real Chromium: leases, settling by hand, blocked partitions, rights."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

from kafka_http.demo.embedded_kafka import EmbeddedKafka
from tests.conftest import TopicFactory
from tests.integration.conftest import running
from tests.support.console_browser import Console, OpenConsole
from tests.support.polling import wait_for
from tests.support.server_process import Service

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Route

CONTRASTS = Path(__file__).parents[1] / "support" / "console_contrasts.js"
PHONE = {"width": 320, "height": 640}


@pytest.fixture(scope="module")
def server(kafka: EmbeddedKafka, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with running(Service(tmp_path_factory.mktemp("queues"), kafka.bootstrap_servers, console=True)) as service:
        yield service


class StubQueue:
    """Answers a page's calls of a queue, as the server does, with what a test puts into it."""

    def __init__(self, window: Console) -> None:
        self.held: list[dict[str, Any]] = []
        self.page: dict[str, Any] = {}
        self.lost = False
        self.settled: list[str] = []
        self.date = time.time()
        self._lag = 7
        window.page.route("**/messages/orders/worker/queue**", self._answer)

    def hold(self, *leases: str, seconds: float = 3600, attempt: int = 1) -> None:
        end = int((self.date + seconds) * 1000)
        self.held += [{"lease": each, "attempt": attempt, "locked_until": end} for each in leases]

    def _answer(self, route: "Route") -> None:
        date = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(self.date))
        status, content = self._content(route.request.method, route.request.url.partition("/queue")[2].lstrip("/"))
        route.fulfill(status=status, json=content, headers={"Date": date})

    def _content(self, method: str, path: str) -> tuple[int, dict[str, Any]]:
        if method == "POST":
            return 200, {"topic": "orders", "consumer": "worker", "records": [], **self.page}
        if method == "GET":
            return 200, self._state()
        lease = path.partition("?")[0]
        if self.lost:
            return 409, {"leases": [{"lease": lease, "error": {"code": 40904, "message": "This lease has ended."}}]}
        self.settled.append(f"{method} {path}")
        self.held = [each for each in self.held if each["lease"] != lease]
        return 200, {"leases": [{"lease": lease, "acknowledged": True}]}

    def _state(self) -> dict[str, Any]:
        partitions = [{"partition": each, "start": 3, "end": 10, "lag": self._lag} for each in (0, 1)]
        lock = {"default": 30, "min": 1, "max": 43200}
        head = {"topic": "orders", "consumer": "worker", "attempts": 5, "lock": lock}
        return {**head, "partitions": partitions, "held": self.held}


def record(lease: str, value: Any, seconds: float = 3600) -> dict[str, Any]:
    partition, offset = lease.split(":")[:2]
    place = {"partition": int(partition), "offset": int(offset), "timestamp": 1_790_000_000_000}
    end = int((time.time() + seconds) * 1000)
    return {**place, "key": "a", "value": value, "headers": [], "lease": lease, "attempt": 1, "locked_until": end}


def lease_row(window: Console, place: str) -> "Locator":
    return window.page.locator("ol.messages > li", has=window.page.get_by_text(place, exact=True))


def press(window: Console, action: str, place: str) -> None:
    window.button(f"{action} {place}").click()


def places(window: Console) -> list[str]:
    return window.page.locator("ol.messages > li code.place").all_inner_texts()


def test_leases_of_clients_show_attempt_and_remaining_time(console: OpenConsole) -> None:
    """The time is that of the server: the clock of this one is a day ahead of the browser's."""
    window = console()
    queue = StubQueue(window)
    queue.date += 86_400
    queue.hold("1:7:0.abc1", seconds=7290)
    queue.hold("0:12:0.abc2", seconds=100_000, attempt=5)
    queue.hold("0:3:0.abc3", seconds=-5)
    window.open("#/queues/orders/worker")
    wait_for(lambda: places(window) == ["0:3", "0:12", "1:7"])
    assert "attempt 1 of 5" in lease_row(window, "1:7").inner_text()
    lease_row(window, "1:7").get_by_text("2 h 1 min left").wait_for()
    lease_row(window, "0:3").get_by_text("lock has ended").wait_for()
    assert lease_row(window, "0:12").locator(".badge.warn").inner_text() == "attempt 5 of 5"
    window.page.get_by_text("3 held").wait_for()
    assert window.page.locator("tr.total td").inner_text() == "14"
    assert lease_row(window, "1:7").get_by_role("link").get_attribute("href") == "#/topics/orders?from=1%3A7&live=false"


def test_settling_what_a_client_holds_asks_first(console: OpenConsole) -> None:
    window = console()
    queue = StubQueue(window)
    queue.hold("0:1:0.a", "0:2:0.b")
    queue.hold("0:3:0.c", attempt=5)
    window.open("#/queues/orders/worker")
    press(window, "Reject", "0:1")
    window.page.get_by_role("dialog").get_by_text("A client holds the message 0:1").wait_for()
    window.confirm("Cancel")
    press(window, "Reject", "0:2")
    window.confirm("Reject")
    window.page.get_by_text("Rejected 0:2.").wait_for()
    press(window, "Release", "0:3")
    window.page.get_by_role("dialog").get_by_text("This is its last attempt").wait_for()
    window.confirm("Release")
    wait_for(lambda: places(window) == ["0:1"])
    assert queue.settled == ["DELETE 0:2:0.b?reject=true", "PUT 0:3:0.c?lock=0"]
    assert "-X PUT" in window.page.locator(".reading .curl pre").inner_text()


def test_lost_lease_says_so_and_its_row_goes(console: OpenConsole) -> None:
    window = console()
    queue = StubQueue(window)
    queue.page = {"records": [record("0:1:0.a", "mine")]}
    queue.lost = True
    window.open("#/queues/orders/worker")
    window.button("Acquire").click()
    lease_row(window, "0:1").get_by_text("mine").wait_for()
    press(window, "Acknowledge", "0:1")
    window.page.locator(".reading .outcome.bad", has_text="This lease has ended.").wait_for()
    wait_for(lambda: places(window) == [])


def test_blocked_partitions_and_warnings_of_a_page_are_shown(console: OpenConsole) -> None:
    window = console()
    queue = StubQueue(window)
    queue.hold("1:4:0.a")
    queue.page = {
        "blocked": [{"partition": 1, "offset": 4, "lease": "1:4:0.a"}],
        "warnings": ["The queue starts at the end of the topic."],
    }
    window.open("#/queues/orders/worker")
    window.button("Acquire").click()
    window.page.get_by_text("Partition 1 is blocked. It delivers no further message until 1:4 is").wait_for()
    window.page.get_by_text("The queue starts at the end of the topic.").wait_for()
    wait_for(lambda: window.page.locator("tbody .badge.warn").all_inner_texts() == ["blocked"])
    press(window, "Acknowledge", "1:4")
    window.confirm("Acknowledge")
    window.page.get_by_text("Partition 1 is blocked").wait_for(state="detached")
    wait_for(lambda: window.page.locator("tbody .badge.warn").count() == 0)


def test_many_leases_are_shown_in_part_and_what_was_acquired_here_first(console: OpenConsole) -> None:
    window = console()
    queue = StubQueue(window)
    queue.hold(*[f"0:{offset}:0.a{offset}" for offset in range(1000)])
    queue.page = {"records": [record("1:5:0.z", {"exact": 1})]}
    window.open("#/queues/orders/worker")
    window.button("Acquire").click()
    wait_for(lambda: places(window)[:2] == ["1:5", "0:0"])
    assert len(places(window)) == 300
    window.page.get_by_text("The first 300 of them are shown.").wait_for()


def test_row_keeps_the_focus_while_others_come_and_go(console: OpenConsole) -> None:
    window = console()
    queue = StubQueue(window)
    queue.hold("0:5:0.a", "0:6:0.b", "0:8:0.d")
    window.open("#/queues/orders/worker")
    window.button("Extend 0:6").focus()
    queue.held = [each for each in queue.held if each["lease"] != "0:5:0.a"]
    queue.hold("0:4:0.c", "0:7:0.c")
    wait_for(lambda: places(window) == ["0:4", "0:6", "0:7", "0:8"])
    focused = "document.activeElement.ariaLabel ?? document.activeElement.querySelector('.place').textContent"
    assert window.page.evaluate(focused) == "Extend 0:6"
    queue.held = [each for each in queue.held if each["lease"] != "0:6:0.b"]
    wait_for(lambda: places(window) == ["0:4", "0:7", "0:8"])
    assert window.page.evaluate(focused) == "0:7"


def test_waiting_acquire_can_be_stopped(console: OpenConsole) -> None:
    window = console()
    StubQueue(window)
    window.page.route(lambda url: "wait=" in url, lambda route: None)  # without an answer
    window.open("#/queues/orders/worker")
    window.button("Acquire").click()
    window.page.get_by_text("Waiting for messages…").wait_for()
    window.button("Stop waiting").click()
    window.page.get_by_text("Stopped waiting.").wait_for()
    window.button("Acquire").wait_for()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_queue_page_has_enough_contrast_and_fits_a_phone(console: OpenConsole, scheme: str) -> None:
    window = console(viewport=PHONE, color_scheme=scheme)
    queue = StubQueue(window)
    queue.hold(f"0:{2**40}:0.abc1", attempt=5)
    blocked = [{"partition": 1, "offset": 4, "lease": "1:4:0.a"}]
    queue.page = {"records": [record("1:4:0.a", "x" * 400)], "blocked": blocked, "warnings": ["w" * 200]}
    window.open("#/queues/orders/worker")
    window.page.locator("summary", has_text="Acquire").click()
    window.page.locator("summary", has_text="Partitions").click()
    window.button("Acquire").click()
    wait_for(lambda: len(places(window)) == 2)
    assert window.page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
    found = window.page.evaluate(CONTRASTS.read_text())
    assert [each for each in found if each["contrast"] < each["wanted"]] == []


@pytest.mark.parametrize(
    ("right", "sentence"), [("read", "You may not read this topic."), ("consumer", "You may not use the consumer")]
)
def test_queue_page_without_the_right_says_so(console: OpenConsole, right: str, sentence: str) -> None:
    every, nothing = {"include": [["*"]], "exclude": []}, {"include": [[]], "exclude": []}
    rights = dict.fromkeys(("publish", "read", "consumer", "describe"), every) | {right: nothing}
    access = {"principal": "ada", "scheme": "proxy", "groups": [], "rights": {**rights, "topic_admin": False}}
    window = console()
    window.page.route("**/access", lambda route: route.fulfill(json={"access": access, "formats": ["json"]}))
    window.open("#/queues/orders/worker")
    window.page.get_by_text(sentence).wait_for()
    assert window.page.get_by_role("button", name="Acquire").count() == 0


def test_queue_is_worked_off_by_hand(console: OpenConsole, server: Service, topic: TopicFactory) -> None:
    name, worker = topic(), f"worker-{uuid4().hex[:8]}"
    records = [{"value": f"number {number}"} for number in range(5)]
    assert server.post(f"/messages/{name}", json={"records": records}).status_code == 200
    window = console().open(f"#/queues/{name}/{worker}")
    page = window.page
    page.get_by_text("There is no such queue yet.").wait_for()
    window.box("Messages").fill("3")
    window.box("Wait").fill("60")  # the daemon starts, and joins the group
    window.box("Lock").fill("3600")
    window.button("Acquire").click()
    page.get_by_text("3 messages acquired.").wait_for(timeout=60_000)
    assert places(window) == ["0:0", "0:1", "0:2"]
    lease_row(window, "0:1").get_by_text("number 1").wait_for()

    press(window, "Acknowledge", "0:0")
    page.get_by_text("Acknowledged 0:0.").wait_for()
    press(window, "Release", "0:1")
    page.get_by_text("Released 0:1.").wait_for()
    press(window, "Reject", "0:2")
    window.confirm("Reject")
    page.get_by_text("Rejected 0:2.").wait_for()
    wait_for(lambda: places(window) == [])
    wait_for(lambda: page.locator("tr.total td").inner_text() == "3")

    window.box("Messages").fill("1")
    window.button("Acquire").click()
    lease_row(window, "0:1").get_by_text("attempt 2 of 5").wait_for()
    window.box("Lock").fill("36000")
    press(window, "Extend", "0:1")
    lease_row(window, "0:1").get_by_text("9 h 59 min left").wait_for()

    held = server.post(f"/messages/{name}/{worker}/queue?lock=3600&wait=60", timeout=90).json()["records"]
    wait_for(lambda: places(window) == ["0:1", "0:3"])
    window.button("Delete queue").click()
    window.confirm("Delete queue")
    page.locator(".reading .outcome.bad").wait_for()
    assert server.delete(f"/messages/{name}/{worker}/queue/{held[0]['lease']}").status_code == 200
    press(window, "Acknowledge", "0:1")
    wait_for(lambda: places(window) == [])
    window.button("Delete queue").click()
    window.confirm("Delete queue")
    page.get_by_text("There is no such queue yet.").wait_for()


def test_groups_and_consumers_link_to_their_queues(console: OpenConsole, server: Service, topic: TopicFactory) -> None:
    name, worker = topic(), f"worker-{uuid4().hex[:8]}"
    assert server.post(f"/messages/{name}", json={"records": [{"value": 1}, {"value": 2}]}).status_code == 200
    acquired = server.post(f"/messages/{name}/{worker}/queue?lock=3600&wait=60", timeout=90).json()
    assert len(acquired["records"]) == 1
    window = console().open("#/groups")
    page = window.page
    row = page.locator("tr", has=page.get_by_role("link", name=worker))
    row.get_by_text("share (queue)").wait_for()
    row.get_by_role("link").click()
    page.get_by_role("link", name=f"Queue of {name}").click()
    wait_for(lambda: places(window) == ["0:0"])

    page.locator("h2 + span").get_by_role("link", name=name).click()
    window.choose_consumer(worker)
    window.panel("Consumer").locator(".outcome.bad", has_text="queue").wait_for()
    window.panel("Consumer").get_by_role("link", name="Open as a queue").click()
    page.get_by_role("heading", name=worker).wait_for()
    wait_for(lambda: places(window) == ["0:0"])
