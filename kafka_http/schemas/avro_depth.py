"""How deep a message of a recursive Avro schema goes, before fastavro follows it down on the stack of C."""

import struct
from collections.abc import Callable, Mapping

from kafka_http.errors import InvalidPayload
from kafka_http.schemas.avro_types import AvroType

MAX_DEPTH = 100
"""Records, arrays and maps inside each other."""
_FIXED = {"null": 0, "boolean": 1, "float": 4, "double": 8}


def check_depth(type_: AvroType, data: bytes) -> None:
    """Raise `InvalidPayload` for a message that goes too deep, or ends too early."""
    try:
        _Walk(data).over(type_, 0)
    except (IndexError, struct.error):
        raise InvalidPayload("it ends too early for its schema") from None


class _Walk:
    """Goes through the bytes of a message as its schema says."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0
        self._over: Mapping[str, Callable[[AvroType, int], None]] = {
            "again": lambda type_, depth: self.over(type_.parts[0], depth),
            "record": self._record,
            "union": self._union,
            "array": self._blocks,
            "map": self._blocks,
        }

    def over(self, type_: AvroType, depth: int) -> None:
        if depth > MAX_DEPTH:
            raise InvalidPayload(f"it is nested more than {MAX_DEPTH} levels deep")
        over = self._over.get(type_.kind)
        if over is not None:
            over(type_, depth)
        elif type_.kind == "fixed":
            self._skip(type_.least)
        elif type_.kind in _FIXED:
            self._skip(_FIXED[type_.kind])
        else:  # a number, an enum's index, or a length before as many bytes
            number = self._number()
            self._skip(number if type_.kind in {"string", "bytes"} else 0)

    def _record(self, type_: AvroType, depth: int) -> None:
        for part in type_.parts:
            self.over(part, depth + 1)

    def _union(self, type_: AvroType, depth: int) -> None:
        self.over(type_.parts[self._number()], depth)

    def _blocks(self, type_: AvroType, depth: int) -> None:
        while count := self._number():
            if count < 0:
                self._number()
            for _ in range(abs(count)):
                if type_.kind == "map":
                    self._skip(self._number())
                self.over(type_.parts[0], depth + 1)

    def _skip(self, size: int) -> None:
        self._at += max(size, 0)
        if self._at > len(self._data):
            raise IndexError

    def _number(self) -> int:
        """A zigzag varint: https://avro.apache.org/docs/1.12.0/specification/#binary-encoding."""
        number = shift = 0
        while True:
            byte = self._data[self._at]
            self._at += 1
            number |= (byte & 0x7F) << shift
            if byte < 0x80:
                return (number >> 1) ^ -(number & 1)
            shift += 7
