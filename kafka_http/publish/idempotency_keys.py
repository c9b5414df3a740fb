"""Idempotency keys: a repeated request with the same key gets the stored response, and nothing is published again.

A claim of a key lasts until a response is stored or the key is released.
"""

import hashlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from itertools import takewhile
from typing import Any, Protocol

from msgspec import Struct

from kafka_http.errors import IdempotencyKeyInUse, IdempotencyKeyMismatch, KafkaHttpError, Unavailable
from kafka_http.metrics import KEYS
from kafka_http.publish.batch_submitter import BatchSubmitter, PendingItem
from kafka_http.records import ClaimEnd, ClaimRequest, KeyClaimResult, StoredResponse

log = logging.getLogger(__name__)

_RETRY_SECONDS = 1.0
_ITEM_BYTES = 500
"""About the size of a claim, or of a response without its body."""


class IdempotencyKeys(Protocol):
    """The store of idempotency keys."""

    def update_keys(self, claims: Sequence[ClaimRequest], ends: Sequence[ClaimEnd]) -> list[KeyClaimResult]:
        """Claim keys and end claims, in one commit. The call may be repeated.

        A key is claimed if it is new or if the worker of its holder has ended. The end of a claim has no effect if the
        key has another holder; a stored response is not removed. Returns the results of the first of `claims`, at least
        one: repeat the call for the others, whose responses did not fit. Raises `Unavailable`.
        """


def fingerprint(parts: Iterable[bytes]) -> str:
    """Return a digest (64 characters) of the parts of a request that must be equal in its repetition."""
    digest = hashlib.sha256()
    for each in parts:
        digest.update(hashlib.sha256(each).digest())
    return digest.hexdigest()


class IdempotencyService:
    """Claims keys for requests. The composition root creates one for each process. Any thread may call.

    The claims, stored responses and releases of many requests share a call to the store.
    """

    def __init__(self, keys: IdempotencyKeys, worker: Callable[[], str], *, is_responding: bool = True) -> None:
        """`worker` returns the name of this process. Its claims become invalid when the process ends.

        `is_responding` is false if the first call may take seconds, because it starts the daemon.
        """
        self.is_responding = is_responding
        """Whether the last call was successful. If not, a claim may wait long for an error."""
        self._keys = keys
        self._worker = worker
        self._submitter: _Submitter = BatchSubmitter(self._update, "idempotency-keys", _size)
        self._retries = BatchSubmitter(self._retry, "idempotency-keys-retry", _size)
        self._closing = threading.Event()

    def attach(self) -> None:
        """Let the calling thread, a main loop, send what it submits once in each of its rounds, with `end_round`."""
        self._submitter.attach()

    def end_round(self) -> None:
        """Send what the attached thread has submitted. Does not block."""
        self._submitter.end_round()

    def claim(self, caller: str, name: str, fingerprint: str) -> "PendingClaim":
        """Begin to claim a key. Does not block.

        Its result is the claim, or the stored response. It raises `IdempotencyKeyInUse`, `IdempotencyKeyMismatch`, and
        `Unavailable` if the store does not respond.
        """
        holder = f"{self._worker()}/{os.urandom(8).hex()}"
        return self._submitter.submit(ClaimRequest(caller, name, fingerprint, holder))

    def close(self, timeout: float) -> None:
        """Wait up to `timeout` seconds until the open claims of this process are completed or released."""
        until = time.monotonic() + timeout
        self._submitter.close(timeout)
        self._retries.close(max(0.0, until - time.monotonic()))
        self._closing.set()

    def _update(self, items: "Sequence[_Item]") -> "list[_Result]":
        """Make one call for claims and ends. Ends are repeated in the background if the store does not respond."""
        claims = [each for each in items if isinstance(each, ClaimRequest)]
        ends = [each for each in items if isinstance(each, ClaimEnd)]
        results: list[KeyClaimResult] = []
        try:
            results = self._keys.update_keys(claims, ends)
            while len(results) < len(claims):
                results += self._keys.update_keys(claims[len(results) :], ())
            self.is_responding = True
        except KafkaHttpError as error:
            self.is_responding = False
            log.warning("Idempotency keys not updated: %s", error.message)
            claimed = claims[len(results) :] if results else []  # the first call succeeded and may have claimed them
            for end in (*ends, *(ClaimEnd(each.caller, each.name, each.holder, None) for each in claimed)):
                self._retries.submit(end)
            if not isinstance(error, Unavailable):
                raise
            results += [KeyClaimResult("unavailable")] * (len(claims) - len(results))
        of_claims = iter(results)
        return [self._claim_result(each, next(of_claims)) if isinstance(each, ClaimRequest) else None for each in items]

    def _claim_result(self, request: ClaimRequest, result: KeyClaimResult) -> "_Result":
        KEYS.add(1, result.state)
        match result.state:
            case "claimed":
                return KeyClaim(self._submitter, request)
            case "completed":
                return result.response
            case "in_progress":
                return IdempotencyKeyInUse()
            case "mismatch":
                return IdempotencyKeyMismatch()
        return keys_unavailable()

    def _retry(self, ends: Sequence[ClaimEnd]) -> list[None]:
        """End claims as soon as the store responds, until `close`."""
        while not self._closing.wait(_RETRY_SECONDS):
            try:
                self._keys.update_keys((), ends)
                self.is_responding = True
                break
            except Unavailable as error:
                log.warning("Idempotency keys not updated; retrying: %s", error.message)
            except KafkaHttpError as error:
                log.error("Idempotency keys not updated: %s", error.message)
                break
        return [None] * len(ends)


