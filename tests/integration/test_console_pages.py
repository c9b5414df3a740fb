"""The console in a real Chromium: state in the address, search, order, export, keyboard, formats, topics and groups."""

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from kafka_http.demo.embedded_kafka import EmbeddedKafka
from tests.conftest import TopicFactory
from tests.integration.conftest import ServiceFactory, running
from tests.support.console_browser import Console, OpenConsole
from tests.support.fake_registry import running_registry
from tests.support.polling import wait_for
from tests.support.server_process import Service


@pytest.fixture(scope="module")
def server(kafka: EmbeddedKafka, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with running(
        Service(tmp_path_factory.mktemp("pages"), kafka.bootstrap_servers, console=True, topic_admin=True)
    ) as service:
        yield service


def publish(server: Service, topic: str, *records: dict[str, Any]) -> None:
    assert server.post(f"/messages/{topic}", json={"records": list(records)}).status_code == 200


def test_reload_back_button_and_shared_address_show_the_same_again(
    console: OpenConsole, server: Service, topic: TopicFactory
) -> None:
    name = topic()
    publish(server, name, *[{"value": f"number {number}"} for number in range(8)])
    window = console().open(f"#/topics/{name}")
    wait_for(lambda: window.rows.count() == 8)
    assert window.address == f"/topics/{name}"

    window.read("0:6", live=False)
    window.read("0:3", live=False)
    window.box("Filter").fill("number 5")
    window.choose_consumer("billing")
    wait_for(lambda: window.offsets == ["0:5"])
    assert window.address == f"/topics/{name}?from=0:3&live=false&filter=number+5&consumer=billing"
    shared = console().open(f"#{window.address}")
    for seen in (window, shared):
        seen.page.reload()
        wait_for(lambda seen=seen: seen.offsets == ["0:5"])
        assert seen.box("From").input_value() == "0:3"
        assert seen.box("Name").input_value() == "billing"

    window.page.go_back()
    wait_for(lambda: window.offsets == ["0:7", "0:6"])
    assert window.box("Filter").input_value() == ""
    window.page.go_back()
    window.state("live").wait_for()
    wait_for(lambda: window.rows.count() == 8)
    window.page.go_forward()
    wait_for(lambda: window.offsets == ["0:7", "0:6"])


def test_search_reads_the_whole_topic_on_the_server(console: OpenConsole, server: Service, topic: TopicFactory) -> None:
    name = topic(partitions=2)
    many = [{"key": f"k{number % 4}", "value": f"number {number}", "partition": number % 2} for number in range(700)]
    publish(server, name, *many)
    window = console().open(f"#/topics/{name}")
    window.button("Search").click()
    window.page.locator(".reading .outcome.bad", has_text="Enter a text").wait_for()
    window.search("number 12")
    status = window.page.get_by_role("status")
    status.filter(has_text="Searched to the end: 11 found, 700 of 700 messages searched.").wait_for()
    wait_for(lambda: window.rows.count() == 11)
    assert window.address == f"/topics/{name}?contains=number+12"
    assert "contains=number+12" in window.page.locator(".reading .curl pre").inner_text()

    window.search("number 12", key="k1")
    status.filter(has_text="Searched to the end: 3 found").wait_for()
    window.page.go_back()
    status.filter(has_text="Searched to the end: 11 found").wait_for()

    window.search("number")
    status.filter(has_text="Stopped at a full list: 300 found").wait_for()
    window.button("Search on").click()
    status.filter(has_text="Stopped at a full list: 300 found").wait_for()
    window.button("Search on").click()
    status.filter(has_text="Searched to the end: 100 found, 700 of 700").wait_for()
    window.button("Read").click()
    window.state("live").wait_for()
    assert "contains" not in window.address


def test_stop_button_ends_a_search(console: OpenConsole, server: Service, topic: TopicFactory) -> None:
    name = topic()
    publish(server, name, {"value": "found"})
    window = console().open(f"#/topics/{name}")
    window.page.route("**/earliest?*contains=*", lambda route: None)  # the server does not answer
    window.search("found")
    window.state("searching").wait_for()
    window.button("Stop").click()
    window.state("search").wait_for()
    window.page.get_by_role("status").filter(has_text="Stopped: 0 found, 0 of 1 messages searched.").wait_for()
    window.page.unroute("**/earliest?*contains=*")
    window.button("Search on").click()
    wait_for(lambda: window.offsets == ["0:0"])


def test_messages_are_ordered_by_time_across_partitions(
    console: OpenConsole, server: Service, topic: TopicFactory
) -> None:
    name = topic(partitions=2)
    start = 1_790_000_000_000
    for partition, seconds in ((0, 1), (0, 4), (1, 2), (1, 3)):
        publish(server, name, {"value": seconds, "partition": partition, "timestamp": start + seconds * 1000})
    window = console().open(f"#/topics/{name}?from=earliest")
    wait_for(lambda: window.rows.count() == 4)
    window.box("Order").select_option("newest")
    assert window.offsets == ["0:1", "1:1", "1:0", "0:0"]
    window.box("Order").select_option("oldest")
    assert window.offsets == ["0:0", "1:0", "1:1", "0:1"]
    publish(server, name, {"value": "between", "partition": 1, "timestamp": start + 2500})
    wait_for(lambda: window.offsets == ["0:0", "1:0", "1:2", "1:1", "0:1"])
    assert window.address.endswith("sort=oldest")


def test_position_of_a_picked_time_is_in_utc(console: OpenConsole, server: Service, topic: TopicFactory) -> None:
    name = topic()
    for second in (10, 20):
        publish(server, name, {"value": second, "timestamp": 1_790_000_000_000 + second * 1000})
    window = console(timezone_id="Asia/Kolkata").open(f"#/topics/{name}")
    form = window.page.get_by_role("form", name="Read")
    form.get_by_role("button", name="Pick a time").click()
    form.get_by_label("Time").fill("20266-09-21T19:43:35")  # a year that no position can have
    assert window.box("From").input_value() == "-10"
    form.get_by_label("Time").fill("2026-09-21T19:43:35")  # 14:13:35 UTC
    assert window.box("From").input_value() == "@2026-09-21T14:13:35Z"
    window.button("Read").click()
    wait_for(lambda: window.offsets == ["0:1"])


def test_export_has_what_is_shown_and_can_be_published_again(
    console: OpenConsole, server: Service, topic: TopicFactory
) -> None:
    name, copy = topic(), topic()
    publish(
        server, name,
        {"key": "kept", "value": {"exact": 1}, "headers": {"h": "1"}},
        {"key": "kept", "value": "=1+1", "format": "text"},
        {"key": "kept", "value": None},
    )  # fmt: skip
    server.put(f"/messages/{name}?key=kept", b'{"exact": 12345678901234567890.10, "text": "a,\\"\\n"}')
    publish(server, name, {"value": "hidden"})
    window = console().open(f"#/topics/{name}?filter=kept&sort=oldest")
    wait_for(lambda: window.offsets == ["0:0", "0:1", "0:2", "0:3"])
    lines = saved(window, "Save as NDJSON", f"{name}.ndjson")
    headers = {"Content-Type": "application/x-ndjson"}
    assert server.post(f"/messages/{copy}?lines=records", lines.encode(), headers=headers).ok
    assert "12345678901234567890.10" in lines
    assert server.records(copy) == server.records(name)[:4]
    table = list(csv.DictReader(io.StringIO(saved(window, "Save as CSV", f"{name}.csv"))))
    assert [each["value"] for each in table] == [
        '{"exact":1}', "'=1+1", "", '{"exact":12345678901234567890.10,"text":"a,\\"\\n"}'
    ]  # fmt: skip
    assert (table[0]["key"], table[0]["headers"], table[0]["format"]) == ("kept", '[["h","1"]]', "json")

    window.context.grant_permissions(["clipboard-read", "clipboard-write"])
    window.button("Copy the messages as NDJSON").click()
    wait_for(lambda: window.page.evaluate("navigator.clipboard.readText()") == lines)
    window.button("Copy the value of 0:1").click()
    wait_for(lambda: window.page.evaluate("navigator.clipboard.readText()") == "=1+1")


def saved(window: Console, button: str, name: str) -> str:
    with window.page.expect_download() as download:
        window.button(button).click()
    assert download.value.suggested_filename == name
    return Path(download.value.path()).read_text("utf-8")


def test_keys_of_the_keyboard_publish_and_go_to_the_search(console: OpenConsole, topic: TopicFactory) -> None:
    window = console().open_topic(topic())
    window.box("Value").fill('"by keyboard"')
    window.box("Value").press("Control+Enter")
    window.row("by keyboard").wait_for()
    window.box("Value").press("/")
    assert window.box("Value").input_value().count("/") == 1
    window.page.locator("h2").click()
    window.page.keyboard.press("/")
    focused = "document.activeElement.name"
    assert window.page.evaluate(focused) == "contains"
    assert window.box("Search the whole topic").input_value() == ""
    assert "Ctrl+Enter" in window.page.locator(".keys").inner_text()


def test_formats_with_a_schema_are_offered_and_decoded_if_there_is_a_registry(
    console: OpenConsole, server: Service, start_service: ServiceFactory, kafka: EmbeddedKafka, topic: TopicFactory
) -> None:
    name = topic()
    plain = console().open(f"#/topics/{name}")
    assert "avro" not in plain.box("Format").inner_text()
    with running_registry() as registry:
        registry.add(f"{name}-value", '{"type": "record", "name": "P", "fields": [{"name": "x", "type": "int"}]}')
        service = start_service(kafka.bootstrap_servers, console=True, schema_registry__url=registry.url)
        window = console(service.url).open(f"#/topics/{name}")
        window.panel("Publish").locator("select[name=format]").select_option("avro")
        window.box("Value").fill('{"x": 5}')
        window.button("Publish").click()
        window.row('"x": 5').locator(".badge", has_text="avro").wait_for()
        assert window.page.locator("select[name=format]").last.locator("option").all_inner_texts() == [
            "detected", "json", "text", "binary", "avro", "protobuf", "jsonschema"
        ]  # fmt: skip


def test_globs_of_rights_match_as_on_the_server(console: OpenConsole) -> None:
    """The page hides what the user may not do. The rights are those of GET /access."""
    window = console().open()
    window.page.get_by_role("heading", name="Topics").wait_for()
    matches = """async ([glob, name]) => {
      const { session } = await import("/console/session.js");
      const { may } = await import("/console/rights.js");
      session.access = {rights: {read: {include: [[glob]], exclude: ["secret"]}}};
      return may("read", name);
    }"""
    for glob, name, expected in (
        ("[z-a]*", "zebra", False), ("[z-a!]", "!", True), ("[!!]", "!", False), ("[!]", "x", False),
        ("x[!]", "x[!]", True),
        ("*", "any", True), ("*", "secret", False), ("orders.*", "orders.eu", True), ("orders.*", "ordersXeu", False),
        ("t?", "t1", True), ("t?", "t12", False), ("t[1-3]", "t2", True), ("t[!1-3]", "t2", False),
        ("a+b(c)$", "a+b(c)$", True), ("t[", "t[", True),
    ):  # fmt: skip
        assert window.page.evaluate(matches, [glob, name]) is expected, (glob, name)


def test_malformed_address_shows_what_it_can(console: OpenConsole, server: Service) -> None:
    window = console().open("#/topics/50%25?from=%")
    window.page.get_by_role("heading", name="50%").wait_for()
    window.page.locator(".outcome.bad").first.wait_for()
    window.open("#/topics/50%")
    window.page.get_by_role("heading", name="50%").wait_for()


def test_lesson_with_the_console_alone(console: OpenConsole, server: Service) -> None:
    """Make a topic, publish with keys, see them, two consumers, acknowledge, lag, replay, delete."""
    name = f"lesson-{uuid4().hex[:8]}"
    window = console().open()
    page = window.page
    new = window.panel("New topic")
    page.get_by_role("heading", name="Topics").wait_for()
    if new.get_attribute("open") is None:
        new.locator("summary").click()
    new.get_by_label("Name", exact=True).fill(name)
    new.get_by_label("Partitions").fill("3")
    new.get_by_label("Configuration").fill("retention.ms=86400000")
    assert '"partitions":3' in new.locator("pre").inner_text()
    window.button("Create topic").click()
    page.get_by_role("heading", name=name, exact=True).wait_for()
    window.state("live").wait_for()
    window.panel("Settings").get_by_text("86400000", exact=True).wait_for()

    partitions: dict[str, set[str]] = {}
    for number in range(6):
        key = f"customer-{number % 2}"
        window.box("Key").fill(key)
        window.box("Value").fill(f'{{"order": {number}}}')
        window.box("Value").press("Control+Enter")
        place = window.row(f'"order": {number}').locator("code.place")
        partitions.setdefault(key, set()).add(place.inner_text().partition(":")[0])
    assert [len(each) for each in partitions.values()] == [1, 1]  # the key chooses the partition

    for consumer, lag in (("billing", 3), ("shipping", 6)):
        window.choose_consumer(f"{consumer}-{name}")
        window.lag(6).wait_for()
        if consumer == "billing":
            window.row('"order": 4').locator("button.ack").click()
            window.lag(lag).wait_for()
    window.choose_consumer(f"billing-{name}")
    window.lag(3).wait_for()
    page.get_by_role("link", name="Show the group").click()
    page.get_by_role("heading", name=f"billing-{name}").wait_for()
    total = page.locator("table.offsets tr.total td")
    wait_for(lambda: total.inner_text() in {"0", "3"})  # of the partitions that it has acknowledged
    page.go_back()
    window.lag(3).wait_for()
    window.button("Replay").click()
    window.confirm("Replay all messages")
    window.lag(6).wait_for()
    wait_for(lambda: window.rows.count() == 6)

    window.button("Delete topic").click()
    assert page.get_by_role("dialog").get_by_role("button", name="Delete topic").is_disabled()
    window.confirm("Delete topic", name)
    page.get_by_role("heading", name="Topics").wait_for()
    assert server.get(f"/messages/{name}").status_code == 404


def test_question_closes_when_its_page_is_left(console: OpenConsole, server: Service, topic: TopicFactory) -> None:
    """After Back, it stood over another page, and deleted the topic of the page before."""
    name = topic()
    publish(server, name, {"value": 1})
    window = console().open("#/topics")
    page = window.page
    page.get_by_role("link", name=name, exact=True).click()
    window.button("Delete topic").click()
    page.get_by_role("dialog").wait_for()
    page.go_back()
    page.get_by_role("heading", name="Topics").wait_for()
    page.get_by_role("dialog").wait_for(state="detached")
    assert server.get(f"/messages/{name}").status_code == 200


def test_topic_settings_change_the_topic(console: OpenConsole, server: Service, topic: TopicFactory) -> None:
    name = topic()
    publish(server, name, *[{"value": number} for number in range(5)])
    window = console().open(f"#/topics/{name}")
    settings = window.panel("Settings")
    settings.get_by_label("More partitions").fill("3")
    settings.get_by_label("Configuration").fill("retention.ms=1000000\nmax.message.bytes = 5000")
    window.button("Change").click()
    settings.get_by_text("Topic changed.").wait_for()
    wait_for(lambda: len(server.get(f"/messages/{name}").json()["partitions"]) == 3)
    assert server.get(f"/messages/{name}").json()["config"] == {"retention.ms": "1000000", "max.message.bytes": "5000"}
    settings.get_by_text("1000000", exact=True).wait_for()

    settings.get_by_label("More partitions").fill("2")
    settings.get_by_label("Configuration").fill("retention.ms=")
    window.button("Change").click()
    settings.locator(".outcome.bad", has_text="3").wait_for()
    settings.get_by_label("More partitions").fill("")
    window.button("Change").click()
    settings.get_by_text("Topic changed.").wait_for()
    assert server.get(f"/messages/{name}").json()["config"] == {"max.message.bytes": "5000"}

    settings.get_by_label("Delete messages before").fill("0:3")
    window.button("Delete messages").click()
    window.confirm("Delete messages")
    settings.get_by_text("Messages deleted.").wait_for()
    assert server.get(f"/messages/{name}").json()["partitions"][0]["earliest"] == 3


def test_groups_show_members_and_lag_and_are_deleted(
    console: OpenConsole, server: Service, topic: TopicFactory
) -> None:
    name, group = topic(), f"group-{uuid4().hex[:8]}"
    publish(server, name, *[{"value": number} for number in range(5)])
    assert server.delete(f"/messages/{name}/{group}/0:1").status_code == 204
    v2 = {"Content-Type": "application/vnd.kafka.v2+json"}
    assert server.post(f"/consumers/{group}", '{"name": "mine", "format": "json"}', headers=v2).ok
    subscription = json.dumps({"topics": [name]})
    assert server.post(f"/consumers/{group}/instances/mine/subscription", subscription, headers=v2).ok
    window = console().open("#/groups")
    page = window.page
    row = page.locator("tr", has=page.get_by_role("link", name=group))
    wait_for(lambda: row.locator("td").all_inner_texts()[1:] == ["Stable", "1"], 20)
    row.get_by_role("link").click()
    page.locator("table.members td", has_text=f"{name} 0").wait_for()
    assert page.locator("table.offsets tr").nth(1).locator("td").all_inner_texts() == ["0", "2", "5", "3"]
    assert window.button("Delete group").is_disabled()
    assert "without members" in (window.button("Delete group").get_attribute("title") or "")

    assert server.delete(f"/consumers/{group}/instances/mine", headers=v2).ok
    page.get_by_text("The group has no members.").wait_for()
    window.button("Delete group").click()
    window.confirm("Delete group")
    page.get_by_role("heading", name="Groups").wait_for()
    assert server.get(f"/consumers/{group}").status_code == 404
    window.open(f"#/groups/{group}")
    page.locator(".outcome.bad", has_text=group).wait_for()


def test_topic_that_is_deleted_by_others_is_shown_as_gone(console: OpenConsole, server: Service) -> None:
    name = f"gone-{uuid4().hex[:8]}"
    assert server.post("/messages", json={"topic": name}).status_code == 201
    window = console().open_topic(name)
    assert server.delete(f"/messages/{name}").status_code == 204
    window.page.locator("section > .outcome.bad", has_text=name).wait_for()


def test_message_with_a_timestamp_beyond_all_dates_is_shown_and_exported(console: OpenConsole, server: Service) -> None:
    """Some producers write nanoseconds. Such a message hid all others."""
    name = f"nanoseconds-{uuid4().hex}"
    configs = {"message.timestamp.after.max.ms": str(2**63 - 1)}
    assert server.post("/messages", json={"topic": name, "partitions": 1, "config": configs}).status_code == 201
    nanoseconds = 1790000000000000000
    publish(server, name, {"value": "far", "timestamp": nanoseconds}, {"value": "near", "timestamp": 0})
    window = console().open(f"#/topics/{name}")

    wait_for(lambda: window.offsets == ["0:1", "0:0"])
    assert str(nanoseconds) in window.row("far").inner_text()
    with window.page.expect_download() as saved:
        window.button("Save as CSV").click()
    rows = list(csv.DictReader(io.StringIO(Path(saved.value.path()).read_text())))
    assert [row["time"] for row in rows] == ["1970-01-01T00:00:00.000Z", str(nanoseconds)]


def test_headers_with_long_names_leave_room_for_values_on_a_phone(
    console: OpenConsole, server: Service, topic: TopicFactory
) -> None:
    name = topic()
    publish(server, name, {"value": 1, "headers": [["long" * 50, "a value"], ["b", {"base64": "/w=="}]]})
    window = console(viewport={"width": 390, "height": 844}).open(f"#/topics/{name}")
    wait_for(lambda: window.rows.count() == 1)
    width = window.page.locator(".reading dl.headers dd").first.evaluate("cell => cell.clientWidth")
    assert width > 150
    assert window.page.evaluate("document.documentElement.scrollWidth") == 390


def test_search_that_another_read_replaces_shows_nothing_more(
    console: OpenConsole, server: Service, topic: TopicFactory
) -> None:
    """It said that it stopped, and offered to go on, while the other read was running."""
    name = topic()
    publish(server, name, {"value": "one"})
    window = console().open(f"#/topics/{name}")
    window.state("live").wait_for()
    window.page.route("**contains=held**", lambda _: None)  # without an answer
    window.search("held")
    window.button("Stop").wait_for()
    window.search("held, too")
    window.page.wait_for_function("location.hash.includes('too')")
    window.page.evaluate("new Promise(done => setTimeout(done, 200))")
    assert window.button("Stop").is_visible()
    assert window.button("Search on").is_hidden()

    window.read("0:0", live=False)
    window.page.evaluate("new Promise(done => setTimeout(done, 200))")
    assert window.button("Search on").is_hidden()


def test_search_that_fails_can_go_on(console: OpenConsole, server: Service, topic: TopicFactory) -> None:
    name = topic()
    publish(server, name, {"value": "one"})
    window = console().open(f"#/topics/{name}")
    window.state("live").wait_for()
    window.page.route("**contains=one**", lambda route: route.abort())
    window.search("one")
    window.page.get_by_text("The server cannot be reached.").wait_for()
    window.page.unroute("**contains=one**")
    window.button("Search on").click()
    window.page.get_by_text("Searched to the end: 1 found").wait_for()
