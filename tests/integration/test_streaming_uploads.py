"""POST of NDJSON that is published while it is read, over real HTTP to a real Kafka."""

import itertools
import json
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests
from kafka import KafkaProducer

from kafka_http.demo.embedded_kafka import EmbeddedKafka, create_topics
from tests.conftest import TopicFactory
from tests.integration.conftest import ServiceFactory
from tests.support.kafka_reader import read_topic
from tests.support.nginx import nginx_before
from tests.support.polling import scaled, wait_for
from tests.support.server_process import Service

NDJSON = "application/x-ndjson"
HEADERS = {"Content-Type": NDJSON, "Accept": NDJSON}
MIB = 1 << 20


class Pipe:
    """A client that sends a chunked body bit by bit and reads the answer's lines as they come."""

    def __init__(self, service: Service, path: str, *headers: str) -> None:
        self.socket = socket.create_connection(("127.0.0.1", service.port), timeout=30)
        given = [f"POST {path} HTTP/1.1", "Host: x", "Transfer-Encoding: chunked"]
        given += [f"{name}: {value}" for name, value in HEADERS.items()]
        self.socket.sendall("\r\n".join([*given, *headers, "", ""]).encode())
        self._answer = self.socket.makefile("rb")
        self.status = 0

    def send(self, data: bytes) -> None:
        self.socket.sendall(b"%x\r\n%s\r\n" % (len(data), data))

    def end(self) -> None:
        self.socket.sendall(b"0\r\n\r\n")

    def line(self) -> dict[str, Any] | None:
        """The next line of the answer, None at its end."""
        if not self.status:
            self.status = int(self._answer.readline().split()[1])
            while self._answer.readline().strip():
                pass
        size = int(self._answer.readline(), 16)
        data = self._answer.read(size + 2)
        assert data.endswith(b"\r\n")
        return json.loads(data) if size else None

    def close(self) -> None:
        self._answer.close()
        self.socket.close()


@contextmanager
def pipe(service: Service, path: str, *headers: str) -> Iterator[Pipe]:
    with closing(Pipe(service, path, *headers)) as opened:
        yield opened


