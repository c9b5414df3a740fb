"""The fast path: it gives the same responses as the threads, byte for byte, and uses no threads."""

import random
import re
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import requests

from kafka_http.demo.embedded_kafka import EmbeddedKafka, create_topics
from tests.conftest import TopicFactory
from tests.integration.conftest import ServiceFactory, running
from tests.integration.test_publish_bodies import SHAPES
from tests.integration.test_random_requests import random_request
from tests.support.frozen_process import frozen
from tests.support.polling import scaled, wait_for
from tests.support.server_process import Service, read_answers

V2 = "application/vnd.kafka.json.v2+json"
CASES: dict[str, tuple[str, str, dict[str, str], bytes]] = {
    **{
        name: ("POST", "/messages/{}" + shape.query, {"Content-Type": shape.content_type or "x/y"}, shape.body)
        for name, shape in SHAPES.items()
    },
    "put": ("PUT", "/messages/{}?key=k", {}, b"\x00\xff"),
    "tombstone": ("PUT", "/messages/{}?tombstone=true&key=a%20b+c", {}, b""),
    "an empty body": ("POST", "/messages/{}", {"Content-Length": "0"}, b""),
    "no body": ("POST", "/messages/{}", {}, b""),
    "attributes": ("POST", "/messages/{}", {"Kafka-Key": "k", "Kafka-Header-A": "b", "ce-id": "1"}, b"x"),
    "a timestamp": ("POST", "/messages/{}?timestamp=5", {"traceparent": "00-1"}, b"x"),
    "a timeout": ("POST", "/messages/{}?timeout=7.5", {}, b"x"),
    "to be closed": ("POST", "/messages/{}", {"Connection": "close"}, b"x"),
    "proxied": ("POST", "/messages/{}", {"X-Forwarded-For": "10.1.2.3", "X-Forwarded-Proto": "https"}, b"x"),
    "no such partition": ("POST", "/messages/{}?partition=7", {}, b"x"),
    "no such topic": ("POST", "/messages/never-there", {}, b"x"),
    "no such parameter": ("POST", "/messages/{}?x=y", {}, b"x"),
    "no JSON": ("POST", "/messages/{}", {"Content-Type": "application/json"}, b"{"),
    "no format": ("POST", "/messages/{}?format=nope", {"Content-Type": "application/json"}, b"1"),
    "not acceptable": ("POST", "/topics/{}", {"Content-Type": V2, "Accept": "text/html"}, b'{"records":[{"value":1}]}'),
    "too large": ("PUT", "/messages/{}", {}, b"x" * 3000),
    "too large, with others": (
        *("POST", "/messages/{}", {"Content-Type": "application/json"}),
        b'["a", "%b", "b"]' % (b"x" * 3000),
    ),
    "v2": ("POST", "/topics/{}", {"Content-Type": V2}, b'{"records":[{"value":1,"key":"k"},{"value":null}]}'),
    "v2, a partition": ("POST", "/topics/{}/partitions/0", {"Content-Type": V2}, b'{"records":[{"value":1}]}'),
    "v2, no partition": ("POST", "/topics/{}/partitions/9", {"Content-Type": V2}, b'{"records":[{"value":1}]}'),
    "v2, strict": ("POST", "/topics/{}", {"Content-Type": V2, "Prefer": "strict"}, b'{"records":[{"value":1}]}'),
    "v2 as JSON": (
        *("POST", "/topics/{}", {"Content-Type": V2, "Accept": "application/json"}),
        b'{"records":[{"value":1,"headers":[{"key":"a","value":"AA=="}]}]}',
    ),
    "v2, too large": (
        *("POST", "/topics/{}", {"Content-Type": V2, "Prefer": "strict"}),
        b'{"records":[{"value":"%b"},{"value":1}]}' % (b"x" * 3000),
    ),
    "v2, a bad record": ("POST", "/topics/{}", {"Content-Type": V2}, b'{"records":[{"value":1,"x":2}]}'),
}


class Servers(NamedTuple):
    fast_path: Service
    threads: Service


