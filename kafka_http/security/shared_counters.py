"""Counters that all workers of a node share, in anonymous memory that is mapped before the fork.

No lock is shared, so a worker that is killed cannot stop the others. Each number has 8 bytes, which a processor writes
at once. If two workers count for the same client in the same microsecond, one of the counts can be lost: a limit is
exceeded by that one, and nothing else goes wrong.
"""

import fcntl
import os
import time
import weakref
from collections.abc import Callable
from hashlib import blake2b
from mmap import mmap
from tempfile import TemporaryFile
from threading import Lock
from typing import NamedTuple

_WAYS = 16
"""Buckets in which a key may lie. A key that finds all of them in use takes that of the client that used least."""
_MAX_BUCKETS = 1 << 16
_ROUNDING_SECONDS = 1e-6
_COUNT_WAYS = 32
_MAX_COUNTS = 1 << 13
_MAX_WORKERS = 256


class Rate(NamedTuple):
    """How much is allowed: `per_second` on average, and `burst` at once."""

    per_second: float
    burst: float


class KeyHash:
    """Maps keys to numbers that are not 0. Clients cannot find keys with the same number, as the hash has a secret."""

    def __init__(self) -> None:
        self._secret = os.urandom(32)

    def __call__(self, key: str) -> int:
        digest = blake2b(key.encode(errors="surrogatepass"), key=self._secret, digest_size=8).digest()
        return int.from_bytes(digest) | 1


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
        self._hash = KeyHash()
        self.clock = clock
        self.lock = Lock()
        """For the threads of a process."""

    def bucket(self, key: str, rate: Rate) -> "Bucket":
        """Return the bucket of a key, such as a purpose and a principal. Another rate makes it another bucket."""
        return Bucket(self, self._hash(f"{rate.per_second:g} {rate.burst:g} {key}"), rate)

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


class OpenCounts:
    """How many things, such as streams, are open for each key. Any thread of any worker may use it.

    Each worker has a table, which only it writes; the sum of all counts. A worker holds a lock on one byte of a file as
    long as it lives. When a worker is killed, the system releases the lock, by which the others find its table.
    """

    def __init__(self, workers: int = _MAX_WORKERS, size: int = _MAX_COUNTS) -> None:
        """`size`: the number of keys of a worker, a multiple of 32. What has no room is not counted."""
        memory = memoryview(mmap(-1, 8 * workers * (1 + 2 * size))).cast("Q")
        self._in_use = memory[:workers]
        self._tables = [
            _CountTable(memory[start : start + 2 * size]) for start in range(workers, len(memory), 2 * size)
        ]
        self._hash = KeyHash()
        self._file = _new_file()
        weakref.finalize(self, os.close, self._file)
        self._lock = Lock()
        self._process = 0
        self._own: _CountTable | None = None
        """The table of the process `_process`, or None if there are more workers than tables."""

    def acquire(self, key: str, limit: int) -> "OpenCount | None":
        """Count one more. None, with nothing counted: there are `limit` already."""
        number = self._hash(key)
        with self._lock:
            own = self._own_table()
            if self._total(number) >= limit and not (self._forget_dead(own) and self._total(number) < limit):
                return None
            is_counted = own is not None and own.change(number, 1)
        return OpenCount(self, number, is_open=is_counted)

    def release(self, count: "OpenCount") -> None:
        with self._lock:
            if count.is_open and self._own is not None:
                count.is_open = False
                self._own.change(count.key, -1)

    def _total(self, key: int) -> int:
        return sum(table.count(key) for is_used, table in zip(self._in_use, self._tables, strict=True) if is_used)

    def _own_table(self) -> "_CountTable | None":
        if self._process != (process := os.getpid()):  # after the fork
            self._process = process
            number = next(filter(self._try_lock, range(len(self._tables))), None)
            self._own = None if number is None else self._tables[number]
            if self._own is not None and number is not None:
                self._own.clear()
                self._in_use[number] = 1
        return self._own

    def _forget_dead(self, own: "_CountTable | None") -> bool:
        """Forget the counts of workers that have ended. Return whether there were any."""
        used = [each for each, table in enumerate(self._tables) if self._in_use[each] and table is not own]
        dead = [each for each in used if self._try_lock(each)]
        for each in dead:
            self._in_use[each] = 0
            fcntl.lockf(self._file, fcntl.LOCK_UN, 1, each)
        return bool(dead)

    def _try_lock(self, number: int) -> bool:
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, number)
        except OSError:
            return False
        return True


class OpenCount:
    """One thing that is counted until this is called. It may be called again."""

    __slots__ = ("_counts", "is_open", "key")

    def __init__(self, counts: OpenCounts, key: int, *, is_open: bool) -> None:
        self._counts = counts
        self.key = key
        self.is_open = is_open

    def __call__(self) -> None:
        self._counts.release(self)


class _CountTable:
    """The counts of one worker, by key. A count of 0 is a free place."""

    def __init__(self, memory: memoryview) -> None:
        half = len(memory) // 2
        self._keys, self._counts = memory[:half], memory[half:]

    def count(self, key: int) -> int:
        start, keys = self._places(key)
        return self._counts[start + keys.index(key)] if key in keys else 0

    def change(self, key: int, change: int) -> bool:
        """Change a count. Return False if there is no place for the key."""
        start, keys = self._places(key)
        if key not in keys and 0 not in keys:
            return False
        place = start + keys.index(key if key in keys else 0)
        count = self._counts[place] + change
        self._counts[place] = count
        self._keys[place] = key if count else 0
        return True

    def clear(self) -> None:
        for each in (self._keys, self._counts):
            each[:] = memoryview(bytes(each.nbytes)).cast("Q")

    def _places(self, key: int) -> tuple[int, list[int]]:
        start = key % (len(self._keys) // _COUNT_WAYS) * _COUNT_WAYS
        return start, self._keys[start : start + _COUNT_WAYS].tolist()


def _new_file() -> int:
    """Return the descriptor of a file without a name."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("kafka_http")
    with TemporaryFile() as file:
        return os.dup(file.fileno())


class SharedCounters(NamedTuple):
    """What the workers count together. `create_app` makes it before the fork; it outlives reloads."""

    buckets: SharedBuckets
    open_counts: OpenCounts

    @classmethod
    def create(cls) -> "SharedCounters":
        return cls(SharedBuckets(), OpenCounts())