def curl(url: str, data: Iterator[bytes] | bytes, *options: str) -> list[dict[str, Any]]:
    """What the manual's pipe answers."""
    command = ["curl", "-sS", "-X", "POST", "-T", "-", *options]
    for name, value in HEADERS.items():
        command += ["-H", f"{name}: {value}"]
    with subprocess.Popen([*command, url], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        for piece in [data] if isinstance(data, bytes) else data:
            process.stdin.write(piece)
        said, _ = process.communicate(timeout=100)
    assert process.returncode == 0, said
    return [json.loads(line) for line in said.splitlines()]


def count(service: Service, topic: str) -> int:
    return sum(each["latest"] for each in service.get(f"/messages/{topic}").json()["partitions"])


def test_streaming_upload_publishes_line_by_line(service: Service, topic: TopicFactory) -> None:
    name = topic()
    with pipe(service, f"/messages/{name}") as client:
        for number in range(3):
            client.send(b"%d\n" % number)
            began = time.monotonic()
            page = service.get(f"/messages/{name}/me/{number}?wait=5").json()
            assert [each["value"] for each in page["records"]] == [number]
            assert time.monotonic() - began < scaled(1)
            said = client.line()
            assert said == {"records": number + 1, "partitions": {"0": number}}
            assert time.monotonic() - began < scaled(2.5)
        client.send(b"3")
        client.end()
        assert client.line() == {"records": 4, "partitions": {"0": 3}, "done": True}
        assert client.line() is None


def test_chunks_in_any_pieces_are_decoded(service: Service, topic: TopicFactory) -> None:
    name = topic()
    with pipe(service, f"/messages/{name}") as client:
        client.socket.sendall(b"2\r\n1\n\r\n2;x=y\r\n2\n\r\n2\r\n3\n\r\n")
        wait_for(lambda: count(service, name) == 3, 1)
        for each in b"2\r\n4\n\r\n0\r\nTrailer: x\r\n\r\n":
            client.socket.sendall(bytes([each]))
            time.sleep(0.001)
        lines = iter(client.line, None)
        assert list(lines)[-1] == {"records": 4, "partitions": {"0": 3}, "done": True}
    with pipe(service, f"/messages/{name}") as client:
        client.socket.sendall(b"2\r\n5\n\r\nnonsense\r\n")
        *_, last = iter(client.line, None)
        assert (last["records"], last["error"]["code"]) == (1, 400)
    assert count(service, name) == 5


def test_streaming_upload_with_content_length_is_accepted(service: Service, topic: TopicFactory) -> None:
    name = topic()
    with requests.Session() as session:
        for size in (1, 3, 100_000):
            body = b"\n".join(b"%d" % number for number in range(size))
            answer = session.post(f"{service.url}/messages/{name}", data=body, headers=HEADERS, timeout=30)
            assert json.loads(answer.text.splitlines()[-1])["records"] == size
    assert count(service, name) == 100_004


def test_streaming_upload_with_expect_100_continue_is_accepted(service: Service, topic: TopicFactory) -> None:
    name = topic()
    body = b"1\n" * 2000
    last = curl(f"{service.url}/messages/{name}", body, "-H", "Expect: 100-continue")[-1]
    assert last == {"records": 2000, "partitions": {"0": 1999}, "done": True}


def test_streaming_upload_ends_at_an_invalid_line(service: Service, topic: TopicFactory) -> None:
    name = topic()

    def body() -> Iterator[bytes]:
        yield b"1\n" * 1000 + b"bad\n" + b"2\n" * 1000

    last = curl(f"{service.url}/messages/{name}", body())[-1]
    assert (last["records"], last["error"]["record"]) == (1000, 1000)
    with pipe(service, f"/messages/{name}") as client:
        client.send(b"1\n")
        assert client.line() == {"records": 1, "partitions": {"0": 1000}}
        client.send(b"bad\n")
        last = client.line()
        assert last is not None
        assert last["error"]["record"] == 1
        assert client.line() is None
        assert client.socket.recv(1) == b""
    assert count(service, name) == 1001


def test_streaming_upload_ends_at_a_message_over_the_limit(service: Service, topic: TopicFactory) -> None:
    name = topic()
    lines = [b"1\n"] * 3 + [b'"' + b"x" * 2 * MIB + b'"\n'] + [b"2\n"] * 3
    with pipe(service, f"/messages/{name}") as client:
        client.send(b"".join(lines))
        client.end()
        *_, last = iter(client.line, None)
    assert (last["records"], last["error"]["code"], last["error"]["record"]) == (3, 413, 3)
    assert last["error"]["limit"] == 1048588
    assert count(service, name) == 3 + sum(high - low + 1 for low, high in last.get("written", []))


def test_streaming_upload_to_unknown_topic_returns_404(service: Service) -> None:
    answer = service.post("/messages/nope", iter([b"1\n"] * 5), headers=HEADERS)
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, 40401)


def test_disconnected_upload_keeps_complete_lines_and_releases_its_slot(service: Service, topic: TopicFactory) -> None:
    name = topic()
    for _ in range(10):  # more than there are places
        with pipe(service, f"/messages/{name}") as client:
            client.send(b"1\n2\n3")
            assert client.line() is not None
    assert count(service, name) == 20


def test_streaming_upload_of_a_client_that_reads_only_at_the_end_completes(
    service: Service, topic: TopicFactory
) -> None:
    name = topic(3)
    body = b'{"n": 1, "text": "%s"}\n' % (b"x" * 80) * 200_000
    with pipe(service, f"/messages/{name}") as client:
        for start in range(0, len(body), 100_000):
            client.send(body[start : start + 100_000])
        client.end()
        *_, last = iter(client.line, None)
    assert (last["records"], last["done"]) == (200_000, True)
    assert count(service, name) == 200_000


def test_streaming_upload_keeps_the_order_of_each_key(service: Service, topic: TopicFactory) -> None:
    name = topic(3)
    lines = (json.dumps({"key": f"k{number % 50}", "value": number}) for number in range(20_000))
    body = "\n".join(lines).encode()
    assert curl(f"{service.url}/messages/{name}?lines=records", body)[-1]["records"] == 20_000
    last: dict[str, int] = {}
    for record in service.records(name):
        assert last.get(record["key"], -1) < record["value"]
        last[record["key"]] = record["value"]
    assert sorted(last.values()) == list(range(19_950, 20_000))


