"""Streams of a real server, plain and over TLS: from one thread, or with gunicorn's TLS from a thread each."""

import json
import re
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from http.client import HTTPResponse
from pathlib import Path
from typing import Any

import psutil
import pytest
from kafka import KafkaAdminClient, KafkaProducer

from kafka_http.demo.embedded_kafka import EmbeddedKafka, create_topics
from tests.conftest import TopicFactory
from tests.integration.conftest import ServiceFactory, running
from tests.support.certificates import Authority
from tests.support.event_parser import EventParser
from tests.support.polling import scaled, wait_for
from tests.support.server_process import Service
from tests.support.stream_clients import EVENTS, NDJSON, EventSource, Numbers, events_of, opened

KEEPALIVE = 0.5
MAX_STREAMS = 8


class HttpsService(Service):
    """`kafka-http serve` with `tls_cert`."""

    def __init__(self, directory: Path, bootstrap_servers: str, **settings: Any) -> None:
        super().__init__(directory, bootstrap_servers, Authority(directory), **settings)


class GunicornTlsService(Service):
    """`wsgi:app` under our worker class, with gunicorn's own TLS: there a stream has a thread."""

    def __init__(self, directory: Path, bootstrap_servers: str, **settings: Any) -> None:
        authority = Authority(directory)
        super().__init__(directory, bootstrap_servers, authority, **settings, tls_cert="", tls_key="")
        self._certificate = authority.server()

    @property
    def command(self) -> list[str]:
        worker = ["-k", "kafka_http.server.worker.Worker", "--threads", "32", "--workers", str(self._worker_count)]
        certificate, key = map(str, self._certificate)
        tls = ["--certfile", certificate, "--keyfile", key, "--no-control-socket"]
        return [sys.executable, "-m", "gunicorn", *worker, *tls, "--bind", f"127.0.0.1:{self.port}", "wsgi:app"]


KINDS = [Service, HttpsService, GunicornTlsService]


