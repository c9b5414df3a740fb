"""Which requests are plain: a publish with nothing about it that HTTP treats in a special way.

A strict recogniser, not a parser of HTTP: it takes the few forms in which nothing can be misunderstood, and leaves all
others to gunicorn's parser, which has the last word on what is allowed and what is wrong.
"""

import re
from typing import NamedTuple

MAX_HEAD = 8000
"""Bytes. gunicorn's own limits for a line and a field are above it."""
MAX_FIELDS = 60
MAX_BODY = 1 << 18

_METHODS = (b"POST /", b"PUT /")
_HEAD = re.compile(
    rb"(?P<method>POST|PUT) (?P<target>/(?:messages|topics)/[!\"$-~]+) HTTP/1\.1\r\n"
    rb"(?P<fields>(?:[!#$%&'*+\-.^`|~0-9A-Za-z]+:[\t\x20-\x7e]*\r\n)+)\r\n"
)
_SPECIAL = frozenset(("transfer-encoding", "content-encoding", "expect", "upgrade", "te", "trailer", "authorization"))
_SCHEMES = frozenset(("x-forwarded-proto", "x-forwarded-protocol", "x-forwarded-ssl"))
"""Where there are two of these they must agree: gunicorn sees to it."""


class FastPathRequest(NamedTuple):
    """`headers` by their names in lower case; each is there once. `size`: of the whole request in bytes. `last`: the
    client wants the connection closed after the answer."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes
    size: int
    last: bool


class NotFastPath(Exception):
    """Another's request."""


def parse(data: bytes) -> FastPathRequest | None:
    """The request at the start of these bytes, None where more of it is to come. Raises `NotFastPath`."""
    found = _HEAD.match(data)
    if found is None:
        _check_beginning(data)
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
    last = headers.get("connection", "").lower() == "close"
    return FastPathRequest(method, target, headers, data[found.end() : size], size, last)


def _check_beginning(data: bytes) -> None:
    """Raise `NotFastPath` where what is still to come cannot make a plain request of it."""
    begins = any(data.startswith(each) or each.startswith(data) for each in _METHODS)
    if not begins or b"\r\n\r\n" in data or len(data) > MAX_HEAD:
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
    if not _SPECIAL.isdisjoint(headers) or len(_SCHEMES & headers.keys()) > 1:
        raise NotFastPath
    if headers.get("connection", "keep-alive").lower() not in {"keep-alive", "close"}:
        raise NotFastPath
    return headers
