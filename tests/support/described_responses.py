"""A test client that compares all responses of an application with the description of the API."""

import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from flask.testing import FlaskClient
from werkzeug.test import run_wsgi_app

from tests.support.openapi_document import find_operation, response_problems

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment


class DescribedClient(FlaskClient):
    """Flask's test client. It collects in `problems` what the description does not allow, and keeps no cookies."""

    def __init__(self, *args: Any, problems: list[str], **options: Any) -> None:
        super().__init__(*args, **options)
        self._checked = DescribedResponses(self.application, problems)

    def run_wsgi_app(self, environ: "WSGIEnvironment", buffered: bool = False) -> Any:
        return run_wsgi_app(self._checked, environ, buffered)


class DescribedResponses:
    """WSGI middleware that collects in `problems` what the description does not allow. It changes no response."""

    def __init__(self, app: "WSGIApplication", problems: list[str]) -> None:
        self._app = app
        self._problems = problems

    def __call__(self, environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        started: list[Any] = []

        def start(status: str, headers: list[tuple[str, str]], *more: Any) -> Any:
            started[:] = [int(status[:3]), headers]
            return start_response(status, headers, *more)

        parts = self._app(environ, start)
        return _Body(parts, lambda body: self._check(environ, *started, body))

    def _check(
        self, environ: "WSGIEnvironment", status: int, headers: list[tuple[str, str]], body: bytes | None
    ) -> None:
        method, paths = environ["REQUEST_METHOD"], list(_paths(environ))
        path = next((each for each in paths if find_operation(method, each) is not None), paths[0])
        self._problems += response_problems(method, path, status, headers, body)


def _paths(environ: "WSGIEnvironment") -> Iterator[str]:
    """Yield the path without empty segments: decoded, and as it was sent. Names may have slashes."""
    for each in filter(None, (environ["PATH_INFO"], environ.get("RAW_URI", "").partition("?")[0])):
        yield re.sub("/+", "/", each).rstrip("/") or "/"


class _Body:
    """The body of a response. The check runs at its end, or without the body if the client does not read it all."""

    def __init__(self, parts: Iterable[bytes], check: Any) -> None:
        self._parts = parts
        self._check = check

    def __iter__(self) -> Iterator[bytes]:
        sent = []
        for part in self._parts:
            sent.append(part)
            yield part
        self._check_once(b"".join(sent))

    def _check_once(self, body: bytes | None) -> None:
        check, self._check = self._check, None
        if check is not None:
            check(body)

    def close(self) -> None:
        if (close := getattr(self._parts, "close", None)) is not None:
            close()
        self._check_once(None)
