"""Read and acknowledge over real HTTP, and what Kafka's own tools see of it."""

import base64
import json
import os
import threading
import time
from collections import defaultdict
from contextlib import closing
from typing import Any
from uuid import uuid4

import pytest
import requests
from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition

from kafka_http.demo.embedded_kafka import EmbeddedKafka
from tests.conftest import TopicFactory
from tests.support.group_member import live_member
from tests.support.polling import scaled
from tests.support.server_process import Service

KIB = 1024
MIB = 1024 * KIB


def fresh_group() -> str:
    return f"group-{uuid4().hex[:12]}"


def offsets_in_kafka(admin: KafkaAdminClient, group: str, topic: str) -> dict[int, int]:
    """What `kafka-consumer-groups --describe` has in its column CURRENT-OFFSET."""
    listed = admin.list_group_offsets({group: None})[group]
    return {each.partition: found.offset for each, found in listed.items() if each.topic == topic}


def values(page: dict[str, Any]) -> list[Any]:
    return [record["value"] for record in page["records"]]


def test_read_resumes_after_the_acknowledged_message(
    service: Service, topic: TopicFactory, admin: KafkaAdminClient
) -> None:
    name, group = topic(), fresh_group()
    for number in range(5):
        answer = service.put(f"/messages/{name}", str(number))
        assert answer.status_code == 200
        assert answer.json()["records"][0]["offset"] == number

    page = service.get(f"/messages/{name}/{group}/committed?limit=3").json()
    assert values(page) == [0, 1, 2]
    assert (page["next"], page["ack"]) == ("0:3,*:earliest", "0:2")
    assert values(service.get(f"/messages/{name}/{group}/committed?limit=3").json()) == [0, 1, 2]

    assert service.delete(f"/messages/{name}/{group}/{page['ack']}").status_code == 204
    assert offsets_in_kafka(admin, group, name) == {0: 3}
    assert values(service.get(f"/messages/{name}/{group}/committed").json()) == [3, 4]

    assert service.delete(f"/messages/{name}/{group}/0:0").status_code == 204
    assert offsets_in_kafka(admin, group, name) == {0: 3}, "an acknowledgement does not move back"
    beyond = service.delete(f"/messages/{name}/{group}/0:5")
    assert beyond.status_code == 416
    assert beyond.json()["error"]["partitions"] == [{"partition": 0, "offset": 5, "earliest": 0, "latest": 5}]


def test_kafka_consumer_continues_at_the_acknowledged_offset(
    service: Service, topic: TopicFactory, kafka: EmbeddedKafka
) -> None:
    name, group = topic(), fresh_group()
    service.post(f"/messages/{name}", json=list(range(10)))
    service.delete(f"/messages/{name}/{group}/0:6")
    with closing(
        KafkaConsumer(name, group_id=group, bootstrap_servers=kafka.bootstrap_servers, consumer_timeout_ms=20_000)
    ) as consumer:
        assert next(consumer).value == b"7"
        consumer.commit()
    assert values(service.get(f"/messages/{name}/{group}/committed").json()) == [8, 9]


def test_consumers_have_separate_positions(service: Service, topic: TopicFactory) -> None:
    name, one, other = topic(), fresh_group(), fresh_group()
    service.post(f"/messages/{name}", json=[1, 2, 3])
    assert service.delete(f"/messages/{name}/{one}/1").status_code == 204
    assert values(service.get(f"/messages/{name}/{one}/committed").json()) == [3]
    assert values(service.get(f"/messages/{name}/{other}/committed").json()) == [1, 2, 3]


def test_following_links_with_ack_previous_commits_everything_read(
    service: Service, topic: TopicFactory, admin: KafkaAdminClient
) -> None:
    name, group = topic(3), fresh_group()
    for partition in range(3):
        service.post(f"/messages/{name}?partition={partition}", json=list(range(10 + partition)))
    pages = list(service.follow(f"/messages/{name}/{group}/committed?ack=previous&limit=7"))
    assert sum(len(page["records"]) for page in pages) == 33
    assert offsets_in_kafka(admin, group, name) == {0: 10, 1: 11, 2: 12}
    assert service.get(f"/messages/{name}/{group}").json()["partitions"][2] == {
        "partition": 2, "committed": 12, "earliest": 0, "latest": 12, "lag": 0,
    }  # fmt: skip


def test_put_position_and_delete_consumer_change_offsets_in_kafka(
    service: Service, topic: TopicFactory, admin: KafkaAdminClient
) -> None:
    name, group = topic(2), fresh_group()
    service.post(f"/messages/{name}?partition=0", json=list(range(20)))
    answer = service.request("PUT", f"/messages/{name}/{group}/-5")
    assert answer.status_code == 200
    assert [each["committed"] for each in answer.json()["partitions"]] == [15, 0]
    assert offsets_in_kafka(admin, group, name) == {0: 15, 1: 0}
    assert service.delete(f"/messages/{name}/{group}").status_code == 204
    assert offsets_in_kafka(admin, group, name) == {}
    assert service.delete(f"/messages/{name}/{group}").status_code == 204


