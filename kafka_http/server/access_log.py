"""The access log: one line for each request, with what is known about it when its response is sent."""

import logging
import re
import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote

from gunicorn.glogging import Logger

from kafka_http.environ import PRINCIPAL, RECEIVED_BYTES, REQUEST_FACTS
from kafka_http.logs import StructuredMessage, request_id, word_text
from kafka_http.request_facts import RequestFacts
from kafka_http.server.app_interface import FastPathResponse
from kafka_http.server.client_connection import ClientConnection, LoggedRequest
from kafka_http.server.gunicorn_responses import header_pairs, status_line

OnEnd = Callable[[int], None]
_TRACEPARENT = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?!0{32})(?P<trace_id>[0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(?P<more>-.*)?"
)
_POLLED_PATH = re.compile(r"/(messages(/[^/]+){0,2}|messages/[^/]+/[^/]+/queue|consumers(/[^/]+)?|instances|tasks)")


class AccessLine(StructuredMessage):
    """What a line says about a request."""

    def __init__(self, environ: Mapping[str, Any], status: int, bytes_out: int, seconds: float) -> None:
        """`environ` is that of the request after its view. `bytes_out` is the size of the response's body."""
        self._environ = environ
        self._status = status
        self._bytes_out = bytes_out
        self._seconds = seconds
        self._facts: RequestFacts = environ.get(REQUEST_FACTS) or RequestFacts()

    def __str__(self) -> str:
        environ, facts = self._environ, self._facts
        request = f"{environ['REQUEST_METHOD']} {environ['RAW_URI']} {environ['SERVER_PROTOCOL']}"
        return (
            f"{environ.get('REMOTE_ADDR', '-')} {environ.get(PRINCIPAL, '-')} {_quoted(request)} {self._status} "
            f"{self._bytes_out} bytes {int(self._seconds * 1000)} ms {_quoted(environ.get('HTTP_USER_AGENT', '-'))} "
            f"route={facts.route} topic={word_text(facts.topic)} records={facts.records} bytes_in={self._bytes_in} "
            f"kafka_seconds={facts.kafka_seconds:.3f} trace_id={self._trace_id or '-'}"
        )

    def fields(self) -> Mapping[str, Any]:
        environ, facts = self._environ, self._facts
        path, _, query = environ["RAW_URI"].partition("?")
        principal = environ.get(PRINCIPAL, "-")
        return {
            "message": f"{environ['REQUEST_METHOD']} {path} {self._status}",
            "client": environ.get("REMOTE_ADDR"),
            "principal": None if principal == "-" else unquote(principal),
            "method": environ["REQUEST_METHOD"],
            "route": facts.route,
            "path": path,
            "query": query or None,
            "status": self._status,
            "topic": facts.topic or None,
            "records": facts.records,
            "bytes_in": self._bytes_in,
            "bytes_out": self._bytes_out,
            "seconds": round(self._seconds, 6),
            "kafka_seconds": round(facts.kafka_seconds, 6),
            "trace_id": self._trace_id,
            "user_agent": environ.get("HTTP_USER_AGENT"),
        }

    @property
    def is_console_poll(self) -> bool:
        """Whether this is a successful GET of metadata with the console's header.

        Reads and writes of messages are no polls, so that a client cannot hide them with the header.
        """
        return (
            "HTTP_X_CONSOLE_POLL" in self._environ
            and self._environ["REQUEST_METHOD"] == "GET"
            and self._status == 200
            and _POLLED_PATH.fullmatch(self._environ.get("PATH_INFO", "")) is not None
        )

    @property
    def _bytes_in(self) -> int:
        if self._facts.bytes_in is not None:
            return self._facts.bytes_in
        received: int | None = self._environ.get(RECEIVED_BYTES)
        length = self._environ.get("CONTENT_LENGTH") or "0"
        return received if received is not None else int(length) if length.isdecimal() else 0

    @property
    def _trace_id(self) -> str | None:
        """The trace id of a valid `traceparent` header (W3C Trace Context, section 3.2)."""
        header = self._environ.get("HTTP_TRACEPARENT", "")
        found = _TRACEPARENT.fullmatch(header)
        is_valid = found is not None and not (header.startswith("00") and found["more"])
        return found["trace_id"] if found is not None and is_valid else None


def _quoted(text: str) -> str:
    """Return a text of the client in quotes. Without escaped backslashes, its own would end the field."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


class AccessLogger(Logger):
    """A logger of gunicorn with our lines in its access log."""

    has_console = False
    """Whether polls of the console have the level DEBUG."""

    def access(self, resp: Any, req: Any, environ: Mapping[str, Any], request_time: timedelta) -> None:
        """Write the line about a request. `resp` has the status and the number of bytes that were sent."""
        if not self.access_log_enabled or resp.status is None:  # a failed view has a line with its 500
            return
        status = int(str(resp.status).split(None, 1)[0])
        line = AccessLine(environ, status, getattr(resp, "sent", None) or 0, request_time.total_seconds())
        is_poll = self.has_console and line.is_console_poll
        self.access_log.log(logging.DEBUG if is_poll else logging.INFO, "%s", line)


def end_logger(log: Logger, response: Any, request: Any, environ: Mapping[str, Any], started: float) -> OnEnd | None:
    """Return what writes the line about a response that is sent without its thread. None: the access log is off.

    It is called once, in any thread, with the bytes that were sent after those of the thread. It keeps only texts and
    the facts of the request, because there may be thousands of streams. `started` is on the monotonic clock.
    """
    if not is_on(log):
        return None
    access: Callable[..., None] = log.access
    sent_id, headers = request_id.get(), list(request.headers)
    texts = {name: value for name, value in environ.items() if isinstance(value, str | int | RequestFacts)}
    sent = SimpleNamespace(status=response.status, headers=list(response.headers), sent=response.sent)

    def write(more: int) -> None:
        sent.sent += more
        token = request_id.set(sent_id)
        access(sent, headers, texts, timedelta(seconds=time.monotonic() - started))
        request_id.reset(token)

    return write


def is_on(log: Logger) -> bool:
    """Return whether a logger of gunicorn writes an access log."""
    is_of_gunicorn = type(log).access in (Logger.access, AccessLogger.access)
    return bool(log.access_log_enabled or not is_of_gunicorn)


class AccessLog:
    """Writes the lines about requests that gunicorn itself does not answer, in any logger of gunicorn."""

    def __init__(self, log: Logger) -> None:
        self._access: Callable[..., None] = log.access
        self.is_on = is_on(log)

    def write(self, connection: ClientConnection, sent: FastPathResponse) -> None:
        """Write a line about the request in `connection.logged_request`, if there is one."""
        if connection.logged_request is None:
            return
        logged, connection.logged_request = connection.logged_request, None
        now = time.monotonic()
        environ = _environ_of(logged, connection.conn.client, sent, now)
        # gunicorn's log uses only these attributes of a response
        response = SimpleNamespace(status=status_line(sent.status), headers=header_pairs(sent), sent=len(sent.body))
        request_id.set(sent.request_id)
        headers = {**logged.head.headers, "content-length": str(logged.body_size)}
        self._access(response, headers, environ, timedelta(seconds=now - connection.started))
        request_id.set("-")


def _environ_of(logged: LoggedRequest, client: Any, sent: FastPathResponse, now: float) -> dict[str, Any]:
    head = logged.head
    path, _, query = head.target.partition("?")
    facts = RequestFacts(sent.route, sent.topic)
    facts.records, facts.kafka_seconds = sent.records, now - logged.started
    return {
        "REMOTE_ADDR": client[0] if isinstance(client, tuple) else client,
        "REQUEST_METHOD": head.method,
        "RAW_URI": head.target,
        "PATH_INFO": path,
        "QUERY_STRING": query,
        "SERVER_PROTOCOL": "HTTP/1.1",
        "CONTENT_LENGTH": str(logged.body_size),
        PRINCIPAL: word_text(sent.principal),
        RECEIVED_BYTES: logged.body_size,
        REQUEST_FACTS: facts,
        **{f"HTTP_{name.upper().replace('-', '_')}": value for name, value in head.headers.items()},
    }
