"""PUT and POST /messages/<topic>."""

import base64
from io import BytesIO
from typing import Any

import pytest
from flask.testing import FlaskClient

from tests.support.fake_broker import FakeBroker

JSON = "application/json"
NDJSON = "application/x-ndjson"


@pytest.fixture(params=[False, True], ids=["views", "fast path"])
def is_fast_path(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def stored(broker: FakeBroker, topic: str = "t") -> list[tuple[bytes | None, bytes | None]]:
    """Return (key, value) of all records of a topic, partition by partition."""
    return [(record.key, record.value) for record in broker.records(topic)]


def values(broker: FakeBroker, topic: str = "t") -> list[bytes | None]:
    return [value for _, value in stored(broker, topic)]


@pytest.mark.parametrize("content_type", [JSON, NDJSON, "text/plain", "application/x-www-form-urlencoded", None])
@pytest.mark.parametrize("body", [b'{"records":[{"value":1}]}', b"\x00\xff\r\n", b""])
def test_put_stores_the_body_byte_for_byte(
    client: FlaskClient, broker: FakeBroker, content_type: str, body: bytes
) -> None:
    response = client.put("/messages/t", data=body, content_type=content_type)
    assert response.status_code == 200
    assert values(broker) == [body]
    (record,) = response.json["records"]
    assert response.json["topic"] == "t"
    assert (record["partition"], record["offset"]) == (0, 0)
    assert record["timestamp"] > 1_700_000_000_000


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("text/plain", b"hello"),
        (None, b"\xff\x00"),
        ("application/x-www-form-urlencoded", b"a=b&c=d"),
        ("image/png", b""),
    ],
)
def test_post_of_other_content_types_stores_the_body_byte_for_byte(
    client: FlaskClient, broker: FakeBroker, content_type: str | None, body: bytes
) -> None:
    assert client.post("/messages/t", data=body, content_type=content_type).status_code == 200
    assert values(broker) == [body]


@pytest.mark.parametrize("method", ["PUT", "POST"])
def test_tombstone_is_stored_as_null(client: FlaskClient, broker: FakeBroker, method: str) -> None:
    response = client.open("/messages/t?tombstone=true&key=k", method=method)
    assert response.status_code == 200
    assert stored(broker) == [(b"k", None)]


def test_tombstone_without_key_is_stored(client: FlaskClient, broker: FakeBroker) -> None:
    assert client.put("/messages/t?tombstone=true").status_code == 200
    assert stored(broker) == [(None, None)]


def test_tombstone_with_a_body_returns_400(client: FlaskClient, broker: FakeBroker) -> None:
    response = client.put("/messages/t?tombstone=true", data=b"x")
    assert (response.status_code, response.json["error"]["field"]) == (400, "tombstone")
    assert stored(broker) == []


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"records": [{"value": {"a": 1.00}}, {"value": "x"}, {"value": null}]}', [b'{"a": 1.00}', b'"x"', None]),
        (b' {"records":[{"value":12345678901234567890.10}]}', [b"12345678901234567890.10"]),
        (b'[1, "two", {"three": [3]}, null]', [b"1", b'"two"', b'{"three": [3]}', None]),
        (b'{"hello": "world"}', [b'{"hello": "world"}']),
        (b'{"records": 5}', [b'{"records": 5}']),
        (b'{"records": [{"value": 1}], "more": 1}', [b'{"records": [{"value": 1}], "more": 1}']),
        (b' "text" ', [b' "text" ']),
        (b"null", [b"null"]),
        (b"12", [b"12"]),
        ('["é"]'.encode(), ['"é"'.encode()]),
    ],
)
def test_post_of_json_stores_its_messages(
    client: FlaskClient, broker: FakeBroker, body: bytes, expected: list[bytes | None]
) -> None:
    response = client.post("/messages/t", data=body, content_type=JSON)
    assert response.status_code == 200, response.text
    assert values(broker) == expected
    assert [record["offset"] for record in response.json["records"]] == list(range(len(expected)))


def test_content_type_with_parameters_and_capitals_is_accepted(client: FlaskClient, broker: FakeBroker) -> None:
    assert client.post("/messages/t", data=b"[1,2]", content_type="Application/JSON; charset=utf-8").status_code == 200
    assert values(broker) == [b"1", b"2"]


