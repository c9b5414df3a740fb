"""From a request to the outbox: tasks that come while others are on their way there share the next call."""

import threading
from collections import deque
from collections.abc import Callable, Sequence

from kafka_http.errors import KafkaHttpError, OutboxFull, OutcomeUnknown, Unavailable
from kafka_http.publish.task_store import Tasks
from kafka_http.tasks import NewTask

_MOST_BYTES = 1 << 20
_MOST_TASKS = 500
_CLOSE_SECONDS = 5.0


class TaskSubmission:
    """A task on its way to the outbox."""

    def __init__(self, task: NewTask, done: Callable[[], None]) -> None:
        self.task = task
        self._done = done
        self._error: KafkaHttpError | None = OutcomeUnknown(
            "The server's outbox has not answered in time: the messages may be published, or not."
        )

    def end(self, error: KafkaHttpError | None) -> None:
        self._error = error
        self._done()

    def accepted(self) -> NewTask:
        """The task, where it is safe. Raises `OutboxFull`, `Unavailable`, `OutcomeUnknown`. Does not block."""
        if self._error is not None:
            raise self._error
        return self.task


class TaskSubmitter:
    """Hands tasks over, by one thread that begins with the first. Any thread may call."""

    def __init__(self, tasks: Tasks) -> None:
        self._tasks = tasks
        self._waiting: deque[TaskSubmission] = deque()
        self._lock = threading.Condition()
        self._thread: threading.Thread | None = None
        self._is_closed = False

    def start(self, task: NewTask, done: Callable[[], None]) -> TaskSubmission:
        """Take a task, which may lie here until `send` is called. Does not block. `done` is called once it is known
        whether the task is safe: by a thread that must not be held up."""
        acceptance = TaskSubmission(task, done)
        with self._lock:
            if self._is_closed:
                raise Unavailable("This server is closing down.")
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="acceptor", daemon=True)
                self._thread.start()
            self._waiting.append(acceptance)
        return acceptance

    def send(self) -> None:
        """Hand over what was started: once for all requests that came together. Does not block."""
        if self._waiting:
            with self._lock:
                self._lock.notify()

    def accept(self, task: NewTask) -> NewTask:
        """Return once the task is safe. Raises `OutboxFull`, `Unavailable`."""
        done = threading.Event()
        acceptance = self.start(task, done.set)
        self.send()
        done.wait()
        return acceptance.accepted()

    def close(self) -> None:
        """Hand over what has come, and take nothing more."""
        with self._lock:
            self._is_closed = True
            self._lock.notify()
        if self._thread is not None:
            self._thread.join(_CLOSE_SECONDS)

    def _run(self) -> None:
        while batch := self._next():
            try:
                accepted = self._tasks.accept_tasks([each.task for each in batch])
            except KafkaHttpError as error:
                _end(batch, error)
            except Exception:
                _end(batch, Unavailable("The server's outbox has failed; its log says why."))
                raise
            else:
                _end(batch[:accepted], None)
                _end(batch[accepted:], OutboxFull())

    def _next(self) -> list[TaskSubmission]:
        """What is waiting, up to a sensible size; nothing once all is done and closed."""
        with self._lock:
            self._lock.wait_for(lambda: self._waiting or self._is_closed)
            batch: list[TaskSubmission] = []
            size = 0
            while self._waiting and size < _MOST_BYTES and len(batch) < _MOST_TASKS:
                batch.append(self._waiting.popleft())
                size += len(batch[-1].task.records)
            return batch


def _end(batch: Sequence[TaskSubmission], error: KafkaHttpError | None) -> None:
    for each in batch:
        each.end(error)
