"""The bench of memory: the server under mixed load, with one large body, and with one that is too large."""

import socket
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from kafka_http.bench.bench_server import BenchServer, temporary_topic
from kafka_http.bench.load_process import first_errors, run_load
from kafka_http.bench.load_requests import LoadJob, publish_body
from kafka_http.bench.process_usage import ProcessUsage, resident_bytes
from kafka_http.bench.result_tables import align
from kafka_http.bench.target_server import TargetServer
from kafka_http.config.settings import MIB

_MIXED_LOAD = (
    ("publish", "messages", 1, 8),
    ("publish", "messages", 100, 4),
    ("publish", "v2", 10, 4),
    ("read", "messages", 1000, 4),
    ("read", "v2", 100, 2),
)
"""What, dialect, records, connections."""

_FILL_REQUESTS = 20
_POINTS = 10
_LARGE_RECORDS = 100_000
_LARGE_VALUE = 489
"""Bytes of a value. With the envelope, a record has 500."""

_SETTLE_SECONDS = 1.0
_SAMPLE_SECONDS = 0.005
_REFUSAL_SECONDS = 10.0

MemorySample = dict[int, int]
"""Resident bytes by process id."""


def measure_memory(server: BenchServer, seconds: float, size: int, partitions: int) -> str:
    """The report. The bench has started the server. Raises `BenchError`."""
    with temporary_topic(server.started_config, partitions) as topic:
        lines = list(_under_load(server, topic, seconds, size))
        lines += ["", _with_large_body(server, topic), _with_refused_body(server, topic)]
    return "\n".join(lines)


def _under_load(server: BenchServer, topic: str, seconds: float, size: int) -> Iterator[str]:
    for _ in range(_FILL_REQUESTS):
        TargetServer(server.url).publish(topic, "messages", publish_body(1000, size))
    start = server.usage.memory()

    def watch(begin: float, end: float) -> list[MemorySample]:
        return list(_samples(server.usage, begin, end))

    jobs = [
        LoadJob(server.url, topic, what, dialect, records, size, connections)  # type: ignore[arg-type]
        for what, dialect, records, connections in _MIXED_LOAD
    ]
    counts, samples = run_load(jobs, 0, seconds, watch)
    yield f"mixed load for {seconds:g} s: resident MB of each process"
    yield from _table(start, samples, server.usage)
    requests, errors = sum(len(each.latencies) for each in counts), sum(each.errors for each in counts)
    yield f"{requests:,} requests, {errors:,} errors"
    yield from (f"error: {each}" for each in first_errors(counts))


def _samples(usage: ProcessUsage, begin: float, end: float) -> Iterator[MemorySample]:
    """Yield a sample each second and at the end."""
    moment = begin
    while moment < end:
        moment = min(moment + 1, end)
        time.sleep(max(0.0, moment - time.monotonic()))
        yield usage.memory()


def _table(start: MemorySample, samples: Sequence[MemorySample], usage: ProcessUsage) -> list[str]:
    """A row for each process: at the start, during the load, and the peak."""
    names = {process.pid: role for process, role in usage.processes().items()}
    points = [samples[len(samples) * (number + 1) // _POINTS - 1] for number in range(_POINTS)]
    head = ["process", "pid", "start", *(f"{100 * (number + 1) // _POINTS} %" for number in range(_POINTS)), "peak"]
    rows = [
        [
            *(names.get(pid, "ended"), str(pid)),
            *(_megabytes(each.get(pid)) for each in (start, *points)),
            _megabytes(max(each.get(pid, 0) for each in samples)),
        ]
        for pid in {pid: None for each in (start, *samples) for pid in each}
    ]
    return align([head, *rows])


def _megabytes(size: int | None) -> str:
    return "-" if size is None else f"{size / 1e6:.0f}"


def _with_large_body(server: BenchServer, topic: str) -> str:
    body = publish_body(_LARGE_RECORDS, _LARGE_VALUE)
    idle = _idle_memory(server.usage)
    peak = dict(idle)
    with ThreadPoolExecutor(1) as pool:
        begin = time.monotonic()
        processes = server.usage.processes()  # to list them is too slow for each sample
        sending = pool.submit(TargetServer(server.url).publish, topic, "messages", body)
        while not sending.done():
            time.sleep(_SAMPLE_SECONDS)
            for pid, size in resident_bytes(processes).items():
                peak[pid] = max(size, peak.get(pid, 0))
        sending.result()
    more = max(size - idle.get(pid, 0) for pid, size in peak.items())
    return (
        f"one body of {len(body) / 1e6:.1f} MB, {_LARGE_RECORDS:,} records, in {time.monotonic() - begin:.1f} s: "
        f"{more / 1e6:.0f} MB more at the peak than when idle, {more / len(body):.1f} times its size"
    )


def _idle_memory(usage: ProcessUsage) -> MemorySample:
    time.sleep(_SETTLE_SECONDS)
    return usage.memory()


def _with_refused_body(server: BenchServer, topic: str) -> str:
    """Announce a body over the limit but send none of it. The server should answer at once."""
    length = server.started_config.max_body_bytes + 1
    address = TargetServer(server.url).address
    head = address.request("POST", f"/messages/{topic}", f"Content-Length: {length}\r\n")
    before = _idle_memory(server.usage)
    with socket.create_connection((address.host, address.port), _REFUSAL_SECONDS) as client:
        client.sendall(head)
        try:
            status = client.recv(65536)[9:12].decode()
        except TimeoutError:
            status = ""
    more = max(size - before.get(pid, size) for pid, size in server.usage.memory().items())
    answer = f"answered with {status}" if status else f"not answered within {_REFUSAL_SECONDS:.0f} s"
    return f"a body of {length / MIB:.1f} MiB, announced but not sent: {answer}, {more / 1e6:.1f} MB more"