@pytest.mark.parametrize(
    ("record", "key", "value"),
    [
        ({"value": 1, "key": "k"}, b"k", b"1"),
        ({"value": 1, "key": 5}, b"5", b"1"),
        ({"value": 1, "key": {"a": [1, 2]}}, b'{"a":[1,2]}', b"1"),
        ({"value": 1, "key": None}, None, b"1"),
        ({"value": 1, "key": b64(b"\xff\x00"), "key_format": "binary"}, b"\xff\x00", b"1"),
        ({"value": "é", "format": "text"}, None, "é".encode()),
        ({"value": b64(b"\x00\x01"), "format": "binary"}, None, b"\x00\x01"),
        ({"value": None, "format": "text", "key": "k"}, b"k", None),
        ({"value": "x", "format": None}, None, b'"x"'),
    ],
)
def test_record_with_key_and_formats_is_serialized(
    client: FlaskClient, broker: FakeBroker, record: dict[str, Any], key: bytes | None, value: bytes | None
) -> None:
    response = client.post("/messages/t", json={"records": [record]})
    assert response.status_code == 200, response.text
    assert stored(broker) == [(key, value)]


def test_record_with_partition_timestamp_and_headers_is_stored(client: FlaskClient, broker: FakeBroker) -> None:
    record = {
        "value": 1,
        "partition": 2,
        "timestamp": 1234567890123,
        "headers": [["Name", "text"], ["b_in", {"base64": b64(b"\xff")}], ["none", None], ["Name", "again"]],
    }
    response = client.post("/messages/three", json={"records": [record]})
    assert response.json["records"] == [{"partition": 2, "offset": 0, "timestamp": 1234567890123}]
    (written,) = broker.records("three")
    assert (written.partition, written.timestamp) == (2, 1234567890123)
    assert written.headers == [("Name", b"text"), ("b_in", b"\xff"), ("none", None), ("Name", b"again")]


def test_headers_as_an_object_are_stored(client: FlaskClient, broker: FakeBroker) -> None:
    client.post("/messages/t", json={"records": [{"value": 1, "headers": {"a": "1", "b": None}}]})
    assert broker.records("t")[0].headers == [("a", b"1"), ("b", None)]


@pytest.mark.parametrize(
    ("body", "format_", "expected"),
    [(b'["a", "b"]', "text", [b"a", b"b"]), (b'["AA==", null]', "binary", [b"\x00", None]), (b'"a"', "text", [b"a"])],
)
def test_format_parameter_serializes_all_records(
    client: FlaskClient, broker: FakeBroker, body: bytes, format_: str, expected: list[bytes | None]
) -> None:
    response = client.post(f"/messages/t?format={format_}", data=body, content_type=JSON)
    assert response.status_code == 200, response.text
    assert values(broker) == expected


def test_ndjson_lines_are_stored_byte_for_byte(client: FlaskClient, broker: FakeBroker) -> None:
    body = b'{"a": 1.0}\r\n\n  \n"two" \nnull'
    response = client.post("/messages/t", data=body, content_type=NDJSON)
    assert response.status_code == 200, response.text
    assert values(broker) == [b'{"a": 1.0}', b'"two" ', b"null"]


def test_ndjson_lines_as_records_are_stored(client: FlaskClient, broker: FakeBroker) -> None:
    body = (
        b'{"value": "a", "format": "text", "key": "k", "partition": 1, "topic": "else", "offset": 7}\n{"value": null}\n'
    )
    response = client.post("/messages/three?lines=records&partitions=keep", data=body, content_type=NDJSON)
    assert response.status_code == 200, response.text
    assert response.json["records"][0]["partition"] == 1
    assert set(stored(broker, "three")) == {(b"k", b"a"), (None, None)}


def test_partition_of_a_line_is_kept_only_with_partitions_keep(client: FlaskClient, broker: FakeBroker) -> None:
    body = b'{"value": 1, "partition": 7}\n'
    assert client.post("/messages/t?lines=records", data=body, content_type=NDJSON).status_code == 200
    assert client.post("/messages/t?lines=records&partitions=keep", data=body, content_type=NDJSON).status_code == 404


