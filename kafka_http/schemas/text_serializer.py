"""`text`: a JSON string is stored as its UTF-8."""

from collections.abc import Mapping
from typing import Any

import msgspec

from kafka_http.records import Headers

_string = msgspec.json.Decoder(str)


class TextSerializer:
    json_text = True
    immediate = True

    def __init__(self, settings: Mapping[str, Any]) -> None: ...

    def serialize(self, topic: str, headers: Headers, data: bytes) -> bytes:
        try:
            return _string.decode(data).encode()
        except msgspec.ValidationError:
            raise ValueError('format "text" takes a JSON string; "json" stores any value as it stands') from None

    def deserialize(self, topic: str, headers: Headers, data: bytes) -> bytes:
        return msgspec.json.encode(str(data, "utf-8"))
