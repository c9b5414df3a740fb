"""The services that workers call over the socket: consumer instances, queues, the outbox, idempotency keys."""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from kafka_http.broker import KafkaBroker
from kafka_http.config import Config
from kafka_http.consumers.instance_registry import InstanceRegistry
from kafka_http.consumers.instance_service import RemoteNode
from kafka_http.consumers.queue_registry import QueueRegistry
from kafka_http.consumers.queue_service import QueueLocator, QueueService
from kafka_http.errors import KafkaHttpError
from kafka_http.logs import LogOnce
from kafka_http.metrics import update_process
from kafka_http.node.instance_sharing import InstanceSharing, lease_name
from kafka_http.node.node_gauges import NodeGauges
from kafka_http.node.node_outbox import new_outbox
from kafka_http.node.store import Database, StoredInstances, StoredKeys, StoredNodes
from kafka_http.publish.idempotency_keys import IdempotencyKeys
from kafka_http.records import ClaimEnd, ClaimRequest, InstanceDefinition, KeyClaimResult
from kafka_http.tasks import Tasks

log = logging.getLogger(__name__)

_RETRY_SECONDS = 1.0
_OUTBOX_STOP_SECONDS = 5.0

RETURN_SECONDS = 20.0
"""How long the workers of a daemon that was killed have to connect to its successor."""

CLEAN_INTERVAL = 5.0
"""Seconds between two searches for keys of workers that are gone, and for expired responses."""

_CLEAN_BATCH = 500
_CLEAN_PAUSE = 0.05
_CLEANER_STOP_SECONDS = 5.0


class NodeRegistry(InstanceRegistry):
    """The consumer instances of this node, and the `InstanceLocator` and `QueueLocator` for other nodes."""

    sharing: InstanceSharing | None = None
    node_id = ""
    """It is empty if there is only one node."""

    def list_instances(self) -> list[InstanceDefinition]:
        return super().list_instances() if self.sharing is None else self.sharing.list_instances()

    def locate(self, group: str, name: str, secret: str) -> RemoteNode | None:
        return None if self.sharing is None else self.sharing.locate(group, name, secret)

    def node_secret(self) -> str:
        return "" if self.sharing is None else self.sharing.secret

    def queue_node(self) -> str:
        return lease_name(self.node_id)

    def live_nodes(self) -> dict[str, RemoteNode]:
        return {} if self.sharing is None else self.sharing.live_nodes()


class NodeIdempotencyKeys:
    """`IdempotencyKeys` in the node's store. The daemon creates it; any thread may call."""

    def __init__(
        self, store: StoredKeys, return_seconds: float = RETURN_SECONDS, clean_interval: float = CLEAN_INTERVAL
    ) -> None:
        self._store = store
        self._return_seconds = return_seconds
        self._clean_interval = clean_interval
        self._is_connected: Callable[[str], bool] = lambda _: False
        self._return_deadline = 0.0
        self._known_workers: set[str] = set()
        self._closing = threading.Event()
        self._cleaner: threading.Thread | None = None

    def start(self, is_connected: Callable[[str], bool]) -> None:
        """Start the cleaning thread, before the first call. `is_connected` returns whether a worker runs."""
        self._is_connected = is_connected
        self._return_deadline = time.monotonic() + self._return_seconds
        self._cleaner = threading.Thread(target=self._clean, name="idempotency-keys", daemon=True)
        self._cleaner.start()

    def update_keys(self, claims: Sequence[ClaimRequest], ends: Sequence[ClaimEnd]) -> list[KeyClaimResult]:
        self._known_workers.update({each.holder.partition("/")[0] for each in claims})
        return self._store.update(claims, ends, self._is_gone)

    def close(self) -> None:
        """Stop, and release the keys that are in progress, because no worker is left to complete them."""
        self._closing.set()
        if self._cleaner is not None:
            self._cleaner.join(_CLEANER_STOP_SECONDS)
        try:
            self._store.release_abandoned(lambda _: True)
        except KafkaHttpError as error:
            log.debug("Keys in progress were not released: %s", error.message)

    def _is_gone(self, worker: str) -> bool:
        may_return = worker not in self._known_workers and time.monotonic() <= self._return_deadline
        return not self._is_connected(worker) and not may_return

    def _clean(self) -> None:
        while not self._closing.wait(self._clean_interval):
            try:
                self._store.release_abandoned(self._is_gone)
                while self._store.remove_expired(_CLEAN_BATCH) == _CLEAN_BATCH and not self._closing.wait(_CLEAN_PAUSE):
                    pass  # the pauses let others write to the store
            except KafkaHttpError as error:
                log.debug("Expired idempotency keys were not removed: %s", error.message)
            except Exception:
                log.exception("Unexpected error while expired idempotency keys were removed")


