"""Publish over real HTTP: each shape of body once, and where Kafka has put its records."""

import json
import time
from collections.abc import Iterator
from typing import Any, NamedTuple
from uuid import uuid4

import pytest

from kafka_http.demo.embedded_kafka import EmbeddedKafka
from tests.conftest import TopicFactory
from tests.integration.conftest import ServiceFactory
from tests.support.kafka_reader import read_topic
from tests.support.server_process import Service

NDJSON = "application/x-ndjson"


class Stored(NamedTuple):
    partition: int
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes | None]]


def stored(kafka: EmbeddedKafka, topic: str, partitions: int = 1) -> list[Stored]:
    """All records of a topic as kafka-python reads them, partition by partition."""
    read = read_topic(kafka.bootstrap_servers, topic, partitions)
    return sorted((Stored(each.partition, each.key, each.value, each.headers) for each in read), key=lambda x: x[0])


class Shape(NamedTuple):
    content_type: str | None
    body: bytes
    values: list[bytes | None]
    query: str = ""


SHAPES = {
    "envelope": Shape(
        "application/json", b'{"records":[{"value":1.10},{"value":"a"},{"value":null}]}', [b"1.10", b'"a"', None]
    ),
    "array": Shape("application/json", b'[1.10, "a", {"b": 2}, null]', [b"1.10", b'"a"', b'{"b": 2}', None]),
    "json": Shape("application/json", b'{"a":  1.10}', [b'{"a":  1.10}']),
    "ndjson": Shape(NDJSON, b'{"a":  1}\n\n"b"\r\n', [b'{"a":  1}', b'"b"']),
    "lines of records": Shape(
        NDJSON, b'{"value":1,"offset":7,"partition":9}\n{"value":"/w==","format":"binary"}\n', [b"1", b"\xff"],
        "?lines=records",
    ),
    "binary format": Shape("application/vnd.kafka.binary.v2+json", b'{"records":[{"value":"AP8="}]}', [b"\x00\xff"]),
    "json format": Shape(
        "application/vnd.kafka.json.v2+json", b'{"records":[{"value":{"a": 1.10}}]}', [b'{"a": 1.10}']
    ),
    "text format": Shape("application/vnd.kafka.text.v2+json", b'{"records":[{"value":"\\u00e4"}]}', [b"\xc3\xa4"]),
    "another type": Shape("image/png", b"\x89PNG\r\n\x00", [b"\x89PNG\r\n\x00"]),
    "form": Shape("application/x-www-form-urlencoded", b"a=b&c=d", [b"a=b&c=d"]),
    "no type": Shape(None, b"\xff", [b"\xff"]),
    "no body": Shape("text/plain", b"", [b""]),
    "multipart/mixed": Shape(
        "multipart/mixed; boundary=x",
        b"--x\r\n\r\none\r\n--x\r\n\r\n\r\ntwo\r\n\r\n--x--\r\n",
        [b"one", b"\r\ntwo\r\n"],
    ),
}  # fmt: skip


def in_chunks(body: bytes) -> Iterator[bytes]:
    """As requests sends it: `Transfer-Encoding: chunked`, without a length."""
    for start in range(0, len(body), 7):
        yield body[start : start + 7]


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_body_of_each_type_is_stored(
    service: Service, topic: TopicFactory, kafka: EmbeddedKafka, shape: Shape, chunked: bool
) -> None:
    name = topic()
    headers = {} if shape.content_type is None else {"Content-Type": shape.content_type}
    body: Any = in_chunks(shape.body) if chunked else shape.body
    answer = service.post(f"/messages/{name}{shape.query}", body, headers=headers)
    assert answer.status_code == 200, answer.text
    assert [record["offset"] for record in answer.json()["records"]] == list(range(len(shape.values)))
    assert [record.value for record in stored(kafka, name)] == shape.values


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
def test_put_stores_the_body_byte_for_byte(
    service: Service, topic: TopicFactory, kafka: EmbeddedKafka, chunked: bool
) -> None:
    name = topic()
    for body in (b"[1, 2]", b"\x00" * 300_000, b""):
        data: Any = in_chunks(body) if chunked else body
        headers = {"Content-Type": "application/json"}
        assert service.put(f"/messages/{name}", data, headers=headers).status_code == 200
    assert service.put(f"/messages/{name}?tombstone=true&key=k").status_code == 200
    assert [record.value for record in stored(kafka, name)] == [b"[1, 2]", b"\x00" * 300_000, b"", None]


