"""`kafka-http demo`: a real Apache Kafka, on request a schema registry, and the server in front of them."""

import argparse
import re
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

from platformdirs import user_data_path

from kafka_http import server
from kafka_http.cli.setting_flags import given_settings
from kafka_http.config import Config
from kafka_http.config.settings import is_loopback
from kafka_http.config.sources import load_config
from kafka_http.demo.broker_properties import BrokerNode
from kafka_http.demo.embedded_kafka import EmbeddedKafka, create_topics, without_connection_settings
from kafka_http.demo.embedded_registry import EmbeddedRegistry
from kafka_http.demo.kafka_jars import KAFKA_VERSION
from kafka_http.demo.local_resources import DemoError, is_free
from kafka_http.node.data_directory import DataDirectory

_DEFAULTS = {"auto_create_topics": True, "topic_admin": True, "access_log": True, "console": True}
_DAEMON_STOP_SECONDS = 10.0
_TOPIC_NAME = re.compile(r"(?!\.{1,2}$)[a-zA-Z0-9._-]{1,249}")
_NOT_ALLOWED = {
    "bootstrap_servers": "The demo starts its own Kafka. Use --kafka-port, or `kafka-http serve` for another Kafka.",
    "data_dir": "The demo keeps all data in one directory. Use --data.",
}
"""Settings that the demo does not take as flags, and what to use instead."""

_REGISTRY_LIMITS = {"timeout", "latest_ttl", "cache_bytes", "max_schema_bytes"}
"""Settings that apply to the demo's registry even if the settings file is for another one."""


class DemoTopic(NamedTuple):
    """A topic that the demo creates."""

    name: str
    partitions: int