@pytest.mark.parametrize("kind", ["mixed", "form-data"])
def test_multipart_stores_each_part_as_a_message(client: FlaskClient, broker: FakeBroker, kind: str) -> None:
    body = (
        b"--b0\r\nContent-Type: text/plain\r\nKafka-Key: k1\r\nKafka-Partition: 2\r\nKafka-Header-Trace_Id: x\r\n\r\n"
        b"one\r\n\x00\xff--b0x\r\n--b0\r\nKafka-Timestamp: 5\r\n\r\n\r\n--b0\r\n\r\nthree\r\n--b0--\r\n"
    )
    response = client.post("/messages/three?partition=1", data=body, content_type=f'multipart/{kind}; boundary="b0"')
    assert response.status_code == 200, response.text
    assert [(each["partition"], each["offset"]) for each in response.json["records"]] == [(2, 0), (1, 0), (1, 1)]
    written = broker.records("three")
    assert [(each.key, each.value) for each in written] == [
        (None, b""),
        (None, b"three"),
        (b"k1", b"one\r\n\x00\xff--b0x"),
    ]
    assert written[0].timestamp == 5
    assert written[2].headers == [("Trace_Id", b"x")]


def test_multipart_with_many_parts_is_stored(client: FlaskClient, broker: FakeBroker) -> None:
    part = b"--b\r\n" + b"".join(b"Kafka-Header-h%d: x\r\n" % n for n in range(20)) + b"\r\nv\r\n"
    response = client.post("/messages/t", data=part * 3000 + b"--b--", content_type="multipart/mixed; boundary=b")
    assert response.status_code == 200, response.text
    assert len(broker.records("t")) == 3000
    assert len(broker.records("t")[0].headers) == 20


def test_v2_json_body_is_stored(client: FlaskClient, broker: FakeBroker) -> None:
    body = {
        "records": [{"key": "k", "value": {"a": 1}, "headers": [{"key": "h", "value": b64(b"x")}]}, {"value": None}]
    }
    response = client.post("/messages/t", json=body, headers={"Content-Type": "application/vnd.kafka.json.v2+json"})
    assert response.status_code == 200, response.text
    assert stored(broker) == [(b'"k"', b'{"a": 1}'), (None, None)]
    assert broker.records("t")[0].headers == [("h", b"x")]
    assert response.json["records"][1]["offset"] == 1


def test_v2_binary_body_is_stored(client: FlaskClient, broker: FakeBroker) -> None:
    body = {"records": [{"key": b64(b"\x01"), "value": b64(b"\x02")}]}
    response = client.post("/messages/t", json=body, headers={"Content-Type": "application/vnd.kafka.binary.v2+json"})
    assert response.status_code == 200, response.text
    assert stored(broker) == [(b"\x01", b"\x02")]


@pytest.mark.parametrize("kind", ["nope.v2", "v2", "json.v3"])
def test_unknown_format_in_content_type_returns_415(client: FlaskClient, kind: str) -> None:
    content_type = f"application/vnd.kafka.{kind}+json"
    response = client.post("/messages/t", data=b'{"records":[{"value":1}]}', content_type=content_type)
    assert response.status_code == 415
    assert "json" in response.json["error"]["message"]
    assert "binary" in response.json["error"]["message"]


def test_attributes_of_the_request_apply_to_all_records(client: FlaskClient, broker: FakeBroker) -> None:
    headers = {
        "Kafka-Key": "k",
        "Kafka-Timestamp": "7",
        "Kafka-Header-Source": "shop",
        "Kafka-Header-Base64-Raw": b64(b"\xff"),
    }
    records = [{"value": 1}, {"value": 2, "key": "own", "timestamp": 8, "headers": {"source": "mine"}}]
    response = client.post("/messages/three?partition=1", json={"records": records}, headers=headers)
    assert response.status_code == 200, response.text
    first, second = broker.records("three")
    assert (first.partition, first.key, first.timestamp) == (1, b"k", 7)
    assert first.headers == [("source", b"shop"), ("raw", b"\xff")]
    assert (second.partition, second.key, second.timestamp) == (1, b"own", 8)
    assert second.headers == [("source", b"mine"), ("raw", b"\xff")]


