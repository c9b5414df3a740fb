"""The bench of streams: memory and CPU of idle streams, and the delay until all of them have a message."""

import re
import selectors
import socket
import threading
import time
from collections.abc import Iterator
from statistics import quantiles
from typing import Self
from uuid import uuid4

from kafka_http.bench.bench_kafka import temporary_topic
from kafka_http.bench.bench_result import BenchError
from kafka_http.bench.bench_server import BenchServer
from kafka_http.bench.result_tables import align
from kafka_http.bench.target_server import TargetServer

_MESSAGES_PER_SECOND = 20
_OPEN_SECONDS = 60.0
_DELIVERY_SECONDS = 10.0
_SETTLE_SECONDS = 1.0
_MESSAGE = re.compile(rb'"value":"([0-9a-f]{32}-[0-9]+)"[^\n]*\n\n')
_HEAD = ["streams", "open in s", "RSS kB each", "CPU % idle", "messages", "p50 ms", "p99 ms", "CPU us a delivery"]
_EXPLANATION = (
    f"{_MESSAGES_PER_SECOND} messages per second. Latencies are from a publish until the last stream has the message. "
    "CPU is that of all processes of the server, in % of a core."
)


def measure_streams(server: BenchServer, counts: list[int], seconds: float) -> str:
    """The report: a row for each number of streams. The bench has started the server. Raises `BenchError`."""
    with temporary_topic(server.started_config, 1) as topic:
        TargetServer(server.url).publish(topic, "messages", b'"first"')
        rows = [_row(server, topic, count, seconds) for count in counts]
    return "\n".join([*align([_HEAD, *rows]), _EXPLANATION])


def _row(server: BenchServer, topic: str, count: int, seconds: float) -> list[str]:
    usage = server.usage
    memory, begin = sum(usage.memory().values()), time.monotonic()
    with _StreamClients(server.url, topic, count) as clients:
        clients.wait_until_open()
        opened = time.monotonic() - begin
        time.sleep(_SETTLE_SECONDS)
        memory_each = (sum(usage.memory().values()) - memory) / count / 1000
        before, begin = usage.sample(), time.monotonic()
        time.sleep(seconds)
        idle = (usage.sample().since(before).server or 0.0) / (time.monotonic() - begin) * 100
        before = usage.sample()
        delays = sorted(_publish(server, topic, clients, max(2, int(seconds * _MESSAGES_PER_SECOND))))
        cpu_each = (usage.sample().since(before).server or 0.0) / len(delays) / count * 1e6
    p50, p99 = quantiles(delays, n=100, method="inclusive")[49::49]
    figures = [f"{opened:.1f}", f"{memory_each:.1f}", f"{idle:.2f}", str(len(delays)), f"{p50:.1f}", f"{p99:.1f}"]
    return [str(count), *figures, f"{cpu_each:.0f}"]


def _publish(server: BenchServer, topic: str, clients: "_StreamClients", count: int) -> Iterator[float]:
    """Publish messages. Yield the milliseconds until the last stream has each."""
    target, run, begin = TargetServer(server.url), uuid4().hex, time.monotonic()
    for number in range(count):
        time.sleep(max(0.0, begin + number / _MESSAGES_PER_SECOND - time.monotonic()))
        message = f"{run}-{number}"
        sent = time.monotonic()
        target.publish(topic, "messages", f'"{message}"'.encode())
        yield (clients.wait_for_delivery(message) - sent) * 1000


class _StreamClients:
    """Event streams from the end of a topic, read by one thread. Use it as a context manager."""

    def __init__(self, url: str, topic: str, count: int) -> None:
        self._count = count
        self._selector = selectors.DefaultSelector()
        self._changed = threading.Condition()
        self._open = 0
        self._refusal = ""
        self._deliveries: dict[str, int] = {}
        self._delivered_at: dict[str, float] = {}
        self._stopping = False
        address = TargetServer(url).address
        request = address.request("GET", f"/messages/{topic}/bench/latest", "Accept: text/event-stream\r\n")
        for _ in range(count):
            client = socket.create_connection((address.host, address.port), _OPEN_SECONDS)
            self._selector.register(client, selectors.EVENT_READ, bytearray())
            client.sendall(request)
        self._thread = threading.Thread(target=self._read, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping = True
        self._thread.join()
        for key in list(self._selector.get_map().values()):
            key.fileobj.close()  # type: ignore[union-attr]
        self._selector.close()

    def wait_until_open(self) -> None:
        with self._changed:
            done = self._changed.wait_for(lambda: self._open == self._count or self._refusal, _OPEN_SECONDS)
        if self._refusal or not done:
            why = self._refusal or f"only {self._open} after {_OPEN_SECONDS:.0f} s"
            raise BenchError(f"{self._count} streams could not be opened: {why}. See the setting max_streams.")

    def wait_for_delivery(self, message: str) -> float:
        """The time of `time.monotonic` at which the last stream had the message."""
        with self._changed:
            if not self._changed.wait_for(lambda: message in self._delivered_at, _DELIVERY_SECONDS):
                raise BenchError(f"A message was not delivered to all streams within {_DELIVERY_SECONDS:.0f} s.")
            return self._delivered_at[message]

    def _read(self) -> None:
        while not self._stopping:
            for key, _ in self._selector.select(0.2):
                client: socket.socket = key.fileobj  # type: ignore[assignment]
                data = client.recv(65536)
                if not data:
                    self._selector.unregister(client)
                    client.close()
                with self._changed:
                    self._on_data(data, key.data)

    def _on_data(self, data: bytes, unread: bytearray) -> None:
        """Handle data of a stream. `unread` is what followed its last message; it is empty before the response."""
        if data and not unread:
            self._open += 1
            if not data.startswith(b"HTTP/1.1 200 "):
                self._refusal = data.partition(b"\r\n")[0].decode("latin-1")
            self._changed.notify_all()
        unread += data
        for found in list(_MESSAGE.finditer(unread)):
            message = found[1].decode()
            self._deliveries[message] = self._deliveries.get(message, 0) + 1
            if self._deliveries[message] == self._count:
                self._delivered_at[message] = time.monotonic()
                self._changed.notify_all()
        del unread[: max(0, unread.rfind(b"id: "))]
