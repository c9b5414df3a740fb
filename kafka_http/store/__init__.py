"""The node's state, in SQLite or PostgreSQL: what must outlive every process."""

from kafka_http.store.database import Database, open_database
from kafka_http.store.instances import StoredInstances

__all__ = ["Database", "StoredInstances", "open_database"]
