"""JSON bodies for both dialects: decoding with error messages that say what is wrong and where."""

import re
from collections.abc import Iterable, Iterator
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta, Raw, Struct
from msgspec import inspect as types

from kafka_http.encoding import check_json, decode_base64
from kafka_http.errors import InvalidRequest, KafkaHttpError
from kafka_http.records import BareValues, ProducerRecord
from kafka_http.web.publish_limits import PublishLimits
from kafka_http.web.query_parameters import MAX_INT32, MAX_INT64, known_names

Partition = Annotated[int, Meta(ge=0, le=MAX_INT32)]
Timestamp = Annotated[int, Meta(ge=0, le=MAX_INT64)]
Decoded = TypeVar("Decoded")
Records = TypeVar("Records", list[ProducerRecord], BareValues)

_TYPE_MISMATCH = re.compile(r"Expected (?P<type>\w+(?: \| \w+)*)(?P<bound>.*?)(?:, got (?P<got>\w+))?")
_UNKNOWN_FIELD = re.compile("Object contains unknown field (.*)", re.DOTALL)
_MISSING_FIELD = re.compile("Object missing required field (.*)")
_TYPE_NAMES = {
    **{"int": "an integer", "float": "a number", "str": "a string", "bool": "a boolean", "null": "null"},
    **{"array": "an array", "object": "an object"},
}


def decode(
    decoder: msgspec.json.Decoder[Decoded],
    text: bytes,
    at: str = "",
    record: int | None = None,
    *,
    invalid: type[KafkaHttpError] = InvalidRequest,
) -> Decoded:
    """Decode a body, or a part of one at the path `at`.

    Raises `InvalidRequest` for a syntax error and `invalid` for JSON of another shape. The error's fields are the index
    of the record, which is `record` or taken from the path, and the name of the field.
    """
    try:
        return decoder.decode(text)
    except RecursionError:
        raise InvalidRequest(f"{at or 'Body'} is not valid JSON: nested too deeply.") from None
    except msgspec.ValidationError as error:
        raise _shape_error(decoder, error, at, record, invalid) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _syntax_error(at or "Body", text, error, record) from None


def decode_value(what: str, text: bytes, record: int | None = None) -> None:
    """Check that a text is one JSON value. Raises `InvalidRequest` about `what`."""
    try:
        check_json(text)
    except ValueError as error:
        raise _syntax_error(what, text, error, record) from None


def check_utf8(body: bytes) -> None:
    """Check that a body is UTF-8. Decoders of `Raw` skip strings without decoding them. Raises `InvalidRequest`."""
    try:
        if not body.isascii():
            str(body, "utf-8")
    except UnicodeDecodeError as error:
        raise _syntax_error("Body", body, error) from None


def _syntax_error(
    what: str, text: bytes, error: ValueError | msgspec.DecodeError, record: int | None = None
) -> InvalidRequest:
    problem = str(error).removeprefix("JSON is malformed: ")
    if not text.strip():
        problem = "it is empty"
    elif isinstance(error, UnicodeDecodeError):
        problem = f"invalid UTF-8 (byte {error.start})"
    elif problem == "Input data was truncated":
        problem = "a value at the end is incomplete or misspelled"
    return InvalidRequest(f"{what} is not valid JSON: {problem}.", **_location(record, None))


def json_text(raw: Raw) -> bytes | None:
    """Return the JSON text of a value; None for null and for a missing value."""
    text = bytes(raw)
    return None if not text or text == b"null" else text


def bare_values(texts: Iterable[Raw]) -> BareValues:
    """Return the JSON texts of values; None for null. The texts must not be empty."""
    values = BareValues(map(bytes, texts))
    return BareValues(None if each == b"null" else each for each in values) if b"null" in values else values


