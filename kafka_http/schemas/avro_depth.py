"""Limit the depth of a message of a recursive Avro schema, before fastavro's reader recurses on the C stack."""

import struct
from collections.abc import Callable, Mapping

from kafka_http.errors import InvalidPayload
from kafka_http.schemas.avro_schema import AvroType

MAX_DEPTH = 100
"""Records, arrays and maps inside each other."""
_SIZES = {"null": 0, "boolean": 1, "float": 4, "double": 8}


def check_depth(type_: AvroType, data: bytes) -> None:
    """Raise `InvalidPayload` if a message is nested too deeply, or ends too early."""
    try:
        _MessageWalk(data).skip(type_, 0)
    except (IndexError, struct.error):
        raise InvalidPayload("the message ends too early for its schema") from None


class _MessageWalk:
    """Skips over the values of a message in its binary encoding.

    https://avro.apache.org/docs/1.12.0/specification/#binary-encoding
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0
        self._skip_nested: Mapping[str, Callable[[AvroType, int], None]] = {
            "reference": lambda type_, depth: self.skip(type_.children[0], depth),
            "record": self._skip_record,
            "union": self._skip_union,
            "array": self._skip_blocks,
            "map": self._skip_blocks,
        }

    def skip(self, type_: AvroType, depth: int) -> None:
        if depth > MAX_DEPTH:
            raise InvalidPayload(f"the value is nested more than {MAX_DEPTH} levels deep")
        skip_nested = self._skip_nested.get(type_.kind)
        if skip_nested is not None:
            skip_nested(type_, depth)
        elif type_.kind == "fixed":
            self._skip_bytes(type_.min_size)
        elif type_.kind in _SIZES:
            self._skip_bytes(_SIZES[type_.kind])
        else:  # a number, the index of an enum's symbol, or the length of a string or bytes
            number = self._read_number()
            self._skip_bytes(number if type_.kind in {"string", "bytes"} else 0)

    def _skip_record(self, type_: AvroType, depth: int) -> None:
        for field in type_.children:
            self.skip(field, depth + 1)

    def _skip_union(self, type_: AvroType, depth: int) -> None:
        self.skip(type_.children[self._read_number()], depth)

    def _skip_blocks(self, type_: AvroType, depth: int) -> None:
        # Blocks of items, each after its count; a count of 0 is the end.
        while count := self._read_number():
            if count < 0:  # the absolute value is the count
                self._read_number()  # the size of the block in bytes
            for _ in range(abs(count)):
                if type_.kind == "map":
                    self._skip_bytes(self._read_number())
                self.skip(type_.children[0], depth + 1)

    def _skip_bytes(self, size: int) -> None:
        self._position += max(size, 0)
        if self._position > len(self._data):
            raise IndexError

    def _read_number(self) -> int:
        """Read a zigzag varint."""
        number = shift = 0
        while True:
            byte = self._data[self._position]
            self._position += 1
            number |= (byte & 0x7F) << shift
            if byte < 0x80:
                return (number >> 1) ^ -(number & 1)  # 0, 1, 2, 3, ... are 0, -1, 1, -2, ...
            shift += 7
