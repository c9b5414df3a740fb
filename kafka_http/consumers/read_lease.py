"""Whose turn it is with a consumer instance: one reader at a time, in the order in which they came."""

import time
import uuid
from collections import deque
from collections.abc import Callable, Collection, Iterable
from threading import Condition

from kafka_http.errors import InstanceBusy, LeaseExpired
from kafka_http.records import RecordPlace, TopicPartition

_SETTLED = 2.0
"""Seconds."""
GRACE = 30.0
"""Seconds that a loan lasts beyond the time that its reader may wait."""


class LeasedRead:
    """A loan as its lender sees it: `held` are the partitions of which it may still say how far it came."""

    def __init__(self, ends: float) -> None:
        self.id = uuid.uuid4().hex
        self.ends = ends
        self.held: set[TopicPartition] = set()
        self.sought: set[TopicPartition] = set()
        self.renewals = 0

    def lend(self, partitions: Collection[TopicPartition]) -> None:
        self.held = set(partitions)
        self.sought = set()

    def read_on(self, places: Iterable[RecordPlace]) -> dict[TopicPartition, int]:
        """The positions that count: not of partitions lost, nor of those that were sought elsewhere meanwhile."""
        return {place: at for place, at in _offsets(places).items() if place in self.held - self.sought}

    def handed_out(self, places: Iterable[RecordPlace]) -> dict[TopicPartition, int]:
        return {place: at for place, at in _offsets(places).items() if place in self.held}


class ReadLeaseQueue:
    """The loans of one instance. All calls are made with `changed` held; those that wait let go of it meanwhile."""

    def __init__(self, changed: Condition, clock: Callable[[], float], ended: Callable[[], None]) -> None:
        """`ended` is called when a loan has ended."""
        self._changed = changed
        self._clock = clock
        self._ended = ended
        self._queue: deque[object] = deque()
        self.current: LeasedRead | None = None

    def take(self, timeout: float, check: Callable[[], None]) -> LeasedRead:
        """Wait for a turn. `check` is called again and again, and may raise. Raises `InstanceBusy`."""
        ticket = object()
        self._queue.append(ticket)
        until = time.monotonic() + timeout
        try:
            while True:
                check()
                self.end_overdue()
                if self.current is None and self._queue[0] is ticket:
                    self.current = LeasedRead(self._clock() + timeout + GRACE)
                    return self.current
                left = until - time.monotonic()
                if left <= 0:
                    raise InstanceBusy
                self._changed.wait(min(left, 1.0))
        finally:
            self._queue.remove(ticket)
            self._changed.notify_all()

    def find(self, loan_id: str) -> LeasedRead:
        """The loan of this id. Raises `LeaseExpired`."""
        self.end_overdue()
        if self.current is None or self.current.id != loan_id:
            raise LeaseExpired
        return self.current

    def extend(self, lent: LeasedRead, timeout: float) -> None:
        lent.ends = self._clock() + timeout + GRACE
        lent.renewals += 1
        self._changed.notify_all()

    def settle(self) -> None:
        """Wait for the page that a reader may be handing out: its client can have all of it, and call again, a moment
        before it is given back. A reader that renews its loan has none."""
        lent, until = self.current, time.monotonic() + _SETTLED
        renewals = 0 if lent is None else lent.renewals
        while lent is not None and self.current is lent and lent.renewals == renewals:
            left = until - time.monotonic()
            if left <= 0:
                return
            self._changed.wait(left)

    def end_overdue(self) -> bool:
        """End a loan whose time is over, and say so."""
        if self.current is None or self._clock() < self.current.ends:
            return False
        self.end()
        return True

    def end(self) -> None:
        self.current = None
        self._ended()
        self._changed.notify_all()


def _offsets(places: Iterable[RecordPlace]) -> dict[TopicPartition, int]:
    return {TopicPartition(each.topic, each.partition): each.offset for each in places}
