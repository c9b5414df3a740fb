"""The bench of queues: clients that acquire and acknowledge, and how soon a waiting client has a new message."""

import re
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any, TypeVar
from uuid import uuid4

from kafka_http.bench.bench_result import BenchError
from kafka_http.bench.target_server import TargetServer

MAX_LIMIT = 500
_LEASES = 250
"""Leases in one request: its first line may have 8190 bytes."""
_WAIT_SECONDS = 2
_JOIN_SECONDS = 20
_PAUSE_SECONDS = 0.03
"""Between a request that waits and the publish. The request must have arrived, or it would find the message at once."""
_LEASE = re.compile(rb'"lease": ?"([^"]+)"')
_ACKNOWLEDGED = re.compile(rb'"acknowledged": ?true')


def _path(topic: str, queue: str) -> str:
    return f"/messages/{topic}/{queue}/queue"


T = TypeVar("T")


class QueueClient:
    """Acquires up to `limit` messages and acknowledges them, in turns. Only acknowledged messages count."""

    def __init__(self, server: TargetServer, topic: str, queue: str, limit: int) -> None:
        path = _path(topic, queue)
        self._acquire = server.request_bytes("POST", f"{path}?limit={limit}&wait={_WAIT_SECONDS}", body=b"")
        self._before, self._after = server.request_bytes("DELETE", f"{path}/\0").split(b"\0")
        self._acknowledgments: list[bytes] = []
        self._has_acquired = False

    @property
    def request(self) -> bytes:
        """The next request, each once: an acknowledgment that failed is not repeated, because its lease has ended."""
        self._has_acquired = not self._acknowledgments
        return self._acquire if self._has_acquired else self._acknowledgments.pop()

    def handle_response(self, body: bytes) -> int:
        if not self._has_acquired:
            return len(_ACKNOWLEDGED.findall(body))
        parts = _parts(_LEASE.findall(body))
        self._acknowledgments = [self._before + b",".join(part) + self._after for part in parts]
        return 0


@contextmanager
def temporary_queue(server: TargetServer, topic: str) -> Iterator[str]:
    """Make a queue on a topic that has messages, yield its name, and delete it afterwards. Raises `BenchError`.

    One message is acknowledged: it shows that the server has joined the group.
    """
    queue = f"bench-{uuid4().hex[:12]}"
    path = _path(topic, queue)
    try:
        for each in server.call("POST", f"{path}?wait={_JOIN_SECONDS}")["records"]:
            server.call("DELETE", f"{path}/{each['lease']}")
        yield queue
    finally:
        with suppress(BenchError):
            _release(server, path, server.call("GET", path)["held"])
            server.call("DELETE", path)


def _release(server: TargetServer, path: str, held: list[Any]) -> None:
    for part in _parts(held):
        server.call("PUT", f"{path}/{','.join(each['lease'] for each in part)}?lock=0")


def _parts(leases: Sequence[T]) -> Iterator[Sequence[T]]:
    for start in range(0, len(leases), _LEASES):
        yield leases[start : start + _LEASES]


def is_drained(server: TargetServer, topic: str, queue: str) -> bool:
    """Whether all messages of a queue are done. Raises `BenchError`."""
    return not any(each["lag"] for each in server.call("GET", _path(topic, queue))["partitions"])


def measure_wakeups(server: TargetServer, topic: str, queue: str, seconds: float) -> list[float]:
    """The seconds from each publish to the response of a client that waits for it. Raises `BenchError`.

    All messages of the queue must be done. One message after the other, for `seconds`.
    """
    path, delays, end = _path(topic, queue), [], time.monotonic() + seconds

    def acquire() -> tuple[float, list[Any]]:
        page = server.call("POST", f"{path}?wait={_JOIN_SECONDS}")
        return time.monotonic(), page["records"]

    with ThreadPoolExecutor(1) as pool:
        while time.monotonic() < end:
            response = pool.submit(acquire)
            time.sleep(_PAUSE_SECONDS)
            published = time.monotonic()
            server.publish(topic, b'"wake up"')
            arrived, records = response.result()
            if not records:
                raise BenchError(f"A client that waits did not get a new message within {_JOIN_SECONDS} s.")
            delays.append(arrived - published)
            server.call("DELETE", f"{path}/{records[0]['lease']}")
    return delays
