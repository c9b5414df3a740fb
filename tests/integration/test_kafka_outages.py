"""Kafka dies or stops answering under load: clear answers meanwhile, all well soon after, nothing lost or doubled."""

import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack

import pytest
import requests

from kafka_http.demo.embedded_kafka import EmbeddedKafka, create_topics
from tests.integration.conftest import ServiceFactory
from tests.support.frozen_process import frozen
from tests.support.load_clients import Answer, Load, check_nothing_lost_or_doubled
from tests.support.polling import scaled, wait_for
from tests.support.server_process import Service, read_answers

RECOVERY_SECONDS = 2
READ_TIMEOUT = 5
SLACK_SECONDS = 2
PARTITIONS = 6
KINDS = ("publish", "read", "ack", "seek")


def kill_for(kafka: EmbeddedKafka, seconds: float) -> None:
    """As kill -9 does it, with records in flight, and started again after so many seconds."""
    kill_amid_requests(kafka)
    threading.Event().wait(seconds)
    kafka.start()


def kill_amid_requests(kafka: EmbeddedKafka) -> None:
    """Kill it when it has not answered for a moment, so that each worker has records on their way."""
    assert kafka.pid is not None
    os.kill(kafka.pid, signal.SIGSTOP)
    threading.Event().wait(0.3)
    kafka.kill()


def freeze_for(kafka: EmbeddedKafka, seconds: float) -> None:
    with frozen(kafka):
        threading.Event().wait(seconds)
    kafka.wait_until_ready()


@pytest.mark.parametrize(
    ("outage", "seconds", "timeout"),
    [
        pytest.param(kill_for, 1, 10, id="killed for a moment"),
        pytest.param(kill_for, 2, 2, id="killed for longer than a delivery may take", marks=pytest.mark.slow),
        pytest.param(kill_for, 15, 10, id="killed for 15 s", marks=pytest.mark.slow),
        pytest.param(freeze_for, 1.5, 10, id="frozen for a moment", marks=pytest.mark.slow),
        pytest.param(freeze_for, 8, 3, id="frozen for longer than a delivery may take", marks=pytest.mark.slow),
    ],
)
def test_outage_under_load_loses_and_doubles_nothing(
    fresh_kafka: EmbeddedKafka,
    start_service: ServiceFactory,
    outage: Callable[[EmbeddedKafka, float], None],
    seconds: float,
    timeout: float,
) -> None:
    create_topics(fresh_kafka.bootstrap_servers, {"t": PARTITIONS})
    service = start_service(fresh_kafka.bootstrap_servers, timeout=timeout)
    load = Load(service, "t")
    with load.running(publishers=8):
        wait_for(lambda: all(len(load.successes(kind)) > 20 for kind in KINDS), 20)
        outage(fresh_kafka, seconds)
        back = time.monotonic()
        well = back + scaled(RECOVERY_SECONDS)
        wait_for(lambda: all(len(load.successes(kind, well)) > 20 for kind in KINDS), timeout + 15)
    check_answers_meanwhile(load.answers, timeout)
    check_recovery(load.answers, well)
    served = service.workers_by_request({answer.request_id for answer in load.answers})
    for kind in KINDS:
        assert {served[answer.request_id] for answer in load.successes(kind, well)} == service.workers, kind
    check_nothing_lost_or_doubled(load, fresh_kafka.bootstrap_servers, "t", PARTITIONS)


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0.1, 3, 15])
def test_outage_under_full_load_loses_and_doubles_nothing(
    fresh_kafka: EmbeddedKafka, start_service: ServiceFactory, seconds: float
) -> None:
    create_topics(fresh_kafka.bootstrap_servers, {"t": PARTITIONS})
    service = start_service(fresh_kafka.bootstrap_servers, access_log=False)
    load = Load(service, "t", values=100, pause=0)
    with load.running(publishers=16, consumers=False):
        wait_for(lambda: len(load.successes("publish")) > 100, 20)
        kill_for(fresh_kafka, seconds)
        well = time.monotonic() + scaled(RECOVERY_SECONDS)
        wait_for(lambda: len(load.successes("publish", well)) > 100, 20)
    check_answers_meanwhile(load.answers, 10)
    assert [each for each in load.of("publish", well) if each.status != 200] == []
    check_nothing_lost_or_doubled(load, fresh_kafka.bootstrap_servers, "t", PARTITIONS)


