"""Counters that all workers of a node share, in anonymous memory that is mapped before the fork.

No lock is shared, so a worker that is killed cannot stop the others. Each number has 8 bytes, which a processor writes
at once. If two workers count for the same client in the same microsecond, one of the counts can be lost: a limit is
exceeded by that one, and nothing else goes wrong.
"""

import os
import time
from collections.abc import Callable
from hashlib import blake2b
from mmap import mmap
from threading import Lock
from typing import NamedTuple

_WAYS = 16
"""Buckets in which a key may lie. A key that finds all of them in use takes that of the client that used least."""
_MAX_BUCKETS = 1 << 16
_ROUNDING_SECONDS = 1e-6


class Rate(NamedTuple):
    """How much is allowed: `per_second` on average, and `burst` at once."""

    per_second: float
    burst: float


class SharedBuckets:
    """A table of token buckets. Any thread of any worker may use it. `create_app` makes it before the fork.

    A bucket is one time, as in the generic cell rate algorithm (GCRA, ATM Forum TM 4.0): when it will be full again. A
    full bucket is the same as none, so its place is free for another key. The clock must be the same in all processes,
    as the system's monotonic clock is.
    """

    def __init__(self, size: int = _MAX_BUCKETS, clock: Callable[[], float] = time.monotonic) -> None:
        """`size` is a multiple of 16; each bucket has 16 bytes, which are used when the bucket is."""
        memory = memoryview(mmap(-1, 16 * size))
        self._keys = memory[: 8 * size].cast("Q")
        self._times = memory[8 * size :].cast("d")
        self._sets = size // _WAYS
        self._secret = os.urandom(32)
        self.clock = clock
        self.lock = Lock()
        """For the threads of a process."""

    def bucket(self, key: str, rate: Rate) -> "Bucket":
        """Return the bucket of a key, such as a purpose and a principal. Another rate makes it another bucket."""
        text = f"{rate.per_second:g} {rate.burst:g} {key}".encode(errors="surrogatepass")
        return Bucket(self, int.from_bytes(blake2b(text, key=self._secret, digest_size=8).digest()) | 1, rate)

    def find(self, key: int) -> int:
        """Return the place of a key, or -1."""
        start = key % self._sets * _WAYS
        keys = self._keys[start : start + _WAYS].tolist()
        return start + keys.index(key) if key in keys else -1

    def time_at(self, place: int, key: int) -> float | None:
        """Return when the bucket at a place is full again, or None if it has another key now."""
        return self._times[place] if self._keys[place] == key else None

    def set_time(self, place: int, value: float) -> None:
        self._times[place] = value

    def insert(self, key: int, value: float) -> int:
        """Put a key in the place of the bucket that is full, or was first to be full, and return the place."""
        start = key % self._sets * _WAYS
        times = self._times[start : start + _WAYS].tolist()
        place = start + times.index(min(times))
        self._times[place] = value
        self._keys[place] = key
        return place


class Bucket:
    """The bucket of one key. May be kept: it finds its place again if another key got it."""

    __slots__ = ("_key", "_place", "_table", "cost_seconds", "rate", "window")

    def __init__(self, table: SharedBuckets, key: int, rate: Rate) -> None:
        self._table = table
        self._key = key
        self._place = 0
        self.rate = rate
        self.cost_seconds = 1 / rate.per_second
        self.window = rate.burst / rate.per_second
        """Seconds until an empty bucket is full."""

    def take(self, cost: float = 1.0) -> float:
        """Take `cost` and return 0, or take nothing and return the seconds until there is enough."""
        with self._table.lock:
            now = self._table.clock()
            backlog = self.backlog(now)
            wait = self.wait_for(cost, backlog)
            if wait <= 0:
                self.set_backlog(now, backlog + cost * self.cost_seconds)
            return wait

    def add(self, cost: float) -> None:
        """Take `cost` even if there is not enough. A negative `cost` gives back what was taken."""
        with self._table.lock:
            now = self._table.clock()
            self.set_backlog(now, self.backlog(now) + cost * self.cost_seconds)

    def wait(self, cost: float = 1.0) -> float:
        """Return the seconds until `take` would succeed, 0 if it would now. Takes nothing."""
        return self.wait_for(cost, self.backlog(self._table.clock()))

    # In parts, for callers that hold the table's lock

    def backlog(self, now: float) -> float:
        """Return the seconds until the bucket is full."""
        full = self._table.time_at(self._place, self._key)
        if full is None:
            place = self._table.find(self._key)
            if place < 0:
                return 0.0
            self._place = place
            full = self._table.time_at(place, self._key) or now
        return full - now if full > now else 0.0

    def set_backlog(self, now: float, backlog: float) -> None:
        if self._table.time_at(self._place, self._key) is not None:
            self._table.set_time(self._place, now + backlog)
        elif backlog > 0:
            self._place = self._table.insert(self._key, now + backlog)

    def wait_for(self, cost: float, backlog: float) -> float:
        """Return the seconds until there is enough.

        A full bucket gives any cost, and owes what it does not have. Else what is over the burst could never pass.
        """
        wait = min(backlog, backlog + cost * self.cost_seconds - self.window)
        return wait if wait > _ROUNDING_SECONDS else 0.0


class SharedCounters(NamedTuple):
    """What the workers count together. `create_app` makes it before the fork; it outlives reloads."""

    buckets: SharedBuckets

    @classmethod
    def create(cls) -> "SharedCounters":
        return cls(SharedBuckets())
