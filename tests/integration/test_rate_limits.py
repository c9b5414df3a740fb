"""Limits of clients hold for all workers of a server, whose addresses here are those of 127.0.0.0/8."""

import json
import os
import signal
import socket
import ssl
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import pytest

from kafka_http.demo.embedded_kafka import EmbeddedKafka
from tests.conftest import TopicFactory
from tests.integration.conftest import running
from tests.support.certificates import Authority
from tests.support.key_file import KeyFile
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


def test_connections_are_counted_over_tls_and_failed_handshakes_are_released(
    kafka: EmbeddedKafka, tmp_path: Path, sockets: ExitStack
) -> None:
    authority = Authority(tmp_path)
    (tmp_path / "settings.toml").write_text('trusted_proxies = ["127.0.0.1"]\n[limits."*"]\nconnections = 2\n')
    with running(Service(tmp_path, kafka.bootstrap_servers, authority, config=tmp_path / "settings.toml")) as service:
        context = ssl.create_default_context(cafile=authority.file)

        def connect_securely() -> ssl.SSLSocket | None:
            try:
                plain = connect(service, sockets, "127.0.1.7")
                client = context.wrap_socket(plain, server_hostname="localhost")
                client.sendall(head("GET", "/health"))
                assert read_answers(client, 1)[0][0] == 200
            except OSError:
                return None
            return sockets.enter_context(closing(client))

        for _ in range(5):
            failing = connect(service, sockets, "127.0.1.7")
            failing.sendall(head("GET", "/health"))
            with suppress(ConnectionResetError):
                while failing.recv(100):
                    pass
            failing.close()
        first = wait_for(connect_securely)
        assert wait_for(connect_securely)
        assert connect_securely() is None
        first.close()
        assert wait_for(connect_securely)


def test_connections_of_a_principal_are_limited_until_they_or_their_streams_end(
    kafka: EmbeddedKafka, tmp_path: Path, sockets: ExitStack, topic: TopicFactory
) -> None:
    keys, name = KeyFile(tmp_path / "keys.toml", ["web-1", "other"]), topic()
    (tmp_path / "settings.toml").write_text(f'[auth]\nkeys = "{keys.path}"\n[limits."web-*"]\nconnections = 3\n')

    def publish(client: socket.socket, principal: str = "web-1", *extra: str) -> tuple[int, Mapping[str, str]]:
        credentials = f"X-Api-Key: {keys.headers(principal)['X-Api-Key']}"
        client.sendall(head("PUT", f"/messages/{name}", "Content-Length: 1", credentials, *extra) + b"x")
        ((status, headers, _),) = read_answers(client, 1)
        return status, headers

    with running(Service(tmp_path, kafka.bootstrap_servers, config=tmp_path / "settings.toml")) as service:
        service.headers = keys.headers("other")

        def opened() -> socket.socket:
            return connect(service, sockets, "127.0.0.1")

        def open_admitted() -> socket.socket | None:
            client = opened()
            if publish(client)[0] == 200:
                return client
            client.close()
            return None

        stream, *others = [opened() for _ in range(3)]
        accept = ("Accept: text/event-stream", f"X-Api-Key: {keys.headers('web-1')['X-Api-Key']}")
        stream.sendall(head("GET", f"/messages/{name}/me/latest", *accept))
        assert status_of(stream) == 200
        assert [publish(each)[0] for each in others * 2] == [200] * 4
        for extra in ((), ("Traceparent: x",), ("Expect: 100-continue",)):  # remembered head, other head, a view
            refused = opened()
            status, headers = publish(refused, "web-1", *extra)
            assert (status, headers["connection"], headers["retry-after"]) == (429, "close", "5")
            assert refused.recv(1) == b""
        assert publish(opened(), "web-1", "X-Forwarded-For: 192.0.2.1")[0] == 200, "carries requests of others"
        assert publish(opened(), "other")[0] == 200
        stream.close()
        wait_for(open_admitted)
        assert open_admitted() is None
        others[0].close()
        wait_for(open_admitted)
        assert open_admitted() is None
        kill_workers(service)
        assert [open_admitted() is None for _ in range(4)] == [False, False, False, True]
        assert len(service.records(name)) == 11
