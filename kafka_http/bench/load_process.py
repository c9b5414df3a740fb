"""The processes of the load generator, and the function that starts them."""

import gc
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.resource_tracker import ensure_running

from kafka_http.bench.bench_result import BenchError
from kafka_http.bench.load_generator import LoadCounts, LoadGenerator
from kafka_http.bench.load_requests import LoadJob, load_clients
from kafka_http.bench.process_usage import ProcessUsage

_START_SECONDS = 0.05
"""Seconds until all processes have read when to begin."""


def run_load(
    jobs: Sequence[LoadJob], warmup: float, seconds: float, usages: Sequence[ProcessUsage | None]
) -> tuple[list[LoadCounts], list[float | None]]:
    """Run a process for each job. Return their counts, and the CPU seconds of each usage. Raises `BenchError`."""
    with ExitStack() as stack:
        pipes = [stack.enter_context(_process(job)) for job in jobs]
        for each in pipes:
            _receive(each)
        begin = time.monotonic() + _START_SECONDS + warmup
        for each in pipes:
            each.send((begin, begin + seconds))
        time.sleep(max(0.0, begin - time.monotonic()))
        before = [usage.cpu() if usage else 0.0 for usage in usages]
        time.sleep(max(0.0, begin + seconds - time.monotonic()))
        used = [usage.cpu() - was if usage else None for usage, was in zip(usages, before, strict=True)]
        return [_receive(each) for each in pipes], used


@contextmanager
def _process(job: LoadJob) -> Iterator[Connection]:
    """Start a process, yield the pipe to it, and wait for its end. An exception ends the process."""
    context = get_context("spawn")
    pipe, its_pipe = context.Pipe()
    ensure_running()  # of multiprocessing: to start it unblocks SIGINT, which would reach the child while it starts
    process = context.Process(target=_run, args=(job, its_pipe))
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # Ctrl-C is for the parent; a child inherits it
    try:
        process.start()
    finally:
        its_pipe.close()
    try:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        yield pipe
    except BaseException:
        process.terminate()
        raise
    finally:
        process.join()


def _receive(pipe: Connection) -> LoadCounts:
    try:
        received: LoadCounts | BenchError = pipe.recv()
    except EOFError:
        raise BenchError("A process of the load generator ended unexpectedly; see the lines above.") from None
    if isinstance(received, BenchError):
        raise received
    return received


def _run(job: LoadJob, pipe: Connection) -> None:
    """Send empty counts when ready, receive when to begin and to end, send the counts."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # so that consumer instances on the server are deleted
    with suppress(EOFError, BrokenPipeError):  # the parent has ended
        try:
            with load_clients(job) as clients:
                generator = LoadGenerator(job.server, clients)
                gc.freeze()  # the objects of the setup need not be collected during the measurement
                pipe.send(LoadCounts())
                pipe.send(generator.run(*pipe.recv()))
        except BenchError as error:
            pipe.send(error)
