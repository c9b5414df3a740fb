"""Tasks: publishes that the server accepts now and performs later. Their types and the Protocols of their services.

Times are in seconds since 1970.
"""

import secrets
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Literal, Protocol

import msgspec
from msgspec import Struct

from kafka_http.errors import KafkaHttpError
from kafka_http.records import BareValues, NewRecord, RecordResult

TaskStatus = Literal["pending", "delivered", "failed", "cancelled"]
TASK_STATUSES: tuple[TaskStatus, ...] = ("pending", "delivered", "failed", "cancelled")

_TIME_DIGITS = 14
_RANDOM_BYTES = 10


class NewTask(Struct, frozen=True, array_like=True):
    """A publish to be done. `records` is the output of `encode_records`. `owner` is empty without authentication."""

    id: str
    topic: str
    created: float
    records: bytes
    callback_url: str | None = None
    owner: str = ""


class TaskCallback(Struct, frozen=True, omit_defaults=True):
    """The state of a task's callback. `reason` tells why the last attempt failed."""

    url: str
    status: Literal["pending", "delivered", "failed"]
    attempts: int = 0
    reason: str | None = None


class Task(Struct, frozen=True, array_like=True):
    """The current state of a task. `outcome` is JSON with its `records` and `error`, as far as there are any."""

    id: str
    topic: str
    status: TaskStatus
    created: float
    ended: float | None = None
    outcome: bytes | None = None
    callback: TaskCallback | None = None
    owner: str = ""


class TaskResult(Struct, frozen=True):
    """The final state of a task."""

    id: str
    status: TaskStatus
    outcome: bytes


class QueuedTask(Struct, frozen=True):
    """A pending task in the relay.

    `size` is the size of its records in the store, in bytes. `calls_back` is whether it has a callback URL.
    """

    id: str
    records: Sequence[NewRecord]
    size: int
    calls_back: bool = False


class DueCallback(Struct, frozen=True):
    """A callback to be sent now.

    `body` is the JSON of `{"task": {…}}`, the same for each attempt. `attempts` is the number of earlier attempts.
    `since` is the end of the task.
    """

    task_id: str
    url: str
    body: bytes
    attempts: int
    since: float


class Tasks(Protocol):
    """The tasks of the node. Any thread may call. All methods raise `Unavailable` if the store cannot be reached.

    A call with an `owner` finds only the tasks of this owner. With None it finds all.
    """

    def accept_tasks(self, tasks: Sequence[NewTask]) -> int:
        """Store tasks in their order, and return how many of the first there was room for.

        The tasks are on disk when this returns. A task whose id exists already is not stored twice.
        """

    def find_task(self, task_id: str, wait: float, owner: str | None) -> Task | None:
        """Return a task, or None. Wait up to `wait` seconds for its end."""

    def list_tasks(
        self, status: TaskStatus | None, topic: str | None, limit: int, after: str | None, owner: str | None
    ) -> list[Task]:
        """Return tasks of a status and a topic (None: all) in the order of their ids, starting after id `after`."""

    def cancel_task(self, task_id: str, owner: str | None) -> Task | None:
        """End a task if none of its records was sent to Kafka. Raises `TaskInProgress`, `TaskFinished`."""


class TaskStore(Protocol):
    """Stores the tasks of a node, or of all nodes that share a database. Any thread may call."""

    def add(self, tasks: Sequence[NewTask]) -> None:
        """Store tasks. A task whose id exists already is ignored."""

    def find(self, task_id: str, owner: str | None = None) -> Task | None:
        """Return a task, or None. With an `owner`, only a task of this owner is found."""

    def list_tasks(
        self, status: TaskStatus | None, topic: str | None, limit: int, after: str | None, owner: str | None = None
    ) -> list[Task]:
        """Return tasks like `Tasks.list_tasks`."""

    def open_topics(self) -> list[str]:
        """Return the topics with pending tasks that no other node has claimed. This claims them for this node."""

    def next_tasks(self, topic: str, limit: int, size: int) -> list[QueuedTask]:
        """Return the first pending tasks of a topic that this node has claimed.

        Returns at most `limit` tasks of `size` bytes together, but one task of any size. Returns none if another node
        has claimed the topic.
        """

    def end(self, ended: Sequence[TaskResult]) -> None:
        """Store the results of tasks, which are no longer pending. Their callbacks become due."""

    def release(self, topic: str) -> None:
        """Let another node claim the topic."""

    def cancel(self, task_id: str) -> bool:
        """Cancel a pending task. Return False if it has ended or if another node has claimed its topic."""

    def pending_size(self) -> int:
        """Return the size of all pending tasks in bytes."""

    def remove(self, before: float, limit: int) -> int:
        """Remove at most `limit` tasks that ended before a time and have no open callback. Return their number."""


def new_task_id() -> str:
    """Return an id that cannot be guessed. Ids sort by the time of their creation."""
    return f"{time.time_ns() // 1000:0{_TIME_DIGITS}x}{secrets.token_hex(_RANDOM_BYTES)}"


def creation_time(task_id: str) -> float | None:
    """Return the time that an id was created, in seconds since 1970. Return None for a malformed id."""
    if len(task_id) != _TIME_DIGITS + 2 * _RANDOM_BYTES or not set(task_id) <= set("0123456789abcdef"):
        return None
    return int(task_id[:_TIME_DIGITS], 16) / 1e6


def encode_records(records: Sequence[NewRecord] | BareValues) -> bytes:
    """Encode serialized records for the store (MessagePack)."""
    return msgspec.msgpack.encode([(each,) for each in records] if isinstance(records, BareValues) else records)


_decoder = msgspec.msgpack.Decoder(list[NewRecord])


def decode_records(data: bytes) -> list[NewRecord]:
    """Decode the output of `encode_records`."""
    return _decoder.decode(data)


def task_status(results: Sequence[RecordResult]) -> tuple[TaskStatus, bytes]:
    """Return the status of a task with these results, and their JSON in the form of a publish response."""
    failures = [each for each in results if isinstance(each, KafkaHttpError)]
    if not failures:
        return "delivered", msgspec.json.encode({"records": results})
    entries = [{"error": each.as_object()} if isinstance(each, KafkaHttpError) else each for each in results]
    if len(failures) < len(results):
        return "failed", msgspec.json.encode({"records": entries})
    more = {"records": entries} if len(entries) > 1 else {}
    return "failed", msgspec.json.encode({"error": failures[0].as_object(), **more})


def task_to_dict(task: Task) -> dict[str, Any]:
    """Return the JSON object that clients get for a task. `owner` is left out if the task has none."""
    shown: dict[str, Any] = {"id": task.id, "status": task.status, "created": _iso_time(task.created)}
    if task.ended is not None:
        shown["ended"] = _iso_time(task.ended)
    shown["topic"] = task.topic
    if task.owner:
        shown["owner"] = task.owner
    if task.outcome is not None:
        shown |= msgspec.json.decode(task.outcome, type=dict[str, msgspec.Raw])
    if task.callback is not None:
        shown["callback"] = task.callback
    return shown


def callback_body(task: Task) -> bytes:
    """Return the body of a task's callback: the task without the state of the callback and without its owner."""
    return msgspec.json.encode({"task": task_to_dict(msgspec.structs.replace(task, callback=None, owner=""))})


def _iso_time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
