"""This node among those that share its store: the lease on its instances, and those of nodes that are gone."""

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

_RENEW_EVERY = 1.0
_MARGIN = 0.5
"""The lease is taken to be over that much earlier than the database has it."""

_ORPHANED_SECONDS = 5.0
"""How long after the end of its lease the instances of a node are adopted though nobody calls them."""


class InstanceSharing:
    """Any thread may call. Without a lease none of this node's instances may be used: others may have them."""

    def __init__(self, nodes: StoredNodes, registry: InstanceRegistry) -> None:
        self._nodes = nodes
        self._registry = registry
        self._secret = ""
        self._leased_until = float("-inf")
        self._lock = threading.Lock()
        self._closing = threading.Event()

    def check(self) -> None:
        """Raise `Unavailable` where this node has no lease and cannot have one."""
        if time.monotonic() < self._leased_until:
            return
        with self._lock:
            if time.monotonic() >= self._leased_until:
                self._renew()

    def list_instances(self) -> list[InstanceDefinition]:
        """Those of all nodes, by group and name."""
        return self._nodes.definitions()

    def locate(self, group: str, name: str, secret: str) -> RemoteNode | None:
        """As `Nodes.locate`. Adopts the instance where its owner is gone."""
        if (group, name) in self._registry.names():
            return None
        owner = self._nodes.owner(group, name)
        if owner is None or owner.node_id == self._nodes.node_id:
            return None
        if owner.is_gone:
            if not self._adopt(group, name):
                raise Unavailable("The consumer instance is just going to another node, try again.")
            return None
        if secret and hmac.compare_digest(secret.encode(), self._secret.encode()):
            raise Unavailable("The consumer instance has just gone to another node, try again.")
        return RemoteNode(owner.url, self._secret, owner.timeout)

    def keep(self, is_attended: Callable[[], bool], may_adopt: Callable[[], bool]) -> None:
        """Hold the lease from now on, while there are workers to answer for it; adopt instances as soon as one may."""
        threading.Thread(target=self._keep, args=(is_attended, may_adopt), name="lease", daemon=True).start()

    def close(self) -> None:
        """Give up the lease."""
        self._closing.set()
        with self._lock:
            self._give_up()

    def _keep(self, is_attended: Callable[[], bool], may_adopt: Callable[[], bool]) -> None:
        while not self._closing.wait(_RENEW_EVERY):
            try:
                with self._lock:
                    if is_attended():
                        self._renew()
                    else:
                        self._give_up()
                if is_attended() and may_adopt():
                    for group, name in self._nodes.orphans(_ORPHANED_SECONDS):
                        self._adopt(group, name)
            except KafkaHttpError as error:
                log.debug("The lease on the consumer instances is not renewed: %s", error.message)
            except Exception:
                log.exception("Keeping the lease failed; it goes on")

    def _renew(self) -> None:
        began = time.monotonic()
        held = self._registry.names()
        self._nodes.renew()
        if began >= self._leased_until:
            self._secret = self._nodes.secret()
            for group, name in self._nodes.lost(held):
                log.warning("Another node has adopted the consumer instance %s of the group %s", name, group)
                self._registry.forget(group, name)
        self._leased_until = began + LEASE_SECONDS - _MARGIN

    def _give_up(self) -> None:
        if self._leased_until > float("-inf"):
            self._leased_until = float("-inf")
            self._nodes.give_up()

    def _adopt(self, group: str, name: str) -> bool:
        """Whether no other node was quicker."""
        stored = self._nodes.adopt(group, name)
        if stored is None:
            return False
        log.info("Adopts the consumer instance %s of the group %s", name, group)
        self._registry.adopt(stored)
        return True
