"""The tables of the state store, and the upgrade of a store of an earlier version.

To change the schema, append an entry to `_STEPS`. The SQL must work for both SQLite and PostgreSQL; words in braces are
replaced (`_WORDS`). Never change an existing entry, because existing stores have run it.
"""

from sqlalchemy import Connection, TableClause, column, insert, select, table, update

from kafka_http.errors import Unavailable


def _table(name: str, columns: str) -> TableClause:
    return table(name, *map(column, columns.split()))


meta = _table("meta", "name value")
"""`schema_version`; `cluster_id`, the Kafka cluster of the instances and tasks; `secret`, which the nodes share."""

instances = _table(
    "instances",
    "group_id name group_instance_id created_at settings topics pattern partitions "
    "generation positions delivered committed topic_ids owner principal readable",
)
"""The definition and the progress of each consumer instance. Lists, settings and ids are JSON. `owner` is the id of a
node, or empty if only one node uses the store. `principal` made the instance; empty without authentication. `readable`
is the `NameFilter` of the topics that a pattern may find, as JSON."""

nodes = _table("nodes", "node_id url leased_until")
"""The nodes that share the store, and the end of each node's lease on its instances, in seconds since 1970 by the clock
of the database."""

tasks = _table(
    "tasks",
    "seq id topic status created ended records size outcome "
    "callback_url callback_status callback_attempts callback_due callback_reason principal",
)
"""Publishes that were answered with a 202, in the order of `seq`. When a task ends, `records` becomes null and `size`
(bytes) 0; `outcome` is JSON. Times are seconds since 1970. `callback_due` is null if there is no callback to send.
`principal` made the task; it is empty without authentication."""

topic_owners = _table("lanes", "topic owner")
"""The node that publishes the tasks of a topic, if nodes share the store."""

idempotency_keys = _table("idempotency_keys", "caller name fingerprint holder created status headers body")
"""`status`, `headers` (JSON) and `body` are the stored response, null while the request of `holder` is in progress."""

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
    (
        """CREATE TABLE tasks (
            seq {serial},
            id VARCHAR(64) NOT NULL UNIQUE,
            topic VARCHAR(255) NOT NULL,
            status VARCHAR(16) NOT NULL,
            created DOUBLE PRECISION NOT NULL,
            ended DOUBLE PRECISION,
            records {bytes},
            size BIGINT NOT NULL,
            outcome TEXT,
            callback_url TEXT,
            callback_status VARCHAR(16),
            callback_attempts INTEGER NOT NULL DEFAULT 0,
            callback_due DOUBLE PRECISION,
            callback_reason TEXT
        )""",
        "CREATE INDEX tasks_pending ON tasks (topic, seq) WHERE status = 'pending'",
        "CREATE INDEX tasks_ended ON tasks (ended) WHERE ended IS NOT NULL",
        "CREATE INDEX tasks_callback_due ON tasks (callback_due) WHERE callback_due IS NOT NULL",
        "CREATE TABLE lanes (topic VARCHAR(255) PRIMARY KEY NOT NULL, owner VARCHAR(64) NOT NULL)",
        """CREATE TABLE idempotency_keys (
            caller VARCHAR(255) NOT NULL,
            name VARCHAR(255) NOT NULL,
            fingerprint VARCHAR(64) NOT NULL,
            holder VARCHAR(128) NOT NULL,
            created DOUBLE PRECISION NOT NULL,
            status INTEGER,
            headers TEXT,
            body {bytes},
            PRIMARY KEY (caller, name)
        )""",
        "CREATE INDEX idempotency_keys_created ON idempotency_keys (created)",
        "CREATE INDEX idempotency_keys_running ON idempotency_keys (holder) WHERE status IS NULL",
    ),
    ("ALTER TABLE instances ADD COLUMN topic_ids TEXT NOT NULL DEFAULT '{{}}'",),
    (
        "ALTER TABLE instances ADD COLUMN principal VARCHAR(255) NOT NULL DEFAULT ''",
        "ALTER TABLE instances ADD COLUMN readable TEXT NOT NULL DEFAULT '{{}}'",
        "ALTER TABLE tasks ADD COLUMN principal VARCHAR(255) NOT NULL DEFAULT ''",
        "CREATE INDEX tasks_principal ON tasks (principal, id) WHERE principal <> ''",
    ),
)
_WORDS = {
    "sqlite": {"serial": "INTEGER PRIMARY KEY AUTOINCREMENT", "bytes": "BLOB"},
    "postgresql": {"serial": "BIGSERIAL PRIMARY KEY", "bytes": "BYTEA"},
}
_LOCK = 0x6B687474
"""The number of PostgreSQL's advisory lock for schema upgrades (`khtt` in ASCII)."""


def upgrade(connection: Connection) -> None:
    """Upgrade the tables to this version, step by step. Raises `Unavailable` if they have a later version."""
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_LOCK})")
    connection.exec_driver_sql(
        "CREATE TABLE IF NOT EXISTS meta (name VARCHAR(255) PRIMARY KEY NOT NULL, value TEXT NOT NULL)"
    )
    version = int(read_meta(connection, "schema_version") or 0)
    if version > len(_STEPS):
        raise Unavailable(
            f"The state store has schema version {version}, but this kafka_http only supports versions up to "
            f"{len(_STEPS)}: a newer kafka_http has used it. Install that one, or set another data_dir or store_url."
        )
    for step in _STEPS[version:]:
        for statement in step:
            connection.exec_driver_sql(statement.format_map(_WORDS[connection.dialect.name]))
    if version < len(_STEPS):
        write_meta(connection, "schema_version", str(len(_STEPS)))


def read_meta(connection: Connection, name: str) -> str | None:
    """Return a value of the table `meta`."""
    value: str | None = connection.scalar(select(meta.c.value).where(meta.c.name == name))
    return value


def write_meta(connection: Connection, name: str, value: str) -> None:
    """Insert or replace a value of the table `meta`."""
    changed = connection.execute(update(meta).where(meta.c.name == name).values(value=value))
    if not changed.rowcount:
        connection.execute(insert(meta).values(name=name, value=value))
