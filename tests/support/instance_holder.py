"""A process that holds consumer instances, without HTTP. The module itself runs as such a process."""

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kafka_http.broker import KafkaBroker
from kafka_http.config import Config
from kafka_http.consumers.instance_registry import InstanceRegistry
from kafka_http.consumers.instance_service import InstanceStore, MemoryInstanceStore
from kafka_http.node.store import StoredInstances, open_database
from kafka_http.read.page_reader import PageReader, ReadLimits
from kafka_http.records import InstanceSettings, offsets_of, record_places


class Holder:
    """The instances of a process. With a `directory`, they are stored there."""

    def __init__(self, bootstrap_servers: str, directory: Path | None = None, **settings: Any) -> None:
        self.broker = KafkaBroker(Config(bootstrap_servers=tuple(bootstrap_servers.split(",")), **settings))
        self._database = None if directory is None else open_database(directory)
        store: InstanceStore = MemoryInstanceStore() if self._database is None else StoredInstances(self._database)
        self.instances = InstanceRegistry(self.broker, store, limit=1000, idle_timeout=300)
        self._reader = PageReader(self.broker.log)

    def close(self, *, leave: bool = True) -> None:
        self.instances.close(leave=leave)
        self.broker.close(2)
        if self._database is not None:
            self._database.close()

    def create(
        self, group: str, name: str, topics: Sequence[str] = (), pattern: str | None = None, **settings: Any
    ) -> None:
        self.instances.create(group, name, InstanceSettings(**settings))
        self.instances.subscribe(group, name, topics, pattern)

    def read(self, group: str, name: str, limit: int = 10_000, timeout: float = 10) -> list[bytes | None]:
        """Read a page and return its values. Wait for the assignment only."""
        lease = self.instances.acquire_lease(group, name, timeout)
        try:
            page = self._reader.read(
                offsets_of(lease.positions), ReadLimits(limit, 1 << 20), reset=lease.settings.reset
            )
        except BaseException:
            self.instances.release_lease(lease)
            raise
        delivered = record_places({each: at + 1 for each, at in page.last.items()})
        self.instances.release_lease(lease, record_places(page.next), delivered)
        return [each.value for each in page.records]

    def read_all(self, group: str, name: str, count: int, seconds: float = 20) -> list[bytes | None]:
        """Read pages until there are `count` values."""
        values: list[bytes | None] = []
        until = time.monotonic() + seconds
        while len(values) < count and time.monotonic() < until:
            values += self.read(group, name)
        return values


def main(bootstrap_servers: str, directory: str, group: str, topic: str, count: str) -> None:
    """Create an instance, read `count` records with it, and wait to be killed."""
    holder = Holder(bootstrap_servers, Path(directory))
    holder.create(group, "killed", [topic], auto_commit=False)
    print(len(holder.read(group, "killed", int(count))), flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main(*sys.argv[1:])
