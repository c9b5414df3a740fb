"""The heads of requests for the fast path, remembered byte for byte.

A client sends the same head with each of its publishes, apart from its Content-Length. Parsing and checking it once
saves most of the work for a small request.
"""

from collections.abc import Callable
from typing import NamedTuple

from kafka_http.server.app_interface import PreparedRequest
from kafka_http.server.fast_path_parser import FastPathHead, parse_head, without_length

MAX_REMEMBERED = 256
"""Heads of one generation; there are two."""
_MAX_REMEMBERED_BYTES = 1024
"""Size of a head that is remembered."""


class PreparedHead(NamedTuple):
    """A parsed head and what the application made of it."""

    parsed: FastPathHead
    prepared: PreparedRequest


FindHead = Callable[[bytes, int], tuple[PreparedHead, int] | None]
"""`PreparedHeads.find`."""


class PreparedHeads:
    """Finds or prepares the head of a request. Only the main loop uses it.

    It remembers two generations: the heads that were added or used since the last change of generation, and those
    before. When the recent generation has `MAX_REMEMBERED` heads, it becomes the previous one, whose other heads are
    forgotten. So heads in frequent use stay, however many heads occur only once.
    """

    def __init__(self, prepare: Callable[[FastPathHead], PreparedRequest | None]) -> None:
        self._prepare = prepare
        self._recent: dict[bytes, PreparedHead] = {}
        self._previous: dict[bytes, PreparedHead] = {}

    def __len__(self) -> int:
        return len(self._recent) + len(self._previous)

    def find(self, data: bytes, end: int) -> tuple[PreparedHead, int] | None:
        """Return the head `data[:end]` and the size of its body, or None if the request needs a view."""
        split = without_length(data, end)
        if split is None:
            return None
        key, size = split
        head = self._recent.get(key)
        if head is None:
            head = self._previous.pop(key, None) or self._parse(key)
            if head is None:
                return None
            if head.prepared.is_reusable and len(key) <= _MAX_REMEMBERED_BYTES:
                self._remember(key, head)
        return head, size

    def _parse(self, key: bytes) -> PreparedHead | None:
        parsed = parse_head(key)
        prepared = None if parsed is None else self._prepare(parsed)
        return None if parsed is None or prepared is None else PreparedHead(parsed, prepared)

    def _remember(self, key: bytes, head: PreparedHead) -> None:
        if len(self._recent) >= MAX_REMEMBERED:
            self._previous, self._recent = self._recent, {}
        self._recent[key] = head
