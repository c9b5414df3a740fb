"""The manual at /docs: HTML of the Markdown pages in `kafka_http/manual/`."""

import re
from pathlib import Path
from posixpath import normpath
from urllib.parse import urljoin, urlsplit

import pytest
from flask import Flask
from flask.testing import FlaskClient

import kafka_http
from kafka_http.web.manual_pages import ManualRoutes, heading_anchor, render_markdown
from kafka_http.web.url_paths import NormalizedPaths
from tests.api.conftest import ClientFactory

MANUAL = Path(kafka_http.__file__).parent / "manual"
PAGES = sorted(path.stem for path in MANUAL.glob("*.md"))
TAG = re.compile(r'<(?:a|img|link)\b[^>]* (?:href|src)="(?!data:)([^"]*)"')


@pytest.fixture
def small_manual(tmp_path: Path) -> FlaskClient:
    """A manual of two pages with a picture and a file, behind the middleware that normalizes paths."""
    (tmp_path / "files").mkdir()
    (tmp_path / "index.md").write_text("# Manual\n\n* [Two & more](two.md)\n* [Part](two.md#a-part)\n")
    (tmp_path / "two.md").write_text(
        "# Two & more\n\n## A part\n\n[back](index.md), [part](#a-part), [file](files/site.conf), "
        "[out](https://example.com/a.md)\n\n![Picture](picture.png)\n\n<script>alert(1)</script>\n"
    )
    (tmp_path / "picture.png").write_bytes(b"\x89PNG")
    (tmp_path / "manual.css").write_text("a {}")
    (tmp_path / "files" / "site.conf").write_text("listen 80;")
    (tmp_path / "files" / ".env").write_text("PASSWORD=hush")
    app = Flask(__name__)
    app.register_blueprint(ManualRoutes(tmp_path).blueprint())
    app.add_url_rule("/docs/api", view_func=lambda: "all calls")
    app.wsgi_app = NormalizedPaths(app.wsgi_app)  # type: ignore[method-assign]
    return app.test_client()


@pytest.mark.parametrize("name", PAGES)
def test_page_is_html_with_its_title_and_without_markdown(client: FlaskClient, name: str) -> None:
    answer = client.get(f"/docs/{name}")

    assert (answer.status_code, answer.content_type) == (200, "text/html; charset=utf-8")
    title = (MANUAL / f"{name}.md").read_text().partition("\n")[0].removeprefix("# ")
    assert f"<title>{title} - kafka_http</title>" in answer.text
    text = re.sub(r"<(pre|code)\b.*?</\1>", "", answer.text, flags=re.DOTALL)
    assert not re.search(r"\]\(|^\||^#|```|\*\*", text, re.MULTILINE)


def test_hidden_files_are_not_served(small_manual: FlaskClient) -> None:
    """Someone may have written an .env with passwords beside the compose file, and everyone may read the manual."""
    assert small_manual.get("/docs/files/site.conf").status_code == 200
    assert small_manual.get("/docs/files/.env").status_code == 404


def test_index_is_at_docs(client: FlaskClient) -> None:
    assert client.get("/docs").status_code == 200
    assert heading(client.get("/docs").text) == heading(client.get("/docs/index").text)


def heading(html: str) -> str:
    found = re.search("<h1.*</h1>", html)
    assert found is not None
    return found[0]


@pytest.mark.parametrize("path", ["/docs", "/docs/", "/docs/index", "/docs/two", "/docs/two/", "/docs/docs/two"])
def test_links_of_a_page_point_to_pages_and_files(small_manual: FlaskClient, path: str) -> None:
    """Also where the address ends in a slash, which the server ignores and a browser does not."""
    links = TAG.findall(small_manual.get(path).text)

    assert len(links) >= 4
    for link in links:
        if not link.startswith(("#", "https:")):
            assert not link.startswith("/"), "links work below any prefix of a proxy"
            target = urlsplit(urljoin(path, link)).path
            answer = small_manual.get(target)
            if answer.status_code == 302:  # the test client cannot follow a relative one
                answer = small_manual.get(urljoin(target, answer.headers["Location"]))
            assert answer.status_code == 200, link


