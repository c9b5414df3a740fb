"""The `Broker` that is an Apache Kafka cluster."""

from kafka_http.broker.admin_client import Admin, KafkaGroups
from kafka_http.broker.client_settings import (
    admin_settings,
    connection_settings,
    producer_settings,
)
from kafka_http.broker.cluster_acls import KafkaAcls
from kafka_http.broker.connections import ConnectionPool
from kafka_http.broker.fetcher import Fetcher
from kafka_http.broker.group_membership import KafkaMemberships
from kafka_http.broker.group_requests import GroupRequests
from kafka_http.broker.idempotent_producer import IdempotentProducer
from kafka_http.broker.prefetch_buffer import PrefetchBuffer
from kafka_http.broker.producer_calls import ProducerCalls
from kafka_http.broker.share_group_client import KafkaShareGroups
from kafka_http.broker.share_group_settings import ShareGroupConfigs
from kafka_http.broker.topic_metadata import TopicMetadata
from kafka_http.broker.topic_requests import KafkaTopicAdmin
from kafka_http.config import Config

_TIMEOUT = 5.0
_CONNECT = {"socket_connection_setup_timeout_ms": 3000}
"""The admin client has no setting for it."""


class KafkaBroker:
    """A producer, a pool of connections to read from and an admin client.

    Connects on first use, so it can be made before a fork. Any thread may call.
    """

    def __init__(self, config: Config) -> None:
        connections = ConnectionPool(connection_settings(config))
        metadata = TopicMetadata(connections)
        admin = Admin(admin_settings(config), _TIMEOUT, metadata.check_reachable)
        settings = producer_settings(config)
        calls = ProducerCalls(
            ConnectionPool(settings), metadata, admin, _TIMEOUT, auto_create_topics=config.auto_create_topics
        )
        self._producer = IdempotentProducer(settings, calls)
        self._prefetched = PrefetchBuffer(config.max_read_ahead)
        self._log = Fetcher(connections, metadata, admin, _TIMEOUT, self._prefetched)
        admin_connections = ConnectionPool(admin_settings(config) | _CONNECT)
        group_requests = GroupRequests(admin_connections, _TIMEOUT)
        self._groups = KafkaGroups(admin, group_requests)
        self._topic_admin = KafkaTopicAdmin(admin_connections, metadata)
        self._acls = KafkaAcls(admin_connections)
        self._memberships = KafkaMemberships(connection_settings(config), admin)
        self._share_groups = KafkaShareGroups(
            connection_settings(config), group_requests, ShareGroupConfigs(admin_connections)
        )

    @property
    def producer(self) -> IdempotentProducer:
        return self._producer

    @property
    def log(self) -> Fetcher:
        return self._log

    @property
    def topic_admin(self) -> KafkaTopicAdmin:
        return self._topic_admin

    @property
    def groups(self) -> KafkaGroups:
        return self._groups

    @property
    def acls(self) -> KafkaAcls:
        return self._acls

    @property
    def memberships(self) -> KafkaMemberships:
        return self._memberships

    @property
    def share_groups(self) -> KafkaShareGroups:
        return self._share_groups

    def release_memory(self) -> None:
        self._prefetched.drop_expired()

    def close(self, timeout: float) -> None:
        """Flush the producer, for `timeout` seconds at most, and close all connections. Members do not leave."""
        self._memberships.close()
        self._share_groups.close(timeout)
        self._producer.close(timeout)
        self._groups.close()
        self._acls.close()
        self._log.close()
