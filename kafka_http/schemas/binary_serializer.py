"""`binary`: any bytes, in JSON as a string of base64 (RFC 4648, section 4)."""

from collections.abc import Mapping
from typing import Any

import msgspec

from kafka_http.encoding import decode_base64, encode_base64
from kafka_http.errors import InvalidRequest
from kafka_http.records import Headers

_string = msgspec.json.Decoder(str)


class BinarySerializer:
    json_text = True
    immediate = True

    def __init__(self, settings: Mapping[str, Any]) -> None: ...

    def serialize(self, topic: str, headers: Headers, data: bytes) -> bytes:
        try:
            return decode_base64(_string.decode(data))
        except msgspec.ValidationError:
            raise InvalidRequest('format "binary" takes a string of base64') from None
        except ValueError as error:
            raise InvalidRequest(str(error)) from None

    def deserialize(self, topic: str, headers: Headers, data: bytes) -> bytes:
        return b'"%b"' % encode_base64(data).encode()
