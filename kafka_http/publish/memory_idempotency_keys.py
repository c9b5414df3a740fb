"""Idempotency keys of a single process, for as long as it lives."""

import threading
import time
from itertools import takewhile

from msgspec import Struct

from kafka_http.records import KeyClaimResult, StoredResponse


class _Key(Struct):
    fingerprint: str
    holder: str
    created: float
    answer: StoredResponse | None = None


class MemoryIdempotencyKeys:
    """`IdempotencyKeys` in this process's memory. Any thread may call."""

    def __init__(self, retention: float) -> None:
        self._retention = retention
        self._keys: dict[tuple[str, str], _Key] = {}  # by their age
        self._lock = threading.Lock()

    def claim_key(self, caller: str, name: str, fingerprint: str, holder: str) -> KeyClaimResult:
        with self._lock:
            self._forget_old()
            key = self._keys.setdefault((caller, name), _Key(fingerprint, holder, time.monotonic()))
            if key.holder == holder:
                return KeyClaimResult("own")
            if key.fingerprint != fingerprint:
                return KeyClaimResult("other")
            return KeyClaimResult("running") if key.answer is None else KeyClaimResult("kept", key.answer)

    def keep_answer(self, caller: str, name: str, holder: str, answer: StoredResponse) -> None:
        with self._lock:
            key = self._keys.get((caller, name))
            if key is not None and key.holder == holder:
                key.answer = answer

    def free_key(self, caller: str, name: str, holder: str) -> None:
        with self._lock:
            key = self._keys.get((caller, name))
            if key is not None and key.holder == holder and key.answer is None:
                del self._keys[caller, name]

    def _forget_old(self) -> None:
        until = time.monotonic() - self._retention
        old = list(takewhile(lambda each: each[1].created <= until, self._keys.items()))
        for place, key in old:
            if key.answer is not None:
                del self._keys[place]
