"""Tasks and their callbacks in the state store: the implementations of `TaskStore` and `CallbackStore`."""

import time
from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import Connection, bindparam, case, delete, func, literal_column, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite

from kafka_http.errors import Unavailable
from kafka_http.node.store.database import Database
from kafka_http.node.store.stored_nodes import database_time
from kafka_http.node.store.tables import nodes, tasks, topic_owners
from kafka_http.tasks import (
    DueCallback,
    NewTask,
    QueuedTask,
    Task,
    TaskCallback,
    TaskResult,
    TaskStatus,
    callback_body,
    decode_records,
)

_REMOVE_BATCH = 1000
_PENDING = tasks.c.status == "pending"
_OF_TOPIC = (_PENDING, tasks.c.topic == bindparam("of_topic"))
_SAME_ID = tasks.c.id == bindparam("of_id")
_TASK_COLUMNS = (
    *(tasks.c.id, tasks.c.topic, tasks.c.status, tasks.c.created, tasks.c.ended, tasks.c.outcome),
    *(tasks.c.callback_url, tasks.c.callback_status, tasks.c.callback_attempts, tasks.c.callback_reason),
    tasks.c.principal,
)
_ADD = {
    "sqlite": sqlite.insert(tasks).on_conflict_do_nothing(),
    "postgresql": postgresql.insert(tasks).on_conflict_do_nothing(),
}
_FIND = select(*_TASK_COLUMNS).where(_SAME_ID)
_HAS_OWNER = tasks.c.principal != literal_column("''")
"""The condition of the index `tasks_principal`, which is used only if a query has it."""
_TOPICS = select(tasks.c.topic).where(_PENDING).distinct()
_SIZES = select(tasks.c.seq, tasks.c.size).where(*_OF_TOPIC).order_by(tasks.c.seq).limit(bindparam("limit"))
_QUEUED = (
    select(tasks.c.id, tasks.c.records, tasks.c.size, tasks.c.callback_url)
    .where(*_OF_TOPIC, tasks.c.seq <= bindparam("last"))
    .order_by(tasks.c.seq)
)
_END = (
    update(tasks)
    .where(_SAME_ID, _PENDING)
    .values(
        status=bindparam("as_status"),
        ended=bindparam("at"),
        outcome=bindparam("as_outcome"),
        records=None,
        size=0,
        callback_due=case((tasks.c.callback_url.is_(None), None), else_=bindparam("at")),
    )
)
_TOPIC_OWNER = select(topic_owners.c.owner).where(topic_owners.c.topic == bindparam("of_topic")).with_for_update()

_NEXT_CALLBACK = select(func.min(tasks.c.callback_due))
_CLAIM_CALLBACK = (
    update(tasks).where(_SAME_ID, tasks.c.callback_due <= bindparam("now")).values(callback_due=bindparam("until"))
)
_REPORT_CALLBACK = (
    update(tasks)
    .where(_SAME_ID)
    .values(
        callback_status=bindparam("as_status"),
        callback_attempts=bindparam("as_attempts"),
        callback_due=bindparam("until"),
        callback_reason=bindparam("reason"),
    )
)


