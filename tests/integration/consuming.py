"""A holder of consumer instances without HTTP. As a program, a process to be killed."""

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kafka_http.broker import KafkaBroker
from kafka_http.config import Config
from kafka_http.consumers.instance_registry import InstanceRegistry
from kafka_http.consumers.instance_store import InstanceStore, MemoryInstanceStore
from kafka_http.node.store import StoredInstances, open_database
from kafka_http.read.page_reader import PageReader, ReadLimits
from kafka_http.records import InstanceSettings, RecordPlace, TopicPartition


class Holder:
    """Consumer instances on a Kafka cluster, stored in `directory` if it is given."""

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
        """The values of one page, like a GET that waits only for the assignment."""
        loan = self.instances.borrow(group, name, timeout)
        positions = {TopicPartition(each.topic, each.partition): each.offset for each in loan.positions}
        try:
            page = self._reader.read(positions, ReadLimits(limit, 1 << 20), reset=loan.settings.reset)
        except BaseException:
            self.instances.drop(loan)
            raise
        behind = [RecordPlace(*each, at + 1) for each, at in page.last.items()]
        self.instances.give_back(loan, [RecordPlace(*each, at) for each, at in page.next.items()], behind)
        return [each.value for each in page.records]

    def read_all(self, group: str, name: str, count: int, seconds: float = 20) -> list[bytes | None]:
        """Read pages until there are at least `count` values or `seconds` have passed."""
        values: list[bytes | None] = []
        until = time.monotonic() + seconds
        while len(values) < count and time.monotonic() < until:
            values += self.read(group, name)
        return values


def main(bootstrap_servers: str, directory: str, group: str, topic: str, count: str) -> None:
    """Hold an instance that has read up to `count` records, and wait to be killed."""
    holder = Holder(bootstrap_servers, Path(directory))
    holder.create(group, "killed", [topic], auto_commit=False)
    print(len(holder.read(group, "killed", int(count))), flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main(*sys.argv[1:])