class DaemonServices:
    """The services of the daemon, which creates, opens and closes them. Any thread may call.

    The instances can be used once it is known that the brokers belong to the cluster of the stored instances.
    """

    def __init__(self, config: Config, database: Database, node_id: str) -> None:
        self._broker = KafkaBroker(config)
        self._store = StoredInstances(database, node_id)
        self._registry = NodeRegistry(
            self._broker, self._store, limit=config.max_consumer_instances, idle_timeout=config.consumer_idle_timeout
        )
        self._registry.node_id = node_id
        self._queues = QueueRegistry(self._broker, attempts=config.queue_attempts, node=lease_name(node_id))
        if database.is_shared:
            nodes = StoredNodes(database, node_id, config.node_url or f"http://{config.bind}")
            self._registry.sharing = InstanceSharing(nodes, self._registry)
        self._outbox = new_outbox(config, database, node_id, self._broker.producer)
        self._keys = NodeIdempotencyKeys(StoredKeys(database, node_id, config.idempotency_retention))
        self._gauges = NodeGauges(database, lambda: update_process("daemon"))
        self._lock = threading.Lock()
        self._is_open = False
        self._closing = threading.Event()

    def lookup(self, protocol: type) -> Any:
        """Return the implementation of one of the daemon's Protocols. Raises `Unavailable`, `BrokerUnavailable`."""
        if protocol is IdempotencyKeys:
            return self.keys()
        if protocol is QueueService:
            return self._queues
        if protocol is QueueLocator:
            return self._registry
        return self._outbox if protocol is Tasks else self.instances()

    def keys(self) -> NodeIdempotencyKeys:
        """Return the idempotency keys. Raises `Unavailable` if this node has no lease: others may claim its keys."""
        self._check_lease()
        return self._keys

    def instances(self) -> NodeRegistry:
        """Return the instances. Asks Kafka for its cluster id on the first call.

        Raises `BrokerUnavailable`, and `Unavailable` if the stored instances belong to another cluster or other nodes
        may have adopted them.
        """
        self._check_lease()
        if not self._is_open:
            with self._lock:
                if not self._is_open:
                    self._store.claim_cluster(self._broker.log.cluster_id())
                    self._registry.start()
                    self._is_open = True
        return self._registry

    def open(self, has_workers: Callable[[], bool], is_connected: Callable[[str], bool]) -> None:
        """Start all services, and restore the stored instances as soon as Kafka answers. Does not block.

        This node holds its lease on the instances while `has_workers` returns True. `is_connected` returns whether the
        worker of a name runs.
        """
        self._gauges.start()
        self._outbox.start()
        self._keys.start(is_connected)
        if self._registry.sharing is not None:
            self._registry.sharing.start(has_workers, lambda: self._is_open)
        threading.Thread(target=self._open_instances, name="open-instances", daemon=True).start()

    def close(self) -> None:
        """Stop all services. The instances stay members of their groups, for the next daemon; the queues leave them."""
        self._closing.set()
        self._queues.close()
        self._gauges.close()
        self._keys.close()
        self._outbox.close(_OUTBOX_STOP_SECONDS)
        self._registry.close()
        self._broker.close(0)
        if self._registry.sharing is not None:
            self._registry.sharing.close()

    def _check_lease(self) -> None:
        if self._registry.sharing is not None:
            self._registry.sharing.check_lease()

    def _open_instances(self) -> None:
        problem = LogOnce(log)
        while not self._closing.is_set():
            try:
                self.instances()
            except KafkaHttpError as error:
                problem.warning("Stored consumer instances and tasks are waiting: %s", error.message)
                self._closing.wait(_RETRY_SECONDS)
            else:
                self._outbox.relay.start()
                log.info("Daemon holds %d consumer instances.", len(self._registry.names()))
                return
