"""`json`: the value's JSON text as the client wrote it."""

from collections.abc import Mapping
from typing import Any

from kafka_http.encoding import check_json
from kafka_http.records import Headers


class JsonSerializer:
    json_text = True
    immediate = True
    verbatim = True

    def __init__(self, settings: Mapping[str, Any]) -> None: ...

    def serialize(self, topic: str, headers: Headers, data: bytes) -> bytes:
        return data

    def deserialize(self, topic: str, headers: Headers, data: bytes) -> bytes:
        check_json(data)
        return data
