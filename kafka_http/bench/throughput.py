"""The bench of publishing and reading: a row for each combination of records per request and connections."""

import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain, product
from typing import Any, Literal

import msgspec

from kafka_http.bench.bench_result import BenchError, BenchResult, BenchRow, machine, percentile
from kafka_http.bench.bench_server import BenchServer
from kafka_http.bench.load_generator import MAX_ERRORS, LoadCounts
from kafka_http.bench.load_process import run_load
from kafka_http.bench.load_requests import LoadJob, publish_body

_WARMUP_SECONDS = 1.0
_BATCH = 100
_FILL_THREADS = 8
_RELAY_SECONDS = 120.0


@dataclass(frozen=True)
class BenchOptions:
    """What to measure. The names are those of the flags."""

    what: Literal["publish", "read"]
    dialect: Literal["messages", "v2"]
    records: list[int]
    connections: list[int]
    size: int
    seconds: float
    processes: int
    partitions: int
    topic: str | None
    messages: int
    later: bool


class ThroughputBench:
    """Measures a server once. `errors` has the first errors of each row."""

    def __init__(self, options: BenchOptions, server: BenchServer) -> None:
        self.errors: list[str] = []
        self._options = options
        self._server = server
        self._rows: list[BenchRow] = []

    def run(self, settings: dict[str, Any]) -> BenchResult:
        """Run the bench. `settings` are those of the server to store in the result. Raises `BenchError`."""
        options = self._options
        self._bench_publish() if options.what == "publish" else self._bench_read()
        flags = {f"--{name}": value for name, value in (msgspec.to_builtins(options) | settings).items()}
        date = datetime.now(UTC).isoformat(timespec="seconds")
        return BenchResult(options.what, date, self._rows, machine() | flags)

    def _bench_publish(self) -> None:
        for records, connections in product(self._options.records, self._options.connections):
            with self._topic() as topic:
                self._run_row(topic, records, connections)
            if self._options.later:  # in a new topic, because its tasks end after the row
                with self._topic() as topic:
                    self._run_row(topic, records, connections, later=True)
                    self._wait_for_relay(topic)

    def _bench_read(self) -> None:
        with self._topic() as topic:
            self._fill(topic)
            for records, connections in product(self._options.records, self._options.connections):
                self._run_row(topic, records, connections)

    @contextmanager
    def _topic(self) -> Iterator[str]:
        """The topic that the user named, or a new one."""
        if self._options.topic is not None:
            yield self._options.topic
        else:
            with self._server.temporary_topic(self._options.partitions) as name:
                yield name

    def _wait_for_relay(self, topic: str) -> None:
        """Wait until all accepted messages are published, so that they do not slow down the next row."""
        _print_step("waiting for the outbox")
        deadline = time.monotonic() + _RELAY_SECONDS
        while self._server.target.call("GET", f"/tasks?status=pending&topic={topic}&limit=1")["tasks"]:
            if time.monotonic() > deadline:
                raise BenchError(f"Accepted messages were not published within {_RELAY_SECONDS:.0f} s.")
            time.sleep(0.1)

    def _run_row(self, topic: str, records: int, connections: int, *, later: bool = False) -> None:
        options = self._options
        _print_step(f"{options.what}{' later' * later}, {records} records, {connections} connections")
        jobs = [
            LoadJob(self._server.target.url, topic, options.what, options.dialect, records, options.size, share, later)
            for share in _shares(connections, options.processes)
        ]
        counts, server_cpu = run_load(jobs, _WARMUP_SECONDS, options.seconds, self._server.usage)
        self._rows.append(_row(jobs, options.seconds, counts, server_cpu))
        errors = list(chain.from_iterable(each.first_errors for each in counts))[:MAX_ERRORS]
        self.errors += [f"{records} records, {connections} connections: {each}" for each in errors]

    def _fill(self, topic: str) -> None:
        """Publish the messages to read, with one request at a time for each partition."""
        _print_step("filling the topic")
        full, rest = divmod(self._options.messages, _BATCH)
        batches = [_BATCH] * full + [rest] * bool(rest)
        target, size = self._server.target, self._options.size
        partitions = len(target.message_counts(topic))

        def fill_partition(number: int) -> None:
            for records in batches[number::partitions]:
                target.publish(topic, publish_body(records, size), number)

        with ThreadPoolExecutor(_FILL_THREADS) as pool:
            list(pool.map(fill_partition, range(partitions)))


def _print_step(step: str) -> None:
    if sys.stderr.isatty():
        print(step, file=sys.stderr)


def _shares(connections: int, processes: int) -> list[int]:
    """The number of connections of each process, at least one each."""
    count = min(connections, processes)
    return [connections // count + (number < connections % count) for number in range(count)]


def _row(jobs: Sequence[LoadJob], seconds: float, counts: Sequence[LoadCounts], server_cpu: float | None) -> BenchRow:
    latencies = sorted(chain.from_iterable(each.latencies for each in counts))
    return BenchRow(
        records=jobs[0].records,
        connections=sum(each.connections for each in jobs),
        later=jobs[0].later,
        seconds=seconds,
        requests=len(latencies),
        messages=sum(each.messages for each in counts),
        errors=sum(each.errors for each in counts),
        p50=percentile(latencies, 50) * 1000,
        p90=percentile(latencies, 90) * 1000,
        p99=percentile(latencies, 99) * 1000,
        server_cpu=server_cpu,
        generator_cpu=sum(each.cpu for each in counts),
        generator_busiest=max(each.cpu for each in counts) / seconds,
    )
