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


def decode_base64(text: str) -> bytes:
    """The bytes of a base64 text (RFC 4648, section 4), which must be padded. Raises `ValueError`."""
    try:
        return binascii.a2b_base64(text, strict_mode=True)
    except ValueError as error:  # binascii.Error, and characters that are not ASCII
        raise ValueError(f"bad base64: {error}") from None


def encode_base64(data: bytes) -> str:
    return binascii.b2a_base64(data, newline=False).decode()
