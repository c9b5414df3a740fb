"""Tasks, as they travel between the rooms: publishes that are accepted now and done later.

Times are in seconds since 1970.
"""

import secrets
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec
from msgspec import Struct

from kafka_http.records import NewRecord

Status = Literal["pending", "delivered", "failed", "cancelled"]
STATUSES: tuple[Status, ...] = ("pending", "delivered", "failed", "cancelled")

_TIME_DIGITS = 14
_RANDOM_BYTES = 10


class NewTask(Struct, frozen=True, array_like=True):
    """A publish to be done. `created` is in seconds since 1970."""

    id: str
    topic: str
    created: float
    records: bytes
    """`packed`"""
    callback_url: str | None = None


class Callback(Struct, frozen=True, omit_defaults=True):
    """What has become of the callback of a task. `reason` says why the last attempt failed."""

    url: str
    status: Literal["pending", "delivered", "failed"]
    attempts: int = 0
    reason: str | None = None


class Task(Struct, frozen=True, array_like=True):
    """A task as it stands. `outcome` is the JSON of its `records` and `error`, where it has any."""

    id: str
    topic: str
    status: Status
    created: float
    ended: float | None = None
    outcome: bytes | None = None
    callback: Callback | None = None


class TaskResult(Struct, frozen=True):
    """How a task ended."""

    id: str
    status: Status
    outcome: bytes


class QueuedTask(Struct, frozen=True):
    """A pending task as the relay has it. `size` is that of its records in the store, in bytes; `calls_back`: somebody
    is to be told of its end."""

    id: str
    records: Sequence[NewRecord]
    size: int
    calls_back: bool = False


class DueCallback(Struct, frozen=True):
    """A callback to be made now.

    `body` is the JSON of `{"task": {…}}`, the same at each attempt. `attempts` counts those that were made; `since` is
    when the task ended, in seconds since 1970.
    """

    task_id: str
    url: str
    body: bytes
    attempts: int
    since: float


def new_task_id() -> str:
    """One that nobody can guess, and that sorts by its time."""
    return f"{time.time_ns() // 1000:0{_TIME_DIGITS}x}{secrets.token_hex(_RANDOM_BYTES)}"


def created_of(task_id: str) -> float | None:
    """The time in an id, seconds since 1970; None for what is none."""
    if len(task_id) != _TIME_DIGITS + 2 * _RANDOM_BYTES or not set(task_id) <= set("0123456789abcdef"):
        return None
    return int(task_id[:_TIME_DIGITS], 16) / 1e6


def packed(records: Sequence[NewRecord]) -> bytes:
    """Serialised records, as the store keeps them."""
    return msgspec.msgpack.encode(records)


_unpacked = msgspec.msgpack.Decoder(list[NewRecord])


def unpacked(data: bytes) -> list[NewRecord]:
    """What `packed` has made bytes of."""
    return _unpacked.decode(data)


def task_object(task: Task) -> dict[str, Any]:
    """A task as clients see it, of values that go into JSON."""
    shown: dict[str, Any] = {"id": task.id, "status": task.status, "created": _time(task.created)}
    if task.ended is not None:
        shown["ended"] = _time(task.ended)
    shown["topic"] = task.topic
    if task.outcome is not None:
        shown |= msgspec.json.decode(task.outcome, type=dict[str, msgspec.Raw])
    if task.callback is not None:
        shown["callback"] = task.callback
    return shown


def callback_body(task: Task) -> bytes:
    """What a callback says: the task without what concerns the callback."""
    return msgspec.json.encode({"task": task_object(msgspec.structs.replace(task, callback=None))})


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
