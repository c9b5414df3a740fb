"""The bench of Kafka's own client for queues: a `ShareConsumer` of confluent-kafka, without a server in between."""

import time
from contextlib import closing, suppress
from uuid import uuid4

from kafka import KafkaAdminClient
from kafka.admin import ConfigResource, ConfigResourceType
from kafka.errors import KafkaError

from kafka_http.bench.bench_result import BenchError

_JOIN_SECONDS = 30.0
_POLL_SECONDS = 1.0


def measure_share_consumer(bootstrap_servers: str, topic: str, seconds: float) -> str:
    """Read a topic with one consumer, which acknowledges each poll. Return a sentence with the figures.

    Kafka gives this client whole batches, so it has no limit for a page. Raises `BenchError`.
    """
    group = f"bench-{uuid4().hex[:12]}"
    with closing(KafkaAdminClient(bootstrap_servers=bootstrap_servers)) as admin:
        settings = {"share.auto.offset.reset": "earliest"}
        admin.alter_configs([ConfigResource(ConfigResourceType.GROUP, group, settings)], raise_on_unknown=False)
        try:
            return _measure(bootstrap_servers, topic, group, seconds)
        finally:
            with suppress(KafkaError):
                admin.delete_groups([group])


def _measure(bootstrap_servers: str, topic: str, group: str, seconds: float) -> str:
    try:
        from confluent_kafka import ShareConsumer, version
    except ImportError:
        raise BenchError("--share-consumer needs the package confluent-kafka, version 2.16 or later.") from None
    consumer = ShareConsumer({"bootstrap.servers": bootstrap_servers, "group.id": group, "log_level": 3})
    consumer.subscribe([topic])
    with closing(consumer):
        begin, messages, polls = time.monotonic(), 0, 0
        first = end = begin + _JOIN_SECONDS
        while (now := time.monotonic()) < end:
            received = sum(message.error() is None for message in consumer.poll(_POLL_SECONDS))
            if received:
                if not polls:
                    first, end = now, now + seconds
                consumer.commit_sync()
                messages, polls = messages + received, polls + 1
            elif polls:
                break  # all messages are done
        if not polls:
            raise BenchError(f"A ShareConsumer got no message within {_JOIN_SECONDS:.0f} s.")
        rate = messages / (time.monotonic() - first)
    return (
        f"ShareConsumer of confluent-kafka {version()} alone: {rate:,.0f} messages/s, "
        f"{messages / polls:,.0f} messages a poll, the first after {first - begin:.1f} s."
    )
