"""The server and the Kafka that are measured: running ones, or ones that the bench starts."""

import json
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import uuid4

import psutil
from kafka import KafkaAdminClient
from kafka.errors import KafkaError

from kafka_http.bench.bench_result import BenchError
from kafka_http.bench.process_usage import ProcessUsage, daemons, local_usage, server_processes
from kafka_http.bench.target_server import V2_JSON, TargetServer
from kafka_http.config import Config
from kafka_http.config.settings import SETTINGS
from kafka_http.demo.broker_properties import BrokerNode
from kafka_http.demo.embedded_kafka import EmbeddedKafka, without_connection_settings
from kafka_http.demo.guarded_process import GuardedProcess
from kafka_http.demo.local_resources import LOOPBACK, free_ports

_PREFIX = "kafka_http-bench-"
_CREATE_MS = 30_000
_BOOTSTRAP_MS = 5000
_TOPIC_CONFIGS = {"file.delete.delay.ms": "1000"}  # frees the disk soon after the topic is deleted
_START_SECONDS = 30.0
_DAEMON_SECONDS = 10.0


@dataclass(frozen=True)
class BenchServer:
    """A server that answers. `config` says how to reach its Kafka; None if that is not known.

    `usage` is None if the server runs on another machine or for another user. `name` is empty if it is the only server.
    """

    target: TargetServer
    usage: ProcessUsage | None
    config: Config | None
    name: str = ""

    def kafka_usage(self) -> ProcessUsage | None:
        """The usage of the first broker; None if it is not known, or does not run here."""
        if self.config is None:
            return None
        host, _, port = self.config.bootstrap_servers[0].rpartition(":")
        return local_usage(host, int(port))

    @contextmanager
    def temporary_topic(self, partitions: int) -> Iterator[str]:
        """Create a topic, yield its name, and delete it afterwards. Raises `BenchError`.

        If it is not known how to reach Kafka, the server creates the topic, and the topic stays.
        """
        name = f"bench-{uuid4().hex[:12]}"
        if self.config is None:
            self._create_by_publish(name)
            yield name
            return
        with _admin_client(self.config) as admin:
            try:
                _create_topic(admin, name, partitions)
                yield name
            finally:
                with suppress(KafkaError):
                    admin.delete_topics([name])

    def _create_by_publish(self, topic: str) -> None:
        """Publish with the v2 API, which other servers have, too."""
        try:
            self.target.call("POST", f"/topics/{topic}", {"records": [{"value": "first"}]}, content_type=V2_JSON)
        except BenchError as error:
            raise BenchError(
                "The server did not create a topic. Name an existing one with --topic, or use --bootstrap-servers, so "
                f"that the bench can create one. {error}"
            ) from None


def running_server(url: str, config: Config, name: str = "", headers: Mapping[str, str] | None = None) -> BenchServer:
    """Connect to a running server. `headers` are sent with each request. Raises `BenchError` without an answer."""
    target = TargetServer(url, headers)
    target.status_of("/")
    known = config if "bootstrap_servers" in config.sources else None
    return BenchServer(target, local_usage(target.host, target.port), known, name)


@contextmanager
def started_server(config: Config, headers: Mapping[str, str] | None = None) -> Iterator[BenchServer]:
    """Start a server with these settings, and a Kafka unless a flag names one. Stop both afterwards.

    `headers` are sent with each request. Raises `BenchError`, `DemoError`.
    """
    with ExitStack() as stack:
        directory = Path(stack.enter_context(TemporaryDirectory(prefix=_PREFIX, ignore_cleanup_errors=True)))
        if config.sources.get("bootstrap_servers") == "command line":
            with _admin_client(config):
                pass  # raises if no broker answers
        else:
            port, controller_port = free_ports(2)
            kafka = EmbeddedKafka(BrokerNode(directory / "kafka", port, controller_port))
            stack.callback(kafka.stop)
            kafka.start()
            config = replace(without_connection_settings(config), bootstrap_servers=(kafka.bootstrap_servers,))
        yield stack.enter_context(_server(config, directory, headers or {}))


@contextmanager
def _server(config: Config, directory: Path, headers: Mapping[str, str]) -> Iterator[BenchServer]:
    config = replace(config, bind=f"{LOOPBACK}:{free_ports(1)[0]}", data_dir=directory / "server")
    settings = directory / "settings.toml"
    settings.touch(mode=0o600)  # it may hold passwords
    settings.write_text(to_toml(config), "utf-8")
    # The environment would override the file, which has all settings.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("KAFKA_HTTP_")}
    process = GuardedProcess("The server", directory / "serve.log")
    process.start((sys.executable, "-m", "kafka_http", "serve", "--config", settings), environment)
    usage = ProcessUsage(lambda: server_processes(process.pid or 0, config.data_dir))
    try:
        target = TargetServer(f"http://{config.bind}", headers)
        _wait_until_ready(target, process)
        yield BenchServer(target, usage, config)
    finally:
        process.stop()
        running = list(daemons(config.data_dir))  # they would run 10 s longer than the server
        for daemon in running:
            with suppress(psutil.NoSuchProcess):
                daemon.terminate()
        psutil.wait_procs(running, _DAEMON_SECONDS)


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


def _wait_until_ready(target: TargetServer, process: GuardedProcess) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        with suppress(BenchError):
            if target.status_of("/ready") == 200:
                return
        if not process.is_running or time.monotonic() > deadline:
            output = process.output().strip().splitlines() or ["no output"]
            raise BenchError(f"The server did not start: {output[-1].removeprefix('kafka-http: ')}")
        time.sleep(0.05)


@contextmanager
def _admin_client(config: Config) -> Iterator[KafkaAdminClient]:
    given = {**config.kafka, **config.admin}
    settings = {name: value for name, value in given.items() if name in KafkaAdminClient.DEFAULT_CONFIG}
    if "api_version" in settings:
        settings["api_version"] = tuple(settings["api_version"])
    settings = {"request_timeout_ms": _CREATE_MS, "bootstrap_timeout_ms": _BOOTSTRAP_MS, **settings}
    try:
        admin = KafkaAdminClient(bootstrap_servers=list(config.bootstrap_servers), **settings)
    except KafkaError as error:
        raise BenchError(f"Kafka at {','.join(config.bootstrap_servers)} does not answer: {error}") from None
    with closing(admin):
        yield admin


def _create_topic(admin: KafkaAdminClient, name: str, partitions: int) -> None:
    try:
        admin.create_topics({name: {"num_partitions": partitions, "configs": _TOPIC_CONFIGS}})
        admin.wait_for_topics([name], _CREATE_MS)
    except KafkaError as error:
        raise BenchError(f"Kafka did not create a topic for the bench: {error}.") from None
