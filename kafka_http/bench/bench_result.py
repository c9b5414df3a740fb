"""The result of a bench of publishing or reading, and its JSON file."""

import platform
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any, Literal, NamedTuple

import msgspec

from kafka_http.config.settings import available_cores

_PACKAGES = ("kafka_http", "kafka-python", "aiokafka", "msgspec", "flask", "gunicorn")


class BenchError(Exception):
    """A bench cannot run. The message tells the user what is wrong and what to do."""


def percentile(ordered: Sequence[float], percent: float) -> float:
    """The nearest-rank percentile of values in ascending order; 0 if there are none."""
    if not ordered:
        return 0.0
    return ordered[max(0, -int(-len(ordered) * percent // 100) - 1)]


def machine() -> dict[str, Any]:
    """Describe this machine and the installed packages."""
    python = {"cores": available_cores(), "system": platform.platform(), "Python": platform.python_version()}
    return python | {package: version(package) for package in _PACKAGES}


class RowName(NamedTuple):
    """What rows of several rounds have in common."""

    records: int
    connections: int
    way: str
    server: str


class BenchRow(msgspec.Struct, frozen=True):
    """The figures of one combination of records per request and connections, in one round.

    `seconds` and CPU times are in seconds, latencies in milliseconds. `generator_busiest` is the largest part of a core
    that a process of the load generator used. `server_cpu` and `kafka_cpu` are None if they are not known. `later` is
    for publishes that are answered with a 202, before Kafka has the records; `key` for publishes with a new
    Idempotency-Key each; `wait` for a client of a queue that waits for each message before it is published. `server` is
    empty if the bench measures only one.
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
    generator_cpu: float
    generator_busiest: float
    later: bool = False
    key: bool = False
    kafka_cpu: float | None = None
    server: str = ""
    wait: bool = False

    @property
    def name(self) -> RowName:
        way = "later" if self.later else "key" if self.key else "wait" if self.wait else ""
        return RowName(self.records, self.connections, way, self.server)


class BenchResult(msgspec.Struct, frozen=True, tag_field="kind", tag="kafka-http bench 1"):
    """A whole run. `conditions` are its machine, versions, flags, and settings of the server."""

    what: Literal["publish", "read", "queue"]
    date: str
    rows: list[BenchRow]
    conditions: dict[str, Any] = {}

    def by_name(self) -> dict[RowName, list[BenchRow]]:
        """The rows of all rounds of each combination."""
        found: dict[RowName, list[BenchRow]] = {}
        for row in self.rows:
            found.setdefault(row.name, []).append(row)
        return found

    def write(self, file: Path) -> None:
        """Write the result as JSON."""
        file.write_bytes(msgspec.json.format(msgspec.json.encode(self)) + b"\n")


def read_result(file: Path) -> BenchResult:
    """Read a file that `BenchResult.write` wrote, also in an older version. Raises `BenchError`."""
    try:
        return msgspec.json.decode(file.read_bytes(), type=BenchResult)  # ignores fields that older versions had
    except OSError as error:
        raise BenchError(f"{file} cannot be read: {error.strerror}.") from None
    except msgspec.MsgspecError:
        raise BenchError(f"{file} is not a result of a bench. Use a file that --json wrote.") from None


def _microseconds(cpu: float | None, count: int) -> float | None:
    """The CPU time for each of `count` requests or messages; None if there is none, or the CPU time is not known."""
    return cpu / count * 1e6 if count and cpu is not None else None


FIGURES: dict[str, Callable[[BenchRow], float | None]] = {
    "requests/s": lambda row: row.requests / row.seconds,
    "messages/s": lambda row: row.messages / row.seconds,
    "p50 ms": lambda row: row.p50,
    "p99 ms": lambda row: row.p99,
    "errors": lambda row: row.errors,
    "server us/request": lambda row: _microseconds(row.server_cpu, row.requests),
    "server us/message": lambda row: _microseconds(row.server_cpu, row.messages),
    "Kafka us/request": lambda row: _microseconds(row.kafka_cpu, row.requests),
    "load us/request": lambda row: _microseconds(row.generator_cpu, row.requests),
}
"""What results show of a row. us: microseconds of CPU time."""


def figure(name: str, rows: Sequence[BenchRow]) -> float | None:
    """The median of a figure over rounds, the sum of errors; None if it is not known."""
    values = [value for row in rows if (value := FIGURES[name](row)) is not None]
    combine = sum if name == "errors" else median
    return combine(values) if values else None


def format_number(value: float | None) -> str:
    """Format with three significant digits and separators of thousands."""
    if value is None:
        return "-"
    if isinstance(value, int) or value >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}" if value >= 1 else f"{value:.2f}"
