"""What core asks of the state store for consumer instances: enough to bring them back after the process died."""

from typing import Protocol

from msgspec import Struct

from kafka_http.core.instances import InstanceSettings, Place
from kafka_http.records import TopicPartition


class Definition(Struct, frozen=True):
    """What an instance is. `member_id` is its `group.instance.id`; it stays the same as long as the instance is there.

    At most one of `topics`, `pattern` and `partitions` is set: what it subscribed to, or was assigned.
    """

    group: str
    name: str
    member_id: str
    settings: InstanceSettings
    topics: tuple[str, ...] = ()
    pattern: str | None = None
    partitions: tuple[TopicPartition, ...] = ()


class Progress(Struct, frozen=True):
    """How far an instance has come: what it reads next, and behind the last record handed out of each partition.

    `committed` is the last that was committed of `delivered`. Of a subscribed instance it counts for `generation`
    and the one after alone; an assigned one has none.
    """

    generation: int | None = None
    positions: tuple[Place, ...] = ()
    delivered: tuple[Place, ...] = ()
    committed: tuple[Place, ...] = ()


class StoredInstance(Struct, frozen=True):
    definition: Definition
    progress: Progress


class InstanceStore(Protocol):
    """Keeps the instances of this node. What a call has saved survives the end of the process.

    Any thread may call; calls for one instance come one after the other. All raise `Unavailable` where the store
    cannot be reached.
    """

    def create(self, definition: Definition) -> None:
        """Raises `InstanceExists` where an instance of that group and name is there, on whatever node."""

    def update(self, definition: Definition) -> None:
        """Replace a definition, whose group, name and `member_id` stay. Without effect where it is gone."""

    def save(self, group: str, name: str, progress: Progress) -> None:
        """Replace the progress: called with each page that was handed out. Without effect where it is gone."""

    def delete(self, group: str, name: str) -> None:
        """Forget the instance and its progress; none is as good."""

    def load(self) -> list[StoredInstance]:
        """All instances that are this node's to hold."""


class MemoryStore:
    """Keeps nothing beyond the process: for one that ends with its instances."""

    def create(self, definition: Definition) -> None: ...

    def update(self, definition: Definition) -> None: ...

    def save(self, group: str, name: str, progress: Progress) -> None: ...

    def delete(self, group: str, name: str) -> None: ...

    def load(self) -> list[StoredInstance]:
        return []
