"""Versions 3 to 8 of produce requests. Kafka 4 knows all of them; a proxy hides the later ones from the server."""

from collections.abc import Iterator

import pytest
from kafka import KafkaAdminClient

from kafka_http.demo.embedded_kafka import EmbeddedKafka, create_topics
from tests.integration.conftest import ServiceFactory
from tests.support.kafka_proxy import KafkaProxy, kafka_behind_proxy
from tests.support.kafka_reader import read_topic
from tests.support.polling import wait_for
from tests.support.publish_load import PublishLoad, check_exactly_once, check_statuses


@pytest.fixture(scope="module")
def behind(kafka_parts: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[EmbeddedKafka, KafkaProxy]]:
    with kafka_behind_proxy(tmp_path_factory.mktemp("versions")) as (kafka, proxy):
        yield kafka, proxy


@pytest.fixture(params=range(3, 9))
def version(request: pytest.FixtureRequest, behind: tuple[EmbeddedKafka, KafkaProxy]) -> int:
    _, proxy = behind
    proxy.max_produce = request.param
    proxy.produce_versions.clear()
    return int(request.param)


def test_publish_with_each_version(
    behind: tuple[EmbeddedKafka, KafkaProxy], version: int, start_service: ServiceFactory
) -> None:
    kafka, proxy = behind
    topics = (single, loaded, compacted) = [f"{kind}-{version}" for kind in ("single", "loaded", "compacted")]
    create_topics(kafka.bootstrap_servers, {single: 1, loaded: 3})
    admin = KafkaAdminClient(bootstrap_servers=kafka.bootstrap_servers)
    admin.create_topics({compacted: {"num_partitions": 1, "configs": {"cleanup.policy": "compact"}}})
    admin.wait_for_topics(topics)
    admin.close()
    service = start_service(kafka.bootstrap_servers)

    answer = service.post(f"/messages/{single}?timestamp=1790000000000", json=list(range(1000)))
    assert [each["offset"] for each in answer.json()["records"]] == list(range(1000))
    assert {each["timestamp"] for each in answer.json()["records"]} == {1790000000000}
    [*_, last] = read_topic(kafka.bootstrap_servers, single, 1)
    assert (last.offset, last.value, last.timestamp) == (999, b"999", 1790000000000)

    too_large = service.put(f"/messages/{single}", b"x" * 2_000_000)
    assert too_large.status_code == 413
    without_key = service.put(f"/messages/{compacted}", b"1")
    assert without_key.status_code == 422, without_key.text
    assert service.put(f"/messages/{compacted}?key=k", b"1").json()["records"][0]["offset"] == 0

    load = PublishLoad(service, loaded, connections=16)
    with load.running():
        wait_for(lambda: load.successes() > 300, 20)
    check_statuses(load.published, {200})
    check_exactly_once(load, kafka.bootstrap_servers)
    assert proxy.produce_versions == {version}
