"""Calls the fast path before the views, as the server's main loop does."""

from collections.abc import Iterable
from io import BytesIO
from threading import Event
from typing import TYPE_CHECKING

from flask import Flask
from werkzeug.datastructures import EnvironHeaders

from kafka_http.environ import CLIENT_CERTIFICATE, CONNECTION, REQUEST_FACTS
from kafka_http.request_facts import RequestFacts
from kafka_http.server.app_interface import Client
from kafka_http.web.fast_path import PreparedCall
from kafka_http.web.responses import STATUS_LINES
from kafka_http.web.sent_body import SentBody

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

TIMEOUT = 5


class FastPathMiddleware:
    """WSGI middleware that tries the fast path for each candidate and calls the views otherwise."""

    def __init__(self, app: Flask) -> None:
        self._views: WSGIApplication = app.wsgi_app
        self._hooks = app.extensions["kafka_http"]
        self._prepared: dict[tuple[object, ...], PreparedCall] = {}
        self.taken = 0

    def __call__(self, environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        headers = {name.lower(): value for name, value in EnvironHeaders(environ).items()}
        special = {"content-encoding", "transfer-encoding"} & headers.keys()
        is_complete = isinstance(environ["wsgi.input"], BytesIO)
        if environ["REQUEST_METHOD"] not in {"PUT", "POST", "DELETE"} or special or not is_complete:
            return self._views(environ, start_response)
        body = environ["wsgi.input"].read()
        environ["wsgi.input"] = BytesIO(body)
        if len(body) != int(environ.get("CONTENT_LENGTH") or 0):
            return self._views(environ, start_response)
        connection = environ.get(CONNECTION)
        client = Client(environ.get("REMOTE_ADDR", ""), environ.get(CLIENT_CERTIFICATE), connection=connection)
        prepared = self._prepare(environ["REQUEST_METHOD"], environ["REQUEST_URI"], headers, client)
        pending = None if prepared is None else prepared.start(body, connection)
        if pending is None:
            return self._views(environ, start_response)
        self.taken += 1
        done = Event()
        pending.add_done_callback(done.set)
        self._hooks.end_round()
        done.wait(TIMEOUT)
        response = pending.finish()
        status, headers, content_type, request_id, response_body = response[:5]
        environ[REQUEST_FACTS] = facts = RequestFacts(response.route, response.topic)
        facts.records = response.records
        sent = [*headers.items(), ("Content-Type", content_type), ("Content-Length", str(len(response_body)))]
        start_response(STATUS_LINES[status], [*sent, ("X-Request-Id", request_id), ("Cache-Control", "no-store")])
        if response.on_sent is None:
            return [response_body]
        on_sent = response.on_sent
        return SentBody(response_body, lambda: on_sent(True), lambda: on_sent(False))

    def _prepare(self, method: str, target: str, headers: dict[str, str], client: Client) -> PreparedCall | None:
        """Prepare a publish, or return what is remembered of the same head, as the server does."""
        key = (
            method,
            target,
            *headers.items(),
            client.address,
            repr(client.certificate),
            self._hooks.fast_path.decides_by_client,
        )
        if key in self._prepared and self._prepared[key].is_current:
            return self._prepared[key]
        prepared = self._hooks.fast_path.prepare(method, target, headers, client)
        if prepared is not None and prepared.is_reusable:
            self._prepared[key] = prepared
        return prepared
