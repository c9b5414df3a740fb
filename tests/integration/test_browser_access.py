"""A real Chromium before a real server that needs credentials: pages of other origins, and the console's login."""

import json
from collections.abc import Callable, Iterator
from hashlib import sha256
from typing import TYPE_CHECKING, Any, NamedTuple

import bcrypt
import pytest

from kafka_http.demo.embedded_kafka import EmbeddedKafka
from kafka_http.security.api_keys import new_key
from tests.conftest import TopicFactory
from tests.integration.conftest import running
from tests.support.console_browser import Console, chromium
from tests.support.page_server import page_server
from tests.support.polling import wait_for
from tests.support.server_process import Service

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

APP, EVIL = "app.example", "evil.example"
"""Both are resolved to this machine by the browser."""
RULES = """
[access.web]
publish = ["*"]
[access.editor]
publish = ["*"]
read = ["*"]
consumer = ["*"]
[access.reader]
read = ["*"]
consumer = ["c*", "me"]
"""
FETCH = """async ([url, options]) => {
  const names = ["Link", "X-Request-Id", "Server"];
  try {
    const response = await fetch(url, options);
    const read = Object.fromEntries(names.map(each => [each, response.headers.get(each)]));
    return [response.status, await response.text(), read];
  } catch (error) {
    return [error.name, error.message, {}];
  }
}"""
BEACON = """([url, body, type]) => navigator.sendBeacon(url, type ? new Blob([body], {type}) : body)"""
FIRST_EVENTS = """async ([url, headers]) => {
  const stopped = new AbortController();
  const response = await fetch(url, {headers, signal: stopped.signal});
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  while (!text.includes("data:")) text += (await reader.read()).value;
  stopped.abort();
  return text;
}"""
FORM = """url => {
  const form = document.createElement("form");
  Object.assign(form, {method: "POST", action: url, enctype: "text/plain"});
  form.append(Object.assign(document.createElement("input"), {name: "form", value: "form"}));
  document.body.append(form);
  form.submit();
}"""
STORED = """async () => JSON.stringify([
  {...localStorage}, {...sessionStorage}, document.cookie, location.href, history.state,
  (await indexedDB.databases()).length, (await caches?.keys())?.length,
])"""


class Secrets(NamedTuple):
    editor: str
    """A key with all rights."""
    web: str
    """A key that may only publish, from pages of the app."""
    password: str
    """Of the user `reader`."""


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    with chromium(f"--host-resolver-rules=MAP {EVIL} 127.0.0.1, MAP {APP} 127.0.0.1") as found:
        yield found


@pytest.fixture(scope="module")
def secrets() -> Secrets:
    return Secrets(new_key(), new_key(), "pässword:1")


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """The port of a web server for the pages of other origins."""
    with page_server() as found:
        yield found


