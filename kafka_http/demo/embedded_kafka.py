"""A real Apache Kafka broker in a child process, for the demo, the bench and the tests."""

import os
import re
import secrets
import shutil
import string
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from kafka.admin import KafkaAdminClient
from kafka.errors import KafkaError, NoError, RetriableError, TopicAlreadyExistsError

from kafka_http.config import Config
from kafka_http.demo.broker_properties import JAVA_FLAGS, LOG4J_PROPERTIES, BrokerNode, server_properties
from kafka_http.demo.guarded_process import GuardedProcess, GuardedServer
from kafka_http.demo.kafka_jars import KAFKA_VERSION, kafka_jars
from kafka_http.demo.local_resources import (
    LOOPBACK,
    DemoError,
    find_java,
    is_free,
    is_listening,
    lock_directory,
)

_START_SECONDS = 60.0
_CREATE_TOPICS_MS = 60_000
_VERSION_FILE = "kafka-version"
_NOT_FORMATTED = ""
_CONNECTION_SETTINGS = ("security_", "sasl_", "ssl_", "bootstrap_")
_LOCALE = {"LC_ALL": "C.UTF-8"}
"""In the locale C, Java cannot open files whose names are not ASCII."""


class EmbeddedKafka(GuardedServer):
    """One broker with its files in one directory, which survive stops, kills and starts.

    The broker ends when this process ends, even by kill -9. With `announce`, a message on stderr says if the broker
    ends unexpectedly. Not thread-safe. Every method raises `DemoError`.
    """

    def __init__(self, node: BrokerNode, *, cluster_id: str | None = None, announce: bool = False) -> None:
        super().__init__(GuardedProcess("Kafka", node.log_file))
        self.node = node
        self.bootstrap_servers = f"{LOOPBACK}:{node.port}"
        self._cluster_id = cluster_id or new_cluster_id()
        self._announce = announce

    @property
    def sasl_bootstrap_servers(self) -> str:
        """The address of the listener that requires SASL/PLAIN."""
        return f"{LOOPBACK}:{self.node.sasl_port}"

    def launch(self) -> None:
        """Start the broker without waiting. Downloads Kafka and formats the directory if that was not done before."""
        lock = _lock_kafka_directory(self.node.directory)
        try:
            self._process.wait()  # the lock was free, so the previous process is ending
            self._check_ports()
            java = find_java()
            environment = os.environ | {"CLASSPATH": os.pathsep.join(map(str, kafka_jars())), **_LOCALE}
            _write_files(self.node, java, environment, self._cluster_id)
            logging = f"-Dlog4j2.configurationFile={self.node.logging_file.as_uri()}"
            command = (java, *JAVA_FLAGS, logging, "kafka.Kafka", self.node.properties_file)
            self._process.start(command, environment, pass_fds=[lock])
        finally:
            os.close(lock)  # the guard has inherited it

    def wait_until_ready(self, brokers: int = 1) -> None:
        """Wait until the broker answers and knows `brokers` brokers, itself included. If it fails, stop it."""
        deadline = time.monotonic() + _START_SECONDS
        while not (is_listening(self.node.port) and count_brokers(self.bootstrap_servers) >= brokers):
            if reason := self._failure(deadline):
                self.stop()
                raise DemoError(f"Apache Kafka did not start: {reason}. See its log: {self.node.log_file}")
            time.sleep(0.05)
        if self._announce:
            self._process.announce_end()

    def _check_ports(self) -> None:
        for port in self.node.ports:
            if not is_free(port):
                raise DemoError(
                    f"Port {port}, which Kafka needs, is in use. Stop the other program, or choose another port "
                    "with --kafka-port."
                )

    def _failure(self, deadline: float) -> str:
        if not self.is_running:
            return failure_in_log(self._process.output())
        return f"it did not answer within {_START_SECONDS:.0f} s" if time.monotonic() > deadline else ""


def failure_in_log(log: str) -> str:
    """Find why a Java process ended: its first exception, else its first error, else its first line.

    Lines of the JVM itself, with WARNING or `Picked up`, do not count.
    """
    for pattern in (r"^[\w.$]+(?:Exception|Error): (.+)", r" (?:ERROR|FATAL) (.+) \(", r"^(?!WARNING|Picked up)(.+)"):
        if found := re.search(pattern, log, re.MULTILINE):
            return found[1].rstrip(".")
    return "it ended without output"


def new_cluster_id() -> str:
    """Make 16 random bytes as Kafka writes them: 22 characters of base64url that do not start with `-`."""
    return secrets.choice(string.ascii_letters) + secrets.token_urlsafe(16)[1:]


