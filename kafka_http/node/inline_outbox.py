"""The outbox without a daemon: `daemon = inline`, in a server of one process."""

import threading
from collections.abc import Sequence
from contextlib import ExitStack, closing

from kafka_http.broker_protocols import Producer
from kafka_http.config import Config
from kafka_http.errors import Unavailable
from kafka_http.node.data_directory import DataDirectory
from kafka_http.node.outbox_factory import make_outbox
from kafka_http.node.store import open_database
from kafka_http.publish.outbox import Outbox
from kafka_http.tasks import NewTask, Task, TaskStatus

_STOP_SECONDS = 5.0


class InlineOutbox:
    """The `Tasks` of this process, in the data directory. It is opened with the first call, or by `start`."""

    def __init__(self, config: Config, producer: Producer) -> None:
        self._config = config
        self._producer = producer
        self._lock = threading.Lock()
        self._opened = ExitStack()
        self._outbox: Outbox | None = None

    def start(self) -> None:
        """Go on with what an earlier process has left. Does not block for long."""
        if any(self._config.data_dir.glob("store.*")):
            self._open()

    def close(self) -> None:
        with self._lock:
            self._opened.close()

    def accept_tasks(self, tasks: Sequence[NewTask]) -> int:
        return self._open().accept_tasks(tasks)

    def find_task(self, task_id: str, wait: float = 0) -> Task | None:
        return self._open().find_task(task_id, wait)

    def list_tasks(self, status: TaskStatus | None, topic: str | None, limit: int, after: str | None) -> list[Task]:
        return self._open().list_tasks(status, topic, limit, after)

    def cancel_task(self, task_id: str) -> Task | None:
        return self._open().cancel_task(task_id)

    def _open(self) -> Outbox:
        with self._lock:
            if self._outbox is None:
                with ExitStack() as opening:
                    self._outbox = self._made(opening)
                    self._opened = opening.pop_all()
            return self._outbox

    def _made(self, opening: ExitStack) -> Outbox:
        directory = DataDirectory(self._config.data_dir)
        directory.make()
        if not opening.enter_context(directory.lock("daemon", lambda: True)):
            raise Unavailable("Another process has the data directory: daemon = inline is for a server of one process.")
        min_free = self._config.outbox_min_free
        database = opening.enter_context(closing(open_database(self._config.data_dir, min_free=min_free)))
        outbox = make_outbox(self._config, database, "", self._producer)
        outbox.start()
        outbox.relay.start()
        opening.callback(outbox.close, _STOP_SECONDS)
        return outbox
