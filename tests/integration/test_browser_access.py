"""A real Chromium before a real server that needs credentials: pages of other origins, and the console's login."""

import json
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import bcrypt
import pytest

from kafka_http.demo.embedded_kafka import EmbeddedKafka
from kafka_http.security.api_keys import new_key
from tests.conftest import TopicFactory
from tests.integration.conftest import running
from tests.support.console_browser import Console, chromium
from tests.support.page_scripts import FORM
from tests.support.page_server import page_server
from tests.support.planted_secrets import plant
from tests.support.polling import wait_for
from tests.support.server_process import Service

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

APP, EVIL = "app.example", "evil.example"
"""Both are resolved to this machine by the browser."""
CONTRASTS = Path(__file__).parents[1] / "support" / "console_contrasts.js"
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
    return Secrets(plant(new_key()), plant(new_key()), plant("pässword:1"))


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """The port of a web server for the pages of other origins."""
    with page_server() as found:
        yield found


class Settings:
    """The settings and the files of the server, which a test may write again."""

    def __init__(self, directory: Path, secrets: Secrets, port: int) -> None:
        self._secrets = secrets
        self.origins = [f"http://{APP}:{port}", f"http://127.0.0.1:{port}"]
        self.file, self.keys, self.users = (directory / each for each in ("kafka_http.toml", "keys.toml", "users"))
        hashed = bcrypt.hashpw(secrets.password.encode(), bcrypt.gensalt(4))
        self.users.write_text(f"reader:{hashed.decode()}\n")
        self.write()

    def write(self, *, has_editor: bool = True, has_origins: bool = True) -> None:
        editor, web = (sha256(each.encode()).hexdigest() for each in (self._secrets.editor, self._secrets.web))
        narrowed = f'publish_only = true\norigins = ["{self.origins[0]}"]'
        self.keys.write_text(
            f'[web]\nsha256 = "{web}"\n{narrowed}\n' + (f'[editor]\nsha256 = "{editor}"\n' if has_editor else "")
        )
        self.file.write_text(f"cors_origins = {json.dumps(self.origins if has_origins else [])}\n{RULES}")