@dataclass(frozen=True)
class DemoPlan:
    """What the demo runs: a broker and a server with these settings, and a registry if `with_registry`."""

    directory: Path
    config: Config
    node: BrokerNode
    topics: list[DemoTopic]
    with_registry: bool = False


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the demo that are not settings."""
    parser.add_argument("--port", type=_port, metavar="PORT", help="port of the HTTP server (default: 8082)")
    parser.add_argument(
        "--kafka-port",
        type=_port,
        default=9092,
        metavar="PORT",
        help="port of Kafka, which also uses the next port (default: 9092)",
    )
    parser.add_argument(
        "--data",
        type=Path,
        metavar="DIR",
        default=user_data_path("kafka_http") / "demo",
        help="directory for all data (default: %(default)s)",
    )
    parser.add_argument(
        "--topic",
        type=_topic,
        action="append",
        metavar="NAME[:PARTITIONS]",
        help="topic to create if it does not exist; can be repeated (default: greetings)",
    )
    parser.add_argument(
        "--registry",
        action="store_true",
        help="also start a schema registry for avro, protobuf and jsonschema (a download of 159 MB, once)",
    )


def _topic(text: str) -> DemoTopic:
    name, colon, partitions = text.partition(":")
    if not _TOPIC_NAME.fullmatch(name):
        raise argparse.ArgumentTypeError(
            f"{name!r} is not a topic name. Use 1 to 249 letters, digits, dots, underscores and hyphens"
        )
    if colon and not (partitions.isdecimal() and 1 <= int(partitions) <= 1000):
        raise argparse.ArgumentTypeError(f"{partitions!r} is not a number of partitions from 1 to 1000")
    return DemoTopic(name, int(partitions) if colon else 1)


def _port(text: str) -> int:
    if not (text.isdecimal() and 1 <= int(text) <= 65534):
        raise argparse.ArgumentTypeError(f"{text!r} is not a port from 1 to 65534")
    return int(text)


def run(arguments: argparse.Namespace) -> int:
    """Run Kafka and the server until SIGINT or SIGTERM. Return the exit status. Raises `ConfigError`."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # until gunicorn handles it
    try:
        plan = make_plan(arguments, load_config(given_settings(arguments), defaults=_DEFAULTS))
        with _running(plan) as ready:
            _print_step(f"Starting the HTTP server: {ready.config.bind}")
            server.run(ready.config, partial(_print_welcome, ready, time.monotonic()), reloads=False)
    except DemoError as error:
        print(f"kafka-http demo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    return 0


def make_plan(arguments: argparse.Namespace, config: Config) -> DemoPlan:
    """Choose ports and directories. Raises `DemoError` if a port or an address cannot be used."""
    for name, instead in _NOT_ALLOWED.items():
        if config.sources.get(name) == "command line":
            raise DemoError(instead)
    directory: Path = arguments.data.expanduser().resolve()
    node = BrokerNode(
        directory / "kafka",
        arguments.kafka_port,
        arguments.kafka_port + 1,
        authorizes=config.access_rules == "kafka",
    )
    bind = config.bind if arguments.port is None else f"{config.bind.rpartition(':')[0]}:{arguments.port}"
    config = replace(
        without_connection_settings(config),
        bind=bind,
        bootstrap_servers=(f"127.0.0.1:{node.port}",),
        data_dir=directory / "server",
    )
    _check_address(config, node)
    return DemoPlan(directory, config, node, arguments.topic or [DemoTopic("greetings", 1)], arguments.registry)


def _check_address(config: Config, node: BrokerNode) -> None:
    if not is_loopback(config.host):
        raise DemoError(
            f"The demo serves only this machine, so it cannot use {config.bind}. Use --bind 127.0.0.1:8082."
        )
    if config.port in node.ports:
        raise DemoError(
            f"Port {config.port} cannot be used by both the server and Kafka, which uses {node.port} and "
            f"{node.controller_port}. Choose other ports with --port or --kafka-port."
        )
    if not is_free(config.port, config.host):
        raise DemoError(f"Port {config.port} is in use. Stop the other program, or choose another port with --port.")


@contextmanager
def _running(plan: DemoPlan) -> Iterator[DemoPlan]:
    """Run Kafka and the registry. Yield the plan with the registry's address and the topics as they are."""
    kafka = EmbeddedKafka(plan.node, announce=True)
    registry = EmbeddedRegistry(plan.directory / "registry", announce=True)
    try:
        began = time.monotonic()
        _print_step(f"Starting Apache Kafka {KAFKA_VERSION}: {kafka.bootstrap_servers}")
        kafka.launch()
        registry_began = time.monotonic()
        if plan.with_registry:
            _print_step("Starting the schema registry")
            registry.launch()
        kafka.wait_until_ready()
        _print_step("Apache Kafka is ready", began)
        if plan.with_registry:
            registry.wait_until_ready()
            _print_step("The schema registry is ready", registry_began)
            plan = replace(plan, config=use_registry(plan.config, registry.url))
        yield replace(plan, topics=_create_topics(plan))
    finally:
        # Before Kafka: the daemon would wait for workers, and its consumer instances would log errors meanwhile.
        DataDirectory(plan.config.data_dir).stop_daemon(_DAEMON_STOP_SECONDS)
        registry.stop()
        kafka.stop()


def use_registry(config: Config, url: str) -> Config:
    """Use the registry at this URL, with the limits of the settings but without the login for another registry."""
    limits = {name: value for name, value in config.schema_registry.items() if name in _REGISTRY_LIMITS}
    return replace(config, schema_registry={**limits, "url": url})


def _create_topics(plan: DemoPlan) -> list[DemoTopic]:
    """Create the missing topics. Return all of them with their real numbers of partitions."""
    began = time.monotonic()
    requested = {topic.name: topic.partitions for topic in plan.topics}
    existing = create_topics(plan.config.bootstrap_servers[0], requested)
    for name, count in requested.items():
        plural = "" if existing[name] == 1 else "s"
        note = "" if existing[name] == count else f" (not {count}: it existed before and was not changed)"
        _print_step(f"Topic {name}: {existing[name]} partition{plural}{note}")
    _print_step("Topics are ready", began)
    return [DemoTopic(name, existing[name]) for name in requested]


def _print_step(step: str, began: float | None = None) -> None:
    """Print a step, with its duration if it began at a time (monotonic clock) and is complete."""
    print(step if began is None else f"{step} ({time.monotonic() - began:.1f} s)", flush=True)


def _print_welcome(plan: DemoPlan, began: float) -> None:
    _print_step("The HTTP server is ready", began)
    print(_welcome(plan), flush=True)


def _welcome(plan: DemoPlan) -> str:
    """The addresses and three commands to try. The last line says that the demo is ready."""
    url = f"{'https' if plan.config.tls_cert else 'http'}://{plan.config.bind}"
    topic = plan.topics[0]
    messages = f"{url}/messages/{topic.name}"
    registry = plan.config.schema_registry.get("url") if plan.with_registry else None
    partition = "?partition=0" if topic.partitions > 1 else ""  # the third command acknowledges partition 0
    return "\n".join(
        (
            f"Apache Kafka {KAFKA_VERSION}: {plan.config.bootstrap_servers[0]}",
            f"HTTP: {url}",
            *([f"Console: {url}/console"] if plan.config.console else []),
            *([f"Schema registry: {registry}"] if registry else []),
            f"Data: {plan.directory}",
            f"Kafka's log: {plan.node.log_file}",
            "Publish, read, acknowledge:",
            f"  curl -X PUT -d hello '{messages}{partition}'",
            f"  curl '{messages}/me/committed'",
            f"  curl -X DELETE '{messages}/me/0:0'",
            f"ready: {url}",
        )
    )