def test_group_with_live_members_returns_409(
    service: Service, topic: TopicFactory, kafka: EmbeddedKafka, admin: KafkaAdminClient
) -> None:
    name, group = topic(), fresh_group()
    service.post(f"/messages/{name}", json=[1, 2, 3])
    with live_member(kafka.bootstrap_servers, name, group, "billing-7"):
        for method, path in [("DELETE", "/0:0"), ("PUT", "/earliest"), ("DELETE", "")]:
            answer = service.request(method, f"/messages/{name}/{group}{path}")
            if (method, path) == ("DELETE", ""):  # with nothing committed there is nothing to forget
                assert answer.status_code in (204, 409)
                continue
            assert answer.status_code == 409
            assert "billing-7" in answer.json()["error"]["message"]
            assert answer.json()["error"]["members"] == [{"client_id": "billing-7", "host": "127.0.0.1"}]
        assert values(service.get(f"/messages/{name}/{group}/earliest").json()) == [1, 2, 3]


def test_wait_returns_as_soon_as_a_message_arrives(service: Service, topic: TopicFactory) -> None:
    name = topic(3)
    publish = threading.Timer(0.5, service.put, (f"/messages/{name}", "news"))
    began = time.monotonic()
    publish.start()
    page = service.get(f"/messages/{name}/me/latest?wait=20").json()
    took = time.monotonic() - began
    publish.join()
    assert values(page) == ["news"]
    assert 0.4 < took < scaled(5)


def test_wait_without_messages_returns_an_empty_page(service: Service, topic: TopicFactory) -> None:
    began = time.monotonic()
    answer = service.get(f"/messages/{topic(2)}/me/latest?wait=0.7")
    assert 0.6 < time.monotonic() - began < scaled(3)
    assert answer.status_code == 200
    assert answer.json()["records"] == []
    assert answer.json()["next"] == "0:0,1:0,*:earliest"


def test_limit_and_max_bytes_bound_a_page(service: Service, topic: TopicFactory) -> None:
    name = topic()
    service.post(f"/messages/{name}", json=["x" * 98] * 100)  # 100 bytes with the quotes
    assert len(service.get(f"/messages/{name}/me/earliest?limit=7").json()["records"]) == 7
    assert len(service.get(f"/messages/{name}/me/earliest?max_bytes=1050").json()["records"]) == 10
    assert len(service.get(f"/messages/{name}/me/earliest?max_bytes=1").json()["records"]) == 1


def test_record_larger_than_max_bytes_is_delivered(service: Service, topic: TopicFactory) -> None:
    name = topic(1, {"max.message.bytes": str(10 * MIB)})
    large = os.urandom(5 * MIB)
    assert service.put(f"/messages/{name}", large).status_code == 200
    service.put(f"/messages/{name}", "small")
    (record,) = service.get(f"/messages/{name}/me/earliest?max_bytes=1").json()["records"]
    assert record["format"] == "binary"
    assert base64.b64decode(record["value"]) == large
    raw = service.get(f"/messages/{name}/me/0?max_bytes=1", headers={"Accept": "application/octet-stream"})
    assert raw.content == large
    assert raw.headers["Kafka-Next"] == "0:1,*:earliest"


def test_next_links_lead_through_all_partitions(service: Service, topic: TopicFactory) -> None:
    name = topic(5)
    for partition in range(5):
        sent = [[partition, n] for n in range(60 + 10 * partition)]
        service.post(f"/messages/{name}?partition={partition}", json=sent)
    found = defaultdict(list)
    pages = list(service.follow(f"/messages/{name}/me/earliest?limit=50"))
    for page in pages:
        assert len(page["records"]) <= 50
        for record in page["records"]:
            found[record["partition"]].append((record["offset"], record["value"]))
    assert found == {p: [(n, [p, n]) for n in range(60 + 10 * p)] for p in range(5)}
    assert all({record["partition"] for record in page["records"]} == set(range(5)) for page in pages[:5])


@pytest.mark.parametrize("form", ["@{}", "iso"])
def test_time_position_starts_at_the_first_message_since(service: Service, topic: TopicFactory, form: str) -> None:
    name = topic(2)
    start = 1_700_000_000_000
    for partition in (0, 1):
        records = [{"value": n, "timestamp": start + 1000 * n} for n in range(10)]
        body = {"records": [{**record, "partition": partition} for record in records]}
        assert service.post(f"/messages/{name}", json=body).status_code == 200
    at = "@2023-11-14T22:13:25.500Z" if form == "iso" else f"@{start + 5500}"
    page = service.get(f"/messages/{name}/me/{at}").json()
    assert values(page) == [6, 7, 8, 9] * 2
    assert page["records"][0]["timestamp"] == start + 6000
    assert service.get(f"/messages/{name}/me/@{start + 9001}").json()["next"] == "0:10,1:10,*:earliest"


