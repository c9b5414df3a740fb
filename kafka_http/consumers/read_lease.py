"""The read lease of a consumer instance: one reader at a time, in the order of their requests."""

import time
import uuid
from collections import deque
from collections.abc import Callable, Collection, Iterable
from threading import Condition

from kafka_http.errors import InstanceBusy, LeaseExpired
from kafka_http.records import RecordPlace, TopicPartition, offsets_of

_DELIVERY_SECONDS = 2.0
GRACE = 30.0
"""The time that a lease lasts after the reader's timeout, in seconds."""


class ActiveLease:
    """The state of a lease. `held` are the partitions whose offsets its reader may still report."""

    def __init__(self, ends: float) -> None:
        self.id = uuid.uuid4().hex
        self.ends = ends
        self.held: set[TopicPartition] = set()
        self.sought: set[TopicPartition] = set()
        self.renewals = 0

    def grant(self, partitions: Collection[TopicPartition]) -> None:
        """Let the reader read these partitions."""
        self.held = set(partitions)
        self.sought = set()

    def valid_positions(self, places: Iterable[RecordPlace]) -> dict[TopicPartition, int]:
        """Return the reported positions, without partitions that were lost or that a client has sought meanwhile."""
        return {place: at for place, at in offsets_of(places).items() if place in self.held - self.sought}

    def valid_delivered(self, places: Iterable[RecordPlace]) -> dict[TopicPartition, int]:
        """Return the reported delivered offsets, without partitions that were lost."""
        return {place: at for place, at in offsets_of(places).items() if place in self.held}


class ReadLeaseQueue:
    """The lease of one instance and the readers that wait for it.

    The instance creates it. The condition `changed` is locked in all calls; waiting releases it.
    """

    def __init__(self, changed: Condition, clock: Callable[[], float], on_ended: Callable[[], None]) -> None:
        """`on_ended` is called when a lease has ended."""
        self._changed = changed
        self._clock = clock
        self._on_ended = on_ended
        self._queue: deque[object] = deque()
        self.current: ActiveLease | None = None

    def acquire(self, timeout: float, check: Callable[[], None]) -> ActiveLease:
        """Wait for the lease. `check` is called repeatedly and may raise. Raises `InstanceBusy` after `timeout`."""
        ticket = object()
        self._queue.append(ticket)
        until = time.monotonic() + timeout
        try:
            while True:
                check()
                self.end_expired()
                if self.current is None and self._queue[0] is ticket:
                    self.current = ActiveLease(self._clock() + timeout + GRACE)
                    return self.current
                left = until - time.monotonic()
                if left <= 0:
                    raise InstanceBusy
                self._changed.wait(min(left, 1.0))  # nothing notifies when the current lease expires
        finally:
            self._queue.remove(ticket)
            self._changed.notify_all()

    def find(self, lease_id: str) -> ActiveLease:
        """Return the current lease if it has this id. Raises `LeaseExpired`."""
        self.end_expired()
        if self.current is None or self.current.id != lease_id:
            raise LeaseExpired
        return self.current

    def extend(self, lease: ActiveLease, timeout: float) -> None:
        """Extend a lease by a new timeout."""
        lease.ends = self._clock() + timeout + GRACE
        lease.renewals += 1
        self._changed.notify_all()

    def wait_for_delivery(self) -> None:
        """Wait up to 2 s for the page that a reader may be delivering.

        Its client can have received the page, and make the next call, a moment before the lease is released. A reader
        that renews its lease has no page.
        """
        lease, until = self.current, time.monotonic() + _DELIVERY_SECONDS
        renewals = 0 if lease is None else lease.renewals
        while lease is not None and self.current is lease and lease.renewals == renewals:
            left = until - time.monotonic()
            if left <= 0:
                return
            self._changed.wait(left)

    def end_expired(self) -> None:
        """End the lease if its time is over."""
        if self.current is not None and self._clock() >= self.current.ends:
            self.end()

    def end(self) -> None:
        """End the current lease, if any."""
        self.current = None
        self._on_ended()
        self._changed.notify_all()
