"""Error messages for JSON bodies: what is wrong, where, and what would be right."""

from typing import Any

import msgspec
import pytest

from kafka_http.errors import InvalidRequest, InvalidValue
from kafka_http.web.json_bodies import decode
from kafka_http.web.messages.message_bodies import Envelope

DECODER = msgspec.json.Decoder(Envelope)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"foo", "Body is not valid JSON: a value at the end is incomplete or misspelled."),
        (b"", "Body is not valid JSON: it is empty."),
        (b'{"records":[,', "Body is not valid JSON: invalid character (byte 12)."),
        pytest.param(b"[" * 200_000, "Body is not valid JSON: nested too deeply.", id="nested too deeply"),
    ],
)
def test_syntax_error_says_what_is_wrong(body: bytes, message: str) -> None:
    decoder = msgspec.json.Decoder(Envelope) if body[:1] != b"[" else msgspec.json.Decoder(msgspec.Raw)
    with pytest.raises(InvalidRequest) as raised:
        decode(decoder, body)
    assert raised.value.message == message


@pytest.mark.parametrize(
    ("body", "message", "fields"),
    [
        ("[]", "Body must be an object, got an array.", {}),
        (
            '{"records":[{"value":1}],"recods":1}',
            "Body has an unknown field 'recods'. Did you mean 'records'?",
            "recods",
        ),
        ('{"records":[{"valeu":1}]}', "records[0] has an unknown field 'valeu'. Did you mean 'value'?", "valeu"),
        (
            '{"records":[{"value":1,"headers":{"a":{"b":"c"}}}]}',
            "has an unknown field 'b'. Known fields: base64.",
            None,
        ),
        ('{"records":[{"value":1},{"key":1}]}', "records[1] lacks the required field 'value'.", "value"),
        (
            '{"records":[{"value":1,"partition":"x"}]}',
            "partition must be an integer or null, got a string.",
            "partition",
        ),
        ('{"records":[{"value":1,"partition":-1}]}', "records[0].partition must be an integer >= 0.", "partition"),
    ],
)
def test_shape_error_names_place_and_expected_value(body: str, message: str, fields: Any) -> None:
    with pytest.raises(InvalidValue) as raised:
        decode(DECODER, body.encode(), invalid=InvalidValue)
    assert message in raised.value.message
    if isinstance(fields, str):
        assert raised.value.fields["field"] == fields


def test_error_in_a_line_names_its_record() -> None:
    with pytest.raises(InvalidRequest) as raised:
        decode(DECODER, b"{}", "records[7]", 7)
    assert raised.value.message == "records[7] lacks the required field 'records'."
    assert raised.value.fields == {"record": 7, "field": "records"}