def test_streaming_uploads_over_their_limit_return_503(
    start_service: ServiceFactory, kafka: EmbeddedKafka, topic: TopicFactory
) -> None:
    service, name = start_service(kafka.bootstrap_servers, workers=1, threads=16), topic()
    with pipe(service, f"/messages/{name}") as one, pipe(service, f"/messages/{name}") as two:
        for each in (one, two):
            each.send(b"1\n")
            assert each.line()
        answer = service.post(f"/messages/{name}", iter([b"1\n"]), headers=HEADERS)
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
        assert service.post(f"/messages/{name}", b"1\n").status_code == 200
    ended = lambda: service.post(f"/messages/{name}", iter([b"1\n"]), headers=HEADERS).status_code == 200  # noqa: E731
    wait_for(ended)


def test_streaming_upload_ends_with_503_when_the_server_stops(
    start_service: ServiceFactory, kafka: EmbeddedKafka, topic: TopicFactory
) -> None:
    service, name = start_service(kafka.bootstrap_servers), topic()
    with pipe(service, f"/messages/{name}") as client:
        client.send(b"1\n2\n")
        assert client.line() == {"records": 2, "partitions": {"0": 1}}
        began = time.monotonic()
        service.terminate()
        last = client.line()
        assert last is not None
        assert (last["records"], last["error"]["code"]) == (2, 503)
        assert client.line() is None
        assert time.monotonic() - began < scaled(3)
    service.wait_for_end()


def test_streaming_upload_passes_nginx(service: Service, topic: TopicFactory, tmp_path: Path) -> None:
    name = topic(3)
    line = b'{"n": 1, "text": "%s"}\n' % (b"x" * 976)
    with nginx_before([service], tmp_path) as front:
        (last,) = curl(f"{front}/messages/{name}?answer=end", line * 30_000)
    assert (last["records"], last["done"]) == (30_000, True)
    assert count(service, name) == 30_000


class Peak:
    """The most private memory that a server's workers have at a time, beside what they had at first."""

    def __init__(self, service: Service) -> None:
        self._processes = [psutil.Process(each) for each in service.workers]
        self._first = self._now()
        self.bytes = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def _now(self) -> int:
        return sum(each.memory_full_info().uss for each in self._processes)

    def _look(self) -> None:
        while not self._ended.wait(0.05):
            self.bytes = max(self.bytes, self._now() - self._first)

    def __enter__(self) -> "Peak":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()


@pytest.mark.slow
def test_silent_streaming_upload_stays_open(
    start_service: ServiceFactory, kafka: EmbeddedKafka, topic: TopicFactory
) -> None:
    """For longer than the server waits for a client that takes nothing, or sends a whole request too slowly."""
    constants = {
        "kafka_http.server.view_responder.STALL_SECONDS": 2,
        "kafka_http.server.worker.STALL_SECONDS": 2,
        "kafka_http.server.request_receiver.RATE_SECONDS": 2.0,
    }
    service, name = start_service(kafka.bootstrap_servers, workers=1, constants=constants), topic()
    with pipe(service, f"/messages/{name}") as client:
        client.send(b"1\n")
        assert client.line()
        threading.Event().wait(5)
        client.send(b"2\n")
        assert client.line() == {"records": 2, "partitions": {"0": 1}}
        client.socket.sendall(b"2\r\n3")
        threading.Event().wait(5)
        client.socket.sendall(b"\n\r\n")
        assert client.line() == {"records": 3, "partitions": {"0": 2}}


@pytest.mark.slow
def test_streaming_upload_of_3_million_records_takes_little_memory(
    start_service: ServiceFactory, kafka: EmbeddedKafka, topic: TopicFactory
) -> None:
    service, name = start_service(kafka.bootstrap_servers, workers=1), topic(3)
    piece = b'{"n": 1, "text": "%s"}\n' % (b"x" * 76) * 10_000

    def send(pieces: int) -> dict[str, Any]:
        return curl(f"{service.url}/messages/{name}", (piece for _ in range(pieces)))[-1]

    send(20)
    with Peak(service) as peak:
        began = time.monotonic()
        assert send(300)["records"] == 3_000_000
        took = time.monotonic() - began
    print(f"{3_000_000 / took:.0f} records/s, {peak.bytes / MIB:.0f} MiB more than at rest")
    assert peak.bytes < 64 * MIB


