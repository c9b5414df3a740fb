"""Queues under load while processes are killed, stopped and frozen: what happens to each message.

A message may be delivered twice. It is never lost, and a response that acknowledges it is final.
"""

import os
import random
import signal
from collections.abc import Callable

import pytest

from kafka_http.demo.embedded_kafka import EmbeddedKafka
from tests.conftest import TopicFactory
from tests.integration.conftest import ServiceFactory
from tests.support.polling import wait_for
from tests.support.queue_load import Counts, Queue, QueueLoad
from tests.support.server_process import Service

PARTITIONS = 3
MESSAGES = 900


def kill_worker(service: Service) -> None:
    os.kill(random.choice(sorted(service.workers)), signal.SIGKILL)


def kill_daemon(service: Service) -> None:
    os.kill(service.daemon, signal.SIGKILL)


def restart(service: Service) -> None:
    service.terminate()
    service.wait_for_end()
    service.start()


def counts_under_load(queue: Queue, disturb: Callable[[], None], times: int = 2) -> Counts:
    """Disturb the clients several times while they work off the messages, and return what happened to these."""
    places = queue.publish(MESSAGES, PARTITIONS)
    load = QueueLoad([queue])
    with load.running():
        for number in range(times):
            wait_for_share(load, number / (times + 1))
            disturb()
        try:
            wait_for(queue.is_empty, 10)
        except AssertionError:
            print(queue.state(), load.counts(places))
            raise
    counts = load.counts(places)
    print(counts)
    assert load.unexpected == []
    assert set(load.deliveries) == places
    assert queue.acquire(wait=1) == []
    return counts


def wait_for_share(load: QueueLoad, share: float) -> None:
    wait_for(lambda: len(load.acknowledged) > MESSAGES * share, 30)


def check(counts: Counts) -> None:
    assert (counts.messages, counts.lost) == (MESSAGES, 0)
    assert (counts.acknowledged_twice, counts.after_acknowledgement) == (0, 0)


@pytest.mark.parametrize("disturb", [kill_worker, kill_daemon, restart], ids=["worker", "daemon", "restart"])
def test_queue_loses_no_message_while_processes_end(
    kafka: EmbeddedKafka, topic: TopicFactory, start_service: ServiceFactory, disturb: Callable[[Service], None]
) -> None:
    service = start_service(kafka.bootstrap_servers, queue_attempts=9)
    check(counts_under_load(Queue(service, topic(PARTITIONS)), lambda: disturb(service)))
