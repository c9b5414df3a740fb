"""The console in a real Chromium, before a real server and a real Kafka."""

import json
import os
import shutil
import signal
import statistics
import subprocess
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, closing, nullcontext
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from kafka import KafkaProducer

from kafka_http.demo.embedded_kafka import EmbeddedKafka
from tests.conftest import TopicFactory
from tests.integration.conftest import ServiceFactory, running
from tests.support.console_browser import Console, OpenConsole, missing
from tests.support.nginx import nginx_before
from tests.support.polling import scaled, wait_for
from tests.support.server_process import Service

SCRIPT = "<script>window.harmed = 1</script>"
IMAGE = '"><img src=x onerror="window.harmed = 1">'
PHONE = {"width": 320, "height": 640}

CONTROLS = "a, button, input, select, textarea, summary, pre[tabindex]"
VISIBLE = f"""[...document.querySelectorAll("{CONTROLS}")].filter(each => each.checkVisibility() && !each.disabled)"""
CONTRASTS = Path(__file__).parents[1] / "support" / "console_contrasts.js"
COLLECT = """() => {
  window.seen = [];
  new MutationObserver(changes => {
    for (const change of changes) {
      window.seen.push(...[...change.addedNodes].reverse().map(each => each.querySelector(".value").textContent));
    }
  }).observe(document.querySelector(".reading ol.messages"), {childList: true});
}"""
"""Notes the values of the rows that come, in the order in which they came, whatever becomes of the rows."""