@pytest.mark.slow
def test_streaming_upload_reports_written_and_unknown_when_broker_is_killed(
    start_service: ServiceFactory, fresh_kafka: EmbeddedKafka
) -> None:
    create_topics(fresh_kafka.bootstrap_servers, {"t": 1})
    service = start_service(fresh_kafka.bootstrap_servers)
    with pipe(service, "/messages/t?timeout=3") as client:
        sending = threading.Thread(target=send_numbers, args=(client,))
        sending.start()
        try:
            assert client.line()
            assert client.line(), "a second, with much under way"
            fresh_kafka.kill()
            killed = time.monotonic()
            *_, last = iter(client.line, None)
        finally:
            client.socket.shutdown(socket.SHUT_RDWR)
            sending.join()
    assert time.monotonic() - killed < scaled(3 + 3)
    assert last["error"]["code"] in (504, 50302)
    fresh_kafka.start()
    wait_for(lambda: service.get("/messages/t/reader/earliest").status_code == 200, 20)
    stored = [record["value"] for record in service.records("t")]
    assert stored[: last["records"]] == list(range(last["records"])), "each once, and in order"
    named = last.get("written", []) + last.get("unknown", [])
    others = stored[last["records"] :]
    assert len(others) == len(set(others))
    assert all(any(low <= each <= high for low, high in named) for each in others)


def send_numbers(client: Pipe) -> None:
    """Send lines until the connection is closed."""
    with suppress(OSError):
        for start in itertools.count(step=100):
            client.send(b"".join(b"%d\n" % number for number in range(start, start + 100)))


def records_of(kafka: EmbeddedKafka, topic: str, partitions: int) -> dict[int, list[tuple[Any, ...]]]:
    """What another client reads of each partition."""
    found: dict[int, list[tuple[Any, ...]]] = {}
    for each in read_topic(kafka.bootstrap_servers, topic, partitions):
        kept = (each.key, each.value, tuple(each.headers), each.timestamp)
        found.setdefault(each.partition, []).append(kept)
    return found


@pytest.mark.slow
def test_export_of_200000_messages_is_imported_into_another_topic(
    start_service: ServiceFactory, kafka: EmbeddedKafka, topic: TopicFactory
) -> None:
    """The manual's export and import, as one pipe."""
    service, name, other = start_service(kafka.bootstrap_servers, workers=2), topic(3), topic(3)
    base, total = 1_790_000_000_000, 200_000
    values = [b'{"n":%d,"text":"\xc3\xbc"}', b"\xff\x00%d", b"plain %d", None]
    with closing(KafkaProducer(bootstrap_servers=kafka.bootstrap_servers)) as producer:
        for number in range(total):
            value = values[number % 4]
            key = (b"key-%d" % number, b"\xfe%d" % number, None if value else b"gone")[number % 3]
            headers = [("h", b"%d" % number), ("Raw", b"\xff"), ("h", b"")][: number % 4]
            stored = value and value % number
            producer.send(name, stored, key, headers, number % 3, timestamp_ms=base + number)
        producer.flush()
    with Peak(service) as peak:
        export = ["curl", "-sS", "-N", "-H", f"Accept: {NDJSON}"]
        export.append(f"{service.url}/messages/{name}/copy/earliest?until=end")
        imports = ["curl", "-sS", "-X", "POST", "-T", "-", *(f"-H{each}: {value}" for each, value in HEADERS.items())]
        imports.append(f"{service.url}/messages/{other}?lines=records&partitions=keep")
        with (
            subprocess.Popen(export, stdout=subprocess.PIPE) as reading,
            subprocess.Popen(imports, stdin=reading.stdout, stdout=subprocess.PIPE) as writing,
        ):
            said, _ = writing.communicate(timeout=200)
    last = json.loads(said.splitlines()[-1])
    assert (last["records"], last.get("done")) == (total, True), last
    print(f"{peak.bytes / MIB:.0f} MiB more than at rest")
    assert peak.bytes < 96 * MIB
    assert records_of(kafka, other, 3) == records_of(kafka, name, 3)
