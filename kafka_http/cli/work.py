"""`kafka-http work`: run a command for each message of a queue."""

import argparse
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import NamedTuple

from kafka_http.cli.client_address import add_server_flags, server_address
from kafka_http.cli.client_output import note
from kafka_http.cli.client_progress import progress_bar
from kafka_http.cli.client_queue import WorkQueue
from kafka_http.cli.client_requests import FAILED, ApiClient, RequestError
from kafka_http.cli.message_command import MessageCommand
from kafka_http.cli.message_work import MessageWork, WorkReport
from kafka_http.cli.queue_worker import QueueWorker

_MAX_CONCURRENCY = 500
_MAX_LOCK_SECONDS = 12 * 3600
_INTERRUPTED = 130
_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_MAX_STOPS = 2
_REPEAT_SECONDS = 0.5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.add_argument("topic", metavar="TOPIC")
    parser.add_argument("consumer", metavar="CONSUMER", help="the name of the queue; the first worker makes it")
    parser.add_argument(
        "--exec",
        dest="command",
        type=_command,
        metavar="CMD",
        required=True,
        help="the shell command to run for each message: the message is on its stdin, the rest in KAFKA_HTTP_KEY, "
        "KAFKA_HTTP_OFFSET, …; exit status 0 acknowledges the message",
    )
    parser.add_argument(
        "--concurrency", type=_concurrency, metavar="N", default=1, help="commands at the same time (default: 1)"
    )
    parser.add_argument(
        "--lock",
        type=_lock,
        metavar="SECONDS",
        default=30.0,
        help="how long a message stays locked if this worker dies; renewed while the command runs (default: 30)",
    )
    parser.add_argument(
        "--retry-delay",
        type=_retry_delay,
        metavar="SECONDS",
        default=10.0,
        help="when a message is delivered again after its command failed (default: 10)",
    )
    parser.add_argument("--dead", metavar="TOPIC", help="publish messages that failed in all attempts to this topic")
    parser.add_argument("--until-empty", action="store_true", help="end when all messages of the topic are done")
    add_server_flags(parser)


def _command(text: str) -> str:
    if not text.strip():  # a shell exits with 0, so each message would be acknowledged without any work
        raise argparse.ArgumentTypeError("the command is empty")
    return text


def _concurrency(text: str) -> int:
    if not (text.isdecimal() and 1 <= int(text) <= _MAX_CONCURRENCY):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to {_MAX_CONCURRENCY}")
    return int(text)


def _lock(text: str) -> float:
    return _seconds(text, f"{text!r} is not a number of seconds from 1 to {_MAX_LOCK_SECONDS}")


def _retry_delay(text: str) -> float:
    if text == "0":
        return 0.0
    return _seconds(text, f"{text!r} is not 0 or a number of seconds from 1 to {_MAX_LOCK_SECONDS}")


def _seconds(text: str, error: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 1 <= seconds <= _MAX_LOCK_SECONDS:
        raise argparse.ArgumentTypeError(error)
    return seconds


def run(arguments: argparse.Namespace) -> int:
    """Work until a signal comes or the queue is empty. Return the exit status. Raises `ConfigError`, `RequestError`."""
    client = ApiClient(server_address(arguments))
    queue = WorkQueue(client, arguments.topic, arguments.consumer, arguments.lock, arguments.dead)
    common = {"URL": client.url, "TOPIC": arguments.topic, "CONSUMER": arguments.consumer}
    command = MessageCommand(arguments.command, common)
    with progress_bar(None, "msg", shown=not sys.stdout.isatty()) as advance:
        report = WorkReport(advance)
        work = MessageWork(queue, command, arguments.retry_delay, report)
        worker = QueueWorker(queue, work, arguments.concurrency, until_empty=arguments.until_empty)
        try:
            ended_by = _run_until_signal(worker)
        except RequestError as error:
            raise (error.extended(str(report)) if report.has_messages else error) from None
    note(str(report))
    if ended_by == signal.SIGINT:
        return _INTERRUPTED
    return FAILED if arguments.until_empty and report.rejected else 0


def _run_until_signal(worker: QueueWorker) -> int:
    """Run a worker in a thread. Return the first signal, or 0. Raises `RequestError`, and `KeyboardInterrupt` at last.

    The first signal stops the worker, the second kills its commands, the third waits for nothing.
    """
    ended: Future[None] = Future()
    stops: list[_Stop] = []
    with _signals() as (signals, wake):
        threading.Thread(target=_run, args=(worker, ended, wake), name="worker", daemon=True).start()
        for number in iter(lambda: os.read(signals, 1)[0], 0):
            stop = _Stop(number, time.monotonic())
            if stop.number not in _STOP_SIGNALS or (stops and stop.repeats(stops[-1])):
                continue
            if len(stops) == _MAX_STOPS:
                raise KeyboardInterrupt
            _stop(worker, kills=bool(stops))
            stops.append(stop)
    ended.result()
    return stops[0].number if stops else 0


class _Stop(NamedTuple):
    """A signal, and when it came on the monotonic clock."""

    number: int
    at: float

    def repeats(self, last: "_Stop") -> bool:
        """Return whether this is the same signal once more: the program `timeout` sends it twice."""
        return self.number == last.number and self.at - last.at < _REPEAT_SECONDS


def _run(worker: QueueWorker, ended: "Future[None]", wake: int) -> None:
    try:
        worker.run()
    except BaseException as error:
        ended.set_exception(error)
    else:
        ended.set_result(None)
    os.write(wake, b"\0")


def _stop(worker: QueueWorker, *, kills: bool) -> None:
    running = worker.stop()
    plural = "" if running == 1 else "s"
    if kills and running:
        note(f"Killing {running} command{plural} and giving their messages back.")
    elif running:
        them = "it" if running == 1 else "them"
        note(f"Stopping: waiting for {running} running command{plural}. Press Ctrl-C again to kill {them}.")
    elif not kills:
        note("Stopping.")


@contextmanager
def _signals() -> Iterator[tuple[int, int]]:
    """Yield a pipe to which the numbers of signals come. A signal that is ignored stays ignored.

    A Python handler would not do: it runs when the main thread wakes up, and any thread may be the one that a signal
    interrupts.
    """
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    woken = signal.set_wakeup_fd(writing)
    before = {each: handler for each in _STOP_SIGNALS if (handler := signal.getsignal(each)) != signal.SIG_IGN}
    for each in before:
        signal.signal(each, lambda *_: None)
    try:
        yield reading, writing
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
        signal.set_wakeup_fd(woken)
    os.close(reading)  # not after an error: the worker may still write, and this process ends
    os.close(writing)
