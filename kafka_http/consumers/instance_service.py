"""Consumer instances of the v2 API: the Protocols of the service that its routes call, of the store and of the locator.

An instance belongs to a consumer group. It lives in the node's daemon, or in this process if `daemon = inline`. Records
do not pass through the daemon: a route acquires a read lease, reads from Kafka itself, and releases the lease with the
offsets that it delivered.
"""

from collections.abc import Sequence
from typing import Protocol

from msgspec import Struct

from kafka_http.name_filter import ALL_NAMES, NameFilter
from kafka_http.records import (
    InstanceDefinition,
    InstanceProgress,
    InstanceSettings,
    OffsetEntry,
    OffsetReset,
    StoredInstance,
    TopicIds,
    TopicPartition,
)


class InstanceCaller(Struct, frozen=True):
    """Who calls: it may use its own instances (`sees_all`: all), and may read the topics in `readable`."""

    owner: str = ""
    sees_all: bool = False
    readable: NameFilter = ALL_NAMES

    def may_use(self, owner: str) -> bool:
        """Whether it may use an instance of this owner. An instance without an owner is only for `sees_all`."""
        return self.sees_all or (owner == self.owner and owner != "")


ANY_CALLER = InstanceCaller(sees_all=True)
"""The caller of each call while authentication is off."""


class ReadLease(Struct, frozen=True):
    """The exclusive right to read the next page of an instance.

    It ends when it is released, when the connection of its owner ends, or when it expires.

    settings: those of the instance.
    positions: the offset to read next of each assigned partition.
    joining: whether the group has not assigned partitions yet. Without it, no positions mean no partitions.
    ids: the ids of the topics that the positions belong to. A topic that does not exist yet has no id.
    by_pattern: whether the instance has subscribed to a pattern.
    """

    id: str
    settings: InstanceSettings
    positions: Sequence[OffsetEntry]
    joining: bool = False
    ids: TopicIds = {}
    by_pattern: bool = False


class InstanceService(Protocol):
    """The consumer instances of the node. All methods block, any thread may call them, and times are in seconds.

    All except `list_instances` and `create` raise `InstanceNotFound`, also for an instance that the caller may not use.
    Each call for an instance counts as use. An instance that is not used for a while is removed.
    """

    def list_instances(self) -> list[InstanceDefinition]:
        """Return all instances, also those of other nodes on the same store, by group and name."""

    def create(self, group: str, name: str, settings: InstanceSettings, caller: InstanceCaller) -> None:
        """Create an instance of the caller. Raises `InstanceExists`, `TooManyInstances`."""

    def delete(self, group: str, name: str, caller: InstanceCaller) -> None:
        """Commit the delivered offsets if auto-commit is on, leave the group, and remove the instance."""

    def settings(self, group: str, name: str, caller: InstanceCaller) -> InstanceSettings:
        """Return the settings of an instance."""

    def subscribe(
        self, group: str, name: str, topics: Sequence[str], pattern: str | None, caller: InstanceCaller
    ) -> None:
        """Replace the subscription by topics, or by a pattern of topic names. Does not wait for the assignment.

        A pattern finds only topics that the caller may read now; each `acquire_lease` of the owner updates that. Raises
        `IllegalState` for an instance with a manual assignment.
        """

    def unsubscribe(self, group: str, name: str, caller: InstanceCaller) -> None:
        """Leave the group and remove the subscription or the manual assignment."""

    def subscription(self, group: str, name: str, caller: InstanceCaller) -> list[str]:
        """Return the subscribed topics, which are those that match if the subscription is a pattern."""

    def assign(self, group: str, name: str, partitions: Sequence[TopicPartition], caller: InstanceCaller) -> None:
        """Assign partitions manually.

        Raises `IllegalState` for an instance with a subscription, `TopicNotFound`, `PartitionNotFound`.
        """

    def assignments(self, group: str, name: str, caller: InstanceCaller) -> list[TopicPartition]:
        """Return the assigned partitions."""

    def seek(self, group: str, name: str, entries: Sequence[OffsetEntry], caller: InstanceCaller) -> None:
        """Set the offsets to read next. Waits for the assignment up to the instance's timeout.

        Raises `IllegalState` for a partition that is not assigned.
        """

    def seek_times(self, group: str, name: str, times: Sequence[OffsetEntry], caller: InstanceCaller) -> None:
        """Set the offsets to read next to the first records at or after a time.

        The `offset` of each entry is the time in milliseconds since 1970. Waits and raises as `seek` does.
        """

    def seek_ends(
        self,
        group: str,
        name: str,
        partitions: Sequence[TopicPartition],
        end: OffsetReset,
        caller: InstanceCaller,
    ) -> None:
        """Set the offsets to read next to an end of the log. Waits and raises as `seek` does."""

    def commit(self, group: str, name: str, entries: Sequence[OffsetEntry] | None, caller: InstanceCaller) -> None:
        """Commit the offsets after these records, or after the delivered records (None).

        After the last record of a log, this commits the end of the log. Waits for the assignment like `seek`. Raises
        `TopicNotFound`, `PartitionNotFound`; nothing is committed then.
        """

    def committed(
        self, group: str, name: str, partitions: Sequence[TopicPartition], caller: InstanceCaller
    ) -> list[OffsetEntry]:
        """Return the group's committed offsets. Partitions without one are left out."""

    def acquire_lease(self, group: str, name: str, timeout: float, caller: InstanceCaller) -> ReadLease:
        """Acquire the right to read the next page. Waits up to `timeout` for earlier readers and for the assignment.

        The lease is `joining` if there is no assignment in that time: renew or release it then. With auto-commit, this
        commits what was delivered under earlier leases, at least every 5 s. Raises `IllegalState` if the instance has
        neither a subscription nor an assignment, `InstanceBusy` if another reader does not release it in time.
        """

    def renew_lease(
        self, lease: ReadLease, positions: Sequence[OffsetEntry] = (), timeout: float = 0, recreated: Sequence[str] = ()
    ) -> ReadLease:
        """Return the lease with the current assignment, for a reader that has found no records so far.

        Waits up to `timeout` for an assignment; the lease is `joining` if there is none. `positions` are the offsets
        after the empty page. `recreated` are topics whose ids have changed. Raises `LeaseExpired`.
        """

    def release_lease(
        self, lease: ReadLease, positions: Sequence[OffsetEntry] = (), delivered: Sequence[OffsetEntry] = ()
    ) -> None:
        """End a lease.

        `positions` are the offsets to read next, and `delivered` the offsets after the last delivered records. Both are
        ignored for partitions that the instance has lost, and for a lease that has ended. Without them, nothing was
        delivered, and the next lease reads the same records.
        """


