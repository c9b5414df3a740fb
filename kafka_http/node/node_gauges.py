"""The gauges of what the state store of a node holds."""

import logging
import threading
from collections.abc import Callable

from sqlalchemy import Connection, Select, func, literal_column, select

from kafka_http.errors import KafkaHttpError
from kafka_http.metrics import CALLBACKS_PENDING, KEYS_STORED, OUTBOX_TASKS, Gauge
from kafka_http.node.store import Database
from kafka_http.node.store.tables import idempotency_keys, tasks

log = logging.getLogger(__name__)

MAX_COUNT = 100_000
"""Rows that are counted: this takes milliseconds, in which nothing else can be written."""
_INTERVAL = 5.0
_ONE: Select[tuple[int]] = select(literal_column("1").label("one")).limit(MAX_COUNT)
_COUNTED: tuple[tuple[Gauge, Select[tuple[int]]], ...] = (
    (OUTBOX_TASKS, _ONE.select_from(tasks).where(tasks.c.status == literal_column("'pending'"))),
    (CALLBACKS_PENDING, _ONE.select_from(tasks).where(tasks.c.callback_due.is_not(None))),
    (KEYS_STORED, _ONE.select_from(idempotency_keys)),
)
"""Each gauge, and the rows that it counts. Indexes have all of them."""


class NodeGauges:
    """Counts in a thread of its own, from `start` to `close`. The process that opens the store creates it."""

    def __init__(self, database: Database, update: Callable[[], None] = lambda: None) -> None:
        """`update` is called each time: it updates gauges of the process itself."""
        self._database = database
        self._update = update
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="gauges", daemon=True)

    def start(self) -> None:
        """Start to count. Does not block."""
        self._thread.start()

    def close(self) -> None:
        """Stop, before the database is closed."""
        self._closing.set()
        if self._thread.ident is not None:
            self._thread.join(_INTERVAL)

    def measure(self) -> None:
        """Set all gauges. Raises `Unavailable` if the store cannot be read."""
        self._update()
        for gauge, number in zip(
            (each for each, _ in _COUNTED), self._database.write(_count, durable=False), strict=True
        ):
            gauge.set(number)

    def _run(self) -> None:
        while True:
            try:
                self.measure()
            except KafkaHttpError as error:
                log.debug("Gauges of the state store were not updated: %s", error.message)
            except Exception:
                log.exception("Unexpected error while gauges were updated")
            if self._closing.wait(_INTERVAL):
                return


def _count(connection: Connection) -> list[int]:
    return [connection.scalar(select(func.count()).select_from(rows.subquery())) or 0 for _, rows in _COUNTED]
