"""Consumer instances in the state store: the implementation of `InstanceStore`."""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

import msgspec
from sqlalchemy import Connection, bindparam, delete, func, insert, select, update

from kafka_http.errors import InstanceExists, Unavailable
from kafka_http.node.store.database import Database
from kafka_http.node.store.tables import instances, read_meta, tasks, write_meta
from kafka_http.records import (
    InstanceDefinition,
    InstanceProgress,
    InstanceSettings,
    RecordPlace,
    StoredInstance,
    TopicPartition,
)

_THIS = (instances.c.group_id == bindparam("of_group"), instances.c.name == bindparam("of_name"))
_OURS = (*_THIS, instances.c.owner == bindparam("of_owner"))
_FIND = select(instances.c.group_instance_id).where(*_THIS)
_DEFINITION = ("settings", "topics", "pattern", "partitions")
_PROGRESS = ("generation", "positions", "delivered", "committed", "topic_ids")
_DEFINE = update(instances).where(*_OURS).values({each: bindparam(each) for each in _DEFINITION})
_SAVE = update(instances).where(*_OURS).values({each: bindparam(each) for each in _PROGRESS})
_DELETE = delete(instances).where(*_OURS)
_LOAD = select(instances).where(instances.c.owner == bindparam("of_owner"))


class StoredInstances:
    """The instances of one node in a database. Any thread may call; a call returns after its commit.

    Instances that another node has adopted are not changed.
    """

    def __init__(self, database: Database, node_id: str = "") -> None:
        self._database = database
        self._node_id = node_id

    def claim_cluster(self, cluster_id: str) -> None:
        """Bind the store to a Kafka cluster. Raises `Unavailable` if it has instances or tasks of another cluster."""

        def claim(connection: Connection) -> None:
            known = read_meta(connection, "cluster_id")
            if known == cluster_id:
                return
            count = connection.scalar(select(func.count()).select_from(instances)) or 0
            waiting = connection.scalar(select(func.count()).where(tasks.c.status == "pending")) or 0
            if known is not None and (count or waiting):
                raise _other_cluster(count, waiting, known, cluster_id)
            write_meta(connection, "cluster_id", cluster_id)

        self._database.write(claim)

    def create(self, definition: InstanceDefinition) -> None:
        def create(connection: Connection) -> None:
            there = connection.scalar(_FIND, _this(definition.group, definition.name))
            if there is None:
                connection.execute(insert(instances), _new_row(definition) | {"owner": self._node_id})
            elif there != definition.member_id:
                raise InstanceExists()

        self._database.write(create)

    def update(self, definition: InstanceDefinition) -> None:
        self._execute(_DEFINE, self._ours(definition.group, definition.name) | _defined(definition))

    def save(self, group: str, name: str, progress: InstanceProgress, *, durable: bool = True) -> None:
        values = self._ours(group, name) | _progressed(progress)
        self._database.write(lambda connection: connection.execute(_SAVE, values), durable=durable)

    def delete(self, group: str, name: str) -> None:
        self._execute(_DELETE, self._ours(group, name))

    def load(self) -> list[StoredInstance]:
        ours = {"of_owner": self._node_id}
        rows = self._database.write(lambda connection: connection.execute(_LOAD, ours).mappings().all())
        return [instance_from_row(row) for row in rows]

    def _ours(self, group: str, name: str) -> dict[str, Any]:
        return _this(group, name) | {"of_owner": self._node_id}

    def _execute(self, statement: Any, values: Mapping[str, Any]) -> None:
        self._database.write(lambda connection: connection.execute(statement, values))


def _other_cluster(count: int, waiting: int, known: str, other: str) -> Unavailable:
    held = f"{count} consumer instances" + (f" and {waiting} tasks" if waiting else "")
    return Unavailable(
        f"The state store holds {held} of the Kafka cluster {known}, but bootstrap_servers are brokers of the "
        f"cluster {other}. Set bootstrap_servers to their cluster, or set another data_dir or store_url."
    )


def _this(group: str, name: str) -> dict[str, Any]:
    return {"of_group": group, "of_name": name}


def _new_row(definition: InstanceDefinition) -> dict[str, Any]:
    whose = {"group_id": definition.group, "name": definition.name, "group_instance_id": definition.member_id}
    return whose | _defined(definition) | _progressed(InstanceProgress())


def _defined(definition: InstanceDefinition) -> dict[str, Any]:
    settings, topics, partitions = map(_json, (definition.settings, definition.topics, definition.partitions))
    return dict(zip(_DEFINITION, (settings, topics, definition.pattern, partitions), strict=True))


def _progressed(progress: InstanceProgress) -> dict[str, Any]:
    places = map(_json, (progress.positions, progress.delivered, progress.committed, progress.ids))
    return dict(zip(_PROGRESS, (progress.generation, *places), strict=True))


def instance_from_row(row: Mapping[Any, Any]) -> StoredInstance:
    """Decode a row of the table `instances`."""
    definition = InstanceDefinition(
        row["group_id"],
        row["name"],
        row["group_instance_id"],
        msgspec.json.decode(row["settings"], type=InstanceSettings),
        msgspec.json.decode(row["topics"], type=tuple[str, ...]),
        row["pattern"],
        msgspec.json.decode(row["partitions"], type=tuple[TopicPartition, ...]),
    )
    positions, delivered, committed = (_places(row[each]) for each in ("positions", "delivered", "committed"))
    ids = msgspec.json.decode(row["topic_ids"], type=dict[str, UUID | None])
    progress = InstanceProgress(row["generation"], positions, delivered, committed, ids)
    return StoredInstance(definition, progress)


def _places(text: str) -> tuple[RecordPlace, ...]:
    return msgspec.json.decode(text, type=tuple[RecordPlace, ...])


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()
