"""Parses server-sent events as a browser does (HTML standard, section 9.2.6)."""

import json
from typing import Any, NamedTuple


class Event(NamedTuple):
    """An event that a browser would dispatch."""

    type: str
    data: str

    @property
    def json(self) -> Any:
        return json.loads(self.data)


class EventParser:
    """Turns bytes into events. `last_id` and `retry` have the values of an EventSource."""

    def __init__(self) -> None:
        self.last_id = ""
        self.ids: list[str] = []
        """The id of each block that had one."""
        self.retry: int | None = None
        self._rest = b""

    def feed(self, data: bytes) -> list[Event]:
        *blocks, self._rest = (self._rest + data).split(b"\n\n")
        return [event for block in blocks for event in self._event(block.decode())]

    def _event(self, block: str) -> list[Event]:
        assert "\r" not in block
        kind, lines = "message", []
        for line in block.split("\n"):
            name, _, value = line.partition(": ")
            if name == "id":
                self.last_id = value
                self.ids.append(value)
            elif name == "retry":
                self.retry = int(value)
            elif name == "event":
                kind = value
            else:
                assert name == "data", block
                lines.append(value)
        return [Event(kind, "\n".join(lines))] if lines else []