@pytest.fixture(scope="module")
def settings(secrets: Secrets, port: int, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return Settings(tmp_path_factory.mktemp("settings"), secrets, port)


@pytest.fixture(scope="module")
def server(
    browser: "Browser", settings: Settings, kafka: EmbeddedKafka, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    auth = {"auth__keys": settings.keys, "auth__basic": settings.users}
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup ignores it
    service = Service(
        tmp_path_factory.mktemp("access"),
        kafka.bootstrap_servers,
        **{"console": True, "config": settings.file, "cors_credentials": True, **auth},
    )
    with running(service):
        yield service
    signal.signal(signal.SIGHUP, before)


@pytest.fixture
def reload(server: Service, settings: Settings) -> Iterator[Callable[..., None]]:
    """`reload(**written)` writes the files again and lets the server read them."""

    def reload_(**written: bool) -> None:
        assert server.process is not None
        settings.write(**written)
        server.process.send_signal(signal.SIGHUP)

    yield reload_
    reload_()


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
        window.box("Log in with").select_option("key" if "key" in typed else "password")
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
    publish = window.panel("Publish")
    if kind == "key":
        window.button("Publish").click()
        publish.locator(".outcome.good").wait_for()
    else:
        publish.get_by_text("You may not publish to this topic.").wait_for()
        assert window.button("Publish").count() == 0
    window.panel("Settings").get_by_text("You may not create, change or delete topics.").wait_for()
    window.choose_consumer("other")
    not_allowed = window.panel("Consumer").get_by_text("You may not use the consumer of this name.")
    not_allowed.wait_for(state="hidden" if kind == "key" else "visible")
    command = window.page.locator(".reading .curl pre").inner_text()
    assert ('-H "X-Api-Key: $KEY"' if kind == "key" else "-u reader") in command

    window.page.get_by_role("link", name=user).click()
    window.page.get_by_role("heading", name="Access").wait_for()
    window.page.locator("table.rights td").first.wait_for()
    rights = window.page.locator("table.rights tbody tr").all_inner_texts()
    assert [each.split("\t")[1] for each in rights] == (
        ["all", "all", "none", "all", "no", "no"] if kind == "key" else ["none", "all", "none", "c*, me", "no", "no"]
    )
    stored = window.page.evaluate(STORED)
    assert not [each for each in secrets if each in stored + window.page.content()]

    window.button("Log out").click()
    window.page.get_by_role("heading", name="Log in").wait_for()
    log_in(window, **typed)
    window.page.get_by_role("link", name=user).wait_for()
    window.page.reload()
    window.page.get_by_role("heading", name="Log in").wait_for()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_login_and_access_view_have_enough_contrast_and_fit_a_phone(
    console: Callable[..., Console], secrets: Secrets, scheme: str
) -> None:
    window = console(color_scheme=scheme, viewport={"width": 320, "height": 640}).open("#/access")
    window.button("Log in").wait_for()
    for seen in ("Log in", "Access"):
        window.page.get_by_role("heading", name=seen).wait_for()
        found = window.page.evaluate(CONTRASTS.read_text())
        assert [each for each in found if each["contrast"] < each["wanted"]] == []
        assert window.page.evaluate("document.documentElement.scrollWidth") == 320
        if seen == "Log in":
            log_in(window, user="reader", password=secrets.password)
            window.page.locator("table.rights td").first.wait_for()


def test_console_does_not_use_a_password_that_the_browser_knows(
    console: Callable[..., Console], server: Service, secrets: Secrets
) -> None:
    """Its requests omit the browser's credentials, so a refusal does not open the dialog of the browser."""
    window = console(http_credentials={"username": "reader", "password": secrets.password})
    learn_password(window.page, f"{server.url}/messages")
    window.open()
    assert fetched(window.page, f"{server.url}/messages")[0] == 200, "the browser would send it"
    window.page.get_by_role("heading", name="Log in").wait_for()


def test_console_asks_for_a_login_again_when_its_key_is_revoked(
    console: Callable[..., Console], secrets: Secrets, topic: TopicFactory, reload: Callable[..., None]
) -> None:
    window = console().open(f"#/topics/{topic()}")
    log_in(window, key=secrets.editor)
    window.state("live").wait_for()
    reload(has_editor=False)
    window.page.get_by_role("heading", name="Log in").wait_for()
    assert window.page.locator("#user").inner_text() == ""
    log_in(window, key=secrets.editor)
    window.page.locator(".login .outcome.bad", has_text="Unknown API key").wait_for()
    log_in(window, user="reader", password=secrets.password)
    window.state("live").wait_for()


def test_reload_takes_an_origin_away(
    page_of: Callable[..., "Page"], server: Service, secrets: Secrets, topic: TopicFactory, reload: Callable[..., None]
) -> None:
    name, page = topic(), page_of(APP)
    url, sent = f"{server.url}/messages/{name}", {"Authorization": f"Bearer {secrets.editor}"}
    wait_for(lambda: fetched(page, url, "POST", headers=sent, body="before")[0] == 200)
    origin = {"Origin": page.url.rstrip("/")}
    with ExitStack() as stack:
        sessions = [stack.enter_context(each) for each in server.session_of_each_worker().values()]
        health, allowed = f"{server.url}/health", "Access-Control-Allow-Origin"
        assert all(each.get(health, headers=origin).headers[allowed] for each in sessions)
        reload(has_origins=False)
        wait_for(lambda: not any(allowed in each.get(health, headers=origin).headers for each in sessions))
    for method, body in (("GET", None), ("POST", "after")):  # the browser remembers the preflight request
        assert fetched(page, url, method, headers=sent, body=body)[0] == "TypeError"
    assert values(server, name, secrets) == ["before"]