def check_answers_meanwhile(answers: list[Answer], timeout: float) -> None:
    """What fails is answered as the contract has it, and in time."""
    failures = [answer for answer in answers if answer.status not in (200, 204)]
    assert [each for each in failures if not each.is_transient] == []
    assert [each for each in failures if each.status == 504 and each.kind != "publish"] == []
    assert [each for each in failures if each.status != 504 and not each.retry_after] == []
    most, slack = {"publish": timeout} | dict.fromkeys(KINDS[1:], READ_TIMEOUT), scaled(SLACK_SECONDS)
    assert [each for each in answers if each.seconds > most[each.kind] + slack] == []


def check_recovery(answers: list[Answer], well: float) -> None:
    """From `well` on there is neither a failure nor one whom the outage kept waiting."""
    since = [answer for answer in answers if answer.began + answer.seconds > well]
    longest = scaled(RECOVERY_SECONDS)
    assert [each for each in since if each.status not in (200, 204) or each.seconds > longest] == []


def test_publish_as_kafka_returns_is_not_delayed_by_expired_batches(
    fresh_kafka: EmbeddedKafka, start_service: ServiceFactory
) -> None:
    """kafka-python takes out the batches to send, and forgets them where it then finds one that has expired while it
    was being retried: partition 2 would wait for a whole timeout.
    """
    create_topics(fresh_kafka.bootstrap_servers, {"t": 3})
    service = start_service(fresh_kafka.bootstrap_servers, workers=1, timeout=4)
    assert all(service.put(f"/messages/t?partition={partition}", "before").ok for partition in range(3))
    with ExitStack() as connections:
        assert fresh_kafka.pid is not None
        os.kill(fresh_kafka.pid, signal.SIGSTOP)
        for partition in (0, 1):  # two batches, of which one expires a little after the other
            client = connections.enter_context(service.connect())
            client.sendall(f"PUT /messages/t?partition={partition} HTTP/1.1\r\nContent-Length: 1\r\n\r\n1".encode())
            threading.Event().wait(0.3)
        fresh_kafka.kill()
        threading.Event().wait(4)
        fresh_kafka.launch()
        answers: list[requests.Response] = []
        wait_for(lambda: publish(service, answers).status_code not in (500, 503), 30)  # handed to the producer
    assert answers[-1].status_code == 200, answers[-1].text
    assert answers[-1].elapsed.total_seconds() < scaled(RECOVERY_SECONDS)


def publish(service: Service, answers: list[requests.Response]) -> requests.Response:
    answers.append(service.put("/messages/t?partition=2", "after"))
    return answers[-1]


def test_server_stops_in_time_while_kafka_is_frozen(fresh_kafka: EmbeddedKafka, start_service: ServiceFactory) -> None:
    create_topics(fresh_kafka.bootstrap_servers, {"t": 1})
    service = start_service(fresh_kafka.bootstrap_servers, timeout=3)
    for session in service.session_of_each_worker().values():
        assert session.put(f"{service.url}/messages/t", "before").ok
        session.close()
    with frozen(fresh_kafka), service.connect() as client:
        client.sendall(b"PUT /messages/t HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n1")
        for session in service.session_of_each_worker().values():  # these have accepted the one before
            session.close()
        began = time.monotonic()
        service.terminate()
        assert read_answers(client, 1)[0][0] in (503, 504)
        service.wait_for_end(30)
        assert time.monotonic() - began < scaled(3 + 10)


def test_server_started_before_kafka_returns_503_and_recovers(
    fresh_kafka: EmbeddedKafka, start_service: ServiceFactory
) -> None:
    create_topics(fresh_kafka.bootstrap_servers, {"t": 1})
    fresh_kafka.stop()
    service = start_service(fresh_kafka.bootstrap_servers)
    for method, path in [("PUT", "/messages/t"), ("GET", "/messages/t/me/earliest"), ("GET", "/ready")]:
        began = time.monotonic()
        answer = service.request(method, path)
        assert time.monotonic() - began < scaled(2)
        assert answer.status_code == 503
        assert answer.json()["error"]["code"] == 50302
        assert answer.headers["Retry-After"]
    assert service.get("/health").status_code == 200
    fresh_kafka.start()
    wait_for(lambda: service.put("/messages/t", "x").ok, RECOVERY_SECONDS)
    for path in ("/ready", "/messages/t/me/earliest", "/messages/t/me"):
        assert service.get(path).status_code == 200
    assert service.delete("/messages/t/me/0:0").status_code == 204
