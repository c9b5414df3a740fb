"""Avro's JSON encoding, value by value: to what fastavro writes. `avro_decoders.py` goes the other way.

https://avro.apache.org/docs/1.12.0/specification/#json-encoding: bytes and fixed are texts whose characters are the
bytes, a value of a union is null or `{"branch": value}`, and a logical type is what lies under it. Beyond it NaN and
the infinities are the texts of these names, and a nullable union of one other branch takes the bare value, too.
Each function here is for values of one type, or makes one for them.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from kafka_http.errors import InvalidPayload
from kafka_http.schemas.json_floats import MAX_DOUBLE, MAX_FLOAT, SPECIAL
from kafka_http.schemas.value_errors import LONGEST, kind_of, step, wrong

Convert = Callable[[Any], Any]

_MAX_FILLED = 1 << 20


class Default(NamedTuple):
    """What a record's field is where it is left out, and about how many bytes that takes."""

    value: Any
    size: int


class Filled(threading.local):
    """Counts what defaults add to the message that a thread encodes: a few bytes may stand for very many."""

    size = 0

    def add(self, default: Default) -> Any:
        self.size += default.size
        if self.size > _MAX_FILLED:
            raise InvalidPayload(f"what is left to defaults here takes more than {_MAX_FILLED} bytes")
        return default.value


def encode_null(data: Any) -> None:
    if data is not None:
        raise wrong("null", data)


def encode_boolean(data: Any) -> bool:
    if data is True or data is False:
        return bool(data)
    raise wrong("boolean", data)


def encode_string(data: Any) -> str:
    if type(data) is str:
        return data
    raise wrong("string", data)


def integers(name: str, bits: int) -> Convert:
    low, high = -(1 << (bits - 1)), (1 << (bits - 1)) - 1

    def encode(data: Any) -> int:
        if type(data) is int and low <= data <= high:
            return data
        if type(data) is float and data.is_integer() and low <= data <= high:
            return int(data)
        if type(data) in {int, float}:
            raise InvalidPayload(f"expected {name}, a whole number from {low} to {high}, got {str(data)[:LONGEST]}")
        raise wrong(name, data)

    return encode


def floats(name: str, largest: float) -> Convert:
    def encode(data: Any) -> float:
        if type(data) is float or type(data) is int:
            if -largest <= data <= largest:
                return float(data)
            raise InvalidPayload(f"expected {name}, got {str(data)[:LONGEST]}, which is too large")
        if type(data) is str and data in SPECIAL:
            return SPECIAL[data]
        raise wrong(f'{name} (or "NaN", "Infinity", "-Infinity")', data)

    return encode


encode_float = floats("float", MAX_FLOAT)
encode_double = floats("double", MAX_DOUBLE)


def encode_bytes(data: Any) -> bytes:
    if type(data) is not str:
        raise wrong("bytes as a string", data)
    try:
        return data.encode("latin-1")
    except UnicodeEncodeError:
        raise InvalidPayload("expected bytes, as a string of characters from U+0000 to U+00FF") from None


def fixed(size: int) -> Convert:
    def encode(data: Any) -> bytes:
        encoded = encode_bytes(data)
        if len(encoded) != size:
            raise InvalidPayload(f"expected fixed of {size} bytes, got {len(encoded)}")
        return encoded

    return encode


def enums(symbols: Sequence[str]) -> Convert:
    known = frozenset(symbols)
    shown = ", ".join(symbols[:20]) + (", …" if len(symbols) > 20 else "")

    def encode(data: Any) -> str:
        if type(data) is str and data in known:
            return data
        got = f'"{data[:LONGEST]}"' if type(data) is str else kind_of(data)
        raise InvalidPayload(f"expected one of {shown}, got {got}")

    return encode


def arrays(encode_item: Convert) -> Convert:
    def encode(data: Any) -> list[Any]:
        if type(data) is not list:
            raise wrong("array", data)
        encoded: list[Any] = []
        try:
            for item in data:
                encoded.append(encode_item(item))  # one by one: its length is the index of the fault
        except InvalidPayload as error:
            raise error.within(f"[{len(encoded)}]") from None
        return encoded

    return encode


def maps(encode_value: Convert) -> Convert:
    def encode(data: Any) -> dict[str, Any]:
        if type(data) is not dict:
            raise wrong("map as an object", data)
        encoded: dict[str, Any] = {}
        key = ""
        try:
            for key, value in data.items():
                encoded[key] = encode_value(value)
        except InvalidPayload as error:
            raise error.within(step(key)) from None
        return encoded

    return encode


def records(name: str, fields: Mapping[str, Convert], defaults: Mapping[str, Default], filled: Filled) -> Convert:
    """`defaults` may grow after this."""
    listed = tuple(fields.items())

    def encode(data: Any) -> dict[str, Any]:
        if type(data) is not dict:
            raise wrong(f"record {name} as an object", data)
        encoded: dict[str, Any] = {}
        field = ""
        found = 0
        try:
            for field, encode_field in listed:
                if field in data:
                    encoded[field] = encode_field(data[field])
                    found += 1
                elif field in defaults:
                    encoded[field] = filled.add(defaults[field])
                else:
                    raise InvalidPayload("is missing, and has no default")
        except InvalidPayload as error:
            raise error.within(step(field)) from None
        if found != len(data):
            unknown = next(each for each in data if each not in fields)
            raise InvalidPayload(f"the record {name} has no such field", step(unknown))
        return encoded

    return encode


class Branch(NamedTuple):
    """One of a union's: its name in JSON, fastavro's for it, and how its values are converted."""

    name: str
    tag: str
    encode: Convert
    decode: Convert | None


def unions(branches: Sequence[Branch]) -> Convert:
    by_name = {each.name: each for each in branches if each.name != "null"}
    nullable = len(by_name) < len(branches)
    bare = next(iter(by_name.values())) if nullable and len(by_name) == 1 else None
    expected = _expected(branches, bare)
    null = ("null", None)

    def encode(data: Any) -> tuple[str, Any]:
        if data is None and nullable:
            return null
        if type(data) is dict and len(data) == 1:
            (name,) = data
            if name in by_name:
                return encode_branch(by_name[name], data)
        if bare is not None:
            return bare.tag, bare.encode(data)
        raise wrong(expected, data)

    def encode_branch(branch: Branch, data: dict[str, Any]) -> tuple[str, Any]:
        try:
            return branch.tag, branch.encode(data[branch.name])
        except InvalidPayload as error:
            if bare is not None:
                try:
                    return bare.tag, bare.encode(data)  # a record or map that only looks like a branch
                except InvalidPayload:
                    pass
            raise error.within(step(branch.name)) from None

    return encode


def _expected(branches: Sequence[Branch], bare: Branch | None) -> str:
    if bare is not None:
        return f"null or {bare.name}"
    shown = ["null" if each.name == "null" else f'{{"{each.name}": …}}' for each in branches[:20]]
    return " or ".join(shown) + (" or …" if len(branches) > 20 else "") or "nothing, for the union is empty"
