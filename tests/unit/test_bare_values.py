"""Publishes of nothing but values: they are parsed, and their responses rendered, as those of all others."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kafka_http.errors import KafkaHttpError
from kafka_http.records import AppendedRecords, BareValues, NewRecord
from kafka_http.schemas.formats import Formats
from kafka_http.schemas.serializers import load_serializers
from kafka_http.schemas.topic_formats import TopicFormat
from kafka_http.tasks import decode_records, encode_records
from kafka_http.web.json_bodies import parse_bare_records
from kafka_http.web.messages.message_bodies import parse_json, parse_lines
from kafka_http.web.messages.message_publish import MessagesPublish
from kafka_http.web.publish_limits import NO_LIMITS, PublishLimits
from kafka_http.web.publish_view import PublishDialect
from kafka_http.web.request_head import RequestHead
from kafka_http.web.rest_v2.produce_view import V2Produce
from kafka_http.web.rest_v2.v2_records import parse_v2

NO_QUERY: Any = {}
JSON_FORMAT = TopicFormat("json", "json")
FORMATS = Formats(load_serializers({}, None))
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
TEXTS = JSON_VALUES.map(msgspec.json.encode) | st.sampled_from(
    [b"null", b" null ", b'"\\ud800"', b'"\xff"', b"1.50", b"[", b"", b"{}", b'{"a":1,}', b"nul"]
)
APPENDED = st.builds(
    AppendedRecords,
    st.integers(0, 2**31 - 1),
    st.integers(0, 2**63 - 10_000) | st.integers(0, 3000) | st.integers(-20, 20).map(lambda each: 10**12 + each),
    st.integers(1, 30) | st.just(2100),
    st.none() | st.integers(0, 2**63 - 1),
)


def values_or_error(parse: Any) -> Any:
    """Return the values that are to be stored, or the error."""
    try:
        records = parse()
    except KafkaHttpError as error:
        return type(error), error.message, error.fields
    if isinstance(records, BareValues):
        return list(records)
    assert all(each.key is None and each.partition is None and not each.headers for each in records)
    return [each.value for each in records]


@given(st.lists(TEXTS, max_size=4), st.sampled_from([b"", b" ", b"\n"]))
def test_bare_records_are_parsed_as_all_others(texts: list[bytes], space: bytes) -> None:
    body = space + b'{"records":[' + b",".join(space + b'{"value":' + each + b"}" for each in texts) + b"]}" + space
    for bare, general in (
        (
            lambda: parse_v2(body, JSON_FORMAT, NO_LIMITS, bare=True).records,
            lambda: parse_v2(body, JSON_FORMAT, NO_LIMITS).records,
        ),
        (
            lambda: parse_json(body, TopicFormat(), NO_LIMITS, bare=True),
            lambda: parse_json(body, TopicFormat(), NO_LIMITS),
        ),
    ):
        assert values_or_error(bare) == values_or_error(general)


@given(st.lists(TEXTS, max_size=4), st.booleans())
def test_bare_arrays_values_and_lines_are_parsed_as_all_others(texts: list[bytes], is_array: bool) -> None:
    body = b"[" + b",".join(texts) + b"]" if is_array else b"".join(texts[:1])
    lines = b"\n".join(texts)
    assert values_or_error(lambda: parse_json(body, TopicFormat(), NO_LIMITS, bare=True)) == values_or_error(
        lambda: parse_json(body, TopicFormat(), NO_LIMITS)
    )
    assert values_or_error(lambda: parse_lines(lines, None, NO_LIMITS, bare=True)) == values_or_error(
        lambda: parse_lines(lines, None, NO_LIMITS)
    )


@pytest.mark.parametrize(
    "body",
    [
        b'{"records":[{"value":1,"key":null}]}',
        b'{"records":[{"value":1},{"key":1}]}',
        b'{"records":[{}]}',
        b'{"records":[]}',
        b'{"records":{}}',
        b'{"records":[{"value":1}],"value_schema_id":1}',
        b'{"records":[{"value":1,"surplus":1}]}',
        b'[{"value":1}]',
        b"1",
    ],
)
def test_records_with_anything_else_are_not_bare(body: bytes) -> None:
    assert parse_bare_records(body, NO_LIMITS) is None


def test_more_bare_records_than_allowed_are_not_decoded() -> None:
    body = b'{"records":[' + b",".join([b'{"value":1}'] * 11) + b"]}"
    assert parse_bare_records(body, PublishLimits(10)) is None
    assert parse_bare_records(body, PublishLimits(11)) == [b"1"] * 11


DIALECTS: dict[str, PublishDialect] = {
    "messages": MessagesPublish(RequestHead("PUT", NO_QUERY, {}), "a.b-c_1", FORMATS, 5),
    "v2": V2Produce(RequestHead("POST", NO_QUERY, {}), "t", None, FORMATS, 5),
    "v2 strict": V2Produce(RequestHead("POST", NO_QUERY, {"prefer": "strict"}), "t", None, FORMATS, 5),
}


@pytest.mark.parametrize("name", DIALECTS)
@given(appended=APPENDED, schema_ids=st.sampled_from([{}, {"value": 7}, {"key": 1, "value": 2**31 - 1}]))
def test_response_from_the_template_is_that_of_single_results(
    name: str, appended: AppendedRecords, schema_ids: Any
) -> None:
    dialect = DIALECTS[name]
    assert dialect.response(appended, schema_ids) == dialect.response(list(appended), schema_ids)


def test_bare_values_of_a_task_are_decoded_as_records() -> None:
    values = [b"a", None, b""]
    assert decode_records(encode_records(BareValues(values))) == [NewRecord(each) for each in values]
