"""Pages of other origins in a real Chromium, before a real server and a real Kafka: they write nothing here."""

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from kafka_http.demo.embedded_kafka import EmbeddedKafka
from tests.conftest import TopicFactory
from tests.integration.conftest import running
from tests.support.console_browser import Console, chromium
from tests.support.page_scripts import FORM
from tests.support.page_server import page_server
from tests.support.server_process import Service

if TYPE_CHECKING:
    from playwright.sync_api import Browser

EVIL = "evil.example"
"""Resolved to this machine by the browser."""
ATTACK = """async url => {
  const sent = [];
  const no = () => sent.push("refused");
  await fetch(url, {method: "POST", mode: "no-cors", body: "fetch"}).then(() => sent.push("sent"), no);
  await fetch(url, {method: "PUT", body: "cors"}).then(() => sent.push("sent"), no);
  sent.push(navigator.sendBeacon(url, "beacon") ? "sent" : "refused");
  await new Promise(done => {
    const image = new Image();
    image.onload = image.onerror = done;
    image.src = url + "/c/0:1?ack=previous";
  });
  return sent;
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    with chromium(f"--host-resolver-rules=MAP {EVIL} 127.0.0.1") as found:
        yield found


@pytest.fixture(scope="module")
def server(browser: "Browser", kafka: EmbeddedKafka, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    service = Service(tmp_path_factory.mktemp("browsers"), kafka.bootstrap_servers, console=True)
    with running(service):
        yield service


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", EVIL])
def test_page_of_another_origin_writes_nothing(
    browser: "Browser", server: Service, topic: TopicFactory, host: str
) -> None:
    name = topic()
    url = f"{server.url}/messages/{name}"
    assert server.post(f"/messages/{name}", json=["mine", "mine"]).ok
    with page_server() as port, browser.new_context() as context:
        page = context.new_page()
        page.goto(f"http://{host}:{port}/")
        sent = page.evaluate(ATTACK, url)
        assert sent[0] == "sent", "the browser sends it; the server has to refuse"
        with page.expect_navigation() as posted:
            page.evaluate(FORM, url)
        assert posted.value.status == 403
        assert posted.value.json()["error"]["code"] == 40302
    assert server.get(f"/messages/{name}/c").json()["partitions"][0]["committed"] is None
    assert server.put(f"/messages/{name}", b'"last"').ok, "what was sent before has arrived"
    assert [each["value"] for each in server.records(name)] == ["mine", "mine", "last"]


def test_page_with_dns_rebinding_reads_and_writes_nothing(
    browser: "Browser", server: Service, topic: TopicFactory
) -> None:
    """DNS rebinding: to the browser the page and the server have one origin."""
    name = topic()
    assert server.put(f"/messages/{name}", b"secret").ok
    with browser.new_context() as context:
        page = context.new_page()
        answer = page.goto(f"http://{EVIL}:{server.port}/messages")
        assert answer is not None
        assert (answer.status, json.loads(answer.text())["error"]["code"]) == (421, 421)
        for method, path in (("GET", f"/messages/{name}/c/earliest"), ("POST", f"/messages/{name}")):
            status, body = page.evaluate(
                "([path, method]) => fetch(path, {method}).then(async answer => [answer.status, await answer.text()])",
                [path, method],
            )
            assert status == 421
            assert "secret" not in body
    assert [each["value"] for each in server.records(name)] == ["secret"]


def test_console_publishes_and_acknowledges(browser: "Browser", server: Service, topic: TopicFactory) -> None:
    """Its requests are of this server's own origin, whichever of its names the browser uses."""
    for host in ("127.0.0.1", "localhost", "app.localhost"):
        name = topic()
        url = f"http://{host}:{server.port}"
        console = Console(browser, url)
        try:
            console.open()
            calls = [("POST", f"/messages/{name}", 200), ("DELETE", f"/messages/{name}/c/0:0", 204)]
            calls.append(("GET", f"/messages/{name}/c/0:1?ack=previous", 200))
            for method, path, status in calls:
                said = console.page.evaluate(
                    "([path, method]) => fetch(path, {method}).then(answer => answer.status)", [path, method]
                )
                assert said == status
        finally:
            console.context.close()
