"""The bench of publishing and reading: a row for each combination of records per request and connections."""

import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain, product
from typing import Any, Literal

import msgspec
from kafka.errors import KafkaError

from kafka_http.bench.bench_result import Baseline, BenchError, BenchResult, BenchRow, percentile, this_machine
from kafka_http.bench.bench_server import BenchServer, new_topic_name, temporary_topic
from kafka_http.bench.client_baselines import BaselineRun, publish_baselines, read_baselines
from kafka_http.bench.load_generator import LoadCounts
from kafka_http.bench.load_process import first_errors, run_load
from kafka_http.bench.load_requests import LoadJob, publish_body
from kafka_http.bench.process_usage import UsageDelta
from kafka_http.bench.target_server import TargetServer

_BASELINE_SECONDS = 5.0
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
    warmup: float
    processes: int
    partitions: int
    topic: str | None
    messages: int
    batch: int
    later: bool


class ThroughputBench:
    """Measures a server once. `errors` has the first errors of each row."""

    def __init__(
        self, options: BenchOptions, server: BenchServer, settings: dict[str, Any], on_step: Callable[[str], None]
    ) -> None:
        """`settings` are those of the server to store in the result. `on_step` is called with each step."""
        self.errors: list[str] = []
        self._options = options
        self._server = server
        self._target = TargetServer(server.url)
        self._settings = settings
        self._on_step = on_step
        self._baseline_seconds = min(_BASELINE_SECONDS, options.seconds)
        self._baselines: list[Baseline] = []
        self._rows: list[BenchRow] = []

    def run(self) -> BenchResult:
        """Run the bench. Raises `BenchError`."""
        options = self._options
        try:
            self._bench_publish() if options.what == "publish" else self._bench_read()
        except KafkaError as error:
            raise BenchError(f"Kafka failed: {error}.") from None
        return BenchResult(
            what=options.what,
            dialect=options.dialect,
            size=options.size,
            date=datetime.now(UTC).isoformat(timespec="seconds"),
            machine=this_machine(),
            options=msgspec.to_builtins(options),
            settings=self._settings,
            rows=self._rows,
            baselines=self._baselines,
        )

    def _bench_publish(self) -> None:
        config = self._server.config
        if config is not None:
            with self._topic() as topic:
                self._run_baselines(publish_baselines(config, topic, self._options.size, self._baseline_seconds))
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
            if self._server.config is not None:
                self._run_baselines(read_baselines(self._server.config, topic, self._baseline_seconds))
            for records, connections in product(self._options.records, self._options.connections):
                self._run_row(topic, records, connections)

    def _wait_for_relay(self, topic: str) -> None:
        """Wait until all accepted messages are published, so that they do not slow down the next row."""
        self._on_step("waiting for the outbox")
        deadline = time.monotonic() + _RELAY_SECONDS
        while self._target.has_pending_tasks(topic):
            if time.monotonic() > deadline:
                raise BenchError(f"Accepted messages were not published within {_RELAY_SECONDS:.0f} s.")
            time.sleep(0.1)

    def _run_baselines(self, baselines: Iterator[BaselineRun]) -> None:
        for name, run in baselines:
            self._on_step(name)
            self._baselines.append(run())

    def _run_row(self, topic: str, records: int, connections: int, *, later: bool = False) -> None:
        options = self._options
        self._on_step(f"{options.what}{' later' * later}, {records} records, {connections} connections")
        jobs = [
            LoadJob(self._server.url, topic, options.what, options.dialect, records, options.size, share, later)
            for share in _shares(connections, options.processes)
        ]
        counts, usage = run_load(jobs, options.warmup, options.seconds, self._watch)
        self._rows.append(_row(jobs, options.seconds, counts, usage))
        self.errors += [f"{records} records, {connections} connections: {each}" for each in first_errors(counts)]

    def _watch(self, begin: float, end: float) -> UsageDelta:
        time.sleep(max(0.0, begin - time.monotonic()))
        before = self._server.usage.sample()
        time.sleep(max(0.0, end - time.monotonic()))
        return self._server.usage.sample().since(before)

    @contextmanager
    def _topic(self) -> Iterator[str]:
        """A new topic, or the one that the user named."""
        if self._options.topic is not None:
            yield self._options.topic
        elif self._server.config is not None:
            with temporary_topic(self._server.config, self._options.partitions) as name:
                yield name
        else:
            name = new_topic_name()
            self._create_by_publish(name)
            yield name

    def _create_by_publish(self, topic: str) -> None:
        try:
            self._publish(topic, 1)
        except BenchError as error:
            raise BenchError(
                "The server did not create a topic. Name an existing one with --topic, or use --bootstrap-servers, so "
                f"that the bench can create one. {error}"
            ) from None

    def _fill(self, topic: str) -> None:
        """Publish the messages to read, with one request at a time for each partition."""
        self._on_step("filling the topic")
        full, rest = divmod(self._options.messages, self._options.batch)
        batches = [self._options.batch] * full + [rest] * bool(rest)
        partitions = self._target.partitions(topic, self._options.dialect)

        def fill_partition(index: int) -> None:
            for records in batches[index :: len(partitions)]:
                self._publish(topic, records, partitions[index])

        with ThreadPoolExecutor(_FILL_THREADS) as pool:
            list(pool.map(fill_partition, range(len(partitions))))

    def _publish(self, topic: str, records: int, partition: int | None = None) -> None:
        self._target.publish(topic, self._options.dialect, publish_body(records, self._options.size), partition)


def _shares(connections: int, processes: int) -> list[int]:
    """The number of connections of each process, at least one each."""
    count = min(connections, processes)
    return [connections // count + (number < connections % count) for number in range(count)]


def _row(jobs: Sequence[LoadJob], seconds: float, counts: Sequence[LoadCounts], usage: UsageDelta) -> BenchRow:
    latencies = array("d", sorted(chain.from_iterable(each.latencies for each in counts)))
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
        server_cpu=usage.server,
        server_busiest=usage.server_busiest,
        broker_cpu=usage.broker,
        generator_cpu=sum(each.cpu for each in counts),
        generator_busiest=max(each.cpu for each in counts) / seconds,
        machine_busy=usage.machine_busy,
    )
