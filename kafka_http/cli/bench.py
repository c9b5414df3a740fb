"""`kafka-http bench`: measure a server, or compare two results."""

import argparse
import re
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import fields
from itertools import product, starmap
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from kafka_http.bench.bench_result import BenchError, read_result
from kafka_http.bench.bench_server import BenchServer, running_server, started_server
from kafka_http.bench.memory_load import measure_memory
from kafka_http.bench.queue_load import MAX_LIMIT
from kafka_http.bench.result_plot import result_svg
from kafka_http.bench.result_tables import comparison_table, result_table
from kafka_http.bench.stream_costs import measure_streams
from kafka_http.bench.throughput import BenchOptions, Shape, ThroughputBench
from kafka_http.cli.setting_flags import given_settings
from kafka_http.config import Config
from kafka_http.config.settings import SETTINGS, available_cores
from kafka_http.config.sources import load_config
from kafka_http.demo.local_resources import DemoError

_THROUGHPUT = ("publish", "read", "queue")
_RECORDS, _CONNECTIONS = [1, 100, 1000], [1, 16, 64]
_QUEUE_SHAPES = [Shape(1, 32), Shape(100, 8)]
_REPORTS: Mapping[str, Callable[[BenchServer, argparse.Namespace], str]] = {
    "streams": lambda server, flags: measure_streams(
        server, flags.connections or _CONNECTIONS, flags.seconds, flags.rate
    ),
    "memory": lambda server, flags: measure_memory(server, flags.seconds),
}
"""What else the bench measures: each makes a report on one server as text."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the bench that are not settings of the server."""
    parser.add_argument("what", nargs="?", choices=(*_THROUGHPUT, *_REPORTS), help="what to measure")
    parser.add_argument("--compare", nargs=2, type=Path, metavar=("A.json", "B.json"), help="compare two results")
    parser.add_argument(
        "--url",
        type=_server,
        action="append",
        metavar="[NAME=]URL",
        help="a running server; repeat it to measure several in turn; without it, the bench starts Kafka and a server",
    )
    parser.add_argument(
        "--header",
        type=_header,
        action="append",
        default=[],
        metavar="[NAME=]HEADER: VALUE",
        help="a header of each request, such as credentials; with NAME=, only of those to the --url NAME=…; repeatable",
    )
    parser.add_argument("--dialect", choices=("messages", "v2"), default="messages", help="API (default: messages)")
    _add_load_flags(parser)
    _add_switches(parser)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the result to a file, for --compare")
    parser.add_argument("--plot", type=Path, metavar="FILE.svg", help="also draw the result as a bar chart")
    parser.set_defaults(usage_error=parser.error)


