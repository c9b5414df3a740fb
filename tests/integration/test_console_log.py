"""The drawing of the log in the console, in a real Chromium: tapes, keys, consumers, charts, an outage of Kafka."""

import json
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from kafka import KafkaProducer

from kafka_http.demo.embedded_kafka import EmbeddedKafka
from tests.conftest import TopicFactory
from tests.integration.conftest import running
from tests.support.console_browser import Console, OpenConsole
from tests.support.polling import wait_for
from tests.support.server_process import Service

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Route

CONTRASTS = Path(__file__).parents[1] / "support" / "console_contrasts.js"
KEYS = ("ada", "bob", "cyn", "user-17")
COUNT_ANIMATIONS = """
window.animations = 0;
const animate = Element.prototype.animate;
Element.prototype.animate = function (...given) { window.animations += 1; return animate.apply(this, given); };
"""


@pytest.fixture(scope="module")
def server(kafka: EmbeddedKafka, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with running(Service(tmp_path_factory.mktemp("log"), kafka.bootstrap_servers, console=True)) as service:
        yield service


def publish(server: Service, topic: str, *records: dict[str, Any]) -> list[dict[str, Any]]:
    response = server.post(f"/messages/{topic}", json={"records": list(records)})
    assert response.status_code == 200
    written: list[dict[str, Any]] = response.json()["records"]
    return written


def tape(window: Console, partition: int) -> "Locator":
    return window.page.locator(".tape").nth(partition)


def labels(window: Console, partition: int) -> list[str]:
    """Return what is written on the messages of a partition."""
    return tape(window, partition).locator(".cell").all_inner_texts()


def flags(window: Console, partition: int) -> list[str]:
    return tape(window, partition).locator(".pole").all_inner_texts()


def color(found: "Locator") -> str:
    text: str = found.first.evaluate("each => getComputedStyle(each).backgroundColor")
    return text


def call(window: Console, module: str, script: str) -> Any:
    """Return the value of an expression in which `module` is a module of the page."""
    return window.page.evaluate(f"import('/console/{module}').then(module => ({script}))")


def test_tape_shows_each_message_in_its_partition_with_the_color_of_its_key(
    console: OpenConsole, server: Service, topic: TopicFactory
) -> None:
    name = topic(partitions=3)
    written = publish(server, name, *[{"key": KEYS[number % 4], "value": number} for number in range(20)])
    window = console().open_topic(name, "earliest")
    short = dict(zip(KEYS, ("ad", "bo", "cy", "17"), strict=True))
    for partition in range(3):
        expected = [short[KEYS[number % 4]] for number, each in enumerate(written) if each["partition"] == partition]
        wait_for(lambda partition=partition, expected=expected: labels(window, partition) == expected)

    seen = {}
    for number, key in enumerate(KEYS):
        partition = written[number]["partition"]
        chip = window.page.locator(".chip", has_text=key)
        chip.get_by_text(f"→ partition {partition}").wait_for()
        seen[key] = color(chip.locator(".cell"))
        assert color(tape(window, partition).locator(".cell", has_text=short[key])) == seen[key]
        assert color(window.row(key).locator("code.key")) == seen[key]
    assert len(set(seen.values())) == len(KEYS)
    window.page.reload()
    window.page.locator(".chip", has_text="ada").wait_for()
    assert color(window.page.locator(".chip", has_text="ada").locator(".cell")) == seen["ada"]


def test_pressed_key_stands_out_on_the_tape(console: OpenConsole, server: Service, topic: TopicFactory) -> None:
    name = topic()
    publish(server, name, *[{"key": KEYS[number % 2], "value": number} for number in range(6)])
    window = console().open_topic(name)
    chip = window.page.locator(".chip", has_text="ada")
    chip.click()
    wait_for(lambda: window.page.locator(".tape .cell.dimmed").all_inner_texts() == ["bo"] * 3)
    assert chip.get_attribute("aria-pressed") == "true"
    chip.click()
    wait_for(lambda: window.page.locator(".tape .cell.dimmed").count() == 0)


def are_aligned(first: Any, second: Any) -> bool:
    """Whether two boxes begin at the same place."""
    return first is not None and second is not None and abs(first["x"] - second["x"]) < 3


def middle_of(box: Any) -> Any:
    """Return a box that begins in the middle of this one."""
    return box and {"x": box["x"] + box["width"] / 2}


def test_new_messages_and_new_positions_of_consumers_move_on_the_tape(
    console: OpenConsole, server: Service, topic: TopicFactory
) -> None:
    name, one, other = topic(), f"billing-{uuid4().hex[:4]}", f"audit-{uuid4().hex[:4]}"
    publish(server, name, *[{"key": "ada", "value": number} for number in range(8)])
    assert server.put(f"/messages/{name}/{one}/0:5").status_code == 200
    window = console().open_topic(name)
    wait_for(lambda: flags(window, 0) == [f"{one} lag 3"])
    assert server.put(f"/messages/{name}/{other}/earliest").status_code == 200
    wait_for(lambda: flags(window, 0) == [f"{other} lag 8", f"{one} lag 3"])
    pole, cell = tape(window, 0).locator(".pole").nth(1), tape(window, 0).locator(".cell").nth(5)
    wait_for(lambda: are_aligned(pole.bounding_box(), cell.bounding_box()))  # the tape may just be drawn again

    publish(server, name, {"key": "bob", "value": 1}, {"key": "bob", "value": None})
    wait_for(lambda: labels(window, 0) == ["ad"] * 8 + ["bo"] * 2)
    assert "tombstone" in (tape(window, 0).locator(".cell").last.get_attribute("class") or "")
    assert server.put(f"/messages/{name}/{one}/latest").status_code == 200
    assert server.put(f"/messages/{name}/{other}/latest").status_code == 200
    wait_for(lambda: flags(window, 0) == [f"{other}, {one} lag 0"])
    chart = window.page.get_by_role("img", name="Lag over the last")
    wait_for(lambda: f"{one} now 0, at most " in (chart.get_attribute("aria-label") or ""))
    throughput = window.page.get_by_role("img", name="Throughput over the last")
    wait_for(lambda: "messages per second now" in (throughput.get_attribute("aria-label") or ""))


def test_click_on_a_message_of_the_tape_shows_it(console: OpenConsole, server: Service, topic: TopicFactory) -> None:
    name = topic()
    publish(server, name, *[{"key": "ada", "value": {"number": number, "exact": 1.50}} for number in range(20)])
    window = console().open_topic(name)
    wait_for(lambda: len(labels(window, 0)) == 20)
    detail = window.page.locator(".detail > li")
    tape(window, 0).locator(".cell").nth(3).click()
    detail.get_by_text('"number": 3').wait_for()
    assert f"/messages/{name}/console/0:3" in window.page.locator(".log .curl pre").inner_text()

    detail.get_by_role("button", name="Show in the list").click()
    window.row_at("0:3").wait_for()  # it was not among the last 10 messages, so that the list starts there
    detail.get_by_role("button", name="Close").click()
    wait_for(lambda: detail.count() == 0)


def test_keyboard_moves_between_messages_and_shows_one(
    console: OpenConsole, server: Service, topic: TopicFactory
) -> None:
    name = topic(partitions=3)
    records = [{"key": f"k{number}", "value": number, "partition": number % 2 * 2} for number in range(8)]
    publish(server, name, *records)
    assert server.put(f"/messages/{name}/me/2:1").status_code == 200
    window = console().open_topic(name)
    wait_for(lambda: flags(window, 2) == ["me lag 3"])
    wait_for(lambda: labels(window, 0) == ["0", "2", "4", "6"])
    grid = window.page.get_by_role("grid")
    grid.focus()
    for key in ("ArrowLeft", "ArrowLeft", "ArrowDown", "ArrowUp", "ArrowDown"):
        grid.press(key)
    active = window.page.locator(f"#{grid.get_attribute('aria-activedescendant')}")
    spoken = active.get_attribute("aria-label") or ""
    assert spoken.startswith("Partition 2, offset 1, key k3, ")  # the empty partition 1 has nothing to go to
    assert spoken.endswith(", next for me")
    grid.press("Home")
    grid.press("Enter")
    window.page.locator(".detail > li").get_by_text("k1", exact=True).wait_for()
    grid.press("End")
    grid.press("ArrowRight")
    assert (active.get_attribute("aria-label") or "").startswith("Partition 2, offset 3")

    window.page.get_by_text("Log as a table").click()
    row = window.page.locator(".log tbody tr").nth(2)
    wait_for(
        lambda: row.locator("td").all_inner_texts() == ["0", "4", "k1 (1), k3 (1), k5 (1), k7 (1)", "me at 1, lag 3"]
    )


def test_offsets_without_a_message_are_marked_on_the_tape(
    console: OpenConsole, server: Service, topic: TopicFactory, kafka: EmbeddedKafka
) -> None:
    """The marker that ends a transaction has an offset, too."""
    name = topic()
    with closing(KafkaProducer(bootstrap_servers=kafka.bootstrap_servers, transactional_id=name)) as producer:
        producer.init_transactions()
        producer.begin_transaction()
        producer.send(name, b"1", key=b"ada")
        producer.commit_transaction()
        wait_for(lambda: server.get(f"/messages/{name}").json()["partitions"][0]["latest"] == 2)
    window = console().open_topic(name)
    cells = tape(window, 0).locator(".cell")
    wait_for(lambda: [each.split()[1] for each in classes(cells)] == ["message", "absent"])
    publish(server, name, {"key": "ada", "value": 2})
    wait_for(lambda: [each.split()[1] for each in classes(cells)] == ["message", "absent", "message"])
    cells.nth(1).click()
    window.page.locator(".log .outcome", has_text="Partition 0 has no message at offset 1.").wait_for()


def classes(cells: "Locator") -> list[str]:
    found: list[str] = cells.evaluate_all("all => all.map(each => each.className)")
    return found


def test_tape_of_a_hundred_long_partitions_draws_only_what_is_seen(console: OpenConsole, topic: TopicFactory) -> None:
    """The topic of this test exists only in the page: 100 partitions with 10 million messages each."""
    name, end = topic(), 10_000_000
    window = console()
    partitions = [{"partition": at, "earliest": 0, "latest": end, "leader": 1, "replicas": [1]} for at in range(100)]
    places = [{"partition": at, "committed": end // 2, "end": end, "lag": end // 2} for at in range(100)]
    group = {"group": "slow", "type": "classic", "state": "Empty", "members": 0, "offsets": places}
    window.page.route(f"**/messages/{name}", answer({"topic": name, "partitions": partitions}))
    window.page.route("**/consumers?topic=*", answer({"groups": [group]}))
    window.page.route(f"**/messages/{name}/console/*", page_of_keys)
    window.open(f"#/topics/{name}")
    wait_for(lambda: window.page.locator(".tape").count() == 100)
    wait_for(lambda: labels(window, 0)[-2:] == ["98", "99"])
    assert "older" in tape(window, 0).locator(".older").inner_text()
    assert tape(window, 0).locator(".ticks .end").inner_text() == "10\u202f000\u202f000"
    wait_for(lambda: flags(window, 0) == ["slow lag 5\u202f000\u202f000"])
    assert tape(window, 99).locator(".cell").count() == 0
    older, pole = tape(window, 0).locator(".older"), tape(window, 0).locator(".pole")
    wait_for(lambda: are_aligned(pole.bounding_box(), middle_of(older.bounding_box())))

    tape(window, 99).scroll_into_view_if_needed()
    wait_for(lambda: labels(window, 99)[-2:] == ["98", "99"])


def answer(content: Any) -> Callable[["Route"], None]:
    return lambda route: route.fulfill(status=200, content_type="application/json", body=json.dumps(content))


def page_of_keys(route: "Route") -> None:
    """Answer with all messages up to offset 10 million from the requested positions on."""
    wanted = route.request.url.split("/console/")[1].split("?")[0]
    starts = [tuple(map(int, each.split(":"))) for each in wanted.split(",")]
    common = {"timestamp": 0, "value": 1, "format": "json", "headers": []}
    records = [
        {"partition": partition, "offset": offset, "key": f"user-{offset}", **common}
        for partition, start in starts
        for offset in range(start, 10_000_000)
    ]
    ends = ",".join(f"{partition}:10000000" for partition, _ in starts)
    answer({"records": records, "next": ends, "ack": ends})(route)


def test_live_turns_to_waiting_for_kafka_while_no_broker_answers(console: OpenConsole, topic: TopicFactory) -> None:
    name = topic()
    window = console().open_topic(name)
    error = {"error": {"code": 50302, "message": "No Kafka broker answers: 127.0.0.1:9092 (timed out)."}}
    path = f"**/messages/{name}"
    window.page.route(path, lambda route: route.fulfill(status=503, json=error))
    window.state("waiting").wait_for()
    assert window.state("waiting").inner_text() == "waiting for Kafka"
    window.page.unroute(path)
    window.state("live").wait_for()
    assert window.state("live").inner_text() == "live"


@pytest.mark.parametrize("motion", ["no-preference", "reduce"])
def test_tape_moves_only_for_users_who_have_not_asked_for_less_motion(
    console: OpenConsole, server: Service, topic: TopicFactory, motion: str
) -> None:
    name = topic()
    window = console(reduced_motion=motion)
    window.page.add_init_script(COUNT_ANIMATIONS)
    window.open_topic(name)
    wait_for(lambda: tape(window, 0).locator(".ticks .end").count() == 1)
    publish(server, name, {"key": "ada", "value": 1})
    wait_for(lambda: labels(window, 0) == ["ad"])
    assert (window.page.evaluate("animations") > 0) == (motion == "no-preference")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_tape_has_enough_contrast_in_every_color(
    console: OpenConsole, server: Service, topic: TopicFactory, scheme: str
) -> None:
    """WCAG 2.2 AA: 4.5 for text, 3 for what is drawn."""
    name = topic()
    publish(server, name, *[{"key": f"key-{number}", "value": number} for number in range(30)], {"value": "no key"})
    assert server.put(f"/messages/{name}/me/-5").status_code == 200
    window = console(color_scheme=scheme).open_topic(name)
    cells = tape(window, 0).locator(".cell")
    wait_for(lambda: cells.count() == 31 and not [each for each in classes(cells) if "unknown" in each])
    wait_for(lambda: flags(window, 0) == ["me lag 5"])
    window.page.get_by_text("Log as a table").click()
    window.page.locator(".log tbody tr").wait_for()
    found = window.page.evaluate(CONTRASTS.read_text())
    assert [each for each in found if each["contrast"] < each["wanted"]] == []
    colors = {each.split()[2] for each in classes(cells)}
    assert colors >= {f"key-{number}" for number in range(16)}
    paper = color(window.page.locator(".log"))
    drawn = {color(tape(window, 0).locator(f".cell.{each}")) for each in colors}
    assert [each for each in drawn if contrast(each, paper) < 3] == []


def contrast(one: str, other: str) -> float:
    """Return the contrast of two CSS colors (WCAG 2.2, relative luminance)."""
    dark, light = sorted(map(luminance, (one, other)))
    return (light + 0.05) / (dark + 0.05)


def luminance(css: str) -> float:
    shares = [int(each) / 255 for each in css.removeprefix("rgb(").removesuffix(")").split(",")]
    red, green, blue = [each / 12.92 if each <= 0.04045 else ((each + 0.055) / 1.055) ** 2.4 for each in shares]
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_tape_fits_the_width_of_a_phone(console: OpenConsole, server: Service, topic: TopicFactory) -> None:
    name, wide = topic(), "x" * 200
    publish(server, name, *[{"key": wide, "value": number} for number in range(50)])
    assert server.put(f"/messages/{name}/{wide}/-3").status_code == 200
    window = console(viewport={"width": 320, "height": 640}).open_topic(name)
    wait_for(lambda: flags(window, 0) == [f"{'x' * 19}… lag 3"])
    window.page.get_by_text("Log as a table").click()
    assert window.page.evaluate("document.documentElement.scrollWidth") == 320


def test_layout_of_a_long_partition_puts_offsets_and_places_into_each_other(console: OpenConsole) -> None:
    window = console().open()
    scale = "new module.Scale({earliest: 1000, latest: 9001000}, 1000, 180)"
    assert call(window, "tape_layout.js", f"[{scale}.cells, {scale}.first]") == [40, 9_000_960]
    assert call(window, "tape_layout.js", f"[1000, 9000960, 9000999, 9001000].map(each => {scale}.x(each))") == [
        0, 180, 960, 980,
    ]  # fmt: skip
    assert call(window, "tape_layout.js", f"[0, 90, 180, 979, 980].map(each => {scale}.offset(each))") == [
        1000, 4_500_980, 9_000_960, 9_000_999, None,
    ]  # fmt: skip
    assert call(window, "tape_layout.js", "module.olderWidth([{earliest: 5, latest: 45}], 820)") == 0
    assert call(window, "tape_layout.js", "module.olderWidth([{earliest: 5, latest: 46}], 820)") == 148


def test_labels_of_flags_do_not_cover_each_other(console: OpenConsole) -> None:
    window = console().open()
    consumers = json.dumps([{"name": f"c{at}", "offset": at, "lag": 9} for at in (0, 1, 2, 3, 9, 9)])
    placed = call(
        window, "tape_layout.js",
        f"module.placed(module.flagsOf({consumers}),"
        " new module.Scale({earliest: 0, latest: 10}, 300, 0), 300, () => 60)"
        ".map(each => [each.names.length, each.x, each.lane, each.isLeft])",
    )  # fmt: skip
    assert placed == [[1, 0, 0, False], [1, 20, 1, False], [1, 40, 2, False], [1, 60, -1, False], [2, 180, 0, False]]
    right = call(
        window, "tape_layout.js",
        "module.placed([{offset: 10}], new module.Scale({earliest: 0, latest: 10}, 220, 0), 220, () => 60)[0].isLeft",
    )  # fmt: skip
    assert right is True


def test_throughput_is_measured_from_the_ends_of_the_log(console: OpenConsole) -> None:
    window = console().open()
    totals = json.dumps([{"at": 0, "total": 10}, {"at": 2000, "total": 30}, {"at": 4000, "total": 0}])
    rates = call(window, "charts.js", f"module.rates({totals})")
    assert rates == [{"at": 2000, "value": 10}, {"at": 4000, "value": 0}]
    assert call(window, "charts.js", "[0, 1, 3, 50, 51, 999].map(module.ceiling)") == [1, 1, 5, 50, 100, 1000]
    assert (
        call(window, "charts.js", "module.path([{at: 30000, value: 5}], {now: 60000, span: 60000, max: 10})")
        == "300.0,50.0"
    )
