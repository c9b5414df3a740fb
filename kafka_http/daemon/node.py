"""What the daemon holds behind its socket."""

import logging
import threading

from kafka_http.broker import KafkaBroker
from kafka_http.config import Config
from kafka_http.core.instance_registry import InstanceRegistry
from kafka_http.core.instances import Instances
from kafka_http.errors import KafkaHttpError
from kafka_http.store import StoredInstances

log = logging.getLogger(__name__)

_TRY_EVERY = 1.0


class Node:
    """The node's instances, once it is known that the brokers are those of their cluster."""

    def __init__(self, config: Config, store: StoredInstances) -> None:
        self._broker = KafkaBroker(config)
        self._store = store
        self._registry = InstanceRegistry(
            self._broker, store, limit=config.max_consumer_instances, idle_timeout=config.consumer_idle_timeout
        )
        self._lock = threading.Lock()
        self._is_open = False
        self._closing = threading.Event()

    def instances(self) -> Instances:
        """Raises `BrokerUnavailable`, and `Unavailable` where the store's instances are of another cluster."""
        if not self._is_open:
            with self._lock:
                if not self._is_open:
                    self._store.claim_cluster(self._broker.log.cluster_id())
                    self._registry.start()
                    self._is_open = True
        return self._registry

    def open(self) -> None:
        """Bring back the instances of the store now, or as soon as that can be done. Does not block."""
        threading.Thread(target=self._open, name="node-opening", daemon=True).start()

    def close(self) -> None:
        """End the instances in this process; their groups keep their places for another."""
        self._closing.set()
        self._registry.close()
        self._broker.close(0)

    def _open(self) -> None:
        said = ""
        while not self._closing.is_set():
            try:
                self.instances()
            except KafkaHttpError as error:
                if error.message != said:
                    said = error.message
                    log.error("The consumer instances of the store are not brought back yet: %s", said)
                self._closing.wait(_TRY_EVERY)
            else:
                log.info("Holds %d consumer instances", len(self._registry.names()))
                return