def without_connection_settings(config: Config) -> Config:
    """Remove the settings that are for the user's own brokers, for example the login."""

    def remaining(section: Mapping[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in section.items() if not name.startswith(_CONNECTION_SETTINGS)}

    sections = {name: remaining(getattr(config, name)) for name in ("kafka", "producer", "consumer", "admin")}
    return replace(config, **sections)  # type: ignore[arg-type]  # mypy takes them for any field


def count_brokers(bootstrap_servers: str) -> int:
    """The number of brokers that the broker at this address knows; 0 if it does not answer."""
    try:
        with _admin_client(bootstrap_servers) as client:
            return len(client.describe_cluster()["brokers"])
    except RetriableError:
        return 0


def create_topics(bootstrap_servers: str, partitions: Mapping[str, int]) -> dict[str, int]:
    """Create the missing topics and wait for their leaders.

    `partitions` maps each name to its number of partitions. Returns the number of partitions that each topic has: an
    existing topic keeps its own. Raises `DemoError` if Kafka does not answer or rejects a topic.
    """
    try:
        with _admin_client(bootstrap_servers, _CREATE_TOPICS_MS) as client:
            for name, count in partitions.items():
                _create_topic(client, name, count)
            client.wait_for_topics(list(partitions), _CREATE_TOPICS_MS)
            return {each["name"]: len(each["partitions"]) for each in client.describe_topics(list(partitions))}
    except KafkaError as error:
        raise DemoError(f"Kafka stopped answering while topics were created: {type(error).__name__}.") from error


@contextmanager
def _admin_client(bootstrap_servers: str, timeout_ms: int = 5000) -> Iterator[KafkaAdminClient]:
    client = KafkaAdminClient(
        bootstrap_servers=bootstrap_servers, bootstrap_timeout_ms=5000, request_timeout_ms=timeout_ms
    )
    try:
        yield client
    finally:
        client.close()


def _create_topic(client: KafkaAdminClient, name: str, partitions: int) -> None:
    [response] = client.create_topics({name: {"num_partitions": partitions}}, raise_errors=False)["topics"]
    if response["error_code"] not in (NoError.errno, TopicAlreadyExistsError.errno):
        raise DemoError(f"Kafka did not create the topic {name}: {response['error_message']}.")


def _lock_kafka_directory(directory: Path) -> int:
    """Create the directory if it is missing and lock it. Return the file descriptor of the lock.

    Raises `DemoError` if the directory has a name that Kafka cannot use, other files, data of another version of
    Kafka, or belongs to a running broker.
    """
    if "," in str(directory):
        raise DemoError(f"The path {directory} contains a comma, which Kafka cannot use. Choose another directory.")
    try:
        _create_kafka_directory(directory)
        return lock_directory(directory, "Kafka")
    except OSError as error:
        raise DemoError(f"Cannot use the directory {directory}: {error.strerror}.") from error


def _create_kafka_directory(directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    version_file = directory / _VERSION_FILE
    if not any(directory.iterdir()):
        version_file.write_text(_NOT_FORMATTED)
    if not version_file.exists():
        raise DemoError(f"{directory} holds files that are not the demo's. Move them, or choose another directory.")
    version = version_file.read_text().strip()
    if version not in (KAFKA_VERSION, _NOT_FORMATTED):
        raise DemoError(
            f"{directory} holds data of Apache Kafka {version}, but this is version {KAFKA_VERSION}. "
            "Choose another directory, or delete this one with everything in it."
        )


def _write_files(node: BrokerNode, java: Path, environment: Mapping[str, str], cluster_id: str) -> None:
    """Write the broker's settings and format its data once. The caller holds the lock."""
    node.logging_file.write_text(LOG4J_PROPERTIES)
    node.properties_file.touch(mode=0o600)  # it may hold the passwords of users
    node.properties_file.write_text(server_properties(node))
    version_file = node.directory / _VERSION_FILE
    if version_file.read_text() == _NOT_FORMATTED:
        shutil.rmtree(node.data, ignore_errors=True)  # left by a format that was interrupted
        _format(node, java, environment, cluster_id)
        version_file.write_text(f"{KAFKA_VERSION}\n")


def _format(node: BrokerNode, java: Path, environment: Mapping[str, str], cluster_id: str) -> None:
    tool = ("kafka.tools.StorageTool", "format", "-t", cluster_id, "-c", str(node.properties_file))
    flags = ("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto")
    done = subprocess.run([java, *flags, *tool], env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        output = (done.stderr or done.stdout).strip().splitlines() or ["no output"]
        raise DemoError(f"Apache Kafka could not format {node.data}: {output[0]}.")
