"""Recognizes publishes that the fast path can answer.

This is a strict recognizer, not an HTTP parser: it accepts the few forms that are unambiguous. gunicorn's parser gets
all other requests and decides whether they are valid.
"""

import re
from typing import NamedTuple

MAX_HEAD = 8000
"""Bytes. gunicorn's limits for a line and a field are higher."""
MAX_FIELDS = 60
MAX_BODY = 1 << 18

_METHODS = (b"POST /", b"PUT /")
_HEAD = re.compile(
    rb"(?P<method>POST|PUT) (?P<target>/(?:messages|topics)/[!\"$-~]+) HTTP/1\.1\r\n"
    rb"(?P<fields>(?:[!#$%&'*+\-.^`|~0-9A-Za-z]+:[\t\x20-\x7e]*\r\n)+)\r\n"
)
_UNSUPPORTED = frozenset(
    ("transfer-encoding", "content-encoding", "expect", "upgrade", "te", "trailer", "authorization")
)
_SCHEME_HEADERS = frozenset(("x-forwarded-proto", "x-forwarded-protocol", "x-forwarded-ssl"))
"""gunicorn rejects a request in which two of these contradict each other."""


class FastPathRequest(NamedTuple):
    """A publish in a form that the fast path accepts."""

    method: str
    target: str
    headers: dict[str, str]
    """By name in lower case. No header occurs twice."""
    body: bytes
    size: int
    """Size of the whole request in bytes."""
    is_last: bool
    """Whether the client asked to close the connection after the response."""


class NotFastPath(Exception):
    """The request is not one for the fast path."""


def parse(data: bytes) -> FastPathRequest | None:
    """Parse the request at the start of `data`. Return None if it is incomplete. Raises `NotFastPath`."""
    found = _HEAD.match(data)
    if found is None:
        _check_start(data)
        return None
    if found.end() > MAX_HEAD:
        raise NotFastPath
    headers = _headers(str(found["fields"], "ascii"))
    length = headers.get("content-length", "")
    if not (length.isdigit() and len(length) < 7 and int(length) <= MAX_BODY):
        raise NotFastPath
    size = found.end() + int(length)
    if len(data) < size:
        return None
    method, target = str(found["method"], "ascii"), str(found["target"], "ascii")
    is_last = headers.get("connection", "").lower() == "close"
    return FastPathRequest(method, target, headers, data[found.end() : size], size, is_last)


def _check_start(data: bytes) -> None:
    """Raise `NotFastPath` if no further data can complete this to a fast-path request."""
    is_publish = any(data.startswith(each) or each.startswith(data) for each in _METHODS)
    if not is_publish or b"\r\n\r\n" in data or len(data) > MAX_HEAD:
        raise NotFastPath


def _headers(text: str) -> dict[str, str]:
    lines = text.split("\r\n")
    lines.pop()
    headers = {}
    for line in lines:
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip(" \t")
    if len(headers) < len(lines) or len(lines) > MAX_FIELDS or "host" not in headers:
        raise NotFastPath
    if not _UNSUPPORTED.isdisjoint(headers) or len(_SCHEME_HEADERS & headers.keys()) > 1:
        raise NotFastPath
    if headers.get("connection", "keep-alive").lower() not in {"keep-alive", "close"}:
        raise NotFastPath
    return headers
