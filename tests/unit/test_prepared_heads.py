"""Remembered heads: they give the same as heads that are seen for the first time, and there are not too many."""

import pickle
import random
from collections.abc import Mapping
from typing import Any

import pytest
from gunicorn.config import Config
from gunicorn.http.message import Request
from gunicorn.http.unreader import IterUnreader

from kafka_http.server.app_interface import Client, PendingResponse
from kafka_http.server.fast_path_parser import FastPathHead
from kafka_http.server.prepared_heads import MAX_REMEMBERED, PreparedHeads

LINES = [
    *(b"Host: h", b"host:other", b"Content-Type: application/json", b"Accept: */*", b"X-Request-Id: 1"),
    *(
        b"Content-Length: 7",
        b"content-length:7 ",
        b"Content-Length:\t12",
        b"Content-Length: +1",
        b"Content-Length: 1,1",
    ),
    *(b"Content-Length:", b"Content-Length : 1", b" Content-Length: 1", b"X-Content-Length: 3", b"Content-Length: 007"),
    *(b"Connection: close", b"Connection: upgrade", b"Transfer-Encoding: chunked", b"X: \x00", b"X: a\nY: b", b": x"),
    *(b"", b" folded", b"X: a\r", b"X-Forwarded-Proto: https", b"X-Forwarded-Ssl: off", b"Cookie: a=b; c=d"),
]
STARTS = [
    *(b"POST /topics/t HTTP/1.1", b"PUT /messages/t?key=1 HTTP/1.1", b"GET /topics/t HTTP/1.1"),
    *(b"DELETE /messages/t/c/queue/0:1:0.a HTTP/1.1", b"DELETE /other HTTP/1.1"),
    *(b"POST /topics/t HTTP/1.0", b"POST /topics/\xc3 HTTP/1.1", b"Content-Length: 1", b""),
]
GOOD = (LINES[0], LINES[2], LINES[3], LINES[5], LINES[6], LINES[7])


class Prepared:
    """What the application makes of a head."""

    is_current = True

    def __init__(self, head: FastPathHead) -> None:
        self.head = head
        self.is_reusable = "x-request-id" not in head.headers

    def has_room(self, size: int, connection: Any) -> bool:
        return True

    def start(self, body: bytes, connection: Any) -> PendingResponse | None:
        return None


class Application:
    def __init__(self, *, decides_by_client: bool = False) -> None:
        self.prepared = 0
        self.decides_by_client = decides_by_client

    def prepare(self, method: str, target: str, headers: Mapping[str, str], client: Client) -> Prepared:
        raise NotImplementedError

    def prepare_head(self, head: FastPathHead, client: Client) -> Prepared:
        self.prepared += 1
        return Prepared(head)

    def heads(self) -> PreparedHeads:
        return PreparedHeads(self, self.prepare_head)


CLIENT = Client("127.0.0.1")


def find(heads: PreparedHeads, data: bytes, client: Client = CLIENT) -> tuple[FastPathHead, int] | None:
    end = data.find(b"\r\n\r\n") + 4
    found = heads.find(data, end, client) if end > 3 else None
    return None if found is None else (found[0].parsed, found[1])


def head(name: int, length: int = 1) -> bytes:
    return b"PUT /messages/t HTTP/1.1\r\nHost: h\r\nX: %d\r\nContent-Length: %d\r\n\r\n" % (name, length)


def random_head(choices: random.Random) -> bytes:
    lines = choices.choices(GOOD if choices.random() < 0.7 else LINES, k=choices.randint(1, 5))
    if choices.random() < 0.7:  # no line twice
        lines = list({line.partition(b":")[0].lower(): line for line in lines}.values())
    start = STARTS[0] if choices.random() < 0.7 else choices.choice(STARTS)
    return b"\r\n".join([start, *lines, b"", b""]) + choices.choice([b"", b"body", b"\r\nContent-Length: 3\r\n\r\n"])


def gunicorn_request(data: bytes) -> Any:
    end = data.find(b"\r\n\r\n") + 4
    return Request(Config(), IterUnreader([data[:end]]), ("127.0.0.1", 1))


