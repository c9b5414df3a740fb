"""What the server counts: the metrics, and their values in this process.

Each process counts in its own memory and writes each change to its sink at once, a file that outlives it (see
`metrics_files`). Any thread may count, in any package: the metrics are known by their module, like loggers. An addition
takes about a microsecond, and does not block.
"""

import json
import mmap
import os
from array import array
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import ClassVar, NamedTuple, Protocol

MAX_TOPICS = 200
OTHER = "other"
"""The label of all topics after the first `MAX_TOPICS`, and of methods that no client should use."""
BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Upper bounds of the buckets of all histograms, in seconds. The last bucket has none."""
_METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"))


class Memory(Protocol):
    """Where numbers are written."""

    def __setitem__(self, index: int, number: float, /) -> None: ...


class MetricSink(Protocol):
    """Where a process writes its numbers, for the process that answers a scrape. One thread at a time calls it."""

    def place(self, key: str) -> tuple[Memory, int]:
        """Return the place of a number: the memory, and the index in it. Must not block."""

    def claim_topic(self, topic: str) -> AbstractSet[str]:
        """Give a topic a label of its own while there are some left. Return all topics that have one."""


class _Process:
    """The metrics of this process."""

    def __init__(self) -> None:
        self.lock = Lock()
        self.metrics: dict[str, Metric] = {}
        self.topics: set[str] = set()
        self.sink: MetricSink | None = None
        """None: the numbers stay in this process."""

    def admit_topic(self, topic: str) -> bool:
        """Return whether a topic has a label of its own."""
        if topic not in self.topics and len(self.topics) < MAX_TOPICS:
            with self.lock:
                self.topics |= {topic} if self.sink is None else self.sink.claim_topic(topic)
        return topic in self.topics

    def place(self, key: str) -> tuple[Memory, int]:
        return (array("d", (0.0,)), 0) if self.sink is None else self.sink.place(key)


_process = _Process()
_NOWHERE: Memory = array("d")


class Number:
    """One number of a metric. Keep it where one is counted often: it stays valid."""

    __slots__ = ("_index", "_memory", "key", "value")

    def __init__(self, *place: str) -> None:
        self.key = json.dumps(place)
        self.reset()

    @property
    def is_used(self) -> bool:
        """Whether it was set since the process began."""
        return self._index >= 0

    def reset(self) -> None:
        """Begin at zero, in another memory."""
        self._memory, self._index = _NOWHERE, -1
        self.value = 0.0

    def add(self, number: float) -> None:
        """Add to the number."""
        with _process.lock:
            self.put(self.value + number)

    def put(self, value: float) -> None:
        """Replace the value. The caller has the lock."""
        if self._index < 0:
            self._memory, self._index = _process.place(self.key)
        self.value = self._memory[self._index] = value


class Metric:
    """A metric. `help_text` says what it counts; each combination of label values has its numbers."""

    kind: ClassVar[str]

    def __init__(self, name: str, help_text: str, *labels: str) -> None:
        self.name = name
        self.help_text = help_text
        self.labels = labels
        _process.metrics[name] = self

    def numbers(self) -> Iterator[Number]:
        """Yield all numbers. The caller has the lock."""
        raise NotImplementedError


class _Scalar(Metric):
    """A metric with one number for each combination of label values."""

    def __init__(self, name: str, help_text: str, *labels: str) -> None:
        super().__init__(name, help_text, *labels)
        self._numbers: dict[tuple[str, ...], Number] = {}

    def at(self, *values: str) -> Number:
        """Return the number with these label values."""
        found = self._numbers.get(values)
        return found or self._numbers.setdefault(values, Number(self.name, "", *values))

    def numbers(self) -> Iterator[Number]:
        return iter(self._numbers.values())


class Counter(_Scalar):
    """A number that only grows."""

    kind = "counter"

    def add(self, number: float, *values: str) -> None:
        """Add to the number with these label values."""
        self.at(*values).add(number)


class Gauge(_Scalar):
    """A number that goes up and down. Those of all living processes are added up."""

    kind = "gauge"

    def set(self, value: float, *values: str) -> None:
        """Replace the number of this process with these label values."""
        with _process.lock:
            self.at(*values).put(value)

    def add(self, number: float, *values: str) -> None:
        """Add to the number of this process with these label values."""
        self.at(*values).add(number)


class Times:
    """The numbers of a histogram for one combination of label values. The parts are `sum` and indexes of buckets."""

    __slots__ = ("buckets", "sum")

    def __init__(self, name: str, values: tuple[str, ...]) -> None:
        self.sum = Number(name, "sum", *values)
        self.buckets = [Number(name, str(bucket), *values) for bucket in range(len(BOUNDS) + 1)]

    def observe(self, seconds: float) -> None:
        """Add a time."""
        with _process.lock:
            self.put_all((seconds,))

    def put_all(self, times: Sequence[float]) -> None:
        """Add times. The caller has the lock."""
        self.sum.put(self.sum.value + sum(times))
        for seconds in times:
            bucket = self.buckets[bisect_left(BOUNDS, seconds)]
            bucket.put(bucket.value + 1)


class Histogram(Metric):
    """How many times were within each of the `BOUNDS`."""

    kind = "histogram"

    def __init__(self, name: str, help_text: str, *labels: str) -> None:
        super().__init__(name, help_text, *labels)
        self._times: dict[tuple[str, ...], Times] = {}

    def at(self, *values: str) -> Times:
        """Return the numbers with these label values."""
        return self._times.get(values) or self._times.setdefault(values, Times(self.name, values))

    def observe(self, seconds: float, *values: str) -> None:
        """Add a time with these label values."""
        self.at(*values).observe(seconds)

    def numbers(self) -> Iterator[Number]:
        return (number for each in self._times.values() for number in (each.sum, *each.buckets))


class Sample(NamedTuple):
    """A number of a metric."""

    metric: Metric
    part: str
    values: tuple[str, ...]
    number: float


def use_sink(sink: MetricSink | None) -> None:
    """Begin at zero, and write all changes to this sink. A new process calls this: it has the numbers of its parent."""
    with _process.lock:
        _process.sink = sink
        _process.topics.clear()
        _topic_numbers.clear()
        for metric in _process.metrics.values():
            for number in metric.numbers():
                number.reset()


def all_metrics() -> Sequence[Metric]:
    """Return all metrics, in the order of this module."""
    return list(_process.metrics.values())


def own_numbers() -> Mapping[str, float]:
    """Return the numbers of this process by their keys."""
    with _process.lock:
        numbers = [number for metric in _process.metrics.values() for number in metric.numbers()]
        return {each.key: each.value for each in numbers if each.is_used}


def samples(numbers: Mapping[str, float]) -> Iterator[Sample]:
    """Yield the samples of numbers by key. Those of an unknown metric, of another version, are left out."""
    for key, number in numbers.items():
        name, part, *values = json.loads(key)
        metric = _process.metrics.get(name)
        if metric is not None and len(values) == len(metric.labels):
            yield Sample(metric, part, tuple(values), number)


def is_gauge(key: str) -> bool:
    """Return whether the number of this key ends with its process."""
    return isinstance(_process.metrics.get(json.loads(key)[0]), Gauge)


REQUESTS = Counter(
    "kafka_http_requests_total",
    "Requests that were answered, by URL rule, method and status. A stream counts when it begins.",
    *("route", "method", "status"),
)
REQUEST_SECONDS = Histogram(
    "kafka_http_request_seconds",
    "Time from the arrival of a request to its response, or to the start of a stream.",
    *("route", "method"),
)
REQUESTS_IN_FLIGHT = Gauge(
    "kafka_http_requests_in_flight",
    "Requests without a response: view, which a thread handles, and fast_path, requests without a thread.",
    "handler",
)
BYTES_IN_FLIGHT = Gauge("kafka_http_request_bytes_in_flight", "Memory that the bodies of requests have reserved.")
CONNECTIONS = Gauge("kafka_http_connections", "Open connections of clients, without those of streams.")
STREAMS = Gauge("kafka_http_streams", "Open streams.")
PRODUCED_RECORDS = Counter("kafka_http_produced_records_total", "Records that Kafka has acknowledged.", "topic")
PRODUCED_BYTES = Counter(
    "kafka_http_produced_bytes_total", "Bytes of the keys and values that Kafka has acknowledged.", "topic"
)
CONSUMED_RECORDS = Counter("kafka_http_consumed_records_total", "Records that were sent to clients.", "topic")
CONSUMED_BYTES = Counter(
    "kafka_http_consumed_bytes_total",
    "Bytes of the keys and values that were sent to clients, as Kafka has them.",
    "topic",
)
KAFKA_SECONDS = Histogram(
    "kafka_http_kafka_request_seconds",
    "Time of a request to a Kafka broker. A fetch that waits for new messages is left out.",
    "request",
)
KAFKA_ERRORS = Counter(
    "kafka_http_kafka_errors_total", "Errors of Kafka, and of connections to it, by their name.", "error"
)
REGISTRY_REQUESTS = Counter(
    "kafka_http_registry_requests_total",
    "Requests to the schema registry by status; none: there was no answer.",
    "status",
)
REGISTRY_SECONDS = Histogram("kafka_http_registry_request_seconds", "Time of a request to the schema registry.")
TASKS = Counter(
    "kafka_http_tasks_total", "Publishes for later: accepted, and ended as delivered, failed or cancelled.", "status"
)
OUTBOX_TASKS = Gauge("kafka_http_outbox_tasks", "Accepted publishes that are still pending.")
OUTBOX_BYTES = Gauge("kafka_http_outbox_bytes", "Bytes of the messages in pending publishes.")
CALLBACKS = Counter("kafka_http_callbacks_total", "Attempts at callbacks by result.", "result")
CALLBACKS_PENDING = Gauge("kafka_http_callbacks_pending", "Callbacks that are still to be delivered.")
KEYS = Counter("kafka_http_idempotency_key_claims_total", "Requests with an Idempotency-Key by result.", "result")
KEYS_STORED = Gauge("kafka_http_idempotency_keys", "Idempotency keys that are stored.")
INSTANCES = Gauge("kafka_http_consumer_instances", "Consumer instances of the REST Proxy v2 API.")
QUEUE_MESSAGES = Counter(
    "kafka_http_queue_messages_total",
    "Messages of queues by what happened: acquired, acknowledged, released, rejected, expired, dead, dropped.",
    *("topic", "event"),
)
QUEUE_LEASES = Gauge("kafka_http_queue_leases", "Messages of queues that clients hold.")
PROCESSES = Gauge("kafka_http_processes", "Living processes: workers and the daemon.", "process")
MEMORY = Gauge("kafka_http_memory_bytes", "Resident memory of a process.", *("process", "pid"))


def topic_label(topic: str) -> str:
    """Return the label of a topic, which must exist. The first `MAX_TOPICS` topics have one of their own."""
    return topic if _process.admit_topic(topic) else OTHER


def method_label(method: str) -> str:
    """Return the label of a request's method."""
    return method if method in _METHODS else OTHER


