"""What can be done with tasks, and what core asks of the state store for them."""

from collections.abc import Sequence
from typing import Protocol

import msgspec

from kafka_http.errors import KafkaHttpError
from kafka_http.records import RecordResult
from kafka_http.tasks import NewTask, QueuedTask, Status, Task, TaskResult


class Tasks(Protocol):
    """What can be done with tasks. All calls may be made from any thread, and raise `Unavailable` where the store
    cannot be reached."""

    def accept_tasks(self, tasks: Sequence[NewTask]) -> int:
        """Keep them, in their order; how many of them, from the first on, there was room for. They are on the disk
        once this returns. One whose id is there already is not kept twice."""

    def find_task(self, task_id: str, wait: float = 0) -> Task | None:
        """The task, where it is still pending after `wait` seconds at most."""

    def list_tasks(self, status: Status | None, topic: str | None, limit: int, after: str | None) -> list[Task]:
        """Those of a status and a topic, or of all, by their ids, from behind `after` on."""

    def cancel_task(self, task_id: str) -> Task | None:
        """End a task that nothing was published of. Raises `TaskInProgress`, `TaskFinished`."""


class TaskStore(Protocol):
    """Keeps the tasks of a node, or of all nodes that share it. Any thread may call."""

    def add(self, tasks: Sequence[NewTask]) -> None:
        """Those whose ids are there already are left out."""

    def find(self, task_id: str) -> Task | None: ...

    def listed(self, status: Status | None, topic: str | None, limit: int, after: str | None) -> list[Task]: ...

    def open_topics(self) -> list[str]:
        """The topics that have pending tasks, and that no other node is at. They are this node's from now on."""

    def queued(self, topic: str, most: int, size: int) -> list[QueuedTask]:
        """The first pending tasks of a topic that is this node's: at most so many, and with more than one of at most
        so many bytes. None is left where another node has taken the topic."""

    def end(self, ended: Sequence[TaskResult]) -> None:
        """They are no longer pending. Their callbacks are due."""

    def release(self, topic: str) -> None:
        """Let another node have the topic."""

    def cancel(self, task_id: str) -> bool:
        """Whether it was pending, and this node may say so of its topic."""

    def pending_size(self) -> int:
        """The bytes of all pending tasks."""

    def remove(self, before: float, most: int) -> int:
        """Forget so many at most of the tasks that ended before, and whose callbacks are over; how many there were."""


def outcome_of(outcomes: Sequence[RecordResult]) -> tuple[Status, bytes]:
    """How a task ended whose records have these outcomes: as a publish's answer has it."""
    failures = [each for each in outcomes if isinstance(each, KafkaHttpError)]
    if not failures:
        return "delivered", msgspec.json.encode({"records": outcomes})
    entries = [{"error": each.as_object()} if isinstance(each, KafkaHttpError) else each for each in outcomes]
    if len(failures) < len(outcomes):
        return "failed", msgspec.json.encode({"records": entries})
    more = {"records": entries} if len(entries) > 1 else {}
    return "failed", msgspec.json.encode({"error": failures[0].as_object(), **more})
