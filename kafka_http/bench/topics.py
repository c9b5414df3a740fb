"""The topics of a bench, by kafka-python's admin client."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any
from uuid import uuid4

from kafka import KafkaAdminClient
from kafka.errors import KafkaError

from kafka_http.bench.errors import BenchError
from kafka_http.config import Config

_CREATE_MS = 30_000
_BOOTSTRAP_MS = 5000
_GONE_AT_ONCE = {"file.delete.delay.ms": "1000"}


@contextmanager
def topic(config: Config, partitions: int) -> Iterator[str]:
    """The name of a new topic, which is deleted afterwards. Raises `BenchError`."""
    name = f"bench-{uuid4().hex[:12]}"
    with _admin_client(config) as admin:
        try:
            _create(admin, name, partitions)
            yield name
        finally:
            with suppress(KafkaError):
                admin.delete_topics([name])


def check_kafka(config: Config) -> None:
    """Raise `BenchError` where no broker answers."""
    with _admin_client(config):
        pass


@contextmanager
def _admin_client(config: Config) -> Iterator[KafkaAdminClient]:
    """Raises `BenchError` where no broker answers."""
    ours = {"request_timeout_ms": _CREATE_MS, "bootstrap_timeout_ms": _BOOTSTRAP_MS}
    try:
        admin = KafkaAdminClient(**ours | client_settings(config, "admin", KafkaAdminClient.DEFAULT_CONFIG))
    except KafkaError as error:
        raise BenchError(f"Kafka at {','.join(config.bootstrap_servers)} does not answer: {error}") from None
    try:
        yield admin
    finally:
        admin.close()


def _create(admin: KafkaAdminClient, name: str, partitions: int) -> None:
    try:
        admin.create_topics({name: {"num_partitions": partitions, "configs": _GONE_AT_ONCE}})
        admin.wait_for_topics([name], _CREATE_MS)
    except KafkaError as error:
        raise BenchError(f"Kafka does not create a topic for the bench: {error}.") from None


def client_settings(config: Config, section: str, known: Mapping[str, Any]) -> dict[str, Any]:
    """Where Kafka is, and what the server's settings say for such a client, as far as it is known to it."""
    given = {**config.kafka, **getattr(config, section)}
    settings = {name: value for name, value in given.items() if name in known}
    if "api_version" in settings:
        settings["api_version"] = tuple(settings["api_version"])
    return {"bootstrap_servers": list(config.bootstrap_servers), **settings}
