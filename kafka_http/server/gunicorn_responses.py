"""Responses in gunicorn's form, and its access log, for requests that gunicorn itself does not answer."""

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

from kafka_http.server.client_connection import ClientConnection

Headers = Sequence[tuple[str, str]]


def render(status: str, headers: Headers, body: bytes, *, is_last: bool) -> bytes:
    """Return a whole response. If `is_last`, it announces that the connection is closed."""
    lines = [
        f"HTTP/1.1 {status}",
        f"Server: {SERVER}",
        f"Date: {_date(int(time.time()))}",
        f"Connection: {'close' if is_last else 'keep-alive'}",
        *[f"{name}: {value}" for name, value in headers],
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + body


@lru_cache(1)
def _date(second: int) -> str:
    return http_date(second)


class AccessLog:
    """Writes gunicorn's access log for requests on the fast path."""

    def __init__(self, log: Logger) -> None:
        self._access: Any = log.access
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
        # gunicorn's log uses only these attributes of a response
        response = SimpleNamespace(status=status, headers=headers, sent=len(body))
        self._access(response, request.headers, environ, timedelta(seconds=time.monotonic() - connection.started))


class ErrorPage:
    """Replaces the client's socket while gunicorn writes an HTML error page, and keeps the page's status line."""

    def __init__(self) -> None:
        self._sent = b""

    def gettimeout(self) -> float:
        return 0.0

    def sendall(self, data: bytes) -> None:
        self._sent += data

    def as_json(self, message: str) -> bytes:
        """Return the response with the error in JSON. `message` is shown for client errors only."""
        status_line = self._sent.partition(b"\r\n")[0] or b"HTTP/1.1 500 Internal Server Error"
        status_line = status_line.replace(b" 501 Bad Request", b" 501 Not Implemented")  # a mistake of gunicorn
        status, reason = str(status_line, "latin-1").split(" ", 2)[1:]
        return render_error(int(status), reason, reason if status.startswith("5") else f"{reason}: {message}")


def render_error(status: int, reason: str, message: str) -> bytes:
    """Return a whole error response, after which the connection is closed."""
    body = json.dumps({"error": {"code": status, "message": message}}).encode() + b"\n"
    head = (
        f"HTTP/1.1 {status} {reason}\r\nConnection: close\r\nCache-Control: no-store\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode("latin-1") + body
