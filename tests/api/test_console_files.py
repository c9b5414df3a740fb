"""The console's files and their security headers."""

import re
from importlib.resources import files

import pytest

from tests.api.conftest import ClientFactory

SOURCES = {
    each.name: each.read_text("utf-8")
    for each in (files("kafka_http.web") / "console").iterdir()
    if each.name.endswith((".html", ".css", ".js"))
}


def test_console_is_off_by_default(make_client: ClientFactory) -> None:
    assert make_client().get("/console").status_code == 404
    assert make_client().get("/console/console.js").status_code == 404
    assert make_client(console=True).get("/console").status_code == 200


def test_address_of_a_console_that_is_off_says_how_to_turn_it_on(make_client: ClientFactory) -> None:
    for path in ("/console", "/console/"):
        assert "start the server with the setting console (--console)" in make_client().get(path).text
    assert "There is nothing at /console/x" in make_client(console=True).get("/console/x").text


@pytest.mark.parametrize("path", ["/console", "/console/", "/console/console.js", "/console/console/console.css"])
def test_console_loads_only_its_own_files(make_client: ClientFactory, path: str) -> None:
    response = make_client(console=True).get(path)

    assert response.status_code == 200
    policy = dict(each.strip().split(" ", 1) for each in response.headers["Content-Security-Policy"].split(";"))
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
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert response.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize(
    ("path", "content_type"),
    [
        ("/console", "text/html; charset=utf-8"),
        ("/console/console.css", "text/css; charset=utf-8"),
        ("/console/console.js", "text/javascript; charset=utf-8"),
    ],
)
def test_console_file_has_its_content_type(make_client: ClientFactory, path: str, content_type: str) -> None:
    assert make_client(console=True).get(path).headers["Content-Type"] == content_type


@pytest.mark.parametrize("name", ["nothing.js", "%2e%2e/console.py", "..%2fconfig.py", "%00"])
def test_path_outside_of_the_console_returns_404(make_client: ClientFactory, name: str) -> None:
    assert make_client(console=True).get(f"/console/{name}").status_code == 404


def test_every_file_that_the_console_links_to_exists() -> None:
    named = {name for text in SOURCES.values() for name in re.findall(r"\bfrom \"\./([^\"]+)\"", text)}
    named |= set(re.findall(r'(?:href|src)="console/([^"]+)"', SOURCES["index.html"]))

    assert named == set(SOURCES) - {"index.html"}


def test_console_sources_have_no_urls_and_do_not_build_html() -> None:
    everything = "\n".join(SOURCES.values()).replace("http://www.w3.org/2000/svg", "the namespace of SVG")

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
def test_root_returns_a_page_with_links_to_browsers(
    make_client: ClientFactory, console: bool, headers: dict[str, str], settings: dict[str, str], prefix: str
) -> None:
    client = make_client(console=console, **settings)
    response = client.get("/", headers={"Accept": BROWSER, **headers})
    assert (response.status_code, response.content_type) == (200, "text/html; charset=utf-8")
    links = re.findall(r'<a href="([^"]*)">', response.text)
    paths = [*(["/console"] if console else []), "/docs", "/docs/api", "/messages", "/health", "/ready"]
    assert links == [f"{prefix}{each}" for each in paths]
    for path in paths:
        assert client.get(path).status_code == 200
    if console:
        same = ("Content-Security-Policy", "X-Content-Type-Options", "Referrer-Policy")
        assert [response.headers[each] for each in same] == [client.get("/console").headers[each] for each in same]
    assert response.headers["Vary"] == "Accept, Accept-Encoding"
