"""The producer's calls that block: metadata, topic creation, connections, producer ids. They run in helper threads."""

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from threading import Lock, Thread
from typing import Any, NamedTuple

from kafka.errors import for_code
from kafka.net.manager import KafkaConnectionManager
from kafka.protocol.producer import InitProducerIdRequest

from kafka_http.broker.admin_client import Admin
from kafka_http.broker.connections import ConnectionPool, ask_any
from kafka_http.broker.error_map import is_transient, translate
from kafka_http.broker.partition_queue import ProducerIdentity
from kafka_http.broker.patches import TakenSocket, take_socket
from kafka_http.broker.produce_requests import API_KEY, MAX_VERSION, MIN_VERSION
from kafka_http.broker.topic_metadata import TopicMetadata
from kafka_http.errors import BrokerError, KafkaHttpError, RetriableBrokerError, TopicNotFound
from kafka_http.records import PartitionInfo

log = logging.getLogger(__name__)

_MAX_THREADS = 4
_RETRY_SECONDS = 0.05


_Then = Callable[[Any, KafkaHttpError | None], None]
_Call = tuple[Callable[..., Any], Sequence[Any], _Then]


class OpenedConnection(NamedTuple):
    """A connection to a broker, and the version of produce requests to use on it."""

    taken: TakenSocket
    version: int


class ProducerCalls:
    """Makes the blocking calls of a producer, and passes each result to a function. Any thread may call `submit`."""

    def __init__(
        self,
        connections: ConnectionPool,
        metadata: TopicMetadata,
        admin: Admin,
        timeout: float,
        *,
        auto_create_topics: bool,
    ) -> None:
        """`timeout` limits each call, in seconds."""
        self._connections = connections
        self._metadata = metadata
        self._admin = admin
        self._timeout = timeout
        self._auto_create_topics = auto_create_topics
        self._lock = Lock()
        self._waiting: deque[_Call] = deque()
        self._threads = 0
        self._is_closed = False

    def submit(self, call: Callable[..., Any], *args: Any, then: _Then) -> None:
        """Make a call in a helper thread, and call `then(result, error)` there. Has no effect after `close`."""
        with self._lock:
            if self._is_closed:
                return
            self._waiting.append((call, args, then))
            if self._threads >= _MAX_THREADS:
                return
            self._threads += 1
        Thread(target=self._run_waiting, name="producer-calls", daemon=True).start()

    def _run_waiting(self) -> None:
        """Make the waiting calls. The thread ends after the last one: calls are rare."""
        while True:
            with self._lock:
                if not self._waiting:
                    self._threads -= 1
                    return
                call = self._waiting.popleft()
            _run(*call)

    def close(self) -> None:
        with self._lock:
            self._is_closed = True
            self._waiting.clear()
        self._connections.close()

    @property
    def addresses(self) -> dict[int, str]:
        """The known brokers' addresses by node id. Does not block."""
        return self._metadata.addresses

    def partitions(self, topic: str) -> list[PartitionInfo]:
        """Return a topic's partitions. A missing topic is created if the settings allow it."""
        try:
            return self._metadata.partitions(topic)
        except TopicNotFound:
            if not self._auto_create_topics:
                raise
        self._admin.create_topic(topic)
        deadline = time.monotonic() + self._timeout
        while time.monotonic() < deadline:
            with suppress(TopicNotFound, RetriableBrokerError):  # the broker that was asked does not know it yet
                partitions = self._metadata.partitions(topic)
                if all(each.leader is not None for each in partitions):
                    return partitions
            time.sleep(_RETRY_SECONDS)
        raise RetriableBrokerError(
            f"The topic {topic} was just created and is not ready yet. Retry. Kafka: {self._connections.servers}."
        )

    def connect(self, node: int) -> OpenedConnection:
        """Connect to a broker, for produce requests."""

        async def take(manager: KafkaConnectionManager) -> TakenSocket:
            return await take_socket(manager, node, API_KEY)

        taken = self._connections.run(take, self._timeout)
        lowest, highest = taken.versions
        version = min(MAX_VERSION, highest)
        if version < max(MIN_VERSION, lowest):
            taken.sock.close()
            raise BrokerError(
                f"The broker {self.addresses.get(node, node)} supports versions {lowest} to {highest} of produce "
                f"requests. This server supports {MIN_VERSION} to {MAX_VERSION}."
            )
        return OpenedConnection(taken, version)

    def new_identity(self) -> ProducerIdentity:
        """Ask the brokers for a producer id."""
        request = InitProducerIdRequest(
            transactional_id=None, transaction_timeout_ms=60_000, producer_id=-1, producer_epoch=-1
        )

        async def ask(manager: KafkaConnectionManager) -> Any:
            return await ask_any(manager, request)

        deadline = time.monotonic() + self._timeout
        while True:
            response = self._connections.run(ask, self._timeout)
            if not response.error_code:
                return ProducerIdentity(response.producer_id, response.producer_epoch)
            kind = for_code(response.error_code)
            if not is_transient(kind) or time.monotonic() > deadline:
                raise translate(kind, servers=self._connections.servers)
            time.sleep(_RETRY_SECONDS)  # the coordinator is loading

    def message_limit(self, topic: str) -> int:
        """Return the largest message of a topic in bytes."""
        return self._admin.message_limit(topic)


def _run(call: Callable[..., Any], args: Sequence[Any], then: _Then) -> None:
    try:
        result, error = call(*args), None
    except KafkaHttpError as raised:
        result, error = None, raised
    except Exception:
        log.exception("A call of the producer failed.")
        result, error = None, RetriableBrokerError("An internal call failed; the server's log has details. Retry.")
    then(result, error)
