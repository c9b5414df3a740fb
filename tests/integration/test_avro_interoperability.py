"""Avro with a real registry: our serializer and confluent-kafka's (the judge) read what the other writes."""

import json
import math
from typing import Any
from uuid import uuid4

import pytest
from confluent_kafka.schema_registry import Schema, SchemaReference, SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroDeserializer, AvroSerializer
from confluent_kafka.serialization import MessageField, SerializationContext

from kafka_http.demo.embedded_registry import EmbeddedRegistry
from kafka_http.errors import InvalidSchema, MissingKeySchema, MissingValueSchema
from kafka_http.schemas.avro_serializer import AvroSerializer as OurSerializer
from kafka_http.schemas.registry import SchemaRegistry
from kafka_http.schemas.registry_settings import RegistrySettings
from kafka_http.schemas.schema_serializer import Role

FIELDS = {MessageField.KEY: "key", MessageField.VALUE: "value"}


@pytest.fixture
def ours(registry: EmbeddedRegistry) -> OurSerializer:
    """Return a serializer with empty caches."""
    return OurSerializer({}, registry=SchemaRegistry(RegistrySettings(url=(registry.url,))))


@pytest.fixture
def topic() -> str:
    return f"topic-{uuid4().hex[:12]}"


ADDRESS = {
    "type": "record",
    "name": "Address",
    "namespace": "org.example",
    "fields": [{"name": "zip", "type": "string"}, {"name": "floor", "type": ["null", "int", "string"]}],
}
EVERYTHING = {
    "type": "record",
    "name": "Everything",
    "namespace": "org.example",
    "fields": [
        {"name": "boolean", "type": "boolean"},
        {"name": "int", "type": "int"},
        {"name": "long", "type": "long"},
        {"name": "float", "type": "float"},
        {"name": "double", "type": "double"},
        {"name": "bytes", "type": "bytes"},
        {"name": "string", "type": "string"},
        {"name": "fixed", "type": {"type": "fixed", "name": "Two", "size": 2}},
        {"name": "enum", "type": {"type": "enum", "name": "Suit", "symbols": ["SPADES", "HEARTS"]}},
        {"name": "array", "type": {"type": "array", "items": ["null", "long"]}},
        {"name": "map", "type": {"type": "map", "values": ADDRESS}},
        {"name": "union", "type": ["null", "string", "Address", "Two"]},
        {"name": "other", "type": ["null", "Everything"]},
    ],
}
IN_JSON: dict[str, Any] = {
    "boolean": True,
    "int": -5,
    "long": 2**62,
    "float": 0.5,
    "double": 1e300,
    "bytes": "\u00ff\u0000",
    "string": "ü😀",
    "fixed": "\u00fe\u0001",
    "enum": "HEARTS",
    "array": [None, {"long": 1}],
    "map": {"a": {"zip": "1010", "floor": {"int": 3}}},
    "union": {"org.example.Address": {"zip": "1", "floor": {"string": "top"}}},
    "other": None,
}
IN_PYTHON: dict[str, Any] = {
    **IN_JSON,
    "bytes": b"\xff\x00",
    "fixed": b"\xfe\x01",
    "array": [None, 1],
    "map": {"a": {"zip": "1010", "floor": 3}},
    "union": {"zip": "1", "floor": "top"},
}


def written_by_judge(
    judge: SchemaRegistryClient, context: SerializationContext, schema: Any, data: Any, *references: SchemaReference
) -> bytes:
    with_references = Schema(json.dumps(schema), "AVRO", list(references))
    written = AvroSerializer(judge, with_references)(data, context)
    assert written is not None
    return written


@pytest.mark.parametrize("field", FIELDS)
def test_messages_of_confluent_kafka_are_read(
    judge: SchemaRegistryClient, ours: OurSerializer, topic: str, field: str
) -> None:
    context = SerializationContext(topic, field)
    data = written_by_judge(judge, context, EVERYTHING, {**IN_PYTHON, "other": IN_PYTHON})

    assert ours.deserialize(topic, [], data) == {**IN_JSON, "other": {"org.example.Everything": IN_JSON}}


