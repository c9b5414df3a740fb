"""The `Broker` that is an Apache Kafka cluster."""

from kafka_http.broker.admin_client import Admin, KafkaGroups
from kafka_http.broker.client_settings import (
    admin_settings,
    connection_settings,
    long_lived_settings,
    producer_settings,
)
from kafka_http.broker.connections import ConnectionPool
from kafka_http.broker.fetcher import Fetcher
from kafka_http.broker.group_membership import KafkaMemberships
from kafka_http.broker.prefetch_buffer import PrefetchBuffer
from kafka_http.broker.record_producer import KafkaRecordProducer
from kafka_http.broker.topic_metadata import TopicMetadata
from kafka_http.config import Config

_TIMEOUT = 5.0


class KafkaBroker:
    """A producer, a pool of connections to read from and an admin client.

    Connects on first use, so it can be made before a fork. Any thread may call.
    """

    def __init__(self, config: Config) -> None:
        connections = ConnectionPool(connection_settings(config))
        metadata = TopicMetadata(connections)
        admin = Admin(admin_settings(config), _TIMEOUT, metadata.check_reachable)
        self._producer = KafkaRecordProducer(
            producer_settings(config),
            long_lived_settings(config),
            metadata,
            admin,
            auto_create_topics=config.auto_create_topics,
        )
        self._log = Fetcher(connections, metadata, admin, _TIMEOUT, PrefetchBuffer(config.max_read_ahead))
        self._groups = KafkaGroups(admin)
        self._memberships = KafkaMemberships(connection_settings(config), admin)

    @property
    def producer(self) -> KafkaRecordProducer:
        return self._producer

    @property
    def log(self) -> Fetcher:
        return self._log

    @property
    def groups(self) -> KafkaGroups:
        return self._groups

    @property
    def memberships(self) -> KafkaMemberships:
        return self._memberships

    def close(self, timeout: float) -> None:
        """Flush the producer, for `timeout` seconds at most, and close all connections. Members do not leave."""
        self._memberships.close()
        self._producer.close(timeout)
        self._groups.close()
        self._log.close()
