"""The topics of a bench, by kafka-python's admin client."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any
from uuid import uuid4

from kafka import KafkaAdminClient
from kafka.errors import KafkaError

from kafka_http.bench.errors import BenchError
from kafka_http.config import Config

_SECONDS = 30_000
_GONE_AT_ONCE = {"file.delete.delay.ms": "1000"}


@contextmanager
def topic(config: Config, partitions: int) -> Iterator[str]:
    """The name of a new topic, which is deleted afterwards. Raises `BenchError`."""
    name = f"bench-{uuid4().hex[:12]}"
    try:
        admin = KafkaAdminClient(**client_settings(config), request_timeout_ms=_SECONDS)
    except KafkaError as error:
        raise BenchError(f"Kafka at {','.join(config.bootstrap_servers)} does not answer: {error}.") from None
    try:
        _create(admin, name, partitions)
        yield name
    finally:
        with suppress(KafkaError):
            admin.delete_topics([name])
        admin.close()


def _create(admin: KafkaAdminClient, name: str, partitions: int) -> None:
    try:
        admin.create_topics({name: {"num_partitions": partitions, "configs": _GONE_AT_ONCE}})
        admin.wait_for_topics([name], _SECONDS)
    except KafkaError as error:
        raise BenchError(f"Kafka does not create a topic for the bench: {error}.") from None


def client_settings(config: Config) -> dict[str, Any]:
    """What every client of kafka-python is told: where Kafka is, and how to log in."""
    return {"bootstrap_servers": list(config.bootstrap_servers), **config.kafka}