def test_trace_context_and_cloudevents_become_headers(client: FlaskClient, broker: FakeBroker) -> None:
    headers = {
        "traceparent": "00-a-b-01",
        "tracestate": "x=1",
        "ce-id": "5",
        "ce-type": "order",
        "Kafka-Key-Base64": "/w==",
    }
    assert client.put("/messages/t", data=b"x", headers=headers).status_code == 200
    (record,) = broker.records("t")
    assert sorted(record.headers) == [
        ("ce_id", b"5"),
        ("ce_type", b"order"),
        ("traceparent", b"00-a-b-01"),
        ("tracestate", b"x=1"),
    ]
    assert record.key == b"\xff"


def test_equal_query_and_header_attributes_are_accepted(client: FlaskClient, broker: FakeBroker) -> None:
    assert client.put("/messages/t?key=k", data=b"x", headers={"Kafka-Key": "k"}).status_code == 200
    assert stored(broker) == [(b"k", b"x")]


@pytest.mark.parametrize(
    ("query", "headers", "field"),
    [
        ("key=a", {"Kafka-Key": "b"}, "key"),
        ("partition=0", {"Kafka-Partition": "1"}, "partition"),
        ("timestamp=1", {"Kafka-Timestamp": "2"}, "timestamp"),
        ("", {"Kafka-Key": "b", "Kafka-Key-Base64": "AA=="}, "Kafka-Key"),
        ("", {"Kafka-Key": "\xff"}, "Kafka-Key"),
        ("", {"Kafka-Header-X": "\xff"}, "Kafka-Header-X"),
        ("", {"Kafka-Key-Base64": "?"}, "Kafka-Key-Base64"),
        ("", {"Kafka-Header-": "x"}, "Kafka-Header-"),
        ("", {"Kafka-Partition": "-1"}, "Kafka-Partition"),
        ("", {"Kafka-Timestamp": "soon"}, "Kafka-Timestamp"),
        ("partition=x", {}, "partition"),
        ("partition=-1", {}, "partition"),
        ("partition=99999999999", {}, "partition"),
        ("timestamp=1.5", {}, "timestamp"),
        ("timeout=x", {}, "timeout"),
        ("timeout=61", {}, "timeout"),
        ("timeout=-1", {}, "timeout"),
        ("key=a&key=b", {}, "key"),
        ("partiton=1", {}, "partiton"),
        ("lines=records", {}, "lines"),
        ("tombstone=yes", {}, "tombstone"),
        ("format=text", {}, "format"),
    ],
)
def test_invalid_attribute_returns_400(
    client: FlaskClient, broker: FakeBroker, query: str, headers: dict[str, str], field: str
) -> None:
    response = client.put(f"/messages/t?{query}", data=b"x", headers=headers)
    assert response.status_code == 400, response.text
    assert response.json["error"]["code"] == 400
    assert response.json["error"]["field"] == field
    assert stored(broker) == []


