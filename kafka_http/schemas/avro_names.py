"""The rules of Avro's specification for names, fields and symbols, which fastavro does not keep to.

https://avro.apache.org/docs/1.12.0/specification/#names
"""

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from kafka_http.errors import InvalidSchema
from kafka_http.schemas.avro_types import PRIMITIVES

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_FULL_NAME = re.compile(rf"{_NAME.pattern}(\.{_NAME.pattern})*")


def shown(schema: Any) -> str:
    """A part of a schema, or its beginning, for an error."""
    text = msgspec.json.encode(schema).decode()
    return text if len(text) <= 100 else f"{text[:100]}…"


def defined_name(schema: Mapping[str, Any], namespace: str) -> str:
    """The full name of a record, an enum or a fixed. Raises `InvalidSchema`."""
    name, space = schema.get("name"), schema.get("namespace", namespace)
    if not isinstance(name, str) or not isinstance(space, str | None):
        raise InvalidSchema(f"a {schema['type']} needs a name, and a namespace is a string: {shown(schema)}.")
    full = name if "." in name or not space else f"{space}.{name}"
    if not _FULL_NAME.fullmatch(full) or full in PRIMITIVES:
        raise InvalidSchema(f"{full[:200]!r} is no name for a type.")
    return full


def fields_of(record: str, schema: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """A record's fields by name, each of which has a type. Raises `InvalidSchema`."""
    listed = schema.get("fields")
    if not isinstance(listed, list):
        raise InvalidSchema(f"the record {record} needs a list of fields.")
    fields: dict[str, Mapping[str, Any]] = {}
    for each in listed:
        name = each.get("name") if isinstance(each, dict) else None
        if not isinstance(name, str) or not _NAME.fullmatch(name) or name in fields or "type" not in each:
            raise InvalidSchema(f"the fields of {record} need a type and a name of their own each: {shown(each)}.")
        fields[name] = each
    return fields


def check_symbols(enum: str, schema: Mapping[str, Any]) -> list[str]:
    """An enum's symbols. Raises `InvalidSchema`."""
    symbols = schema.get("symbols")
    if not isinstance(symbols, list) or not all(isinstance(each, str) and _NAME.fullmatch(each) for each in symbols):
        raise InvalidSchema(f"the enum {enum} needs a list of symbols, which are names: {shown(symbols)}.")
    if not symbols or len(set(symbols)) < len(symbols):
        raise InvalidSchema(f"the enum {enum} has no symbol, or one twice: {shown(symbols)}.")
    return symbols
