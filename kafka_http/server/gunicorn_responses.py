"""Responses in gunicorn's form, for requests that gunicorn itself does not answer."""

import json
import re
import time
from collections.abc import Mapping
from functools import lru_cache
from http import HTTPStatus
from typing import Any

from gunicorn import SERVER
from gunicorn.http.errors import NoMoreData, ParseException
from gunicorn.util import http_date

from kafka_http.environ import split_access_key, without_access_key
from kafka_http.server.app_interface import FastPathResponse

_STATUS_LINES: Mapping[int, bytes] = {
    **{each.value: b"%d %b" % (each.value, each.phrase.encode()) for each in HTTPStatus},
    **{207: b"207 Multi Status", 413: b"413 Request Entity Too Large", 422: b"422 Unprocessable Entity"},
}
"""The reasons are those of the views: Werkzeug's, which do not depend on Python's version."""
_QUOTES = frozenset(("req", "method", "version", "hdr", "expect", "data", "term", "line", "buf"))
"""Attributes of gunicorn's errors that quote what the client has sent. Names of headers are in capitals."""
_HEADER_NAME = re.compile("[A-Z-]{1,40}")
_HIDDEN = "(hidden)"
_RESPONSE = (
    f"HTTP/1.1 %b\r\nServer: {SERVER}\r\nDate: %b\r\nConnection: %b\r\n%bContent-Type: %b\r\n"
    "Content-Length: %d\r\nX-Request-Id: %b\r\nCache-Control: no-store\r\n\r\n%b"
).encode()


def render(response: FastPathResponse, *, is_last: bool) -> bytes:
    """Return a whole response. If `is_last`, it announces that the connection is closed."""
    status, headers, content_type, sent_id, body, *_ = response
    return _RESPONSE % (
        _STATUS_LINES[status],
        _date(int(time.time())),
        b"close" if is_last else b"keep-alive",
        "".join([f"{name}: {value}\r\n" for name, value in headers.items()]).encode("latin-1") if headers else b"",
        content_type.encode("latin-1"),
        len(body),
        sent_id.encode("latin-1"),
        body,
    )


@lru_cache(1)
def _date(second: int) -> bytes:
    return http_date(second).encode()


def status_line(status: int) -> str:
    """Return a status with its reason."""
    return _STATUS_LINES[status].decode()


def header_pairs(sent: FastPathResponse) -> list[tuple[str, str]]:
    """Return all headers that `render` writes, apart from Server, Date and Connection."""
    return [
        *sent.headers.items(),
        ("Content-Type", sent.content_type),
        ("Content-Length", str(len(sent.body))),
        ("X-Request-Id", sent.request_id),
        ("Cache-Control", "no-store"),
    ]


def hide_credentials(request: Any, error: BaseException) -> None:
    """Remove what may be a credential from an invalid request and from its error, which gunicorn logs and sends."""
    quotes = vars(error).items() if isinstance(error, ParseException | NoMoreData) else ()
    for name, value in quotes:
        if name in _QUOTES and isinstance(value, str | bytes) and not _HEADER_NAME.fullmatch(str(value)):
            setattr(error, name, _HIDDEN)
    for each in (request, getattr(error, "req", None)):
        for name in ("uri", "query"):
            if isinstance(value := getattr(each, name, None), str):
                hidden = without_access_key(value) if name == "uri" else split_access_key(value)[0]
                setattr(each, name, hidden)


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
        status, reason = self.status, self._status_line[2]
        return render_error(status, reason, reason if status >= 500 else f"{reason}: {message}")

    @property
    def status(self) -> int:
        """The status of the page."""
        return int(self._status_line[1])

    @property
    def _status_line(self) -> list[str]:
        line = self._sent.partition(b"\r\n")[0] or b"HTTP/1.1 500 Internal Server Error"
        line = line.replace(b" 501 Bad Request", b" 501 Not Implemented")  # a mistake of gunicorn
        return str(line, "latin-1").split(" ", 2)


def render_error(status: int, reason: str, message: str, *, code: int = 0, headers: str = "") -> bytes:
    """Return a whole error response, after which the connection is closed. `headers` are further lines of its head."""
    body = json.dumps({"error": {"code": code or status, "message": message}}).encode() + b"\n"
    head = (
        f"HTTP/1.1 {status} {reason}\r\nConnection: close\r\nCache-Control: no-store\r\n{headers}"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode("latin-1") + body
