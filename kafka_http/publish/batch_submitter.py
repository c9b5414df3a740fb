"""Sends items of many requests to a slow service in batches: requests that arrive during a call share the next one."""

import logging
import threading
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from typing import Generic, TypeVar

from kafka_http.errors import KafkaHttpError, OutcomeUnknown, Unavailable
from kafka_http.pending import DoneCallbacks

log = logging.getLogger(__name__)

_MAX_BATCH_BYTES = 1 << 20
_MAX_BATCH_ITEMS = 500

Item = TypeVar("Item")
Result = TypeVar("Result")


class PendingItem(DoneCallbacks, Generic[Item, Result]):
    """An item that was submitted, and its result: a future. Any thread may call."""

    def __init__(self, item: Item, unknown: str) -> None:
        super().__init__()
        self.item = item
        self._unknown = unknown
        self._result: Result | KafkaHttpError | None = None

    def result(self, timeout: float | None = None) -> Result:
        """Wait up to `timeout` seconds, or until there is a result, and return it or raise it.

        `timeout=0` does not block. Raises `OutcomeUnknown` if there is no result yet.
        """
        self.wait(timeout)
        if not self.is_done:
            raise OutcomeUnknown(self._unknown)
        if isinstance(self._result, KafkaHttpError):
            raise self._result
        return self._result  # type: ignore[return-value]  # None is a result, too

    def end(self, result: Result | KafkaHttpError) -> None:
        """Set the result, and call the callbacks."""
        self._result = result
        self.complete()


class BatchSubmitter(Generic[Item, Result]):
    """Sends items in batches. Items that arrive while a call is in progress share the next call.

    Its thread starts with the first item and ends with `close`; without items it costs nothing. Any thread may call.
    """

    def __init__(
        self,
        send: Callable[[Sequence[Item]], Sequence[Result | KafkaHttpError]],
        name: str,
        size: Callable[[Item], int],
        unknown: str = "The server's state store did not answer in time.",
    ) -> None:
        """`send` returns or raises the results of a batch and may block. `size` returns about the bytes of an item.

        `unknown` is the text of the error of an item without a result.
        """
        self._send_batch = send
        self._name = name
        self._size = size
        self._unknown = unknown
        self._queue: SimpleQueue[PendingItem[Item, Result] | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._is_closed = False
        self._loop_thread = 0
        self._of_round: list[PendingItem[Item, Result]] = []

    def attach(self) -> None:
        """Let the calling thread, a main loop, send the items of each of its rounds together, with `end_round`."""
        self._loop_thread = threading.get_ident()

    def submit(self, item: Item) -> PendingItem[Item, Result]:
        """Take an item. Does not block. Raises `Unavailable` after `close`.

        The submitter's thread calls the callbacks of the result.
        """
        pending: PendingItem[Item, Result] = PendingItem(item, self._unknown)
        with self._lock:
            if self._is_closed:
                raise Unavailable("The server is shutting down.")
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._thread.start()
            if threading.get_ident() == self._loop_thread:
                self._of_round.append(pending)
            else:
                self._queue.put(pending)
        return pending

    def end_round(self) -> None:
        """Send what the attached thread has submitted. Does not block. Only that thread calls this."""
        if self._of_round:
            with self._lock:
                self._send_round()

    def close(self, timeout: float) -> None:
        """Take no more items, and wait up to `timeout` seconds until the others are sent."""
        with self._lock:
            self._is_closed = True
            self._send_round()
            self._queue.put(None)
        if self._thread is not None:
            self._thread.join(timeout)

    def _send_round(self) -> None:
        """Hand the items of the round to the thread. The caller has the lock."""
        for each in self._of_round:
            self._queue.put(each)
        self._of_round.clear()

    def _run(self) -> None:
        while batch := self._next_batch():
            for pending, result in zip(batch, self._results([each.item for each in batch]), strict=True):
                pending.end(result)

    def _results(self, items: Sequence[Item]) -> Sequence[Result | KafkaHttpError]:
        try:
            return self._send_batch(items)
        except KafkaHttpError as error:
            return [error] * len(items)
        except Exception:
            log.exception("Unexpected error in %s", self._name)
            return [Unavailable("The server's state store failed. See the server's log for the reason.")] * len(items)

    def _next_batch(self) -> list[PendingItem[Item, Result]]:
        """Wait for items and return them, up to a size. Return none after `close`."""
        batch: list[PendingItem[Item, Result]] = []
        size = 0
        while size < _MAX_BATCH_BYTES and len(batch) < _MAX_BATCH_ITEMS:
            try:
                pending = self._queue.get(block=not batch)
            except Empty:
                break
            if pending is None:
                self._queue.put(None)  # for the next call
                break
            batch.append(pending)
            size += self._size(pending.item)
        return batch
