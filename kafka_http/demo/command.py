"""`kafka-http demo`: a real Apache Kafka, a schema registry if asked for, and our server in front of it."""

import argparse
import re
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any, NamedTuple

from platformdirs import user_data_path

from kafka_http import server
from kafka_http.config import Config
from kafka_http.demo.admin import create_topics
from kafka_http.demo.embedded import EmbeddedKafka
from kafka_http.demo.errors import DemoError
from kafka_http.demo.jars import KAFKA_VERSION
from kafka_http.demo.ports import is_free
from kafka_http.demo.registry import EmbeddedRegistry
from kafka_http.demo.settings import BrokerNode

_LEGAL_TOPIC = re.compile(r"(?!\.{1,2}$)[a-zA-Z0-9._-]{1,249}")
_OF_OTHER_BROKERS = ("security_", "sasl_", "ssl_", "bootstrap_")
_OWN = {
    "bootstrap_servers": "The demo starts a Kafka of its own: use --kafka-port, or `kafka-http serve` for another.",
    "data_dir": "The demo keeps all data in one directory: use --data.",
}
"""Settings that the demo chooses itself, and what to do instead of giving them as a flag."""
_OF_ANY_REGISTRY = {"timeout", "latest_ttl", "cache_bytes", "max_schema_bytes"}


class DemoTopic(NamedTuple):
    name: str
    partitions: int


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The demo's own flags; `run` takes what they parse to."""
    parser.add_argument("--port", type=_port, metavar="PORT", help="port of the HTTP server (default: 8082)")
    parser.add_argument(
        "--kafka-port", type=_port, default=9092, metavar="PORT",
        help="port of Kafka, which uses the next one as well (default: 9092)",
    )  # fmt: skip
    parser.add_argument(
        "--data", type=Path, metavar="DIR", default=user_data_path("kafka_http") / "demo",
        help="directory that keeps all data, Kafka's in a sub-directory (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--topic", type=parse_topic, action="append", metavar="NAME[:PARTITIONS]",
        help="topic to create where there is none of that name; may be given several times (default: greetings)",
    )  # fmt: skip
    parser.add_argument(
        "--registry", action="store_true",
        help="start a schema registry as well, for avro, protobuf and jsonschema (159 MB to fetch, once)",
    )  # fmt: skip


def parse_topic(text: str) -> DemoTopic:
    name, colon, partitions = text.partition(":")
    if not _LEGAL_TOPIC.fullmatch(name):
        raise argparse.ArgumentTypeError(
            f"{name!r} is no name for a topic: that is 1 to 249 letters, digits, dots, underscores and hyphens"
        )
    if colon and not (partitions.isdecimal() and 1 <= int(partitions) <= 1000):
        raise argparse.ArgumentTypeError(f"{partitions!r} is no number of partitions: that is 1 to 1000")
    return DemoTopic(name, int(partitions) if colon else 1)


def _port(text: str) -> int:
    if not (text.isdecimal() and 1 <= int(text) <= 65534):
        raise argparse.ArgumentTypeError(f"{text!r} is no port: that is a number from 1 to 65534")
    return int(text)


def run(arguments: argparse.Namespace, config: Config) -> int:
    """Run Kafka and the server until SIGINT or SIGTERM; the exit status. `config` is what `serve` would take."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # until gunicorn takes it over
    try:
        demo = plan(arguments, config)
        with _running(demo) as started:
            ready = replace(started, topics=_create_topics(demo))
            _say(f"Starting the HTTP server: {ready.config.bind}")
            server.run(ready.config, lambda: print(welcome(ready), flush=True), reloads=False)
    except DemoError as error:
        print(f"kafka-http demo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    return 0


def _say(step: str) -> None:
    print(step, flush=True)


def _create_topics(demo: "Demo") -> list[DemoTopic]:
    """Create those that are missing. The topics as they are, whatever was asked for."""
    wanted = {topic.name: topic.partitions for topic in demo.topics}
    there = create_topics(demo.config.bootstrap_servers[0], wanted)
    for name, asked in wanted.items():
        plural = "" if there[name] == 1 else "s"
        kept = "" if there[name] == asked else f", not {asked}: it existed before and stays as it is"
        _say(f"Topic {name}: {there[name]} partition{plural}{kept}")
    return [DemoTopic(name, there[name]) for name in wanted]


@dataclass(frozen=True)
class Demo:
    """What is to run: the server's settings, the broker, the topics it starts with, whether a registry as well."""

    directory: Path
    config: Config
    node: BrokerNode
    topics: list[DemoTopic]
    with_registry: bool = False


