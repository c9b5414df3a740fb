"""Formats by name: the built-in ones, and a plug-in that takes values instead of JSON texts."""

import base64
from collections.abc import Mapping
from typing import Any

import msgspec
import pytest

from kafka_http.config import ConfigError
from kafka_http.errors import InvalidRequest, InvalidValue, TooLarge, UnsupportedFormat
from kafka_http.records import Headers, ProducerRecord
from kafka_http.schemas.formats import MAX_VALUES, Formats
from kafka_http.schemas.serializers import SerializerNotLoaded, Serializers, load_serializers
from kafka_http.schemas.topic_formats import TopicFormat


class Reversed:
    """A plug-in that stores a text backwards."""

    def serialize(self, topic: str, headers: Headers, data: Any) -> bytes:
        if not isinstance(data, str):
            raise TypeError("expected a text")
        return data[::-1].encode()

    def deserialize(self, topic: str, headers: Headers, data: bytes) -> Any:
        return data.decode()[::-1]


class Registered(Reversed):
    """A plug-in with schemas, as those of the schema registry: only publishes tell that they would block."""

    immediate = True

    def for_request(self, *_: Any, **__: Any) -> "Registered":
        return self


@pytest.fixture
def formats() -> Formats:
    serializers = load_serializers({})
    return Formats(Serializers({**serializers.loaded, "reversed": Reversed()}, serializers.missing))


def test_built_in_formats_are_entry_points() -> None:
    assert list(load_serializers({}).loaded) == ["binary", "json", "text"]


def test_settings_of_unknown_serializer_are_rejected() -> None:
    with pytest.raises(SerializerNotLoaded, match="nope"):
        load_serializers({"nope": {}})


def encoded(formats: Formats, record: ProducerRecord) -> tuple[bytes | None, bytes | None]:
    (new,) = formats.encode("t", [record]).records
    return new.key, new.value


@pytest.mark.parametrize(
    ("format_", "text", "stored"),
    [
        ("json", b'{"a": 1.00}', b'{"a": 1.00}'),
        ("text", b'"\\u00e9"', "é".encode()),
        ("binary", b'"AAE="', b"\x00\x01"),
        ("reversed", b'"abc"', b"cba"),
    ],
)
def test_decode_reverses_encode_for_each_format(formats: Formats, format_: str, text: bytes, stored: bytes) -> None:
    assert encoded(formats, ProducerRecord(text, text, format=format_, key_format=format_)) == (stored, stored)
    again = formats.decode("t", format_, [], stored)
    assert encoded(formats, ProducerRecord(again, format=format_)) == (None, stored)


def test_null_is_stored_as_null_in_every_format(formats: Formats) -> None:
    for format_ in formats.names:
        assert encoded(formats, ProducerRecord(None, None, format=format_, key_format=format_)) == (None, None)


def test_bytes_without_format_are_stored_unchanged(formats: Formats) -> None:
    assert encoded(formats, ProducerRecord(b"\xff", b"\xfe")) == (b"\xfe", b"\xff")


@pytest.mark.parametrize(
    ("record", "error", "field"),
    [
        (ProducerRecord(b"1", format="reversed"), InvalidValue, "value"),
        (ProducerRecord(b"1", format="text"), InvalidValue, "value"),
        (ProducerRecord(b'"\\ud800"', format="text"), InvalidValue, "value"),
        (ProducerRecord(b'"?"', format="binary"), InvalidRequest, "value"),
        (ProducerRecord(b"1", b"5", format="json", key_format="binary"), InvalidRequest, "key"),
        (ProducerRecord(b"1", format="nope"), UnsupportedFormat, "value"),
    ],
)
def test_encode_error_names_record_and_field(
    formats: Formats, record: ProducerRecord, error: type[InvalidRequest], field: str
) -> None:
    with pytest.raises(error) as raised:
        formats.encode("t", [ProducerRecord(b"1", format="json"), record])
    fields: Mapping[str, Any] = raised.value.fields
    assert (fields["record"], fields["field"]) == (1, field)
    assert raised.value.message.startswith(f"records[1].{field}: ")


