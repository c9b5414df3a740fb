"""Check JSON, and convert base64."""

import binascii
from collections import deque
from collections.abc import Sequence
from itertools import repeat
from typing import Any

import msgspec
from msgspec import Raw

_raw = msgspec.json.Decoder(Raw)


def check_json(data: bytes) -> None:
    """Raise `ValueError` if these bytes are not one JSON value in UTF-8, or are nested too deeply to be read."""
    try:
        _raw.decode(data)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except msgspec.DecodeError as error:
        raise ValueError(str(error)) from None
    if not data.isascii():
        str(data, "utf-8")  # Raw skips strings without decoding them


def json_texts(data: Sequence[bytes | None]) -> list[Raw | None] | None:
    """Return JSON texts to encode with others, None for None. Return None if `check_json` would reject one of them."""
    present: Sequence[Any] = data if all(data) else [each for each in data if each is not None]
    try:
        deque(map(_raw.decode, present), maxlen=0)
        if not all(map(bytes.isascii, present)):
            deque(map(str, present, repeat("utf-8")), maxlen=0)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return None
    # Not what `decode` returns, which has no surrounding spaces
    return list(map(Raw, present)) if present is data else [None if each is None else Raw(each) for each in data]


def has_more_values(data: bytes, limit: int) -> bool:
    """Return whether a JSON text has more than about `limit` values.

    As Python objects they may take 100 times the bytes of the text. A cheap upper bound, which also counts separators
    in strings, is tried first.
    """
    if len(data) < 2 * limit or _separators(data) < limit:
        return False
    text = data.replace(b"\\\\", b"").replace(b'\\"', b"")
    if text.count(b'"') > 2 * limit:
        return True
    return sum(map(_separators, text.split(b'"')[::2])) >= limit


def _separators(text: bytes) -> int:
    return text.count(b",") + text.count(b"[") + text.count(b"{")


def decode_base64(text: str) -> bytes:
    """Return the bytes of a base64 text (RFC 4648, section 4), which must be padded. Raises `ValueError`."""
    try:
        return binascii.a2b_base64(text, strict_mode=True)
    except ValueError as error:  # binascii.Error, and characters that are not ASCII
        raise ValueError(f"bad base64: {error}") from None


def encode_base64(data: bytes) -> str:
    """Return the base64 of bytes (RFC 4648, section 4), padded."""
    return binascii.b2a_base64(data, newline=False).decode()
