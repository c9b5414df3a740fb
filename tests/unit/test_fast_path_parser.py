"""The parser of the fast path: which requests it accepts."""

import pytest

from kafka_http.server.fast_path_parser import (
    MAX_BODY,
    MAX_FIELDS,
    MAX_HEAD,
    FastPathHead,
    parse_head,
    without_length,
)

HEAD = b"POST /messages/t HTTP/1.1\r\nHost: h\r\n"


def request(*headers: bytes, start: bytes = b"POST /messages/t HTTP/1.1", length: int = 4) -> bytes:
    return b"\r\n".join([start, b"Host: h", *headers, b"Content-Length: %d" % length, b"", b""])


def parse(data: bytes) -> FastPathHead | None:
    """Parse a head as the fast path does."""
    end = data.find(b"\r\n\r\n") + 4
    split = without_length(data, end) if end > 3 else None
    return None if split is None else parse_head(split[0])


def test_parse_fast_path_head() -> None:
    data = request(b"Content-Type:application/json ", b"X-A: b: c\t") + b"body" + b"PUT /next"
    headers = {"host": "h", "content-type": "application/json", "x-a": "b: c"}
    assert parse(data) == FastPathHead("POST", "/messages/t", headers, is_last=False)


@pytest.mark.parametrize("target", [b"/topics/t", b"/topics/t/partitions/3", b"/messages/a?key=%20&timeout=3"])
def test_parse_fast_path_targets(target: bytes) -> None:
    found = parse(request(start=b"POST %b HTTP/1.1" % target))
    assert found is not None
    assert found.target == target.decode()


@pytest.mark.parametrize(("value", "is_last"), [(b"keep-alive", False), (b"Keep-Alive", False), (b"close", True)])
def test_connection_header_sets_is_last(value: bytes, is_last: bool) -> None:
    found = parse(request(b"Connection: " + value))
    assert found is not None
    assert found.is_last is is_last


@pytest.mark.parametrize("line", [b"Content-Length: 12", b"content-length:12", b"CONTENT-LENGTH:\t 12 "])
def test_length_is_cut_out_of_head(line: bytes) -> None:
    for data in (HEAD + line + b"\r\nX: y\r\n\r\n", HEAD + b"X: y\r\n" + line + b"\r\n\r\n"):
        assert without_length(data + b"Content-Length: 1\r\n\r\n", len(data)) == (HEAD + b"X: y\r\n\r\n", 12)


def test_second_length_stays_in_head_and_is_rejected() -> None:
    data = HEAD + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n"
    assert without_length(data, len(data)) == (HEAD + b"Content-Length: 2\r\n\r\n", 1)
    assert parse(data) is None


def test_length_in_body_is_not_one_of_the_head() -> None:
    data = HEAD + b"\r\nContent-Length: 4\r\n\r\n"
    assert without_length(data, len(HEAD) + 2) == (HEAD + b"\r\n", 0)


@pytest.mark.parametrize("method", ["DELETE", "POST", "PUT"])
def test_request_without_length_has_an_empty_body(method: str) -> None:
    data = b"%b /messages/t/c/queue/0:1:0.a HTTP/1.1\r\nHost: h\r\n\r\n" % method.encode()
    assert without_length(data + b"next", len(data)) == (data, 0)
    assert parse(data) == FastPathHead(method, "/messages/t/c/queue/0:1:0.a", {"host": "h"}, is_last=False)


@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"PATCH", b"OPTIONS", b"POSTS", b"PU"])
def test_head_of_another_method_is_not_searched(method: bytes) -> None:
    data = request(start=method + b" /messages/t HTTP/1.1")
    assert without_length(data, len(data)) is None


def test_parse_accepts_heads_up_to_limits() -> None:
    data = request(length=MAX_BODY)
    assert without_length(data, len(data)) is not None
    data = request(length=MAX_BODY + 1)
    assert without_length(data, len(data)) is None
    assert parse(request(b"X: " + b"x" * (MAX_HEAD - 60))) is not None
    assert parse(request(b"X: " + b"x" * MAX_HEAD)) is None
    assert parse(request(*[b"X-%d: y" % each for each in range(MAX_FIELDS - 2)])) is not None
    assert parse(request(*[b"X-%d: y" % each for each in range(MAX_FIELDS - 1)])) is None


@pytest.mark.parametrize(
    "data",
    [
        request(start=b"GET /messages/t HTTP/1.1"),
        request(start=b"PATCH /messages/t HTTP/1.1"),
        request(start=b"DELETE /consumers/g HTTP/1.1"),
        request(start=b"POST /consumers/g HTTP/1.1"),
        request(start=b"POST /messages/t HTTP/1.0"),
        request(start=b"POST  /messages/t HTTP/1.1"),
        request(start=b"POST /messages/t#x HTTP/1.1"),
        request(start=b"POST /messages/\xc3\xa9 HTTP/1.1"),
        request(start=b"post /messages/t HTTP/1.1"),
        request(start=b"\r\nPOST /messages/t HTTP/1.1"),
        request(start=b"POST http://h/messages/t HTTP/1.1"),
        request(b"Transfer-Encoding: chunked"),
        request(b"Expect: 100-continue"),
        request(b"Upgrade: websocket"),
        request(b"Content-Encoding: gzip"),
        request(b"Connection: keep-alive, Upgrade"),
        request(b"Content-Length: 4"),
        request(b"Host: again"),
        request(b"Kafka-Header-A: 1", b"kafka-header-a: 2"),
        request(b"X_A: b"),
        request(b"X A: b"),
        request(b" folded: b"),
        request(b"X-A: b\r\n folded"),
        request(b"X-A: \xff"),
        request(b"X-A: \x00"),
        request(b"X-A: b\rX-B: c"),
        request(b"X-A: b\nX-B: c"),
        request(b": nameless"),
        request(b"no colon"),
        request(b"X-Forwarded-Proto: https", b"X-Forwarded-Ssl: off"),
        HEAD + b"Content-Length: +4\r\n\r\nbody",
        HEAD + b"Content-Length: 4,4\r\n\r\nbody",
        HEAD + b"Content-Length: 0x4\r\n\r\nbody",
        HEAD + b"Content-Length: 00000004\r\n\r\nbody",
        HEAD + b"Content-Length : 4\r\n\r\nbody",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        HEAD + b"Content-Length:\r\n\r\nbody",
        HEAD + b"Content-Length: 4\r\n 5\r\n\r\nbody",
        HEAD + b"X: a\rContent-Length: 4\r\n\r\nbody",
        HEAD + b"X: a\nContent-Length: 4\r\n\r\nbody",
        b"Content-Length: 4\r\n" + HEAD + b"\r\nbody",
        b"\r\nContent-Length: 4\r\n" + HEAD + b"\r\nbody",
        b"POST /messages/t HTTP/1.1\r\nContent-Length: 4\r\n\r\nbody",
        b"\x16\x03\x01\x02\x00\x01",
    ],
)
def test_parse_rejects_other_requests(data: bytes) -> None:
    assert parse(data) is None
