"""Callbacks in the state store: the implementation of `CallbackStore`."""

import time
from collections.abc import Collection

from sqlalchemy import bindparam, func, select, update

from kafka_http.node.store.database import Database
from kafka_http.node.store.stored_tasks import TASK_COLUMNS, task_from_row
from kafka_http.node.store.tables import tasks
from kafka_http.tasks import DueCallback, callback_body

_THIS = tasks.c.id == bindparam("of_id")
_NEXT = select(func.min(tasks.c.callback_due))
_CLAIM = update(tasks).where(_THIS, tasks.c.callback_due <= bindparam("now")).values(callback_due=bindparam("until"))
_REPORT = (
    update(tasks)
    .where(_THIS)
    .values(
        callback_status=bindparam("as_status"),
        callback_attempts=bindparam("as_attempts"),
        callback_due=bindparam("until"),
        callback_reason=bindparam("why"),
    )
)


class StoredCallbacks:
    """The callbacks of a database. Any thread may call; a call returns after its commit.

    If nodes share the database, a callback that one of them has claimed is not due for the others for `lease` seconds.
    """

    def __init__(self, database: Database, lease: float) -> None:
        self._database = database
        self._lease = lease

    def due(self, limit: int, busy: Collection[str]) -> list[DueCallback]:
        now = time.time()
        wanted = (
            select(*TASK_COLUMNS)
            .where(tasks.c.callback_due <= now, tasks.c.id.not_in(busy))
            .order_by(tasks.c.callback_due)
            .limit(limit)
        )

        return [
            DueCallback(row.id, row.callback_url, callback_body(task_from_row(row)), row.callback_attempts, row.ended)
            for row in self._database.write(lambda connection: connection.execute(wanted).all())
        ]

    def next_due(self) -> float | None:
        due = self._database.write(lambda connection: connection.scalar(_NEXT))
        return None if due is None else float(due) - time.time()

    def claim(self, task_id: str) -> bool:
        if not self._database.is_shared:
            return True
        now = time.time()
        values = {"of_id": task_id, "now": now, "until": now + self._lease}
        return bool(self._database.write(lambda connection: connection.execute(_CLAIM, values).rowcount))

    def delivered(self, task_id: str, attempts: int) -> None:
        self._report(task_id, "delivered", attempts, None, None)

    def retry(self, task_id: str, attempts: int, delay_seconds: float, reason: str) -> None:
        self._report(task_id, "pending", attempts, time.time() + delay_seconds, reason)

    def failed(self, task_id: str, attempts: int, reason: str) -> None:
        self._report(task_id, "failed", attempts, None, reason)

    def _report(self, task_id: str, status: str, attempts: int, until: float | None, reason: str | None) -> None:
        values = {"of_id": task_id, "as_status": status, "as_attempts": attempts, "until": until, "why": reason}
        self._database.write(lambda connection: connection.execute(_REPORT, values))