def _add_load_flags(parser: argparse.ArgumentParser) -> None:
    def add(name: str, type_: Callable[[str], object], metavar: str, default: object, help_text: str) -> None:
        parser.add_argument(name, type=type_, metavar=metavar, default=default, help=help_text)

    count = _number(int, "a whole number", 1, 100_000)
    cores = max(1, available_cores() // 2)
    add("--records", _counts, "N,…", None, "records per request or page (default: 1,100,1000; queue: 1x32,100x8)")
    add("--connections", _counts, "N,…", None, "connections at the same time (default: 1,16,64)")
    add("--shapes", _shapes, "NxN,…", None, "records by connections, in place of the two flags above: 1x64,100x16")
    add("--size", _number(int, "a number of bytes", 8, 1_000_000), "BYTES", 100, "bytes of a value (default: 100)")
    seconds = "a number of seconds"
    add("--seconds", _number(float, seconds, 0.1, 3600), "N", 10.0, "seconds that each row is measured (default: 10)")
    rounds = _number(int, "a whole number", 1, 100)
    add("--rounds", rounds, "N", 1, "measure each row N times, and show medians (default: 1)")
    add("--processes", count, "N", cores, "maximum processes of the load generator (default: half the cores)")
    add("--partitions", count, "N", 3, "partitions of the topic that the bench creates (default: 3)")
    add("--topic", str, "NAME", None, "an existing topic; without it, the bench creates one and deletes it")
    messages = _number(int, "a whole number", 0, 1_000_000_000)
    add("--messages", messages, "N", 500_000, "read, queue: messages that fill the topic first (default: 500000)")
    add("--rate", count, "N", 20, "streams: messages per second (default: 20)")


def _add_switches(parser: argparse.ArgumentParser) -> None:
    def add(name: str, help_text: str, dest: str | None = None) -> None:
        parser.add_argument(name, action="store_true", dest=dest, help=help_text)

    add("--idempotency-key", "publish: measure each row also with new keys")
    add("--respond-async", "publish: measure each row also with Prefer: respond-async (202)")
    add("--share-consumer", "queue: also measure a ShareConsumer of confluent-kafka alone")
    add("--later", argparse.SUPPRESS, dest="respond_async")  # the name in 1.0


def run(arguments: argparse.Namespace) -> int:
    """Measure or compare, and print the result. Return the exit status. Raises `ConfigError`."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    _check_usage(arguments)
    try:
        if arguments.compare is not None:
            print(comparison_table(*map(read_result, arguments.compare)))
        elif arguments.what in _REPORTS:
            with _servers(arguments, load_config(given_settings(arguments))) as (server,):
                print(_REPORTS[arguments.what](server, arguments))
        else:
            _measure_throughput(arguments, load_config(given_settings(arguments)))
    except (BenchError, DemoError) as error:
        print(f"kafka-http bench: {error}", file=sys.stderr)
        return 1
    return 0


def _check_usage(arguments: argparse.Namespace) -> None:
    what = arguments.what
    if arguments.compare is None and what is None:
        *others, last = (*_THROUGHPUT, *_REPORTS)
        arguments.usage_error(f"choose what to measure ({', '.join(others)} or {last}), or use --compare")
    urls, most = ("several --url", 1) if what == "memory" else ("--url", 0)
    if what in _REPORTS and (len(arguments.url or ()) > most or arguments.json or arguments.plot):
        arguments.usage_error(f"{urls}, --json and --plot cannot be used with {what}")
    pages = [*(arguments.records or ()), *(shape.records for shape in arguments.shapes or ())]
    if what == "queue" and (arguments.dialect != "messages" or max(pages, default=0) > MAX_LIMIT):
        arguments.usage_error(f"queues have pages of up to {MAX_LIMIT} messages, and no --dialect v2")
    names = [server.name for server in arguments.url or ()]
    if len(set(names)) < len(names):
        arguments.usage_error("several servers need different names: --url a=http://… --url b=http://…")
    if unknown := {each.server for each in arguments.header} - {"", *names}:
        arguments.usage_error(f"--header names {sorted(unknown)[0]}, which no --url has")


def _measure_throughput(arguments: argparse.Namespace, config: Config) -> None:
    _check_writable(arguments.json)
    _check_writable(arguments.plot)
    arguments.shapes = arguments.shapes or default_shapes(arguments)
    options = BenchOptions(**{field.name: getattr(arguments, field.name) for field in fields(BenchOptions)})
    with _servers(arguments, config) as servers:
        bench = ThroughputBench(options, servers)
        result = bench.run(_given_values(config))
    if arguments.json:
        result.write(arguments.json)
    if arguments.plot:
        arguments.plot.write_text(result_svg(result), "utf-8")
    print(result_table(result))
    for line in [*bench.notes, *(f"error: {each}" for each in bench.errors)]:
        print(line)


def default_shapes(arguments: argparse.Namespace) -> list[Shape]:
    """The shapes without --shapes: all combinations of --records and --connections, or those for queues."""
    if arguments.what == "queue" and not (arguments.records or arguments.connections):
        return _QUEUE_SHAPES
    records = arguments.records or [each for each in _RECORDS if arguments.what != "queue" or each <= MAX_LIMIT]
    return list(starmap(Shape, product(records, arguments.connections or _CONNECTIONS)))


@contextmanager
def _servers(arguments: argparse.Namespace, config: Config) -> Iterator[list[BenchServer]]:
    if arguments.url:
        yield [
            running_server(each.url, config, each.name, headers_for(each.name, arguments.header))
            for each in arguments.url
        ]
    else:
        with started_server(config, headers_for("", arguments.header)) as server:
            yield [server]


def headers_for(server: str, given: list["_Header"]) -> dict[str, str]:
    """The headers for a server: those without a name of a server, and its own."""
    return {each.name: each.value for each in given if each.server in ("", server)}


def _check_writable(file: Path | None) -> None:
    """Raise `BenchError` before the bench, not after it."""
    try:
        if file is not None:
            file.touch()
    except OSError as error:
        raise BenchError(f"{file} cannot be written: {error.strerror}.") from None


def _given_values(config: Config) -> dict[str, str]:
    """The settings that were given, without sections, which may hold secrets."""
    return {name: str(getattr(config, name)) for name in sorted(config.sources) if name in SETTINGS}


def _number(type_: Callable[[str], float], kind: str, minimum: float, maximum: float) -> Callable[[str], float]:
    """A parser of numbers from `minimum` to `maximum`. `kind` is what messages call them."""

    def parse(text: str) -> float:
        with suppress(ValueError):
            if minimum <= (number := type_(text)) <= maximum:
                return number
        raise argparse.ArgumentTypeError(f"{text!r} is not {kind} from {minimum} to {maximum}")

    return parse


def _counts(text: str) -> list[float]:
    parse = _number(int, "a whole number", 1, 100_000)
    try:
        return [parse(each) for each in text.split(",")]
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of whole numbers from 1, such as 1,16,64") from None


def _shapes(text: str) -> list[Shape]:
    parse = _number(int, "a whole number", 1, 100_000)
    try:
        pairs = [each.split("x") for each in text.split(",")]
        return [Shape(int(parse(records)), int(parse(connections))) for records, connections in pairs]
    except (argparse.ArgumentTypeError, ValueError):
        message = f"{text!r} is not a list of records by connections, such as 1x64,100x16"
        raise argparse.ArgumentTypeError(message) from None


class _RunningServer(NamedTuple):
    """A server that the user named: `NAME=URL`, or only the URL."""

    name: str
    url: str


def _server(text: str) -> _RunningServer:
    before, equals, after = text.partition("=")
    name, url = (before, after) if equals and "/" not in before else ("", text)
    parts = urlsplit(url)
    if parts.scheme != "http" or not parts.hostname:
        raise argparse.ArgumentTypeError(f"{text!r} is not a URL such as http://127.0.0.1:8082; https is not supported")
    return _RunningServer(name, url.rstrip("/"))


class _Header(NamedTuple):
    """A header for the server of a name: `NAME=HEADER: VALUE`, or without `NAME=` for all servers."""

    server: str
    name: str
    value: str


_HEADER = re.compile(r"(?:([^=:]*)=)?([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([!-~][ -~]*)")


def _header(text: str) -> _Header:
    found = _HEADER.fullmatch(text)
    if found is None:
        raise argparse.ArgumentTypeError("a header must be like 'X-Api-Key: kh_…', or 'NAME=X-Api-Key: kh_…'")
    return _Header(found[1] or "", found[2], found[3].rstrip())