@pytest.mark.parametrize(
    ("content_type", "body", "where"),
    [
        (JSON, b"{", {}),
        (JSON, b"", {}),
        (JSON, b'{"a": "\xff"}', {}),
        (JSON, b'["\xff"]', {}),
        (JSON, b'{"records": []}', {"field": "records"}),
        (JSON, b"[]", {"field": "records"}),
        (JSON, b"[" * 100_000, {}),
        (JSON, b'{"records": [{"value": 1}, {"valu": 1}]}', {"record": 1, "field": "valu"}),
        (JSON, b'{"records": [{"value": 1}, {"key": 1}]}', {"record": 1, "field": "value"}),
        (JSON, b'{"records": [{"value": 1, "partition": "0"}]}', {"record": 0, "field": "partition"}),
        (JSON, b'{"records": [{"value": 1, "partition": -1}]}', {"record": 0, "field": "partition"}),
        (JSON, b'{"records": [{"value": 1, "timestamp": 1.5}]}', {"record": 0, "field": "timestamp"}),
        (JSON, b'{"records": [{"value": 1, "headers": 5}]}', {"record": 0, "field": "headers"}),
        (JSON, b'{"records": [{"value": 1, "headers": {"a": {"base64": "?"}}}]}', {"record": 0, "field": "headers.a"}),
        (JSON, b'{"records": [{"value": 1}, {"value": "?", "format": "binary"}]}', {"record": 1, "field": "value"}),
        (JSON, b'{"records": [{"value": 1, "key": "?", "key_format": "binary"}]}', {"record": 0, "field": "key"}),
        (JSON, b'{"records": [5]}', {"record": 0}),
        (NDJSON, b"", {"field": "records"}),
        (NDJSON, b"1\n\n{\n", {"record": 1}),
        (NDJSON, b'1\n"\xff"', {"record": 1}),
        ("multipart/mixed", b"--b--", {"field": "Content-Type"}),
        (f"multipart/mixed; boundary={'b' * 257}", b"--%b--" % (b"b" * 257), {"field": "Content-Type"}),
        ("multipart/mixed; boundary*=utf-8''%E2%82%AC", b"--\xe2\x82\xac--", {"field": "Content-Type"}),
        (
            "multipart/form-data; boundary=b",
            b"--b\r\nKafka-Key: 1\r\nkafka-key: 1\r\n\r\nx\r\n--b--",
            {"record": 0, "field": "kafka-key"},
        ),
        ("multipart/mixed; boundary=b", b"", {}),
        ("multipart/mixed; boundary=b", b"nonsense", {}),
        ("multipart/mixed; boundary=b", b"--b\r\n\r\nx\r\n", {}),
        (
            "multipart/mixed; boundary=b",
            b"--b\r\nKafka-Partition: x\r\n\r\nx\r\n--b--",
            {"record": 0, "field": "Kafka-Partition"},
        ),
        ("application/vnd.kafka.json.v2+json", b'{"records": [{"valu": 1}]}', {"record": 0, "field": "valu"}),
        ("application/vnd.kafka.json.v2+json", b"[]", {}),
        ("application/vnd.kafka.binary.v2+json", b'{"records": [{"value": 1}]}', {"record": 0, "field": "value"}),
        (
            "application/vnd.kafka.json.v2+json",
            b'{"records": [{"value": 1, "headers": [{"key": "h", "value": "?"}]}]}',
            {"record": 0, "field": "headers.h"},
        ),
    ],
)
def test_malformed_body_returns_400(
    client: FlaskClient, broker: FakeBroker, content_type: str, body: bytes, where: dict[str, Any]
) -> None:
    response = client.post("/messages/t", data=body, content_type=content_type)
    assert response.status_code == 400, response.text
    error = response.json["error"]
    assert error.pop("code") == 400
    assert error.pop("message")
    assert error == where
    assert stored(broker) == []


def test_line_with_an_error_returns_400(client: FlaskClient, broker: FakeBroker) -> None:
    body = b'{"value": 1}\n{"error": {"code": 422}, "offset": 3}\n'
    response = client.post("/messages/t?lines=records", data=body, content_type=NDJSON)
    assert (response.status_code, response.json["error"]["record"]) == (400, 1)
    assert stored(broker) == []


def test_value_that_does_not_fit_its_format_returns_422(client: FlaskClient, broker: FakeBroker) -> None:
    records = [{"value": 1}, {"value": 2, "format": "text"}]
    response = client.post("/messages/t", json={"records": records})
    assert response.status_code == 422
    assert (response.json["error"]["record"], response.json["error"]["field"]) == (1, "value")
    assert stored(broker) == []


@pytest.mark.parametrize("record", [{"value": 1, "format": "nope"}, {"value": 1, "key": 1, "key_format": "nope"}])
def test_unknown_format_returns_415(client: FlaskClient, broker: FakeBroker, record: dict[str, Any]) -> None:
    response = client.post("/messages/t", json={"records": [{"value": 0}, record]})
    assert response.status_code == 415
    assert response.json["error"]["record"] == 1
    assert response.json["error"]["formats"] == ["binary", "json", "text"]
    assert stored(broker) == []


