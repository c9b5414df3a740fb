r"""What `read` and `tail` print: a message by a format such as `%p:%o %k %v\n`, or its JSON."""

import argparse
import re
import sys
from base64 import b64decode
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Raw, Struct

_NULL = Raw(b"null")
_ESCAPES = {"n": b"\n", "t": b"\t", "r": b"\r", "0": b"\0", "\\": b"\\"}
_PART = re.compile(r"%(?P<field>.?)|\\x(?P<hex>[0-9a-fA-F]{2})|\\(?P<escape>.?)|[^%\\]+", re.DOTALL)


class ReceivedMessage(Struct):
    """The JSON of a message, as a page or a stream has it."""

    partition: int
    offset: int
    timestamp: int | None = None
    key: Raw = _NULL
    key_format: str | None = None
    value: Raw = _NULL
    error: Mapping[str, Any] | None = None
    format: str | None = None
    headers: Sequence[tuple[str, str | Mapping[str, str] | None]] = ()


decode_message = msgspec.json.Decoder(ReceivedMessage).decode


def stored_bytes(value: Raw, format_: str | None) -> bytes:
    """Return the bytes of a key or a value that is shown in this format; a null has no format and no bytes."""
    if format_ is None:
        return b""
    if format_ == "binary":
        return msgspec.json.decode(value, type=bytes)
    if format_ == "text":
        return msgspec.json.decode(value, type=str).encode()
    return bytes(value)


def _headers(message: ReceivedMessage) -> bytes:
    return b",".join(name.encode() + b"=" + _header_value(value) for name, value in message.headers)


def _header_value(value: str | Mapping[str, str] | None) -> bytes:
    if isinstance(value, str):
        return value.encode()
    return b"" if value is None else b64decode(value["base64"])


def _key(message: ReceivedMessage) -> bytes:
    is_text = message.key_format is None and bytes(message.key) != b"null"
    return stored_bytes(message.key, "text" if is_text else message.key_format)


_Field = Callable[[str, ReceivedMessage], bytes]
_FIELDS: Mapping[str, _Field] = {
    "t": lambda topic, _: topic.encode(),
    "p": lambda _, message: b"%d" % message.partition,
    "o": lambda _, message: b"%d" % message.offset,
    "k": lambda _, message: _key(message),
    "v": lambda _, message: b"" if message.error is not None else stored_bytes(message.value, message.format),
    "T": lambda _, message: b"" if message.timestamp is None else b"%d" % message.timestamp,
    "h": lambda _, message: _headers(message),
}


class MessageFormat:
    """The parsed text of `--format`."""

    def __init__(self, text: str) -> None:
        """Parse a text. Raises `argparse.ArgumentTypeError`, which lists the fields."""
        self._parts = [_part(found) for found in _PART.finditer(text)]

    def __call__(self, topic: str, message: ReceivedMessage) -> bytes:
        """Return the bytes to print for a message."""
        return b"".join(part if isinstance(part, bytes) else part(topic, message) for part in self._parts)


def _part(found: re.Match[str]) -> bytes | _Field:
    field, escape = found["field"], found["escape"]
    if field is not None:
        if field == "%":
            return b"%"
        if field not in _FIELDS:
            known = ", ".join(f"%{each}" for each in (*_FIELDS, "%"))
            raise argparse.ArgumentTypeError(f"the format has %{field}, which is not one of {known}")
        return _FIELDS[field]
    if found["hex"]:
        return bytes.fromhex(found["hex"])
    if escape is not None:
        if escape not in _ESCAPES:
            raise argparse.ArgumentTypeError(rf"the format has \{escape}, which is not one of \n \t \r \0 \\ \xHH")
        return _ESCAPES[escape]
    return found[0].encode(errors="surrogateescape")


def write(parts: Iterable[bytes]) -> None:
    """Write to stdout at once, so that the next program in a pipe does not wait for more."""
    sys.stdout.buffer.write(b"".join(parts))
    sys.stdout.buffer.flush()


def write_json(value: Any) -> None:
    """Write a value as one line of JSON."""
    write((msgspec.json.encode(value), b"\n"))


def write_table(rows: Sequence[Sequence[str]]) -> None:
    """Write rows of cells in columns of equal width, numbers to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)))


def note(text: str) -> None:
    """Print a sentence to stderr."""
    print(f"kafka-http: {text}", file=sys.stderr, flush=True)