_topic_numbers: dict[tuple[Counter, str], Number] = {}
"""The numbers of topics that have a label of their own."""


def _of_topic(counter: Counter, topic: str) -> Number:
    if (found := _topic_numbers.get((counter, topic))) is not None:
        return found
    label = topic_label(topic)
    number = counter.at(label)
    if label == topic:
        _topic_numbers[counter, topic] = number
    return number


def count_produced(topic: str, records: int, size: int) -> None:
    """Count records that Kafka has acknowledged. `size` is that of their keys and values."""
    counted, counted_bytes = _of_topic(PRODUCED_RECORDS, topic), _of_topic(PRODUCED_BYTES, topic)
    with _process.lock:
        counted.put(counted.value + records)
        counted_bytes.put(counted_bytes.value + size)


def count_consumed(topic: str, records: int, size: int) -> None:
    """Count records that are sent to a client. `size` is that of their keys and values."""
    if records:
        _of_topic(CONSUMED_RECORDS, topic).add(records)
        _of_topic(CONSUMED_BYTES, topic).add(size)


def update_process(process: str) -> None:
    """Update the gauges about this process. Call it once in a while, at least once."""
    PROCESSES.set(1, process)
    with suppress(OSError, IndexError, ValueError), Path("/proc/self/statm").open() as pages:
        MEMORY.set(int(pages.read().split()[1]) * mmap.PAGESIZE, process, str(os.getpid()))


