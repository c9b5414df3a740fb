"""The result of a bench of publishing or reading, and its JSON file."""

import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

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


class BenchRow(msgspec.Struct, frozen=True):
    """The figures of one combination of records per request and connections.

    `seconds` and CPU times are in seconds, latencies in milliseconds. `generator_busiest` is the largest part of a core
    that a process of the load generator used. `server_cpu` is None if it is not known. `later` is for publishes that
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
    generator_cpu: float
    generator_busiest: float
    later: bool = False


class BenchResult(msgspec.Struct, frozen=True, tag_field="kind", tag="kafka-http bench 1"):
    """A whole run. `conditions` are its machine, versions, flags, and settings of the server."""

    what: Literal["publish", "read"]
    date: str
    rows: list[BenchRow]
    conditions: dict[str, Any] = {}

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
