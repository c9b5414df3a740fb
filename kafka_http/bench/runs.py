"""A run: its topics, what the machine does without HTTP, its rows."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import product
from typing import Any, Literal
from uuid import uuid4

import msgspec
from kafka.errors import KafkaError

from kafka_http.bench import baselines
from kafka_http.bench.calls import TargetServer, Work
from kafka_http.bench.conversations import V2_JSON, publish_body
from kafka_http.bench.errors import BenchError
from kafka_http.bench.load import Manner, measure
from kafka_http.bench.progress import ProgressBar
from kafka_http.bench.results import Baseline, BenchResult, BenchRow, Machine
from kafka_http.bench.services import Service
from kafka_http.bench.topics import topic

_BASELINE_SECONDS = 5.0
_FILLERS = 8
_RELAY_SECONDS = 120.0


@dataclass(frozen=True)
class BenchOptions:
    """What is to be measured; the names are those of the flags."""

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


class BenchRun:
    """Measures a service once. `errors` are the first of each row, for the person at the terminal."""

    def __init__(self, options: BenchOptions, service: Service, settings: dict[str, Any]) -> None:
        self.errors: list[str] = []
        self._options = options
        self._service = service
        self._server = TargetServer(service.url)
        self._settings = settings
        self._baselines: list[Baseline] = []
        self._rows: list[BenchRow] = []

    def measure(self) -> BenchResult:
        """Raises `BenchError`."""
        options = self._options
        with ProgressBar(self._seconds()) as self._progress:
            try:
                self._publish() if options.what == "publish" else self._read()
            except KafkaError as error:
                raise BenchError(f"Kafka does not do what it should: {error}.") from None
        return BenchResult(
            what=options.what,
            dialect=options.dialect,
            size=options.size,
            date=datetime.now(UTC).isoformat(timespec="seconds"),
            machine=Machine.this(),
            options=msgspec.to_builtins(options),
            settings=self._settings,
            rows=self._rows,
            baselines=self._baselines,
        )

    def _seconds(self) -> float:
        options = self._options
        rows = len(options.records) * len(options.connections) * (1 + options.later)
        alone = (2 if options.what == "publish" else 1) * (2 if baselines.has_confluent() else 1)
        return rows * (options.warmup + options.seconds) + (alone * self._alone if self._service.kafka else 0)

    @property
    def _alone(self) -> float:
        """Seconds for each baseline."""
        return min(_BASELINE_SECONDS, self._options.seconds)

    def _publish(self) -> None:
        if self._service.kafka is not None:
            with self._topic() as name:
                self._run_baselines(baselines.publishing(self._service.kafka, name, self._options.size, self._alone))
        for records, connections in product(self._options.records, self._options.connections):
            with self._topic() as name:
                self._run_row(name, records, connections)
            if self._options.later:
                with self._topic() as name:
                    self._run_row(name, records, connections, later=True)
                    self._wait_for_relay(name)

    def _wait_for_relay(self, name: str) -> None:
        """Until what was accepted is published: the next row is to have the machine for itself."""
        self._progress.says("waiting for what was accepted")
        deadline = time.monotonic() + _RELAY_SECONDS
        while self._server.pending(name):
            if time.monotonic() > deadline:
                raise BenchError(f"What was accepted is not published within {_RELAY_SECONDS:.0f} s.")
            time.sleep(0.1)

    def _read(self) -> None:
        with self._topic() as name:
            self._fill(name)
            if self._service.kafka is not None:
                self._run_baselines(baselines.reading(self._service.kafka, name, self._alone))
            for records, connections in product(self._options.records, self._options.connections):
                self._run_row(name, records, connections)

    def _run_row(self, name: str, records: int, connections: int, *, later: bool = False) -> None:
        options = self._options
        self._progress.says(f"{options.what}{' later' * later}, {records} records, {connections} connections")
        work = Work(self._service.url, name, options.what, options.dialect, records, options.size, later)
        manner = Manner(options.processes, options.warmup, options.seconds)
        row, errors = measure(work, connections, manner, self._service.usage, self._progress)
        self._rows.append(row)
        self.errors += [f"{records} records, {connections} connections: {each}" for each in errors]

    def _run_baselines(self, runs: Iterator[tuple[str, Callable[[], Baseline]]]) -> None:
        for name, run in runs:
            self._progress.says(name)
            self._baselines.append(run())
            self._progress.pass_by(self._alone)

    @contextmanager
    def _topic(self) -> Iterator[str]:
        """A new topic, or the one that the user has named."""
        if self._options.topic is not None:
            yield self._options.topic
        elif self._service.kafka is not None:
            with topic(self._service.kafka, self._options.partitions) as name:
                yield name
        else:
            name = f"bench-{uuid4().hex[:12]}"
            self._try(name)
            yield name

    def _try(self, name: str) -> None:
        """Whether a first message makes the topic. Raises `BenchError` where it does not."""
        try:
            self._send(name, 1)
        except BenchError as error:
            raise BenchError(
                f"The server makes no topic by itself: name one that is there with --topic, or say with "
                f"--bootstrap-servers where its Kafka is. {error}"
            ) from None

    def _fill(self, name: str) -> None:
        """Publish what is to be read, through the server: in each partition one batch after the other."""
        self._progress.says("filling the topic")
        whole, rest = divmod(self._options.messages, self._options.batch)
        batches = [self._options.batch] * whole + [rest] * bool(rest)
        partitions = self._server.partitions(name, self._options.dialect)
        with ThreadPoolExecutor(_FILLERS) as pool:
            shares = [batches[number :: len(partitions)] for number in range(len(partitions))]
            list(pool.map(lambda share, partition: self._fill_partition(name, partition, share), shares, partitions))

    def _fill_partition(self, name: str, partition: int, batches: list[int]) -> None:
        for records in batches:
            self._send(name, records, partition)

    def _send(self, name: str, records: int, partition: int | None = None) -> None:
        body = publish_body(records, self._options.size, bare=False)
        if self._options.dialect == "v2":
            self._server.send(f"/topics/{name}{'' if partition is None else f'/partitions/{partition}'}", body, V2_JSON)
        else:
            query = "" if partition is None else f"?partition={partition}"
            self._server.send(f"/messages/{name}{query}", body, "application/json")
