"""What core asks of the state store for consumer instances: enough to bring them back after the process died."""

from typing import Protocol

from kafka_http.records import Definition, InstanceProgress, StoredInstance


class InstanceStore(Protocol):
    """Keeps the instances of this node. What a call has saved survives the end of the process.

    Any thread may call; calls for one instance come one after the other. All raise `Unavailable` where the store
    cannot be reached.
    """

    def create(self, definition: Definition) -> None:
        """Raises `InstanceExists` where an instance of that group and name is there, on whatever node."""

    def update(self, definition: Definition) -> None:
        """Replace a definition, whose group, name and `member_id` stay. Without effect where it is gone."""

    def save(self, group: str, name: str, progress: InstanceProgress) -> None:
        """Replace the progress: called with each page that was handed out. Without effect where it is gone."""

    def delete(self, group: str, name: str) -> None:
        """Forget the instance and its progress; none is as good."""

    def load(self) -> list[StoredInstance]:
        """All instances that are this node's to hold."""


class MemoryInstanceStore:
    """Keeps nothing beyond the process: for one that ends with its instances."""

    def create(self, definition: Definition) -> None: ...

    def update(self, definition: Definition) -> None: ...

    def save(self, group: str, name: str, progress: InstanceProgress) -> None: ...

    def delete(self, group: str, name: str) -> None: ...

    def load(self) -> list[StoredInstance]:
        return []
