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
from contextlib import suppress
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
        self.keys = memory[: 8 * size].cast("Q")
        self.times = memory[8 * size :].cast("d")
        self._sets = size // _WAYS
        self._hash = KeyHash()
        self.clock = clock
        self.lock = Lock()
        """For the threads of a process."""

    def bucket(self, key: str, rate: Rate) -> "Bucket":
        """Return the bucket of a key, such as a purpose and a principal. Another rate makes it another bucket."""
        return Bucket(self, self._hash(f"{rate.per_second!r} {rate.burst!r} {key}"), rate)

    def find(self, key: int) -> int:
        """Return the place of a key. If it has none, it gets that of the bucket that is full, or is full first."""
        start = key % self._sets * _WAYS
        keys = self.keys[start : start + _WAYS].tolist()
        if key in keys:
            return start + keys.index(key)
        times = self.times[start : start + _WAYS].tolist()
        place = start + times.index(min(times))
        self.times[place] = 0.0
        self.keys[place] = key
        return place


class Bucket:
    """The bucket of one key. May be kept: it finds its place again if another key got it."""

    __slots__ = ("_key", "_keys", "_max_backlog", "_place", "_table", "_times", "cost_seconds", "window")

    def __init__(self, table: SharedBuckets, key: int, rate: Rate) -> None:
        self._table = table
        self._keys, self._times = table.keys, table.times
        self._key = key
        self._place = 0
        self.cost_seconds = 1 / rate.per_second
        self.window = rate.burst / rate.per_second
        """Seconds until an empty bucket is full."""
        self._max_backlog = self.window + _ROUNDING_SECONDS

    def take(self, cost: float = 1.0) -> float:
        """Take `cost` and return 0, or take nothing and return the seconds until there is enough.

        A full bucket gives any cost, and owes what it does not have. Else what is over the burst could never pass.
        """
        with self._table.lock:
            now = self._table.clock()
            after = self.after(now, cost)
            if after >= 0:
                self.set(now + after)
            return max(0.0, -after)

    def add(self, cost: float) -> None:
        """Take `cost` even if there is not enough. A negative `cost` gives back what was taken."""
        with self._table.lock:
            now = self._table.clock()
            self.set(now + self.backlog(now) + cost * self.cost_seconds)

    def wait(self, cost: float = 1.0) -> float:
        """Return the seconds until `take` would succeed, 0 if it would now. Takes nothing."""
        return max(0.0, -self.after(self._table.clock(), cost))

    # In parts, for callers that hold the table's lock

    def after(self, now: float, cost: float) -> float:
        """Return the seconds until the bucket would be full after a `take` at `now`; if negative, those to wait."""
        if self._keys[self._place] != self._key:
            self._place = self._table.find(self._key)
        backlog = self._times[self._place] - now
        after = cost * self.cost_seconds
        if backlog > 0:
            after += backlog
            if after > self._max_backlog:
                return -min(after - self.window, backlog)
        return after

    def backlog(self, now: float) -> float:
        """Return the seconds until the bucket is full."""
        if self._keys[self._place] != self._key:
            self._place = self._table.find(self._key)
        return max(0.0, self._times[self._place] - now)

    def set(self, full: float) -> None:
        """Set when the bucket is full. `backlog` was called before."""
        self._times[self._place] = full


class OpenCounts:
    """How many things, such as streams, are open for each key. Any thread of any worker may use it.

    Each worker has a table, which only it writes; the sum of all counts. A worker holds a lock on one byte of a file as
    long as it lives. When a worker is killed, the system releases the lock, by which the others find its table.
    """

    def __init__(self, workers: int = _MAX_WORKERS, size: int = _MAX_COUNTS) -> None:
        """`size`: the number of keys of a worker, a multiple of 32. What has no room is not counted."""
        self._memory = memoryview(mmap(-1, 8 * workers * (1 + 2 * size))).cast("Q")
        self._in_use = self._memory[:workers]
        self._size = size
        self._tables: dict[int, _CountTable] = {}
        self._hash = KeyHash()
        self._file = _new_file()
        self._close_file = weakref.finalize(self, os.close, self._file)
        self._lock = Lock()
        self._process = 0
        self._own: _CountTable | None = None
        """The table of the process `_process`, or None if there are more workers than tables."""

    def acquire(self, key: str, limit: int) -> "OpenCount | None":
        """Count one more. None, with nothing counted: there are `limit` already."""
        number = self._hash(key)
        with self._lock:
            if not self._close_file.alive:
                return OpenCount(self, number, is_open=False)
            own = self._own_table()
            if self._total(number) >= limit and not (self._forget_dead(own) and self._total(number) < limit):
                return None
            is_counted = own is not None and own.change(number, 1)
        return OpenCount(self, number, is_open=is_counted)

    def close(self) -> None:
        """Close the file at the end of the process. Nothing is counted any more."""
        with self._lock:
            self._close_file()

    def release(self, count: "OpenCount") -> None:
        with self._lock:
            if count.is_open and self._own is not None:
                count.is_open = False
                self._own.change(count.key, -1)

    def _total(self, key: int) -> int:
        return sum(self._table(each).count(key) for each in self._used())

    def _used(self) -> list[int]:
        return [number for number, is_used in enumerate(self._in_use.tolist()) if is_used]

    def _table(self, number: int) -> "_CountTable":
        if number not in self._tables:
            start = len(self._in_use) + 2 * self._size * number
            self._tables[number] = _CountTable(self._memory[start : start + 2 * self._size])
        return self._tables[number]

    def _own_table(self) -> "_CountTable | None":
        if self._process != (process := os.getpid()):  # after the fork
            self._process = process
            self._own = None
            number = next(filter(self._try_lock, range(len(self._in_use))), None)
            if number is not None:
                self._own = self._table(number)
                self._own.clear()
                self._in_use[number] = 1
        return self._own

    def _forget_dead(self, own: "_CountTable | None") -> bool:
        """Forget the counts of workers that have ended. Return whether there were any."""
        dead = [each for each in self._used() if self._table(each) is not own and self._try_lock(each)]
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
    with suppress(AttributeError, OSError):  # not Linux, or the system forbids it
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
