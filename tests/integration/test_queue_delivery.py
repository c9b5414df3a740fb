"""Delivery of a queue's messages by a real server: many acknowledgements, and workers that end before they send."""

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from typing import Any

import pytest
import requests

from kafka_http.demo.embedded_kafka import EmbeddedKafka
from tests.conftest import TopicFactory
from tests.integration.conftest import ServiceFactory
from tests.support.metric_samples import total
from tests.support.polling import wait_for
from tests.support.queue_load import LONG_LOCK, Place, Queue, place_of
from tests.support.server_process import Service

MESSAGES, MORE = 300, 60
WAITING = 12


def test_hundreds_of_acknowledgements_while_clients_wait_all_succeed(service: Service, topic: TopicFactory) -> None:
    """A fetch that waits in a share session delays its acknowledgements, and a second connection breaks it (123)."""
    queue = Queue(service, topic(3))
    places = queue.publish(MESSAGES, 3)
    records = queue.acquire_all(places)
    with ThreadPoolExecutor(WAITING) as waiting, ThreadPoolExecutor(8) as settling:
        pages = [waiting.submit(queue.acquire, MORE // WAITING, 60) for _ in range(WAITING)]
        answers = list(settling.map(queue.acknowledge, records))
        assert {each.status_code for each in answers} == {200}
        later = queue.publish(MORE, 3)
        found = [record for page in pages for record in page.result()]
    found += queue.acquire_all(later - set(map(place_of, found)))
    # A message that was acquired unseen would come again after its lock, in the second attempt.
    assert sorted((*place_of(each), each["attempt"]) for each in found) == sorted((*each, 1) for each in later)
    assert queue.acknowledge(*found).status_code == 200
    assert queue.is_empty()
    metrics = service.get("/metrics").text
    assert total(metrics, "kafka_http_kafka_errors_total", error="InvalidShareSessionEpoch") == 0


@pytest.fixture
def two_workers(kafka: EmbeddedKafka, start_service: ServiceFactory) -> Iterator[tuple[Service, requests.Session, int]]:
    """A server, and a session with an open connection to one of its workers, with the worker's process id."""
    service = start_service(kafka.bootstrap_servers)
    with ExitStack() as stack:
        sessions = service.session_of_each_worker()
        for each in sessions.values():
            stack.enter_context(each)
        worker, session = next(iter(sessions.items()))
        yield service, session, worker


def test_messages_of_a_worker_killed_while_it_sends_come_again_at_once(
    two_workers: tuple[Service, requests.Session, int], topic: TopicFactory
) -> None:
    """The page is too large for the buffers of the connection, so that the worker waits for its client."""
    service, session, worker = two_workers
    queue = Queue(service, topic(configs={"compression.type": "gzip"}))  # so that one fetch returns all messages
    for _ in range(20):
        assert service.post(f"/messages/{queue.topic}", json=["x" * 900_000]).status_code == 200
    query = {"limit": 500, "wait": 10, "lock": LONG_LOCK}
    with session.post(service.url + queue.path, params=query, stream=True, timeout=60) as answer:
        assert answer.status_code == 200
        held = wait_for(lambda: queue.state()["held"])
        os.kill(worker, signal.SIGKILL)
        wait_for(lambda: not queue.state()["held"])
        again = queue.acquire_all(set(map(place_of_lease, held)))
    assert {each["attempt"] for each in again} == {1}


def place_of_lease(held: dict[str, Any]) -> Place:
    partition, offset, _ = held["lease"].split(":")
    return int(partition), int(offset)


def test_worker_killed_while_a_client_waits_takes_no_message_with_it(
    two_workers: tuple[Service, requests.Session, int], topic: TopicFactory
) -> None:
    service, session, worker = two_workers
    queue = Queue(service, topic())
    assert queue.acquire(wait=0) == []
    query = {"limit": 1, "wait": 60, "lock": LONG_LOCK}

    def wait_in_vain() -> None:
        with suppress(requests.ConnectionError):
            session.post(service.url + queue.path, params=query, timeout=90)

    with ThreadPoolExecutor(1) as waiting:
        call = waiting.submit(wait_in_vain)
        wait_for(lambda: total(service.get("/metrics").text, "kafka_http_requests_in_flight") > 1)
        os.kill(worker, signal.SIGKILL)
        call.result()
        [record] = queue.acquire_all(queue.publish(1))
    assert record["attempt"] == 1
    assert queue.acknowledge(record).status_code == 200
