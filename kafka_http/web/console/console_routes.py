"""The console: a page that shows topics, messages and consumers, and does nothing but call this API."""

from importlib.resources import files
from pathlib import PurePosixPath

from flask import Blueprint, Response
from werkzeug.exceptions import NotFound

_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
}
SECURITY_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


class ConsoleRoutes:
    """The views of the page and of the files it is made of, which are read once."""

    def __init__(self) -> None:
        found = files("kafka_http.web") / "console"
        self._files = {
            each.name: each.read_bytes() for each in found.iterdir() if PurePosixPath(each.name).suffix in _TYPES
        }

    def blueprint(self) -> Blueprint:
        console = Blueprint("console", __name__)
        console.add_url_rule("/console", view_func=self.page)
        console.add_url_rule("/console/<path:name>", view_func=self.file)
        return console

    def page(self) -> Response:
        """GET /console: the page."""
        return self.file("index.html")

    def file(self, name: str) -> Response:
        """GET /console/<name>: a file of it."""
        # The page says console/console.js; to a browser that has it from /console/ this is /console/console/console.js.
        last = PurePosixPath(name).name
        if last not in self._files:
            raise NotFound
        response = Response(self._files[last], content_type=_TYPES[PurePosixPath(last).suffix])
        response.headers.update(SECURITY_HEADERS)
        return response