@pytest.fixture(scope="module", params=KINDS)
def streaming(
    request: pytest.FixtureRequest, kafka: EmbeddedKafka, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    """A server of one worker that holds few streams."""
    directory = tmp_path_factory.mktemp("streaming")
    settings = {"workers": 1, "max_streams": MAX_STREAMS, "stream_keepalive": KEEPALIVE}
    with running(request.param(directory, kafka.bootstrap_servers, **settings)) as service:
        yield service


def attempt(service: Service, path: str, accept: str = "text/event-stream", **more: Any) -> Any:
    return opened(service.url + path, accept, service.verify, **more)


@contextmanager
def stream(service: Service, path: str, accept: str = "text/event-stream", **more: Any) -> Iterator[HTTPResponse]:
    """A stream, once those that other tests have left make room for it."""
    with ExitStack() as opened_now:

        def is_open() -> HTTPResponse | None:
            opened_now.close()
            answer: HTTPResponse = opened_now.enter_context(attempt(service, path, accept, **more))
            return None if answer.status == 503 else answer

        yield wait_for(is_open)


def publish(service: Service, topic: str, numbers: range) -> None:
    assert service.post(f"/messages/{topic}", json=list(numbers)).status_code == 200


def test_stream_delivers_messages_as_they_are_published(streaming: Service, topic: TopicFactory) -> None:
    name = topic(3)
    publish(streaming, name, range(3))
    parser = EventParser()
    with stream(streaming, f"/messages/{name}/me/earliest") as answer:
        assert answer.status == 200
        found = [each.json["value"] for each in events_of(answer, 3, parser)]
        for number in range(3, 20):
            publish(streaming, name, range(number, number + 1))
            began = time.monotonic()
            found += [each.json["value"] for each in events_of(answer, 1, parser)]
            assert time.monotonic() - began < scaled(0.5)
    assert found == list(range(20))
    with stream(streaming, f"/messages/{name}/me/{parser.last_id}") as answer:
        publish(streaming, name, range(20, 21))
        assert [each.json["value"] for each in events_of(answer, 1)] == [20]


def test_ndjson_export_can_be_imported(streaming: Service, topic: TopicFactory) -> None:
    name, other = topic(), topic()
    records = [
        {"key": "a", "value": {"n": 1}, "headers": {"h": "v"}},
        {"key": None, "value": "text", "timestamp": 1_790_000_000_000},
        {"key": "b", "value": None},
    ] * 1000
    assert streaming.post(f"/messages/{name}", json={"records": records}).status_code == 200
    with stream(streaming, f"/messages/{name}/me/earliest?until=end", NDJSON) as answer:
        lines = answer.read()
    assert len([line for line in lines.splitlines() if line]) == 3000
    imported = streaming.post(f"/messages/{other}?lines=records", lines, headers={"Content-Type": NDJSON})
    assert imported.status_code == 200, imported.text[:1000]
    pages = [streaming.get(f"/messages/{each}/me/earliest?limit=3000").json()["records"] for each in (name, other)]
    assert pages[0] == pages[1]


def test_disconnected_stream_is_released_within_the_keepalive(streaming: Service, topic: TopicFactory) -> None:
    path = f"/messages/{topic()}/me/latest"
    with ExitStack() as clients:

        def is_opened() -> bool:
            return clients.enter_context(attempt(streaming, path)).status == 200

        for _ in range(MAX_STREAMS):
            wait_for(is_opened)
        with attempt(streaming, path) as refused:
            assert (refused.status, refused.headers["Retry-After"]) == (503, "1")
            assert json.loads(refused.read())["error"]["code"] == 503
    gone = time.monotonic()

    def is_free() -> bool:
        with attempt(streaming, path) as answer:
            return answer.status == 200

    wait_for(is_free)
    assert time.monotonic() - gone < scaled(2 * KEEPALIVE)


def test_streams_occupy_no_threads(kafka: EmbeddedKafka, topic: TopicFactory, start_service: ServiceFactory) -> None:
    service, name = start_service(kafka.bootstrap_servers, workers=1, threads=2), topic()
    publish(service, name, range(1))
    with ExitStack() as clients:
        paths = [f"/messages/{name}/me/{offset}" for offset in ("latest", "earliest") * 30]
        answers = [clients.enter_context(attempt(service, path)) for path in paths]
        assert {each.status for each in answers} == {200}
        publish(service, name, range(1, 2))
        found = [events_of(answer, 1 + index % 2) for index, answer in enumerate(answers)]
        assert [[event.json["value"] for event in each] for each in found] == [[1], [0, 1]] * 30
        assert service.get("/health").status_code == 200


def test_slow_stream_delays_no_other_and_loses_nothing(streaming: Service, topic: TopicFactory) -> None:
    name, value, count = topic(), "x" * 100_000, 200
    path = f"/messages/{name}/me/earliest"
    with stream(streaming, path, receive_buffer=1 << 17) as slow, stream(streaming, path) as fast:
        for number in range(0, count, 10):
            values = [{"n": each, "value": value} for each in range(number, number + 10)]
            assert streaming.post(f"/messages/{name}", json=values).status_code == 200
            began = time.monotonic()
            assert [each.json["value"]["n"] for each in events_of(fast, 10)] == list(range(number, number + 10))
            assert time.monotonic() - began < scaled(1)
        assert [each.json["value"]["n"] for each in events_of(slow, count)] == list(range(count))


def test_stream_over_http_1_0_is_delivered(streaming: Service, topic: TopicFactory) -> None:
    name = topic()
    publish(streaming, name, range(1))
    with streaming.connect() as client:
        head = f"GET /messages/{name}/me/0?limit=2 HTTP/1.0\r\nAccept: text/event-stream\r\n\r\n"
        client.sendall(head.encode())
        got = b""
        while b'"value":0' not in got:
            data = client.recv(10000)
            assert data, got
            got += data
        publish(streaming, name, range(1, 2))
        while data := client.recv(10000):
            got += data
    body = got.partition(b"\r\n\r\n")[2]
    assert [each.type for each in EventParser().feed(body)] == ["message", "message", "end"]


def test_deleted_topic_ends_its_streams_with_an_error(
    streaming: Service, topic: TopicFactory, admin: KafkaAdminClient
) -> None:
    name = topic()
    with stream(streaming, f"/messages/{name}/me/earliest") as answer:
        publish(streaming, name, range(1))
        assert events_of(answer, 1)[0].type == "message"
        admin.delete_topics([name])
        (last,) = events_of(answer, 1)
        assert (last.type, last.json["error"]["code"]) == ("error", 40401)
        assert answer.read() == b""


@pytest.mark.parametrize("kind", KINDS)
def test_server_stop_ends_its_streams_properly(
    kind: type[Service], kafka: EmbeddedKafka, topic: TopicFactory, tmp_path: Path
) -> None:
    service = kind(tmp_path, kafka.bootstrap_servers)
    name = topic()
    try:
        service.start()
        publish(service, name, range(2))
        with ExitStack() as clients:
            paths = [f"/messages/{name}/me/earliest"] * 5
            answers = [clients.enter_context(stream(service, path)) for path in paths]
            lines = clients.enter_context(stream(service, paths[0], NDJSON))
            parsers = [EventParser() for _ in answers]
            for answer, parser in zip(answers, parsers, strict=True):
                events_of(answer, 2, parser)
            began = time.monotonic()
            service.terminate()
            for answer, parser in zip(answers, parsers, strict=True):
                assert parser.feed(answer.read()) == []
                assert (parser.last_id, bool(parser.retry)) == ("0:2,*:earliest", True)
            last = json.loads(lines.read().splitlines()[-1])
            assert (last["error"]["code"], last["next"]) == (503, "0:2,*:earliest")
            assert time.monotonic() - began < scaled(2)
        service.wait_for_end(8)
    finally:
        service.stop()
        print(service.log)
    assert "Traceback" not in service.log


@pytest.mark.slow
@pytest.mark.parametrize("kind", [Service, HttpsService])
def test_event_source_loses_and_repeats_nothing_across_server_restarts(
    kind: type[Service], kafka: EmbeddedKafka, topic: TopicFactory, tmp_path: Path
) -> None:
    service = kind(tmp_path, kafka.bootstrap_servers, stream_keepalive=1)
    name = topic(3)
    try:
        service.start()
        url = f"{service.url}/messages/{name}/me/earliest"
        source = EventSource(url, service.verify)
        with Numbers(kafka.bootstrap_servers, name) as numbers, source:
            for _ in range(5):
                before = len(source.events)
                wait_for(lambda before=before: len(source.events) > before + 50)
                service.terminate()
                service.wait_for_end()
                service.start()
            numbers.stop()
            wait_for(lambda: len(source.events) >= numbers.count)
            assert source.connections >= 6
        assert sorted(each.json["value"] for _, each in source.events) == list(range(numbers.count))
    finally:
        service.stop()
        print(service.log)
    assert "Traceback" not in service.log


@pytest.mark.slow
@pytest.mark.parametrize(("accept", "rate"), [(NDJSON, None), (EVENTS, 40_000_000)])
def test_export_of_200000_messages_takes_little_memory(
    kafka: EmbeddedKafka, topic: TopicFactory, start_service: ServiceFactory, accept: str, rate: int | None
) -> None:
    """As fast as it goes, and by a client that is slower than the server."""
    service, name, count = start_service(kafka.bootstrap_servers, workers=1), topic(3), 200_000
    with closing(KafkaProducer(bootstrap_servers=kafka.bootstrap_servers)) as producer:
        for number in range(count):
            producer.send(name, b'{"n":%d,"text":"%b"}' % (number, b"x" * 80))
        producer.flush()
    (worker,) = service.workers
    assert service.get(f"/messages/{name}/me/earliest").status_code == 200
    before, largest, got = resident(worker), 0, bytearray()
    with stream(service, f"/messages/{name}/me/earliest?until=end", accept, receive_buffer=1 << 17) as answer:
        while data := answer.read1(1 << 16):
            got += data
            if len(got) // 1_000_000 > (len(got) - len(data)) // 1_000_000:
                largest = max(largest, resident(worker))
                time.sleep(1_000_000 / rate if rate else 0)
    assert sorted(map(int, re.findall(rb'"n":(\d+)', got))) == list(range(count))
    assert largest - before < 32 << 20


def resident(pid: int) -> int:
    """Bytes of a process that are in memory."""
    return psutil.Process(pid).memory_info().rss


@pytest.mark.slow
def test_streams_continue_after_a_broker_restart(fresh_kafka: EmbeddedKafka, start_service: ServiceFactory) -> None:
    create_topics(fresh_kafka.bootstrap_servers, {"outlived": 1})
    service = start_service(fresh_kafka.bootstrap_servers)
    with ExitStack() as clients:
        answers = [clients.enter_context(stream(service, "/messages/outlived/me/earliest")) for _ in range(6)]
        publish(service, "outlived", range(1))
        assert [[each.json["value"] for each in events_of(answer, 1)] for answer in answers] == [[0]] * 6
        fresh_kafka.kill()
        fresh_kafka.start()
        wait_for(lambda: service.post("/messages/outlived", json=[1]).status_code == 200, 20)
        assert [[each.json["value"] for each in events_of(answer, 1)] for answer in answers] == [[1]] * 6
        fresh_kafka.kill()
        began = time.monotonic()
        for answer in answers:
            (last,) = events_of(answer, 1)
            assert (last.type, last.json["error"]["code"], last.json["next"]) == ("error", 50302, "0:2,*:earliest")
            assert answer.read() == b""
        assert 25 < time.monotonic() - began < scaled(50)
