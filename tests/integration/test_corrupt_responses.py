"""Garbage in place of Kafka's responses: nothing that was accepted is lost or written twice."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from kafka_http.demo.embedded_kafka import EmbeddedKafka
from tests.integration.conftest import ServiceFactory
from tests.integration.test_outbox_failures import Clients, consumed, made_topic, pending
from tests.support.kafka_proxy import GARBAGE, KafkaProxy, kafka_behind_proxy
from tests.support.load_clients import Load, check_nothing_lost_or_doubled
from tests.support.polling import wait_for


@pytest.fixture
def proxy(kafka_parts: None, tmp_path: Path) -> Iterator[tuple[EmbeddedKafka, KafkaProxy]]:
    """A broker that tells its clients the address of a proxy, which replaces every seventh produce response."""
    with kafka_behind_proxy(tmp_path) as behind:
        yield behind


def test_corrupt_kafka_responses_double_no_accepted_message(
    proxy: tuple[EmbeddedKafka, KafkaProxy], start_service: ServiceFactory
) -> None:
    kafka, between = proxy
    topic = made_topic(kafka, 3)
    service = start_service(kafka.bootstrap_servers, producer__request_timeout_ms=1000)
    assert service.put(f"/messages/{topic}?key=first", b"0").ok
    between.is_on = True
    with Clients(service, topic, 10**9) as clients:
        wait_for(lambda: between.disturbed > len(GARBAGE), 60)
        clients.stop()
    between.is_on = False
    wait_for(lambda: not pending(service), 60)
    found = consumed(kafka, topic)
    assert {f"client-{client}": sent for client, sent in clients.accepted.items()} == {
        key: values for key, values in found.items() if key != "first"
    }


def test_corrupt_kafka_responses_double_no_published_message(
    proxy: tuple[EmbeddedKafka, KafkaProxy], start_service: ServiceFactory
) -> None:
    kafka, between = proxy
    topic = made_topic(kafka, 3)
    service = start_service(kafka.bootstrap_servers, producer__request_timeout_ms=1000)
    load = Load(service, topic)
    between.is_on = True
    with load.running(publishers=6, consumers=False):
        wait_for(lambda: between.disturbed > len(GARBAGE), 60)
        between.is_on = False
    assert set(Counter(each.status for each in load.answers)) <= {200, 503, 504}
    check_nothing_lost_or_doubled(load, kafka.bootstrap_servers, topic, 3)
