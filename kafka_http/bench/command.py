"""`kafka-http bench`: its arguments, and what it does with them."""

import argparse
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from urllib.parse import urlsplit

from kafka_http.bench import memory, services, streams
from kafka_http.bench.errors import BenchError
from kafka_http.bench.results import cores, read_result
from kafka_http.bench.runs import BenchOptions, BenchRun
from kafka_http.bench.tables import comparison, table
from kafka_http.config import Config
from kafka_http.demo.errors import DemoError

_LEAST_SIZE = 8


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The bench's own flags; `run` takes what they parse to. The settings of `serve` stand beside them."""
    parser.add_argument("what", nargs="?", choices=("publish", "read", "streams", "memory"), help="what is measured")
    parser.add_argument("--compare", nargs=2, type=Path, metavar=("A.json", "B.json"), help="two runs side by side")
    parser.add_argument("--url", type=_url, help="a server that runs; without it Kafka and a server are started")
    parser.add_argument("--dialect", choices=("messages", "v2"), default="messages", help="API (default: messages)")
    parser.add_argument("--records", type=_counts, default=[1, 100, 1000], metavar="N,…",
                        help="records a request, or a page (default: 1,100,1000)")  # fmt: skip
    parser.add_argument("--connections", type=_counts, default=[1, 16, 64], metavar="N,…",
                        help="connections at the same time (default: 1,16,64)")  # fmt: skip
    parser.add_argument("--size", type=_size, default=100, metavar="BYTES", help="bytes of a value (default: 100)")
    parser.add_argument("--seconds", type=_seconds, default=10.0, metavar="N", help="for each row (default: 10)")
    parser.add_argument("--warmup", type=_warmup, default=1.0, metavar="N",
                        help="seconds before those that do not count (default: 1)")  # fmt: skip
    parser.add_argument("--processes", type=_count, default=max(1, cores() // 2), metavar="N",
                        help="processes of the load generator, at most (default: half the cores)")  # fmt: skip
    parser.add_argument("--partitions", type=_count, default=3, metavar="N", help="of the topic made (default: 3)")
    parser.add_argument("--topic", metavar="NAME", help="a topic that is there; without it one is made, and deleted")
    parser.add_argument("--messages", type=_number, default=200_000, metavar="N",
                        help="read: what the topic is filled with first (default: 200000)")  # fmt: skip
    parser.add_argument("--batch", type=_count, default=100, metavar="N",
                        help="read: of so many at a time, which Kafka keeps together (default: 100)")  # fmt: skip
    parser.add_argument("--later", action="store_true",
                        help="publish: each row also with Prefer: respond-async, answered with 202")  # fmt: skip
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result to a file as well")
    parser.set_defaults(usage=parser.error)


def run(arguments: argparse.Namespace, load: Callable[[], Config]) -> int:
    """Measure, or compare; the exit status. `load` gives the settings of the server."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    if arguments.compare is None and arguments.what is None:
        arguments.usage("say what to measure, publish, read, streams or memory, or --compare two results")
    own = arguments.what in {"memory", "streams"}
    if own and (arguments.url is not None or arguments.json is not None):
        arguments.usage(f"{arguments.what}: of a server that it starts itself, and printed: no --url, no --json")
    try:
        if arguments.compare is not None:
            print(comparison(*map(read_result, arguments.compare)))
        elif arguments.what == "memory":
            with services.started(load()) as service:
                print(memory.measure(service, arguments.seconds, arguments.size, arguments.partitions))
        elif arguments.what == "streams":
            with services.started(load()) as service:
                print(streams.measure(service, arguments.connections, arguments.seconds))
        else:
            _measure(arguments, load())
    except (BenchError, DemoError) as error:
        print(f"kafka-http bench: {error}", file=sys.stderr)
        return 1
    return 0


def _measure(arguments: argparse.Namespace, config: Config) -> None:
    _check_writable(arguments.json)
    options = BenchOptions(**{field.name: getattr(arguments, field.name) for field in fields(BenchOptions)})
    with _service(arguments, config) as service:
        run = BenchRun(options, service, _given(config))
        result = run.measure()
    if arguments.json:
        result.write(arguments.json)
    print(table(result))
    for each in run.errors:
        print(f"error: {each}")


def _check_writable(file: Path | None) -> None:
    """Before the measurement rather than after it. Raises `BenchError`."""
    try:
        if file is not None:
            file.touch()
    except OSError as error:
        raise BenchError(f"{file} cannot be written: {error.strerror}.") from None


def _given(config: Config) -> dict[str, str]:
    """The settings that were given, but for secrets."""
    given = {name: getattr(config, name) for name in sorted(config.sources) if "." not in name}
    return {name: str(value) for name, value in given.items()}


@contextmanager
def _service(arguments: argparse.Namespace, config: Config) -> Iterator[services.Service]:
    if arguments.url is not None:
        yield services.given(arguments.url, config)
    else:
        with services.started(config) as service:
            yield service


def _counts(text: str) -> list[int]:
    try:
        return [_count(each) for each in text.split(",")]
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of whole numbers from 1 on, such as 1,16,64") from None


def _count(text: str) -> int:
    if not (text.isdecimal() and 1 <= int(text) <= 100_000):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1 to 100000")
    return int(text)


def _number(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number")
    return int(text)


def _size(text: str) -> int:
    if not (text.isdecimal() and _LEAST_SIZE <= int(text) <= 1_000_000):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of bytes from {_LEAST_SIZE} to 1000000")
    return int(text)


def _seconds(text: str, least: float = 0.1) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not least <= seconds <= 3600:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds from {least:g} to 3600")
    return seconds


def _warmup(text: str) -> float:
    return _seconds(text, 0)


def _url(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme != "http" or not parts.hostname:
        raise argparse.ArgumentTypeError(f"{text!r} is no URL such as http://127.0.0.1:8082; only plain HTTP is spoken")
    return text.rstrip("/")
