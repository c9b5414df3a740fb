"""The processes of the load generator, and the functions that start them.

A process is `python -m kafka_http.bench.load_process`. It reads its `LoadJob` from stdin, writes a `_Report` when it is
ready, reads when to begin and to end, and writes a `_Report` with its counts. All of these are lines of JSON.
"""

import gc
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import chain
from typing import Any, TypeVar

import msgspec

from kafka_http.bench.bench_result import BenchError
from kafka_http.bench.load_generator import MAX_ERRORS, LoadCounts, LoadGenerator
from kafka_http.bench.load_requests import LoadJob, load_clients
from kafka_http.bench.target_server import ServerAddress

_START_SECONDS = 0.05
"""Seconds until all processes have read when to begin."""

Watched = TypeVar("Watched")


class _Report(msgspec.Struct):
    """A message of a process: the counts, or an error. The first one, that the process is ready, has neither."""

    counts: LoadCounts | None = None
    error: str = ""


def run_load(
    jobs: Sequence[LoadJob], warmup: float, seconds: float, watch: Callable[[float, float], Watched]
) -> tuple[list[LoadCounts], Watched]:
    """Run a process for each job. Return their counts and what `watch` returned.

    `watch` is called with the times of `time.monotonic` at which counting begins and ends, and returns after the
    latter. Raises `BenchError`.
    """
    with _processes(jobs) as processes:
        for each in processes:
            each.receive()
        begin = time.monotonic() + _START_SECONDS + warmup
        for each in processes:
            each.send((begin, begin + seconds))
        watched = watch(begin, begin + seconds)
        return [each.receive().counts or LoadCounts() for each in processes], watched


def first_errors(counts: Sequence[LoadCounts]) -> list[str]:
    """The first errors of all processes."""
    return list(chain.from_iterable(each.first_errors for each in counts))[:MAX_ERRORS]


@contextmanager
def _processes(jobs: Sequence[LoadJob]) -> Iterator[list["_LoadProcess"]]:
    """Start the processes. An exception ends them."""
    started: list[_LoadProcess] = []
    try:
        for job in jobs:
            started.append(_LoadProcess())
            started[-1].send(job)
        yield started
    except BaseException:
        for each in started:
            each.terminate()
        raise
    finally:
        for each in started:
            each.wait()


class _LoadProcess:
    """A process of the load generator. It has its own session, so that Ctrl-C reaches only this process."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", __name__]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)

    def send(self, message: Any) -> None:
        assert self._process.stdin  # noqa: S101  for the type checker
        with suppress(BrokenPipeError):  # `receive` reports that it has ended
            self._process.stdin.write(msgspec.json.encode(message) + b"\n")
            self._process.stdin.flush()

    def receive(self) -> _Report:
        assert self._process.stdout  # noqa: S101  for the type checker
        line = self._process.stdout.readline()
        if not line:
            raise BenchError("A process of the load generator ended unexpectedly; see the lines above.")
        report = msgspec.json.decode(line, type=_Report)
        if report.error:
            raise BenchError(report.error)
        return report

    def terminate(self) -> None:
        self._process.terminate()

    def wait(self) -> None:
        with self._process:  # closes the pipes and waits
            pass


def _main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # so that consumer instances on the server are deleted
    with suppress(BrokenPipeError):  # the parent has ended
        try:
            _run(msgspec.json.decode(sys.stdin.buffer.readline(), type=LoadJob))
        except BenchError as error:
            _write(_Report(error=str(error)))


def _run(job: LoadJob) -> None:
    with load_clients(job) as clients:
        generator = LoadGenerator(ServerAddress(job.url), clients)
        gc.freeze()  # the objects of the setup need not be collected during the measurement
        _write(_Report())
        if line := sys.stdin.buffer.readline():
            begin, end = msgspec.json.decode(line, type=tuple[float, float])
            _write(_Report(generator.run(begin, end)))


def _write(report: _Report) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(report) + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    _main()
