"""The bench of publishing, reading and queues: a row for each combination of records per request and connections."""

import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain
from typing import Any, Literal, NamedTuple

import msgspec

from kafka_http.bench.bench_result import BenchError, BenchResult, BenchRow, machine, percentile
from kafka_http.bench.bench_server import BenchServer
from kafka_http.bench.load_generator import MAX_ERRORS, LoadCounts
from kafka_http.bench.load_process import run_load
from kafka_http.bench.load_requests import LoadJob, publish_body
from kafka_http.bench.queue_load import is_drained, measure_wakeups, temporary_queue
from kafka_http.bench.share_consumer import measure_share_consumer

_WARMUP_SECONDS = 1.0
_BATCH = 100
_FILL_THREADS = 8
_RELAY_SECONDS = 120.0


class Shape(NamedTuple):
    """A combination of records per request and connections."""

    records: int
    connections: int

    def __str__(self) -> str:
        return f"{self.records}x{self.connections}"


@dataclass(frozen=True)
class BenchOptions:
    """What to measure. The names are those of the flags."""

    what: Literal["publish", "read", "queue"]
    dialect: Literal["messages", "v2"]
    shapes: list[Shape]
    size: int
    seconds: float
    rounds: int
    processes: int
    partitions: int
    topic: str | None
    messages: int
    idempotency_key: bool
    respond_async: bool
    share_consumer: bool

    def flags(self) -> dict[str, Any]:
        values = msgspec.to_builtins(self) | {"shapes": ",".join(map(str, self.shapes))}
        return {f"--{name.replace('_', '-')}": value for name, value in values.items()}


