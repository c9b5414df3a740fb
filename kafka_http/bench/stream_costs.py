"""The bench of streams: memory and CPU of idle streams, and the delay until all of them have a message."""

import re
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import islice
from math import inf
from selectors import EVENT_READ, DefaultSelector
from typing import Self

from kafka_http.bench.bench_result import BenchError, percentile
from kafka_http.bench.bench_server import BenchServer
from kafka_http.bench.result_tables import align
from kafka_http.bench.target_server import TargetServer

_PUBLISHERS = 32
_OPEN_SECONDS = 60.0
_DELIVERY_SECONDS = 10.0
_SETTLE_SECONDS = 1.0
_HEAD = ["streams", "open in s", "RSS kB each", "CPU % idle", "messages", "p50 ms", "p99 ms", "CPU us a delivery"]
_EXPLANATION = (
    "{} messages per second. Latencies are from a publish until the last stream has the message. "
    "CPU is that of all processes of the server, in % of a core."
)
_NUMBER = re.compile(rb'"bench-(\d+)"')
_MAX_NUMBER_BYTES = 32
"""More bytes than the number of a message takes, which a read may cut in two."""


def measure_streams(server: BenchServer, counts: list[int], seconds: float, rate: int) -> str:
    """The report: a row for each number of streams, with `rate` messages per second.

    The bench has started the server. Raises `BenchError`.
    """
    with server.temporary_topic(1) as topic:
        server.target.publish(topic, b'"first"')
        rows = [_row(server, topic, count, seconds, rate) for count in counts]
    return "\n".join([*align([_HEAD, *rows]), _EXPLANATION.format(rate)])


def _row(server: BenchServer, topic: str, count: int, seconds: float, rate: int) -> list[str]:
    usage = server.usage
    assert usage  # noqa: S101  for the type checker
    memory, begin = usage.memory(), time.monotonic()
    with _StreamClients(server.target, topic, count) as clients:
        clients.wait_until_open()
        opened = time.monotonic() - begin
        time.sleep(_SETTLE_SECONDS)  # until the memory of the setup is free again
        memory_each = (usage.memory() - memory) / count / 1000
        before = usage.cpu()
        time.sleep(seconds)
        idle = (usage.cpu() - before) / seconds * 100
        before = usage.cpu()
        delays = sorted(clients.delays(max(2, int(seconds * rate)), rate))
        cpu_each = (usage.cpu() - before) / len(delays) / count * 1e6
    p50, p99 = percentile(delays, 50), percentile(delays, 99)
    figures = [f"{opened:.1f}", f"{memory_each:.1f}", f"{idle:.2f}", str(len(delays)), f"{p50:.1f}", f"{p99:.1f}"]
    return [str(count), *figures, f"{cpu_each:.0f}"]


class _StreamClients:
    """Event streams from the end of a topic, and connections that publish. Use it as a context manager."""

    def __init__(self, server: TargetServer, topic: str, count: int) -> None:
        self._server = server
        self._path = f"/messages/{topic}"
        self._stack = ExitStack()
        self._selector = self._stack.enter_context(DefaultSelector())
        self._received: dict[socket.socket, bytes] = {}
        """The streams, and the end of what each has received."""
        self._pending: dict[int, tuple[float, int]] = {}
        """When each message was published, and how many streams do not have it."""
        request = server.request_bytes("GET", f"{self._path}/bench/latest", "Accept: text/event-stream\r\n")
        for _ in range(count):
            client = self._connect()
            client.sendall(request)
            self._received[client] = b""
        self._publishers: list[socket.socket] = []
        """Connections without a request."""
        self._delays: list[float] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _connect(self) -> socket.socket:
        address = (self._server.host, self._server.port)
        client = self._stack.enter_context(socket.create_connection(address, _OPEN_SECONDS))
        self._selector.register(client, EVENT_READ)
        return client

    def wait_until_open(self) -> None:
        """Wait for the head of each stream."""
        deadline = time.monotonic() + _OPEN_SECONDS
        waiting = set(self._received)
        while waiting:
            _check_deadline(deadline, len(waiting), _OPEN_SECONDS)
            waiting -= set(self._receive(0.2))

    def delays(self, count: int, rate: int) -> Iterator[float]:
        """Publish `rate` messages per second. Yield the milliseconds from each until the last stream has it."""
        self._publishers = [self._connect() for _ in range(_PUBLISHERS)]
        begin, sent = time.monotonic(), 0
        while sent < count or self._pending:
            due = begin + sent / rate if sent < count else inf
            if self._publishers and due <= time.monotonic():
                self._publish(sent)
                sent += 1
                continue
            for oldest, missing in islice(self._pending.values(), 1):
                _check_deadline(oldest + _DELIVERY_SECONDS, missing, _DELIVERY_SECONDS)
            self._receive(max(0.0, min(due - time.monotonic(), 0.2)))
            yield from self._delays
            self._delays.clear()

    def _publish(self, number: int) -> None:
        client = self._publishers.pop()
        body = f'"bench-{number}"'.encode()
        self._pending[number] = (time.monotonic(), len(self._received))
        client.sendall(self._server.request_bytes("POST", self._path, "Content-Type: application/json\r\n", body))

    def _receive(self, seconds: float) -> list[socket.socket]:
        """Wait for data. Return the streams that have received some."""
        streams = []
        for key, _ in self._selector.select(seconds):
            client: socket.socket = key.fileobj  # type: ignore[assignment]  # all of them are sockets
            data = client.recv(65536)
            if not data or (data.startswith(b"HTTP/1.1 ") and data[9:12] != b"200"):
                status = data.partition(b"\r\n")[0].decode("latin-1") or "the server closed a connection"
                raise BenchError(f"A stream failed: {status}. See the setting max_streams.")
            if client in self._received:
                self._on_events(client, data)
                streams.append(client)
            elif data.startswith(b"HTTP/1.1 "):
                self._publishers.append(client)
        return streams

    def _on_events(self, stream: socket.socket, data: bytes) -> None:
        now, end = time.monotonic(), 0
        received = self._received[stream] + data
        for found in _NUMBER.finditer(received):
            end, number = found.end(), int(found[1])
            published, missing = self._pending[number]
            self._pending[number] = (published, missing - 1)
            if missing == 1:
                del self._pending[number]
                self._delays.append((now - published) * 1000)
        self._received[stream] = received[max(end, len(received) - _MAX_NUMBER_BYTES) :]


def _check_deadline(deadline: float, streams: int, seconds: float) -> None:
    if time.monotonic() > deadline:
        raise BenchError(f"{streams} streams did not get data within {seconds:.0f} s.")
