"""The clients that the load generator simulates: their requests, and what their responses mean."""

import json
import random
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import lru_cache
from itertools import count
from typing import Literal
from uuid import uuid4

import msgspec

from kafka_http.bench.bench_result import BenchError
from kafka_http.bench.queue_load import QueueClient
from kafka_http.bench.target_server import V2, V2_JSON, TargetServer

_OFFSET = b'"offset":'
_NEXT = re.compile(rb'"next": ?"([^"]+)"')
_NEXT_BYTES = 16384
"""A page ends with its next position, which may name hundreds of partitions."""

_FAILED = re.compile(rb'"error_code": ?[1-9]')
_PARALLEL_SETUPS = 16


class ResponseError(Exception):
    """A response says that a request or one of its records failed."""


class LoadJob(msgspec.Struct, frozen=True):
    """What one process of the load generator does.

    `later` publishes with `Prefer: respond-async`, `key` with a new Idempotency-Key each. `counts` are the numbers of
    messages in the partitions of a topic that is read, `max_bytes` the size of its pages. `queue` is the name of the
    queue. Each request has `headers`.
    """

    url: str
    topic: str
    what: Literal["publish", "read", "queue"]
    dialect: Literal["messages", "v2"]
    records: int
    size: int
    connections: int
    later: bool = False
    key: bool = False
    counts: list[int] = []
    max_bytes: int | None = None
    queue: str = ""
    headers: dict[str, str] = {}

    @property
    def server(self) -> TargetServer:
        return TargetServer(self.url, self.headers)


def json_values(count: int, size: int) -> list[str]:
    """Different JSON values of `size` bytes each, at least 8. They are the same in each run."""
    digits = random.Random(0)  # noqa: S311
    return [f'{{"v":"{digits.randbytes(size // 2).hex()[: size - 8]}"}}' for _ in range(count)]


@lru_cache(maxsize=4)
def publish_body(records: int, size: int) -> bytes:
    """Records in a JSON envelope."""
    values = ",".join(f'{{"value":{each}}}' for each in json_values(records, size))
    return f'{{"records":[{values}]}}'.encode()


class PublishClient:
    """Repeats one publish: a single record of `/messages` without an envelope, all others with one.

    It has no state, so many connections may share it.
    """

    def __init__(
        self, server: TargetServer, topic: str, dialect: str, records: int, size: int, *, headers: str = ""
    ) -> None:
        """`headers` are further lines that end with CRLF."""
        self._is_v2 = dialect == "v2"
        self._records = records
        path = f"/topics/{topic}" if self._is_v2 else f"/messages/{topic}"
        headers += f"Content-Type: {V2_JSON if self._is_v2 else 'application/json'}\r\n"
        is_bare = records == 1 and not self._is_v2
        body = json_values(1, size)[0].encode() if is_bare else publish_body(records, size)
        self.request = server.request_bytes("POST", path, headers, body)

    def handle_response(self, body: bytes) -> int:
        if self._is_v2 and _FAILED.search(body):
            raise ResponseError(body[:300].decode(errors="replace").strip())
        return self._records


class KeyClient(PublishClient):
    """Publishes with a new Idempotency-Key each, so that no two connections can share it."""

    def __init__(self, server: TargetServer, topic: str, dialect: str, records: int, size: int) -> None:
        super().__init__(server, topic, dialect, records, size, headers='Idempotency-Key: "\0"\r\n')
        self._before, self._after = self.request.split(b"\0", 1)
        self._before += uuid4().hex.encode() + b"-"
        self._keys = count()
        self._next()

    def _next(self) -> None:
        self.request = b"%b%d%b" % (self._before, next(self._keys), self._after)

    def handle_response(self, body: bytes) -> int:
        self._next()
        return super().handle_response(body)


