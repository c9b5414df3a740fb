"""Recognizes requests that the fast path can answer.

This is a strict recognizer, not an HTTP parser: it accepts the few forms that are unambiguous. gunicorn's parser gets
all other requests and decides whether they are valid.
"""

import re
from typing import NamedTuple

MAX_HEAD = 8000
"""Bytes. gunicorn's limits for a line and a field are higher."""
MAX_FIELDS = 60
MAX_BODY = 1 << 20

_STARTS = (b"POST /", b"PUT /", b"DELETE /")
_LENGTH_LINE = re.compile(rb"\r\nContent-Length:[\t ]{0,8}([0-9]{1,7})[\t ]{0,8}(?=\r\n)", re.IGNORECASE)
_HEAD = re.compile(
    rb"(?P<method>POST|PUT|DELETE) (?P<target>/(?:messages|topics)/[!\"$-~]+) HTTP/1\.1\r\n"
    rb"(?P<fields>(?:[!#$%&'*+\-.^`|~0-9A-Za-z]+:[\t\x20-\x7e]*\r\n)+)\r\n"
)
_UNSUPPORTED = frozenset(
    ("content-length", "transfer-encoding", "content-encoding", "expect", "upgrade", "te", "trailer")
)
_SCHEME_HEADERS = frozenset(("x-forwarded-proto", "x-forwarded-protocol", "x-forwarded-ssl"))
"""gunicorn rejects a request in which two of these contradict each other."""


class FastPathHead(NamedTuple):
    """The head of a request in a form that the fast path accepts, apart from its Content-Length."""

    method: str
    target: str
    headers: dict[str, str]
    """By name in lower case. No header occurs twice."""
    is_last: bool
    """Whether the client asked to close the connection after the response."""


def without_length(data: bytes, end: int) -> tuple[bytes, int] | None:
    """Return the head `data[:end]` without its first Content-Length line, and the size of the body.

    Heads that differ in this line only have the same first part. Without such a line the body is empty (RFC 9112,
    6.3). `parse_head` rejects what this does not check: Transfer-Encoding, and a second or malformed Content-Length.
    Return None if the body is over `MAX_BODY` or the method is not one of the fast path.
    """
    if not data.startswith(_STARTS):  # first, because most other requests are reads
        return None
    line = _LENGTH_LINE.search(data, 0, end)
    if line is None:
        return data[:end], 0
    if (size := int(line[1])) > MAX_BODY:
        return None
    return data[: line.start()] + data[line.end() : end], size


def parse_head(head: bytes) -> FastPathHead | None:
    """Parse a head that `without_length` returned. Return None if it is not one for the fast path."""
    found = _HEAD.fullmatch(head) if len(head) <= MAX_HEAD else None
    headers = None if found is None else _headers(str(found["fields"], "ascii"))
    if found is None or headers is None:
        return None
    is_last = headers.get("connection", "").lower() == "close"
    return FastPathHead(str(found["method"], "ascii"), str(found["target"], "ascii"), headers, is_last)


def _headers(text: str) -> dict[str, str] | None:
    lines = text.split("\r\n")
    lines.pop()
    headers = {}
    for line in lines:
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip(" \t")
    if len(headers) < len(lines) or len(lines) >= MAX_FIELDS or "host" not in headers:
        return None
    if not _UNSUPPORTED.isdisjoint(headers) or len(_SCHEME_HEADERS & headers.keys()) > 1:
        return None
    if headers.get("connection", "keep-alive").lower() not in {"keep-alive", "close"}:
        return None
    return headers
