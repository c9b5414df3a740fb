"""The node's state, in SQLite or PostgreSQL: what must outlive every process."""

from kafka_http.store.callbacks import StoredCallbacks
from kafka_http.store.database import Database, open_database, parse_store_url
from kafka_http.store.instances import StoredInstances
from kafka_http.store.keys import StoredKeys
from kafka_http.store.nodes import StoredNodes
from kafka_http.store.tasks import StoredTasks

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
