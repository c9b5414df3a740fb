"""The words for what is wrong with a value: what JSON calls it, and the path to it."""

import re
from collections.abc import Mapping
from typing import Any

from kafka_http.errors import InvalidPayload

LONGEST = 80
"""How much of a client's text an error repeats."""
_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_KINDS: Mapping[type, str] = {str: "string", int: "number", float: "number", list: "array", dict: "object"}


def kind_of(data: Any) -> str:
    """What JSON calls it."""
    if data is None or isinstance(data, bool):
        return "null" if data is None else "boolean"
    return _KINDS[type(data)]


def step(name: str) -> str:
    """A step of a path to the fault: `.name`, or `["name"]` where it is no plain one."""
    return f".{name}" if _PLAIN.fullmatch(name) else f'["{shortened(name)}"]'


def shortened(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"


def wrong(expected: str, data: Any) -> InvalidPayload:
    return InvalidPayload(f"expected {expected}, got {kind_of(data)}")