@pytest.mark.parametrize("topic", ["a b", "ä", "..", "x" * 250, "a,b"])
def test_invalid_topic_name_returns_400(client: FlaskClient, topic: str) -> None:
    assert client.put(f"/messages/{topic}", data=b"x").status_code == 400


def test_publish_to_an_unknown_topic_returns_404(client: FlaskClient, broker: FakeBroker) -> None:
    response = client.put("/messages/nope", data=b"x")
    assert (response.status_code, response.json["error"]["code"]) == (404, 40401)
    assert "nope" not in broker.log.topics()


def test_publish_to_an_unknown_partition_returns_404_with_the_count(client: FlaskClient, broker: FakeBroker) -> None:
    records = [{"value": 1, "partition": 0}, {"value": 1, "partition": 3}]
    response = client.post("/messages/three", json={"records": records})
    assert (response.status_code, response.json["error"]["code"]) == (404, 40402)
    assert response.json["error"]["partitions"] == 3
    assert stored(broker, "three") == []


def test_body_over_max_body_bytes_returns_413(make_client: Any, broker: FakeBroker) -> None:
    client = make_client(max_body_bytes=2000)
    assert client.put("/messages/t", data=b"x" * 2000).status_code == 200
    response = client.put("/messages/t", data=b"x" * 2001)
    assert (response.status_code, response.json["error"]["limit"]) == (413, 2000)
    assert len(stored(broker)) == 1


def test_chunked_body_over_max_body_bytes_returns_413(make_client: Any, broker: FakeBroker) -> None:
    client = make_client(max_body_bytes=2000)
    for size, status in ((2000, 200), (2001, 413)):
        response = client.put(
            "/messages/t",
            input_stream=BytesIO(b"x" * size),
            headers={"Transfer-Encoding": "chunked"},
            environ_overrides={"wsgi.input_terminated": True},
        )
        assert response.status_code == status
    assert [len(value or b"") for value in values(broker)] == [2000]


class Broken(BytesIO):
    """A stream like gunicorn's, which has its own exceptions for malformed chunks."""

    def read(self, size: int | None = -1) -> bytes:
        raise RuntimeError("Invalid chunk size: b'zz'")


def test_malformed_chunks_return_400(client: FlaskClient, broker: FakeBroker) -> None:
    response = client.put(
        "/messages/t",
        input_stream=Broken(),
        headers={"Transfer-Encoding": "chunked"},
        environ_overrides={"wsgi.input_terminated": True},
    )
    assert response.status_code == 400
    assert "incomplete" in response.json["error"]["message"]
    assert stored(broker) == []


def test_chunked_body_over_max_in_flight_is_accepted_alone(make_client: Any, broker: FakeBroker) -> None:
    client = make_client(max_in_flight=1024)
    response = client.put(
        "/messages/t",
        input_stream=BytesIO(b"x" * 200_000),
        headers={"Transfer-Encoding": "chunked"},
        environ_overrides={"wsgi.input_terminated": True},
    )
    assert response.status_code == 200


def test_chunked_body_that_the_server_cannot_delimit_returns_411(client: FlaskClient, broker: FakeBroker) -> None:
    response = client.put("/messages/t", data=b"x", headers={"Transfer-Encoding": "chunked"})
    assert response.status_code == 411
    assert stored(broker) == []


def test_unknown_content_encoding_returns_415(client: FlaskClient, broker: FakeBroker) -> None:
    response = client.put("/messages/t", data=b"x", headers={"Content-Encoding": "br"})
    assert response.status_code == 415
    assert stored(broker) == []


@pytest.mark.parametrize("server", [{}, {"wsgi.input_terminated": True}])
def test_body_shorter_than_content_length_returns_400(
    client: FlaskClient, broker: FakeBroker, server: dict[str, bool]
) -> None:
    response = client.put("/messages/t", data=b"xyz", environ_overrides={"CONTENT_LENGTH": "10", **server})
    assert response.status_code == 400
    assert stored(broker) == []


def test_message_over_the_limit_of_the_broker_returns_413(client: FlaskClient, broker: FakeBroker) -> None:
    broker.message_limit = 100
    response = client.put("/messages/t", data=b"x" * 200)
    assert (response.status_code, response.json["error"]["code"]) == (413, 413)
    assert response.json["error"]["limit"] == 100


