"""What the demo asks of its own brokers, through kafka-python's admin client."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from kafka.admin import KafkaAdminClient
from kafka.errors import RetriableError, TopicAlreadyExistsError


@contextmanager
def admin_client(bootstrap_servers: str) -> Iterator[KafkaAdminClient]:
    client = KafkaAdminClient(
        bootstrap_servers=bootstrap_servers, bootstrap_timeout_ms=5000, request_timeout_ms=5000
    )
    try:
        yield client
    finally:
        client.close()


def count_brokers(bootstrap_servers: str) -> int:
    """How many brokers the one that listens there knows of; 0 where it does not answer."""
    try:
        with admin_client(bootstrap_servers) as client:
            return len(client.describe_cluster()["brokers"])
    except RetriableError:
        return 0


def create_topics(bootstrap_servers: str, partitions: Mapping[str, int]) -> None:
    """Create those topics that there are not yet, by name with their number of partitions; wait for their leaders."""
    with admin_client(bootstrap_servers) as client:
        for name, count in partitions.items():
            try:
                client.create_topics({name: {"num_partitions": count}})
            except TopicAlreadyExistsError:
                continue
        client.wait_for_topics(list(partitions))
