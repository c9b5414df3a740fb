"""Queues on topics with gaps and transactions, on topics that change, and behind a message that is held for long."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any
from uuid import uuid4

import pytest
from kafka import KafkaAdminClient, KafkaProducer
from kafka.admin import ConfigResource, ConfigResourceType, NewPartitions
from kafka.structs import TopicPartition

from kafka_http.demo.embedded_kafka import EmbeddedKafka
from tests.conftest import TopicFactory
from tests.support.polling import wait_for
from tests.support.queue_load import Queue, place_of
from tests.support.server_process import Service

WINDOW = 4000
"""The largest window of locks that brokers allow by default, which new queues have."""


def values(records: Sequence[Mapping[str, Any]]) -> list[Any]:
    return [each["value"] for each in records]


def process_all(queue: Queue, wait: float = 1) -> list[dict[str, Any]]:
    """Acquire and acknowledge until a page is empty. Return the messages."""
    done: list[dict[str, Any]] = []
    while records := queue.acquire(limit=200, wait=wait):  # so many leases fit into a request line
        assert queue.acknowledge(*records).status_code == 200
        done += records
    return done


# Gaps


@pytest.mark.slow  # Kafka looks every 15 s for something to compact
def test_queue_of_a_compacted_topic_has_what_is_left(service: Service, topic: TopicFactory) -> None:
    queue = Queue(
        service, topic(1, {"cleanup.policy": "compact", "segment.ms": "100", "min.cleanable.dirty.ratio": "0"})
    )

    def publish(key: str, count: int) -> None:
        records = [{"key": key, "value": each} for each in range(count)]
        assert service.post(f"/messages/{queue.topic}", json={"records": records}).status_code == 200

    def left() -> list[dict[str, Any]]:
        answer = service.get(f"/messages/{queue.topic}/reader/earliest?limit=1000")
        return [each for each in answer.json()["records"] if each["key"] != "d"]

    def is_compacted() -> bool:
        publish("d", 1)  # a segment is closed by what comes after it
        return len(left()) == 3

    for key, count in (("a", 1), ("b", 300), ("c", 300)):
        publish(key, count)
    wait_for(is_compacted, 90)
    done = process_all(queue)
    assert [each["offset"] for each in done if each["key"] != "d"] == [each["offset"] for each in left()]
    assert {each["attempt"] for each in done} == {1}
    wait_for(queue.is_empty)


@pytest.mark.parametrize("hides_aborted", [False, True])
def test_isolation_of_the_group_decides_about_aborted_messages(
    service: Service, kafka: EmbeddedKafka, topic: TopicFactory, hides_aborted: bool
) -> None:
    """Each transaction ends with a control record, which has an offset but is no message."""
    queue = Queue(service, topic())
    if hides_aborted:
        set_on_group(kafka, queue.consumer, {"share.isolation.level": "read_committed"})
    settings = {"bootstrap_servers": kafka.bootstrap_servers, "transactional_id": uuid4().hex}
    with closing(KafkaProducer(**settings)) as producer:
        producer.init_transactions()

        def send(number: int) -> None:
            producer.begin_transaction()
            producer.send(queue.topic, b"%d" % number)
            producer.flush()  # an abort drops what was not sent yet

        for number in range(6):
            send(number)
            (producer.abort_transaction if number in (2, 3) else producer.commit_transaction)()
        assert values(process_all(queue)) == ([0, 1, 4, 5] if hides_aborted else list(range(6)))
        wait_for(queue.is_empty)
        send(6)  # this transaction is open
        if hides_aborted:
            assert queue.acquire(wait=0) == []
            producer.commit_transaction()
        assert values(queue.acquire(wait=20)) == [6]


def set_on_group(kafka: EmbeddedKafka, group: str, configs: dict[str, str]) -> None:
    with closing(KafkaAdminClient(bootstrap_servers=kafka.bootstrap_servers)) as admin:
        admin.alter_configs([ConfigResource(ConfigResourceType.GROUP, group, configs)])


# Topics that change


def test_lease_ends_with_its_topic_and_the_new_topic_is_read_from_its_start(
    service: Service, admin: KafkaAdminClient, topic: TopicFactory
) -> None:
    queue = Queue(service, topic())
    queue.publish(3)
    held = queue.acquire()
    admin.delete_topics([queue.topic])
    wait_for(lambda: queue.post(wait=0).status_code == 404)

    def codes() -> set[int]:
        return {each["error"]["code"] for each in queue.acknowledge(*held).json()["leases"]}

    wait_for(lambda: codes() == {40904})  # 504 for an acknowledgement that is in flight while the locks end

    def is_created() -> bool:
        [created] = admin.create_topics({queue.topic: {"num_partitions": 1}}, raise_errors=False)["topics"]
        return bool(created["error_code"] == 0)

    wait_for(is_created, 20)
    admin.wait_for_topics([queue.topic])
    wait_for(lambda: service.post(f"/messages/{queue.topic}", json=["new"]).status_code == 200, 20)
    [record] = wait_for(lambda: acquired(queue), 20)
    assert (record["value"], record["offset"], record["attempt"]) == ("new", 0, 1)
    assert queue.acknowledge(record).status_code == 200
    assert queue.acknowledge(*held).status_code == 409


def acquired(queue: Queue) -> list[dict[str, Any]]:
    """Return the messages of a page. The worker may still know the topic as deleted: none then."""
    answer = queue.post(wait=5)
    assert answer.status_code in (200, 404), answer.text
    found: list[dict[str, Any]] = answer.json().get("records", [])
    return found


@pytest.mark.slow  # members look every 10 s for new partitions
def test_waiting_call_gets_messages_of_a_partition_that_was_added(
    service: Service, admin: KafkaAdminClient, topic: TopicFactory
) -> None:
    queue = Queue(service, topic())
    assert queue.acquire(wait=0) == []
    with ThreadPoolExecutor(1) as waiting:
        page = waiting.submit(queue.acquire, 500, 60)
        admin.create_partitions({queue.topic: NewPartitions(total_count=2)})
        wait_for(lambda: service.post(f"/messages/{queue.topic}?partition=1", json=["new"]).status_code == 200, 30)
        records = page.result() or queue.acquire(wait=60)  # a busy machine may need the whole wait
    assert [(*place_of(each), each["attempt"]) for each in records] == [(1, 0, 1)]
    assert queue.acknowledge(*records).status_code == 200


def test_messages_deleted_under_a_lock_are_acknowledged_and_those_behind_them_come(
    service: Service, admin: KafkaAdminClient, topic: TopicFactory
) -> None:
    queue = Queue(service, topic())
    queue.publish(10)
    held = queue.acquire(4)
    admin.delete_records({TopicPartition(queue.topic, 0): 6})
    assert queue.acknowledge(*held).status_code == 200
    assert [each["offset"] for each in process_all(queue)] == [6, 7, 8, 9]
    wait_for(queue.is_empty)


# The window


def test_message_held_for_long_blocks_its_partition_until_it_is_settled(service: Service, topic: TopicFactory) -> None:
    queue = Queue(service, topic(2))
    places = {place_of(each) for _ in range(11) for each in publish(service, queue.topic, 0, 500)}
    [held] = queue.acquire(1)
    seen = {place_of(held)} | {place_of(each) for each in process_all(queue)}
    assert WINDOW <= len(seen) < WINDOW + 500
    answer = queue.post(wait=0).json()
    assert (answer["records"], answer["blocked"]) == ([], [{"partition": 0, "offset": 0, "lease": held["lease"]}])
    warning = f"Queue {queue.consumer} gets no further messages of {queue.topic}, partition 0, until the message at "
    assert service.log.count(f"{warning}offset 0 is done.") == 1
    other = publish(service, queue.topic, 1, 3)
    assert sorted(map(place_of, process_all(queue))) == sorted(map(place_of, other)), "other partitions go on"
    assert queue.acknowledge(held).status_code == 200
    rest = [place_of(each) for each in process_all(queue, wait=5)]
    assert sorted(rest) == sorted(places - seen)
    assert "blocked" not in queue.post(wait=0).json()


def publish(service: Service, topic: str, partition: int, count: int) -> list[dict[str, Any]]:
    answer = service.post(f"/messages/{topic}?partition={partition}", json=list(range(count)))
    assert answer.status_code == 200, answer.text
    records: list[dict[str, Any]] = answer.json()["records"]
    return records
