"""Answers as gunicorn writes them, and the lines of its access log."""

import json
import time
from collections.abc import Sequence
from datetime import timedelta
from functools import lru_cache
from types import SimpleNamespace
from typing import Any

from gunicorn import SERVER
from gunicorn.glogging import Logger
from gunicorn.util import http_date

from kafka_http.server.idle_connections import ClientConnection

Headers = Sequence[tuple[str, str]]


def render(status: str, headers: Headers, body: bytes, *, last: bool) -> bytes:
    """All of an answer. `last`: the connection is closed after it."""
    lines = [
        f"HTTP/1.1 {status}",
        f"Server: {SERVER}",
        f"Date: {_date(int(time.time()))}",
        f"Connection: {'close' if last else 'keep-alive'}",
        *[f"{name}: {value}" for name, value in headers],
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + body


@lru_cache(1)
def _date(second: int) -> str:
    return http_date(second)


class AccessLog:
    """gunicorn's, for requests that it has not seen."""

    def __init__(self, log: Logger) -> None:
        self._access: Any = log.access  # it asks no more of request and answer than what they have here
        self.is_on = log.access_log_enabled or type(log).access is not Logger.access

    def write(self, connection: ClientConnection, status: str, headers: Headers, body: bytes) -> None:
        request = connection.request
        if request is None:
            return
        client = connection.conn.client
        path, _, query = request.target.partition("?")
        environ = {
            "REMOTE_ADDR": client[0] if isinstance(client, tuple) else client,
            "REQUEST_METHOD": request.method,
            "RAW_URI": request.target,
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "SERVER_PROTOCOL": "HTTP/1.1",
            **{f"HTTP_{name.upper().replace('-', '_')}": value for name, value in request.headers.items()},
        }
        answer = SimpleNamespace(status=status, headers=headers, sent=len(body))
        self._access(answer, request.headers, environ, timedelta(seconds=time.monotonic() - connection.began))


class ErrorPage:
    """Stands in for the client's socket while gunicorn writes its page of HTML, of which the status line is kept."""

    def __init__(self) -> None:
        self._sent = b""

    def gettimeout(self) -> float:
        return 0.0

    def sendall(self, data: bytes) -> None:
        self._sent += data

    def as_json(self, message: str) -> bytes:
        status_line = self._sent.partition(b"\r\n")[0] or b"HTTP/1.1 500 Internal Server Error"
        status_line = status_line.replace(b" 501 Bad Request", b" 501 Not Implemented")  # gunicorn mixes them
        status, reason = str(status_line, "latin-1").split(" ", 2)[1:]
        return render_error(int(status), reason, reason if status.startswith("5") else f"{reason}: {message}")


def render_error(status: int, reason: str, message: str) -> bytes:
    """All of an answer that the application does not give. The connection is closed after it."""
    body = json.dumps({"error": {"code": status, "message": message}}).encode() + b"\n"
    head = (
        f"HTTP/1.1 {status} {reason}\r\nConnection: close\r\nCache-Control: no-store\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode("latin-1") + body