class _TalliedRequests:
    """Requests of a round that have the same labels."""

    __slots__ = ("count", "seconds", "times")

    def __init__(self, route: str, method: str, status: int) -> None:
        method = method_label(method)
        self.seconds: list[float] = []
        self.count = REQUESTS.at(route, method, str(status))
        self.times = REQUEST_SECONDS.at(route, method)


class RequestTally:
    """The requests of a round of a main loop, in plain lists until `write`. One thread uses it."""

    def __init__(self) -> None:
        self._tallied: dict[tuple[str, str, int], _TalliedRequests] = {}
        self._of_round: list[_TalliedRequests] = []

    def add(self, route: str, method: str, status: int, seconds: float) -> None:
        """Add a request."""
        tallied = self._tallied.get((route, method, status))
        if tallied is None:
            tallied = self._tallied[route, method, status] = _TalliedRequests(route, method, status)
        if not tallied.seconds:
            self._of_round.append(tallied)
        tallied.seconds.append(seconds)

    def write(self) -> None:
        """Count what was added, before the responses are sent."""
        with _process.lock:
            for each in self._of_round:
                each.count.put(each.count.value + len(each.seconds))
                each.times.put_all(each.seconds)
                each.seconds.clear()
        self._of_round.clear()


def count_request(route: str, method: str, status: int, seconds: float) -> None:
    """Count a request. Call it before the response is sent, so that none is missing after a kill."""
    method = method_label(method)
    REQUESTS.add(1, route, method, str(status))
    REQUEST_SECONDS.observe(seconds, route, method)
