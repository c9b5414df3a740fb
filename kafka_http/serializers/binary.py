"""`binary`: any bytes, in JSON as a string of base64 (RFC 4648, section 4)."""

import binascii
from collections.abc import Mapping
from typing import Any

import msgspec

from kafka_http.errors import InvalidRequest
from kafka_http.records import Headers

_string = msgspec.json.Decoder(str)


def decode_base64(text: str) -> bytes:
    """The bytes of a base64 text, which must be padded and of the standard alphabet. Raises `ValueError`."""
    try:
        return binascii.a2b_base64(text, strict_mode=True)
    except ValueError as error:  # binascii.Error, and characters that are not ASCII
        raise ValueError(f"bad base64: {error}") from None


class BinarySerializer:
    json_text = True

    def __init__(self, settings: Mapping[str, Any]) -> None: ...

    def serialize(self, topic: str, headers: Headers, data: bytes) -> bytes:
        try:
            return decode_base64(_string.decode(data))
        except msgspec.ValidationError:
            raise InvalidRequest('format "binary" takes a string of base64') from None
        except ValueError as error:
            raise InvalidRequest(str(error)) from None

    def deserialize(self, topic: str, headers: Headers, data: bytes) -> bytes:
        return b'"%b"' % binascii.b2a_base64(data, newline=False)