def test_multipart_files_of_requests_are_stored(service: Service, topic: TopicFactory, kafka: EmbeddedKafka) -> None:
    name = topic(2)
    files = [
        ("one", ("a.txt", b"first", "text/plain", {"Kafka-Key": "k", "Kafka-Header-Colour": "red"})),
        ("two", ("b.bin", bytes(range(256)) * 300, "application/octet-stream", {"Kafka-Partition": "1"})),
        ("two", ("c", b"", "", {"Kafka-Partition": "0", "Kafka-Header-Base64-X": "/w=="})),
    ]
    answer = service.post(f"/messages/{name}?partition=1", files=files)
    assert answer.status_code == 200, answer.text
    assert [record["partition"] for record in answer.json()["records"]] == [1, 1, 0]
    assert stored(kafka, name, 2) == [
        (0, None, b"", [("X", b"\xff")]),
        (1, b"k", b"first", [("Colour", b"red")]),
        (1, None, bytes(range(256)) * 300, []),
    ]


def test_attributes_of_the_request_are_defaults_for_its_records(
    service: Service, topic: TopicFactory, kafka: EmbeddedKafka
) -> None:
    name = topic(3)
    headers = {"Kafka-Key": "k", "Kafka-Header-A-b": "1", "ce-id": "7", "Content-Type": "application/json"}
    body = {"records": [{"value": 1}, {"value": 2, "key": "own", "headers": {"A": "2"}}]}
    answer = service.post(f"/messages/{name}?partition=2&timestamp=1700000000000", json=body, headers=headers)
    assert answer.status_code == 200, answer.text
    assert {record["timestamp"] for record in answer.json()["records"]} == {1_700_000_000_000}
    assert [(each.partition, each.key, sorted(each.headers)) for each in stored(kafka, name, 3)] == [
        (2, b"k", [("a-b", b"1"), ("ce_id", b"7")]),
        (2, b"own", [("A", b"2"), ("a-b", b"1"), ("ce_id", b"7")]),
    ]


JAVAS_MURMUR2 = {
    # From org.apache.kafka.common.utils.UtilsTest.testMurmur2.
    b"21": -973932308,
    b"foobar": -790332482,
    b"a-little-bit-long-string": -985981536,
    b"a-little-bit-longer-string": -1486304829,
    b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
    b"abc": 479470107,
}


def test_keyed_records_use_the_partition_of_the_java_partitioner(service: Service, topic: TopicFactory) -> None:
    name = topic(7)
    body = {"records": [{"key": key.decode(), "value": 1} for key in JAVAS_MURMUR2]}
    expected = [(number & 0x7FFFFFFF) % 7 for number in JAVAS_MURMUR2.values()]
    answer = service.post(f"/messages/{name}", json=body)
    assert [record["partition"] for record in answer.json()["records"]] == expected
    by_header = [service.put(f"/messages/{name}", b"", headers={"Kafka-Key": key.decode()}) for key in JAVAS_MURMUR2]
    assert [answer.json()["records"][0]["partition"] for answer in by_header] == expected