@pytest.fixture(scope="module")
def server(kafka: EmbeddedKafka, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A server with the console, for all tests that let it live."""
    with running(Service(tmp_path_factory.mktemp("console"), kafka.bootstrap_servers, console=True)) as service:
        yield service


@pytest.fixture
def mortal(start_service: ServiceFactory, kafka: EmbeddedKafka) -> Service:
    """A server with the console, for one test, which may kill it."""
    return start_service(kafka.bootstrap_servers, console=True)


def publish(server: Service, topic: str, *records: dict[str, Any]) -> None:
    assert server.post(f"/messages/{topic}", json={"records": list(records)}).status_code == 200


def lag_of(server: Service, topic: str, consumer: str) -> int:
    return sum(each["lag"] for each in server.get(f"/messages/{topic}/{consumer}").json()["partitions"])


def test_published_message_appears_in_another_page_within_a_second(console: OpenConsole, topic: TopicFactory) -> None:
    name = topic(partitions=3)
    writer, reader = console().open_topic(name), console().open_topic(name)
    took = []
    for number in range(5):
        writer.box("Key").fill(f"key-{number}")
        writer.box("Value").fill(f'{{"number": {number}, "exact": 12345678901234567890.10}}')
        writer.box("Headers").fill(f"Trace: {number}\nempty:")
        began = time.monotonic()
        writer.button("Publish").click()
        reader.row(f"key-{number}").wait_for()
        took.append(time.monotonic() - began)

    row = reader.row("key-4").inner_text()
    assert '"exact": 12345678901234567890.10' in row
    assert "Trace" in row
    assert writer.panel("Publish").locator(".outcome.good").inner_text().startswith("Written to partition")
    assert statistics.median(took) < scaled(1)


def test_topic_list_shows_partitions_and_message_counts(
    console: OpenConsole, server: Service, topic: TopicFactory
) -> None:
    name = topic(partitions=3)
    publish(server, name, *[{"value": number} for number in range(7)])
    page = console().open().page
    row = page.locator("tr", has=page.get_by_role("link", name=name, exact=True))
    row.locator("td", has_text="7").wait_for()

    assert row.locator("td").all_inner_texts() == ["3", "7"]
    row.get_by_role("link").click()
    page.get_by_role("heading", name=name).wait_for()


def test_polling_of_the_console_is_left_out_of_the_access_log(
    console: OpenConsole, server: Service, topic: TopicFactory
) -> None:
    name = topic()
    window = console()
    asked: list[str] = []
    window.page.on("request", lambda request: asked.append(request.url.removeprefix(server.url)))
    window.open_topic(name)
    for path in (f"/messages/{name}", f"/messages/{name}/me"):
        while asked.count(path) < 3:
            with window.page.expect_request(f"**{path}"):
                pass
        wait_for(lambda path=path: f'"GET {path} HTTP' in server.access_log)  # that of the page's start
        assert server.access_log.count(f'"GET {path} HTTP') == 1


def test_acknowledge_lowers_the_lag_and_replay_raises_it(
    console: OpenConsole, server: Service, topic: TopicFactory
) -> None:
    name = topic()
    publish(server, name, *[{"value": number} for number in range(5)])
    window = console().open_topic(name, "earliest")
    window.choose_consumer("billing")
    window.lag(5).wait_for()

    window.row_at("0:3").locator("button.ack").click()
    window.lag(1).wait_for()
    assert lag_of(server, name, "billing") == 1
    assert "-X DELETE" in window.panel("Consumer").locator("pre").inner_text() or "-X DELETE" in curl_of_reading(window)

    window.button("Continue reading").click()
    wait_for(lambda: window.rows.count() == 1)
    window.button("Replay").click()
    window.button("Replay all messages").click()
    window.lag(5).wait_for()
    wait_for(lambda: window.rows.count() == 5)

    window.box("Position").fill("0:2")
    window.button("Set position").click()
    window.lag(3).wait_for()
    window.button("Delete offsets").click()
    window.button("Cancel").click()
    window.lag(3).wait_for()
    window.button("Delete offsets").click()
    window.button("Delete its offsets").click()
    window.panel("Consumer").locator("td", has_text="none").wait_for()
    assert server.get(f"/messages/{name}/billing").json()["partitions"][0]["committed"] is None


def curl_of_reading(window: Console) -> str:
    return window.page.locator(".reading .curl pre").inner_text()


@pytest.mark.parametrize(
    "behind_nginx",
    [pytest.param(False, id="alone"), pytest.param(True, id="behind nginx", marks=pytest.mark.slow)],
)
def test_console_loses_no_message_when_the_server_is_killed(
    console: OpenConsole, mortal: Service, topic: TopicFactory, tmp_path: Path, behind_nginx: bool
) -> None:
    """Nginx answers 502 meanwhile, after which an EventSource never comes back by itself."""
    service, name = mortal, topic(partitions=2)
    with ExitStack() as stack:
        url = stack.enter_context(nginx_before([service], tmp_path)) if behind_nginx else service.url
        producer = stack.enter_context(closing(KafkaProducer(bootstrap_servers=service.bootstrap_servers)))
        window = console(url).open_topic(name)
        window.page.evaluate(COLLECT)
        published: list[str] = []

        def publish_more() -> None:
            for number in range(len(published), len(published) + 20):
                published.append(str(number))
                producer.send(name, str(number).encode(), partition=number % 2)
            producer.flush(10)

        for round_ in range(2):
            if round_:  # the first time it is killed before the stream has brought a message
                publish_more()
                wait_for(lambda: len(seen(window)) == len(published))
            with refused(window) if behind_nginx else nullcontext():
                kill(service)
            window.state("reconnecting").wait_for()
            publish_more()
            service.start()
            window.state("live").wait_for()
            publish_more()
            wait_for(lambda: len(seen(window)) >= len(published), 20)

        assert sorted(seen(window), key=int) == published


def refused(window: Console) -> AbstractContextManager[Any]:
    """Ends once the stream was answered with a 502."""
    events = "text/event-stream"
    return window.page.expect_response(lambda each: each.status == 502 and each.request.headers.get("accept") == events)


def kill(service: Service) -> None:
    assert service.process is not None
    os.killpg(service.process.pid, signal.SIGKILL)
    service.process.wait()


def seen(window: Console) -> list[str]:
    found: list[str] = window.page.evaluate("window.seen")
    return found


def test_pause_loses_nothing_and_list_stays_bounded(console: OpenConsole, server: Service, topic: TopicFactory) -> None:
    name = topic()
    window = console().open_topic(name)
    publish(server, name, {"value": "before"})
    window.row("before").wait_for()
    window.button("Pause").click()
    publish(server, name, {"value": "meanwhile"})
    window.state("paused").wait_for()
    assert window.row("meanwhile").count() == 0
    window.button("Resume").click()
    window.row("meanwhile").wait_for()
    assert window.row("before").count() == 1

    publish(server, name, *[{"value": f"many {number}"} for number in range(1000)])
    window.row("many 999").wait_for()
    assert window.rows.count() == 300
    assert "many 999" in window.rows.first.inner_text()

    window.box("Filter").fill("MANY 99")
    assert window.page.locator("ol.messages > li:visible").count() == 10
    assert "10 shown of 1" in window.page.locator(".reading .title").inner_text()


def test_next_page_button_reads_page_by_page(console: OpenConsole, server: Service, topic: TopicFactory) -> None:
    name = topic()
    publish(server, name, *[{"value": f"number {number}"} for number in range(150)])
    window = console().open_topic(name)
    window.read("0:30", live=False)
    wait_for(lambda: window.rows.count() == 100)
    window.button("Next page").click()
    wait_for(lambda: window.rows.count() == 120)
    assert "number 149" in window.rows.first.inner_text()

    window.box("From").fill("nowhere")
    window.button("Read").click()
    window.page.locator(".reading .outcome.bad", has_text="nowhere").wait_for()
    window.box("From").fill("0:151")
    window.button("Read").click()
    window.page.locator(".reading .outcome.bad").wait_for()


def test_tombstones_and_undecodable_values_are_shown(
    console: OpenConsole, server: Service, topic: TopicFactory
) -> None:
    name = topic()
    publish(
        server, name, {"key": "gone", "value": None}, {"key": "bytes", "value": "AP8=", "format": "binary"},
        {"key": "AP8=", "key_format": "binary", "value": 1, "headers": {"raw": {"base64": "AP8="}, "null": None}},
    )  # fmt: skip
    window = console().open_topic(name, "earliest")

    assert "tombstone" in window.row("gone").inner_text()
    assert "binary" in window.row("bytes").inner_text()
    assert "key in base64" in window.row_at("0:2").inner_text()
    window.page.locator("select[name=format]").last.select_option("json")
    window.button("Read").click()
    window.row("unreadable").wait_for()
    assert window.rows.count() == 3


def test_scripts_in_every_field_are_shown_as_text(console: OpenConsole, server: Service, topic: TopicFactory) -> None:
    name = topic(configs={"max.message.bytes": "5000"})
    publish(
        server, name,
        {"key": SCRIPT, "value": SCRIPT, "headers": [[SCRIPT, SCRIPT], [IMAGE, IMAGE]]},
        {"key": IMAGE, "value": IMAGE, "format": "text"},
        {"key": "nested", "value": {SCRIPT: [IMAGE]}},
    )  # fmt: skip
    window = console().open_topic(name, "earliest")
    window.choose_consumer(IMAGE)
    window.lag(3).wait_for()
    window.row("nested").locator("button.ack").click()
    window.lag(0).wait_for()
    for label, text in (("Value", IMAGE), ("Headers", SCRIPT), ("Partition", IMAGE)):
        window.panel("Publish").locator("label", has_text=label).locator("textarea, input").last.fill(text)
        window.button("Publish").click()
    window.box("From").fill(SCRIPT)
    window.button("Read").click()
    window.page.locator(".reading .outcome.bad", has_text="<script>").wait_for()
    window.open(f"#/topics/{IMAGE}")
    window.page.get_by_role("heading", name=IMAGE).wait_for()
    window.page.locator(".outcome.bad").first.wait_for()

    assert window.page.evaluate("document.querySelectorAll('main script, main img').length") == 0
    assert window.page.evaluate("window.harmed") is None
    window.open_topic(name, "earliest")
    assert window.row("nested").inner_text().count(SCRIPT) == 1
    text = window.rows.last.inner_text()
    assert text.count(SCRIPT) == 4
    assert text.count(IMAGE) == 2


@pytest.mark.parametrize("dangerous", ["..", ".", "a/b"])
def test_names_that_would_change_the_url_path_are_rejected(
    console: OpenConsole, server: Service, topic: TopicFactory, dangerous: str
) -> None:
    """PUT /messages/t/../earliest would publish."""
    name = topic()
    window = console().open_topic(name)
    window.choose_consumer(dangerous)
    window.button("Set position").click()

    window.panel("Consumer").locator(".outcome.bad", has_text="cannot be a name").wait_for()
    assert server.records(name) == []


def test_async_publishes_appear_among_the_tasks(console: OpenConsole, topic: TopicFactory) -> None:
    name = topic(configs={"max.message.bytes": "1000"})
    window = console().open_topic(name)
    window.page.get_by_label("Later").check()
    window.button("Publish").click()
    window.panel("Publish").locator(".outcome.good", has_text="Accepted as task").wait_for()
    window.box("Value").fill(json.dumps("x" * 2000))
    window.button("Publish").click()
    window.open("#/tasks")
    window.box("Topic").fill(name)
    window.box("Topic").press("Tab")
    window.page.locator("li", has_text="delivered").wait_for()
    window.page.locator("li", has_text="failed").locator(".outcome.bad").wait_for()
    window.box("Status").select_option("failed")
    wait_for(lambda: window.page.locator("li").count() == 1)


def test_consumer_instances_are_listed_and_removed(console: OpenConsole, server: Service, topic: TopicFactory) -> None:
    name, group = topic(), f"group-{uuid4().hex[:8]}"
    v2 = {"Content-Type": "application/vnd.kafka.v2+json"}
    assert server.post(f"/consumers/{group}", '{"name": "mine", "format": "json"}', headers=v2).ok
    window = console().open("#/instances")
    row = window.page.locator("li", has_text=group)
    row.get_by_text("reads nothing yet").wait_for()
    subscription = json.dumps({"topics": [name]})
    assert server.post(f"/consumers/{group}/instances/mine/subscription", subscription, headers=v2).ok
    row.get_by_text(f"subscribed to {name}").wait_for()
    row.get_by_role("button", name="Delete").click()
    window.button("Delete instance").click()
    row.wait_for(state="detached")
    assert server.delete(f"/consumers/{group}/instances/mine").status_code == 404


def test_shown_curl_command_does_the_same(console: OpenConsole, server: Service, topic: TopicFactory) -> None:
    if not shutil.which("curl"):
        missing("curl")
    name = topic()
    window = console().open_topic(name)
    window.box("Key").fill("it's $HOME")
    window.box("Value").fill('{"text": "\\\\ `id` \'quoted\' ü"}')
    window.box("Headers").fill("X: it's\nY: @z")
    one = window.panel("Publish").locator("pre").inner_text()
    window.button("Publish").click()
    window.row("it's $HOME").wait_for()
    window.box("Content").select_option("lines")
    window.box("Value").fill('{"n": 1}\n{"n": "@2"}')
    many = window.panel("Publish").locator("pre").inner_text()
    window.button("Publish").click()
    wait_for(lambda: window.rows.count() == 3)
    shell(one)
    shell(many)
    wait_for(lambda: window.rows.count() == 6)

    found = [{**each, "offset": 0, "timestamp": 0} for each in server.records(name)]
    assert found[:3] == found[3:]
    window.choose_consumer("it's me")
    window.row_at("0:4").locator("button.ack").focus()
    shell(curl_of_reading(window))
    window.lag(1).wait_for()


def shell(command: str) -> None:
    subprocess.run(["sh", "-c", command.replace("curl", "curl -sSf", 1)], check=True, timeout=20)


def test_tab_key_reaches_every_control(console: OpenConsole, server: Service, topic: TopicFactory) -> None:
    name = topic(partitions=2)
    publish(server, name, {"value": 1, "partition": 0}, {"value": 2, "partition": 1})
    window = console().open_topic(name, "earliest")
    wait_for(lambda: window.rows.count() == 2)
    page = window.page
    page.evaluate("document.activeElement.blur()")
    page.evaluate(f"window.wanted = {VISIBLE}")
    for _ in range(page.evaluate("wanted.length") + 3):
        page.keyboard.press("Tab")
        page.evaluate("document.activeElement.reached = getComputedStyle(document.activeElement).outline")

    unreached = "wanted.filter(each => !/solid [23]px/.test(each.reached)).map(each => each.outerHTML.slice(0, 200))"
    assert page.evaluate(unreached) == []
    nameless = "wanted.filter(each => each.labels && !each.labels.length && !each.textContent).map(each => each.name)"
    assert page.evaluate(nameless) == []


def test_publish_and_acknowledge_work_by_keyboard(console: OpenConsole, server: Service, topic: TopicFactory) -> None:
    name = topic()
    window = console().open_topic(name)
    keyboard = window.page.keyboard
    window.box("Key").focus()
    keyboard.type("typed")
    for _ in range(2):
        keyboard.press("Tab")
    keyboard.press("Control+A")
    keyboard.type('"by hand"')
    while window.page.evaluate("document.activeElement.textContent") != "Publish":
        keyboard.press("Tab")
    keyboard.press("Enter")
    window.row("by hand").wait_for()
    while window.page.evaluate("document.activeElement.textContent") != "Ack up to here":
        keyboard.press("Tab")
    keyboard.press("Space")
    wait_for(lambda: lag_of(server, name, "me") == 0)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_and_controls_have_enough_contrast(
    console: OpenConsole, server: Service, topic: TopicFactory, scheme: str
) -> None:
    """WCAG 2.2 AA: 4.5 for text, 3 for the borders of controls and for the mark of focus."""
    name = topic()
    publish(server, name, {"value": None}, {"key": "k", "value": "text", "format": "text", "headers": {"a": "b"}})
    window = console(color_scheme=scheme).open_topic(name, "earliest")
    page = window.page
    wait_for(lambda: window.rows.count() == 2)
    window.row_at("0:1").locator("button.ack").click()
    window.panel("Consumer").locator(".outcome.good").wait_for()
    window.box("Partition").fill("x")
    window.button("Publish").click()
    window.panel("Publish").locator(".outcome.bad").wait_for()
    found = [page.evaluate(CONTRASTS.read_text())]
    window.button("Delete offsets").click()
    page.get_by_role("dialog").wait_for()
    found.append(page.evaluate(CONTRASTS.read_text()))
    window.button("Cancel").click()
    for view, title in (("#/topics", "Topics"), ("#/tasks", "Tasks"), ("#/groups", "Groups"), ("#/groups/me", "me")):
        window.open(view)
        page.get_by_role("heading", name=title, exact=True).wait_for()
        found.append(page.evaluate(CONTRASTS.read_text()))

    assert min(len(each) for each in found) > 5
    assert [each for view in found for each in view if each["contrast"] < each["wanted"]] == []
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor") != "rgb(244, 245, 247)"
    assert dark == (scheme == "dark")


def test_console_fits_the_width_of_a_phone(console: OpenConsole, server: Service, topic: TopicFactory) -> None:
    name = topic(partitions=3)
    wide = "x" * 400
    publish(server, name, {"key": wide, "value": wide, "headers": {wide: wide}}, {"value": {wide: wide}})
    window = console(viewport=PHONE)
    for view in ("#/topics", "#/tasks", "#/groups", "#/groups/me", f"#/topics/{name}"):
        window.open(view)
        window.page.locator("h2").wait_for()
        assert window.page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
    wait_for(lambda: window.rows.count() == 2)
    window.page.evaluate("document.querySelectorAll('details').forEach(each => (each.open = true))")
    window.button("Publish").wait_for()

    assert window.page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]


@pytest.mark.parametrize("path", ["/rest/console", "/rest/console/"])
def test_console_works_behind_a_path_prefix(
    console: OpenConsole, server: Service, topic: TopicFactory, path: str
) -> None:
    name = topic()
    publish(server, name, {"value": "here"})
    page = console().page
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url.removeprefix(server.url)))
    page.route("**/rest/**", lambda route: route.continue_(url=route.request.url.replace("/rest/", "/", 1)))
    page.goto(f"{server.url}{path}#/topics/{name}")
    page.locator("ol.messages > li", has_text="here").wait_for()
    page.locator("[data-state=live]").wait_for()

    expected = ("/rest/console", "/rest/access", "/rest/messages", "/rest/consumers", "data:")
    assert [each for each in asked if not each.startswith(expected)] == []


@pytest.mark.parametrize(
    ("first", "modes"),
    [
        (None, {"omit": 1, "same-origin": 2}),
        ({"status": 401, "headers": {"WWW-Authenticate": "Basic"}, "body": "<p>Who?"}, {"omit": 1, "same-origin": 3}),
        ({"status": 200, "content_type": "text/html", "body": "<p>Log in."}, {"omit": 1, "same-origin": 3}),
    ],
    ids=["nothing asks", "a proxy asks", "a proxy shows its login page"],
)
def test_console_sends_the_browsers_credentials_if_this_server_asks_for_none(
    console: OpenConsole, server: Service, topic: TopicFactory, first: dict[str, Any] | None, modes: dict[str, int]
) -> None:
    """A proxy in front may need a cookie or a password. The page finds out with a request without credentials."""
    name = topic()
    window = console()
    window.page.add_init_script(
        "window.modes = []; const send = fetch;"
        "window.fetch = (url, options) => { modes.push(options.credentials); return send(url, options); }"
    )
    if first is not None:
        window.page.route("**/access", lambda route: route.fulfill(**first), times=1)
    window.open("#/instances")
    window.page.get_by_role("heading", name="Consumer instances").wait_for()
    wait_for(lambda: window.page.evaluate("modes.length") >= sum(modes.values()))
    sent = window.page.evaluate("modes")
    assert sent[: sum(modes.values())] == [mode for mode, count in modes.items() for _ in range(count)]
    assert window.page.locator("#user").inner_text() == ""
    window.open(f"#/topics/{name}").state("live").wait_for()
