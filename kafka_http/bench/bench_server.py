"""The server and the Kafka that are measured: running ones, or ones that the bench starts."""

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
from uuid import uuid4

import psutil
from kafka import KafkaAdminClient
from kafka.errors import KafkaError

from kafka_http.bench.bench_result import BenchError
from kafka_http.bench.process_usage import ProcessUsage
from kafka_http.bench.target_server import TargetServer
from kafka_http.config import Config
from kafka_http.config.settings import SETTINGS
from kafka_http.demo.broker_properties import BrokerNode
from kafka_http.demo.embedded_kafka import EmbeddedKafka, without_connection_settings
from kafka_http.demo.guarded_process import GuardedProcess
from kafka_http.demo.local_resources import LOOPBACK, free_ports

_CREATE_MS = 30_000
_BOOTSTRAP_MS = 5000
_TOPIC_CONFIGS = {"file.delete.delay.ms": "1000"}  # frees the disk soon after the topic is deleted
_START_SECONDS = 30.0
_DAEMON_SECONDS = 10.0


@dataclass(frozen=True)
class BenchServer:
    """A server that answers at `url`.

    `config` says how to reach its Kafka; None if that is not known. For a server that the bench started, it has all
    settings.
    """

    url: str
    usage: ProcessUsage
    config: Config | None

    @property
    def started_config(self) -> Config:
        """The settings of a server that the bench started."""
        assert self.config is not None  # noqa: S101  for the type checker
        return self.config


def running_server(url: str, config: Config) -> BenchServer:
    """Connect to a running server. Raises `BenchError` if it does not answer."""
    TargetServer(url).status_of("/")
    return BenchServer(url, ProcessUsage(), config if "bootstrap_servers" in config.sources else None)


@contextmanager
def started_server(config: Config) -> Iterator[BenchServer]:
    """Start a server with these settings, and a Kafka unless a flag names one. Stop both afterwards.

    Raises `BenchError`, `DemoError`.
    """
    with TemporaryDirectory(prefix="kafka_http-bench-", ignore_cleanup_errors=True) as name:
        directory = Path(name)
        if config.sources.get("bootstrap_servers") == "command line":
            _check_kafka(config)
            with _server(config, directory, None) as server:
                yield server
        else:
            with _kafka(directory) as kafka:
                config = replace(without_connection_settings(config), bootstrap_servers=(kafka.bootstrap_servers,))
                with _server(config, directory, kafka.pid) as server:
                    yield server


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
def _server(config: Config, directory: Path, broker: int | None) -> Iterator[BenchServer]:
    config = replace(config, bind=f"{LOOPBACK}:{free_ports(1)[0]}", data_dir=directory / "server")
    settings = directory / "settings.toml"
    settings.touch(mode=0o600)  # it may hold passwords
    settings.write_text(to_toml(config), "utf-8")
    # The environment would override the file, which has all settings.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("KAFKA_HTTP_")}
    process = GuardedProcess("The server", directory / "serve.log")
    process.start((sys.executable, "-m", "kafka_http", "serve", "--config", settings), environment)
    usage = ProcessUsage(process.pid, config.data_dir, broker)
    try:
        url = f"http://{config.bind}"
        _wait_until_ready(url, process)
        yield BenchServer(url, usage, config)
    finally:
        process.stop()
        _stop_processes(list(usage.daemons()))  # the daemon would run 10 s longer than the server


def to_toml(config: Config) -> str:
    """The settings that differ from the defaults, as a settings file."""
    default = Config()
    changed = {name: getattr(config, name) for name in SETTINGS if getattr(config, name) != getattr(default, name)}
    return "".join(f"{name} = {_toml_value(value)}\n" for name, value in changed.items())


def _toml_value(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{json.dumps(key)} = {_toml_value(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(_toml_value, value))}]"
    return json.dumps(str(value) if isinstance(value, Path) else value, ensure_ascii=False)


def _wait_until_ready(url: str, process: GuardedProcess) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        with suppress(BenchError):
            if TargetServer(url).status_of("/ready") == 200:
                return
        if not process.is_running or time.monotonic() > deadline:
            output = process.output().strip().splitlines() or ["no output"]
            raise BenchError(f"The server did not start: {output[-1].removeprefix('kafka-http: ')}")
        time.sleep(0.05)


def _stop_processes(processes: list[psutil.Process]) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.terminate()
    for process in psutil.wait_procs(processes, _DAEMON_SECONDS)[1]:
        with suppress(psutil.NoSuchProcess):
            process.kill()


def new_topic_name() -> str:
    """A name that no topic has."""
    return f"bench-{uuid4().hex[:12]}"


@contextmanager
def temporary_topic(config: Config, partitions: int) -> Iterator[str]:
    """Create a topic and delete it afterwards. Yields its name. Raises `BenchError`."""
    name = new_topic_name()
    with _admin_client(config) as admin:
        try:
            _create_topic(admin, name, partitions)
            yield name
        finally:
            with suppress(KafkaError):
                admin.delete_topics([name])


def _check_kafka(config: Config) -> None:
    """Connect to Kafka once. Raises `BenchError` if no broker answers."""
    with _admin_client(config):
        pass


@contextmanager
def _admin_client(config: Config) -> Iterator[KafkaAdminClient]:
    timeouts = {"request_timeout_ms": _CREATE_MS, "bootstrap_timeout_ms": _BOOTSTRAP_MS}
    try:
        admin = KafkaAdminClient(**timeouts | client_settings(config, "admin", KafkaAdminClient.DEFAULT_CONFIG))
    except KafkaError as error:
        raise BenchError(f"Kafka at {','.join(config.bootstrap_servers)} does not answer: {error}") from None
    try:
        yield admin
    finally:
        admin.close()


def _create_topic(admin: KafkaAdminClient, name: str, partitions: int) -> None:
    try:
        admin.create_topics({name: {"num_partitions": partitions, "configs": _TOPIC_CONFIGS}})
        admin.wait_for_topics([name], _CREATE_MS)
    except KafkaError as error:
        raise BenchError(f"Kafka did not create a topic for the bench: {error}.") from None


def client_settings(config: Config, section: str, known: Mapping[str, Any]) -> dict[str, Any]:
    """The server's settings for a client of kafka-python, without those that are not `known` to the client."""
    given = {**config.kafka, **getattr(config, section)}
    settings = {name: value for name, value in given.items() if name in known}
    if "api_version" in settings:
        settings["api_version"] = tuple(settings["api_version"])
    return {"bootstrap_servers": list(config.bootstrap_servers), **settings}
