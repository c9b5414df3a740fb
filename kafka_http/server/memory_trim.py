"""What a worker does so that memory which it has freed goes back to the system.

glibc keeps freed memory for a thread's next allocation: after a few large pages a worker kept hundreds of MB.
"""

import ctypes
import logging
import resource
import time
from collections.abc import Callable
from pathlib import Path

log = logging.getLogger(__name__)

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # malloc.h
_ARENAS = 2
_LARGE = 1 << 22
"""Bytes from which on a block is a mapping of its own, which goes back as it is freed. glibc would raise this limit up
to 32 MiB with each such block. Where it is 256 KiB, reads of 1 MB values take 1.4 times the CPU."""
_MUCH = 1 << 24
_LOOK_SECONDS = 5.0
_TRIMS = 6
"""So often after a change: what is freed within the heap does not show in the size of the process."""


class MemoryTrimmer:
    """Sets glibc's allocator up, and trims it where the process has grown or shrunk by much. Without effect where there
    is another allocator.

    The main loop makes it and calls.
    """

    def __init__(self) -> None:
        self._looks_from = 0.0
        self._trims_left = 0
        self._trimmed = 0
        """Bytes that the process had after the last trim."""
        self._trim: Callable[[int], int] | None = None
        try:
            libc = ctypes.CDLL(None)
            self._trim = libc.malloc_trim
            for option, value in ((_M_ARENA_MAX, _ARENAS), (_M_MMAP_THRESHOLD, _LARGE), (_M_TRIM_THRESHOLD, _LARGE)):
                libc.mallopt(option, value)
        except (OSError, AttributeError):  # musl, macOS
            log.debug("The memory allocator is not glibc's.")

    def look(self, run: Callable[[Callable[[], None]], None]) -> None:
        """Let `run` trim the allocator where it may be worth it; that takes some milliseconds."""
        now = time.monotonic()
        if now >= self._looks_from and self._trim is not None:
            self._looks_from = now + _LOOK_SECONDS
            if abs(_resident() - self._trimmed) > _MUCH:
                self._trims_left = _TRIMS
            if self._trims_left:
                self._trims_left -= 1
                run(self._trim_now)

    def _trim_now(self) -> None:
        if self._trim is not None:
            self._trim(0)
        self._trimmed = _resident()


def _resident() -> int:
    """Bytes of the process's memory; 0 where the system does not say."""
    try:
        pages = Path("/proc/self/statm").read_bytes().split()[1]
    except OSError:
        return 0
    return int(pages) * resource.getpagesize()
