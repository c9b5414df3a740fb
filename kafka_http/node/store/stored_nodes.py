"""The nodes that share a store: which node owns which instance, with leases by the database's clock."""

import secrets
from collections.abc import Collection

import msgspec
from msgspec import Struct
from sqlalchemy import ColumnElement, Connection, Join, insert, literal_column, or_, select, update

from kafka_http.node.store.database import Database
from kafka_http.node.store.stored_instances import instance_from_row
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
    """The node that has an instance. `is_gone`: its lease has expired. `timeout` is the instance's, in seconds."""

    node_id: str
    url: str
    is_gone: bool
    timeout: float


class StoredNodes:
    """One of the nodes on a database, and its view of the others. Any thread may call; a call returns after its commit.

    All methods raise `Unavailable` if the database cannot be reached.
    """

    def __init__(self, database: Database, node_id: str, url: str) -> None:
        self._database = database
        self.node_id = node_id
        self._url = url

    def secret(self) -> str:
        """Return the secret by which the nodes recognize each other, created by the first of them."""

        def read_or_make(connection: Connection) -> str:
            secret = read_meta(connection, "secret")
            if secret is None:
                secret = secrets.token_urlsafe(32)
                write_meta(connection, "secret", secret)
            return secret

        return self._database.write(read_or_make)

    def renew_lease(self) -> None:
        """Extend the lease on this node's instances to `LEASE_SECONDS` from now."""

        def renew(connection: Connection) -> None:
            values = {"url": self._url, "leased_until": database_time(connection) + LEASE_SECONDS}
            own = nodes.c.node_id == self.node_id
            if not connection.execute(update(nodes).where(own).values(values)).rowcount:
                connection.execute(insert(nodes).values({"node_id": self.node_id} | values))

        self._database.write(renew)

    def release_lease(self) -> None:
        """End the lease, so that other nodes can adopt this node's instances at once."""

        def release(connection: Connection) -> None:
            own = nodes.c.node_id == self.node_id
            connection.execute(update(nodes).where(own).values(leased_until=database_time(connection)))

        self._database.write(release)

    def live_others(self) -> dict[str, str]:
        """Return the URLs of the other nodes that have a lease, by node id."""

        def find(connection: Connection) -> dict[str, str]:
            is_live = nodes.c.leased_until > database_time(connection)
            others = select(nodes.c.node_id, nodes.c.url).where(is_live, nodes.c.node_id != self.node_id)
            return {each.node_id: each.url for each in connection.execute(others)}

        return self._database.write(find)

    def definitions(self) -> list[InstanceDefinition]:
        """Return the instances of all nodes, by group and name."""
        wanted = select(instances).order_by(instances.c.group_id, instances.c.name)
        rows = self._database.write(lambda connection: connection.execute(wanted).mappings().all())
        return [instance_from_row(row).definition for row in rows]

    def owner(self, group: str, name: str) -> InstanceOwner | None:
        """Return the node that has an instance, or None if there is no such instance."""

        def find(connection: Connection) -> InstanceOwner | None:
            row = connection.execute(
                select(
                    instances.c.owner,
                    nodes.c.url,
                    nodes.c.leased_until - database_time(connection),
                    instances.c.settings,
                )
                .select_from(_instances_with_nodes())
                .where(instances.c.group_id == group, instances.c.name == name)
            ).first()
            if row is None:
                return None
            settings = msgspec.json.decode(row[3], type=InstanceSettings)
            return InstanceOwner(row[0], row[1] or "", row[2] is None or row[2] <= 0, settings.timeout)

        return self._database.write(find)

    def adopt(self, group: str, name: str) -> StoredInstance | None:
        """Take over an instance whose owner's lease has expired. Returns None if another node was faster."""

        def adopt(connection: Connection) -> StoredInstance | None:
            same_name = (instances.c.group_id == group, instances.c.name == name)
            leased = select(nodes.c.node_id).where(nodes.c.leased_until > database_time(connection))
            taken = connection.execute(
                update(instances).where(*same_name, instances.c.owner.not_in(leased)).values(owner=self.node_id)
            )
            if not taken.rowcount:
                return None
            return instance_from_row(connection.execute(select(instances).where(*same_name)).mappings().one())

        return self._database.write(adopt)

    def expired_instances(self, seconds: float) -> list[Key]:
        """Return the instances of other nodes whose lease expired at least `seconds` ago."""

        def find(connection: Connection) -> list[Key]:
            gone = or_(nodes.c.leased_until.is_(None), nodes.c.leased_until <= database_time(connection) - seconds)
            found = connection.execute(
                select(instances.c.group_id, instances.c.name)
                .select_from(_instances_with_nodes())
                .where(gone, instances.c.owner != self.node_id)
            )
            return [(group, name) for group, name in found]

        return self._database.write(find)

    def adopted_by_others(self, keys: Collection[Key]) -> list[Key]:
        """Return those of the instances that belong to another node now."""

        def find(connection: Connection) -> list[Key]:
            found = connection.execute(
                select(instances.c.group_id, instances.c.name).where(instances.c.owner != self.node_id)
            )
            others = {(group, name) for group, name in found}
            return [each for each in keys if each in others]

        return self._database.write(find) if keys else []


def _instances_with_nodes() -> Join:
    return instances.outerjoin(nodes, nodes.c.node_id == instances.c.owner)


def database_time(connection: Connection) -> ColumnElement[float]:
    """Return the SQL of the database's clock, in seconds since 1970."""
    return literal_column(_CLOCKS[connection.dialect.name])