class ReadClient:
    """Reads the pages of `/messages` from the beginning, and starts again at the end of the topic."""

    def __init__(
        self, server: TargetServer, topic: str, limit: int, messages: int, max_bytes: int | None = None
    ) -> None:
        query = f"limit={limit}" if max_bytes is None else f"limit={limit}&max_bytes={max_bytes}"
        request = server.request_bytes("GET", f"/messages/{topic}/bench/\0?{query}")
        self._before, self._after = request.split(b"\0")
        self._messages = messages
        self._rewind()

    def _rewind(self) -> None:
        self._left = self._messages
        self.request = self._before + b"earliest" + self._after

    def handle_response(self, body: bytes) -> int:
        found = body.count(_OFFSET)
        self._left -= found
        # A search in the last bytes is much faster than to parse the page as JSON.
        following = _NEXT.search(body, max(0, len(body) - _NEXT_BYTES))
        if not found or self._left <= 0 or following is None:
            self._rewind()
        else:
            self.request = self._before + following[1] + self._after
        return found


class ConsumerClient:
    """Reads the records of a v2 instance, and seeks to the beginning at the end of the topic.

    `instance` is the path of an instance at the beginning of its partitions. `partitions` is the body of the seek.
    """

    def __init__(self, server: TargetServer, instance: str, partitions: bytes, messages: int) -> None:
        self._read = server.request_bytes("GET", f"{instance}/records?timeout=1000", f"Accept: {V2_JSON}\r\n")
        self._seek = server.request_bytes(
            "POST", f"{instance}/positions/beginning", f"Content-Type: {V2}\r\n", partitions
        )
        self._messages = self._left = messages
        self.request = self._read

    def handle_response(self, body: bytes) -> int | None:
        if self.request is self._seek:
            self.request = self._read
            return None
        found = body.count(_OFFSET)
        self._left -= found
        if not found or self._left <= 0:
            self._left = self._messages
            self.request = self._seek
        return found


LoadClient = PublishClient | ReadClient | ConsumerClient | QueueClient
"""A client on one connection: `request` is its next request, `handle_response` counts the messages of a response."""


@contextmanager
def load_clients(job: LoadJob) -> Iterator[Sequence[LoadClient]]:
    """Yield a client for each connection. Raises `BenchError`."""
    server = job.server
    publish = (server, job.topic, job.dialect, job.records, job.size)
    if job.key:
        yield [KeyClient(*publish) for _ in range(job.connections)]
    elif job.what == "publish":
        yield [PublishClient(*publish, headers="Prefer: respond-async\r\n" if job.later else "")] * job.connections
    elif job.what == "queue":
        yield [QueueClient(server, job.topic, job.queue, job.records) for _ in range(job.connections)]
    elif job.dialect == "messages":
        page = (job.records, sum(job.counts), job.max_bytes)
        yield [ReadClient(server, job.topic, *page) for _ in range(job.connections)]
    else:
        with _consumers(server, job) as consumers:
            yield consumers


@contextmanager
def _consumers(server: TargetServer, job: LoadJob) -> Iterator[list[ConsumerClient]]:
    """Create v2 instances that have their partitions, each in its own group. Delete them afterwards."""
    partitions = {"partitions": [{"topic": job.topic, "partition": number} for number in range(len(job.counts))]}
    settings = {"format": "json", "auto.commit.enable": "false", "max.poll.records": str(job.records)}
    instances: list[str] = []

    def create(_: int) -> ConsumerClient:
        group = f"/consumers/bench-{uuid4().hex[:12]}"
        instance = f"{group}/instances/{server.call('POST', group, settings)['instance_id']}"
        instances.append(instance)
        server.call("POST", f"{instance}/assignments", partitions)
        server.call("POST", f"{instance}/positions/beginning", partitions)
        return ConsumerClient(server, instance, json.dumps(partitions).encode(), sum(job.counts))

    def delete(instance: str) -> None:
        with suppress(BenchError):
            server.call("DELETE", instance)

    with ThreadPoolExecutor(_PARALLEL_SETUPS) as pool:
        try:
            yield list(pool.map(create, range(job.connections)))
        finally:
            list(pool.map(delete, instances))
