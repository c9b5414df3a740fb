"""What a bench finds out, as it is kept in a file of JSON."""

import os
import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal, Self

import msgspec

from kafka_http.bench.errors import BenchError

_PACKAGES = (
    *("kafka_http", "kafka-python", "aiokafka", "msgspec", "flask", "gunicorn", "gunicorn_h1c"),
    "confluent-kafka",
)

ONE_BY_ONE = "one by one"
MANY = "many in flight"


def percentile(ordered: Sequence[float], percent: float) -> float:
    """The least of the values that so many percent of them do not exceed; 0 where there are none."""
    if not ordered:
        return 0.0
    return ordered[max(0, -int(-len(ordered) * percent // 100) - 1)]


class BenchRow(msgspec.Struct, frozen=True):
    """One combination of records a request and connections.

    Times are in seconds, latencies in milliseconds; `generator_busiest` is the greatest share of a core that one of the
    generator's processes took, `server_busiest` the share of its workers' CPU time that the busiest of several
    took, `machine_busy` the share of all cores that was not idle. What nobody could read is null. `later` ones
    are answered with a 202, before Kafka has the records.
    """

    records: int
    connections: int
    seconds: float
    requests: int
    messages: int
    errors: int
    p50: float
    p90: float
    p99: float
    server_cpu: float | None
    server_busiest: float | None
    broker_cpu: float | None
    generator_cpu: float
    generator_busiest: float
    machine_busy: float
    later: bool = False

    @property
    def requests_per_second(self) -> float:
        return self.requests / self.seconds

    @property
    def messages_per_second(self) -> float:
        return self.messages / self.seconds

    @property
    def server_us_per_message(self) -> float | None:
        if self.server_cpu is None or not self.messages:
            return None
        return self.server_cpu / self.messages * 1e6


class Baseline(msgspec.Struct, frozen=True):
    """What a client library does without HTTP: `way` is `one by one` or `many in flight`."""

    client: str
    way: str
    messages_per_second: float
    p50: float | None = None


class Machine(msgspec.Struct, frozen=True):
    cores: int
    system: str
    python: str
    versions: dict[str, str]

    @classmethod
    def this(cls) -> Self:
        return cls(cores(), platform.platform(), platform.python_version(), dict(_versions()))


def cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _versions() -> list[tuple[str, str]]:
    found = []
    for package in _PACKAGES:
        try:
            found.append((package, version(package)))
        except PackageNotFoundError:
            continue
    return found


class BenchResult(msgspec.Struct, frozen=True, tag_field="kind", tag="kafka-http bench 1"):
    """A whole run. `size` is the bytes of a value; `settings` are those of the server that were given."""

    what: Literal["publish", "read"]
    dialect: Literal["messages", "v2"]
    size: int
    date: str
    machine: Machine
    options: dict[str, Any]
    settings: dict[str, Any]
    rows: list[BenchRow]
    baselines: list[Baseline]

    def megabytes_per_second(self, row: BenchRow) -> float:
        """Of values, 10^6 bytes each."""
        return row.messages_per_second * self.size / 1e6

    def baseline_of(self, row: BenchRow, client: str) -> Baseline | None:
        """What to hold a row against: one message after the other where the row does just that."""
        is_single = self.what == "publish" and row.records == row.connections == 1
        way = ONE_BY_ONE if is_single else MANY
        return next((each for each in self.baselines if (each.client, each.way) == (client, way)), None)

    def write(self, file: Path) -> None:
        file.write_bytes(msgspec.json.format(msgspec.json.encode(self)) + b"\n")


def read_result(file: Path) -> BenchResult:
    """Raises `BenchError` where there is none."""
    try:
        return msgspec.json.decode(file.read_bytes(), type=BenchResult)
    except OSError as error:
        raise BenchError(f"{file} cannot be read: {error.strerror}.") from None
    except msgspec.MsgspecError:
        raise BenchError(f"{file} is no result of a bench: give a file that --json has written.") from None
