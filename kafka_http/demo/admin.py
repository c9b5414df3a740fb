"""What the demo asks of its own brokers, through kafka-python's admin client."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from kafka.admin import KafkaAdminClient
from kafka.errors import KafkaError, NoError, RetriableError, TopicAlreadyExistsError

from kafka_http.demo.errors import DemoError

_CREATE_TIMEOUT_MS = 60_000


@contextmanager
def admin_client(bootstrap_servers: str, timeout_ms: int = 5000) -> Iterator[KafkaAdminClient]:
    client = KafkaAdminClient(
        bootstrap_servers=bootstrap_servers, bootstrap_timeout_ms=5000, request_timeout_ms=timeout_ms
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


def create_topics(bootstrap_servers: str, partitions: Mapping[str, int]) -> dict[str, int]:
    """Create those topics that there are not yet, by name with their number of partitions; wait for their leaders.

    Return the number of partitions that each topic has, which differs for one that existed before. Raises `DemoError`
    where Kafka does not answer, or refuses.
    """
    try:
        with admin_client(bootstrap_servers, _CREATE_TIMEOUT_MS) as client:
            for name, count in partitions.items():
                _create(client, name, count)
            client.wait_for_topics(list(partitions), _CREATE_TIMEOUT_MS)
            return {each["name"]: len(each["partitions"]) for each in client.describe_topics(list(partitions))}
    except KafkaError as error:
        raise DemoError(f"Kafka has stopped answering while topics were created ({type(error).__name__}).") from error


def _create(client: KafkaAdminClient, name: str, partitions: int) -> None:
    [answer] = client.create_topics({name: {"num_partitions": partitions}}, raise_errors=False)["topics"]
    if answer["error_code"] not in (NoError.errno, TopicAlreadyExistsError.errno):
        raise DemoError(f"Kafka does not create the topic {name}: {answer['error_message']}.")
