"""A live member of a consumer group, from another client library."""

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

from confluent_kafka import Consumer


@contextmanager
def live_member(bootstrap_servers: str, topic: str, group: str, client_id: str) -> Iterator[None]:
    """Run a member that has partitions and sends heartbeats.

    It uses librdkafka: on a busy machine, the consumer of kafka-python can drop a successful join and rejoin forever.
    """
    settings = {"bootstrap.servers": bootstrap_servers, "group.id": group, "client.id": client_id}
    with closing(Consumer(settings)) as consumer:
        consumer.subscribe([topic])
        until = time.monotonic() + 20
        while not consumer.assignment():
            assert time.monotonic() < until, "the member was given no partitions"
            consumer.poll(0.05)
        yield
