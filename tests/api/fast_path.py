"""The fast path in front of an application's views, as in our server."""

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
    """WSGI middleware that starts publishes on the fast path. Other requests go to the views."""

    def __init__(self, app: Flask) -> None:
        self._views: WSGIApplication = app.wsgi_app
        self._publishes = app.extensions["kafka_http"].publishes
        self.taken = 0

    def __call__(self, environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        headers = {name.lower(): value for name, value in EnvironHeaders(environ).items()}
        special = {"content-encoding", "transfer-encoding"} & headers.keys()
        whole = isinstance(environ["wsgi.input"], BytesIO) and environ.get("CONTENT_LENGTH")
        if environ["REQUEST_METHOD"] not in {"PUT", "POST"} or special or not whole:
            return self._views(environ, start_response)
        body = environ["wsgi.input"].read()
        environ["wsgi.input"] = BytesIO(body)
        if len(body) != int(environ["CONTENT_LENGTH"]):
            return self._views(environ, start_response)
        done = Event()
        target = environ["REQUEST_URI"]
        reply = self._publishes.begin(environ["REQUEST_METHOD"], target, headers, body, done.set)
        if reply is None:
            return self._views(environ, start_response)
        self.taken += 1
        self._publishes.send()
        done.wait(TIMEOUT)
        status, response_headers, response_body = reply.answer()
        start_response(status, list(response_headers))
        return [response_body]
