"""Consumer instances in the state store: the implementation of `InstanceStore`."""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

import msgspec
from sqlalchemy import Connection, bindparam, delete, func, insert, select, update

from kafka_http.errors import InstanceExists, Unavailable
from kafka_http.name_filter import NameFilter
from kafka_http.node.store.database import Database
from kafka_http.node.store.tables import instances, read_meta, tasks, write_meta
from kafka_http.records import (
    InstanceDefinition,
    InstanceProgress,
    InstanceSettings,
    OffsetEntry,
    StoredInstance,
    TopicPartition,
)

_SAME_NAME = (instances.c.group_id == bindparam("of_group"), instances.c.name == bindparam("of_name"))
_OWNED = (*_SAME_NAME, instances.c.owner == bindparam("of_owner"))
_FIND = select(instances.c.group_instance_id).where(*_SAME_NAME)
_DEFINITION = ("settings", "topics", "pattern", "partitions", "readable")
_PROGRESS = ("generation", "positions", "delivered", "committed", "topic_ids")
_DEFINE = update(instances).where(*_OWNED).values({each: bindparam(each) for each in _DEFINITION})
_SAVE = update(instances).where(*_OWNED).values({each: bindparam(each) for each in _PROGRESS})
_DELETE = delete(instances).where(*_OWNED)
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
            member_id = connection.scalar(_FIND, _name_values(definition.group, definition.name))
            if member_id is None:
                connection.execute(insert(instances), self._new_row(definition))
            elif member_id != definition.member_id:
                raise InstanceExists()

        self._database.write(create)

    def update(self, definition: InstanceDefinition) -> None:
        self._execute(_DEFINE, self._owned(definition.group, definition.name) | _definition_values(definition))

    def save(self, group: str, name: str, progress: InstanceProgress, *, durable: bool = True) -> None:
        values = self._owned(group, name) | _progress_values(progress)
        self._database.write(lambda connection: connection.execute(_SAVE, values), durable=durable)

    def delete(self, group: str, name: str) -> None:
        self._execute(_DELETE, self._owned(group, name))

    def load(self) -> list[StoredInstance]:
        owner = {"of_owner": self._node_id}
        rows = self._database.write(lambda connection: connection.execute(_LOAD, owner).mappings().all())
        return [instance_from_row(row) for row in rows]

    def _new_row(self, definition: InstanceDefinition) -> dict[str, Any]:
        identity = {"group_id": definition.group, "name": definition.name, "group_instance_id": definition.member_id}
        owners = {"owner": self._node_id, "principal": definition.owner}
        return identity | owners | _definition_values(definition) | _progress_values(InstanceProgress())

    def _owned(self, group: str, name: str) -> dict[str, Any]:
        return _name_values(group, name) | {"of_owner": self._node_id}

    def _execute(self, statement: Any, values: Mapping[str, Any]) -> None:
        self._database.write(lambda connection: connection.execute(statement, values))


def _other_cluster(count: int, waiting: int, known: str, other: str) -> Unavailable:
    content = f"{count} consumer instances" + (f" and {waiting} tasks" if waiting else "")
    return Unavailable(
        f"The state store holds {content} of the Kafka cluster {known}, but bootstrap_servers are brokers of the "
        f"cluster {other}. Set bootstrap_servers to their cluster, or set another data_dir or store_url."
    )


def _name_values(group: str, name: str) -> dict[str, Any]:
    return {"of_group": group, "of_name": name}


def _definition_values(definition: InstanceDefinition) -> dict[str, Any]:
    settings, topics, partitions, readable = map(
        _json, (definition.settings, definition.topics, definition.partitions, definition.readable)
    )
    return dict(zip(_DEFINITION, (settings, topics, definition.pattern, partitions, readable), strict=True))


def _progress_values(progress: InstanceProgress) -> dict[str, Any]:
    parts = map(_json, (progress.positions, progress.delivered, progress.committed, progress.ids))
    return dict(zip(_PROGRESS, (progress.generation, *parts), strict=True))


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
        row["principal"],
        msgspec.json.decode(row["readable"], type=NameFilter),
    )
    positions, delivered, committed = (_offset_entries(row[each]) for each in ("positions", "delivered", "committed"))
    ids = msgspec.json.decode(row["topic_ids"], type=dict[str, UUID | None])
    progress = InstanceProgress(row["generation"], positions, delivered, committed, ids)
    return StoredInstance(definition, progress)


def _offset_entries(text: str) -> tuple[OffsetEntry, ...]:
    return msgspec.json.decode(text, type=tuple[OffsetEntry, ...])


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()
