"""Calls the fast path before the views, as the server's main loop does."""

from collections.abc import Iterable
from io import BytesIO
from threading import Event
from typing import TYPE_CHECKING

from flask import Flask
from werkzeug.datastructures import EnvironHeaders

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

TIMEOUT = 5


class FastPathMiddleware:
    """WSGI middleware that tries the fast path for each publish and calls the views otherwise."""

    def __init__(self, app: Flask) -> None:
        self._views: WSGIApplication = app.wsgi_app
        self._fast_path = app.extensions["kafka_http"].fast_path
        self.taken = 0

    def __call__(self, environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        headers = {name.lower(): value for name, value in EnvironHeaders(environ).items()}
        special = {"content-encoding", "transfer-encoding"} & headers.keys()
        is_complete = isinstance(environ["wsgi.input"], BytesIO) and environ.get("CONTENT_LENGTH")
        if environ["REQUEST_METHOD"] not in {"PUT", "POST"} or special or not is_complete:
            return self._views(environ, start_response)
        body = environ["wsgi.input"].read()
        environ["wsgi.input"] = BytesIO(body)
        if len(body) != int(environ["CONTENT_LENGTH"]):
            return self._views(environ, start_response)
        done = Event()
        target = environ["REQUEST_URI"]
        pending = self._fast_path.begin(environ["REQUEST_METHOD"], target, headers, body, done.set)
        if pending is None:
            return self._views(environ, start_response)
        self.taken += 1
        self._fast_path.send()
        done.wait(TIMEOUT)
        status, response_headers, response_body = pending.answer()
        start_response(status, list(response_headers))
        return [response_body]
