"""A bounded cache that loads each missing value once, even if many threads request it."""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import Generic, TypeVar

from msgspec import Struct

from kafka_http.errors import WouldBlock

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class _Entry(Struct, Generic[Value]):
    value: Value
    size: int
    expires: float


class LoadingCache(Generic[Key, Value]):
    """Drops the least recently used values when the sizes of all exceed `limit`. Safe in many threads.

    A value that is larger than the limit is returned and not kept. `lifetime` returns the seconds until a value must be
    loaded again (default: never).
    """

    def __init__(
        self,
        limit: int,
        size: Callable[[Value], int],
        lifetime: Callable[[Key, Value], float] = lambda key, value: float("inf"),
    ) -> None:
        self._limit = limit
        self._size_of_value = size
        self._lifetime = lifetime
        self._size = 0
        self._entries: OrderedDict[Key, _Entry[Value]] = OrderedDict()
        self._loading: dict[Key, Future[Value]] = {}
        self._lock = threading.Lock()

    def get(self, key: Key, load: Callable[[], Value], *, blocking: bool = True) -> Value:
        """Return the value of a key. The first caller loads it; others wait and get the same value or exception.

        Raises `WouldBlock` if the value is not cached and `blocking` is false.
        """
        with self._lock:
            entry = self._entries.get(key)
            if entry is not None and entry.expires > time.monotonic():
                self._entries.move_to_end(key)
                return entry.value
            if not blocking:
                raise WouldBlock
            loading = self._loading.get(key)
            is_first = loading is None
            if loading is None:
                loading = self._loading[key] = Future()
        # Without the lock: loading may take seconds, and other keys must not wait for it.
        if is_first:
            self._load(key, load, loading)
        return loading.result()

    def peek(self, key: Key) -> Value | None:
        """Return the cached value of a key even if it has expired; None if there is none."""
        entry = self._entries.get(key)  # one operation on a dict needs no lock
        return None if entry is None else entry.value

    def put(self, key: Key, value: Value) -> None:
        """Store a value."""
        entry = _Entry(value, self._size_of_value(value), time.monotonic() + self._lifetime(key, value))
        with self._lock:
            self._remove(key)
            self._entries[key] = entry
            self._size += entry.size
            while self._size > self._limit:
                self._remove(next(iter(self._entries)))

    def _remove(self, key: Key) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._size -= entry.size

    def _load(self, key: Key, load: Callable[[], Value], loading: Future[Value]) -> None:
        try:
            value = load()
        except BaseException as error:
            self._end_loading(key)
            loading.set_exception(error)
        else:
            self.put(key, value)  # before the end of loading, or another caller would load it again
            self._end_loading(key)
            loading.set_result(value)

    def _end_loading(self, key: Key) -> None:
        with self._lock:
            del self._loading[key]
