"""The manual: the Markdown pages of `kafka_http/manual/` as HTML at /docs."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from html import escape
from importlib.resources import files
from importlib.resources.abc import Traversable
from itertools import pairwise
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from flask import Blueprint, Response, redirect
from werkzeug.exceptions import NotFound
from werkzeug.wrappers import Response as BaseResponse

from kafka_http.web.console.console_routes import SECURITY_HEADERS

if TYPE_CHECKING:
    from markdown_it.token import Token

_INDEX = "index"
_API = "api"
"""The page of all calls, beside the manual: see `api_description`."""
_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".md": "text/markdown; charset=utf-8",
    ".png": "image/png",
    ".svg": "image/svg+xml",
}
_TEXT = "text/plain; charset=utf-8"
_LINK_TO_PAGE = re.compile(r"(?P<page>[\w-]+)\.md(?P<anchor>#.*)?")
_ABSOLUTE_LINK = re.compile(r"[a-z]+:|#")
_NOT_IN_ANCHORS = re.compile(r"[^\w\- ]")
_TEMPLATE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{title} - kafka_http</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="{base}manual.css">
</head>
<body>
<nav aria-label="Manual">
<ul>
{links}
</ul>
</nav>
<main>
{content}</main>
</body>
</html>
"""


class ManualRoutes:
    """The views of the manual. Each page is rendered at its first request and kept. Any thread may call.

    All links are relative, so that the manual works below any prefix that a proxy adds. On the page at /docs they start
    with `docs/`. A browser that asks for /docs/ or /docs/publish/ resolves links one level deeper than the page is:
    `_without_levels` accepts that.
    """

    def __init__(self, directory: Traversable | None = None) -> None:
        """`directory` has the pages, `*.md`, and the files that they link to. By default it is the package's manual."""
        self._files = dict(_read_files(directory or files("kafka_http") / "manual"))
        self._rendered: dict[tuple[str, str], bytes] = {}

    def blueprint(self) -> Blueprint:
        manual = Blueprint("manual", __name__)
        manual.add_url_rule("/docs", view_func=self.index)
        manual.add_url_rule("/docs/<path:name>", view_func=self.page)
        return manual

    def index(self) -> Response:
        """GET /docs: the first page of the manual."""
        return self._page(_INDEX, base="docs/")

    def page(self, name: str) -> BaseResponse:
        """GET /docs/<name>: a page of the manual, or a file that a page links to."""
        name = self._without_levels(name)
        if name == _API:
            return redirect(f"../{_API}")
        if name in self._files:
            return _response(self._files[name], _TYPES.get(PurePosixPath(name).suffix, _TEXT))
        return self._page(name, base="")

    def _without_levels(self, path: str) -> str:
        level, _, rest = path.partition("/")
        while rest and (level == "docs" or f"{level}.md" in self._files):
            path = rest
            level, _, rest = path.partition("/")
        return path

    def _page(self, name: str, base: str) -> Response:
        """`base`: what relative links start with."""
        if f"{name}.md" not in self._files:
            raise NotFound
        if (name, base) not in self._rendered:
            self._rendered[name, base] = self._render(name, base).encode()
        return _response(self._rendered[name, base], "text/html; charset=utf-8")

    def _render(self, name: str, base: str) -> str:
        links = [
            f'<li><a href="{base}{each}"{" aria-current=page" * (each == name)}>{escape(self._title(each))}</a></li>'
            for each in (_INDEX, *self._linked_pages())
        ]
        links.append(f'<li><a href="{base}{_API}">All calls, to try out</a></li>')
        content = render_markdown(self._text(name), base)
        return _TEMPLATE.format(title=escape(self._title(name)), base=base, links="\n".join(links), content=content)

    def _linked_pages(self) -> Sequence[str]:
        """Return the pages in the order in which the index links to them."""
        names = (found["page"] for found in _LINK_TO_PAGE.finditer(self._text(_INDEX)))
        return [each for each in dict.fromkeys(names) if each != _INDEX and f"{each}.md" in self._files]

    def _title(self, name: str) -> str:
        return self._text(name).partition("\n")[0].removeprefix("# ")

    def _text(self, name: str) -> str:
        return self._files[f"{name}.md"].decode()


def render_markdown(text: str, base: str = "") -> str:
    """Render CommonMark and tables as HTML, with the anchors that GitHub gives to headings.

    Relative links start with `base`, and lose the `.md` of a page. HTML in the text is escaped.
    """
    from markdown_it import MarkdownIt  # only a process that is asked for the manual needs it

    markdown = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = markdown.parse(text)
    _add_anchors(tokens)
    for token in tokens:
        for child in token.children or ():
            _rewrite_link(child, base)
    html: str = markdown.renderer.render(tokens, markdown.options, {})
    return html


def _add_anchors(tokens: Sequence["Token"]) -> None:
    used: Counter[str] = Counter()
    for heading, inline in pairwise(tokens):
        if heading.type == "heading_open":
            anchor = heading_anchor("".join(each.content for each in inline.children or ()))
            heading.attrSet("id", f"{anchor}-{used[anchor]}" if used[anchor] else anchor)
            used[anchor] += 1


def heading_anchor(text: str) -> str:
    """Return the anchor that GitHub gives to the first heading with this text."""
    return _NOT_IN_ANCHORS.sub("", text.lower()).replace(" ", "-")


def _rewrite_link(token: "Token", base: str) -> None:
    name = {"link_open": "href", "image": "src"}.get(token.type, "")
    target = str(token.attrGet(name) or "")
    if target and not _ABSOLUTE_LINK.match(target):
        page = _LINK_TO_PAGE.fullmatch(target)
        token.attrSet(name, base + (f"{page['page']}{page['anchor'] or ''}" if page else target))


def _read_files(directory: Traversable, prefix: str = "") -> Iterator[tuple[str, bytes]]:
    for each in directory.iterdir():
        if each.name.startswith("."):  # such as an .env with passwords: everyone may read the manual
            continue
        if each.is_dir():
            yield from _read_files(each, f"{prefix}{each.name}/")
        else:
            yield f"{prefix}{each.name}", each.read_bytes()


def _response(body: bytes, content_type: str) -> Response:
    return Response(body, content_type=content_type, headers=SECURITY_HEADERS)