class InstanceStore(Protocol):
    """Stores the instances of this node, so that they survive the end of the process.

    Any thread may call; there is one call at a time for an instance. All methods raise `Unavailable`.
    """

    def create(self, definition: InstanceDefinition) -> None:
        """Store a new instance. Raises `InstanceExists` if any node has an instance of that group and name."""

    def update(self, definition: InstanceDefinition) -> None:
        """Replace a definition. Its group, name and `member_id` do not change. No effect if it was deleted."""

    def save(self, group: str, name: str, progress: InstanceProgress, *, durable: bool = True) -> None:
        """Replace the offsets of an instance. No effect if it was deleted.

        They survive the end of the process. If `durable` is false, a crash of the machine may lose the latest calls:
        records are then delivered again.
        """

    def delete(self, group: str, name: str) -> None:
        """Delete an instance if it exists."""

    def load(self) -> list[StoredInstance]:
        """Return all instances of this node."""


class MemoryInstanceStore:
    """An `InstanceStore` that stores nothing, for a process that ends with its instances (`daemon = inline`)."""

    def create(self, definition: InstanceDefinition) -> None: ...

    def update(self, definition: InstanceDefinition) -> None: ...

    def save(self, group: str, name: str, progress: InstanceProgress, *, durable: bool = True) -> None: ...

    def delete(self, group: str, name: str) -> None: ...

    def load(self) -> list[StoredInstance]:
        return []


class RemoteNode(Struct, frozen=True):
    """Another node: its URL, and the secret that authenticates calls between nodes.

    `timeout` is that of the instance that was looked up, in seconds.
    """

    url: str
    secret: str
    timeout: float = 0.0


class InstanceLocator(Protocol):
    """Finds the node of an instance, if nodes share a store."""

    def locate(self, group: str, name: str, secret: str) -> RemoteNode | None:
        """Return the node to forward a request for an instance to, or None for this node.

        `secret` is the one that the request came with. A request with the right secret was forwarded already and is not
        forwarded again. Raises `Unavailable`.
        """

    def node_secret(self) -> str:
        """Return the secret by which nodes recognize each other. It does not change. Raises `Unavailable`."""
