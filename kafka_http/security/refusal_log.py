"""A log line for each refusal."""

import logging
import threading
import time

from kafka_http.errors import KafkaHttpError
from kafka_http.logs import principal_text

log = logging.getLogger(__name__)

MAX_LINES = 100
"""Lines in one second, of different addresses."""
_MAX_TEXT = 200


class RefusalLog:
    """Logs refusals: at most one line in a second for an address, so that nobody can fill the disk.

    Any thread may call.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._second = 0
        self._addresses: set[str] = set()
        """The addresses that have a line in this second."""
        self._skipped = 0

    def log(self, error: KafkaHttpError, what: str, principal: str, address: str) -> None:
        """Log that `what`, such as PUT /messages/t, was refused. `principal` is empty if it is not known."""
        skipped = self._count(address)
        if skipped is None:
            return
        more = "1 more refusal was" if skipped == 1 else f"{skipped} more refusals were"
        rest = f" ({more} not logged)" if skipped else ""
        log.info(
            "Refused %s, principal %s, client %s: %d %s%s",
            what[:_MAX_TEXT],
            principal_text(principal),
            address or "-",
            error.code,
            error.message,
            rest,
        )

    def _count(self, address: str) -> int | None:
        """Return how many lines were left out since the last one, or None if this one must be left out."""
        second = int(time.monotonic())
        with self._lock:
            if second != self._second:
                self._second = second
                self._addresses.clear()
            if address in self._addresses or len(self._addresses) >= MAX_LINES:
                self._skipped += 1
                return None
            self._addresses.add(address)
            skipped, self._skipped = self._skipped, 0
            return skipped
