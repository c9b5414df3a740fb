"""`kafka-http bench`: measure a server, or compare two results."""

import argparse
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from urllib.parse import urlsplit

from kafka_http.bench.bench_result import BenchError, read_result
from kafka_http.bench.bench_server import BenchServer, running_server, started_server
from kafka_http.bench.memory_costs import measure_memory
from kafka_http.bench.result_tables import comparison_table, result_table
from kafka_http.bench.stream_costs import measure_streams
from kafka_http.bench.throughput import BenchOptions, ThroughputBench
from kafka_http.cli.setting_flags import given_settings
from kafka_http.config import Config
from kafka_http.config.settings import SETTINGS, available_cores
from kafka_http.config.sources import load_config
from kafka_http.demo.local_resources import DemoError

_MINIMUM_SIZE = 8


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the bench that are not settings of the server."""

    def add(name: str, type_: Callable[[str], object], metavar: str, default: object, help_text: str) -> None:
        parser.add_argument(name, type=type_, metavar=metavar, default=default, help=help_text)

    parser.add_argument("what", nargs="?", choices=("publish", "read", "streams", "memory"), help="what to measure")
    parser.add_argument("--compare", nargs=2, type=Path, metavar=("A.json", "B.json"), help="compare two results")
    add("--url", _url, "URL", None, "a running server; without it, the bench starts Kafka and a server")
    parser.add_argument("--dialect", choices=("messages", "v2"), default="messages", help="API (default: messages)")
    add("--records", _counts, "N,…", [1, 100, 1000], "records per request or page (default: 1,100,1000)")
    add("--connections", _counts, "N,…", [1, 16, 64], "connections at the same time (default: 1,16,64)")
    add("--size", _size, "BYTES", 100, "bytes of a value (default: 100)")
    add("--seconds", _seconds, "N", 10.0, "seconds that each row is measured (default: 10)")
    add("--warmup", _warmup, "N", 1.0, "seconds before that, which do not count (default: 1)")
    cores = max(1, available_cores() // 2)
    add("--processes", _count, "N", cores, "maximum processes of the load generator (default: half the cores)")
    add("--partitions", _count, "N", 3, "partitions of the topic that the bench creates (default: 3)")
    add("--topic", str, "NAME", None, "an existing topic; without it, the bench creates one and deletes it")
    add("--messages", _number, "N", 200_000, "read: messages that fill the topic first (default: 200000)")
    add("--batch", _count, "N", 100, "read: messages that are published together, as one batch (default: 100)")
    parser.add_argument(
        "--later", action="store_true", help="publish: measure each row also with Prefer: respond-async (202)"
    )
    add("--json", Path, "FILE", None, "also write the result to a file, for --compare")
    parser.set_defaults(usage_error=parser.error)


def run(arguments: argparse.Namespace) -> int:
    """Measure or compare, and print the result. Return the exit status. Raises `ConfigError`."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    _check_usage(arguments)
    try:
        if arguments.compare is not None:
            print(comparison_table(*map(read_result, arguments.compare)))
        else:
            _measure(arguments, load_config(given_settings(arguments)))
    except (BenchError, DemoError) as error:
        print(f"kafka-http bench: {error}", file=sys.stderr)
        return 1
    return 0


def _check_usage(arguments: argparse.Namespace) -> None:
    if arguments.compare is None and arguments.what is None:
        arguments.usage_error("choose what to measure (publish, read, streams or memory), or use --compare")
    if arguments.what in {"memory", "streams"} and (arguments.url is not None or arguments.json is not None):
        arguments.usage_error(f"--url and --json cannot be used with {arguments.what}")


def _measure(arguments: argparse.Namespace, config: Config) -> None:
    if arguments.what == "memory":
        with started_server(config) as server:
            print(measure_memory(server, arguments.seconds, arguments.size, arguments.partitions))
    elif arguments.what == "streams":
        with started_server(config) as server:
            print(measure_streams(server, arguments.connections, arguments.seconds))
    else:
        _measure_throughput(arguments, config)


def _measure_throughput(arguments: argparse.Namespace, config: Config) -> None:
    _check_writable(arguments.json)
    options = BenchOptions(**{field.name: getattr(arguments, field.name) for field in fields(BenchOptions)})
    with _server(arguments.url, config) as server:
        bench = ThroughputBench(options, server, _given_values(config), _print_step)
        result = bench.run()
    if arguments.json:
        result.write(arguments.json)
    print(result_table(result))
    for error in bench.errors:
        print(f"error: {error}")


def _print_step(step: str) -> None:
    if sys.stderr.isatty():
        print(step, file=sys.stderr)


def _check_writable(file: Path | None) -> None:
    """Raise `BenchError` before the bench, not after it."""
    try:
        if file is not None:
            file.touch()
    except OSError as error:
        raise BenchError(f"{file} cannot be written: {error.strerror}.") from None


def _given_values(config: Config) -> dict[str, str]:
    """The settings that were given, without sections, which may hold secrets."""
    given = sorted(name for name in config.sources if name in SETTINGS)
    return {name: str(getattr(config, name)) for name in given}


@contextmanager
def _server(url: str | None, config: Config) -> Iterator[BenchServer]:
    if url is not None:
        yield running_server(url, config)
    else:
        with started_server(config) as server:
            yield server


def _counts(text: str) -> list[int]:
    try:
        return [_count(each) for each in text.split(",")]
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of whole numbers from 1, such as 1,16,64") from None


def _count(text: str) -> int:
    return _whole_number(text, 1, 100_000, "a whole number")


def _number(text: str) -> int:
    return _whole_number(text, 0, sys.maxsize, "a whole number")


def _size(text: str) -> int:
    return _whole_number(text, _MINIMUM_SIZE, 1_000_000, "a number of bytes")


def _whole_number(text: str, minimum: int, maximum: int, kind: str) -> int:
    if not (text.isdecimal() and minimum <= int(text) <= maximum):
        raise argparse.ArgumentTypeError(f"{text!r} is not {kind} from {minimum} to {maximum}")
    return int(text)


def _seconds(text: str, minimum: float = 0.1) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not minimum <= seconds <= 3600:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds from {minimum:g} to 3600")
    return seconds


def _warmup(text: str) -> float:
    return _seconds(text, 0)


def _url(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme != "http" or not parts.hostname:
        raise argparse.ArgumentTypeError(f"{text!r} is not a URL such as http://127.0.0.1:8082; https is not supported")
    return text.rstrip("/")
