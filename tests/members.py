"""A live member of a consumer group, of another client than ours."""

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

from confluent_kafka import Consumer


@contextmanager
def live_member(bootstrap_servers: str, topic: str, group: str, client_id: str) -> Iterator[None]:
    """It has its partitions, and shows signs of life by itself.

    librdkafka's: on a busy machine the poll of kafka-python's consumer forgets a join that has just succeeded, and
    joins anew without end.
    """
    settings = {"bootstrap.servers": bootstrap_servers, "group.id": group, "client.id": client_id}
    with closing(Consumer(settings)) as consumer:
        consumer.subscribe([topic])
        until = time.monotonic() + 20
        while not consumer.assignment():
            assert time.monotonic() < until, "the member was given no partitions"
            consumer.poll(0.05)
        yield
