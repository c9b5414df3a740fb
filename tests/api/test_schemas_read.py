"""Reading records with schemas in both dialects. The schema id in the record decides."""

import struct
from collections.abc import Iterator
from typing import Any

import pytest
from flask.testing import FlaskClient

from kafka_http.records import NewRecord
from kafka_http.schemas.avro_serializer import AvroCodec
from tests.api.conftest import ClientFactory
from tests.support.fake_broker import FakeBroker
from tests.support.fake_registry import FakeRegistry, running_registry
from tests.support.v2_consumer import AVRO_V2, Consumer, error

POINT = '{"type": "record", "name": "P", "fields": [{"name": "x", "type": ["null", "int"]}]}'
X5 = {"x": {"int": 5}}


@pytest.fixture
def registry() -> Iterator[FakeRegistry]:
    with running_registry() as registry:
        yield registry


@pytest.fixture
def client(make_client: ClientFactory, registry: FakeRegistry) -> FlaskClient:
    return make_client(schema_registry={"url": registry.url, "timeout": 1.0})


def avro(registry: FakeRegistry, schema: str, data: Any) -> bytes:
    return struct.pack(">bI", 0, registry.add("any", schema)) + AvroCodec(schema).encode(data)


def write(broker: FakeBroker, value: bytes | None, key: bytes | None = None) -> None:
    broker.publish("t", [NewRecord(value, key)], 1).result()


def read(client: FlaskClient, **query: str) -> Any:
    response = client.get("/messages/t/me/earliest", query_string=query)
    assert response.status_code == 200, response.text
    return response.json["records"]


def test_page_decodes_records_with_schemas(client: FlaskClient, broker: FakeBroker, registry: FakeRegistry) -> None:
    write(broker, avro(registry, POINT, X5), avro(registry, '"long"', 7))
    write(broker, avro(registry, '"bytes"', "ÿ"))
    write(broker, None)

    first, second, third = read(client, format="avro", key_format="avro")

    assert (first["value"], first["format"], first["key"], first["key_format"]) == (X5, "avro", 7, "avro")
    assert (second["value"], second["key"]) == ("ÿ", None)
    assert (third["value"], third["format"]) == (None, None)


def test_records_with_schemas_without_a_format_are_bytes(
    client: FlaskClient, broker: FakeBroker, registry: FakeRegistry
) -> None:
    write(broker, avro(registry, '"bytes"', "ÿ"), b"key")

    (record,) = read(client)

    assert (record["format"], record["key"]) == ("binary", "key")
    assert "key_format" not in record


def test_read_with_format_auto_decodes_records_with_schemas_and_detects_the_others(
    client: FlaskClient, broker: FakeBroker, registry: FakeRegistry
) -> None:
    write(broker, avro(registry, POINT, X5), avro(registry, '"long"', 7))
    write(broker, struct.pack(">bI", 0, registry.add("any", '{"type": "string"}', type_="JSON")) + b'"json"', b"key")
    write(broker, b'{"plain": 1}', b"\xff")
    write(broker, struct.pack(">q", 12))  # begins like a record with a schema
    write(broker, None)

    records = read(client, format="auto", key_format="auto")

    assert [(each["value"], each["format"]) for each in records] == [
        (X5, "avro"), ("json", "jsonschema"), ({"plain": 1}, "json"), ("\0\0\0\0\0\0\0\x0c", "text"), (None, None)
    ]  # fmt: skip
    assert [(each["key"], each.get("key_format")) for each in records[:3]] == [
        (7, "avro"), ("key", None), ("/w==", "binary")
    ]  # fmt: skip


def test_read_with_format_auto_without_an_answer_of_the_registry_shows_bytes(
    client: FlaskClient, broker: FakeBroker, registry: FakeRegistry
) -> None:
    write(broker, struct.pack(">bI", 0, 77) + b"\xff")
    write(broker, b'"after"')
    registry.answer = (503, b"{}", {})

    assert [each["format"] for each in read(client, format="auto")] == ["binary", "json"]


def test_read_with_format_auto_uses_the_format_of_the_topic(make_client: ClientFactory, broker: FakeBroker) -> None:
    client = make_client(topics={"t": {"value": "text"}})
    write(broker, b'{"plain": 1}')

    assert read(client, format="auto")[0]["value"] == '{"plain": 1}'


def test_search_with_format_auto_finds_the_text_of_records_with_schemas(
    client: FlaskClient, broker: FakeBroker, registry: FakeRegistry
) -> None:
    write(broker, avro(registry, POINT, X5))
    lines = client.get(
        "/messages/t/me/earliest?until=end&format=auto&contains=int", headers={"Accept": "application/x-ndjson"}
    )

    assert lines.text.count('"int"') == 1