@pytest.fixture(scope="module")
def servers(kafka: EmbeddedKafka, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    yield from start_both(kafka, tmp_path_factory)


def start_both(kafka: EmbeddedKafka, tmp_path_factory: pytest.TempPathFactory, **settings: Any) -> Iterator[Servers]:
    """Start a server with and one without the fast path, with one worker each, for the same Kafka."""
    with ExitStack() as stack:
        services = []
        for is_fast in (True, False):
            directory = tmp_path_factory.mktemp("fast_path" if is_fast else "threads")
            given = {"workers": 1, "fast_path": is_fast} | settings
            services.append(stack.enter_context(running(Service(directory, kafka.bootstrap_servers, **given))))
        yield Servers(*services)


def raw(method: str, path: str, headers: dict[str, str], body: bytes, request_id: str | None) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: h", *([f"Content-Length: {len(body)}"] if body else ())]
    if request_id is not None:  # the server remembers heads without one
        lines.append(f"X-Request-Id: {request_id}")
    return "\r\n".join([*lines, *(f"{name}: {value}" for name, value in headers.items()), "", ""]).encode() + body


def without_dates(answers: bytes, topic: str) -> bytes:
    """Return responses without the values that depend on the topic and the time."""
    answers = re.sub(rb"\r\nDate: [^\r]*", b"", answers.replace(topic.encode(), b"TOPIC"))
    answers = re.sub(rb"(Allow: )([^\r]*)", lambda found: found[1] + b", ".join(sorted(found[2].split(b", "))), answers)
    answers = re.sub(rb"X-Request-Id: [0-9a-f]{32}", b"X-Request-Id: MADE", answers)
    return re.sub(rb'("timestamp":)1[789]\d{11}\b', rb"\1NOW", answers)


def converse(service: Service, pieces: list[bytes]) -> bytes:
    """Send the pieces and return everything that the server sends until it closes the connection."""
    with service.connect() as client:
        for piece in pieces:
            client.sendall(piece)
        client.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: client.recv(65536), b""))


def threads_of(service: Service) -> int:
    (worker,) = service.workers
    return len(list(Path(f"/proc/{worker}/task").iterdir()))


@pytest.mark.parametrize("case", CASES)
def test_fast_path_and_threads_give_same_responses(servers: Servers, topic: TopicFactory, case: str) -> None:
    method, path, headers, body = CASES[case]
    answers = []
    for service in servers:
        name = topic(1, {"max.message.bytes": "2000"})
        assert service.put(f"/messages/{name}", b"the first").ok
        request = raw(method, path.replace("{}", name), headers, body, f"id-of-{len(case)}")
        answers.append(without_dates(converse(service, [request]), name))
        assert re.search(rf"id-of-{len(case)} gunicorn.access: 127.0.0.1 .*{method} ", service.access_log) or (
            "X-Forwarded-For" in headers
        )
    assert answers[0] == answers[1]
    assert answers[0].startswith(b"HTTP/1.1 ")


@pytest.mark.parametrize("seed", [0, *(pytest.param(each, marks=pytest.mark.slow) for each in range(1, 6))])
def test_fast_path_and_threads_give_same_responses_to_random_requests(
    servers: Servers, topic: TopicFactory, seed: int
) -> None:
    """Fast-path requests and others are pipelined on a connection, split at random places."""
    names = [topic(), topic()]
    for conversation in range(25):
        answers = []
        for service, name in zip(servers, names, strict=True):
            choices = random.Random(f"{seed} {conversation}")
            assert service.put(f"/messages/{name}", b"known").ok
            answers.append(without_dates(converse(service, random_pieces(choices, name)), name))
        assert answers[0] == answers[1], (seed, conversation)


def random_pieces(choices: random.Random, topic: str) -> list[bytes]:
    requests_ = [random_plain(choices, topic) for _ in range(choices.randint(1, 6))]
    if choices.random() < 0.5:
        odd = random_request(choices, topic).replace(b"Host: x", b"Host: x\r\nX-Request-Id: odd", 1)
        requests_.insert(choices.randint(0, len(requests_)), odd)
    data = b"".join(requests_)
    if choices.random() < 0.2:
        data = data[: choices.randint(0, len(data))]
    cuts = sorted(choices.choices(range(len(data) + 1), k=choices.randint(0, 5)))
    return [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]


def random_plain(choices: random.Random, topic: str) -> bytes:
    name = choices.choice([each for each in CASES if each not in {"no such topic", "to be closed"}])
    method, path, headers, body = CASES[name]
    request_id = f"id-{choices.randrange(1000)}" if choices.random() < 0.3 else None
    request = raw(method, path.replace("{}", topic), headers, body, request_id)
    if choices.random() < 0.1:  # a wrong length
        said = choices.choice([b"0", b"1", b"99", b"-1", b"1e1", b"300000"])
        request = re.sub(rb"Content-Length: \d+", b"Content-Length: " + said, request)
    return request


def test_publishes_that_wait_for_kafka_use_no_threads(
    fresh_kafka: EmbeddedKafka, start_service: ServiceFactory
) -> None:
    create_topics(fresh_kafka.bootstrap_servers, {"t": 1})
    service = start_service(fresh_kafka.bootstrap_servers, workers=1, threads=2, timeout=4)
    assert service.put("/messages/t", b"first").ok
    threads = threads_of(service)
    with ThreadPoolExecutor(40) as pool, frozen(fresh_kafka):
        began = time.monotonic()
        answers = [pool.submit(service.put, "/messages/t", b"%d" % each) for each in range(40)]
        wait_for(lambda: connections_of(service) >= 40)
        assert service.get("/health", timeout=scaled(2)).ok
        assert threads_of(service) <= threads + 1
        statuses = [each.result().status_code for each in answers]
        assert set(statuses) == {504}
        assert 3.5 < time.monotonic() - began < scaled(7)
    fresh_kafka.wait_until_ready()
    wait_for(lambda: service.put("/messages/t", b"last").ok)


