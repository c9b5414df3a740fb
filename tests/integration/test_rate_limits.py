"""Limits of clients hold for all workers of a server, whose addresses here are those of 127.0.0.0/8."""

import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing

import pytest

from kafka_http.demo.embedded_kafka import EmbeddedKafka
from tests.conftest import TopicFactory
from tests.integration.conftest import running
from tests.support.polling import wait_for
from tests.support.server_process import Service, read_answers

SETTINGS = """
trusted_proxies = ["127.0.0.1"]
[limits."*"]
requests = 5
bytes = 65536
burst = 10
streams = 3
connections = 10
"""
BURST = 50


@pytest.fixture(scope="module")
def limited(kafka: EmbeddedKafka, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A server with two workers and limits."""
    directory = tmp_path_factory.mktemp("limited")
    (directory / "settings.toml").write_text(SETTINGS)
    with running(Service(directory, kafka.bootstrap_servers, config=directory / "settings.toml")) as service:
        yield service


@pytest.fixture
def sockets() -> Iterator[ExitStack]:
    with ExitStack() as opened:
        yield opened


def connect(service: Service, sockets: ExitStack, address: str) -> socket.socket:
    """Connect from an address of this machine."""
    return sockets.enter_context(
        closing(socket.create_connection(("127.0.0.1", service.port), 30, source_address=(address, 0)))
    )


def head(method: str, path: str, *headers: str) -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: x", *headers, "", ""]).encode()


def status_of(client: socket.socket) -> int:
    """Return the status of the response that begins, without reading it all."""
    return int(client.recv(12, socket.MSG_WAITALL).split()[1])


def kill_workers(service: Service) -> None:
    killed = service.workers
    for each in killed:
        os.kill(each, signal.SIGKILL)
    wait_for(lambda: len(service.workers - killed) == len(killed), 20)


@pytest.mark.parametrize(("address", "connections"), [("127.0.1.1", 1), ("127.0.1.2", 10)])
def test_rate_of_an_address_is_the_same_on_one_connection_and_on_many(
    limited: Service, sockets: ExitStack, topic: TopicFactory, address: str, connections: int
) -> None:
    name, each = topic(), 80 // connections
    clients = [connect(limited, sockets, address) for _ in range(connections)]
    began = time.monotonic()
    for client in clients:
        client.sendall(head("PUT", f"/messages/{name}", "Content-Length: 1") + b"x")
    answers = [read_answers(client, 1)[0] for client in clients]
    for client in clients:
        client.sendall((head("PUT", f"/messages/{name}", "Content-Length: 1") + b"x") * (each - 1))
        answers += read_answers(client, each - 1)
    seconds = time.monotonic() - began

    statuses = [status for status, _, _ in answers]
    assert set(statuses) == {200, 429}
    assert BURST <= statuses.count(200) <= BURST + 5 * seconds + 2
    assert len(limited.records(name)) == statuses.count(200)
    _, headers, body = next(each for each in answers if each[0] == 429)
    assert (headers["ratelimit-limit"], headers["ratelimit-remaining"], headers["retry-after"]) == ("50", "0", "1")
    assert json.loads(body)["error"]["code"] == 42902
    workers = limited.workers_by_request({headers["x-request-id"] for _, headers, _ in answers})
    assert connections == 1 or set(workers.values()) == limited.workers


def test_large_body_over_the_limit_is_refused_before_it_is_sent(
    limited: Service, sockets: ExitStack, topic: TopicFactory
) -> None:
    name = topic()
    client = connect(limited, sockets, "127.0.1.3")
    client.sendall(head("PUT", f"/messages/{name}", "Content-Length: 640000") + b"x" * 640_000)
    assert read_answers(client, 1)[0][0] == 200
    for size in (700_000, 30_000_000):  # the fast path, and a view
        client = connect(limited, sockets, "127.0.1.3")
        client.sendall(head("PUT", f"/messages/{name}", f"Content-Length: {size}", "Expect: 100-continue"))
        ((status, headers, _),) = read_answers(client, 1)
        assert (status, "retry-after" in headers) == (429, True)
    assert len(limited.records(name)) == 1


def test_streaming_upload_is_slowed_to_the_limit(limited: Service, sockets: ExitStack, topic: TopicFactory) -> None:
    name = topic()
    types = ("Content-Type: application/x-ndjson", "Accept: application/x-ndjson")
    client = connect(limited, sockets, "127.0.1.4")
    line = b'"' + b"x" * 1021 + b'"\n'
    body = line * 800  # the burst of 640 KiB, and 160 KiB more
    began = time.monotonic()
    client.sendall(head("POST", f"/messages/{name}", *types, f"Content-Length: {len(body)}", "Connection: close"))
    client.sendall(body)
    answer = b"".join(iter(lambda: client.recv(1 << 16), b""))
    assert answer.startswith(b"HTTP/1.1 200")
    assert b'"done":true' in answer
    assert time.monotonic() - began > 0.5, "the last read waits until what was read before has room"
    assert len(limited.records(name)) == 800


def test_connections_of_an_address_are_limited_and_those_of_a_killed_worker_do_not_count(
    limited: Service, sockets: ExitStack
) -> None:
    clients = [connect(limited, sockets, "127.0.1.5") for _ in range(10)]
    for client in clients:
        client.sendall(head("GET", "/health"))
        assert read_answers(client, 1)[0][0] == 200
    refused = connect(limited, sockets, "127.0.1.5")
    refused.sendall(head("GET", "/health"))
    ((status, headers, body),) = read_answers(refused, 1)
    assert (status, headers["retry-after"], json.loads(body)["error"]["code"]) == (429, "5", 42902)
    assert refused.recv(1) == b""
    assert limited.get("/health").status_code == 200, "a trusted proxy"

    def is_admitted() -> bool:
        with closing(connect(limited, sockets, "127.0.1.5")) as client:
            client.sendall(head("GET", "/health"))
            return read_answers(client, 1)[0][0] == 200

    clients.pop().close()
    wait_for(is_admitted)
    kill_workers(limited)
    assert sum(is_admitted() for _ in range(5)) == 5


def test_streams_of_an_address_are_limited_and_those_of_a_killed_worker_do_not_count(
    limited: Service, sockets: ExitStack, topic: TopicFactory
) -> None:
    request = head("GET", f"/messages/{topic()}/me/latest", "Accept: text/event-stream")

    def open_stream() -> socket.socket | None:
        client = connect(limited, sockets, "127.0.1.6")
        client.sendall(request)
        if (status := status_of(client)) == 200:
            return client
        client.close()
        assert status == 429
        return None

    opened = [open_stream() for _ in range(4)]
    assert [each is None for each in opened] == [False, False, False, True]
    assert opened[0] is not None
    opened[0].close()
    wait_for(open_stream)
    assert open_stream() is None
    kill_workers(limited)
    assert [open_stream() is None for _ in range(4)] == [False, False, False, True]
