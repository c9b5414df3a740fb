"""Tasks in the state store: what core's `TaskStore` asks for, and the callbacks that are due."""

import time
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, bindparam, case, delete, func, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite

from kafka_http.errors import Unavailable
from kafka_http.node.store.database import Database
from kafka_http.node.store.stored_nodes import now_of
from kafka_http.node.store.tables import lanes, nodes, tasks
from kafka_http.tasks import NewTask, QueuedTask, Task, TaskCallback, TaskResult, TaskStatus, decode_records

_FORGOTTEN_AT_ONCE = 1000
_PENDING = tasks.c.status == "pending"
_OF_TOPIC = (_PENDING, tasks.c.topic == bindparam("of_topic"))
_THIS = tasks.c.id == bindparam("of_id")
SHOWN = (
    *(tasks.c.id, tasks.c.topic, tasks.c.status, tasks.c.created, tasks.c.ended, tasks.c.outcome),
    *(tasks.c.callback_url, tasks.c.callback_status, tasks.c.callback_attempts, tasks.c.callback_reason),
)
_ADD = {
    "sqlite": sqlite.insert(tasks).on_conflict_do_nothing(),
    "postgresql": postgresql.insert(tasks).on_conflict_do_nothing(),
}
_FIND = select(*SHOWN).where(_THIS)
_TOPICS = select(tasks.c.topic).where(_PENDING).distinct()
_SIZES = select(tasks.c.seq, tasks.c.size).where(*_OF_TOPIC).order_by(tasks.c.seq).limit(bindparam("most"))
_QUEUED = (
    select(tasks.c.id, tasks.c.records, tasks.c.size, tasks.c.callback_url)
    .where(*_OF_TOPIC, tasks.c.seq <= bindparam("last"))
    .order_by(tasks.c.seq)
)
_END = (
    update(tasks)
    .where(_THIS, _PENDING)
    .values(
        status=bindparam("as_status"),
        ended=bindparam("at"),
        outcome=bindparam("as_outcome"),
        records=None,
        size=0,
        callback_due=case((tasks.c.callback_url.is_(None), None), else_=bindparam("at")),
    )
)
_LANE = select(lanes.c.owner).where(lanes.c.topic == bindparam("of_topic")).with_for_update()


class StoredTasks:
    """The tasks of a database, for one of the nodes on it. Any thread may call; a call returns once it is committed.

    Where nodes share it, a topic's tasks are published by one node at a time, so that they stay in their order: the
    one that has its lane, for as long as its lease lasts.
    """

    def __init__(self, database: Database, node_id: str = "") -> None:
        self._database = database
        self._node_id = node_id

    def add(self, new: Sequence[NewTask]) -> None:
        rows = [_row(each) for each in new]

        def add(connection: Connection) -> None:
            connection.execute(_ADD[connection.dialect.name], rows)

        self._make_room(sum(each["size"] for each in rows))
        self._database.write(add)

    def _make_room(self, size: int) -> None:
        """Forget tasks that have ended, as far as a disk that is almost full needs their room. Raises `Unavailable`."""
        while True:
            try:
                return self._database.check_room(size)
            except Unavailable:
                if not self.remove(time.time(), _FORGOTTEN_AT_ONCE):
                    raise

    def find(self, task_id: str) -> Task | None:
        row = self._database.write(lambda connection: connection.execute(_FIND, {"of_id": task_id}).first())
        return None if row is None else task_of(row)

    def list_tasks(self, status: TaskStatus | None, topic: str | None, limit: int, after: str | None) -> list[Task]:
        wanted = select(*SHOWN).order_by(tasks.c.id).limit(limit)
        for field, value in ((tasks.c.status, status), (tasks.c.topic, topic)):
            wanted = wanted if value is None else wanted.where(field == value)
        wanted = wanted if after is None else wanted.where(tasks.c.id > after)
        return [task_of(row) for row in self._database.write(lambda connection: connection.execute(wanted).all())]

    def open_topics(self) -> list[str]:
        def find(connection: Connection) -> list[str]:
            topics = connection.execute(_TOPICS).scalars().all()
            return [each for each in topics if self._has_lane(connection, each)]

        return self._database.write(find)

    def next_tasks(self, topic: str, limit: int, size: int) -> list[QueuedTask]:
        def find(connection: Connection) -> Sequence[Any]:
            if not self._has_lane(connection, topic):
                return []
            sizes = connection.execute(_SIZES, {"of_topic": topic, "most": limit}).all()
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
        self._write_halves(values)

    def _write_halves(self, values: list[dict[str, Any]]) -> None:
        """End all of these tasks, or as many at a time as a disk that is almost full has room for."""
        try:
            self._database.write(lambda connection: connection.execute(_END, values))
        except Unavailable:
            middle = len(values) // 2
            if not middle or self._database.is_shared:
                raise
            for half in (values[:middle], values[middle:]):
                self._write_halves(half)

    def release(self, topic: str) -> None:
        if self._database.is_shared:
            ours = (lanes.c.topic == topic, lanes.c.owner == self._node_id)
            self._database.write(lambda connection: connection.execute(delete(lanes).where(*ours)))

    def cancel(self, task_id: str) -> bool:
        def cancel(connection: Connection) -> bool:
            topic = connection.scalar(select(tasks.c.topic).where(_THIS, _PENDING), {"of_id": task_id})
            if topic is None or not self._has_lane(connection, topic):
                return False
            values = {"of_id": task_id, "as_status": "cancelled", "as_outcome": "{}", "at": time.time()}
            return bool(connection.execute(_END, values).rowcount)

        return self._database.write(cancel)

    def pending_size(self) -> int:
        total = select(func.coalesce(func.sum(tasks.c.size), 0)).where(_PENDING)
        return int(self._database.write(lambda connection: connection.scalar(total)) or 0)

    def has_work(self) -> bool:
        """Whether there are tasks that are not over, or callbacks to send."""
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

    def _has_lane(self, connection: Connection, topic: str) -> bool:
        """Whether the topic's tasks are this node's to publish. They come to be where no other node is at them."""
        if not self._database.is_shared:
            return True
        there = connection.execute(_LANE, {"of_topic": topic}).first()
        if there is None:
            ours = {"topic": topic, "owner": self._node_id}
            return bool(connection.execute(postgresql.insert(lanes).on_conflict_do_nothing(), ours).rowcount)
        if there.owner != self._node_id:
            alive = select(nodes.c.node_id).where(nodes.c.leased_until > now_of(connection))
            this = (lanes.c.topic == topic, lanes.c.owner.not_in(alive))
            return bool(connection.execute(update(lanes).where(*this).values(owner=self._node_id)).rowcount)
        return True


def _last_within(sizes: Sequence[Any], limit: int) -> int:
    """The `seq` up to which there are at most so many bytes; that of the first at least."""
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
    }


def task_of(row: Any) -> Task:
    """A task of a row of `SHOWN`."""
    outcome = None if row.outcome is None else row.outcome.encode()
    callback = None
    if row.callback_url is not None:
        callback = TaskCallback(row.callback_url, row.callback_status, row.callback_attempts, row.callback_reason)
    return Task(row.id, row.topic, row.status, row.created, row.ended, outcome, callback)
