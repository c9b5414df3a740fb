"""JSON Schema with a real registry: our serializer and confluent-kafka's (the judge) read what the other writes."""

import json
from typing import Any
from uuid import uuid4

import pytest
from confluent_kafka.schema_registry import Schema, SchemaReference, SchemaRegistryClient
from confluent_kafka.schema_registry.json_schema import JSONDeserializer, JSONSerializer
from confluent_kafka.serialization import MessageField, SerializationContext, SerializationError

from kafka_http.demo.embedded_registry import EmbeddedRegistry
from kafka_http.errors import InvalidPayload, InvalidSchema
from kafka_http.schemas.jsonschema_serializer import JsonSchemaSerializer as OurSerializer
from kafka_http.schemas.registry import SchemaRegistry
from kafka_http.schemas.registry_settings import RegistrySettings
from kafka_http.schemas.schema_serializer import Role

FIELDS: dict[str, Role] = {MessageField.KEY: "key", MessageField.VALUE: "value"}


@pytest.fixture
def ours(registry: EmbeddedRegistry) -> OurSerializer:
    """Return a serializer with empty caches."""
    return OurSerializer({}, registry=SchemaRegistry(RegistrySettings(url=(registry.url,))))


@pytest.fixture
def topic() -> str:
    return f"topic-{uuid4().hex[:12]}"


DRAFTS = (
    "http://json-schema.org/draft-04/schema#",
    "http://json-schema.org/draft-06/schema#",
    "http://json-schema.org/draft-07/schema#",
    "https://json-schema.org/draft/2019-09/schema",
    "https://json-schema.org/draft/2020-12/schema",
)
ORDER: dict[str, Any] = {
    "type": "object",
    "title": "Order",
    "properties": {
        "item": {"type": "string"},
        "price": {"type": "number", "minimum": 0},
        "tags": {"type": "array", "items": {"enum": ["a", "b"]}},
        "parts": {"type": "array", "items": {"$ref": "#"}},
    },
    "required": ["item"],
}
DATA: dict[str, Any] = {"item": "ü😀", "price": 12.5, "tags": ["a"], "parts": [{"item": "x"}]}
WRONG: dict[str, Any] = {**DATA, "parts": [{"item": "x", "price": "cheap"}]}


def in_json(data: Any) -> bytes:
    return json.dumps(data).encode()


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("draft", DRAFTS)
def test_messages_are_compatible_with_confluent_kafka(
    judge: SchemaRegistryClient, ours: OurSerializer, topic: str, field: str, draft: str
) -> None:
    text = json.dumps({"$schema": draft, **ORDER})
    context = SerializationContext(topic, field)
    writes = JSONSerializer(text, judge)
    theirs = writes(DATA, context)
    assert theirs is not None
    assert json.loads(ours.deserialize(topic, [], theirs)) == DATA

    request = ours.for_request(FIELDS[field], topic, schema=text)
    written = request.serialize(topic, [], in_json(DATA))
    assert written[:5] == theirs[:5]
    assert JSONDeserializer(text, schema_registry_client=judge)(written, context) == DATA

    with pytest.raises(SerializationError):
        writes(WRONG, context)
    with pytest.raises(InvalidPayload) as raised:
        request.serialize(topic, [], in_json(WRONG))
    assert (raised.value.path, raised.value.problem) == (".parts[0].price", "expected number, got string")


def test_messages_with_references_are_compatible_with_confluent_kafka(
    judge: SchemaRegistryClient, ours: OurSerializer, topic: str
) -> None:
    zip_code = {"$schema": DRAFTS[2], "$id": "http://a.example/zip.json", "type": "string", "pattern": "^[0-9]{4}$"}
    address = {"type": "object", "properties": {"zip": {"$ref": "http://a.example/zip.json"}}, "required": ["zip"]}
    customer = {"type": "object", "properties": {"home": {"$ref": "http://a.example/address.json"}}}
    inner = SchemaReference("http://a.example/zip.json", f"{topic}-zip", 1)
    outer = SchemaReference("http://a.example/address.json", f"{topic}-address", 1)
    judge.register_schema(f"{topic}-zip", Schema(json.dumps(zip_code), "JSON"))
    judge.register_schema(f"{topic}-address", Schema(json.dumps(address), "JSON", [inner]))
    schema = Schema(json.dumps(customer), "JSON", [outer])
    context = SerializationContext(topic, MessageField.VALUE)

    theirs = JSONSerializer(schema, judge)({"home": {"zip": "1010"}}, context)
    assert theirs is not None
    assert json.loads(ours.deserialize(topic, [], theirs)) == {"home": {"zip": "1010"}}

    request = ours.for_request("value", topic)
    written = request.serialize(topic, [], b'{"home": {"zip": "1010"}}')
    assert written[:5] == theirs[:5]
    assert JSONDeserializer(schema, schema_registry_client=judge)(written, context) == {"home": {"zip": "1010"}}
    with pytest.raises(InvalidPayload) as raised:
        request.serialize(topic, [], b'{"home": {"zip": "x"}}')
    assert raised.value.path == ".home.zip"


def test_text_is_stored_unchanged(ours: OurSerializer, topic: str) -> None:
    request = ours.for_request("value", topic, schema=json.dumps({"$schema": DRAFTS[2], "type": "number"}))
    assert request.serialize(topic, [], b"1.00")[5:] == b"1.00"


def test_invalid_schema_is_not_registered(ours: OurSerializer, judge: SchemaRegistryClient, topic: str) -> None:
    for text in ("{", "[]", '{"type": "text"}', '{"$ref": "http://127.0.0.1:1/x"}', '{"$ref": "other.json"}'):
        with pytest.raises(InvalidSchema):
            ours.for_request("value", topic, schema=text)
    assert f"{topic}-value" not in judge.get_subjects()


def test_schema_that_registry_rejects_is_rejected(ours: OurSerializer, topic: str) -> None:
    ours.for_request("value", topic, schema='{"type": "object", "properties": {"a": {"type": "string"}}}')
    with pytest.raises(InvalidSchema, match="rejects it for the subject"):
        ours.for_request("value", topic, schema='{"type": "object", "properties": {"a": {"type": "number"}}}')


def test_schema_of_another_format_is_rejected(judge: SchemaRegistryClient, ours: OurSerializer, topic: str) -> None:
    schema_id = judge.register_schema(f"{topic}-value", Schema('"int"', "AVRO"))
    with pytest.raises(InvalidSchema, match="is one of AVRO, not of JSON"):
        ours.for_request("value", topic, schema_id=schema_id)
