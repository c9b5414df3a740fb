"""Idempotency keys: a request that comes again with its key is answered as it was, and nothing is done again.

A key is running from its claim until it has an answer or is free again. Who claimed it is its holder, `worker/attempt`.
"""

import hashlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from typing import Protocol
from uuid import uuid4

from kafka_http.errors import IdempotencyKeyInUse, IdempotencyKeyMismatch, KafkaHttpError, Unavailable
from kafka_http.records import KeyClaimResult, StoredResponse

log = logging.getLogger(__name__)

_REST_SECONDS = 1.0


class IdempotencyKeys(Protocol):
    """Where keys are. Each call may come twice, and then does what it did. All raise `Unavailable`."""

    def claim_key(self, caller: str, name: str, fingerprint: str, holder: str) -> KeyClaimResult:
        """Have a key for a request, where nobody has it: none before, or one whose worker is gone."""

    def keep_answer(self, caller: str, name: str, holder: str, answer: StoredResponse) -> None:
        """Answer with this whoever comes with the key from now on. Without effect where it is another's."""

    def free_key(self, caller: str, name: str, holder: str) -> None:
        """Let the next one have the key. Without effect where it is another's, or has its answer."""


def fingerprint(parts: Iterable[bytes]) -> str:
    """Of what makes two requests the same: 64 characters."""
    digest = hashlib.sha256()
    for each in parts:
        digest.update(hashlib.sha256(each).digest())
    return digest.hexdigest()


class IdempotencyService:
    """What a request does with its key. Any thread may call."""

    def __init__(self, keys: IdempotencyKeys, worker: Callable[[], str]) -> None:
        """`worker` gives the name that the keys' end with this process is bound to."""
        self._keys = keys
        self._worker = worker
        self._conclusions = _Conclusions()

    def claim(self, caller: str, name: str, fingerprint: str) -> "KeyClaim | StoredResponse":
        """The right to do the request, or what it was answered before.

        Raises `IdempotencyKeyInUse`, `IdempotencyKeyMismatch`, and `Unavailable` where keys cannot be had now.
        """
        holder = f"{self._worker()}/{uuid4().hex[:16]}"
        try:
            claim = self._keys.claim_key(caller, name, fingerprint, holder)
        except Unavailable as error:
            log.warning("No idempotency key can be had: %s", error.message)
            raise Unavailable(
                "Nothing was written: the server's state store, which remembers an Idempotency-Key, does not answer; "
                "the server's log says why. Try again, or publish without a key."
            ) from None
        if claim.answer is not None:
            return claim.answer
        if claim.state != "own":
            raise IdempotencyKeyInUse() if claim.state == "running" else IdempotencyKeyMismatch()
        return KeyClaim(self._keys, self._conclusions, (caller, name, holder))

    def close(self, timeout: float) -> None:
        """Wait until the keys of this process have their answers, for `timeout` seconds at most."""
        self._conclusions.close(timeout)


class KeyClaim:
    """A request that is being done, for as long as its key is running. Either `keep` or `free` ends that: in the
    background where it cannot be done at once, and for as long as it takes."""

    def __init__(self, keys: IdempotencyKeys, conclusions: "_Conclusions", key: tuple[str, str, str]) -> None:
        self._keys = keys
        self._conclusions = conclusions
        self._key = key

    def keep(self, answer: StoredResponse) -> None:
        self._conclusions.now(partial(self._keys.keep_answer, *self._key, answer))

    def free(self) -> None:
        self._conclusions.now(partial(self._keys.free_key, *self._key))

    def later(self, conclude: Callable[[], None]) -> None:
        """Have this called by a thread that may wait; it should `keep` or `free`. Does not block."""
        self._conclusions.later(conclude)


class _Conclusions:
    """A thread that concludes what could not be concluded at once, one after the other, each until it is done."""

    def __init__(self) -> None:
        self._due: deque[Callable[[], None]] = deque()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closing = False

    def now(self, conclude: Callable[[], None]) -> None:
        if not _is_done(conclude):
            self.later(conclude)

    def later(self, conclude: Callable[[], None]) -> None:
        with self._changed:
            self._due.append(conclude)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="idempotency-keys", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def close(self, timeout: float) -> None:
        until = time.monotonic() + timeout
        with self._changed:
            self._closing = True
            self._changed.notify_all()
            while self._due and (left := until - time.monotonic()) > 0:
                self._changed.wait(left)
            self._due.clear()

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._due:
                    if self._closing:
                        return
                    self._changed.wait()
                conclude = self._due[0]
            is_done = _is_done(conclude)
            with self._changed:
                if is_done and self._due:
                    self._due.popleft()
                    self._changed.notify_all()
                elif self._due:
                    self._changed.wait(_REST_SECONDS)


def _is_done(conclude: Callable[[], None]) -> bool:
    """Whether it was done, or never can be."""
    try:
        conclude()
    except Unavailable as error:
        log.warning("An idempotency key is still running, and shall have its answer later: %s", error.message)
        return False
    except KafkaHttpError as error:
        log.error("An idempotency key does not get its answer: %s", error.message)
    except Exception:
        log.exception("An idempotency key does not get its answer")
    return True
