"""The parser of the fast path: which requests it accepts."""

import pytest

from kafka_http.server.fast_path_parser import MAX_BODY, MAX_FIELDS, MAX_HEAD, FastPathRequest, NotFastPath, parse

HEAD = b"POST /messages/t HTTP/1.1\r\nHost: h\r\n"


def request(*headers: bytes, start: bytes = b"POST /messages/t HTTP/1.1", body: bytes = b"body") -> bytes:
    lines = [start, b"Host: h", *headers, b"Content-Length: %d" % len(body), b"", b""]
    return b"\r\n".join(lines) + body


def test_parse_fast_path_request() -> None:
    data = request(b"Content-Type:application/json ", b"X-A: b: c\t") + b"PUT /next"
    headers = {"host": "h", "content-type": "application/json", "x-a": "b: c", "content-length": "4"}
    size = len(data) - len(b"PUT /next")
    assert parse(data) == FastPathRequest("POST", "/messages/t", headers, b"body", size, is_last=False)


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


def test_parse_of_incomplete_request_returns_none() -> None:
    data = request(b"Content-Type: application/json")
    assert [parse(data[:length]) for length in range(1, len(data))] == [None] * (len(data) - 1)


def test_parse_accepts_requests_up_to_limits() -> None:
    found = parse(request(body=b"x" * MAX_BODY))
    assert found is not None
    assert len(found.body) == MAX_BODY
    with pytest.raises(NotFastPath):
        parse(request(body=b"x" * (MAX_BODY + 1)))
    with pytest.raises(NotFastPath):
        parse(b"POST /messages/t HTTP/1.1\r\nHost: h\r\nX: " + b"x" * MAX_HEAD)
    with pytest.raises(NotFastPath):
        parse(request(*[b"X-%d: y" % each for each in range(MAX_FIELDS)]))


@pytest.mark.parametrize(
    "data",
    [
        request(start=b"GET /messages/t HTTP/1.1"),
        request(start=b"DELETE /messages/t HTTP/1.1"),
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
        request(b"Authorization: Basic x"),
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
        HEAD + b"Content-Length:\r\n\r\nbody",
        HEAD + b"\r\nbody",
        b"POST /messages/t HTTP/1.1\r\nContent-Length: 4\r\n\r\nbody",
        b"\x16\x03\x01\x02\x00\x01",
    ],
)
def test_parse_rejects_other_requests(data: bytes) -> None:
    with pytest.raises(NotFastPath):
        parse(data)
