"""A live member of a consumer group, from another client library."""

import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

from confluent_kafka import Consumer, ShareConsumer

from kafka_http.administration import GroupType


@contextmanager
def _share_member(settings: dict[str, str], topic: str) -> Iterator[None]:
    """Run a member of a share group, which acknowledges all that it gets, in a thread of its own."""
    is_over = threading.Event()

    def work() -> None:
        with closing(ShareConsumer(settings)) as consumer:
            consumer.subscribe([topic])
            while not is_over.is_set():
                consumer.poll(0.1)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join(30)


@contextmanager
def live_member(
    bootstrap_servers: str,
    topic: str,
    group: str,
    client_id: str,
    *,
    group_type: GroupType = "classic",
    instance_id: str | None = None,
) -> Iterator[None]:
    """Run a member that has partitions and sends heartbeats. That of a share group may still be joining.

    It uses librdkafka: on a busy machine, the consumer of kafka-python can drop a successful join and rejoin forever.
    """
    settings = {"bootstrap.servers": bootstrap_servers, "group.id": group, "client.id": client_id}
    if group_type == "share":
        with _share_member(settings, topic):
            yield
        return
    settings["group.protocol"] = group_type
    if instance_id is not None:
        settings["group.instance.id"] = instance_id
    with closing(Consumer(settings)) as consumer:
        consumer.subscribe([topic])
        until = time.monotonic() + 20
        while not consumer.assignment():
            assert time.monotonic() < until, "the member was given no partitions"
            consumer.poll(0.05)
        yield
