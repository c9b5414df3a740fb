"""Records in pages, v2 bodies and streams: whole columns give the same bytes as one record after the other."""

import base64
from collections.abc import Sequence

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kafka_http.errors import InvalidValue
from kafka_http.read.page_reader import Page
from kafka_http.records import Headers, Record, RecordColumns, TopicPartition
from kafka_http.schemas.formats import Formats
from kafka_http.schemas.serializers import load_serializers
from kafka_http.schemas.topic_formats import TopicFormat
from kafka_http.web.messages.page_rendering import render_page, render_records
from kafka_http.web.rest_v2.v2_records import render_v2

FORMATS = Formats(load_serializers({}))
ODD = [
    None,
    b"",
    b"null",
    b" null\n",
    b"text",
    b"12",
    b'"\xc3\xa9" ',
    b'"\xff"',
    b"\xff",
    b"[" * 3000,
    b'["\\ud800"]',
    b"NaN",
]
data = st.sampled_from([*ODD, *([b'{"n":1}'] * len(ODD))]) | st.binary(max_size=4)
formats = st.sampled_from([None, "json", "text", "binary"])
headers = st.just(()) | st.lists(st.tuples(st.sampled_from("aé\n"), st.none() | st.binary(max_size=2))).map(tuple)
timestamps = st.none() | st.integers(-9, 1 << 50)
parts = st.lists(st.lists(st.tuples(timestamps, data, data, headers), min_size=1), max_size=2)
Fields = tuple[int | None, bytes | None, bytes | None, Headers]


def text_of(data: bytes) -> str | dict[str, str]:
    try:
        return str(data, "utf-8")
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(data).decode()}


def decoded(format_: str, record: Record, data: bytes) -> bytes:
    return FORMATS.decode(record.topic, format_, record.headers, data)


def key_in_page(record: Record, key: bytes, format_: str | None) -> bytes:
    try:
        if format_ is not None and (text := decoded(format_, record, key)).strip() != b"null":
            return b'%b,"key_format":"%b"' % (text, format_.encode())
    except InvalidValue:
        pass
    shown = text_of(key)
    return (
        msgspec.json.encode(shown)
        if isinstance(shown, str)
        else b'"%b","key_format":"binary"' % shown["base64"].encode()
    )


def value_in_page(record: Record, value: bytes, format_: str | None) -> tuple[bytes, bytes]:
    """The field with the value or the error, and the format."""
    if format_ is None:
        format_, text = FORMATS.detect(value)
    else:
        try:
            text = decoded(format_, record, value)
        except InvalidValue as error:
            return b'"error":%b' % msgspec.json.encode(error.as_object()), b'"%b"' % format_.encode()
        if text.strip() == b"null":
            format_, text = FORMATS.detect(text)
    return b'"value":%b' % text, b'"%b"' % format_.encode()


def in_page(record: Record, decode_as: TopicFormat) -> bytes:
    key, value = record.key, record.value
    shown, format_ = (b'"value":null', b"null") if value is None else value_in_page(record, value, decode_as.value)
    return b'{"partition":%d,"offset":%d,"timestamp":%b,"key":%b,%b,"format":%b,"headers":%b}' % (
        record.partition,
        record.offset,
        msgspec.json.encode(record.timestamp),
        b"null" if key is None else key_in_page(record, key, decode_as.key),
        shown,
        format_,
        msgspec.json.encode([(name, None if each is None else text_of(each)) for name, each in record.headers]),
    )


def in_v2(record: Record, format_: str, key_format: str | None) -> bytes:
    problems = []

    def shown(field: str, data: bytes | None, format_: str) -> bytes:
        try:
            return b"null" if data is None else decoded(format_, record, data)
        except InvalidValue as error:
            problems.append(f"{field}: {error.message}")
            return msgspec.json.encode(base64.b64encode(data or b"").decode())

    key = shown("key", record.key, key_format or format_)
    value = shown("value", record.value, format_)
    encoded = [(name, None if each is None else base64.b64encode(each).decode()) for name, each in record.headers]
    headers = [{"key": name, "value": each} for name, each in encoded]
    problem = {"error_code": 40801, "message": "; ".join(problems)}
    return b'{"topic":"t","key":%b,"value":%b,"partition":%d,"offset":%d,"timestamp":%b%b%b}' % (
        key,
        value,
        record.partition,
        record.offset,
        msgspec.json.encode(record.timestamp),
        b',"headers":%b' % msgspec.json.encode(headers) if headers else b"",
        b',"error":%b' % msgspec.json.encode(problem) if problems else b"",
    )


def records_of(parts: Sequence[Sequence[Fields]]) -> list[list[Record]]:
    return [
        [Record("t", partition, 5 + number, *fields) for number, fields in enumerate(part)]
        for partition, part in enumerate(parts)
    ]


@given(parts, formats, formats)
@example([[(1, None, b'{"n":1}', ())] * 1201], None, None)
@example([[(1, b"k", b'{"n":1}', ())] * 500 + [(None, b"\xff", None, ())]], None, None)
def test_page_of_columns_has_bytes_of_each_record(
    parts: list[list[Fields]], key_format: str | None, format_: str | None
) -> None:
    decode_as = TopicFormat(key=key_format, value=format_)
    records = records_of(parts)
    page = Page([RecordColumns.from_records(part) for part in records], {})
    expected = [in_page(each, decode_as) for part in records for each in part]
    begin, end = b'{"topic":"t","consumer":"c","records":[', b'],"next":"0:5","ack":null}\n'
    assert render_page(FORMATS, "t", "c", decode_as, page, next_position="0:5") == begin + b",".join(expected) + end
    assert render_records(FORMATS, "t", decode_as, page.records) == expected


@given(parts, formats, formats.filter(bool))
@example([[(1, None, b'{"n":1}', ())] * 1201], None, "json")
def test_v2_body_of_columns_has_bytes_of_each_record(
    parts: list[list[Fields]], key_format: str | None, format_: str
) -> None:
    records = records_of(parts)
    expected = b",".join(in_v2(each, format_, key_format) for part in records for each in part)
    columns = [RecordColumns.from_records(part) for part in records]
    assert render_v2(FORMATS, format_, columns, key_format) == b"[" + expected + b"]\n"


@given(st.lists(st.tuples(timestamps, data, data, headers), min_size=1), st.integers(0, 9), st.integers(1, 9))
def test_columns_are_a_sequence_of_records(fields: list[Fields], start: int, count: int) -> None:
    (records,) = records_of([fields])
    columns = RecordColumns.from_records(records)
    assert list(columns) == records
    assert columns[-1] == records[-1]
    assert list(columns[start : start + count]) == records[start : start + count]
    assert [each for part in columns.slices(count) for each in part] == records
    assert list(columns[:start] + columns[start:]) == records
    assert columns.size == sum(len(each.value or b"") + len(each.key or b"") for each in records)


def test_columns_without_records_are_empty() -> None:
    columns = RecordColumns(TopicPartition("t", 0))
    assert not columns
    with pytest.raises(IndexError):
        columns[0]
