"""A network between server and broker that cuts, delays and corrupts produce requests and their responses."""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from kafka_http.demo.embedded_kafka import EmbeddedKafka, create_topics
from tests.integration.conftest import ServiceFactory
from tests.support.kafka_proxy import (
    GARBAGE,
    REQUEST_FAULTS,
    RESPONSE_FAULTS,
    Fault,
    KafkaProxy,
    cut,
    cut_afterwards,
    cut_in_the_middle,
    delay_for,
    kafka_behind_proxy,
)
from tests.support.polling import scaled, wait_for
from tests.support.publish_load import PublishLoad, check_exactly_once, check_in_time, check_statuses

PARTITIONS = 6
TIMEOUT = 5


@pytest.fixture
def behind(kafka_parts: None, tmp_path: Path) -> Iterator[tuple[EmbeddedKafka, KafkaProxy]]:
    with kafka_behind_proxy(tmp_path) as (kafka, proxy):
        create_topics(kafka.bootstrap_servers, {"t": PARTITIONS})
        yield kafka, proxy


def publish_through_faults(
    behind: tuple[EmbeddedKafka, KafkaProxy], start_service: ServiceFactory, faults: int, count: int = 1
) -> None:
    """Publish until the proxy has disturbed so many requests; then everything works at once."""
    kafka, proxy = behind
    service = start_service(
        kafka.bootstrap_servers, access_log=False, timeout=TIMEOUT, producer__request_timeout_ms=1000
    )
    load = PublishLoad(service, "t", count=count)
    with load.running():
        wait_for(lambda: load.successes() > 100, 20)
        proxy.is_on = True
        wait_for(lambda: proxy.disturbed >= faults, faults)
        proxy.is_on = False
        load.wait_until_well(time.monotonic(), TIMEOUT)  # a delayed response may hold a partition until the timeout
    check_statuses(load.published, {200, 207, 503, 504})
    check_in_time(load.published, scaled(TIMEOUT + 3))
    print(f"{proxy.disturbed} faults")
    check_exactly_once(load, kafka.bootstrap_servers)


@pytest.mark.parametrize(
    ("request_faults", "response_faults"),
    [
        pytest.param([cut, cut_in_the_middle, cut_afterwards], [], id="requests cut"),
        pytest.param(REQUEST_FAULTS[-2:], [], id="requests corrupted"),
        pytest.param([], [cut, cut_in_the_middle, cut_afterwards], id="responses cut"),
        pytest.param([], GARBAGE, id="responses corrupted"),
        pytest.param([delay_for(0.2)], [delay_for(0.2), delay_for(1.5)], id="delays"),
    ],
)
def test_faults_lose_and_double_nothing(
    behind: tuple[EmbeddedKafka, KafkaProxy],
    start_service: ServiceFactory,
    request_faults: Sequence[Fault],
    response_faults: Sequence[Fault],
) -> None:
    _, proxy = behind
    proxy.request_faults, proxy.response_faults = request_faults, response_faults
    publish_through_faults(behind, start_service, faults=20, count=5)


@pytest.mark.slow
@pytest.mark.timeout(480)
@pytest.mark.parametrize("count", [1, 100])
def test_500_faults_lose_and_double_nothing(
    behind: tuple[EmbeddedKafka, KafkaProxy], start_service: ServiceFactory, count: int
) -> None:
    _, proxy = behind
    proxy.request_faults, proxy.response_faults = REQUEST_FAULTS, RESPONSE_FAULTS
    publish_through_faults(behind, start_service, faults=500, count=count)
