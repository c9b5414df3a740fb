"""Returns freed memory to the operating system.

glibc keeps freed memory for a thread's next allocation: after a few large pages a worker kept hundreds of MB. Python's
garbage collector runs after a number of allocations, so an idle worker keeps what is in reference cycles forever.
"""

import ctypes
import gc
import logging
import resource
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

log = logging.getLogger(__name__)

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # malloc.h
_ARENAS = 2
_MMAP_BYTES = 1 << 22
"""Size from which on each block is its own mapping, which returns to the system when it is freed.

By default glibc raises this limit up to 32 MiB with each such block. With 256 KiB, reads of 1 MB values take 1.4 times
the CPU time.
"""
_CHANGE_BYTES = 1 << 24
_CHECK_SECONDS = 5.0
_TRIMS = 6
"""Number of trims after a change. Memory that is freed within the heap does not show in the size of the process."""
_IDLE_SHARE = 0.2
"""Share of a core that an idle process uses at most. In a busy one, a full garbage collection would delay requests."""


class MemoryTrimmer:
    """Configures glibc's allocator and trims it after the process has grown or shrunk by 16 MiB or more.

    An idle process first releases what it keeps for later requests, and collects garbage. The worker creates the
    trimmer, and its main loop calls it. Allocators other than glibc's are not trimmed.
    """

    def __init__(self) -> None:
        self._next_check = self._checked_at = 0.0
        self._cpu_seconds = 0.0
        """CPU time of the process at the last check."""
        self._trims_left = 0
        self._trimmed_size = 0
        """Bytes of the process after the last trim."""
        self._malloc_trim: Callable[[int], int] | None = None
        try:
            libc = ctypes.CDLL(None)
            self._malloc_trim = libc.malloc_trim
            options = ((_M_ARENA_MAX, _ARENAS), (_M_MMAP_THRESHOLD, _MMAP_BYTES), (_M_TRIM_THRESHOLD, _MMAP_BYTES))
            for option, value in options:
                libc.mallopt(option, value)
        except (OSError, AttributeError):  # musl, macOS
            log.debug("Memory is not trimmed: the allocator is not glibc's.")

    def check(self, run: Callable[[Callable[[], None]], None], release: Callable[[], None]) -> None:
        """Trim the allocator if necessary.

        `run` runs the trim, which takes some milliseconds, in another thread. `release` releases what the application
        keeps for later requests.
        """
        now = time.monotonic()
        if now < self._next_check:
            return
        self._next_check = now + _CHECK_SECONDS
        is_idle = self._is_idle(now)
        if abs(_resident_bytes() - self._trimmed_size) > _CHANGE_BYTES:
            self._trims_left = _TRIMS
        if self._trims_left:
            self._trims_left -= is_idle
            run(partial(self._trim_idle, release) if is_idle else self._trim)

    def _is_idle(self, now: float) -> bool:
        """Return whether the process has used little CPU time since the last check."""
        seconds, used = now - self._checked_at, time.process_time() - self._cpu_seconds
        self._checked_at, self._cpu_seconds = now, self._cpu_seconds + used
        return used < seconds * _IDLE_SHARE

    def _trim_idle(self, release: Callable[[], None]) -> None:
        release()
        gc.collect()
        self._trim()

    def _trim(self) -> None:
        if self._malloc_trim is not None:
            self._malloc_trim(0)
        self._trimmed_size = _resident_bytes()


def _resident_bytes() -> int:
    """Return the memory of the process, or 0 if the system does not report it."""
    try:
        pages = Path("/proc/self/statm").read_bytes().split()[1]
    except OSError:
        return 0
    return int(pages) * resource.getpagesize()
