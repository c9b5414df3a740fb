"""The node's state, in SQLite or PostgreSQL: what must outlive every process."""

from kafka_http.node.store.database import Database, open_database, parse_store_url
from kafka_http.node.store.stored_instances import StoredInstances
from kafka_http.node.store.stored_keys import StoredKeys
from kafka_http.node.store.stored_nodes import StoredNodes
from kafka_http.node.store.stored_tasks import StoredCallbacks, StoredTasks

__all__ = [
    "Database",
    "StoredCallbacks",
    "StoredInstances",
    "StoredKeys",
    "StoredNodes",
    "StoredTasks",
    "open_database",
    "parse_store_url",
]
