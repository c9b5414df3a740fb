"""The worker of a queue: acquires messages for as many commands as may run, until it is stopped."""

import threading
from collections.abc import Sequence
from contextlib import suppress

from kafka_http.backoff import Backoff
from kafka_http.cli.client_output import note
from kafka_http.cli.client_queue import AcquiredMessage, WorkQueue
from kafka_http.cli.client_requests import RequestError
from kafka_http.cli.message_work import MessageWork

_WAIT_SECONDS = 3.0
"""How long an acquire waits for messages. A stop waits for it, because a call that is cut off may lock messages."""
_TOO_MANY_REQUESTS = 429


class QueueWorker:
    """Acquires messages of a queue and starts a thread for each.

    One thread calls `run`, which blocks; another one, but no signal handler, calls `stop`.
    """

    def __init__(self, queue: WorkQueue, work: MessageWork, concurrency: int, *, until_empty: bool) -> None:
        """`concurrency` is how many commands may run at a time. `until_empty`: end when all messages are settled."""
        self._queue = queue
        self._work = work
        self._concurrency = concurrency
        self._until_empty = until_empty
        self._backoff = Backoff(0.2, 5.0)
        self._was_connected = self._is_connected = False
        self._stopping = threading.Event()
        self._changed = threading.Condition()
        self._running = 0
        self._failure: RequestError | None = None

    def run(self) -> None:
        """Work until `stop`, or until the queue is empty. Raises `RequestError` after all commands have ended."""
        with self._work.renewal:
            try:
                while self._wait_for_slot():
                    self._acquire()
            finally:
                self._wait_for_commands()
        if self._failure:
            raise self._failure

    def stop(self) -> int:
        """Take no further messages. The second call kills the commands. Return how many run."""
        if self._stopping.is_set():
            self._work.kill()
        self._end()
        return self._running

    def _end(self) -> None:
        self._stopping.set()
        with self._changed:
            self._changed.notify_all()

    def _wait_for_slot(self) -> bool:
        """Wait until one more command may run. Return false if the worker stops."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopping.is_set() or self._running < self._concurrency)
        return not self._stopping.is_set()

    def _wait_for_commands(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: not self._running)

    def _acquire(self) -> None:
        """Acquire messages and start their commands, or wait after an error. Raises `RequestError`."""
        was_idle = not self._running
        try:
            messages = self._queue.acquire(self._concurrency - self._running, _WAIT_SECONDS)
            if was_idle and not messages and self._until_empty and self._queue.is_empty():
                self._end()
        except RequestError as error:
            self._wait_after(error)
            return
        if self._was_connected and not self._is_connected:
            note("Connected again.")
        self._was_connected = self._is_connected = True
        self._backoff.reset()
        self._start(messages)

    def _wait_after(self, error: RequestError) -> None:
        """Wait until the next attempt. Raises the error if there is none: a first call that fails has a wrong URL."""
        may_pass = error.status == _TOO_MANY_REQUESTS or (
            self._was_connected and (error.may_pass or error.status >= 500)
        )
        if not may_pass:
            raise error
        if self._is_connected:
            note(f"{error} Retrying.")
        self._is_connected = False
        self._stopping.wait(max(self._backoff.next(), error.retry_after or 0.0))

    def _start(self, messages: Sequence[AcquiredMessage]) -> None:
        """Start the threads of messages, or give the messages back if the worker stops."""
        if self._stopping.is_set():
            with suppress(RequestError):  # their locks end
                self._queue.extend_all([each.lease for each in messages], 0)
            return
        for message in messages:
            self._work.renewal.add(message.lease)
            with self._changed:
                self._running += 1
            threading.Thread(target=self._process, args=(message,), name="message", daemon=True).start()

    def _process(self, message: AcquiredMessage) -> None:
        try:
            self._work.process(message)
        except RequestError as error:
            self._failure = error
            self._end()
        finally:
            with self._changed:
                self._running -= 1
                self._changed.notify_all()
