"""Serialisers by name: ours, and a plug-in's that works on values instead of JSON text."""

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


class Reversed:
    """A plug-in: a text, backwards."""

    def serialize(self, topic: str, headers: Headers, data: Any) -> bytes:
        if not isinstance(data, str):
            raise TypeError("a text, please")
        return data[::-1].encode()

    def deserialize(self, topic: str, headers: Headers, data: bytes) -> Any:
        return data.decode()[::-1]


@pytest.fixture
def formats() -> Formats:
    serializers = load_serializers({})
    return Formats(Serializers({**serializers.loaded, "reversed": Reversed()}, serializers.missing))


def test_ours_come_in_by_the_entry_point_group() -> None:
    assert list(load_serializers({}).loaded) == ["binary", "json", "text"]


def test_settings_of_a_serialiser_that_is_not_there() -> None:
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
def test_both_ways(formats: Formats, format_: str, text: bytes, stored: bytes) -> None:
    assert encoded(formats, ProducerRecord(text, text, format=format_, key_format=format_)) == (stored, stored)
    again = formats.decode("t", format_, [], stored)
    assert encoded(formats, ProducerRecord(again, format=format_)) == (None, stored)


def test_null_is_null_in_every_format(formats: Formats) -> None:
    for format_ in formats.names:
        assert encoded(formats, ProducerRecord(None, None, format=format_, key_format=format_)) == (None, None)


def test_without_a_format_bytes_are_stored_as_they_are(formats: Formats) -> None:
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
def test_a_refusal_names_the_record_and_the_field(
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
def test_bytes_that_a_format_cannot_read(formats: Formats, format_: str, data: bytes) -> None:
    with pytest.raises(InvalidValue, match=format_):
        formats.decode("t", format_, [], data)


def test_binary_reads_everything(formats: Formats) -> None:
    every = bytes(range(256))
    assert formats.decode("t", "binary", [], every) == b'"%b"' % base64.b64encode(every)


def with_topics(**topics: Any) -> Formats:
    return Formats(load_serializers({}), topics)


def test_a_topic_has_the_formats_of_the_first_pattern_that_matches_its_whole_name() -> None:
    topics = {"orders.eu": {"value": "text"}, r"orders\..*": {"value": "json", "key": "text"}, "o.*": {"key": "binary"}}
    formats = Formats(load_serializers({}), topics)

    assert formats.of_topic("orders.eu") == (None, "text")
    assert formats.of_topic("orders.us") == ("text", "json")
    assert formats.of_topic("orders") == ("binary", None)
    assert formats.of_topic("my-orders.us") == (None, None)


@pytest.mark.parametrize(
    ("topics", "said"),
    [
        ({"(": {"value": "json"}}, r"topics.'\(': pattern is not a valid regular expression"),
        ({"x" * 300: {"value": "json"}}, "at most 256 characters, got 300"),
        ({"t": {"value": "jsn"}}, r"topics.'t'.value: No serialiser is named 'jsn'. There are: .*json"),
        ({"t": {"key": "avro"}}, r"topics.'t'.key: .*schema_registry.url"),
        ({"t": {"value": 5}}, "No serialiser is named 5"),
        ({"t": {"value": []}}, "takes the name of a format"),
        ({"t": {"values": "json"}}, "takes key, value or both"),
        ({"t": {}}, "takes key, value or both"),
        ({"t": "json"}, "takes key, value or both"),
    ],
)
def test_formats_of_topics_that_cannot_be(topics: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        with_topics(**topics)


@pytest.mark.parametrize(
    "text",
    [b"[" + b"1," * MAX_VALUES + b"1]", b"[" + b"[]," * MAX_VALUES + b"1]", b"[" + b'"",' * MAX_VALUES + b'""]'],
    ids=["numbers", "lists", "strings"],
)
def test_value_of_too_many_json_values_is_too_large(formats: Formats, text: bytes) -> None:
    """As Python objects they take up to 100 times the bytes of the text."""
    with pytest.raises(TooLarge, match=r"records\[0\]\.value"):
        encoded(formats, ProducerRecord(text, format="reversed"))
    assert encoded(formats, ProducerRecord(text, format="json")) == (None, text)


@pytest.mark.parametrize("part", ["[", ",", '",', "\\\\", '\\",'])
def test_string_of_many_commas_is_one_value(formats: Formats, part: str) -> None:
    text = msgspec.json.encode(part * MAX_VALUES)
    assert encoded(formats, ProducerRecord(text, format="reversed")) == (None, (part * MAX_VALUES)[::-1].encode())