def test_keyless_records_of_a_request_share_a_partition_and_requests_spread(
    service: Service, topic: TopicFactory
) -> None:
    name = topic(4)
    used: set[int] = set()
    requests, deadline = 0, time.monotonic() + 20
    while len(used) < 2 and time.monotonic() < deadline:
        requests += 1
        records = service.post(f"/messages/{name}", json=list(range(50))).json()["records"]
        (partition,) = {record["partition"] for record in records}
        offsets = [record["offset"] for record in records]
        assert offsets == list(range(offsets[0], offsets[0] + 50))
        used.add(partition)
    assert len(used) > 1
    assert requests > 1
    for page in service.follow(f"/messages/{name}/me/earliest?limit=100000"):
        values = [record["value"] for record in page["records"]]
        assert values == list(range(50)) * (len(values) // 50)


def test_publish_of_20000_records_returns_the_offset_of_each(service: Service, topic: TopicFactory) -> None:
    name = topic(2)
    body = {"records": [{"value": n, "partition": n % 2} for n in range(20_000)]}
    answer = service.post(f"/messages/{name}", json=body)
    assert answer.status_code == 200
    at = [(record["partition"], record["offset"]) for record in answer.json()["records"]]
    assert at == [(n % 2, n // 2) for n in range(20_000)]
    assert {(each["partition"], each["offset"]): each["value"] for each in service.records(name)} == {
        place: n for n, place in enumerate(at)
    }


@pytest.mark.parametrize(
    ("body", "status", "where"),
    [
        ('{"records":[{"value":1},{"value":2,"colour":3}]}', 400, (1, "colour")),
        ('{"records":[{"value":1},{"value":2,"partition":"0"}]}', 400, (1, "partition")),
        ('{"records":[{"value":1},{"value":"%","format":"binary"}]}', 400, (1, "value")),
        ('{"records":[{"value":1},{"value":2,"format":"text"}]}', 422, (1, "value")),
        ('{"records":[{"value":1},{"value":2,"partition":9}]}', 404, None),
        ('{"records":[{"value":1},{"value":2]}', 400, None),
        ('{"records":[]}', 400, None),
        ("[", 400, None),
    ],
)
def test_invalid_record_returns_an_error_and_writes_nothing(
    service: Service, topic: TopicFactory, body: str, status: int, where: tuple[int, str] | None
) -> None:
    name = topic()
    answer = service.post(f"/messages/{name}", body, headers={"Content-Type": "application/json"})
    assert answer.status_code == status, answer.text
    if where is not None:
        index, field = where
        error = answer.json()["error"]
        assert error["record"] == index
        assert field in f"{error['field']} {error['message']}"
    assert service.records(name) == []


def test_message_over_the_limit_of_the_broker_returns_413(service: Service, topic: TopicFactory) -> None:
    name = topic()
    answer = service.put(f"/messages/{name}", b"x" * 2_000_000)
    assert answer.status_code == 413
    assert answer.json()["error"]["limit"] == 1_048_588
    mixed = {"records": [{"value": 1}, {"value": "x" * 1_500_000}, {"value": 3}]}
    answer = service.post(f"/messages/{name}", json=mixed)
    assert answer.status_code == 207
    codes = [record.get("error", {}).get("code") for record in answer.json()["records"]]
    assert codes == [None, 413, None]
    assert [record["value"] for record in service.records(name)] == [1, 3]


def test_auto_create_topics_creates_a_topic_on_publish_only(
    start_service: ServiceFactory, kafka: EmbeddedKafka, service: Service
) -> None:
    creating = start_service(kafka.bootstrap_servers, auto_create_topics=True)
    name = f"created-{uuid4().hex[:12]}"
    for path in (f"/messages/{name}", f"/messages/{name}/me/earliest", f"/messages/{name}/me"):
        assert creating.get(path).status_code == 404
    assert service.put(f"/messages/{name}", "x").status_code == 404
    answer = creating.put(f"/messages/{name}", "x")
    assert answer.status_code == 200, answer.text
    assert [record["value"] for record in service.records(name)] == ["x"]
    assert name in json.loads(service.get("/messages").content)["topics"]
    assert creating.put("/messages/a%20b", "x").status_code == 400
