"""What streams cost: memory and CPU of those that wait, and when all of them have a message that is published."""

import re
import selectors
import socket
import threading
import time
from collections.abc import Iterator
from statistics import quantiles
from uuid import uuid4

from kafka_http.bench.calls import TargetServer
from kafka_http.bench.errors import BenchError
from kafka_http.bench.services import Service
from kafka_http.bench.tables import aligned
from kafka_http.bench.topics import topic
from kafka_http.bench.usage import resident

_RATE = 20
_OPEN_SECONDS = 60.0
_LAST_SECONDS = 10.0
_SETTLE_SECONDS = 1.0
_MARK = re.compile(rb'"value":"([0-9a-f]{32}-[0-9]+)"[^\n]*\n\n')
_HEAD = ["streams", "open in s", "RSS kB each", "CPU % idle", "messages", "p50 ms", "p99 ms", "CPU us a delivery"]
_END = (
    f"{_RATE} messages a second; from a publish until the last stream has it. "
    "CPU is of all processes of the server, in % of a core."
)


def measure(service: Service, counts: list[int], seconds: float) -> str:
    """The report, a row for each number of streams. The bench has started the service. Raises `BenchError`."""
    config = service.kafka
    assert config is not None  # noqa: S101  it has been started here
    with topic(config, 1) as name:
        TargetServer(service.url).send(f"/messages/{name}", b'"first"', "application/json")
        rows = [_row(service, name, count, seconds) for count in counts]
    return "\n".join([*aligned([_HEAD, *rows]), _END])


def _row(service: Service, name: str, count: int, seconds: float) -> list[str]:
    usage = service.usage
    before, began = sum(resident(usage.processes()).values()), time.monotonic()
    with _Followers(service.url, name, count) as followers:
        followers.wait_until_open()
        opened = time.monotonic() - began
        time.sleep(_SETTLE_SECONDS)
        each = (sum(resident(usage.processes()).values()) - before) / count / 1000
        start, began = usage.now(), time.monotonic()
        time.sleep(seconds)
        idle = (usage.now().since(start).server or 0.0) / (time.monotonic() - began) * 100
        start = usage.now()
        times = sorted(_publish(service, name, followers, max(2, int(seconds * _RATE))))
        spent = (usage.now().since(start).server or 0.0) / len(times) / count * 1e6
    median, last = quantiles(times, n=100, method="inclusive")[49::49]
    figures = [f"{opened:.1f}", f"{each:.1f}", f"{idle:.2f}", str(len(times)), f"{median:.1f}", f"{last:.1f}"]
    return [str(count), *figures, f"{spent:.0f}"]


def _publish(service: Service, name: str, followers: "_Followers", count: int) -> Iterator[float]:
    """Milliseconds until the last has had each."""
    server, run, begin = TargetServer(service.url), uuid4().hex, time.monotonic()
    for number in range(count):
        time.sleep(max(0.0, begin + number / _RATE - time.monotonic()))
        mark = f"{run}-{number}"
        sent = time.monotonic()
        server.send(f"/messages/{name}", f'"{mark}"'.encode(), "application/json")
        yield (followers.all_have(mark) - sent) * 1000


class _Followers:
    """Clients of streams from the end on, in a thread of their own."""

    def __init__(self, url: str, name: str, count: int) -> None:
        self._count = count
        self._selector = selectors.DefaultSelector()
        self._changed = threading.Condition()
        self._open = 0
        self._refused = ""
        self._seen: dict[str, int] = {}
        self._times: dict[str, float] = {}
        self._ends = False
        address = TargetServer(url).address
        request = address.request("GET", f"/messages/{name}/bench/latest", "Accept: text/event-stream\r\n")
        for _ in range(count):
            client = socket.create_connection((address.host, address.port), _OPEN_SECONDS)
            self._selector.register(client, selectors.EVENT_READ, bytearray())
            client.sendall(request)
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "_Followers":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends = True
        self._thread.join()
        for key in list(self._selector.get_map().values()):
            key.fileobj.close()  # type: ignore[union-attr]
        self._selector.close()

    def wait_until_open(self) -> None:
        with self._changed:
            done = self._changed.wait_for(lambda: self._open == self._count or self._refused, _OPEN_SECONDS)
        if self._refused or not done:
            why = self._refused or f"only {self._open} after {_OPEN_SECONDS:.0f} s"
            raise BenchError(f"{self._count} streams cannot be opened: {why}. See max_streams.")

    def all_have(self, mark: str) -> float:
        """When the last stream had this, on the monotonic clock."""
        with self._changed:
            if not self._changed.wait_for(lambda: mark in self._times, _LAST_SECONDS):
                raise BenchError(f"A message was not in all streams {_LAST_SECONDS:.0f} s after it was published.")
            return self._times[mark]

    def _run(self) -> None:
        while not self._ends:
            for key, _ in self._selector.select(0.2):
                client: socket.socket = key.fileobj  # type: ignore[assignment]
                data = client.recv(65536)
                if not data:
                    self._selector.unregister(client)
                    client.close()
                with self._changed:
                    self._note(data, key.data)

    def _note(self, data: bytes, unread: bytearray) -> None:
        """`unread` is what has come on this connection behind the last message; empty before its answer."""
        if data and not unread:
            self._open += 1
            if not data.startswith(b"HTTP/1.1 200 "):
                self._refused = data.partition(b"\r\n")[0].decode("latin-1")
            self._changed.notify_all()
        unread += data
        for found in list(_MARK.finditer(unread)):
            mark = found[1].decode()
            self._seen[mark] = self._seen.get(mark, 0) + 1
            if self._seen[mark] == self._count:
                self._times[mark] = time.monotonic()
                self._changed.notify_all()
        del unread[: max(0, unread.rfind(b"id: "))]
