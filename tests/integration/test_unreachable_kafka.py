"""Errors about Kafka name the addresses that were tried, and why each failed."""

import functools
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import pytest

from kafka_http.broker import KafkaBroker
from kafka_http.config import Config
from kafka_http.demo.embedded_kafka import EmbeddedKafka, create_topics
from kafka_http.errors import BrokerUnavailable
from tests.integration.conftest import ServiceFactory
from tests.support.frozen_process import frozen
from tests.support.polling import wait_for


@pytest.fixture
def silent() -> Iterator[str]:
    """The address of what accepts connections and never answers."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield f"127.0.0.1:{listening.getsockname()[1]}"


def refusal(servers: tuple[str, ...], kafka: dict[str, Any] | None = None) -> list[str]:
    """What a look and a call of the admin client say where Kafka is not to be reached."""
    said = []
    broker = KafkaBroker(Config(bootstrap_servers=servers, kafka=kafka or {}))
    with closing(broker.groups):
        for ask in (broker.log.check_reachable, lambda: broker.groups.committed("g", "t", [0])):
            with pytest.raises(BrokerUnavailable) as raised:
                ask()
            said.append(raised.value.message)
        broker.log.close()
    return said


def test_unreachable_brokers_are_named_with_their_reasons() -> None:
    for message in refusal(("127.0.0.1:1", "nowhere.invalid:9092", "127.0.0.1:2")):
        assert "127.0.0.1:1 (connection refused)" in message
        assert "127.0.0.1:2 (connection refused)" in message
        assert "nowhere.invalid:9092 (name not resolved)" in message


def test_silent_broker_is_named_as_timed_out(silent: str) -> None:
    for message in refusal((silent,)):
        assert f"{silent} (timed out)" in message


def test_broker_without_tls_is_named_with_a_failed_handshake(kafka: EmbeddedKafka) -> None:
    for message in refusal((kafka.bootstrap_servers,), {"security_protocol": "SSL"}):
        assert f"{kafka.bootstrap_servers} (TLS handshake failed)" in message


def test_broker_that_rejects_the_login_is_named_without_credentials(kafka: EmbeddedKafka) -> None:
    login = {"security_protocol": "SASL_PLAINTEXT", "sasl_mechanism": "PLAIN"}
    login |= {"sasl_plain_username": "somebody", "sasl_plain_password": "hush-hush"}
    for message in refusal((kafka.bootstrap_servers,), login):
        assert f"{kafka.bootstrap_servers} (" in message
        assert "somebody" not in message
        assert "hush" not in message


@pytest.mark.slow
def test_start_without_kafka_logs_it_and_keeps_running(
    fresh_kafka: EmbeddedKafka, start_service: ServiceFactory
) -> None:
    create_topics(fresh_kafka.bootstrap_servers, {"t": 1})
    address = fresh_kafka.bootstrap_servers
    fresh_kafka.kill()
    service = start_service(address)

    wait_for(lambda: "The server keeps running" in service.log, 30)
    assert service.log.count(f"Kafka brokers: {address}. Checking once") == 1
    assert service.log.count(f"No Kafka broker answers: {address} (connection refused). The server keeps running") == 1
    for answer in (service.get("/ready"), service.put("/messages/t", b"x"), service.get("/messages/t/c/0")):
        assert answer.status_code == 503
        assert f"{address} (connection refused)" in answer.json()["error"]["message"]

    fresh_kafka.start()
    wait_for(lambda: service.put("/messages/t", b"x").status_code == 200, 30)
    assert service.get("/ready").status_code == 200


@pytest.mark.slow
def test_calls_work_as_soon_as_kafka_is_back(fresh_kafka: EmbeddedKafka, start_service: ServiceFactory) -> None:
    """An attempt that was refused just before the broker opened its port was remembered for 0.3 s, then 503."""
    create_topics(fresh_kafka.bootstrap_servers, {"t": 1})
    service = start_service(fresh_kafka.bootstrap_servers, workers=1)
    calls = [
        functools.partial(service.put, "/messages/t", b"x"),
        functools.partial(service.delete, "/messages/t/c/0:0"),
        *(functools.partial(service.get, each) for each in ("/messages/t/c/0", "/messages/t/c", "/consumers")),
        functools.partial(service.post, "/messages/t/q/queue"),
    ]
    assert all(call().ok for call in calls)
    fresh_kafka.kill()
    is_back = threading.Event()

    def repeat(call: Callable[[], Any]) -> None:
        while not is_back.is_set() and not call().ok:
            pass

    with ThreadPoolExecutor(len(calls)) as pool:
        repeated = [pool.submit(repeat, call) for call in calls]
        try:
            fresh_kafka.start()
            answers = [call() for call in calls]
            assert all(each.ok for each in answers), [each.text for each in answers]
        finally:
            is_back.set()
    for each in repeated:
        each.result()


def test_start_with_kafka_logs_the_number_of_brokers(kafka: EmbeddedKafka, start_service: ServiceFactory) -> None:
    service = start_service(kafka.bootstrap_servers)

    wait_for(lambda: "Kafka answers: 1 broker in the cluster." in service.log, 30)
    assert service.log.count("Checking once") == 1


@pytest.mark.slow
def test_publish_timeout_names_the_broker(fresh_kafka: EmbeddedKafka, start_service: ServiceFactory) -> None:
    create_topics(fresh_kafka.bootstrap_servers, {"t": 1})
    service = start_service(fresh_kafka.bootstrap_servers, workers=1)
    wait_for(lambda: service.put("/messages/t", b"x").status_code == 200, 30)
    with frozen(fresh_kafka):
        answer = service.put("/messages/t?timeout=1", b"x")
    assert answer.status_code == 504
    assert f"Tried: {fresh_kafka.bootstrap_servers}." in answer.json()["error"]["message"]
