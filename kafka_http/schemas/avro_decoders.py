"""Avro's JSON encoding, value by value: from what fastavro reads. `avro_encoders.py` goes the other way.

There is none for a type whose values are in JSON as fastavro gives them.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from kafka_http.schemas.avro_encoders import Branch, Convert


def decode_bytes(value: bytes) -> str:
    return value.decode("latin-1")


def array_decoder(decode_item: Convert) -> Convert:
    return lambda value: [decode_item(item) for item in value]


def map_decoder(decode_value: Convert) -> Convert:
    return lambda value: {key: decode_value(each) for key, each in value.items()}


def record_decoder(fields: Mapping[str, Convert]) -> Convert:
    listed = tuple(fields.items())

    def decode(value: dict[str, Any]) -> dict[str, Any]:
        for field, decode_field in listed:
            value[field] = decode_field(value[field])
        return value

    return decode


_PYTHON: Mapping[str, type] = {
    **{"boolean": bool, "int": int, "long": int, "float": float, "double": float},
    **{"string": str, "bytes": bytes, "array": list, "map": dict},
}


def union_decoder(branches: Sequence[Branch]) -> Convert:
    """fastavro gives a named type as a tuple of its name and value, the others bare."""
    tagged = {each.tag: (each.name, each.decode) for each in branches}
    typed = {_PYTHON[each.tag]: (each.name, each.decode) for each in branches if each.tag in _PYTHON}

    def decode(value: Any) -> dict[str, Any] | None:
        if value is None:
            return None
        if type(value) is tuple:
            tag, value = value
            name, convert = tagged[tag]
        else:
            name, convert = typed[type(value)]
        return {name: value if convert is None else convert(value)}

    return decode
