"""The tables, and how a store of an earlier version comes to have them.

A change of the schema is one more entry in `_STEPS`, in SQL that SQLite and PostgreSQL both take; entries that are
there stay as they are, since stores in the field have run them.
"""

from sqlalchemy import Connection, column, insert, select, table, update

from kafka_http.errors import Unavailable

meta = table("meta", column("name"), column("value"))
"""`schema_version`; `cluster_id`, the Kafka cluster that the instances are of; `secret`, which all nodes know."""

instances = table(
    "instances",
    *map(column, ("group_id", "name", "group_instance_id", "created_at")),
    *map(column, ("settings", "topics", "pattern", "partitions")),
    *map(column, ("generation", "positions", "delivered", "committed", "owner")),
)
"""What defines each consumer instance, and how far it has come. Lists and settings are JSON. `owner` is a node's id,
empty where a store is one node's alone."""

nodes = table("nodes", *map(column, ("node_id", "url", "leased_until")))
"""The nodes that share the store, and until when each may answer for the instances it owns: seconds since 1970 by the
database's clock."""

_STEPS = (
    (
        """CREATE TABLE instances (
            group_id VARCHAR(255) NOT NULL,
            name VARCHAR(255) NOT NULL,
            group_instance_id VARCHAR(255) NOT NULL,
            created_at TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
            settings TEXT NOT NULL,
            topics TEXT NOT NULL,
            pattern TEXT,
            partitions TEXT NOT NULL,
            generation BIGINT,
            positions TEXT NOT NULL,
            delivered TEXT NOT NULL,
            committed TEXT NOT NULL,
            PRIMARY KEY (group_id, name)
        )""",
    ),
    (
        "ALTER TABLE instances ADD COLUMN owner VARCHAR(64) NOT NULL DEFAULT ''",
        """CREATE TABLE nodes (
            node_id VARCHAR(64) PRIMARY KEY NOT NULL,
            url TEXT NOT NULL,
            leased_until DOUBLE PRECISION NOT NULL
        )""",
    ),
)
_LOCK = 0x6B687474
"""Which of PostgreSQL's advisory locks says that a node is at the schema. (`khtt`.)"""


def upgrade(connection: Connection) -> None:
    """Bring the tables up to this version, step by step. Raises `Unavailable` for those of a later version."""
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_LOCK})")
    connection.exec_driver_sql(
        "CREATE TABLE IF NOT EXISTS meta (name VARCHAR(255) PRIMARY KEY NOT NULL, value TEXT NOT NULL)"
    )
    version = int(read_meta(connection, "schema_version") or 0)
    if version > len(_STEPS):
        raise Unavailable(
            f"The state store has schema version {version}, and this kafka_http knows those up to {len(_STEPS)}: "
            "a newer kafka_http has used it. Install that one again, or choose another data_dir or store_url."
        )
    for step in _STEPS[version:]:
        for statement in step:
            connection.exec_driver_sql(statement)
    if version < len(_STEPS):
        write_meta(connection, "schema_version", str(len(_STEPS)))


def read_meta(connection: Connection, name: str) -> str | None:
    value: str | None = connection.scalar(select(meta.c.value).where(meta.c.name == name))
    return value


def write_meta(connection: Connection, name: str, value: str) -> None:
    changed = connection.execute(update(meta).where(meta.c.name == name).values(value=value))
    if not changed.rowcount:
        connection.execute(insert(meta).values(name=name, value=value))
