"""The HTTP client for outgoing requests. The tests of callbacks and of the registry cover more of it."""

from collections.abc import Iterator
from typing import Any

import pytest

from kafka_http import http_client
from kafka_http.http_client import HttpRequestFailed, HttpResponseTooLarge, HttpTarget, HttpTimeout
from tests.support.callback_receiver import Receiver


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


def post(url: str, *, read_timeout: float | None = None, **options: Any) -> tuple[int, bytes]:
    options = {"timeout": 10.0, "max_bytes": 1 << 16, **options}
    with http_client.send("POST", HttpTarget.from_url(url), {}, b"x", **options) as response:
        return response.status, response.read(read_timeout)


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("http://a.example", HttpTarget("http", "a.example", 80, "/")),
        ("https://a.example/b%20c?d=e", HttpTarget("https", "a.example", 443, "/b%20c?d=e")),
        ("http://a.example/ä%C3", HttpTarget("http", "a.example", 80, "/%C3%A4%C3")),
        ("http://[::1]:8083/b/", HttpTarget("http", "::1", 8083, "/b/")),
    ],
)
def test_url_is_split_into_target(url: str, target: HttpTarget) -> None:
    assert HttpTarget.from_url(url) == target


def test_url_with_invalid_port_fails() -> None:
    with pytest.raises(HttpRequestFailed, match="invalid port"):
        HttpTarget.from_url("http://a.example:99999/")


def test_status_and_body_are_returned(receiver: Receiver) -> None:
    assert post(receiver.url("/status/207")) == (207, b"hello")


def test_response_larger_than_max_bytes_fails(receiver: Receiver) -> None:
    with pytest.raises(HttpResponseTooLarge):
        post(receiver.url("/flood"), max_bytes=4096)


def test_chunked_response_larger_than_max_bytes_fails(receiver: Receiver) -> None:
    """This was "did not answer in HTTP", and a 503 in place of a 422 for a schema that is too large."""
    with pytest.raises(HttpResponseTooLarge):
        post(receiver.url("/chunks/20"), max_bytes=4096)


def test_chunked_response_without_last_chunk_fails(receiver: Receiver) -> None:
    with pytest.raises(HttpRequestFailed, match="closed the connection before the end of its response"):
        post(receiver.url("/chunks/2"))


def test_slow_body_fails_at_read_timeout(receiver: Receiver) -> None:
    with pytest.raises(HttpTimeout, match=r"did not answer within 0\.2 s"):
        post(receiver.url("/drip-body"), timeout=60.0, read_timeout=0.2)


def test_only_resolved_addresses_are_connected_to(receiver: Receiver) -> None:
    url = receiver.url("/status/200", "receiver.example")

    assert post(url, resolve=lambda _host, _port: ["127.0.0.3", "127.0.0.1"]) == (200, b"hello")
    with pytest.raises(HttpRequestFailed, match="cannot be connected to"):
        post(url, resolve=lambda _host, _port: ["127.0.0.3"])
    assert receiver.received[0].headers["Host"] == f"receiver.example:{receiver.port}"