@pytest.mark.parametrize("name", PAGES)
def test_every_link_of_the_manual_points_to_a_page_and_an_anchor(client: FlaskClient, name: str) -> None:
    for link in TAG.findall(client.get(f"/docs/{name}").text):
        target = urlsplit(urljoin(f"/docs/{name}", link))
        if target.netloc:
            continue
        assert normpath(target.path).startswith("/docs"), f"{link} leaves the manual"
        answer = client.get(target.path)
        assert answer.status_code == 200, link
        assert not target.fragment or f' id="{target.fragment}"' in answer.text, link


def test_every_page_is_in_the_navigation_of_every_page(client: FlaskClient) -> None:
    for name in PAGES:
        navigation = client.get(f"/docs/{name}").text.partition("<main>")[0]
        assert set(TAG.findall(navigation)) == {*PAGES, "api", "manual.css"}
        assert re.findall(r'href="([^"]*)" aria-current=page', navigation) == [name]


def test_manual_content_security_policy_allows_only_own_files(client: FlaskClient) -> None:
    answer = client.get("/docs/index")

    assert "script" not in re.findall(r"<(\w+)", answer.text)
    assert "style=" not in answer.text
    assert answer.headers["Content-Security-Policy"].startswith(
        "default-src 'none'; script-src 'self'; style-src 'self'"
    )
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert client.get("/docs/manual.css").headers["Content-Type"] == "text/css; charset=utf-8"


@pytest.mark.parametrize(
    ("path", "content_type"),
    [
        ("/docs/picture.png", "image/png"),
        ("/docs/two.md", "text/markdown; charset=utf-8"),
        ("/docs/files/site.conf", "text/plain; charset=utf-8"),
        ("/docs/two/files/site.conf", "text/plain; charset=utf-8"),
    ],
)
def test_files_beside_the_pages_are_served(small_manual: FlaskClient, path: str, content_type: str) -> None:
    answer = small_manual.get(path)

    assert (answer.status_code, answer.content_type) == (200, content_type)
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize(
    "path",
    ["/docs/nothing", "/docs/nothing/index", "/docs/..%2fapp.py", "/docs/%2e%2e/config", "/docs/%00", "/docs/.md"],
)
def test_unknown_manual_page_returns_404(client: FlaskClient, path: str) -> None:
    answer = client.get(path)

    assert (answer.status_code, answer.content_type) == (404, "application/json")
    assert answer.json["error"]["code"] == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_write_to_the_manual_returns_405(client: FlaskClient, method: str) -> None:
    assert client.open("/docs/index", method=method).status_code == 405


def test_html_in_a_page_is_escaped(small_manual: FlaskClient) -> None:
    html = small_manual.get("/docs/two").text

    assert "<script>" not in html
    assert "&lt;script&gt;" in html
    assert "<title>Two &amp; more - kafka_http</title>" in html


def test_page_is_rendered_once(small_manual: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    first = small_manual.get("/docs/two").text
    monkeypatch.setattr("kafka_http.web.manual_pages.render_markdown", lambda text, base: pytest.fail("rendered again"))

    assert small_manual.get("/docs/two").text == first


def test_page_is_compressed_for_clients_that_accept_it(make_client: ClientFactory) -> None:
    answer = make_client().get("/docs/settings", headers={"Accept-Encoding": "gzip"})

    assert answer.headers["Content-Encoding"] == "gzip"


@pytest.mark.parametrize(
    ("text", "anchor"),
    [
        ("All settings", "all-settings"),
        ("What's new, in 1.0?", "whats-new-in-10"),
        ("1.0.0 (2026-11-29)", "100-2026-11-29"),
        ("max_body_bytes", "max_body_bytes"),
        ("Read & write", "read--write"),
        ("Größe", "größe"),
    ],
)
def test_anchors_of_headings_are_those_of_github(text: str, anchor: str) -> None:
    assert heading_anchor(text) == anchor


def test_headings_with_the_same_text_get_a_number() -> None:
    html = render_markdown("## Read\n\n## `Read`\n\n### [Read](x.md)\n")

    assert re.findall(r' id="([^"]*)"', html) == ["read", "read-1", "read-2"]