class StoredTasks:
    """The tasks of a database, for one of its nodes. Any thread may call; a call returns after its commit.

    If nodes share the database, one of them owns a topic and publishes its tasks, so that they stay in order, until it
    releases the topic or its lease expires. The owner is in the table `lanes`.
    """

    def __init__(self, database: Database, node_id: str = "") -> None:
        self._database = database
        self._node_id = node_id

    def add(self, new: Sequence[NewTask]) -> None:
        rows = [_row(each) for each in new]

        def add(connection: Connection) -> None:
            connection.execute(_ADD[connection.dialect.name], rows)

        self._check_space(sum(each["size"] for each in rows))
        self._database.write(add)

    def _check_space(self, size: int) -> None:
        """Remove ended tasks while the disk is almost full. Raises `Unavailable` if there are no more."""
        while True:
            try:
                return self._database.check_space(size)
            except Unavailable:
                if not self.remove(time.time(), _REMOVE_BATCH):
                    raise

    def find(self, task_id: str, owner: str | None = None) -> Task | None:
        row = self._database.write(lambda connection: connection.execute(_FIND, {"of_id": task_id}).first())
        if row is None or (owner is not None and (not row.principal or row.principal != owner)):
            return None
        return _task_from_row(row)

    def list_tasks(
        self, status: TaskStatus | None, topic: str | None, limit: int, after: str | None, owner: str | None = None
    ) -> list[Task]:
        wanted = select(*_TASK_COLUMNS).order_by(tasks.c.id).limit(limit)
        for field, value in ((tasks.c.status, status), (tasks.c.topic, topic), (tasks.c.principal, owner)):
            wanted = wanted if value is None else wanted.where(field == value)
        wanted = wanted if owner is None else wanted.where(_HAS_OWNER)
        wanted = wanted if after is None else wanted.where(tasks.c.id > after)
        return [
            _task_from_row(row) for row in self._database.write(lambda connection: connection.execute(wanted).all())
        ]

    def open_topics(self) -> list[str]:
        def find(connection: Connection) -> list[str]:
            topics = connection.execute(_TOPICS).scalars().all()
            return [each for each in topics if self._owns_topic(connection, each)]

        return self._database.write(find)

    def next_tasks(self, topic: str, limit: int, size: int) -> list[QueuedTask]:
        def find(connection: Connection) -> Sequence[Any]:
            if not self._owns_topic(connection, topic):
                return []
            sizes = connection.execute(_SIZES, {"of_topic": topic, "limit": limit}).all()
            last = _last_within(sizes, size)
            return connection.execute(_QUEUED, {"of_topic": topic, "last": last}).all() if sizes else []

        return [
            QueuedTask(row.id, decode_records(row.records), row.size, row.callback_url is not None)
            for row in self._database.write(find)
        ]

    def end(self, ended: Sequence[TaskResult]) -> None:
        now = time.time()
        values = [
            {"of_id": each.id, "as_status": each.status, "as_outcome": each.outcome.decode(), "at": now}
            for each in ended
        ]
        self._end_in_parts(values)

    def _end_in_parts(self, values: list[dict[str, Any]]) -> None:
        """End the tasks in one transaction, or in smaller ones if the disk has no space for it."""
        try:
            self._database.write(lambda connection: connection.execute(_END, values))
        except Unavailable:
            middle = len(values) // 2
            if not middle or self._database.is_shared:
                raise
            for half in (values[:middle], values[middle:]):
                self._end_in_parts(half)

    def release(self, topic: str) -> None:
        if self._database.is_shared:
            owned = (topic_owners.c.topic == topic, topic_owners.c.owner == self._node_id)
            self._database.write(lambda connection: connection.execute(delete(topic_owners).where(*owned)))

    def cancel(self, task_id: str) -> bool:
        def cancel(connection: Connection) -> bool:
            topic = connection.scalar(select(tasks.c.topic).where(_SAME_ID, _PENDING), {"of_id": task_id})
            if topic is None or not self._owns_topic(connection, topic):
                return False
            values = {"of_id": task_id, "as_status": "cancelled", "as_outcome": "{}", "at": time.time()}
            return bool(connection.execute(_END, values).rowcount)

        return self._database.write(cancel)

    def pending_size(self) -> int:
        total = select(func.coalesce(func.sum(tasks.c.size), 0)).where(_PENDING)
        return int(self._database.write(lambda connection: connection.scalar(total)) or 0)

    def has_work(self) -> bool:
        """Return whether there are pending tasks, or callbacks to send."""
        some = select(tasks.c.seq).where(or_(_PENDING, tasks.c.callback_due.is_not(None))).limit(1)
        return self._database.write(lambda connection: connection.scalar(some)) is not None

    def remove(self, before: float, limit: int) -> int:
        old = (
            select(tasks.c.seq)
            .where(tasks.c.ended < before, tasks.c.callback_due.is_(None))
            .order_by(tasks.c.ended)
            .limit(limit)
        )
        statement = delete(tasks).where(tasks.c.seq.in_(old))
        return self._database.write(lambda connection: connection.execute(statement).rowcount)

    def _owns_topic(self, connection: Connection, topic: str) -> bool:
        """Return whether this node owns the topic. It becomes the owner if no other node that has a lease owns it."""
        if not self._database.is_shared:
            return True
        row = connection.execute(_TOPIC_OWNER, {"of_topic": topic}).first()
        if row is None:
            new = {"topic": topic, "owner": self._node_id}
            return bool(connection.execute(postgresql.insert(topic_owners).on_conflict_do_nothing(), new).rowcount)
        if row.owner != self._node_id:
            leased = select(nodes.c.node_id).where(nodes.c.leased_until > database_time(connection))
            expired = (topic_owners.c.topic == topic, topic_owners.c.owner.not_in(leased))
            return bool(connection.execute(update(topic_owners).where(*expired).values(owner=self._node_id)).rowcount)
        return True


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
            select(*_TASK_COLUMNS)
            .where(tasks.c.callback_due <= now, tasks.c.id.not_in(busy))
            .order_by(tasks.c.callback_due)
            .limit(limit)
        )

        return [
            DueCallback(row.id, row.callback_url, callback_body(_task_from_row(row)), row.callback_attempts, row.ended)
            for row in self._database.write(lambda connection: connection.execute(wanted).all())
        ]

    def next_due(self) -> float | None:
        due = self._database.write(lambda connection: connection.scalar(_NEXT_CALLBACK))
        return None if due is None else float(due) - time.time()

    def claim(self, task_id: str) -> bool:
        if not self._database.is_shared:
            return True
        now = time.time()
        values = {"of_id": task_id, "now": now, "until": now + self._lease}
        return bool(self._database.write(lambda connection: connection.execute(_CLAIM_CALLBACK, values).rowcount))

    def delivered(self, task_id: str, attempts: int) -> None:
        self._report(task_id, "delivered", attempts, None, None)

    def retry(self, task_id: str, attempts: int, delay_seconds: float, reason: str) -> None:
        self._report(task_id, "pending", attempts, time.time() + delay_seconds, reason)

    def failed(self, task_id: str, attempts: int, reason: str) -> None:
        self._report(task_id, "failed", attempts, None, reason)

    def _report(self, task_id: str, status: str, attempts: int, until: float | None, reason: str | None) -> None:
        values = {"of_id": task_id, "as_status": status, "as_attempts": attempts, "until": until, "reason": reason}
        self._database.write(lambda connection: connection.execute(_REPORT_CALLBACK, values))


def _last_within(sizes: Sequence[Any], limit: int) -> int:
    """Return the last `seq` whose tasks together have at most `limit` bytes, or else the first `seq`."""
    last, total = -1, 0
    for seq, size in sizes:
        total += size
        if last >= 0 and total > limit:
            break
        last = seq
    return last


def _row(task: NewTask) -> dict[str, Any]:
    return {
        "id": task.id,
        "topic": task.topic,
        "status": "pending",
        "created": task.created,
        "records": task.records,
        "size": len(task.records),
        "callback_url": task.callback_url,
        "callback_status": None if task.callback_url is None else "pending",
        "callback_attempts": 0,
        "principal": task.owner,
    }


def _task_from_row(row: Any) -> Task:
    """Decode a row of `_TASK_COLUMNS`."""
    outcome = None if row.outcome is None else row.outcome.encode()
    callback = None
    if row.callback_url is not None:
        callback = TaskCallback(row.callback_url, row.callback_status, row.callback_attempts, row.callback_reason)
    return Task(row.id, row.topic, row.status, row.created, row.ended, outcome, callback, row.principal)