def test_v2_array_decodes_records_with_schemas(client: FlaskClient, broker: FakeBroker, registry: FakeRegistry) -> None:
    write(broker, avro(registry, POINT, X5), avro(registry, '"long"', 7))

    (by_consumer,) = Consumer(client, format="avro").assigned().records()
    (by_messages,) = client.get("/messages/t/me/earliest", headers={"Accept": AVRO_V2}).json

    assert (by_consumer["key"], by_consumer["value"]) == (7, X5)
    assert by_messages == by_consumer


def test_record_that_cannot_be_decoded_has_an_error(
    client: FlaskClient, broker: FakeBroker, registry: FakeRegistry
) -> None:
    unknown = struct.pack(">bI", 0, 99) + b"\x02"
    other = struct.pack(">bI", 0, registry.add("p", "message M {}", "PROTOBUF"))
    for value in (b'{"x": 5}', b"", unknown, other, avro(registry, POINT, X5) + b"!"):
        write(broker, value)
    write(broker, avro(registry, POINT, X5))

    *wrong, right = read(client, format="avro")
    consumed = Consumer(client, format="avro").assigned().records()

    assert right["value"] == X5
    assert all("value" not in each for each in wrong)
    reasons = ("zero byte", "zero byte", "no schema with the id 99", "PROTOBUF", "more bytes than its schema")
    for record, said in zip(wrong, reasons, strict=True):
        assert said in record["error"]["message"]
    assert [each.get("error", {}).get("error_code") for each in consumed] == [40801] * 5 + [None]
    assert consumed[0]["value"] == "eyJ4IjogNX0="
    assert consumed[5]["value"] == X5
    assert len([each for each in registry.requests if each.endswith("/99")]) == 1


def test_key_that_cannot_be_decoded_is_shown_without_format(client: FlaskClient, broker: FakeBroker) -> None:
    write(broker, b"1", b"plain")
    write(broker, b"1", b"\xff")

    plain, binary = read(client, key_format="avro")

    assert (plain["key"], "key_format" in plain) == ("plain", False)
    assert (binary["key"], binary["key_format"]) == ("/w==", "binary")


def test_key_that_decodes_to_null_is_not_a_missing_key(client: FlaskClient, broker: FakeBroker) -> None:
    write(broker, b"1", b"null")

    (record,) = read(client, key_format="json")

    assert record["key"] == "null"


def test_read_while_registry_is_down_returns_an_error(
    client: FlaskClient, broker: FakeBroker, registry: FakeRegistry
) -> None:
    write(broker, avro(registry, POINT, X5))
    consumer = Consumer(client, format="avro").assigned()
    registry.answer = (503, b"", {})

    response = client.get("/messages/t/me/earliest?format=avro")
    assert (response.status_code, response.json["error"]["code"]) == (503, 503)
    assert response.headers["Retry-After"]
    assert registry.url in response.json["error"]["message"]
    status, code, _ = error(client.get(f"{consumer.path}/records"))
    assert (status, code) == (503, 503)

    registry.answer = None
    assert consumer.values() == [X5]
    registry.answer = (503, b"", {})
    assert read(client, format="avro")[0]["value"] == X5


def test_missing_registry_setting_is_named_in_a_read(make_client: ClientFactory) -> None:
    client = make_client()

    for query in ("format=avro", "key_format=avro"):
        response = client.get(f"/messages/t/me/earliest?{query}")
        assert response.status_code == 415
        assert "schema_registry.url" in response.json["error"]["message"]
        assert "avro" not in response.json["error"]["formats"]


def test_formats_of_the_topic_settings_are_used_in_a_read(
    make_client: ClientFactory, broker: FakeBroker, registry: FakeRegistry
) -> None:
    topics = {"t.*": {"value": "avro", "key": "text"}, ".*": {"value": "binary"}}
    client = make_client(schema_registry={"url": registry.url}, topics=topics)
    write(broker, avro(registry, POINT, X5), b"anna")

    (record,) = read(client)
    assert (record["value"], record["format"], record["key"], record["key_format"]) == (X5, "avro", "anna", "text")
    (record,) = read(client, format="binary", key_format="binary")
    assert (record["format"], record["key"]) == ("binary", "YW5uYQ==")
    (record,) = Consumer(client, format="avro").assigned().records()
    assert (record["key"], record["value"]) == ("anna", X5)
