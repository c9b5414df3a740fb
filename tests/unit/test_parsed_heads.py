"""Heads that are parsed with gunicorn's parser and remembered."""

from typing import Any

import pytest
from gunicorn.config import Config
from gunicorn.http.errors import ParseException

from kafka_http.server.request_reader import ParsedHeads

NEAR, FAR = ("127.0.0.1", 40001), ("10.0.0.7", 40002)
HEADS = [
    b"GET /messages/t/c/0:0?limit=5 HTTP/1.1\r\nHost: a\r\n\r\n",
    b"POST /topics/t HTTP/1.1\r\nHost: a\r\nContent-Length: 7\r\nConnection: close\r\n\r\n",
    b"PUT /messages/t HTTP/1.0\r\nX-Forwarded-Proto: https\r\nHost: a\r\nKafka-A: 1\r\nKafka-A: 2\r\n\r\n",
    b"PUT /messages/t HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n",
    b"POST /messages/t HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
]


def visible(request: Any) -> dict[str, Any]:
    """Return the attributes of a request, without the objects that read from its socket."""
    attributes = {name: value for name, value in vars(request).items() if name not in ("cfg", "unreader", "body")}
    reader = request.body.reader
    return attributes | {"reader": type(reader), "length": getattr(reader, "length", None)}


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("client", [NEAR, FAR, ""])
def test_remembered_head_gives_the_same_request_as_a_new_one(head: bytes, client: Any) -> None:
    heads = ParsedHeads(Config())
    for other in (NEAR, FAR, ""):
        heads.parse(head, other)

    assert visible(heads.parse(head, client)) == visible(ParsedHeads(Config()).parse(head, client))


def test_scheme_that_a_trusted_proxy_names_does_not_apply_to_another_host() -> None:
    heads = ParsedHeads(Config())

    assert [heads.parse(HEADS[2], each).scheme for each in (NEAR, FAR, NEAR, FAR)] == ["https", "http"] * 2


def test_change_of_a_request_does_not_change_the_next_one() -> None:
    heads = ParsedHeads(Config())
    first = heads.parse(HEADS[0], NEAR)
    first.force_close()
    first.body = None

    second = heads.parse(HEADS[0], ("127.0.0.1", 40003))

    assert not second.must_close
    assert second.body is not None
    assert (first.peer_addr, second.peer_addr) == (NEAR, ("127.0.0.1", 40003))


def test_invalid_head_is_rejected_each_time() -> None:
    heads = ParsedHeads(Config())
    for _ in range(2):
        with pytest.raises(ParseException):
            heads.parse(b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", NEAR)


def test_number_of_remembered_heads_is_limited() -> None:
    heads = ParsedHeads(Config())
    for each in range(1000):
        heads.parse(b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % each, NEAR)

    assert len(heads._requests) <= 256
