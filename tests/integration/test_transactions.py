"""Reading and acknowledging where the log has offsets without messages: control records, compacted gaps."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from uuid import uuid4

import pytest
from kafka import KafkaProducer

from kafka_http.demo.embedded_kafka import EmbeddedKafka
from tests.conftest import TopicFactory
from tests.support.polling import wait_for
from tests.support.server_process import Service


@contextmanager
def transactions(kafka: EmbeddedKafka) -> Iterator[KafkaProducer]:
    settings = {"bootstrap_servers": kafka.bootstrap_servers, "transactional_id": uuid4().hex}
    with closing(KafkaProducer(**settings)) as producer:
        producer.init_transactions()
        yield producer


def write(producer: KafkaProducer, topic: str, numbers: range, *, commits: bool = True) -> None:
    """One transaction a number."""
    for number in numbers:
        producer.begin_transaction()
        producer.send(topic, b"%d" % number)
        producer.flush()  # an abort drops what was not sent yet
        (producer.commit_transaction if commits else producer.abort_transaction)()


def lag(service: Service, topic: str, consumer: str) -> int:
    (partition,) = service.get(f"/messages/{topic}/{consumer}").json()["partitions"]
    return int(partition["lag"])


def test_ack_before_control_records_leaves_no_lag(service: Service, kafka: EmbeddedKafka, topic: TopicFactory) -> None:
    name = topic()
    with transactions(kafka) as producer:
        write(producer, name, range(3))
        page = service.get(f"/messages/{name}/me/committed").json()
        assert (page["ack"], page["next"].split(",")[0]) == ("0:4", "0:6")
        assert service.delete(f"/messages/{name}/me/0:2").status_code == 204
        assert lag(service, name, "me") == 3, "a record lies behind the control record"
        assert service.delete(f"/messages/{name}/me/{page['ack']}").status_code == 204
        assert lag(service, name, "me") == 0
        write(producer, name, range(3, 4))
    assert [each["value"] for each in service.get(f"/messages/{name}/me/committed").json()["records"]] == [3]


def test_ack_before_aborted_records_leaves_no_lag_only_for_read_committed(
    service: Service, kafka: EmbeddedKafka, topic: TopicFactory
) -> None:
    name = topic()
    with transactions(kafka) as producer:
        write(producer, name, range(1))
        write(producer, name, range(1, 4), commits=False)
    assert service.delete(f"/messages/{name}/me/0:0").status_code == 204
    assert lag(service, name, "me") == 7, "a reader of uncommitted messages still has the aborted ones to read"
    assert service.delete(f"/messages/{name}/me/0:0?isolation=read_committed").status_code == 204
    assert lag(service, name, "me") == 0


@pytest.mark.parametrize(
    ("isolation", "count", "expected"),
    [
        ("read_committed", 1, [19]),
        ("read_committed", 3, [17, 18, 19]),
        ("read_committed", 15, list(range(5, 20))),
        ("read_committed", 100, list(range(20))),
        ("read_uncommitted", 1, [24]),
        ("read_uncommitted", 6, [19, *range(20, 25)]),
    ],
)
def test_negative_offset_counts_messages_of_a_transactional_topic(
    service: Service, transactional_topic: str, isolation: str, count: int, expected: list[int]
) -> None:
    page = service.get(f"/messages/{transactional_topic}/me/-{count}?isolation={isolation}").json()
    assert [each["value"] for each in page["records"]] == expected


@pytest.fixture(scope="module")
def transactional_topic(kafka: EmbeddedKafka, topic: TopicFactory) -> str:
    """0 to 19 are committed, 20 to 24 aborted."""
    name = topic()
    with transactions(kafka) as producer:
        write(producer, name, range(20))
        write(producer, name, range(20, 25), commits=False)
    return name


@pytest.mark.slow
def test_negative_offset_and_ack_skip_the_gaps_of_a_compacted_topic(
    service: Service, kafka: EmbeddedKafka, topic: TopicFactory
) -> None:
    configs = {"cleanup.policy": "compact", "segment.ms": "100", "min.cleanable.dirty.ratio": "0.0"}
    name = topic(1, configs)

    def publish(key: str, count: int) -> None:
        records = [{"key": key, "value": number} for number in range(count)]
        assert service.post(f"/messages/{name}", json={"records": records}).status_code == 200

    def values() -> list[int]:
        return [each["value"] for each in service.get(f"/messages/{name}/me/earliest").json()["records"]]

    publish("a", 1)
    publish("b", 300)
    publish("c", 300)

    def is_compacted() -> bool:
        publish("d", 1)  # a segment is closed by what comes after it
        return len(values()) < 20

    wait_for(is_compacted, 90)
    page = service.get(f"/messages/{name}/me/-{len(values())}").json()
    assert [each["value"] for each in page["records"]] == values()
    assert page["records"][0]["value"] == 0
    assert service.delete(f"/messages/{name}/me/{page['ack']}").status_code == 204
    assert lag(service, name, "me") == 0