def test_partial_failure_returns_207(client: FlaskClient, broker: FakeBroker) -> None:
    broker.message_limit = 100
    response = client.post("/messages/t", json=["small", "x" * 200, "small too"])
    assert response.status_code == 207
    first, second, third = response.json["records"]
    assert (first["offset"], third["offset"]) == (0, 1)
    assert second["error"]["code"] == 413
    assert len(stored(broker)) == 2


def test_failure_of_all_records_returns_the_first_error(client: FlaskClient, broker: FakeBroker) -> None:
    broker.message_limit = 100
    response = client.post("/messages/t", json=["x" * 200, "x" * 300])
    assert response.status_code == 413
    assert response.json["error"]["code"] == 413
    assert len(response.json["records"]) == 2


def test_publish_denied_by_acls_returns_403(client: FlaskClient, broker: FakeBroker) -> None:
    broker.refused.add("t")
    response = client.put("/messages/t", data=b"x")
    assert (response.status_code, response.json["error"]["code"]) == (403, 40301)


def test_publish_while_broker_is_down_returns_503(client: FlaskClient, broker: FakeBroker) -> None:
    broker.down = True
    response = client.put("/messages/t", data=b"x")
    assert (response.status_code, response.json["error"]["code"]) == (503, 50302)
    assert int(response.headers["Retry-After"]) >= 1


def test_publish_without_acknowledgment_in_time_returns_504(client: FlaskClient, broker: FakeBroker) -> None:
    broker.silent = True
    response = client.put("/messages/t?timeout=0.05", data=b"x")
    assert (response.status_code, response.json["error"]["code"]) == (504, 504)
    assert "may have been written" in response.json["error"]["message"]


def test_formats_of_the_topic_settings_are_used(make_client: Any, broker: FakeBroker) -> None:
    client = make_client(topics={"t.*": {"value": "binary", "key": "text"}})
    records = [{"value": "AP8=", "key": "k"}, {"value": "x", "format": "text"}, {"value": 1, "format": "json"}]
    assert client.post("/messages/t", json={"records": records}).status_code == 200
    assert client.post("/messages/t", data=b'"AP8="', content_type=JSON).status_code == 200
    assert client.post("/messages/t?format=json", json=["AP8="]).status_code == 200
    assert client.put("/messages/t", data=b'"AP8="', content_type=JSON).status_code == 200
    v2 = {"records": [{"value": 1, "key": "k"}]}
    assert client.post("/topics/t", json=v2, content_type="application/vnd.kafka.json.v2+json").status_code == 200
    assert stored(broker) == [
        *((b"k", b"\x00\xff"), (None, b"x"), (None, b"1"), (None, b"\x00\xff")),
        *((None, b'"AP8="'), (None, b'"AP8="'), (b"k", b"1")),
    ]


INTERNAL = ["__consumer_offsets", "__transaction_state", "__share_group_state"]


@pytest.mark.parametrize("topic", INTERNAL)
@pytest.mark.parametrize("headers", [{}, {"Prefer": "respond-async"}])
@pytest.mark.parametrize("path", ["/messages", "/topics"])
def test_publish_to_an_internal_topic_is_rejected(
    client: FlaskClient, broker: FakeBroker, topic: str, headers: dict[str, str], path: str
) -> None:
    """An asynchronous publish too: a 202 would promise what Kafka rejects."""
    broker.create_topic(topic)
    broker.down = True
    response = client.post(f"{path}/{topic}", json={"records": [{"value": 1}]}, headers=headers)
    assert response.status_code == 400
    assert topic in response.text
    assert client.get("/tasks").json["tasks"] == []


def test_longest_multipart_boundary_is_accepted(client: FlaskClient, broker: FakeBroker) -> None:
    boundary = "b" * 256
    body = f"--{boundary}\r\n\r\nx\r\n--{boundary}--".encode()
    content_type = f"multipart/mixed; boundary={boundary}"
    assert client.post("/messages/t", data=body, content_type=content_type).status_code == 200
