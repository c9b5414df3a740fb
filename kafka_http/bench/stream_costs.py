"""The bench of streams: memory and CPU of idle streams, and the delay until all of them have a message."""

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from selectors import EVENT_READ, DefaultSelector
from typing import Self
from uuid import uuid4

from kafka_http.bench.bench_result import BenchError, percentile
from kafka_http.bench.bench_server import BenchServer
from kafka_http.bench.process_usage import ProcessUsage
from kafka_http.bench.result_tables import align
from kafka_http.bench.target_server import TargetServer

_MESSAGES_PER_SECOND = 20
_OPEN_SECONDS = 60.0
_DELIVERY_SECONDS = 10.0
_SETTLE_SECONDS = 1.0
_HEAD = ["streams", "open in s", "RSS kB each", "CPU % idle", "messages", "p50 ms", "p99 ms", "CPU us a delivery"]
_EXPLANATION = (
    f"{_MESSAGES_PER_SECOND} messages per second. Latencies are from a publish until the last stream has the message. "
    "CPU is that of all processes of the server, in % of a core."
)


def measure_streams(server: BenchServer, counts: list[int], seconds: float) -> str:
    """The report: a row for each number of streams. The bench has started the server. Raises `BenchError`."""
    assert server.usage  # noqa: S101  for the type checker
    with server.temporary_topic(1) as topic:
        server.target.publish(topic, b'"first"')
        rows = [_row(server.target, server.usage, topic, count, seconds) for count in counts]
    return "\n".join([*align([_HEAD, *rows]), _EXPLANATION])


def _row(server: TargetServer, usage: ProcessUsage, topic: str, count: int, seconds: float) -> list[str]:
    memory, begin = usage.memory(), time.monotonic()
    with _StreamClients(server, topic, count) as clients:
        clients.wait_until_open()
        opened = time.monotonic() - begin
        time.sleep(_SETTLE_SECONDS)  # until the memory of the setup is free again
        memory_each = (usage.memory() - memory) / count / 1000
        before = usage.cpu()
        time.sleep(seconds)
        idle = (usage.cpu() - before) / seconds * 100
        before = usage.cpu()
        delays = sorted(clients.delays(max(2, int(seconds * _MESSAGES_PER_SECOND))))
        cpu_each = (usage.cpu() - before) / len(delays) / count * 1e6
    p50, p99 = percentile(delays, 50), percentile(delays, 99)
    figures = [f"{opened:.1f}", f"{memory_each:.1f}", f"{idle:.2f}", str(len(delays)), f"{p50:.1f}", f"{p99:.1f}"]
    return [str(count), *figures, f"{cpu_each:.0f}"]


class _StreamClients:
    """Event streams from the end of a topic, and a connection that publishes. Use it as a context manager."""

    def __init__(self, server: TargetServer, topic: str, count: int) -> None:
        self._server = server
        self._path = f"/messages/{topic}"
        self._stack = ExitStack()
        self._selector = self._stack.enter_context(DefaultSelector())
        request = server.request_bytes("GET", f"{self._path}/bench/latest", "Accept: text/event-stream\r\n")
        for _ in range(count):
            client = self._connect()
            self._selector.register(client, EVENT_READ)
            client.sendall(request)
        self._publisher = self._connect()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _connect(self) -> socket.socket:
        address = (self._server.host, self._server.port)
        return self._stack.enter_context(socket.create_connection(address, _OPEN_SECONDS))

    def wait_until_open(self) -> None:
        self._receive(b"HTTP/1.1 200 ", _OPEN_SECONDS)

    def delays(self, count: int) -> Iterator[float]:
        """Publish messages. Yield the milliseconds from each publish until the last stream has the message."""
        begin = time.monotonic()
        for number in range(count):
            time.sleep(max(0.0, begin + number / _MESSAGES_PER_SECOND - time.monotonic()))
            message = f'"{uuid4()}"'.encode()
            sent = time.monotonic()
            headers = "Content-Type: application/json\r\n"
            self._publisher.sendall(self._server.request_bytes("POST", self._path, headers, message))
            self._receive(message, _DELIVERY_SECONDS)
            yield (time.monotonic() - sent) * 1000
            self._publisher.recv(65536)

    def _receive(self, text: bytes, seconds: float) -> None:
        """Read until each stream has the text."""
        received = {key.fileobj: b"" for key in self._selector.get_map().values()}
        deadline = time.monotonic() + seconds
        while received:
            if time.monotonic() > deadline:
                raise BenchError(f"{len(received)} streams did not get data within {seconds:.0f} s.")
            for key, _ in self._selector.select(0.2):
                data = key.fileobj.recv(65536)  # type: ignore[union-attr]  # all of them are sockets
                if not data or (data.startswith(b"HTTP/1.1 ") and data[9:12] != b"200"):
                    status = data.partition(b"\r\n")[0].decode("latin-1") or "the server closed a connection"
                    raise BenchError(f"A stream failed: {status}. See the setting max_streams.")
                if key.fileobj in received:
                    received[key.fileobj] += data
                    if text in received[key.fileobj]:
                        del received[key.fileobj]
