"""SIGTERM and killed workers: acknowledged records are stored, and waiting requests get a response."""

import json
import os
import select
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

import pytest

from kafka_http.demo.embedded_kafka import EmbeddedKafka, create_topics
from tests.conftest import TopicFactory
from tests.integration.conftest import ServiceFactory
from tests.support.frozen_process import Process, frozen
from tests.support.load_clients import Load, check_nothing_lost_or_doubled
from tests.support.polling import scaled, wait_for
from tests.support.server_process import Service, read_answers


def test_sigterm_under_load_loses_no_acknowledged_message(
    fresh_kafka: EmbeddedKafka, start_service: ServiceFactory
) -> None:
    """Each client has a publish in flight that Kafka answers during the stop."""
    create_topics(fresh_kafka.bootstrap_servers, {"t": 3})
    service = start_service(fresh_kafka.bootstrap_servers)
    load = Load(service, "t")
    with load.running(publishers=8, consumers=False):
        wait_for(lambda: len(load.acknowledged) > 500, 20)
        with frozen(fresh_kafka):
            wait_for(lambda: len(load.in_flight) == 8 and max(load.in_flight.values()) < time.monotonic() - 0.5)
            owed = set(load.in_flight)
            began = time.monotonic()
            service.begin_stop()
            assert set(load.in_flight) == owed
        service.wait_for_end()
        assert time.monotonic() - began < scaled(8)
        wait_for(lambda: load.answers[-1].status is None)
    assert [each.text for each in load.answers if each.request_id in owed and each.status != 200] == []
    assert {answer.status for answer in load.answers} == {200, None}
    assert [each.text for each in load.answers if each.status is None and each.began < began] == []
    check_nothing_lost_or_doubled(load, fresh_kafka.bootstrap_servers, "t", 3)


def test_sigterm_ends_waiting_reads_at_once(
    kafka: EmbeddedKafka, topic: TopicFactory, start_service: ServiceFactory
) -> None:
    service, name = start_service(kafka.bootstrap_servers), topic(2)
    with ExitStack() as connections:
        clients = [connections.enter_context(service.connect()) for _ in range(6)]
        for client in clients:
            client.sendall(f"GET /messages/{name}/me/latest?wait=30 HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        for session in service.session_of_each_worker().values():  # these have accepted the six, which were before
            session.close()
        assert select.select(clients, [], [], 0)[0] == []
        began = time.monotonic()
        service.terminate()
        answers = [read_answers(client, 1)[0] for client in clients]
        assert time.monotonic() - began < scaled(1.5)
    service.wait_for_end(8)
    assert [(status, json.loads(body)["next"]) for status, _, body in answers] == [(200, "0:0,1:0,*:earliest")] * 6


def test_sigterm_waits_for_slow_upload(
    kafka: EmbeddedKafka, topic: TopicFactory, start_service: ServiceFactory
) -> None:
    service, name = start_service(kafka.bootstrap_servers), topic()
    with service.connect() as client:
        client.sendall(f"PUT /messages/{name} HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhello".encode())
        for session in service.session_of_each_worker().values():  # these have accepted the one before
            session.close()
        service.terminate()
        wait_for(lambda: len(service.workers) == 1)
        client.sendall(b"world")
        assert client.recv(1000).startswith(b"HTTP/1.1 200 ")
    service.wait_for_end(8)


def test_killed_worker_does_not_affect_the_other(
    kafka: EmbeddedKafka, topic: TopicFactory, start_service: ServiceFactory
) -> None:
    service, name = start_service(kafka.bootstrap_servers), topic(3)
    load = Load(service, name)
    first, second = sorted(service.workers)
    with load.running(publishers=8):
        wait_for(lambda: len(load.acknowledged) > 200, 20)
        os.kill(first, signal.SIGKILL)
        killed_at = time.monotonic()
        wait_for(lambda: len(service.workers - {first}) == 2)
        for kind in ("publish", "read", "ack"):
            wait_for(lambda kind=kind: who_served(service, load, kind, killed_at) == service.workers, 30)
    assert second in service.workers
    assert {answer.status for answer in load.answers} <= {200, 204, None}
    broken = [answer for answer in load.answers if answer.status is None]
    assert len(broken) <= 10, "only requests that the killed worker had"
    assert all(answer.began < killed_at + 0.5 for answer in broken)
    check_nothing_lost_or_doubled(load, kafka.bootstrap_servers, name, 3)


def who_served(service: Service, load: Load, kind: str, since: float) -> set[int]:
    """Return the workers that have answered requests of this kind since then."""
    wanted = {answer.request_id for answer in load.successes(kind, since)}
    served = service.workers_by_request(wanted)
    return {served[each] for each in wanted}


def test_second_sigterm_has_no_effect(kafka: EmbeddedKafka, start_service: ServiceFactory) -> None:
    service = start_service(kafka.bootstrap_servers)
    service.terminate()
    service.terminate()
    service.wait_for_end(8)


def test_killed_main_process_ends_its_workers(kafka: EmbeddedKafka, start_service: ServiceFactory) -> None:
    service = start_service(kafka.bootstrap_servers)
    assert service.process is not None
    service.process.kill()
    service.process.wait(scaled(5))
    wait_for(service.is_gone, 10)


@pytest.mark.slow
def test_stop_ends_by_itself_while_kafka_the_daemon_and_clients_hang(
    fresh_kafka: EmbeddedKafka, start_service: ServiceFactory
) -> None:
    """One client sends a byte now and then, two take nothing of their response. At the bound, workers are killed."""
    create_topics(fresh_kafka.bootstrap_servers, {"t": 1})
    service = start_service(fresh_kafka.bootstrap_servers, timeout=2)
    for _ in range(8):
        assert service.put("/messages/t", bytes(1_000_000)).status_code == 200
    assert service.put("/messages/t", headers={"Idempotency-Key": "first"}).status_code == 200
    with ExitStack() as stack:
        page, stream, upload, publish, keyed = (stack.enter_context(service.connect()) for _ in range(5))
        page.sendall(b"GET /messages/t/c/0 HTTP/1.1\r\nHost: x\r\n\r\n")
        stream.sendall(b"GET /messages/t/c/0 HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n")
        for client in (page, stream):
            assert client.recv(1) == b"H"
        stack.enter_context(frozen(fresh_kafka))
        stack.enter_context(frozen(Process(service.daemon)))
        upload.sendall(b"PUT /messages/t HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n")
        publish.sendall(b"PUT /messages/t HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
        keyed.sendall(b"PUT /messages/t HTTP/1.1\r\nHost: x\r\nIdempotency-Key: 2\r\nContent-Length: 0\r\n\r\n")
        stack.enter_context(trickling(upload))
        service.terminate()
        service.wait_for_end(60)
    assert service.log.count("Worker exiting") == 2


@contextmanager
def trickling(client: socket.socket) -> Iterator[None]:
    """Send a byte now and then, until the server has closed the connection."""
    ended = threading.Event()

    def send() -> None:
        with suppress(OSError):
            while not ended.wait(0.5):
                client.send(b"x")

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
