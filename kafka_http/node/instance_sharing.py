"""The lease of a node on its consumer instances, and the adoption of instances of nodes that are gone."""

import hmac
import logging
import threading
import time
from collections.abc import Callable

from kafka_http.consumers.instance_registry import InstanceRegistry
from kafka_http.consumers.instance_service import RemoteNode
from kafka_http.errors import KafkaHttpError, Unavailable
from kafka_http.node.store import StoredNodes
from kafka_http.node.store.stored_nodes import LEASE_SECONDS
from kafka_http.records import InstanceDefinition

log = logging.getLogger(__name__)

_RENEW_INTERVAL = 1.0
_LEASE_MARGIN = 0.5
"""Seconds before the end of its lease at which this node stops using it."""

_ADOPT_AFTER_SECONDS = 5.0
"""Seconds after the end of a node's lease when others adopt its instances. A call for an instance does not wait."""


def lease_name(node_id: str) -> str:
    """Return the name of a node in the leases of its queues. `node_id` is empty if there is only one node."""
    return node_id[:8] or "0"


class InstanceSharing:
    """Renews the lease of this node, and adopts the instances of nodes whose lease has expired. Any thread may call.

    Without a lease, no instance of this node may be used, because other nodes may have adopted it.
    """

    def __init__(self, nodes: StoredNodes, registry: InstanceRegistry) -> None:
        self._nodes = nodes
        self._registry = registry
        self.secret = ""
        """See `StoredNodes.secret`. It is known while this node has a lease."""
        self._leased_until = float("-inf")
        self._lock = threading.Lock()
        self._closing = threading.Event()

    def check_lease(self) -> None:
        """Raise `Unavailable` if this node has no lease and cannot get one."""
        if time.monotonic() < self._leased_until:
            return
        with self._lock:
            if time.monotonic() >= self._leased_until:
                self._renew()

    def list_instances(self) -> list[InstanceDefinition]:
        """Return the instances of all nodes, by group and name."""
        return self._nodes.definitions()

    def locate(self, group: str, name: str, secret: str) -> RemoteNode | None:
        """See `InstanceLocator.locate`. Adopts the instance if its owner is gone."""
        if (group, name) in self._registry.names():
            return None
        owner = self._nodes.owner(group, name)
        if owner is None or owner.node_id == self._nodes.node_id:
            return None
        if owner.is_gone:
            if not self._adopt(group, name):
                raise Unavailable("The consumer instance is moving to another node. Retry.")
            return None
        if secret and hmac.compare_digest(secret.encode(), self.secret.encode()):
            raise Unavailable("The consumer instance has just moved to another node. Retry.")
        return RemoteNode(owner.url, self.secret, owner.timeout)

    def live_nodes(self) -> dict[str, RemoteNode]:
        """See `QueueLocator.live_nodes`."""
        self.check_lease()  # the secret is known then
        found = self._nodes.live_others()
        return {lease_name(node_id): RemoteNode(url, self.secret) for node_id, url in found.items()}

    def start(self, has_workers: Callable[[], bool], may_adopt: Callable[[], bool]) -> None:
        """Hold the lease while `has_workers` returns True, and adopt instances while `may_adopt` does."""
        threading.Thread(target=self._run, args=(has_workers, may_adopt), name="lease", daemon=True).start()

    def close(self) -> None:
        """Release the lease."""
        self._closing.set()
        with self._lock:
            self._release()

    def _run(self, has_workers: Callable[[], bool], may_adopt: Callable[[], bool]) -> None:
        while not self._closing.wait(_RENEW_INTERVAL):
            try:
                with self._lock:
                    if has_workers():
                        self._renew()
                    else:
                        self._release()
                if has_workers() and may_adopt():
                    for group, name in self._nodes.expired_instances(_ADOPT_AFTER_SECONDS):
                        self._adopt(group, name)
            except KafkaHttpError as error:
                log.debug("Lease on the consumer instances was not renewed: %s", error.message)
            except Exception:
                log.exception("Unexpected error while the lease was renewed")

    def _renew(self) -> None:
        started = time.monotonic()
        own = self._registry.names()
        self._nodes.renew_lease()
        if started >= self._leased_until:  # while there was no lease, other nodes may have adopted instances
            self.secret = self._nodes.secret()
            for group, name in self._nodes.adopted_by_others(own):
                log.warning("Consumer instance %s of group %s was adopted by another node.", name, group)
                self._registry.forget(group, name)
        self._leased_until = started + LEASE_SECONDS - _LEASE_MARGIN

    def _release(self) -> None:
        if self._leased_until > float("-inf"):
            self._leased_until = float("-inf")
            self._nodes.release_lease()

    def _adopt(self, group: str, name: str) -> bool:
        """Return whether this node was the first to adopt the instance."""
        stored = self._nodes.adopt(group, name)
        if stored is None:
            return False
        log.info("Adopted consumer instance %s of group %s.", name, group)
        self._registry.adopt(stored)
        return True
