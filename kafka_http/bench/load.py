"""A row of the table: load from several processes for so many seconds, and what it cost."""

import gc
import multiprocessing
import signal
import sys
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import chain
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from typing import NamedTuple, TypeVar

from kafka_http.bench.calls import Work
from kafka_http.bench.conversations import Address
from kafka_http.bench.errors import BenchError
from kafka_http.bench.generator import Generator, Tally
from kafka_http.bench.progress import ProgressBar
from kafka_http.bench.results import BenchRow, percentile
from kafka_http.bench.usage import Spent, Usage

_LEAD = 0.05
"""Seconds until the processes, who are told at once, have begun."""

_SHOWN = 3
_ENDS = (signal.SIGINT, signal.SIGTERM)

Watched = TypeVar("Watched")


class Manner(NamedTuple):
    """From how many processes at most; the seconds that do not count first, and those that do."""

    processes: int
    warmup: float
    seconds: float


def measure(
    work: Work, connections: int, manner: Manner, usage: Usage, progress: ProgressBar
) -> tuple[BenchRow, list[str]]:
    """The row, and the first errors. Raises `BenchError` where the load cannot be made."""

    def watch(begin: float, end: float) -> Spent:
        progress.wait_until(begin)
        before = usage.now()
        progress.wait_until(end)
        return usage.now().since(before)

    tallies, spent = drive([(work, share) for share in _shares(connections, manner.processes)], manner, watch)
    return _row(work, connections, manner.seconds, tallies, spent), first_errors(tallies)


def drive(
    shares: Sequence[tuple[Work, int]], manner: Manner, watch: Callable[[float, float], Watched]
) -> tuple[list[Tally], Watched]:
    """Load from a process for each share, a number of connections; and what `watch` has seen meanwhile.

    It is given the moments, of `time.monotonic`, from when until when it counts, and returns after the latter.
    """
    with _running(shares) as pipes:
        for pipe in pipes:
            _receive(pipe)  # it is ready
        begin = time.monotonic() + _LEAD + manner.warmup
        for pipe in pipes:
            pipe.send((begin, begin + manner.seconds))
        watched = watch(begin, begin + manner.seconds)
        return [_receive(pipe) for pipe in pipes], watched


def first_errors(tallies: Sequence[Tally]) -> list[str]:
    return list(chain.from_iterable(each.first_errors for each in tallies))[:_SHOWN]


def _shares(connections: int, processes: int) -> list[int]:
    """How many connections each process has; none has none."""
    count = min(connections, processes)
    return [connections // count + (number < connections % count) for number in range(count)]


def _row(work: Work, connections: int, seconds: float, tallies: Sequence[Tally], spent: Spent) -> BenchRow:
    latencies = array("d", sorted(chain.from_iterable(each.latencies for each in tallies)))
    return BenchRow(
        records=work.records,
        later=work.later,
        connections=connections,
        seconds=seconds,
        requests=len(latencies),
        messages=sum(each.messages for each in tallies),
        errors=sum(each.errors for each in tallies),
        p50=percentile(latencies, 50) * 1000,
        p90=percentile(latencies, 90) * 1000,
        p99=percentile(latencies, 99) * 1000,
        server_cpu=spent.server,
        server_busiest=spent.server_busiest,
        broker_cpu=spent.broker,
        generator_cpu=sum(each.cpu for each in tallies),
        generator_busiest=max(each.cpu for each in tallies) / seconds,
        machine_busy=spent.machine_busy,
    )


@contextmanager
def _running(shares: Sequence[tuple[Work, int]]) -> Iterator[list[Connection]]:
    """The processes, by the pipes to them. Who leaves before they have said all ends them."""
    context = multiprocessing.get_context("spawn")
    started = []
    try:
        for work, connections in shares:
            ours, theirs = context.Pipe()
            process = context.Process(target=_generate, args=(work, connections, theirs), daemon=True)
            with _undisturbed():
                process.start()
                started.append((process, ours))
            theirs.close()
        yield [pipe for _, pipe in started]
    except BaseException:
        for process, _ in started:
            process.terminate()
        raise
    finally:
        for process, pipe in started:
            process.join()
            pipe.close()


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Hear SIGINT and SIGTERM afterwards. A process that starts meanwhile never hears SIGINT, which a terminal sends to
    all: this one ends it.
    """
    heard: list[int] = []
    resource_tracker.ensure_running()  # it would start with the first process, and unblock the signal
    handlers = {number: signal.signal(number, lambda it, _: heard.append(it)) for number in _ENDS}
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        for number, handler in handlers.items():
            signal.signal(number, handler)
    for each in heard:
        signal.raise_signal(each)


def _receive(pipe: Connection) -> Tally:
    try:
        said = pipe.recv()
    except EOFError:
        raise BenchError("A process of the load generator has ended; the lines above say why.") from None
    if isinstance(said, str):
        raise BenchError(said)
    tally: Tally = said
    return tally


def _generate(work: Work, connections: int, pipe: Connection) -> None:
    """The life of a process: it says that it is ready, is told from when until when to count, and says what it did.

    A text in place of either is why it cannot.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # what was made at the server is removed
    with pipe, suppress(EOFError, BrokenPipeError, ConnectionResetError):  # then nobody wants to know any more
        try:
            with work.conversations(connections) as conversations:
                generator = Generator(Address(work.url), conversations)
                gc.freeze()
                pipe.send(generator.tally)
                begin, end = pipe.recv()
                pipe.send(generator.run(begin, end))
        except BenchError as error:
            pipe.send(str(error))