@pytest.mark.parametrize(("field", "role"), FIELDS.items())
def test_confluent_kafka_reads_our_messages(
    judge: SchemaRegistryClient, ours: OurSerializer, topic: str, field: str, role: Role
) -> None:
    data = {**IN_JSON, "other": {"org.example.Everything": IN_JSON}}
    written = ours.for_request(role, topic, schema=json.dumps(EVERYTHING)).serialize(topic, [], data)

    context = SerializationContext(topic, field)
    assert AvroDeserializer(judge)(written, context) == {**IN_PYTHON, "other": IN_PYTHON}
    assert written == written_by_judge(judge, context, EVERYTHING, {**IN_PYTHON, "other": IN_PYTHON})


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_special_floats_are_compatible_with_confluent_kafka(
    judge: SchemaRegistryClient, ours: OurSerializer, topic: str, number: float
) -> None:
    name = {math.inf: "Infinity", -math.inf: "-Infinity"}.get(number, "NaN")
    schema = {"type": "record", "name": "N", "fields": [{"name": "n", "type": "double"}]}
    theirs = written_by_judge(judge, SerializationContext(topic, MessageField.VALUE), schema, {"n": number})

    assert ours.deserialize(topic, [], theirs) == {"n": name}
    assert ours.for_request("value", topic).serialize(topic, [], {"n": name}) == theirs


def test_messages_with_references_are_compatible_with_confluent_kafka(
    judge: SchemaRegistryClient, ours: OurSerializer, topic: str
) -> None:
    person = {
        "type": "record",
        "name": "Person",
        "fields": [{"name": "home", "type": "org.example.Address"}, {"name": "work", "type": ["null", "Street"]}],
    }
    street = {"type": "record", "name": "Street", "fields": [{"name": "at", "type": "org.example.Address"}]}
    address = SchemaReference("org.example.Address", f"{topic}-address", 1)
    judge.register_schema(f"{topic}-address", Schema(json.dumps(ADDRESS), "AVRO"))
    judge.register_schema(f"{topic}-street", Schema(json.dumps(street), "AVRO", [address]))
    references = [address, SchemaReference("Street", f"{topic}-street", 1)]
    inner = {"zip": "1", "floor": 2}

    context = SerializationContext(topic, MessageField.VALUE)
    theirs = written_by_judge(judge, context, person, {"home": inner, "work": {"at": inner}}, *references)

    in_json = {"zip": "1", "floor": {"int": 2}}
    data = {"home": in_json, "work": {"Street": {"at": in_json}}}
    assert ours.deserialize(topic, [], theirs) == data
    assert ours.for_request("value", topic).serialize(topic, [], data) == theirs


def test_schema_is_chosen_by_text_id_or_version(ours: OurSerializer, topic: str) -> None:
    first = ours.for_request("value", topic, schema='"int"').schema_id
    judged = ours.for_request("value", topic, schema='{"type": "int"}').schema_id

    assert ours.for_request("value", topic, schema_id=first).schema_id == first
    assert ours.for_request("value", topic, version="1").schema_id == first
    assert ours.for_request("key", "other", subject=f"{topic}-value", version="1").schema_id == first
    assert ours.for_request("value", topic, subject=f"{topic}-value").schema_id in {first, judged}


def test_schema_that_registry_rejects_is_rejected(ours: OurSerializer, topic: str) -> None:
    ours.for_request("value", topic, schema='"int"')

    with pytest.raises(InvalidSchema, match="rejects it for the subject"):
        ours.for_request("value", topic, schema='"boolean"')
    with pytest.raises(InvalidSchema, match="used before it is defined, or not defined"):
        ours.for_request("value", topic, schema='"Nothing"')
    with pytest.raises(InvalidSchema, match="no schema with the id"):
        ours.for_request("value", topic, schema_id=2_000_000_000)
    with pytest.raises(InvalidSchema, match="no version 9"):
        ours.for_request("value", topic, version="9")


def test_publish_without_named_or_registered_schema_is_rejected(ours: OurSerializer, topic: str) -> None:
    with pytest.raises(MissingValueSchema, match=f"{topic}-value"):
        ours.for_request("value", topic)
    with pytest.raises(MissingKeySchema, match=f"{topic}-key"):
        ours.for_request("key", topic)


def test_schema_of_another_format_is_rejected(judge: SchemaRegistryClient, ours: OurSerializer, topic: str) -> None:
    schema_id = judge.register_schema(f"{topic}-value", Schema("message M { }", "PROTOBUF"))

    with pytest.raises(InvalidSchema, match="is one of PROTOBUF, not of AVRO"):
        ours.for_request("value", topic, schema_id=schema_id)
