"""The heads of requests for the fast path, remembered byte for byte.

A client sends the same head with each of its publishes, apart from its Content-Length. Parsing and checking it once
saves most of the work for a small request.
"""

import os
from collections.abc import Callable
from hashlib import sha256
from typing import NamedTuple

from kafka_http.server.app_interface import Client, FastPathHandler, PreparedRequest
from kafka_http.server.fast_path_parser import FastPathHead, parse_head, without_length

MAX_REMEMBERED = 256
"""Heads of one generation; there are two."""
_MAX_REMEMBERED_BYTES = 1024
"""Size of a head that is remembered."""
CREDENTIAL_HEADERS = frozenset(("authorization", "proxy-authorization", "x-api-key", "cookie"))
"""Headers that are not remembered."""


class PreparedHead(NamedTuple):
    """A parsed head and what the application made of it."""

    parsed: FastPathHead
    prepared: PreparedRequest


FindHead = Callable[[bytes, int, Client], tuple[PreparedHead, int] | None]
"""`PreparedHeads.find`."""


class PreparedHeads:
    """Finds or prepares the head of a request. Only the main loop uses it.

    It remembers two generations: the heads that were added or used since the last change of generation, and those
    before. When the recent generation has `MAX_REMEMBERED` heads, it becomes the previous one, whose other heads are
    forgotten. So heads in frequent use stay, however many heads occur only once.

    If the application decides by client, a head is remembered for one client, under a keyed digest: the memory then has
    no credentials. A decision that no longer holds is made again.
    """

    def __init__(
        self, handler: FastPathHandler, prepare: Callable[[FastPathHead, Client], PreparedRequest | None]
    ) -> None:
        self._handler = handler
        self._prepare = prepare
        self._digest = sha256(os.urandom(64))  # a secret of one block
        self._recent: dict[bytes, PreparedHead] = {}
        self._previous: dict[bytes, PreparedHead] = {}

    def __len__(self) -> int:
        return len(self._recent) + len(self._previous)

    def find(self, data: bytes, end: int, client: Client) -> tuple[PreparedHead, int] | None:
        """Return the head `data[:end]` and the size of its body, or None if the request needs a view."""
        split = without_length(data, end)
        if split is None:
            return None
        text, size = split
        key = self._digest_of(text, client) if self._handler.decides_by_client else text
        head = self._recent.get(key)
        if head is None or not head.prepared.is_current:
            head = self._prepared_again(key, text, client)
        return None if head is None else (head, size)

    def _digest_of(self, text: bytes, client: Client) -> bytes:
        digest = self._digest.copy()
        digest.update(text)
        digest.update(client.address.encode())
        digest.update(client.certificate_digest)
        return digest.digest()

    def _prepared_again(self, key: bytes, text: bytes, client: Client) -> PreparedHead | None:
        """Return the head of the previous generation, or prepare it. Remember it."""
        head = self._previous.pop(key, None)
        if head is None or not head.prepared.is_current:
            head = self._parse(text, client)
        if head is None:
            self._recent.pop(key, None)
            return None
        if key is not text:
            head = _without_credentials(head)
        if head.prepared.is_reusable and len(key) <= _MAX_REMEMBERED_BYTES:
            self._remember(key, head)
        return head

    def _parse(self, text: bytes, client: Client) -> PreparedHead | None:
        parsed = parse_head(text)
        prepared = None if parsed is None else self._prepare(parsed, client)
        if parsed is None or prepared is None:
            return None
        return PreparedHead(parsed, prepared)

    def _remember(self, key: bytes, head: PreparedHead) -> None:
        if len(self._recent) >= MAX_REMEMBERED:
            self._previous, self._recent = self._recent, {}
        self._recent[key] = head


def _without_credentials(head: PreparedHead) -> PreparedHead:
    headers = head.parsed.headers
    if CREDENTIAL_HEADERS.isdisjoint(headers):
        return head
    kept = {name: value for name, value in headers.items() if name not in CREDENTIAL_HEADERS}
    return head._replace(parsed=head.parsed._replace(headers=kept))
