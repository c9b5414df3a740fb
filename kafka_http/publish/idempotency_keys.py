"""Idempotency keys: a repeated request with the same key gets the stored response, and nothing is published again.

A claim of a key lasts until a response is stored or the key is released. The holder of a claim is a string
`worker/attempt`, so that claims of a worker that has ended can be recognized.
"""

import hashlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from itertools import takewhile
from typing import Protocol
from uuid import uuid4

from msgspec import Struct

from kafka_http.errors import IdempotencyKeyInUse, IdempotencyKeyMismatch, KafkaHttpError, Unavailable
from kafka_http.records import KeyClaimResult, StoredResponse

log = logging.getLogger(__name__)

_RETRY_SECONDS = 1.0


class IdempotencyKeys(Protocol):
    """The store of idempotency keys. All methods are idempotent themselves, and raise `Unavailable`.

    `caller` is the authenticated client or an empty string, and `name` its key.
    """

    def claim_key(self, caller: str, name: str, fingerprint: str, holder: str) -> KeyClaimResult:
        """Claim a key if it is new, or if the worker of its holder has ended."""

    def store_response(self, caller: str, name: str, holder: str, response: StoredResponse) -> None:
        """Store the response to replay for this key. No effect if the key has another holder."""

    def release_key(self, caller: str, name: str, holder: str) -> None:
        """Remove a claim. No effect if the key has another holder or a response."""


def fingerprint(parts: Iterable[bytes]) -> str:
    """Return a digest (64 characters) of the parts of a request that must be equal in its repetition."""
    digest = hashlib.sha256()
    for each in parts:
        digest.update(hashlib.sha256(each).digest())
    return digest.hexdigest()


class IdempotencyService:
    """Claims keys for requests. The composition root creates one for each process. Any thread may call."""

    def __init__(self, keys: IdempotencyKeys, worker: Callable[[], str]) -> None:
        """`worker` returns the name of this process. Its claims become invalid when the process ends."""
        self._keys = keys
        self._worker = worker
        self._background = _BackgroundCalls()

    def claim(self, caller: str, name: str, fingerprint: str) -> "KeyClaim | StoredResponse":
        """Claim a key, or return the stored response.

        Raises `IdempotencyKeyInUse`, `IdempotencyKeyMismatch`, and `Unavailable` if the store does not respond.
        """
        holder = f"{self._worker()}/{uuid4().hex[:16]}"
        try:
            result = self._keys.claim_key(caller, name, fingerprint, holder)
        except Unavailable as error:
            log.warning("Idempotency key could not be claimed: %s", error.message)
            raise Unavailable(
                "The server's state store, which keeps Idempotency-Keys, does not respond. Nothing was written. "
                "Retry, or publish without a key. The server's log has the reason."
            ) from None
        if result.response is not None:
            return result.response
        if result.state != "claimed":
            raise IdempotencyKeyInUse() if result.state == "in_progress" else IdempotencyKeyMismatch()
        return KeyClaim(self._keys, self._background, (caller, name, holder))

    def close(self, timeout: float) -> None:
        """Wait up to `timeout` seconds until the open claims of this process are completed or released."""
        self._background.close(timeout)


class KeyClaim:
    """A claimed key of one request. `complete` or `release` ends it, in the background if the store does not respond.

    Any thread may call.
    """

    def __init__(self, keys: IdempotencyKeys, background: "_BackgroundCalls", key: tuple[str, str, str]) -> None:
        self._keys = keys
        self._background = background
        self._key = key

    def complete(self, response: StoredResponse) -> None:
        """Store the response to replay for this key."""
        self._background.try_now(partial(self._keys.store_response, *self._key, response))

    def release(self) -> None:
        """Remove the claim, so that a repeated request is executed."""
        self._background.try_now(partial(self._keys.release_key, *self._key))

    def defer(self, call: Callable[[], None]) -> None:
        """Call a function, which ends this claim, in the background thread. Does not block."""
        self._background.add(call)


class _BackgroundCalls:
    """A thread that runs calls one after the other and repeats each until the store responds."""

    def __init__(self) -> None:
        self._waiting: deque[Callable[[], None]] = deque()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closing = False

    def try_now(self, call: Callable[[], None]) -> None:
        if not _try(call):
            self.add(call)

    def add(self, call: Callable[[], None]) -> None:
        with self._changed:
            self._waiting.append(call)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="idempotency-keys", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def close(self, timeout: float) -> None:
        until = time.monotonic() + timeout
        with self._changed:
            self._closing = True
            self._changed.notify_all()
            while self._waiting and (left := until - time.monotonic()) > 0:
                self._changed.wait(left)
            self._waiting.clear()

    def _run(self) -> None:
        while (call := self._next()) is not None:
            is_done = _try(call)  # without the lock: it may take seconds
            with self._changed:
                if is_done and self._waiting:
                    self._waiting.popleft()
                    self._changed.notify_all()
                elif self._waiting:
                    self._changed.wait(_RETRY_SECONDS)

    def _next(self) -> Callable[[], None] | None:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closing)
            return self._waiting[0] if self._waiting else None


def _try(call: Callable[[], None]) -> bool:
    """Whether the call succeeded or can never succeed."""
    try:
        call()
    except Unavailable as error:
        log.warning("Idempotency key not updated; retrying: %s", error.message)
        return False
    except KafkaHttpError as error:
        log.error("Idempotency key not updated: %s", error.message)
    except Exception:
        log.exception("Idempotency key not updated")
    return True


class _MemoryKey(Struct):
    fingerprint: str
    holder: str
    created: float
    response: StoredResponse | None = None


class MemoryIdempotencyKeys:
    """`IdempotencyKeys` in the memory of this process. Any thread may call."""

    def __init__(self, retention: float) -> None:
        """`retention` is the time in seconds that responses are kept."""
        self._retention = retention
        self._keys: dict[tuple[str, str], _MemoryKey] = {}  # in the order of creation
        self._lock = threading.Lock()

    def claim_key(self, caller: str, name: str, fingerprint: str, holder: str) -> KeyClaimResult:
        with self._lock:
            self._remove_expired()
            key = self._keys.setdefault((caller, name), _MemoryKey(fingerprint, holder, time.monotonic()))
            if key.holder == holder:
                return KeyClaimResult("claimed")
            if key.fingerprint != fingerprint:
                return KeyClaimResult("mismatch")
            return KeyClaimResult("in_progress") if key.response is None else KeyClaimResult("completed", key.response)

    def store_response(self, caller: str, name: str, holder: str, response: StoredResponse) -> None:
        with self._lock:
            key = self._keys.get((caller, name))
            if key is not None and key.holder == holder:
                key.response = response

    def release_key(self, caller: str, name: str, holder: str) -> None:
        with self._lock:
            key = self._keys.get((caller, name))
            if key is not None and key.holder == holder and key.response is None:
                del self._keys[caller, name]

    def _remove_expired(self) -> None:
        until = time.monotonic() - self._retention
        expired = list(takewhile(lambda item: item[1].created <= until, self._keys.items()))
        for name, key in expired:
            if key.response is not None:
                del self._keys[name]
