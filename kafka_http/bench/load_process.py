"""The processes of the load generator, and the functions that start them.

A process is `python -m kafka_http.bench.load_process`. It reads its `LoadJob` from stdin, writes empty `LoadCounts`
when it is ready, reads when to begin and to end, and writes its `LoadCounts`. All of these are lines of JSON.
"""

import gc
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import msgspec

from kafka_http.bench.bench_result import BenchError
from kafka_http.bench.load_generator import LoadCounts, LoadGenerator
from kafka_http.bench.load_requests import LoadJob, load_clients
from kafka_http.bench.process_usage import ProcessUsage
from kafka_http.bench.target_server import TargetServer

_START_SECONDS = 0.05
"""Seconds until all processes have read when to begin."""

_Process = subprocess.Popen[bytes]


def run_load(
    jobs: Sequence[LoadJob], warmup: float, seconds: float, usage: ProcessUsage | None
) -> tuple[list[LoadCounts], float | None]:
    """Run a process for each job. Return their counts and the CPU seconds of the server. Raises `BenchError`."""
    with _processes(jobs) as processes:
        for each in processes:
            _receive(each)
        begin = time.monotonic() + _START_SECONDS + warmup
        for each in processes:
            _send(each, (begin, begin + seconds))
        time.sleep(max(0.0, begin - time.monotonic()))
        before = usage.cpu() if usage else 0.0
        time.sleep(max(0.0, begin + seconds - time.monotonic()))
        used = usage.cpu() - before if usage else None
        return [_receive(each) for each in processes], used


@contextmanager
def _processes(jobs: Sequence[LoadJob]) -> Iterator[list[_Process]]:
    """Start the processes. An exception ends them. Each has its own session, so that Ctrl-C does not reach it."""
    command, pipe = [sys.executable, "-m", __name__], subprocess.PIPE
    started: list[_Process] = []
    with ExitStack() as stack:  # closes the pipes and waits
        try:
            for job in jobs:
                started.append(subprocess.Popen(command, stdin=pipe, stdout=pipe, start_new_session=True))
                stack.enter_context(started[-1])
                _send(started[-1], job)
            yield started
        except BaseException:
            for each in started:
                each.terminate()
            raise


def _send(process: _Process, message: Any) -> None:
    assert process.stdin  # noqa: S101  for the type checker
    with suppress(BrokenPipeError):  # `_receive` reports that it has ended
        process.stdin.write(msgspec.json.encode(message) + b"\n")
        process.stdin.flush()


def _receive(process: _Process) -> LoadCounts:
    assert process.stdout  # noqa: S101  for the type checker
    line = process.stdout.readline()
    if not line:
        raise BenchError("A process of the load generator ended unexpectedly; see the lines above.")
    counts = msgspec.json.decode(line, type=LoadCounts)
    if counts.failure:
        raise BenchError(counts.failure)
    return counts


def _main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # so that consumer instances on the server are deleted
    with suppress(BrokenPipeError):  # the parent has ended
        try:
            _run(msgspec.json.decode(sys.stdin.buffer.readline(), type=LoadJob))
        except BenchError as error:
            _write(LoadCounts(failure=str(error)))


def _run(job: LoadJob) -> None:
    with load_clients(job) as clients:
        generator = LoadGenerator(TargetServer(job.url), clients)
        gc.freeze()  # the objects of the setup need not be collected during the measurement
        _write(LoadCounts())
        if line := sys.stdin.buffer.readline():
            begin, end = msgspec.json.decode(line, type=tuple[float, float])
            _write(generator.run(begin, end))


def _write(counts: LoadCounts) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(counts) + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    _main()
