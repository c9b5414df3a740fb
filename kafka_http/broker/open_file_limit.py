"""The limit of open files, which connections count against."""

import resource
from contextlib import suppress
from threading import Lock

from kafka_http.errors import Unavailable

_OTHERS = 512
"""Descriptors left to everything else that a process has open."""


class OpenFileLimit:
    """Sees to it that the process may open as many descriptors as some things of a kind need."""

    def __init__(self, each: int, things: str) -> None:
        self._each = each
        self._things = things
        self._lock = Lock()

    def check(self, count: int) -> None:
        """Raise the soft limit so that `count` things fit. Raises `Unavailable` where the hard one forbids it."""
        needed = count * self._each + _OTHERS
        with self._lock:
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            if soft == resource.RLIM_INFINITY or soft >= needed:
                return
            if hard == resource.RLIM_INFINITY or hard >= needed:
                wanted = needed * 2 if hard == resource.RLIM_INFINITY else min(hard, needed * 2)
                with suppress(ValueError, OSError):
                    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
                    return
        raise Unavailable(
            f"This server may not open enough files for {count} {self._things}: that takes {needed}, "
            f"its limit is {hard}. Raise it (ulimit -n, or LimitNOFILE= of systemd)."
        )
