"""Fixtures: a real Apache Kafka and a real schema registry, started by the code of the demo; a real PostgreSQL.

If Java, Kafka's jars, the registry's files or PostgreSQL are missing, the tests that need them are skipped, or fail
if the environment variable CI is set.
"""

import os
import signal
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar
from uuid import uuid4

import pytest
from kafka.admin import KafkaAdminClient

from kafka_http.demo.broker_properties import BrokerNode
from kafka_http.demo.embedded_kafka import EmbeddedKafka
from kafka_http.demo.embedded_registry import EmbeddedRegistry
from kafka_http.demo.kafka_jars import kafka_jars
from kafka_http.demo.local_resources import DemoError, find_java, free_ports
from tests.support.embedded_cluster import EmbeddedCluster
from tests.support.planted_secrets import searching_outputs, take_leaks
from tests.support.postgresql import PostgreSQL, PostgreSQLMissing

Server = TypeVar("Server", EmbeddedKafka, EmbeddedRegistry)

TopicFactory = Callable[..., str]
"""`topic(partitions=1, configs={})` creates a topic of a name of its own, waits for its leaders and gives the name."""


def pytest_configure() -> None:
    """Restore the default handling of Ctrl-C for started processes; a background process ignores it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def watch_outputs() -> Iterator[None]:
    """Search all outputs of the test run for the secrets that the tests use."""
    with searching_outputs():
        yield
    assert not take_leaks()


@pytest.fixture(autouse=True)
def no_secret_is_shown(watch_outputs: None) -> Iterator[None]:
    """Fail a test in which an output had a secret."""
    yield
    assert not take_leaks()


@pytest.fixture(scope="session")
def kafka_parts() -> None:
    """Java and Kafka's jars are there."""
    try:
        find_java()
        kafka_jars()
    except DemoError as missing:
        if "CI" in os.environ:
            raise
        pytest.skip(str(missing))


@pytest.fixture(scope="session")
def kafka(kafka_parts: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedKafka]:
    """The broker that all tests share: `kafka.bootstrap_servers`. Tests must not stop it."""
    yield from _running(new_kafka(tmp_path_factory.mktemp("kafka")))


@pytest.fixture
def fresh_kafka(kafka_parts: None, tmp_path: Path) -> Iterator[EmbeddedKafka]:
    """A broker for one test, which may `kill()`, `stop()` and `start()` it."""
    yield from _running(new_kafka(tmp_path))


@pytest.fixture
def kafka_cluster(kafka_parts: None, tmp_path: Path) -> Iterator[EmbeddedCluster]:
    """Three brokers for one test: `kafka_cluster.brokers[1]` to `[3]`, each of which it may kill and start."""
    cluster = EmbeddedCluster(tmp_path)
    cluster.start()
    try:
        yield cluster
    finally:
        cluster.kill()  # in order it takes seconds: the last to stop waits for the others


def new_kafka(directory: Path) -> EmbeddedKafka:
    port, controller_port = free_ports(2)
    return EmbeddedKafka(BrokerNode(directory / "kafka", port, controller_port))


def _running(server: Server) -> Iterator[Server]:
    server.start()
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="session")
def registry_parts() -> None:
    """A recent Java and the schema registry's files are there."""
    try:
        EmbeddedRegistry.parts()
    except DemoError as missing:
        if "CI" in os.environ:
            raise
        pytest.skip(str(missing))


@pytest.fixture(scope="session")
def registry(registry_parts: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedRegistry]:
    """The schema registry that all tests share: `registry.url`. Tests must not stop it."""
    yield from _running(EmbeddedRegistry(tmp_path_factory.mktemp("registry")))


@pytest.fixture
def fresh_registry(registry_parts: None, tmp_path: Path) -> Iterator[EmbeddedRegistry]:
    """A registry for one test, which may `kill()`, `stop()` and `start()` it; it keeps its address and its schemas."""
    yield from _running(EmbeddedRegistry(tmp_path / "registry"))


@pytest.fixture(scope="session")
def topic(kafka: EmbeddedKafka) -> Iterator[TopicFactory]:
    """Makes topics on the shared broker."""
    admin = KafkaAdminClient(bootstrap_servers=kafka.bootstrap_servers)

    def create(partitions: int = 1, configs: Mapping[str, str] | None = None) -> str:
        name = f"topic-{uuid4().hex[:12]}"
        admin.create_topics({name: {"num_partitions": partitions, "configs": dict(configs or {})}})
        admin.wait_for_topics([name])
        return name

    try:
        yield create
    finally:
        admin.close()


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgreSQL]:
    """A PostgreSQL server; `postgresql.database(name)` creates a database in it."""
    yield from _running_postgresql()


@pytest.fixture
def fresh_postgresql() -> Iterator[PostgreSQL]:
    """A server for one test, which may `stop()` and `start()` it."""
    yield from _running_postgresql()


def _running_postgresql() -> Iterator[PostgreSQL]:
    with TemporaryDirectory(prefix="kafka_http-", ignore_cleanup_errors=True) as directory:
        Path(directory).chmod(0o711)  # the server's user is another where the tests run as root
        try:
            server = PostgreSQL(Path(directory) / "postgresql")
        except PostgreSQLMissing as missing:
            if "CI" in os.environ:
                raise
            pytest.skip(str(missing))
        server.create()
        server.start()
        try:
            yield server
        finally:
            server.stop()
