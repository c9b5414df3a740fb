"""What the daemon holds behind its socket."""

import logging
import threading
from collections.abc import Callable
from typing import Any

from kafka_http.broker import KafkaBroker
from kafka_http.config import Config
from kafka_http.consumers.instance_registry import InstanceRegistry
from kafka_http.consumers.instance_service import RemoteNode
from kafka_http.errors import KafkaHttpError
from kafka_http.node.idempotency_keys_service import NodeIdempotencyKeys
from kafka_http.node.instance_sharing import InstanceSharing
from kafka_http.node.outbox_factory import make_outbox
from kafka_http.node.store import Database, StoredInstances, StoredKeys, StoredNodes
from kafka_http.publish.idempotency_keys import IdempotencyKeys
from kafka_http.records import InstanceDefinition
from kafka_http.tasks import Tasks

log = logging.getLogger(__name__)

_TRY_EVERY = 1.0
_RELAY_STOP_SECONDS = 5.0


class NodeRegistry(InstanceRegistry):
    """The instances of this node, and where those of others are."""

    sharing: InstanceSharing | None = None

    def list_instances(self) -> list[InstanceDefinition]:
        return super().list_instances() if self.sharing is None else self.sharing.list_instances()

    def locate(self, group: str, name: str, secret: str) -> RemoteNode | None:
        return None if self.sharing is None else self.sharing.locate(group, name, secret)


class DaemonServices:
    """The node's instances, once it is known that the brokers are those of their cluster, and its idempotency keys."""

    def __init__(self, config: Config, database: Database, node_id: str) -> None:
        self._broker = KafkaBroker(config)
        self._store = StoredInstances(database, node_id)
        self._registry = NodeRegistry(
            self._broker, self._store, limit=config.max_consumer_instances, idle_timeout=config.consumer_idle_timeout
        )
        if database.is_shared:
            nodes = StoredNodes(database, node_id, config.node_url or f"http://{config.bind}")
            self._registry.sharing = InstanceSharing(nodes, self._registry)
        self._outbox = make_outbox(config, database, node_id, self._broker.producer)
        self._keys = NodeIdempotencyKeys(StoredKeys(database, node_id, config.idempotency_retention))
        self._lock = threading.Lock()
        self._is_open = False
        self._closing = threading.Event()

    def service(self, protocol: type) -> Any:
        """What answers the workers' calls of a Protocol. Raises as `instances`."""
        if protocol is IdempotencyKeys:
            return self.keys()
        return self._outbox if protocol is Tasks else self.instances()

    def keys(self) -> NodeIdempotencyKeys:
        """Raises `Unavailable` where other nodes may take this one for gone."""
        if self._registry.sharing is not None:
            self._registry.sharing.check()
        return self._keys

    def instances(self) -> NodeRegistry:
        """Raises `BrokerUnavailable`, and `Unavailable` where the store's instances are of another cluster, or other
        nodes may have those of this one."""
        if self._registry.sharing is not None:
            self._registry.sharing.check()
        if not self._is_open:
            with self._lock:
                if not self._is_open:
                    self._store.claim_cluster(self._broker.log.cluster_id())
                    self._registry.start()
                    self._is_open = True
        return self._registry

    def open(self, is_attended: Callable[[], bool], is_there: Callable[[str], bool]) -> None:
        """Bring back the instances of the store now, or as soon as that can be done, and keep them for as long as
        there are workers to answer for them. `is_there` says whether a worker of that name runs. Does not block."""
        self._outbox.start()
        self._keys.start(is_there)
        if self._registry.sharing is not None:
            self._registry.sharing.keep(is_attended, lambda: self._is_open)
        threading.Thread(target=self._open, name="node-opening", daemon=True).start()

    def close(self) -> None:
        """End the instances in this process; their groups keep their places for another."""
        self._closing.set()
        self._keys.close()
        self._outbox.close(_RELAY_STOP_SECONDS)
        self._registry.close()
        self._broker.close(0)
        if self._registry.sharing is not None:
            self._registry.sharing.close()

    def _open(self) -> None:
        said = ""
        while not self._closing.is_set():
            try:
                self.instances()
            except KafkaHttpError as error:
                if error.message != said:
                    said = error.message
                    log.error("Consumer instances and tasks of the store have to wait: %s", said)
                self._closing.wait(_TRY_EVERY)
            else:
                self._outbox.relay.start()
                log.info("Holds %d consumer instances", len(self._registry.names()))
                return