@pytest.fixture(scope="module")
def server(
    browser: "Browser", secrets: Secrets, port: int, kafka: EmbeddedKafka, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    directory = tmp_path_factory.mktemp("access")
    origin, same_host = f"http://{APP}:{port}", f"http://127.0.0.1:{port}"
    keys, users, rules = (directory / each for each in ("keys.toml", "users", "kafka_http.toml"))
    digests = [sha256(each.encode()).hexdigest() for each in (secrets.editor, secrets.web)]
    web = f'sha256 = "{digests[1]}"\npublish_only = true\norigins = ["{origin}"]'
    keys.write_text(f'[editor]\nsha256 = "{digests[0]}"\n[web]\n{web}\n')
    hashed = bcrypt.hashpw(secrets.password.encode(), bcrypt.gensalt(4))
    users.write_text(f"reader:{hashed.decode()}\n")
    rules.write_text(RULES)
    settings: dict[str, Any] = {"console": True, "config": rules, "auth__keys": keys, "auth__basic": users}
    settings |= {"cors_origins": f"{origin},{same_host}", "cors_credentials": True}
    service = Service(directory, kafka.bootstrap_servers, **settings)
    with running(service):
        yield service
    assert not [each for each in secrets if each in service.log + service.access_log]


@pytest.fixture
def page_of(browser: "Browser", port: int) -> Iterator[Callable[..., "Page"]]:
    """`page_of(host, **context)` opens a page of another origin."""
    opened = []

    def open_(host: str, **context: Any) -> "Page":
        opened.append(browser.new_context(**context))
        page = opened[-1].new_page()
        page.goto(f"http://{host}:{port}/")
        return page

    yield open_
    for each in opened:
        each.close()


@pytest.fixture
def console(browser: "Browser", server: Service) -> Iterator[Callable[..., Console]]:
    opened: list[Console] = []

    def open_(**context: Any) -> Console:
        opened.append(Console(browser, server.url, **context))
        return opened[-1]

    yield open_
    for each in opened:
        each.context.close()
    assert [each.errors for each in opened if each.errors] == []


def values(server: Service, topic: str, secrets: Secrets) -> list[Any]:
    page = server.get(f"/messages/{topic}/c/earliest", headers={"X-Api-Key": secrets.editor}).json()
    return [each["value"] for each in page["records"]]


def fetched(page: "Page", url: str, method: str = "GET", **options: Any) -> Any:
    return page.evaluate(FETCH, [url, {"method": method, **options}])


def test_page_of_another_origin_with_a_key_writes_and_reads_nothing(
    page_of: Callable[..., "Page"], server: Service, secrets: Secrets, topic: TopicFactory
) -> None:
    name, page = topic(), page_of(EVIL)
    url = f"{server.url}/messages/{name}"
    sent = {"X-Api-Key": secrets.editor}
    assert server.put(f"/messages/{name}", b'"mine"', headers=sent).ok
    for method, path in (("PUT", ""), ("POST", ""), ("GET", "/c/earliest")):
        body = None if method == "GET" else "evil"
        status, text, _ = fetched(page, url + path, method, headers=sent, body=body)
        assert status == "TypeError", "the preflight request is refused"
        assert "mine" not in text
    for key in (secrets.web, secrets.editor):
        assert fetched(page, f"{url}?access_key={key}", "POST", mode="no-cors", body="fetch")[:2] == [0, ""]
        page.evaluate(BEACON, [f"{url}?access_key={key}", "beacon", ""])
    with page.expect_navigation() as posted:
        page.evaluate(FORM, f"{url}?access_key={secrets.web}")
    assert posted.value.status == 403
    assert values(server, name, secrets) == ["mine"]


def test_page_of_a_listed_origin_publishes_reads_and_streams_with_a_key(
    page_of: Callable[..., "Page"], server: Service, secrets: Secrets, topic: TopicFactory
) -> None:
    name, page = topic(), page_of(APP)
    url = f"{server.url}/messages/{name}"
    sent = {"X-Api-Key": secrets.editor, "Kafka-Header-Trace": "1"}
    for number in (1, 2):  # the second time without a preflight request
        status, _, read = fetched(page, f"{url}?key=k", "PUT", headers=sent, body=f'"{number}"')
        assert (status, len(read["X-Request-Id"]), read["Server"]) == (200, 32, None)
    status, text, read = fetched(page, f"{url}/c/earliest", headers={"Authorization": f"Bearer {secrets.editor}"})
    assert (status, [each["value"] for each in json.loads(text)["records"]]) == (200, ["1", "2"])
    assert "/c/0:2" in read["Link"]
    events = page.evaluate(FIRST_EVENTS, [f"{url}/c/earliest", {**sent, "Accept": "text/event-stream"}])
    assert '"value":"1"' in events


def test_page_of_a_listed_origin_can_read_refusals(
    page_of: Callable[..., "Page"], server: Service, secrets: Secrets, topic: TopicFactory
) -> None:
    name, page = topic(), page_of(APP)
    url = f"{server.url}/messages/{name}"
    for key, path, status in (
        ("kh_unknown", "", 401),
        (secrets.web, "/c/earliest", 403),
        (secrets.editor, "/c/never", 400),
        (secrets.editor, "x/c/earliest", 404),
    ):
        found, text, _ = fetched(page, url + path, headers={"X-Api-Key": key})
        assert found == status
        assert json.loads(text)["error"]["message"]
    assert fetched(page, url)[0] == 401


def test_beacon_of_a_listed_origin_publishes_with_its_key(
    page_of: Callable[..., "Page"], server: Service, secrets: Secrets, topic: TopicFactory
) -> None:
    """A beacon of text needs no preflight request. One of JSON does, and needs `cors_credentials`."""
    name, page = topic(), page_of(APP)
    url = f"{server.url}/messages/{name}?access_key={secrets.web}"
    assert page.evaluate(BEACON, [url, "text", ""])
    assert page.evaluate(BEACON, [url, '{"records": [{"value": "json"}]}', "application/json"])
    assert page.evaluate(BEACON, [url.replace(secrets.web, secrets.editor), "ordinary key", ""])
    wait_for(lambda: len(values(server, name, secrets)) >= 2)
    assert sorted(values(server, name, secrets)) == ["json", "text"]


def learn_password(page: "Page", url: str) -> None:
    """Visit a URL that needs the password in `http_credentials`, which the browser then remembers."""
    before = page.url
    found = page.goto(url)
    assert found is not None
    assert found.status == 200
    page.goto(before)


def test_browser_credentials_are_for_pages_of_listed_origins(
    browser: "Browser", server: Service, secrets: Secrets, topic: TopicFactory, port: int
) -> None:
    """With `credentials: "include"` Chromium sends a password that it knows, if both have the same host."""
    url = f"{server.url}/messages/{topic()}/c/earliest"
    credentials = {"username": "reader", "password": secrets.password}
    with page_server() as other, browser.new_context(http_credentials=credentials) as context:
        page = context.new_page()
        for each, expected in ((port, 200), (other, "TypeError")):
            page.goto(f"http://127.0.0.1:{each}/")
            learn_password(page, url)
            status, text, _ = fetched(page, url, credentials="include")
            assert (status, "records" in text) == (expected, expected == 200)
            assert fetched(page, url)[0] == (401 if expected == 200 else "TypeError")


# The console


def log_in(window: Console, **typed: str) -> None:
    if window.page.locator("select[name=kind]").evaluate("each => each.value") != (
        "key" if "key" in typed else "password"
    ):
        window.box("With").select_option("key" if "key" in typed else "password")
    for name, text in typed.items():
        window.page.locator(f"input[name={name}]").fill(text)
    window.button("Log in").click()


def test_console_asks_for_a_login_and_shows_why_it_failed(
    console: Callable[..., Console], server: Service, secrets: Secrets, topic: TopicFactory
) -> None:
    window = console().open(f"#/topics/{topic()}")
    window.page.get_by_role("heading", name="Log in").wait_for()
    outcome = window.page.locator(".login .outcome.bad")
    for typed, said in (
        ({"key": "kh_wrong"}, "Unknown API key"),
        ({"key": "kh_ö"}, "without spaces"),
        ({"key": secrets.web}, "origins"),
        ({"user": "reader", "password": "wrong"}, "wrong password"),
        ({"user": "a:b", "password": "x"}, "colon"),
    ):
        log_in(window, **typed)
        outcome.filter(has_text=said).wait_for()
    assert window.page.locator("#user").inner_text() == ""


@pytest.mark.parametrize("kind", ["key", "password"])
def test_console_works_after_a_login_and_forgets_it_at_the_end(
    console: Callable[..., Console], server: Service, secrets: Secrets, topic: TopicFactory, kind: str
) -> None:
    name = topic()
    assert server.put(f"/messages/{name}", b'"before"', headers={"X-Api-Key": secrets.editor}).ok
    window = console().open(f"#/topics/{name}")
    typed = {"key": secrets.editor} if kind == "key" else {"user": "reader", "password": secrets.password}
    user = "editor" if kind == "key" else "reader"
    log_in(window, **typed)
    window.state("live").wait_for()
    window.row("before").wait_for()
    assert server.put(f"/messages/{name}", b'"after"', headers={"X-Api-Key": secrets.editor}).ok
    window.row("after").wait_for()
    window.button("Publish").click()
    publish = window.panel("Publish")
    publish.locator(".outcome.good" if kind == "key" else ".outcome.bad").wait_for()
    command = publish.locator("pre").inner_text()
    assert ('-H "X-Api-Key: $KEY"' if kind == "key" else "-u reader") in command

    window.page.get_by_role("link", name=user).click()
    window.page.get_by_role("heading", name="Access").wait_for()
    rights = window.page.locator("table.rights tbody tr").all_inner_texts()
    assert [each.split("\t")[1] for each in rights] == (
        ["all", "all", "none", "all", "no"] if kind == "key" else ["none", "all", "none", "c*, me", "no"]
    )
    stored = window.page.evaluate(STORED)
    assert not [each for each in secrets if each in stored + window.page.content()]

    window.button("Log out").click()
    window.page.get_by_role("heading", name="Log in").wait_for()
    log_in(window, **typed)
    window.page.get_by_role("link", name=user).wait_for()
    window.page.reload()
    window.page.get_by_role("heading", name="Log in").wait_for()


def test_console_does_not_use_a_password_that_the_browser_knows(
    console: Callable[..., Console], server: Service, secrets: Secrets
) -> None:
    """Its requests omit the browser's credentials, so a refusal does not open the dialog of the browser."""
    window = console(http_credentials={"username": "reader", "password": secrets.password})
    learn_password(window.page, f"{server.url}/messages")
    window.open()
    assert fetched(window.page, f"{server.url}/messages")[0] == 200, "the browser would send it"
    window.page.get_by_role("heading", name="Log in").wait_for()


def test_console_asks_for_a_login_again_when_the_credentials_no_longer_count(
    console: Callable[..., Console], server: Service, secrets: Secrets, topic: TopicFactory
) -> None:
    window = console().open(f"#/topics/{topic()}")
    log_in(window, key=secrets.editor)
    window.state("live").wait_for()
    refused = json.dumps({"error": {"code": 40101, "message": "Unknown API key."}})
    window.page.route("**/messages/**", lambda route: route.fulfill(status=401, body=refused))
    window.page.get_by_role("heading", name="Log in").wait_for()
    assert window.page.locator("#user").inner_text() == ""
