"""The limit of open files (RLIMIT_NOFILE)."""

import resource
from contextlib import suppress
from threading import Lock

from kafka_http.errors import Unavailable

_RESERVED = 512
"""Descriptors for everything else that a process opens."""


class OpenFileLimit:
    """Raises the limit for a number of items, such as streams, that need some descriptors each."""

    def __init__(self, per_item: int, items: str) -> None:
        self._per_item = per_item
        self._items = items
        self._lock = Lock()

    def check(self, count: int) -> None:
        """Raise the soft limit for `count` items. Raises `Unavailable` if the hard limit is too low."""
        needed = count * self._per_item + _RESERVED
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
            f"The limit of open files is too low for {count} {self._items}: {needed} needed, limit {hard}. "
            "Raise it (ulimit -n, or LimitNOFILE= of systemd)."
        )
