"""Full load while brokers, workers and topics fail: each value that was published is where its response says.

`check_exactly_once` compares all responses with the log. The load is 64 connections, which repeat nothing.
"""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from kafka import KafkaAdminClient
from kafka.admin import NewPartitions

from kafka_http.demo.embedded_kafka import EmbeddedKafka, create_topics
from tests.integration.conftest import ServiceFactory
from tests.integration.test_recreated_topics import recreate
from tests.support.embedded_cluster import EmbeddedCluster
from tests.support.frozen_process import frozen
from tests.support.polling import scaled, wait_for
from tests.support.publish_load import PublishLoad, check_exactly_once, check_in_time, check_statuses

RECOVERY_SECONDS = 2
TIMEOUT = 10
SLACK_SECONDS = 3
PARTITIONS = 6
UNAVAILABLE: set[int | None] = {200, 503, 504}


def kill_for(kafka: EmbeddedKafka, seconds: float) -> None:
    kafka.kill()
    threading.Event().wait(seconds)
    kafka.start()


def freeze_for(kafka: EmbeddedKafka, seconds: float) -> None:
    with frozen(kafka):
        threading.Event().wait(seconds)
    kafka.wait_until_ready()


def wait_until_well(load: PublishLoad, since: float, requests: int = 200) -> None:
    """Wait for so many successes that began at `since` or later; nothing that began then may fail."""
    wait_for(lambda: load.successes(since) >= requests, TIMEOUT + 20)
    check_statuses(load.since(since), {200})


@pytest.mark.parametrize("count", [1, 100])
@pytest.mark.parametrize("outage", [kill_for, freeze_for])
def test_outage_under_full_load(
    fresh_kafka: EmbeddedKafka,
    start_service: ServiceFactory,
    outage: Callable[[EmbeddedKafka, float], None],
    count: int,
) -> None:
    create_topics(fresh_kafka.bootstrap_servers, {"t": PARTITIONS})
    service = start_service(fresh_kafka.bootstrap_servers, access_log=False, timeout=TIMEOUT)
    load = PublishLoad(service, "t", count=count)
    with load.running():
        wait_for(lambda: load.successes(0) > 500, 20)
        outage(fresh_kafka, 1)
        wait_until_well(load, time.monotonic() + scaled(RECOVERY_SECONDS))
    check_statuses(load.published, UNAVAILABLE)
    check_in_time(load.published, scaled(TIMEOUT + SLACK_SECONDS))
    check_exactly_once(load, fresh_kafka.bootstrap_servers)
