"""What memory the server takes: under mixed load over time, for one large body, for one over the limit."""

import socket
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from kafka_http.bench.calls import TargetServer, Work
from kafka_http.bench.conversations import publish_body
from kafka_http.bench.load import Manner, drive, first_errors
from kafka_http.bench.progress import ProgressBar
from kafka_http.bench.services import Service
from kafka_http.bench.tables import aligned
from kafka_http.bench.topics import topic
from kafka_http.bench.usage import Usage, resident
from kafka_http.config import Config
from kafka_http.config.settings import MIB

_MIXTURE = (("publish", "messages", 1, 8), ("publish", "messages", 100, 4), ("publish", "v2", 10, 4),
            ("read", "messages", 1000, 4), ("read", "v2", 100, 2))  # fmt: skip
"""What, dialect, records, connections."""

_FILLING = 20
"""Requests of 1000 records, so that there is something to read."""

_POINTS = 10
_LARGE_RECORDS = 100_000
_LARGE_VALUE = 489
"""With what is around it in the envelope, 500 bytes a record."""

_REST_SECONDS = 1.0
_OFTEN = 0.005
_REFUSAL_SECONDS = 10.0

Sample = dict[int, int]
"""Resident bytes by process id."""


def measure(service: Service, seconds: float, size: int, partitions: int) -> str:
    """The report. `service` is one that the bench has started. Raises `BenchError`."""
    config = service.kafka
    assert config is not None  # noqa: S101  it has been started here
    with topic(config, partitions) as name:
        with ProgressBar(seconds) as progress:
            progress.says("mixed load")
            lines = list(_under_load(service, name, seconds, size, progress))
        lines += ["", *_of_large_body(service, name), *_of_refusal(service, name, config)]
    return "\n".join(lines)


def _under_load(service: Service, name: str, seconds: float, size: int, progress: ProgressBar) -> Iterator[str]:
    filling = publish_body(1000, size, bare=False)
    for _ in range(_FILLING):
        TargetServer(service.url).send(f"/messages/{name}", filling, "application/json")
    start = resident(service.usage.processes())

    def watch(begin: float, end: float) -> list[Sample]:
        return list(_samples(service.usage, begin, end, progress))

    shares = [
        (Work(service.url, name, what, dialect, records, size), connections)
        for what, dialect, records, connections in _MIXTURE
    ]
    tallies, samples = drive(shares, Manner(len(shares), 0, seconds), watch)
    yield f"mixed load for {seconds:g} s: resident MB of each process"
    yield from _table(start, samples, service.usage)
    done, failed = sum(len(each.latencies) for each in tallies), sum(each.errors for each in tallies)
    yield f"{done:,} requests, {failed:,} errors"
    yield from (f"error: {each}" for each in first_errors(tallies))


def _samples(usage: Usage, begin: float, end: float, progress: ProgressBar) -> Iterator[Sample]:
    """Once a second, and at the end."""
    moment = begin
    while moment < end:
        moment = min(moment + 1, end)
        progress.wait_until(moment)
        yield resident(usage.processes())


def _table(start: Sample, samples: Sequence[Sample], usage: Usage) -> list[str]:
    """A line a process: at the start, over time, after it, and the most."""
    points = [samples[len(samples) * (number + 1) // _POINTS - 1] for number in range(_POINTS)]
    head = ["process", "pid", "start", *(f"{100 * (number + 1) // _POINTS} %" for number in range(_POINTS)), "peak"]
    names = usage.names()
    return aligned([head, *(
        [names.get(pid, "ended"), str(pid), *(_mb(each.get(pid)) for each in (start, *points)),
         _mb(max(each.get(pid, 0) for each in samples))]
        for pid in {pid: None for each in (start, *samples) for pid in each}
    )])  # fmt: skip


def _mb(size: int | None) -> str:
    return "-" if size is None else f"{size / 1e6:.0f}"


def _of_large_body(service: Service, name: str) -> Iterator[str]:
    body = publish_body(_LARGE_RECORDS, _LARGE_VALUE, bare=False)
    rest = _at_rest(service.usage)
    peak = dict(rest)
    with ThreadPoolExecutor(1) as pool:
        begin = time.monotonic()
        sent = pool.submit(TargetServer(service.url).send, f"/messages/{name}", body, "application/json")
        processes = service.usage.processes()
        while not sent.done():
            time.sleep(_OFTEN)
            for pid, size in resident(processes).items():
                peak[pid] = max(size, peak.get(pid, 0))
        sent.result()
    taken = max(size - rest.get(pid, 0) for pid, size in peak.items())
    yield (
        f"one body of {len(body) / 1e6:.1f} MB, {_LARGE_RECORDS:,} records, in {time.monotonic() - begin:.1f} s: "
        f"{taken / 1e6:.0f} MB more at the peak than at rest, {taken / len(body):.1f} times its size"
    )


def _at_rest(usage: Usage) -> Sample:
    time.sleep(_REST_SECONDS)
    return resident(usage.processes())


def _of_refusal(service: Service, name: str, config: Config) -> Iterator[str]:
    """Announce a body over the limit, send none of it, and see whether the answer comes all the same."""
    length = config.max_body_bytes + 1
    address = TargetServer(service.url).address
    head = address.request("POST", f"/messages/{name}", f"Content-Length: {length}\r\n")
    before = _at_rest(service.usage)
    with socket.create_connection((address.host, address.port), _REFUSAL_SECONDS) as client:
        client.sendall(head)
        try:
            status = client.recv(65536)[9:12].decode()
        except TimeoutError:
            status = ""
    after = resident(service.usage.processes())
    grown = max(size - before.get(pid, size) for pid, size in after.items())
    answer = f"answered with {status}" if status else f"not answered within {_REFUSAL_SECONDS:.0f} s"
    yield f"a body of {length / MIB:.1f} MiB announced and not sent: {answer}, {grown / 1e6:.1f} MB more"