def test_octet_stream_returns_one_message_byte_for_byte(service: Service, topic: TopicFactory) -> None:
    name = topic()
    body = bytes(range(256))
    headers = {
        "Kafka-Key": "k1",
        "Kafka-Timestamp": "1700000000000",
        "Kafka-Header-Colour": "red",
        "Kafka-Header-Base64-raw": "/w==",
        "traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    }
    service.put(f"/messages/{name}", body, headers=headers)
    service.put(f"/messages/{name}?tombstone=true&key=k1")
    octets = {"Accept": "application/octet-stream"}

    answer = service.get(f"/messages/{name}/me/earliest", headers=octets)
    assert answer.content == body
    expected = {
        "Kafka-Partition": "0",
        "Kafka-Offset": "0",
        "Kafka-Key": "k1",
        "Kafka-Timestamp": "1700000000000",
        "Kafka-Header-colour": "red",
        "Kafka-Header-Base64-raw": "/w==",
        "Kafka-Header-traceparent": headers["traceparent"],
        "Kafka-Next": "0:1,*:earliest",
        "Kafka-Ack": "0:0",
        "Cache-Control": "no-store",
    }
    assert {header: answer.headers.get(header) for header in expected} == expected

    tombstone = requests.get(answer.links["next"]["url"], headers=octets, timeout=30)
    assert (tombstone.status_code, tombstone.content) == (200, b"")
    assert tombstone.headers["Kafka-Tombstone"] == "true"
    end = requests.get(tombstone.links["next"]["url"], headers=octets, timeout=30)
    assert (end.status_code, end.content) == (204, b"")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("PUT", "/messages/{}"),
        ("GET", "/messages/{}"),
        ("GET", "/messages/{}/me"),
        ("GET", "/messages/{}/me/earliest"),
        ("GET", "/messages/{}/me/0:0?wait=30"),
        ("GET", "/messages/{}/me/0?partition=0&wait=30"),
        ("GET", "/messages/{}/me/committed?wait=30"),
        ("DELETE", "/messages/{}/me/0:0"),
        ("DELETE", "/messages/{}/me"),
        ("PUT", "/messages/{}/me/earliest"),
    ],
)
def test_unknown_topic_returns_404_at_once_and_is_not_created(
    service: Service, admin: KafkaAdminClient, method: str, path: str
) -> None:
    name = f"unknown-{uuid4().hex[:12]}"
    began = time.monotonic()
    answer = service.request(method, path.format(name))
    assert time.monotonic() - began < scaled(1)
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == 40401
    assert name in answer.json()["error"]["message"]
    assert name not in admin.list_topics()


def test_consumer_with_special_characters_in_its_name_works(
    service: Service, topic: TopicFactory, admin: KafkaAdminClient
) -> None:
    name, suffix = topic(), uuid4().hex[:8]
    service.post(f"/messages/{name}", json=[1, 2])
    for group in (f"a b+ü%#?;{suffix}", f"..{suffix}", f"{'x' * 241}{suffix}"):
        quoted = requests.utils.quote(group, safe="")
        assert service.delete(f"/messages/{name}/{quoted}/0:0").status_code == 204
        answer = service.get(f"/messages/{name}/{quoted}/committed")
        assert answer.json()["consumer"] == group
        assert requests.get(answer.links["next"]["url"], timeout=30).json()["consumer"] == group
        assert offsets_in_kafka(admin, group, name) == {0: 1}


def test_read_before_the_log_start_returns_416_or_uses_reset(
    service: Service, topic: TopicFactory, admin: KafkaAdminClient
) -> None:
    name, group = topic(), fresh_group()
    service.post(f"/messages/{name}", json=list(range(10)))
    service.delete(f"/messages/{name}/{group}/0:1")
    admin.delete_records({TopicPartition(name, 0): 6})
    assert values(service.get(f"/messages/{name}/{group}/committed").json()) == [6, 7, 8, 9]
    assert values(service.get(f"/messages/{name}/{group}/committed?reset=latest").json()) == []
    gone = service.get(f"/messages/{name}/{group}/0:2")
    assert gone.status_code == 416
    assert gone.json()["error"]["partitions"] == [{"partition": 0, "offset": 2, "earliest": 6, "latest": 10}]
    assert service.get(f"/messages/{name}").json()["partitions"][0]["earliest"] == 6


def test_read_records_can_be_published_again(service: Service, topic: TopicFactory) -> None:
    name, copy = topic(), topic()
    records = [
        {"key": "k", "value": {"n": 1.10}, "headers": [["A", "1"], ["A", None], ["b", {"base64": "/w=="}]]},
        {"value": "AP8=", "format": "binary"},
        {"value": "text", "format": "text"},
        {"key": "k", "value": None},
        {"key": "/w==", "key_format": "binary", "value": 12345678901234567890123},
    ]
    assert service.post(f"/messages/{name}", json={"records": records}).status_code == 200
    read = service.records(name)
    lines = "\n".join(json.dumps(record) for record in read)
    answer = service.post(f"/messages/{copy}?lines=records", lines, headers={"Content-Type": "application/x-ndjson"})
    assert answer.status_code == 200, answer.text
    assert service.records(copy) == read
