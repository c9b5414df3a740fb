"""The bench of memory: the processes of a server under mixed load, and a minute after it."""

import http.client
import socket
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from threading import Event
from typing import Literal, NamedTuple

import msgspec
import psutil

from kafka_http.bench.bench_result import BenchError
from kafka_http.bench.bench_server import BenchServer
from kafka_http.bench.load_requests import LoadClient, LoadJob, ResponseError, load_clients, publish_body
from kafka_http.bench.process_usage import ProcessUsage
from kafka_http.bench.result_tables import align
from kafka_http.bench.target_server import TargetServer

_MIB = 1 << 20
_SMALL_VALUE, _LARGE_VALUE = 100, 1_000_000
_LARGE_PAGE = 64 * _MIB
_FILL_SMALL, _FILL_LARGE = 50, 100
"""Requests of 1000 small values, and of one large value, before the load."""
_STREAMS, _IDLE_CONNECTIONS = 20, 200
_REST_SECONDS = 60.0
_TIMEOUT_SECONDS = 60.0
_POINTS = 10
"""Rows of the table during the load."""
_EXPLANATION = (
    f"Resident MiB. Load: small publishes and publishes of 1 MB, small pages and pages of up to 64 MiB, v2 consumers, "
    f"{_STREAMS} streams, {_IDLE_CONNECTIONS} idle connections. Afterwards: {_REST_SECONDS:.0f} s without load."
)

Sample = dict[str, int]
"""The resident bytes of each process, by its name."""


class _Part(NamedTuple):
    """A part of the load: clients that wait `pause` seconds after each response. `records`: of a request or page."""

    what: Literal["publish", "read"]
    dialect: Literal["messages", "v2"]
    size: int
    records: int
    clients: int
    pause: float


_MIX = (
    _Part("publish", "messages", _SMALL_VALUE, records=1, clients=8, pause=0),
    _Part("publish", "v2", _SMALL_VALUE, records=100, clients=2, pause=0.01),
    _Part("publish", "messages", _LARGE_VALUE, records=1, clients=4, pause=1),
    _Part("read", "messages", _SMALL_VALUE, records=100, clients=2, pause=0.02),
    _Part("read", "messages", _SMALL_VALUE, records=100_000, clients=2, pause=1),
    _Part("read", "messages", _LARGE_VALUE, records=1000, clients=2, pause=1),
    _Part("read", "v2", _SMALL_VALUE, records=500, clients=2, pause=0.02),
    _Part("read", "v2", _LARGE_VALUE, records=10, clients=1, pause=1),
)


def measure_memory(server: BenchServer, seconds: float) -> str:
    """The report on `seconds` of mixed load. Raises `BenchError`. The server must run on this machine."""
    if server.usage is None:
        raise BenchError("The memory of this server is not known. Omit --url, or run the bench on its machine.")
    with server.temporary_topic(3) as small, server.temporary_topic(1) as large:
        _fill(server.target, small, large)
        start = resident(server.usage)
        topics = {_SMALL_VALUE: small, _LARGE_VALUE: large}
        with _running_load(server.target, topics) as results, _open_connections(server.target, small):
            samples = list(_samples(server.usage, seconds))
        afterwards = list(_samples(server.usage, _REST_SECONDS))
    return "\n".join([*_table(start, samples, afterwards), _EXPLANATION, *_counts(results)])


def resident(usage: ProcessUsage) -> Sample:
    """The resident bytes of each process. Workers are numbered in the order of their starts."""
    found: Sample = {}
    workers = 0
    for number, process in enumerate(usage.processes()):
        with suppress(psutil.Error):
            is_daemon = "kafka_http.node.daemon" in process.cmdline()
            workers += number > 0 and not is_daemon
            found["daemon" if is_daemon else f"worker {workers}" if number else "main"] = process.memory_info().rss
    return found


def _job(target: TargetServer, topic: str, part: _Part) -> LoadJob:
    counts, (what, dialect, size, records, clients, _) = target.message_counts(topic), part
    job = LoadJob(target.url, topic, what, dialect, records, size, clients, counts=counts, max_bytes=_LARGE_PAGE)
    return msgspec.structs.replace(job, headers=dict(target.headers))


def _fill(target: TargetServer, small: str, large: str) -> None:
    for _ in range(_FILL_SMALL):
        target.publish(small, publish_body(1000, _SMALL_VALUE))
    for _ in range(_FILL_LARGE):
        target.publish(large, publish_body(1, _LARGE_VALUE))


