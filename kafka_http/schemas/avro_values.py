"""Convert values between Avro's JSON encoding and the values that fastavro writes and reads.

The JSON encoding: https://avro.apache.org/docs/1.12.0/specification/#json-encoding. Bytes and fixed are strings whose
characters are the bytes. The value of a union is null or `{"branch": value}`. A logical type is encoded as its
underlying type. Two additions: NaN and the infinities are strings, and a union of null and one other branch also takes
the value of that branch without its name.

Encoders go from JSON to fastavro and raise `InvalidPayload`. Decoders go back. A type without a decoder has the same
values in fastavro and in JSON.
"""

import threading
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from kafka_http.errors import InvalidPayload
from kafka_http.schemas.json_values import Convert, json_type, path_step, quote, wrong_type

MAX_DEFAULT_BYTES = 1 << 20
_MAX_LISTED = 20
"""Symbols or branches that an error message lists."""


class Default(NamedTuple):
    """The default of a record's field, as fastavro writes it, and its approximate size in bytes."""

    value: Any
    size: int


class DefaultsBudget(threading.local):
    """Limits the bytes that defaults add to one message: a short message may leave out many large fields.

    Each thread counts its own message. Set `used` to 0 before encoding a message.
    """

    used = 0

    def take(self, default: Default) -> Any:
        """Return the value of a default. Raises `InvalidPayload` if the defaults of the message are too large."""
        self.used += default.size
        if self.used > MAX_DEFAULT_BYTES:
            raise InvalidPayload(f"the defaults of the missing fields take more than {MAX_DEFAULT_BYTES} bytes")
        return default.value


def encode_null(data: Any) -> None:
    """Return the value of null."""
    if data is not None:
        raise wrong_type("null", data)


def encode_bytes(data: Any) -> bytes:
    """Return the bytes that a string of characters up to U+00FF stands for."""
    if type(data) is not str:
        raise wrong_type("bytes as a string", data)
    try:
        return data.encode("latin-1")
    except UnicodeEncodeError:
        raise InvalidPayload("expected bytes, as a string of characters from U+0000 to U+00FF") from None


def decode_bytes(value: bytes) -> str:
    """Return bytes as a string of characters up to U+00FF."""
    return value.decode("latin-1")


def fixed_encoder(size: int) -> Convert:
    """Return the encoder of a fixed type of so many bytes."""

    def encode(data: Any) -> bytes:
        encoded = encode_bytes(data)
        if len(encoded) != size:
            raise InvalidPayload(f"expected fixed of {size} bytes, got {len(encoded)}")
        return encoded

    return encode


def enum_encoder(symbols: Sequence[str]) -> Convert:
    """Return the encoder of an enum."""
    known = frozenset(symbols)
    expected = f"expected one of {_listed(symbols, ', ')}"

    def encode(data: Any) -> str:
        if type(data) is str and data in known:
            return data
        raise InvalidPayload(f"{expected}, got {quote(data) if type(data) is str else json_type(data)}")

    return encode


def array_decoder(decode_item: Convert) -> Convert:
    """Return the decoder of an array, given that of its items."""
    return lambda value: [decode_item(item) for item in value]


def map_decoder(decode_value: Convert) -> Convert:
    """Return the decoder of a map, given that of its values."""
    return lambda value: {key: decode_value(each) for key, each in value.items()}


def record_encoder(
    name: str, fields: Mapping[str, Convert], defaults: Mapping[str, Default], budget: DefaultsBudget
) -> Convert:
    """Return the encoder of a record. `defaults` may be filled later."""
    encoders = tuple(fields.items())

    def encode(data: Any) -> dict[str, Any]:
        if type(data) is not dict:
            raise wrong_type(f"record {name} as an object", data)
        encoded: dict[str, Any] = {}
        field = ""
        missing = 0
        try:
            for field, encode_field in encoders:
                if field in data:
                    encoded[field] = encode_field(data[field])
                elif field in defaults:
                    encoded[field] = budget.take(defaults[field])
                    missing += 1
                else:
                    raise InvalidPayload("the field is missing and has no default")
        except InvalidPayload as error:
            raise error.within(path_step(field)) from None
        if len(data) + missing != len(encoders):
            unknown = next(each for each in data if each not in fields)
            raise InvalidPayload(f"the record {name} has no such field", path_step(unknown))
        return encoded

    return encode


def record_decoder(fields: Mapping[str, Convert]) -> Convert:
    """Return the decoder of a record, given those of the fields that need one. It changes fastavro's value in place."""
    decoders = tuple(fields.items())

    def decode(value: dict[str, Any]) -> dict[str, Any]:
        for field, decode_field in decoders:
            value[field] = decode_field(value[field])
        return value

    return decode


class Branch(NamedTuple):
    """A branch of a union: its name in JSON, its name in fastavro, and its converters."""

    name: str
    tag: str
    encode: Convert
    decode: Convert | None


def union_encoder(branches: Sequence[Branch]) -> Convert:
    """Return the encoder of a union. fastavro takes the value of a branch as a tuple of the branch's name and value."""
    by_name = {each.name: each for each in branches if each.name != "null"}
    nullable = len(by_name) < len(branches)
    only = next(iter(by_name.values())) if nullable and len(by_name) == 1 else None
    expected = f"null or {only.name}" if only else _expected_branches(branches)

    def encode(data: Any) -> tuple[str, Any]:
        if data is None and nullable:
            return "null", None
        branch = by_name.get(next(iter(data))) if type(data) is dict and len(data) == 1 else None
        if branch is not None:
            return _encode_named(branch, data, only)
        if only is not None:
            return only.tag, only.encode(data)
        raise wrong_type(expected, data)

    return encode


def _encode_named(branch: Branch, data: dict[str, Any], only: Branch | None) -> tuple[str, Any]:
    try:
        return branch.tag, branch.encode(data[branch.name])
    except InvalidPayload as error:
        if only is not None:  # a record or a map whose single key is the name of the branch
            try:
                return only.tag, only.encode(data)
            except InvalidPayload:
                pass
        raise error.within(path_step(branch.name)) from None


def _expected_branches(branches: Sequence[Branch]) -> str:
    shown = ["null" if each.name == "null" else f'{{"{each.name}": …}}' for each in branches]
    return _listed(shown, " or ") or "nothing, because the union is empty"


def _listed(names: Sequence[str], separator: str) -> str:
    return separator.join([*names[:_MAX_LISTED], *(["…"] if len(names) > _MAX_LISTED else [])])


_PYTHON_TYPES: Mapping[str, type] = {
    **{"boolean": bool, "int": int, "long": int, "float": float, "double": float},
    **{"string": str, "bytes": bytes, "array": list, "map": dict},
}


def union_decoder(branches: Sequence[Branch]) -> Convert:
    """Return the decoder of a union. fastavro gives a named type as a tuple of its name and value, others bare."""
    by_tag = {each.tag: each for each in branches}
    by_type = {_PYTHON_TYPES[each.tag]: each for each in branches if each.tag in _PYTHON_TYPES}

    def decode(value: Any) -> dict[str, Any] | None:
        if value is None:
            return None
        if type(value) is tuple:
            tag, value = value
            branch = by_tag[tag]
        else:
            branch = by_type[type(value)]
        return {branch.name: value if branch.decode is None else branch.decode(value)}

    return decode
