"""Confirms the pages of queues that were sent to their clients."""

import logging
from threading import Condition, Event, Thread

from kafka_http.consumers.queue_service import QueueService
from kafka_http.errors import KafkaHttpError

log = logging.getLogger(__name__)

_BATCH_SECONDS = 0.02
"""Time in which pages are collected. Those that are not confirmed when a worker is killed are delivered again."""
_CLOSE_SECONDS = 5.0


class PageConfirmations:
    """Confirms pages in batches, from a thread that the first page starts. Any thread may call."""

    def __init__(self, queues: QueueService) -> None:
        self._queues = queues
        self._pages: list[str] = []
        self._changed = Condition()
        self._closing = Event()
        self._thread: Thread | None = None

    def add(self, page: str) -> None:
        """Note that a page was sent. Does not block."""
        with self._changed:
            self._pages.append(page)
            if self._thread is None:
                self._thread = Thread(target=self._run, name="queue pages", daemon=True)
                self._thread.start()
            self._changed.notify()

    def close(self) -> None:
        """Confirm what is left, and end the thread."""
        self._closing.set()
        with self._changed:
            self._changed.notify()
        if self._thread is not None:
            self._thread.join(_CLOSE_SECONDS)

    def _run(self) -> None:
        while self._wait():
            self._closing.wait(_BATCH_SECONDS)
            with self._changed:
                pages, self._pages = self._pages, []
            try:
                self._queues.confirm_pages(pages)
            except KafkaHttpError as error:
                log.debug("Pages were not confirmed: %s", error.message)

    def _wait(self) -> bool:
        """Wait for a page. Return False if there will be none."""
        with self._changed:
            self._changed.wait_for(lambda: self._pages or self._closing.is_set())
            return bool(self._pages)
