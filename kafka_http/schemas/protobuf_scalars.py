"""Protobuf's JSON encoding of scalars: from what a client gives to what a message's field takes.

https://protobuf.dev/programming-guides/json/
"""

import re
from base64 import b64decode
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any

from google.protobuf.descriptor import EnumDescriptor, FieldDescriptor

from kafka_http.errors import InvalidPayload
from kafka_http.schemas.json_floats import MAX_DOUBLE, MAX_FLOAT, SPECIAL
from kafka_http.schemas.protobuf_names import NULL_VALUE
from kafka_http.schemas.value_errors import shortened, wrong

Convert = Callable[[Any], Any]

_NUMBER = re.compile(r"-?[0-9]{1,400}(\.[0-9]{1,400})?([eE][+-]?[0-9]{1,3})?", re.ASCII)
_FROM_URL = str.maketrans("-_", "+/")


def scalar(field: FieldDescriptor) -> Convert:
    """What converts a value of the field, be it one of many."""
    if field.enum_type is not None:
        return _null_value if field.enum_type.full_name == NULL_VALUE else _enum(field.enum_type)
    return _SCALARS[field.type]


def map_key(field: FieldDescriptor) -> Convert:
    """What converts a map's key, which is a text in JSON."""
    if field.type == FieldDescriptor.TYPE_STRING:
        return _string
    return _boolean_key if field.type == FieldDescriptor.TYPE_BOOL else _SCALARS[field.type]


def _integers(name: str, low: int, high: int) -> Convert:
    def convert(data: Any) -> int:
        if type(data) is int and low <= data <= high:
            return data
        whole = _whole(data)
        if whole is not None and low <= whole <= high:
            return whole
        if type(data) in {int, float, str}:
            got = f'"{shortened(data)}"' if type(data) is str else shortened(str(data))
            raise InvalidPayload(f"expected {name}, a whole number from {low} to {high}, got {got}")
        raise wrong(name, data)

    return convert


def _whole(data: Any) -> int | None:
    """The whole number that another spelling of one is: 1.0, "1", "1e3"."""
    if type(data) is float and data.is_integer():
        return int(data)
    if type(data) is str and _NUMBER.fullmatch(data):
        number = Decimal(data)
        if number.adjusted() < 20 and number == number.to_integral_value():
            return int(number)
    return None


def _floats(name: str, largest: float) -> Convert:
    def convert(data: Any) -> float:
        number = SPECIAL.get(data) if type(data) is str else None
        if number is not None:
            return number
        if type(data) is float or type(data) is int:
            number = data
        elif type(data) is str and _NUMBER.fullmatch(data):
            number = float(data)
        else:
            raise wrong(f'{name} (or "NaN", "Infinity", "-Infinity")', data)
        if not -largest <= number <= largest:
            raise InvalidPayload(f"expected {name}, got {shortened(str(data))}, which is too large")
        return float(number)

    return convert


def _boolean(data: Any) -> bool:
    if data is True or data is False:
        return bool(data)
    raise wrong("boolean", data)


def _boolean_key(data: str) -> bool:
    if data not in {"true", "false"}:
        raise InvalidPayload('expected "true" or "false" as a key')
    return data == "true"


def _string(data: Any) -> str:
    if type(data) is str:
        return data
    raise wrong("string", data)


def _bytes(data: Any) -> bytes:
    if type(data) is not str:
        raise wrong("bytes as a string of base64", data)
    text = data.translate(_FROM_URL)
    try:
        return b64decode(text + "=" * (-len(text) % 4), validate=True)
    except ValueError:
        raise InvalidPayload("expected bytes as a string of base64") from None


def _null_value(data: Any) -> int:
    if data is None or data in ("NULL_VALUE", 0):
        return 0
    raise wrong("null", data)


def _enum(enum: EnumDescriptor) -> Convert:
    numbers = {value.name: value.number for value in enum.values}
    known = frozenset(numbers.values()) if enum.is_closed else None
    shown = ", ".join([*numbers][:20]) + (", …" if len(numbers) > 20 else "")
    as_number = _integers(f"{enum.name}'s number", -(1 << 31), (1 << 31) - 1)

    def convert(data: Any) -> int:
        if type(data) is str:
            if data in numbers:
                return numbers[data]
            raise InvalidPayload(f'expected one of {shown}, got "{shortened(data)}"')
        if type(data) not in {int, float}:
            raise wrong(f"one of {shown}", data)
        number: int = as_number(data)
        if known is not None and number not in known:
            raise InvalidPayload(f"expected one of {shown}, got {number}")
        return number

    return convert


_int32 = _integers("int32", -(1 << 31), (1 << 31) - 1)
_int64 = _integers("int64", -(1 << 63), (1 << 63) - 1)
_uint32 = _integers("uint32", 0, (1 << 32) - 1)
_uint64 = _integers("uint64", 0, (1 << 64) - 1)

_SCALARS: Mapping[int, Convert] = {
    FieldDescriptor.TYPE_INT32: _int32,
    FieldDescriptor.TYPE_SINT32: _int32,
    FieldDescriptor.TYPE_SFIXED32: _int32,
    FieldDescriptor.TYPE_INT64: _int64,
    FieldDescriptor.TYPE_SINT64: _int64,
    FieldDescriptor.TYPE_SFIXED64: _int64,
    FieldDescriptor.TYPE_UINT32: _uint32,
    FieldDescriptor.TYPE_FIXED32: _uint32,
    FieldDescriptor.TYPE_UINT64: _uint64,
    FieldDescriptor.TYPE_FIXED64: _uint64,
    FieldDescriptor.TYPE_FLOAT: _floats("float", MAX_FLOAT),
    FieldDescriptor.TYPE_DOUBLE: _floats("double", MAX_DOUBLE),
    FieldDescriptor.TYPE_BOOL: _boolean,
    FieldDescriptor.TYPE_STRING: _string,
    FieldDescriptor.TYPE_BYTES: _bytes,
}
