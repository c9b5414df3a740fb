"""A broker with a quota for the server: publishes slow down, and nothing fails."""

import time
from contextlib import closing

import psutil
import pytest
from kafka import KafkaAdminClient
from kafka.protocol.admin import AlterClientQuotasRequest

from kafka_http.demo.embedded_kafka import EmbeddedKafka, create_topics
from tests.integration.conftest import ServiceFactory
from tests.support.polling import wait_for
from tests.support.publish_load import PublishLoad, check_exactly_once, check_statuses
from tests.support.server_process import Service

QUOTA = 500_000
"""Bytes per second. Kafka lets about ten seconds of it pass before it begins to slow down a client."""
VALUE = 1000
COUNT = 10
MEASURED_SECONDS = 6


def set_quota(kafka: EmbeddedKafka, client_id: str) -> None:
    entity = AlterClientQuotasRequest.EntryData.EntityData(entity_type="client-id", entity_name=client_id)
    change = AlterClientQuotasRequest.EntryData.OpData(key="producer_byte_rate", value=float(QUOTA), remove=False)
    entry = AlterClientQuotasRequest.EntryData(entity=[entity], ops=[change])
    with closing(KafkaAdminClient(bootstrap_servers=kafka.bootstrap_servers)) as admin:
        response = admin._manager.run(
            admin._manager.send, AlterClientQuotasRequest(entries=[entry], validate_only=False)
        )
    assert [each.error_code for each in response.entries] == [0]


def cpu_seconds(service: Service) -> float:
    return sum(sum(psutil.Process(worker).cpu_times()[:2]) for worker in service.workers)


@pytest.mark.slow
def test_quota_slows_publishes_down_and_fails_none(fresh_kafka: EmbeddedKafka, start_service: ServiceFactory) -> None:
    create_topics(fresh_kafka.bootstrap_servers, {"t": 6})
    set_quota(fresh_kafka, "kafka_http")
    service = start_service(fresh_kafka.bootstrap_servers, access_log=False, workers=1)  # each connection waits
    load = PublishLoad(service, "t", connections=16, count=COUNT, suffix="x" * VALUE)

    def rate(seconds: float) -> float:
        """Bytes a second, in so many last seconds."""
        now = time.monotonic()
        return sum(each.count * VALUE for each in load.since(0) if each.ended > now - seconds) / seconds

    with load.running():
        wait_for(lambda: load.acknowledged * VALUE > 10 * QUOTA and rate(2) < 1.5 * QUOTA, 60)
        began, cpu = time.monotonic(), cpu_seconds(service)
        wait_for(lambda: time.monotonic() > began + MEASURED_SECONDS)
        seconds = time.monotonic() - began
        slow, share = rate(seconds), (cpu_seconds(service) - cpu) / seconds
    slowest = max(each.seconds for each in load.published)
    print(f"{slow:.0f} bytes/s, {share:.2f} of a core, slowest response {slowest:.1f} s")
    check_statuses(load.published, {200})
    check_exactly_once(load, fresh_kafka.bootstrap_servers)
    assert 0.1 * QUOTA < slow < 2 * QUOTA
    assert share < 0.5
