"""Calls of queues that are under way while the daemon ends or hangs."""

import os
import signal
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
import requests

from kafka_http.demo.embedded_kafka import EmbeddedKafka
from tests.conftest import TopicFactory
from tests.integration.conftest import ServiceFactory
from tests.support.frozen_process import Process, frozen
from tests.support.metric_samples import total
from tests.support.polling import wait_for
from tests.support.queue_load import Queue, place_of

CLIENTS = 12


@pytest.fixture
def queue(kafka: EmbeddedKafka, topic: TopicFactory, start_service: ServiceFactory) -> Queue:
    """An empty queue."""
    queue = Queue(start_service(kafka.bootstrap_servers), topic(3))
    assert queue.acquire(wait=0) == []
    return queue


def wait_with_all(queue: Queue, pool: ThreadPoolExecutor) -> list[Future[requests.Response]]:
    """Let all clients wait for one message each."""
    waiting = [pool.submit(queue.post, 1, 60) for _ in range(CLIENTS)]
    wait_for(lambda: total(queue.server.get("/metrics").text, "kafka_http_requests_in_flight") > CLIENTS)
    return waiting


def test_clients_that_wait_at_a_killed_daemon_get_messages_from_the_next_one(queue: Queue) -> None:
    with ThreadPoolExecutor(CLIENTS) as pool:
        waiting = wait_with_all(queue, pool)
        os.kill(queue.server.daemon, signal.SIGKILL)
        places = queue.publish(CLIENTS, 3)
        answers = [each.result() for each in waiting]
    assert {each.status_code for each in answers} == {200}
    records = [record for each in answers for record in each.json()["records"]]
    assert sorted(map(place_of, records)) == sorted(places)
    assert {each["attempt"] for each in records} == {1}
    assert queue.acknowledge(*records).status_code == 200


def test_clients_that_wait_at_a_frozen_daemon_get_503_and_it_keeps_no_message(queue: Queue) -> None:
    with ThreadPoolExecutor(CLIENTS) as pool:
        waiting = wait_with_all(queue, pool)
        with frozen(Process(queue.server.daemon)):
            for each in waiting:
                answer = each.result(60)
                assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
            assert queue.post(1, 60).status_code == 503
            places = queue.publish(CLIENTS, 3)
        wait_for(lambda: queue.server.get(queue.path).status_code == 200)
    records = queue.acquire_all(places)
    assert {each["attempt"] for each in records} == {1}
    assert queue.acknowledge(*records).status_code == 200