def connections_of(service: Service) -> int:
    (worker,) = service.workers
    count = 0
    for each in Path(f"/proc/{worker}/fd").iterdir():
        with suppress(OSError):
            count += "socket" in str(each.readlink())
    return count


@pytest.mark.slow
def test_stop_waits_for_pending_publishes(fresh_kafka: EmbeddedKafka, start_service: ServiceFactory) -> None:
    create_topics(fresh_kafka.bootstrap_servers, {"t": 1})
    service = start_service(fresh_kafka.bootstrap_servers, workers=1)
    assert service.put("/messages/t", b"first").ok
    with service.connect() as client:
        with frozen(fresh_kafka):
            client.sendall(raw("PUT", "/messages/t", {}, b"second", "mine"))
            service.begin_stop()
        ((status, headers, _),) = read_answers(client, 1)
        assert (status, headers["connection"]) == (200, "close")
        assert client.recv(1) == b""
    service.wait_for_end()


@pytest.mark.slow
def test_stop_completes_publish_of_disconnected_client(
    fresh_kafka: EmbeddedKafka, start_service: ServiceFactory
) -> None:
    """The main loop drives the producer, also when no connection is left."""
    create_topics(fresh_kafka.bootstrap_servers, {"t": 1})
    service = start_service(fresh_kafka.bootstrap_servers, workers=1)
    assert service.put("/messages/t", b"first").ok
    with frozen(fresh_kafka):
        with service.connect() as client:
            client.sendall(raw("PUT", "/messages/t", {}, b"second", None))
            assert service.get("/health").ok  # the publish was started before
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # a reset
        service.begin_stop()
    service.wait_for_end()
    other = start_service(fresh_kafka.bootstrap_servers, workers=1)
    assert [each["value"] for each in other.records("t")] == ["first", "second"]


def test_disconnected_clients_do_not_affect_others(servers: Servers, topic: TopicFactory) -> None:
    name = topic()
    assert servers.fast_path.put(f"/messages/{name}", b"first").ok
    for number in range(50):
        with servers.fast_path.connect() as client:
            client.sendall(raw("PUT", f"/messages/{name}", {}, b"%d" % number, "gone"))
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # a reset
    assert servers.fast_path.put(f"/messages/{name}", b"last").ok
    wait_for(lambda: len(servers.fast_path.records(name)) >= 2)
    values = [each["value"] for each in servers.fast_path.records(name)]
    assert len(values) == len(set(values))


def test_responses_have_the_offsets_of_their_records(servers: Servers, topic: TopicFactory) -> None:
    name = topic(3)

    def publish(number: int) -> dict[tuple[int, int], str]:
        placed = {}
        with requests.Session() as session:
            for each in range(50):
                value = f"{number}-{each}"
                answer = session.post(f"{servers.fast_path.url}/messages/{name}", json=value, timeout=30)
                (record,) = answer.json()["records"]
                placed[record["partition"], record["offset"]] = value
        return placed

    with ThreadPoolExecutor(16) as pool:
        acknowledged = {place: value for each in pool.map(publish, range(16)) for place, value in each.items()}
    read = {(each["partition"], each["offset"]): each["value"] for each in servers.fast_path.records(name)}
    assert len(acknowledged) == 800
    assert read == acknowledged


def in_two(client: socket.socket, request: bytes) -> None:
    client.sendall(request[:40])
    client.sendall(request[40:])


def byte_by_byte(client: socket.socket, request: bytes) -> None:
    for each in request:
        client.sendall(b"%c" % each)


@pytest.mark.parametrize("send", [in_two, byte_by_byte])
def test_request_in_several_pieces_uses_fast_path(
    servers: Servers, topic: TopicFactory, send: Callable[[socket.socket, bytes], object]
) -> None:
    name = topic()
    assert servers.fast_path.put(f"/messages/{name}", b"first").ok
    with servers.fast_path.connect() as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for number in (1, 2):
            send(client, raw("PUT", f"/messages/{name}", {}, b"%d" % number, "pieces"))
            ((status, headers, body),) = read_answers(client, 1)
            assert (status, headers.get("connection", "keep-alive")) == (200, "keep-alive")
            assert b'"offset":%d,' % number in body


def test_late_reader_gets_complete_large_responses(servers: Servers, topic: TopicFactory) -> None:
    name = topic()
    assert servers.fast_path.put(f"/messages/{name}", b"first").ok
    body = b"[" + b",".join([b"1"] * 15_000) + b"]"
    request = raw("POST", f"/messages/{name}", {"Content-Type": "application/json"}, body, "late")
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", servers.fast_path.port))
        client.settimeout(30)
        client.sendall(request * 8)  # more than the kernel's buffers hold
        wait_for(lambda: len(re.findall(r" late \w+\.access", servers.fast_path.access_log)) > 0)
        for _, _, said in read_answers(client, 8):
            assert said.count(b'"offset"') == 15_000
