"""What is known of a type of an Avro schema once it is compiled."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from kafka_http.errors import InvalidPayload
from kafka_http.schemas import avro_decoders as decoders
from kafka_http.schemas import avro_encoders as encoders
from kafka_http.schemas.avro_encoders import Convert, Default, Filled
from kafka_http.schemas.json_floats import decode_double, decode_float


@dataclass(slots=True, eq=False)
class AvroType:
    """A type: its name in JSON, fastavro's for it (`tag`) and the schema for that, and how values are converted.

    `parts` are the types of fields, of items, of branches. `least` is the fewest bytes that a value takes, `empty` how
    many of its parts take none. A record `is_open` until its fields are known.
    """

    kind: str
    name: str
    tag: str
    schema: Any
    encode: Convert
    decode: Convert | None = None
    parts: Sequence["AvroType"] = ()
    least: int = 1
    empty: int = 0
    depth: int = 1
    is_open: bool = False

    def __post_init__(self) -> None:
        self.depth = 1 + max((each.depth for each in self.parts), default=0)

    def close(self, fields: Mapping[str, "AvroType"]) -> None:
        """Take a record's fields, for which it could be referred to meanwhile."""
        self.schema["fields"] = [{"name": name, "type": each.schema} for name, each in fields.items()]
        self.parts = tuple(fields.values())
        self.least = sum(each.least for each in self.parts)
        self.empty = sum(each.empty for each in self.parts) or not self.parts
        inner = {name: each.decode for name, each in fields.items() if each.decode is not None}
        self.decode = decoders.record_decoder(inner) if inner else None
        self.is_open = False
        self.__post_init__()


PRIMITIVES = frozenset({"null", "boolean", "int", "long", "float", "double", "string", "bytes"})
_CONVERT: Mapping[str, tuple[Convert, Convert | None, int]] = {
    "null": (encoders.encode_null, None, 0),
    "boolean": (encoders.encode_boolean, None, 1),
    "int": (encoders.integers("int", 32), None, 1),
    "long": (encoders.integers("long", 64), None, 1),
    "float": (encoders.encode_float, decode_float, 4),
    "double": (encoders.encode_double, decode_double, 8),
    "string": (encoders.encode_string, None, 1),
    "bytes": (encoders.encode_bytes, decoders.decode_bytes, 1),
}


def primitive(name: str) -> AvroType:
    encode, decode, least = _CONVERT[name]
    return AvroType(name, name, name, name, encode, decode, least=least, empty=not least)


def named_again(type_: AvroType) -> AvroType:
    """A type that was defined before, by its name. One that is open takes a byte at least, or it had no end."""
    if not type_.is_open:
        again = AvroType("again", type_.name, type_.tag, type_.tag, type_.encode, type_.decode, (type_,))
        again.least, again.empty, again.depth = type_.least, type_.empty, type_.depth
        return again

    def encode(data: Any) -> Any:
        return type_.encode(data)

    def decode(value: Any) -> Any:
        return value if type_.decode is None else type_.decode(value)

    again = AvroType("again", type_.name, type_.tag, type_.tag, encode, decode)
    again.parts = (type_,)
    return again


def default_of(type_: AvroType, value: Any, filled: Filled) -> Default | None:
    """A field's default, converted; None where it does not fit the type, and then it counts for nothing.

    That of a union is a value of one of its branches, without the branch's name.
    """
    for branch in type_.parts if type_.kind == "union" else (type_,):
        filled.size = 0
        try:
            encoded = branch.encode(value)
        except InvalidPayload:
            continue
        size = len(msgspec.json.encode(value)) + filled.size
        return Default((branch.tag, encoded) if type_.kind == "union" else encoded, size)
    return None
