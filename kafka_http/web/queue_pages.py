"""Ends the pages of queues: those that were sent to their clients are confirmed, the others are released."""

import logging
from threading import Condition, Event, Thread

from kafka_http.consumers.queue_service import QueueService
from kafka_http.errors import KafkaHttpError

log = logging.getLogger(__name__)

_BATCH_SECONDS = 0.02
"""Time in which pages are collected. Those that are not confirmed when a worker is killed are delivered again."""
_CLOSE_SECONDS = 5.0


class QueuePages:
    """Ends pages in batches, from a thread that the first page starts. Any thread may call."""

    def __init__(self, queues: QueueService) -> None:
        self._queues = queues
        self._sent: list[str] = []
        self._unsent: list[str] = []
        self._changed = Condition()
        self._closing = Event()
        self._thread: Thread | None = None

    def end(self, page: str, *, is_sent: bool) -> None:
        """Note whether a page was sent to its client. Does not block."""
        with self._changed:
            (self._sent if is_sent else self._unsent).append(page)
            if self._thread is None:
                self._thread = Thread(target=self._run, name="queue pages", daemon=True)
                self._thread.start()
            self._changed.notify()

    def close(self) -> None:
        """End what is left, and end the thread."""
        self._closing.set()
        with self._changed:
            self._changed.notify()
        if self._thread is not None:
            self._thread.join(_CLOSE_SECONDS)

    def _run(self) -> None:
        while self._wait():
            if not self._unsent:  # nobody waits for the others
                self._closing.wait(_BATCH_SECONDS)
            with self._changed:
                sent, self._sent, unsent, self._unsent = self._sent, [], self._unsent, []
            try:
                for each in unsent:
                    self._queues.release_page(each)
                if sent:
                    self._queues.confirm_pages(sent)
            except KafkaHttpError as error:
                log.debug("Pages were not ended: %s", error.message)

    def _wait(self) -> bool:
        """Wait for a page. Return False if there will be none."""
        with self._changed:
            self._changed.wait_for(lambda: self._sent or self._unsent or self._closing.is_set())
            return bool(self._sent or self._unsent)