class ThroughputBench:
    """Measures servers that share a Kafka, in turn: A B A B. `errors` has the first errors of each row, `notes` more.

    The first server creates topics without `--bootstrap-servers`, and fills the topic that is read.
    """

    def __init__(self, options: BenchOptions, servers: Sequence[BenchServer]) -> None:
        self.errors: list[str] = []
        self.notes: list[str] = []
        self._options = options
        self._servers = servers
        self._kafka_usage = servers[0].kafka_usage()
        self._rows: list[BenchRow] = []

    def run(self, settings: dict[str, Any]) -> BenchResult:
        """Run the bench. `settings` are those of the server to store in the result. Raises `BenchError`."""
        options = self._options
        {"publish": self._bench_publish, "read": self._bench_read, "queue": self._bench_queue}[options.what]()
        flags = options.flags() | {f"--{name}": value for name, value in settings.items()}
        date = datetime.now(UTC).isoformat(timespec="seconds")
        return BenchResult(options.what, date, self._rows, machine() | flags)

    def _bench_publish(self) -> None:
        """Use a new topic in each round, because the tasks of a 202 end after the row."""
        for shape in self._options.shapes:
            for key, later in self._ways():
                for _ in range(self._options.rounds):
                    with self._topic() as topic:
                        for server in self._servers:
                            self._run_row(server, self._job(shape, topic, key=key, later=later))
                            if later:
                                self._wait_for_relay(server, topic)

    def _ways(self) -> Iterator[tuple[bool, bool]]:
        """Whether a row has keys, and whether it publishes later."""
        yield False, False
        if self._options.idempotency_key:
            yield True, False
        if self._options.respond_async:
            yield False, True

    def _bench_read(self) -> None:
        with self._topic() as topic:
            self._fill(topic)
            counts = self._servers[0].target.message_counts(topic)
            for shape in self._options.shapes:
                for _ in range(self._options.rounds):
                    for server in self._servers:
                        self._run_row(server, self._job(shape, topic, counts=counts))

    def _bench_queue(self) -> None:
        """Use a new queue for each row, so that it begins with all messages."""
        with self._topic() as topic:
            self._fill(topic)
            for shape in self._options.shapes:
                for _ in range(self._options.rounds):
                    for server in self._servers:
                        self._run_queue_row(server, shape, topic)
            if self._options.share_consumer:
                self._bench_share_consumer(topic)
        for server in self._servers:
            with self._servers[0].temporary_topic(self._options.partitions) as empty:
                self._run_wait_row(server, empty)

    def _run_queue_row(self, server: BenchServer, shape: Shape, topic: str) -> None:
        with temporary_queue(server.target, topic) as queue:
            self._run_row(server, self._job(shape, topic, queue=queue))
            if is_drained(server.target, topic, queue):
                self.errors.append(f"{shape}: All messages were done before the end. Increase --messages.")

    def _run_wait_row(self, server: BenchServer, topic: str) -> None:
        _print_step("waiting for messages of a queue")
        server.target.publish(topic, b'"first"')
        usages = [server.usage, self._kafka_usage]
        with temporary_queue(server.target, topic) as queue:
            before, begin = [usage.cpu() if usage else 0.0 for usage in usages], time.monotonic()
            delays = measure_wakeups(server.target, topic, queue, self._options.seconds)
            cpu = [usage.cpu() - was if usage else None for usage, was in zip(usages, before, strict=True)]
        counts = LoadCounts(delays, messages=len(delays))
        row = _row(self._job(Shape(1, 1), topic), server.name, time.monotonic() - begin, [counts], cpu)
        self._rows.append(msgspec.structs.replace(row, wait=True))

    def _bench_share_consumer(self, topic: str) -> None:
        _print_step("ShareConsumer")
        config = self._servers[0].config
        if config is None:
            raise BenchError("--share-consumer needs --bootstrap-servers.")
        self.notes.append(measure_share_consumer(",".join(config.bootstrap_servers), topic, self._options.seconds))

    @contextmanager
    def _topic(self) -> Iterator[str]:
        """The topic that the user named, or a new one."""
        if self._options.topic is not None:
            yield self._options.topic
        else:
            with self._servers[0].temporary_topic(self._options.partitions) as name:
                yield name

    def _wait_for_relay(self, server: BenchServer, topic: str) -> None:
        """Wait until all accepted messages are published, so that they do not slow down the next row."""
        _print_step("waiting for the outbox")
        deadline = time.monotonic() + _RELAY_SECONDS
        while server.target.call("GET", f"/tasks?status=pending&topic={topic}&limit=1")["tasks"]:
            if time.monotonic() > deadline:
                raise BenchError(f"Accepted messages were not published within {_RELAY_SECONDS:.0f} s.")
            time.sleep(0.1)

    def _job(self, shape: Shape, topic: str, **other: Any) -> LoadJob:
        """The job of all connections together. `other` are further fields."""
        options = self._options
        return LoadJob(
            "", topic, options.what, options.dialect, shape.records, options.size, shape.connections, **other
        )

    def _run_row(self, server: BenchServer, whole: LoadJob) -> None:
        """Measure one row. Each process gets a share of the connections of the `whole` job."""
        options = self._options
        name = f"{whole.records} records, {whole.connections} connections"
        name = f"{server.name}: {name}" if server.name else name
        _print_step(f"{options.what}{' with keys' * whole.key}{' later' * whole.later}, {name}")
        if whole.key or whole.later:
            server.target.call("GET", "/tasks?limit=1")  # starts the daemon, which may take longer than the warm-up
        shares = _shares(whole.connections, options.processes)
        target = server.target
        whole = msgspec.structs.replace(whole, url=target.url, headers=dict(target.headers))
        jobs = [msgspec.structs.replace(whole, connections=share) for share in shares]
        counts, cpu = run_load(jobs, _WARMUP_SECONDS, options.seconds, [server.usage, self._kafka_usage])
        self._rows.append(_row(whole, server.name, options.seconds, counts, cpu))
        errors = list(chain.from_iterable(each.first_errors for each in counts))[:MAX_ERRORS]
        self.errors += [f"{name}: {each}" for each in errors]

    def _fill(self, topic: str) -> None:
        """Publish the messages to read, with one request at a time for each partition."""
        _print_step("filling the topic")
        full, rest = divmod(self._options.messages, _BATCH)
        batches = [_BATCH] * full + [rest] * bool(rest)
        target, size = self._servers[0].target, self._options.size
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


def _row(
    job: LoadJob, server: str, seconds: float, counts: Sequence[LoadCounts], cpu: Sequence[float | None]
) -> BenchRow:
    """`cpu`: of the server and of Kafka."""
    latencies = sorted(chain.from_iterable(each.latencies for each in counts))
    return BenchRow(
        records=job.records,
        connections=job.connections,
        later=job.later,
        key=job.key,
        server=server,
        seconds=seconds,
        requests=len(latencies),
        messages=sum(each.messages for each in counts),
        errors=sum(each.errors for each in counts),
        p50=percentile(latencies, 50) * 1000,
        p90=percentile(latencies, 90) * 1000,
        p99=percentile(latencies, 99) * 1000,
        server_cpu=cpu[0],
        kafka_cpu=cpu[1],
        generator_cpu=sum(each.cpu for each in counts),
        generator_busiest=max(each.cpu for each in counts) / seconds,
    )
