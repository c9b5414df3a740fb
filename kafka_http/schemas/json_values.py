"""Convert values from and to JSON, and report those that do not fit: what Avro and Protobuf have in common.

NaN and the infinities are the strings "NaN", "Infinity" and "-Infinity".
"""

import math
import re
import struct
import sys
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any

from kafka_http.errors import InvalidPayload

Convert = Callable[[Any], Any]
"""Convert a value of one type. A conversion from JSON raises `InvalidPayload` for a value that does not fit."""

MAX_FLOAT = math.nextafter(3.4028235677973366e38, 0)
"""The largest double that does not round to infinity as a 32-bit float."""
MAX_DOUBLE = sys.float_info.max
SPECIAL_FLOATS: Mapping[str, float] = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
MAX_QUOTED = 80
"""Characters of a client's text that an error message repeats."""
_FLOAT = struct.Struct("<f")
_PLAIN_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_NUMBER = re.compile(r"-?[0-9]{1,400}(\.[0-9]{1,400})?([eE][+-]?[0-9]{1,3})?", re.ASCII)
_JSON_TYPES: Mapping[type, str] = {str: "string", int: "number", float: "number", list: "array", dict: "object"}


def to_boolean(data: Any) -> bool:
    """Return a JSON boolean."""
    if data is True or data is False:
        return bool(data)
    raise wrong_type("boolean", data)


def to_string(data: Any) -> str:
    """Return a JSON string."""
    if type(data) is str:
        return data
    raise wrong_type("string", data)


def to_integer(name: str, low: int, high: int, *, texts: bool = False) -> Convert:
    """Return the conversion to an integer type. 1.0 is a whole number, and with `texts` so are "1" and "1e3"."""
    accepted = {int, float, str} if texts else {int, float}

    def convert(data: Any) -> int:
        if type(data) is int and low <= data <= high:
            return data
        if type(data) not in accepted:
            raise wrong_type(name, data)
        whole = _whole(data)
        if whole is None or not low <= whole <= high:
            raise InvalidPayload(f"expected {name}, a whole number from {low} to {high}, got {quote(data)}")
        return whole

    return convert


def _whole(data: Any) -> int | None:
    if type(data) is float and data.is_integer():
        return int(data)
    if type(data) is str and _NUMBER.fullmatch(data):
        number = Decimal(data)
        if number.adjusted() < 20 and number == number.to_integral_value():
            return int(number)
    return None


def to_float(name: str, largest: float, *, texts: bool = False) -> Convert:
    """Return the conversion to a floating-point type. With `texts`, a number may be a string."""

    def convert(data: Any) -> float:
        number = data
        if type(data) is str:
            if data in SPECIAL_FLOATS:
                return SPECIAL_FLOATS[data]
            number = float(data) if texts and _NUMBER.fullmatch(data) else None
        if type(number) is not float and type(number) is not int:
            raise wrong_type(f'{name} (or "NaN", "Infinity", "-Infinity")', data)
        if not -largest <= number <= largest:
            raise InvalidPayload(f"expected {name}, got {shorten(str(data))}, which is too large")
        return float(number)

    return convert


def to_array(convert: Convert) -> Convert:
    """Return the conversion to a list, given that of its items."""

    def convert_items(data: Any) -> list[Any]:
        if type(data) is not list:
            raise wrong_type("array", data)
        items: list[Any] = []
        try:
            for item in data:
                items.append(convert(item))  # no comprehension: its length is the index of the bad item
        except InvalidPayload as error:
            raise error.within(f"[{len(items)}]") from None
        return items

    return convert_items


def to_map(convert: Convert, convert_key: Convert = to_string) -> Convert:
    """Return the conversion to a dict, given those of its values and its keys."""

    def convert_entries(data: Any) -> dict[Any, Any]:
        if type(data) is not dict:
            raise wrong_type("map as an object", data)
        entries: dict[Any, Any] = {}
        key = ""
        try:
            for key, value in data.items():
                entries[convert_key(key)] = convert(value)
        except InvalidPayload as error:
            raise error.within(path_step(key)) from None
        return entries

    return convert_entries


def decode_double(value: float) -> float | str:
    """Return the JSON value of a double."""
    if -math.inf < value < math.inf:
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def decode_float(value: float) -> float | str:
    """Return the JSON value of a 32-bit float: the shortest number that rounds to it, such as 1.1."""
    if not -math.inf < value < math.inf:
        return decode_double(value)
    packed = _FLOAT.pack(value)
    return next((short for digits in (6, 7, 8) if _rounds_to(short := float(f"{value:.{digits}g}"), packed)), value)


def _rounds_to(value: float, packed: bytes) -> bool:
    return abs(value) <= MAX_FLOAT and _FLOAT.pack(value) == packed


def json_type(data: Any) -> str:
    """Return JSON's name for the type of a value: null, boolean, number, string, array or object."""
    if data is None or isinstance(data, bool):
        return "null" if data is None else "boolean"
    return _JSON_TYPES[type(data)]


def path_step(name: str) -> str:
    """Return one step of an error's path: `.name`, or `["name"]` if the name is not a plain identifier."""
    return f".{name}" if _PLAIN_NAME.fullmatch(name) else f'["{shorten(name)}"]'


def shorten(text: str) -> str:
    """Return a client's text, cut to the length that an error message repeats."""
    return text if len(text) <= MAX_QUOTED else f"{text[:MAX_QUOTED]}…"


def quote(data: Any) -> str:
    """Return a number or a string as an error message repeats it; a string in quotes."""
    return f'"{shorten(data)}"' if type(data) is str else shorten(str(data))


def wrong_type(expected: str, data: Any) -> InvalidPayload:
    """Return the error for a value of another type than expected."""
    return InvalidPayload(f"expected {expected}, got {json_type(data)}")