@contextmanager
def _running_load(target: TargetServer, topics: Mapping[int, str]) -> Iterator[Counter[str]]:
    """Run all clients, each in a thread, until the block ends. Yield the number of each of their results.

    `topics` are those for values of each size.
    """
    results: Counter[str] = Counter()
    stop = Event()
    with ExitStack() as stack:
        jobs = [(_job(target, topics[part.size], part), part.pause) for part in _MIX]
        clients = [(each, pause) for job, pause in jobs for each in stack.enter_context(load_clients(job))]
        pool = stack.enter_context(ThreadPoolExecutor(len(clients)))
        stack.callback(stop.set)
        running = [pool.submit(_run_client, target, client, pause, stop, results) for client, pause in clients]
        yield results
    for each in running:
        each.result()  # raises what the client did not expect


def _run_client(target: TargetServer, client: LoadClient, pause: float, stop: Event, results: Counter[str]) -> None:
    """Send one request after the other until `stop`. A failed request opens a new connection."""
    while not stop.is_set():
        try:
            with socket.create_connection((target.host, target.port), _TIMEOUT_SECONDS) as connection:
                while not stop.is_set():
                    results[_exchange(connection, client)] += 1
                    stop.wait(pause)
        except (OSError, http.client.HTTPException) as error:
            results[f"{type(error).__name__}: {error}"] += 1
            stop.wait(1)


def _exchange(connection: socket.socket, client: LoadClient) -> str:
    """Send a request and read its response. Return how it went: `ok`, or the status and an error."""
    connection.sendall(client.request)
    with http.client.HTTPResponse(connection) as response:
        response.begin()
        body = response.read()
    if response.status // 100 != 2:
        return f"{response.status} {body[:100].decode(errors='replace').strip()}"
    try:
        client.handle_response(body)
    except ResponseError as error:
        return str(error)[:100]
    return "ok"


@contextmanager
def _open_connections(target: TargetServer, topic: str) -> Iterator[None]:
    """Open idle connections, and streams that are read, until the block ends."""
    request = target.request_bytes("GET", f"/messages/{topic}/bench/latest", "Accept: text/event-stream\r\n")
    stop = Event()
    with ExitStack() as stack:

        def connect() -> socket.socket:
            address = (target.host, target.port)
            return stack.enter_context(socket.create_connection(address, _TIMEOUT_SECONDS))

        for _ in range(_IDLE_CONNECTIONS):
            connect()
        streams = [connect() for _ in range(_STREAMS)]
        pool = stack.enter_context(ThreadPoolExecutor(_STREAMS))
        stack.callback(stop.set)
        for each in streams:
            each.sendall(request)
            pool.submit(_discard, each, stop)
        yield


def _discard(stream: socket.socket, stop: Event) -> None:
    stream.settimeout(1)
    while not stop.is_set():
        with suppress(TimeoutError):
            if not stream.recv(1 << 16):
                return


def _samples(usage: ProcessUsage, seconds: float) -> Iterator[Sample]:
    """Yield a sample each second, and one at the end."""
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        time.sleep(min(left, 1.0))
        yield resident(usage)


def _table(start: Sample, samples: list[Sample], afterwards: list[Sample]) -> list[str]:
    """A row for each tenth of the load, the largest figures, and the last ones; a column for each process."""
    tenths = {f"{n * 100 // _POINTS} %": samples[len(samples) * n // _POINTS - 1] for n in range(1, _POINTS + 1)}
    names = sorted({name for each in (start, *samples, *afterwards) for name in each})
    highest = {name: max(each.get(name, 0) for each in samples) for name in names}
    rows = {"start": start, **tenths, "maximum": highest, "afterwards": afterwards[-1]}
    return align(
        [
            ["time", *names],
            *([label, *(_mib(sample.get(name)) for name in names)] for label, sample in rows.items()),
        ]
    )


def _mib(size: int | None) -> str:
    return "-" if size is None else f"{size / _MIB:.0f}"


def _counts(results: Counter[str]) -> Iterator[str]:
    """The number of successful requests, and of each error."""
    yield f"{results['ok']:,} requests succeeded"
    yield from (f"error, {count:,} times: {text}" for text, count in results.most_common() if text != "ok")
