"""JSON and base64, as every room reads and writes them."""

import binascii

import msgspec

_raw = msgspec.json.Decoder(msgspec.Raw)


def check_json(data: bytes) -> None:
    """Raise `ValueError` where these bytes are not one JSON value in UTF-8, of a depth that can be read."""
    try:
        _raw.decode(data)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except msgspec.DecodeError as error:
        raise ValueError(str(error)) from None
    if not data.isascii():
        str(data, "utf-8")  # Raw skips over strings without decoding them


def has_more_values(data: bytes, limit: int) -> bool:
    """Whether a JSON text has more than about `limit` values: its objects take a hundred times the bytes of the text.

    A cheap upper bound comes first, which counts what is in strings as well.
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
    """The bytes of a base64 text (RFC 4648, section 4), which must be padded. Raises `ValueError`."""
    try:
        return binascii.a2b_base64(text, strict_mode=True)
    except ValueError as error:  # binascii.Error, and characters that are not ASCII
        raise ValueError(f"bad base64: {error}") from None


def encode_base64(data: bytes) -> str:
    return binascii.b2a_base64(data, newline=False).decode()