def plan(arguments: argparse.Namespace, config: Config) -> Demo:
    """Settle ports and directories. Raises `DemoError` where they cannot be had."""
    for name, instead in _OWN.items():
        if config.sources.get(name) == "command line":
            raise DemoError(instead)
    directory: Path = arguments.data.expanduser().resolve()
    node = BrokerNode(directory / "kafka", arguments.kafka_port, arguments.kafka_port + 1)
    bind = config.bind if arguments.port is None else f"{config.bind.rpartition(':')[0]}:{arguments.port}"
    config = replace(
        for_our_broker(config),
        bind=bind,
        bootstrap_servers=(f"127.0.0.1:{node.port}",),
        data_dir=directory / "server",
    )
    _check_address(config, node)
    return Demo(directory, config, node, arguments.topic or [DemoTopic("greetings", 1)], arguments.registry)


def for_our_broker(config: Config) -> Config:
    """Without what a settings file says for other brokers, how to log in there for instance."""

    def kept(section: Mapping[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in section.items() if not name.startswith(_OF_OTHER_BROKERS)}

    sections = {name: kept(getattr(config, name)) for name in ("kafka", "producer", "consumer", "admin")}
    return replace(config, **sections)  # type: ignore[arg-type]  # mypy takes them for any field


def _check_address(config: Config, node: BrokerNode) -> None:
    if config.host != "localhost" and not _is_loopback(config.host):
        raise DemoError(f"The demo serves this machine alone, not {config.bind}: give a bind such as 127.0.0.1:8082.")
    if config.port in node.ports:
        raise DemoError(
            f"Port {config.port} cannot be both the server's and Kafka's, which uses {node.port} and "
            f"{node.controller_port}: choose others (--port, --kafka-port)."
        )
    if not is_free(config.port, config.host):
        raise DemoError(f"Port {config.port} is in use: stop what listens there, or choose another (--port).")


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


@contextmanager
def _running(demo: Demo) -> Iterator[Demo]:
    """The demo as it runs: with the address of its registry, if it has one."""
    kafka = EmbeddedKafka(demo.node, announce=True)
    registry = EmbeddedRegistry(demo.directory / "registry", announce=True)
    try:
        _say(f"Starting Apache Kafka {KAFKA_VERSION}: {kafka.bootstrap_servers}")
        kafka.launch()
        if demo.with_registry:
            _say("Starting the schema registry")
            registry.launch()
        kafka.wait_until_ready()
        _say("Apache Kafka is ready")
        if demo.with_registry:
            registry.wait_until_ready()
            _say("The schema registry is ready")
            demo = replace(demo, config=with_registry(demo.config, registry.url))
        yield demo
    finally:
        registry.stop()
        kafka.stop()


def with_registry(config: Config, url: str) -> Config:
    """With the demo's own registry: of what a settings file says of another, times and sizes stay."""
    kept = {name: value for name, value in config.schema_registry.items() if name in _OF_ANY_REGISTRY}
    return replace(config, schema_registry={**kept, "url": url})


def welcome(demo: Demo) -> str:
    """The addresses, three commands to try, and that all is ready."""
    url = f"http://{demo.config.bind}"
    topic = demo.topics[0]
    messages = f"{url}/messages/{topic.name}"
    registry = demo.config.schema_registry.get("url") if demo.with_registry else None
    partition = "?partition=0" if topic.partitions > 1 else ""  # where the third command acknowledges
    return "\n".join(
        (
            f"Apache Kafka {KAFKA_VERSION}: {demo.config.bootstrap_servers[0]}",
            f"HTTP: {url}",
            *([f"Console: {url}/console"] if demo.config.console else []),
            *([f"Schema registry: {registry}"] if registry else []),
            f"Data: {demo.directory}",
            f"Kafka's log: {demo.node.log_file}",
            "Publish, read, acknowledge:",
            f"  curl -X PUT -d hello '{messages}{partition}'",
            f"  curl '{messages}/me/committed'",
            f"  curl -X DELETE '{messages}/me/0:0'",
            f"ready: {url}",
        )
    )
