"""The formats without schemas: `json`, `text` and `binary`. They take and return JSON texts."""

from collections.abc import Mapping
from typing import Any

import msgspec

from kafka_http.encoding import check_json, decode_base64, encode_base64
from kafka_http.errors import InvalidRequest
from kafka_http.records import Headers

_string = msgspec.json.Decoder(str)


class _SchemalessSerializer:
    json_text = True
    immediate = True

    def __init__(self, settings: Mapping[str, Any]) -> None: ...


class JsonSerializer(_SchemalessSerializer):
    """Stores the JSON text of the value as the client sent it."""

    verbatim = True

    def serialize(self, topic: str, headers: Headers, data: bytes) -> bytes:
        return data

    def deserialize(self, topic: str, headers: Headers, data: bytes) -> bytes:
        check_json(data)
        return data


class TextSerializer(_SchemalessSerializer):
    """Stores a JSON string as UTF-8."""

    def serialize(self, topic: str, headers: Headers, data: bytes) -> bytes:
        try:
            return _string.decode(data).encode()
        except msgspec.ValidationError:
            raise ValueError('format "text" takes a JSON string; format "json" takes any value') from None

    def deserialize(self, topic: str, headers: Headers, data: bytes) -> bytes:
        return msgspec.json.encode(str(data, "utf-8"))


class BinarySerializer(_SchemalessSerializer):
    """Stores any bytes, which are a string of base64 in JSON (RFC 4648, section 4)."""

    def serialize(self, topic: str, headers: Headers, data: bytes) -> bytes:
        try:
            return decode_base64(_string.decode(data))
        except msgspec.ValidationError:
            raise InvalidRequest('format "binary" takes a string of base64') from None
        except ValueError as error:
            raise InvalidRequest(str(error)) from None

    def deserialize(self, topic: str, headers: Headers, data: bytes) -> bytes:
        return b'"%b"' % encode_base64(data).encode()
