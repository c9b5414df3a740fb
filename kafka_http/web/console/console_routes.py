"""GET /console: a page that shows topics, messages and consumers. Its scripts call this server's API only."""

from importlib.resources import files
from pathlib import PurePosixPath

from flask import Blueprint, Response
from werkzeug.exceptions import NotFound

_CONTENT_TYPES = {
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
    """The views of the page and its files, which are read at start."""

    def __init__(self) -> None:
        directory = files("kafka_http.web") / "console"
        self._files = {
            each.name: each.read_bytes()
            for each in directory.iterdir()
            if PurePosixPath(each.name).suffix in _CONTENT_TYPES
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
        """GET /console/<name>: a file of the page."""
        # The page links to console/console.js. A browser that loaded it from /console/ asks for
        # /console/console/console.js.
        file_name = PurePosixPath(name).name
        if file_name not in self._files:
            raise NotFound
        content_type = _CONTENT_TYPES[PurePosixPath(file_name).suffix]
        return Response(self._files[file_name], content_type=content_type, headers=SECURITY_HEADERS)