class _BareRecord(Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    value: Raw


class _BareRecords(Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    records: list[_BareRecord]


_bare_records = msgspec.json.Decoder(_BareRecords)


def parse_bare_records(body: bytes, limits: PublishLimits) -> BareValues | None:
    """Parse `{"records": [{"value": …}, …]}`, which both dialects have, several times as fast as with other fields.

    Returns None for every other body, also for an invalid or a too large one. Raises the errors of `limits`.
    """
    if limits.may_exceed_records(body):
        return None
    try:
        records = _bare_records.decode(body).records
        check_utf8(body)
    except (msgspec.MsgspecError, InvalidRequest, RecursionError):
        return None
    if not records:
        return None
    limits.reserve_records(len(records))
    return bare_values([each.value for each in records])


def not_empty(records: Records, invalid: type[KafkaHttpError] = InvalidRequest) -> Records:
    """Return the records. Raises `invalid` if there are none."""
    if not records:
        raise invalid("The request has no records. Send at least one.", field="records")
    return records


def decode_header(index: int, name: str, text: str) -> bytes:
    """Return the bytes of a record's header from base64. Raises `InvalidRequest`."""
    try:
        return decode_base64(text)
    except ValueError as error:
        field = f"headers.{name}"
        raise InvalidRequest(f"records[{index}].{field}: {error}.", record=index, field=field) from None


def _shape_error(
    decoder: msgspec.json.Decoder[Any],
    error: msgspec.ValidationError,
    at: str,
    record: int | None,
    invalid: type[KafkaHttpError],
) -> KafkaHttpError:
    """Translate msgspec's message, such as ``Expected `int`, got `str` - at `$.records[1].partition` ``."""
    problem, _, inner_path = str(error).replace("`", "").partition(" - at $")
    path = (at + inner_path).lstrip(".")
    head, _, field = path.replace("[...]", "").partition(".")
    if record is None and head.startswith("records[") and head[8:-1].isdigit():
        record = int(head[8:-1])
    subject = path or "Body"
    if match := _UNKNOWN_FIELD.fullmatch(problem):
        hint = known_names("fields", match[1], list(_fields_at(decoder.type, inner_path)))
        problem, field = f"has an unknown field {match[1][:100]!r}. {hint}", f"{field}.{match[1]}".lstrip(".")
    elif match := _MISSING_FIELD.fullmatch(problem):
        problem, field = f"lacks the required field {match[1]!r}.", f"{field}.{match[1]}".lstrip(".")
    else:
        problem = _mismatch(problem)
    return invalid(f"{subject} {problem}", **_location(record, field or None))


def _mismatch(problem: str) -> str:
    """Translate `Expected int | null, got str`."""
    match = _TYPE_MISMATCH.fullmatch(problem)
    if match is None:
        return f"is invalid: {problem}."
    expected = " or ".join(_TYPE_NAMES.get(each, each) for each in match["type"].split(" | "))
    got = f", got {_TYPE_NAMES.get(match['got'], match['got'])}" if match["got"] else ""
    return f"must be {expected}{match['bound']}{got}."


def _fields_at(type_: Any, path: str) -> Iterator[str]:
    """Yield the names of an object's fields, at a path such as `.records[1]` in the JSON of a type."""
    level = [types.type_info(type_)]
    for step in re.findall(r"[^.\[\]]+|\[[^\]]*\]", path):
        level = [inner for each in level for inner in _inner_types(each, step)]
    for each in level:
        for one in each.types if isinstance(each, types.UnionType) else [each]:
            if isinstance(one, types.StructType):
                yield from (field.encode_name for field in one.fields)


def _inner_types(outer: types.Type, step: str) -> Iterable[types.Type]:
    if isinstance(outer, types.UnionType):
        return [inner for each in outer.types for inner in _inner_types(each, step)]
    if isinstance(outer, types.StructType):
        return [field.type for field in outer.fields if field.encode_name == step]
    if isinstance(outer, types.ListType):
        return [outer.item_type]
    if isinstance(outer, types.TupleType):
        return outer.item_types
    return [outer.value_type] if isinstance(outer, types.DictType) else []


def _location(record: int | None, field: str | None) -> dict[str, Any]:
    return {name: value for name, value in (("record", record), ("field", field)) if value is not None}
