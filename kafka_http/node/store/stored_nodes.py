"""The nodes that share a store: who owns which instance, by a lease on the database's clock."""

import secrets
from collections.abc import Collection

import msgspec
from msgspec import Struct
from sqlalchemy import ColumnElement, Connection, Join, insert, literal_column, or_, select, update

from kafka_http.node.store.database import Database
from kafka_http.node.store.stored_instances import stored_instance
from kafka_http.node.store.tables import instances, nodes, read_meta, write_meta
from kafka_http.records import InstanceDefinition, InstanceSettings, StoredInstance

LEASE_SECONDS = 5.0

_CLOCKS = {
    "postgresql": "EXTRACT(EPOCH FROM clock_timestamp())",
    "sqlite": "(julianday('now') - 2440587.5) * 86400.0",
}
Key = tuple[str, str]
"""Group and name of an instance."""


class InstanceOwner(Struct, frozen=True):
    """The node that has an instance, and whether its lease has run out. `timeout` is the instance's, in seconds."""

    node_id: str
    url: str
    is_gone: bool
    timeout: float


class StoredNodes:
    """One of the nodes on a database, and what it has to do with the others. Any thread may call.

    All raise `Unavailable` where the database cannot be reached.
    """

    def __init__(self, database: Database, node_id: str, url: str) -> None:
        self._database = database
        self.node_id = node_id
        self._url = url

    def secret(self) -> str:
        """What the nodes know each other by."""

        def read_or_make(connection: Connection) -> str:
            secret = read_meta(connection, "secret")
            if secret is None:
                secret = secrets.token_urlsafe(32)
                write_meta(connection, "secret", secret)
            return secret

        return self._database.write(read_or_make)

    def renew(self) -> None:
        """Answer for the instances that are this node's, for another `LEASE_SECONDS` from now."""

        def renew(connection: Connection) -> None:
            values = {"url": self._url, "leased_until": now_of(connection) + LEASE_SECONDS}
            ours = nodes.c.node_id == self.node_id
            if not connection.execute(update(nodes).where(ours).values(values)).rowcount:
                connection.execute(insert(nodes).values({"node_id": self.node_id} | values))

        self._database.write(renew)

    def give_up(self) -> None:
        """Let others have this node's instances at once."""

        def give_up(connection: Connection) -> None:
            ours = nodes.c.node_id == self.node_id
            connection.execute(update(nodes).where(ours).values(leased_until=now_of(connection)))

        self._database.write(give_up)

    def definitions(self) -> list[InstanceDefinition]:
        """The instances of all nodes, by group and name."""
        wanted = select(instances).order_by(instances.c.group_id, instances.c.name)
        rows = self._database.write(lambda connection: connection.execute(wanted).mappings().all())
        return [stored_instance(row).definition for row in rows]

    def owner(self, group: str, name: str) -> InstanceOwner | None:
        """The node that has an instance; None where there is no such instance."""

        def find(connection: Connection) -> InstanceOwner | None:
            row = connection.execute(
                select(instances.c.owner, nodes.c.url, nodes.c.leased_until - now_of(connection), instances.c.settings)
                .select_from(_owned())
                .where(instances.c.group_id == group, instances.c.name == name)
            ).first()
            if row is None:
                return None
            settings = msgspec.json.decode(row[3], type=InstanceSettings)
            return InstanceOwner(row[0], row[1] or "", row[2] is None or row[2] <= 0, settings.timeout)

        return self._database.write(find)

    def adopt(self, group: str, name: str) -> StoredInstance | None:
        """Make an instance this node's own, where its owner's lease has run out; None where another was quicker."""

        def adopt(connection: Connection) -> StoredInstance | None:
            this = (instances.c.group_id == group, instances.c.name == name)
            leased = select(nodes.c.node_id).where(nodes.c.leased_until > now_of(connection))
            taken = connection.execute(
                update(instances).where(*this, instances.c.owner.not_in(leased)).values(owner=self.node_id)
            )
            if not taken.rowcount:
                return None
            return stored_instance(connection.execute(select(instances).where(*this)).mappings().one())

        return self._database.write(adopt)

    def orphans(self, seconds: float) -> list[Key]:
        """The instances whose owner's lease has run out so long ago."""

        def find(connection: Connection) -> list[Key]:
            gone = or_(nodes.c.leased_until.is_(None), nodes.c.leased_until <= now_of(connection) - seconds)
            found = connection.execute(
                select(instances.c.group_id, instances.c.name)
                .select_from(_owned())
                .where(gone, instances.c.owner != self.node_id)
            )
            return [(group, name) for group, name in found]

        return self._database.write(find)

    def lost(self, keys: Collection[Key]) -> list[Key]:
        """Which of these instances have become another node's."""

        def find(connection: Connection) -> list[Key]:
            found = connection.execute(
                select(instances.c.group_id, instances.c.name).where(instances.c.owner != self.node_id)
            )
            others = {(group, name) for group, name in found}
            return [each for each in keys if each in others]

        return self._database.write(find) if keys else []


def _owned() -> Join:
    return instances.outerjoin(nodes, nodes.c.node_id == instances.c.owner)


def now_of(connection: Connection) -> ColumnElement[float]:
    """The database's clock, in seconds since 1970."""
    return literal_column(_CLOCKS[connection.dialect.name])