class KeyClaim:
    """A claimed key of one request. `complete` or `release` ends it, once. Any thread may call.

    Both do not block. They return a future without a result, which is done when the store has the end of the claim, or
    when it does not respond: then the end is repeated in the background. They raise `Unavailable` after
    `IdempotencyService.close`.
    """

    def __init__(self, submitter: "_Submitter", request: ClaimRequest) -> None:
        self._submitter = submitter
        self._request = request

    def complete(self, response: StoredResponse) -> "PendingItem[_Item, _Result]":
        """Store the response to replay for this key."""
        return self._end(response)

    def release(self) -> "PendingItem[_Item, _Result]":
        """Remove the claim, so that a repeated request is executed."""
        return self._end(None)

    def _end(self, response: StoredResponse | None) -> "PendingItem[_Item, _Result]":
        request = self._request
        return self._submitter.submit(ClaimEnd(request.caller, request.name, request.holder, response))


_Item = ClaimRequest | ClaimEnd
_Result = KeyClaim | StoredResponse | KafkaHttpError | None
_Submitter = BatchSubmitter[_Item, Any]


PendingClaim = PendingItem[_Item, KeyClaim | StoredResponse]
"""A claim on its way to the store: a future."""


def keys_unavailable() -> Unavailable:
    """Return the error for a request whose key could not be claimed."""
    return Unavailable(
        "The server's state store, which keeps Idempotency-Keys, does not respond. Nothing was written. Retry, or "
        "publish without a key. The server's log has the reason."
    )


def _size(item: _Item) -> int:
    response = item.response if isinstance(item, ClaimEnd) else None
    return _ITEM_BYTES + (len(response.body) if response is not None else 0)


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

    def update_keys(self, claims: Sequence[ClaimRequest], ends: Sequence[ClaimEnd]) -> list[KeyClaimResult]:
        with self._lock:
            self._remove_expired()
            results = [self._claim(each) for each in claims]
            for each in ends:
                self._end(each)
            return results

    def _claim(self, claim: ClaimRequest) -> KeyClaimResult:
        new = _MemoryKey(claim.fingerprint, claim.holder, time.monotonic())
        key = self._keys.setdefault((claim.caller, claim.name), new)
        if key.holder == claim.holder:
            return KeyClaimResult("claimed")
        if key.fingerprint != claim.fingerprint:
            return KeyClaimResult("mismatch")
        return KeyClaimResult("in_progress") if key.response is None else KeyClaimResult("completed", key.response)

    def _end(self, end: ClaimEnd) -> None:
        key = self._keys.get((end.caller, end.name))
        if key is None or key.holder != end.holder:
            return
        if end.response is not None:
            key.response = end.response
        elif key.response is None:
            del self._keys[end.caller, end.name]

    def _remove_expired(self) -> None:
        until = time.monotonic() - self._retention
        expired = list(takewhile(lambda item: item[1].created <= until, self._keys.items()))
        for name, key in expired:
            if key.response is not None:
                del self._keys[name]
