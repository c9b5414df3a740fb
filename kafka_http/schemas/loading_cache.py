"""A cache for what takes long to get: bounded, and each thing is got once though many ask for it at the same time."""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import Generic, TypeVar

from msgspec import Struct

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class WouldBlock(Exception):
    """It is not in the cache, and whoever asked must not wait for it. Never leaves the server."""


class _Entry(Struct, Generic[Value]):
    value: Value
    weight: int
    expires: float


class LoadingCache(Generic[Key, Value]):
    """Forgets what was used longest ago once all together weighs more than `limit`. Safe in many threads.

    What weighs more than the limit by itself is handed on and not kept. `lifetime` says for how many seconds a value is
    kept before it is got anew (default: for good).
    """

    def __init__(
        self,
        limit: int,
        weight: Callable[[Value], int],
        lifetime: Callable[[Key, Value], float] = lambda key, value: float("inf"),
    ) -> None:
        self._limit = limit
        self._weigh = weight
        self._lifetime = lifetime
        self._weight = 0
        self._entries: OrderedDict[Key, _Entry[Value]] = OrderedDict()
        self._flights: dict[Key, Future[Value]] = {}
        self._lock = threading.Lock()

    def get(self, key: Key, make: Callable[[], Value], *, blocking: bool = True) -> Value:
        """The value of the key, made by the first who asks; the others wait for it, and share its error.

        Raises `WouldBlock` where it is not there and `blocking` is false.
        """
        with self._lock:
            entry = self._entries.get(key)
            if entry is not None and entry.expires > time.monotonic():
                self._entries.move_to_end(key)
                return entry.value
            if not blocking:
                raise WouldBlock
            flight = self._flights.get(key)
            is_first = flight is None
            if flight is None:
                flight = self._flights[key] = Future()
        if is_first:
            self._make(key, make, flight)
        return flight.result()

    def peek(self, key: Key) -> Value | None:
        """The last value of the key, however old; None where there is none."""
        entry = self._entries.get(key)
        return None if entry is None else entry.value

    def put(self, key: Key, value: Value) -> None:
        """Keep a value that was come by in another way."""
        entry = _Entry(value, self._weigh(value), time.monotonic() + self._lifetime(key, value))
        with self._lock:
            self._remove(key)
            self._entries[key] = entry
            self._weight += entry.weight
            while self._weight > self._limit:
                self._remove(next(iter(self._entries)))

    def _remove(self, key: Key) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._weight -= entry.weight

    def _make(self, key: Key, make: Callable[[], Value], flight: Future[Value]) -> None:
        try:
            value = make()
        except BaseException as error:
            self._land(key)
            flight.set_exception(error)
        else:
            self.put(key, value)
            self._land(key)
            flight.set_result(value)

    def _land(self, key: Key) -> None:
        with self._lock:
            del self._flights[key]
