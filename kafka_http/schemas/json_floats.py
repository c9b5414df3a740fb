"""Floats and doubles in JSON, as Avro and Protobuf have them: NaN and the infinities are texts of these names."""

import math
import struct
import sys
from collections.abc import Mapping

MAX_FLOAT = math.nextafter(3.4028235677973366e38, 0)
"""A double above it is rounded to a float's infinity."""
MAX_DOUBLE = sys.float_info.max
SPECIAL: Mapping[str, float] = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
_FLOAT = struct.Struct("<f")


def decode_double(value: float) -> float | str:
    if -math.inf < value < math.inf:
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def decode_float(value: float) -> float | str:
    """The shortest number that is this float, as 1.1 is, not the double nearest to it."""
    if not -math.inf < value < math.inf:
        return decode_double(value)
    packed = _FLOAT.pack(value)
    return next((short for digits in (6, 7, 8) if _is(short := float(f"{value:.{digits}g}"), packed)), value)


def _is(value: float, packed: bytes) -> bool:
    return abs(value) <= MAX_FLOAT and _FLOAT.pack(value) == packed