def test_remembered_heads_give_the_same_as_new_heads() -> None:
    heads = Application().heads()
    found = 0
    for seed in range(20_000):
        data = random_head(random.Random(seed))
        expected = find(Application().heads(), data)
        assert find(heads, data) == expected, data
        assert find(heads, data) == expected, data
        found += expected is not None
    assert found > 1000


def test_heads_mean_the_same_to_gunicorn() -> None:
    heads = Application().heads()
    found = 0
    for seed in range(5_000):
        data = random_head(random.Random(seed))
        if (seen := find(heads, data)) is None:
            continue
        parsed, size = seen
        request = gunicorn_request(data)
        headers = {name.lower(): value for name, value in request.headers}
        assert int(headers.pop("content-length", "0")) == request.body.reader.length == size
        assert (request.method, request.uri, headers) == (parsed.method, parsed.target, parsed.headers)
        assert request.should_close() == parsed.is_last
        found += 1
    assert found > 500


def test_head_is_prepared_once_for_bodies_of_any_length() -> None:
    application = Application()
    heads = application.heads()
    assert [find(heads, head(1, length)) for length in (1, 20, 300_000)] == [
        (FastPathHead("PUT", "/messages/t", {"host": "h", "x": "1"}, is_last=False), length)
        for length in (1, 20, 300_000)
    ]
    assert application.prepared == 1


def test_second_length_after_remembered_head_is_rejected() -> None:
    heads = Application().heads()
    assert find(heads, head(1)) is not None
    twice = head(1).replace(b"\r\n\r\n", b"\r\nContent-Length: 1\r\n\r\n")
    assert find(heads, twice) is None
    assert find(heads, twice) is None


def test_head_that_is_not_reusable_is_prepared_each_time() -> None:
    application = Application()
    heads = application.heads()
    data = head(1).replace(b"X:", b"X-Request-Id:")
    assert find(heads, data) == find(heads, data)
    assert (application.prepared, len(heads)) == (2, 0)


def test_large_heads_are_not_remembered() -> None:
    heads = Application().heads()
    assert find(heads, head(1).replace(b"X:", b"X: " + b"x" * 1024)) is not None
    assert len(heads) == 0


def test_frequent_heads_stay_while_many_are_seen_once() -> None:
    application = Application()
    heads = application.heads()
    for number in range(1, 10 * MAX_REMEMBERED):
        for name in (0, number):
            assert find(heads, head(name)) is not None
        assert len(heads) <= 2 * MAX_REMEMBERED
    assert application.prepared == 10 * MAX_REMEMBERED, "the frequent head was prepared once"


SECRET = b"PUT /messages/t HTTP/1.1\r\nHost: h\r\nX-Api-Key: hush\r\nContent-Length: 1\r\n\r\n"


def test_remembered_head_with_credentials_does_not_contain_them() -> None:
    application = Application(decides_by_client=True)
    heads = application.heads()
    for _ in range(2):
        found = find(heads, SECRET)
        assert found is not None
        assert found[0].headers == {"host": "h"}
    assert application.prepared == 1
    assert b"hush" not in pickle.dumps(list(heads._recent)), "the keys are digests"


def test_head_is_prepared_for_each_client() -> None:
    application = Application(decides_by_client=True)
    heads = application.heads()
    clients = [
        CLIENT,
        Client("127.0.0.2"),
        Client("127.0.0.1", {"subject": "a"}, b"a"),
        Client("127.0.0.1", {"subject": "b"}, b"b"),
    ]
    for client in (*clients, *clients):
        assert find(heads, SECRET, client) is not None
    assert application.prepared == len(clients)


def test_head_whose_decision_has_expired_is_prepared_again(monkeypatch: pytest.MonkeyPatch) -> None:
    application = Application(decides_by_client=True)
    heads = application.heads()
    assert find(heads, SECRET) is not None
    monkeypatch.setattr(Prepared, "is_current", False)
    assert find(heads, SECRET) is not None
    assert find(heads, SECRET) is not None
    assert application.prepared == 3
