"""What one connection says: its requests as bytes, and what it makes of the answers."""

import random
import re
from functools import lru_cache
from typing import Protocol
from urllib.parse import quote, urlsplit

V2_JSON = "application/vnd.kafka.json.v2+json"

_OFFSET = b'"offset":'
_NEXT = re.compile(rb'"next": ?"([^"]+)"')
_TAIL = 16384
"""A page ends with its position, which may name hundreds of partitions."""

_FAILED = re.compile(rb'"error_code": ?[1-9]')


class RequestFailed(Exception):
    """An answer with 2xx that says of a record that it failed."""


class Conversation(Protocol):
    """`request` is what to send next, whole."""

    request: bytes

    def take(self, body: bytes) -> int | None:
        """Number of messages in the response; None if it does not count. Raises `RequestFailed`."""


class Address:
    """Where requests go: a URL taken apart. Only plain HTTP."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.host = parts.hostname or ""
        self.port = parts.port or 80
        self.path = parts.path.rstrip("/")
        self.netloc = parts.netloc.rpartition("@")[2]

    def request(self, method: str, path: str, headers: str = "", body: bytes | None = None) -> bytes:
        length = f"Content-Length: {len(body)}\r\n" if body is not None else ""
        head = f"{method} {self.path}{path} HTTP/1.1\r\nHost: {self.netloc}\r\n{headers}{length}\r\n"
        return head.encode("ascii") + (body or b"")


def values(count: int, size: int) -> list[str]:
    """Different JSON values of so many bytes each, at least 8."""
    digits = random.Random(0)  # noqa: S311  the same in each run
    return [f'{{"v":"{digits.randbytes(size // 2).hex()[: size - 8]}"}}' for _ in range(count)]


class PublishConversation:
    """The same request over and over: of one record the value alone, of more the envelope; in v2 always the latter.

    With `later` it is answered before Kafka has the records.
    """

    def __init__(
        self, address: Address, topic: str, dialect: str, records: int, size: int, *, later: bool = False
    ) -> None:
        is_v2 = dialect == "v2"
        path = f"/topics/{topic}" if is_v2 else f"/messages/{topic}"
        headers = f"Content-Type: {V2_JSON if is_v2 else 'application/json'}\r\n"
        headers += "Prefer: respond-async\r\n" if later else ""
        self.request = address.request("POST", path, headers, publish_body(records, size, bare=not is_v2))
        self._records = records
        self._is_v2 = is_v2

    def take(self, body: bytes) -> int:
        if self._is_v2 and _FAILED.search(body):
            raise RequestFailed(body[:300].decode(errors="replace").strip())
        return self._records


@lru_cache(maxsize=4)
def publish_body(records: int, size: int, *, bare: bool) -> bytes:
    made = values(records, size)
    if bare and records == 1:
        return made[0].encode()
    listed = ",".join(f'{{"value":{each}}}' for each in made)
    return f'{{"records":[{listed}]}}'.encode()


class ReadConversation:
    """Pages of `/messages` from the beginning on, and again when all messages have been there."""

    def __init__(self, address: Address, topic: str, consumer: str, limit: int, messages: int) -> None:
        path = f"/messages/{topic}/{quote(consumer, safe='')}/"
        whole = address.request("GET", f"{path}\0?limit={limit}")
        self._before, self._after = whole.split(b"\0")
        self._all = messages
        self._begin()

    def _begin(self) -> None:
        self._left = self._all
        self.request = self._before + b"earliest" + self._after

    def take(self, body: bytes) -> int:
        count = body.count(_OFFSET)
        self._left -= count
        following = _NEXT.search(body, max(0, len(body) - _TAIL))
        if not count or self._left <= 0 or following is None:
            self._begin()
        else:
            self.request = self._before + following[1] + self._after
        return count


class ConsumeConversation:
    """A v2 instance's records, which is sent back to the beginning when it has had all of them.

    `instance` is the path of one that has its partitions and stands at the beginning; `partitions` is the body of
    `positions/beginning`.
    """

    def __init__(self, address: Address, instance: str, partitions: bytes, messages: int) -> None:
        own = "Content-Type: application/vnd.kafka.v2+json\r\n"
        self._records = address.request("GET", f"{instance}/records?timeout=1000", f"Accept: {V2_JSON}\r\n")
        self._rewind = address.request("POST", f"{instance}/positions/beginning", own, partitions)
        self._all = self._left = messages
        self.request = self._records

    def take(self, body: bytes) -> int | None:
        if self.request is self._rewind:
            self.request = self._records
            return None
        count = body.count(_OFFSET)
        self._left -= count
        if not count or self._left <= 0:
            self._left = self._all
            self.request = self._rewind
        return count
