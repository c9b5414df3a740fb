"""`json`: the value's JSON text as the client wrote it."""

from collections.abc import Mapping
from typing import Any

import msgspec

from kafka_http.records import Headers

_raw = msgspec.json.Decoder(msgspec.Raw)


def check_json(data: bytes) -> None:
    """Raise `ValueError` where these bytes are not one JSON value in UTF-8, of a depth that can be read."""
    try:
        _raw.decode(data)
    except RecursionError:
        raise ValueError("JSON nested too deeply") from None
    str(data, "utf-8")  # Raw skips over strings without decoding them


class JsonSerializer:
    json_text = True

    def __init__(self, settings: Mapping[str, Any]) -> None: ...

    def serialize(self, topic: str, headers: Headers, data: bytes) -> bytes:
        return data

    def deserialize(self, topic: str, headers: Headers, data: bytes) -> bytes:
        check_json(data)
        return data
