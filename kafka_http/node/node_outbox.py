"""The outbox of a node, with its store and its callbacks: in the daemon, or in a server without one."""

import threading
from collections.abc import Sequence
from contextlib import ExitStack, closing

from kafka_http.broker_protocols import Producer
from kafka_http.config import Config
from kafka_http.errors import Unavailable
from kafka_http.node.callbacks import CallbackSender
from kafka_http.node.data_directory import DataDirectory
from kafka_http.node.node_gauges import NodeGauges
from kafka_http.node.store import Database, StoredCallbacks, StoredTasks, open_database
from kafka_http.publish.outbox import Outbox
from kafka_http.tasks import NewTask, Task, TaskStatus

_REPORT_SECONDS = 30.0
"""Time to store the result of a callback, after the timeout of its attempt."""

_STOP_SECONDS = 5.0


def new_outbox(config: Config, database: Database, node_id: str, producer: Producer) -> Outbox:
    """Create the outbox of a node. It is not started yet."""
    callbacks = StoredCallbacks(database, config.callback_timeout + _REPORT_SECONDS)
    return Outbox(
        StoredTasks(database, node_id),
        producer,
        CallbackSender.from_config(config, callbacks),
        max_bytes=config.outbox_max_bytes,
        retention=config.task_retention,
    )


class InlineOutbox:
    """The `Tasks` of a server of one process without a daemon (`daemon = inline`).

    Opens the store in the data directory on the first call, or in `start`. Any thread may call.
    """

    def __init__(self, config: Config, producer: Producer) -> None:
        self._config = config
        self._producer = producer
        self._lock = threading.Lock()
        self._resources = ExitStack()
        self._outbox: Outbox | None = None

    def start(self) -> None:
        """Continue with the tasks that an earlier process has left. Does not block for long."""
        if any(self._config.data_dir.glob("store.*")):
            self._open()

    def close(self) -> None:
        with self._lock:
            self._resources.close()

    def accept_tasks(self, tasks: Sequence[NewTask]) -> int:
        return self._open().accept_tasks(tasks)

    def find_task(self, task_id: str, wait: float = 0, owner: str | None = None) -> Task | None:
        return self._open().find_task(task_id, wait, owner)

    def list_tasks(
        self, status: TaskStatus | None, topic: str | None, limit: int, after: str | None, owner: str | None = None
    ) -> list[Task]:
        return self._open().list_tasks(status, topic, limit, after, owner)

    def cancel_task(self, task_id: str, owner: str | None = None) -> Task | None:
        return self._open().cancel_task(task_id, owner)

    def _open(self) -> Outbox:
        with self._lock:
            if self._outbox is None:
                with ExitStack() as stack:
                    self._outbox = self._start_outbox(stack)
                    self._resources = stack.pop_all()
            return self._outbox

    def _start_outbox(self, stack: ExitStack) -> Outbox:
        directory = DataDirectory(self._config.data_dir)
        directory.create()
        if not stack.enter_context(directory.lock("daemon", lambda: True)):
            raise Unavailable(
                f"The data directory {directory.path} is in use by another process: "
                "daemon = inline is for a server of one process."
            )
        min_free = self._config.outbox_min_free
        database = stack.enter_context(closing(open_database(self._config.data_dir, min_free=min_free)))
        outbox = new_outbox(self._config, database, "", self._producer)
        gauges = NodeGauges(database)
        gauges.start()
        stack.callback(gauges.close)
        outbox.start()
        outbox.relay.start()
        stack.callback(outbox.close, _STOP_SECONDS)
        return outbox
