"""The console's files: where they are, and what keeps them from doing more than they should."""

import re
from importlib.resources import files

import pytest

from tests.api.conftest import ClientFactory

SOURCES = {
    each.name: each.read_text("utf-8")
    for each in (files("kafka_http.web") / "console").iterdir()
    if each.name.endswith((".html", ".css", ".js"))
}


def test_it_is_off_unless_asked_for(make_client: ClientFactory) -> None:
    assert make_client().get("/console").status_code == 404
    assert make_client().get("/console/console.js").status_code == 404
    assert make_client(console=True).get("/console").status_code == 200


@pytest.mark.parametrize("path", ["/console", "/console/", "/console/console.js", "/console/console/console.css"])
def test_it_may_load_its_own_files_and_nothing_else(make_client: ClientFactory, path: str) -> None:
    answer = make_client(console=True).get(path)

    assert answer.status_code == 200
    policy = dict(each.strip().split(" ", 1) for each in answer.headers["Content-Security-Policy"].split(";"))
    assert policy == {
        "default-src": "'none'",
        "script-src": "'self'",
        "style-src": "'self'",
        "connect-src": "'self'",
        "img-src": "'self' data:",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize(
    ("path", "content_type"),
    [
        ("/console", "text/html; charset=utf-8"),
        ("/console/console.css", "text/css; charset=utf-8"),
        ("/console/console.js", "text/javascript; charset=utf-8"),
    ],
)
def test_each_file_says_what_it_is(make_client: ClientFactory, path: str, content_type: str) -> None:
    assert make_client(console=True).get(path).headers["Content-Type"] == content_type


@pytest.mark.parametrize("name", ["nothing.js", "screenshot.png", "%2e%2e/console.py", "..%2fconfig.py", "%00"])
def test_nothing_else_is_served(make_client: ClientFactory, name: str) -> None:
    assert make_client(console=True).get(f"/console/{name}").status_code == 404


def test_each_file_that_one_names_is_there() -> None:
    named = {name for text in SOURCES.values() for name in re.findall(r"\bfrom \"\./([^\"]+)\"", text)}
    named |= set(re.findall(r'(?:href|src)="console/([^"]+)"', SOURCES["index.html"]))

    assert named == set(SOURCES) - {"index.html"}


def test_no_source_has_an_address_of_its_own_or_makes_html() -> None:
    everything = "\n".join(SOURCES.values())

    assert not re.findall(r"[a-z]+://|[\"'`(=]//?[a-z]", everything.replace("#/", ""))
    assert not re.findall(r"(inner|outer|Adjacent)HTML|document\.write|DOMParser|\beval\b|style=", everything)


BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"


@pytest.mark.parametrize("console", [True, False])
@pytest.mark.parametrize(
    ("headers", "settings", "prefix"),
    [
        ({}, {}, ""),
        ({"X-Forwarded-Prefix": "/rest"}, {}, "/rest"),
        ({"X-Forwarded-Prefix": "//evil.example"}, {}, ""),
        ({}, {"base_url": "https://localhost/a&b/"}, "/a&amp;b"),
    ],
)
def test_root_shows_browsers_a_page_with_links(
    make_client: ClientFactory, console: bool, headers: dict[str, str], settings: dict[str, str], prefix: str
) -> None:
    client = make_client(console=console, **settings)
    answer = client.get("/", headers={"Accept": BROWSER, **headers})
    assert (answer.status_code, answer.content_type) == (200, "text/html; charset=utf-8")
    links = re.findall(r'<a href="([^"]*)">', answer.text)
    paths = [*(["/console"] if console else []), "/docs", "/messages", "/health", "/ready"]
    assert links == [f"{prefix}{each}" for each in paths]
    for path in paths:
        assert client.get(path).status_code == 200
    if console:
        same = ("Content-Security-Policy", "X-Content-Type-Options", "Referrer-Policy")
        assert [answer.headers[each] for each in same] == [client.get("/console").headers[each] for each in same]
    assert answer.headers["Vary"] == "Accept, Accept-Encoding"
