"""Renewal of leases while the commands of their messages run."""

import threading
from contextlib import suppress
from typing import Self

from kafka_http.cli.client_queue import WorkQueue
from kafka_http.cli.client_requests import RequestError

_RENEWALS = 3
"""How often a lock is renewed in its time, so that one call may fail."""


class LeaseRenewal:
    """Renews the locks of all leases in one call, in a thread of its own, in its `with` block. Any thread may call."""

    def __init__(self, queue: WorkQueue) -> None:
        self._queue = queue
        self._leases: dict[str, None] = {}
        self._lock = threading.Lock()
        self._calling = threading.Lock()
        self._ended = threading.Event()

    def __enter__(self) -> Self:
        threading.Thread(target=self._run, name="lease renewal", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()

    def add(self, lease: str) -> None:
        """Renew this lease from now on."""
        with self._lock:
            self._leases[lease] = None

    def remove(self, lease: str) -> bool:
        """Renew this lease no longer. Return false if it is lost.

        Waits for a renewal that has begun: it must not come after the call that settles the message.
        """
        with self._calling, self._lock:
            is_held = lease in self._leases
            self._leases.pop(lease, None)
            return is_held

    def _run(self) -> None:
        while not self._ended.wait(self._queue.lock / _RENEWALS):
            with self._calling, suppress(RequestError):  # the next one may succeed
                self._renew()

    def _renew(self) -> None:
        with self._lock:
            leases = list(self._leases)
        lost = self._queue.extend_all(leases, self._queue.lock)
        with self._lock:
            for lease in lost:
                self._leases.pop(lease, None)
