"""What is measured: a server that is there, or a Kafka and a `kafka-http serve` that live as long as the bench."""

import json
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil

from kafka_http.bench.calls import TargetServer
from kafka_http.bench.errors import BenchError
from kafka_http.bench.topics import check_kafka
from kafka_http.bench.usage import Usage
from kafka_http.config import Config
from kafka_http.config.settings import SETTINGS
from kafka_http.demo.command import for_our_broker
from kafka_http.demo.embedded import EmbeddedKafka
from kafka_http.demo.guarded import GuardedProcess
from kafka_http.demo.ports import LOOPBACK, free_ports
from kafka_http.demo.settings import BrokerNode

_START_SECONDS = 30.0
_DAEMON_SECONDS = 10.0


@dataclass(frozen=True)
class Service:
    """A server that answers. `kafka` is how to reach its brokers without it, None where nobody has said so.

    Of a server that the bench has started, `kafka` are all its settings.
    """

    url: str
    usage: Usage
    kafka: Config | None


def given(url: str, config: Config) -> Service:
    """The server at a URL. Raises `BenchError` where it does not answer."""
    TargetServer(url).status_of("/")
    return Service(url, Usage(), config if "bootstrap_servers" in config.sources else None)


@contextmanager
def started(config: Config) -> Iterator[Service]:
    """A server with these settings on a free port, and a Kafka too unless the command line names one.

    All of it is gone afterwards. Raises `BenchError`, `DemoError`.
    """
    with TemporaryDirectory(prefix="kafka_http-bench-", ignore_cleanup_errors=True) as name:
        directory = Path(name)
        if config.sources.get("bootstrap_servers") == "command line":
            check_kafka(config)
            with _server(config, directory, None) as service:
                yield service
        else:
            with _kafka(directory) as kafka:
                ours = replace(for_our_broker(config), bootstrap_servers=(kafka.bootstrap_servers,))
                with _server(ours, directory, kafka.pid) as service:
                    yield service


@contextmanager
def _kafka(directory: Path) -> Iterator[EmbeddedKafka]:
    port, controller_port = free_ports(2)
    kafka = EmbeddedKafka(BrokerNode(directory / "kafka", port, controller_port))
    try:
        kafka.start()
        yield kafka
    finally:
        kafka.stop()


@contextmanager
def _server(config: Config, directory: Path, broker: int | None) -> Iterator[Service]:
    config = replace(config, bind=f"{LOOPBACK}:{free_ports(1)[0]}", data_dir=directory / "server")
    settings = directory / "settings.toml"
    settings.touch(mode=0o600)
    settings.write_text(as_toml(config), "utf-8")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("KAFKA_HTTP_")}
    command = (sys.executable, "-m", "kafka_http", "serve", "--config", settings)
    process = GuardedProcess("The server", directory / "serve.log")
    process.start(command, environment)
    usage = Usage(process.pid, config.data_dir, broker)
    try:
        url = f"http://{config.bind}"
        _wait_until_ready(url, process)
        yield Service(url, usage, config)
    finally:
        process.stop()
        _end(list(usage.daemons()))


def as_toml(config: Config) -> str:
    """The settings that differ from the defaults, as a settings file."""
    default = Config()
    differing = {name: getattr(config, name) for name in SETTINGS if getattr(config, name) != getattr(default, name)}
    return "".join(f"{name} = {_toml(value)}\n" for name, value in differing.items())


def _toml(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{json.dumps(key)} = {_toml(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(_toml, value))}]"
    return json.dumps(str(value) if isinstance(value, Path) else value, ensure_ascii=False)


def _wait_until_ready(url: str, process: GuardedProcess) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        with suppress(BenchError):
            if TargetServer(url).status_of("/ready") == 200:
                return
        if not process.is_running or time.monotonic() > deadline:
            said = process.output().strip().splitlines() or ["it said nothing"]
            raise BenchError(f"The server does not start: {said[-1].removeprefix('kafka-http: ')}")
        time.sleep(0.05)


def _end(processes: list[psutil.Process]) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.terminate()
    for process in psutil.wait_procs(processes, _DAEMON_SECONDS)[1]:
        with suppress(psutil.NoSuchProcess):
            process.kill()
