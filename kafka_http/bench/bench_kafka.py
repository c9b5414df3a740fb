"""The bench's access to Kafka without the server: topics and client settings."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any
from uuid import uuid4

from kafka import KafkaAdminClient
from kafka.errors import KafkaError

from kafka_http.bench.bench_result import BenchError
from kafka_http.config import Config

_CREATE_MS = 30_000
_BOOTSTRAP_MS = 5000
_TOPIC_CONFIGS = {"file.delete.delay.ms": "1000"}  # frees the disk soon after the topic is deleted


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


def check_kafka(config: Config) -> None:
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
