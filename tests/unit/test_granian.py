"""Which requests granian's threads hand over, and that each is answered once, whoever is first."""

import logging
from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from typing import Any

import granian.server.mp
import pytest

from kafka_http.server.granian.threadless import Threadless, take_first
from tests.attempts import wait_for


class FakePublish:
    def __init__(self, timeout: float) -> None:
        self.timeout = timeout

    def answer(self) -> tuple[str, Sequence[tuple[str, str]], bytes]:
        return "200 OK", [("X-Y", "z")], b"said"


class FakePublishes:
    """Begins all, or none; `at_once`: Kafka answers before `begin` has returned."""

    def __init__(self, *, begins: bool = True, at_once: bool = False, timeout: float = 60) -> None:
        self.begun: list[tuple[str, str, Mapping[str, str], bytes]] = []
        self.done: list[Callable[[], None]] = []
        self.sent = 0
        self._begins, self._at_once, self._timeout = begins, at_once, timeout

    def begin(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes, done: Callable[[], None]
    ) -> FakePublish | None:
        if not self._begins:
            return None
        self.begun.append((method, target, headers, body))
        self.done.append(done)
        if self._at_once:
            done()
        return FakePublish(self._timeout)

    def send(self) -> None:
        self.sent = len(self.begun)


class FakeProtocol:
    def __init__(self) -> None:
        self.answers: list[tuple[int, list[tuple[str, str]], bytes]] = []

    def response_bytes(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        self.answers.append((status, headers, body))


ANSWER = (200, [("X-Y", "z")], b"said")


def scope(**other: Any) -> dict[str, Any]:
    given = {
        "REQUEST_METHOD": "POST",
        "PATH_INFO": "/messages/t",
        "QUERY_STRING": "",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": "127.0.0.1",
        "CONTENT_LENGTH": "2",
        "CONTENT_TYPE": "a/b",
        "HTTP_X_REQUEST_ID": "mine",
        "wsgi.input": BytesIO(b"hi"),
    }
    return {name: value for name, value in (given | other).items() if value is not None}


def test_a_plain_publish_is_handed_over_and_answered_later() -> None:
    publishes, protocol = FakePublishes(), FakeProtocol()
    threadless = Threadless(publishes, access_log=False)

    assert threadless.take(protocol, scope(QUERY_STRING="key=a%3Fb"))

    assert publishes.begun == [
        ("POST", "/messages/t?key=a%3Fb", {"x-request-id": "mine", "content-type": "a/b"}, b"hi")
    ]
    assert (publishes.sent, protocol.answers, threadless.in_flight) == (1, [], 1)
    publishes.done[0]()
    publishes.done[0]()
    assert (protocol.answers, threadless.in_flight) == ([ANSWER], 0)


def test_an_answer_that_is_there_at_once_is_given_once() -> None:
    protocol = FakeProtocol()

    assert Threadless(FakePublishes(at_once=True), access_log=False).take(protocol, scope())

    assert protocol.answers == [ANSWER]


def test_a_publish_that_kafka_does_not_answer_is_answered_in_time() -> None:
    publishes, protocol = FakePublishes(timeout=0.1), FakeProtocol()
    threadless = Threadless(publishes, access_log=False)

    assert threadless.take(protocol, scope())

    wait_for(lambda: protocol.answers, 5)
    publishes.done[0]()
    assert protocol.answers == [ANSWER]


@pytest.mark.parametrize(
    "other",
    [
        {"REQUEST_METHOD": "GET"},
        {"PATH_INFO": "/health"},
        {"PATH_INFO": "/messages/t?key=x"},  # decoded from %3F: no query
        {"PATH_INFO": "/messages/\xe4"},
        {"QUERY_STRING": "key=\xe4"},
        {"CONTENT_LENGTH": None},
        {"CONTENT_LENGTH": "1000000"},
        {"CONTENT_LENGTH": "3"},  # it breaks off
        {"HTTP_TRANSFER_ENCODING": "chunked"},
        {"HTTP_CONTENT_ENCODING": "gzip"},
        {"HTTP_EXPECT": "100-continue"},
        {"HTTP_AUTHORIZATION": "Basic x"},
        {"HTTP_KAFKA_KEY": ""},
    ],
)
def test_what_is_not_plain_is_left_to_wsgi_with_all_its_body(other: dict[str, Any]) -> None:
    publishes, given = FakePublishes(), scope(**other)

    assert not Threadless(publishes, access_log=False).take(FakeProtocol(), given)

    assert publishes.begun == []
    assert given["wsgi.input"].read() == b"hi"


def test_what_the_application_does_not_begin_is_left_to_wsgi_with_all_its_body() -> None:
    given = scope()
    threadless = Threadless(FakePublishes(begins=False), access_log=False)

    assert not threadless.take(FakeProtocol(), given)

    assert (given["wsgi.input"].read(), threadless.in_flight) == (b"hi", 0)


def test_whose_address_a_proxy_tells_is_left_to_wsgi_where_it_is_logged() -> None:
    given = scope(HTTP_X_FORWARDED_FOR="10.1.2.3")

    assert not Threadless(FakePublishes(), access_log=True).take(FakeProtocol(), given)
    assert Threadless(FakePublishes(), access_log=False).take(FakeProtocol(), given)


def test_without_what_is_not_public_nothing_is_taken(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delattr(granian.server.mp, "_wsgi_call_wrap")

    with caplog.at_level(logging.WARNING):
        take_first(lambda *_: True)

    assert "granian is not as expected" in caplog.text
    assert not hasattr(granian.server.mp, "_wsgi_call_wrap")
