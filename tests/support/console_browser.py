"""A real Chromium that shows the console."""

import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

FLAGS = [
    "--no-sandbox",  # Chromium as root needs it
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def missing(what: str) -> None:
    if "CI" in os.environ:
        pytest.fail(f"{what} is missing")
    pytest.skip(f"{what} is missing")


@contextmanager
def chromium(*flags: str) -> Iterator["Browser"]:
    """Start a headless Chromium with additional flags and a temporary profile."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        missing("Chromium")
    try:
        from playwright.sync_api import sync_playwright
    except ModuleNotFoundError:
        missing("Playwright")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=[*FLAGS, *flags])
        try:
            yield browser
        finally:
            browser.close()


OpenConsole = Callable[..., "Console"]
"""What `consoles` yields."""


@contextmanager
def consoles(browser: "Browser", default_url: str) -> Iterator[OpenConsole]:
    """Yield `console(url, **context)`, which opens a window. At the end none of them may have had an error."""
    opened: list[Console] = []

    def open_(url: str = default_url, **context: Any) -> Console:
        opened.append(Console(browser, url, **context))
        return opened[-1]

    yield open_
    for each in opened:
        each.context.close()
    assert [each.errors for each in opened if each.errors] == []


class Console:
    """The console in a browser context of its own. It collects the errors of the page."""

    def __init__(self, browser: "Browser", url: str, **context: Any) -> None:
        self.context = browser.new_context(viewport=context.pop("viewport", {"width": 1280, "height": 900}), **context)
        self.page: Page = self.context.new_page()
        self.page.set_default_timeout(15_000)
        self.errors: list[str] = []
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", self._said)
        self._url = url

    def _said(self, message: Any) -> None:
        if "Content Security Policy" in message.text or message.type == "assert":
            self.errors.append(message.text)

    def open(self, view: str = "") -> "Console":
        self.page.goto(f"{self._url}/console{view}")
        return self

    def open_topic(self, topic: str, position: str = "latest") -> "Console":
        """Open the view of a topic, live from a position on."""
        self.open(f"#/topics/{topic}")
        self.state("live").wait_for()
        if position != "-10":
            self.read(position)
        return self

    def read(self, position: str, live: bool = True) -> None:
        self.box("From").fill(position)
        self.page.get_by_label("Live").set_checked(live)
        self.button("Read").click()
        self.state("live" if live else "page").wait_for()

    def state(self, state: str) -> "Locator":
        return self.page.locator(f"[data-state={state}]")

    def box(self, name: str) -> "Locator":
        """Return the control with a label: an input, a select or a text area."""
        label = self.page.locator("label.field > span", has_text=name).locator("..")
        return label.locator("input, select, textarea").first

    def button(self, name: str) -> "Locator":
        return self.page.get_by_role("button", name=name, exact=True)

    def panel(self, title: str) -> "Locator":
        return self.page.locator("details.panel", has=self.page.get_by_role("heading", name=title, exact=True))

    @property
    def rows(self) -> "Locator":
        return self.page.locator(".reading ol.messages > li")

    def search(self, text: str = "", key: str = "") -> None:
        """Search the whole topic on the server."""
        self.box("Search the whole topic").fill(text)
        self.box("with the key").fill(key)
        self.button("Search").click()

    @property
    def address(self) -> str:
        """The part of the URL with the state of the page."""
        return self.page.url.partition("#")[2]

    @property
    def offsets(self) -> list[str]:
        """Return the places of the messages that are shown, from the top."""
        return self.page.locator(".reading ol.messages > li:visible code.place").all_inner_texts()

    def row(self, text: str) -> "Locator":
        return self.rows.filter(has_text=text)

    def row_at(self, place: str) -> "Locator":
        """Return the row of the message at PARTITION:OFFSET. A filter by text alone would also match the time."""
        return self.rows.filter(has=self.page.locator("code.place", has_text=re.compile(f"^{place}$")))

    def choose_consumer(self, name: str) -> None:
        self.box("Name").fill(name)
        self.box("Name").press("Tab")

    def confirm(self, action: str, name: str = "") -> None:
        """Agree in the dialog that asks."""
        if name:
            self.page.get_by_role("dialog").locator("input").fill(name)
        self.page.get_by_role("dialog").get_by_role("button", name=action, exact=True).click()

    def lag(self, total: int) -> "Locator":
        return self.panel("Consumer").locator("tr.total td", has_text=str(total)).filter(has_text=str(total))
