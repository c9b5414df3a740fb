"""A line a request on stdout, in the form that gunicorn writes ours."""

import logging
import sys
import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from kafka_http.logs import LineFormatter
from kafka_http.server.granian.answers import Pieces

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

_log = logging.getLogger("granian.access")


def open_access_log() -> None:
    """Let the lines go to stdout."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(LineFormatter())
    _log.handlers = [handler]
    _log.propagate = False
    _log.setLevel(logging.INFO)


class AccessLog:
    """WSGI middleware that writes them."""

    def __init__(self, app: "WSGIApplication") -> None:
        self._app = app

    def __call__(self, environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        line = Line(environ)

        def start(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
            line.status = status
            return start_response(status, headers, exc_info)

        return Pieces(self._app(environ, start), line.write)


class Line:
    """The line of a request, begun as it begins."""

    def __init__(self, environ: Mapping[str, Any]) -> None:
        self.status = "-"
        self._environ = environ
        self._began = time.monotonic()
        query = environ["QUERY_STRING"]
        target = quote(environ["PATH_INFO"], "/!$&'()*+,:;=@", "latin-1") + (f"?{query}" if query else "")
        self._request = f"{environ['REQUEST_METHOD']} {target} {environ['SERVER_PROTOCOL']}"

    def write(self, size: int) -> None:
        """`size`: of the body that was answered."""
        _log.info(
            '%s "%s" %s %d bytes %d ms "%s"',
            self._environ["REMOTE_ADDR"],  # by now as the proxies tell it
            _escaped(self._request),
            self.status.partition(" ")[0],
            size,
            (time.monotonic() - self._began) * 1000,
            _escaped(self._environ.get("HTTP_USER_AGENT", "-")),
        )


def _escaped(text: str) -> str:
    return text.replace('"', '\\"')