@pytest.mark.parametrize(
    ("format_", "data"), [("json", b"{"), ("json", b'"\xff"'), ("text", b"\xff"), ("reversed", b"\xff")]
)
def test_decode_unreadable_bytes_is_rejected(formats: Formats, format_: str, data: bytes) -> None:
    with pytest.raises(InvalidValue, match=format_):
        formats.decode("t", format_, [], data)


def test_binary_decodes_any_bytes(formats: Formats) -> None:
    every = bytes(range(256))
    assert formats.decode("t", "binary", [], every) == b'"%b"' % base64.b64encode(every)


def with_topics(**topics: Any) -> Formats:
    return Formats(load_serializers({}), topics)


def test_topic_formats_come_from_first_matching_pattern() -> None:
    topics = {"orders.eu": {"value": "text"}, r"orders\..*": {"value": "json", "key": "text"}, "o.*": {"key": "binary"}}
    formats = Formats(load_serializers({}), topics)

    assert formats.topic_format("orders.eu") == (None, "text")
    assert formats.topic_format("orders.us") == ("text", "json")
    assert formats.topic_format("orders") == ("binary", None)
    assert formats.topic_format("my-orders.us") == (None, None)


@pytest.mark.parametrize(
    ("topics", "said"),
    [
        ({"(": {"value": "json"}}, r"topics.'\(' is not a valid setting: pattern is not a valid regular expression"),
        ({"x" * 300: {"value": "json"}}, "at most 256 characters, got 300"),
        (
            {"t": {"value": "jsn"}},
            r"topics.'t'.value is not a valid setting: Unknown format 'jsn'. Available formats: .*json",
        ),
        ({"t": {"key": "avro"}}, r"topics.'t'.key is not a valid setting: .*schema_registry.url"),
        ({"t": {"value": 5}}, "Unknown format 5"),
        ({"t": {"value": []}}, "must be the name of a format"),
        ({"t": {"values": "json"}}, "must have key, value or both"),
        ({"t": {}}, "must have key, value or both"),
        ({"t": "json"}, "must have key, value or both"),
    ],
)
def test_invalid_topic_formats_are_rejected(topics: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        with_topics(**topics)


@pytest.mark.parametrize(
    "text",
    [b"[" + b"1," * MAX_VALUES + b"1]", b"[" + b"[]," * MAX_VALUES + b"1]", b"[" + b'"",' * MAX_VALUES + b'""]'],
    ids=["numbers", "lists", "strings"],
)
def test_encode_value_with_too_many_json_values_is_rejected(formats: Formats, text: bytes) -> None:
    """As Python objects the values take up to 100 times the bytes of the text."""
    with pytest.raises(TooLarge, match=r"records\[0\]\.value"):
        encoded(formats, ProducerRecord(text, format="reversed"))
    assert encoded(formats, ProducerRecord(text, format="json")) == (None, text)


@pytest.mark.parametrize("part", ["[", ",", '",', "\\\\", '\\",'])
def test_encode_string_with_many_separators_is_one_value(formats: Formats, part: str) -> None:
    text = msgspec.json.encode(part * MAX_VALUES)
    assert encoded(formats, ProducerRecord(text, format="reversed")) == (None, (part * MAX_VALUES)[::-1].encode())


@pytest.mark.parametrize(
    ("name", "expected"), [("json", False), ("text", False), ("reversed", True), ("schemas", True)]
)
def test_decoding_may_wait_unless_the_format_is_built_in(name: str, expected: bool) -> None:
    loaded = {**load_serializers({}).loaded, "reversed": Reversed(), "schemas": Registered()}
    formats = Formats(Serializers(loaded, {}))
    assert formats.may_wait(TopicFormat(key="text", value=name), []) is expected
    assert formats.may_wait(TopicFormat(key=name, value="text"), []) is expected
