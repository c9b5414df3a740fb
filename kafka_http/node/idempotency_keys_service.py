"""The idempotency keys of a node's workers, and the end of what nobody will conclude."""

import logging
import threading
import time
from collections.abc import Callable

from kafka_http.errors import KafkaHttpError
from kafka_http.node.store import StoredKeys
from kafka_http.records import KeyClaimResult, StoredResponse

log = logging.getLogger(__name__)

RETURN_SECONDS = 20.0
"""How long the workers of a daemon that died have to come to its successor."""

LOOK_EVERY = 5.0
"""How often it looks for keys that nobody will conclude, and for answers that are kept no longer."""

_AT_ONCE = 500
_PAUSE = 0.05
_CLOSE_SECONDS = 5.0


class NodeIdempotencyKeys:
    """`IdempotencyKeys` in the node's store. Any thread may call."""

    def __init__(
        self, store: StoredKeys, return_seconds: float = RETURN_SECONDS, look_every: float = LOOK_EVERY
    ) -> None:
        self._store = store
        self._return_seconds = return_seconds
        self._look_every = look_every
        self._is_there: Callable[[str], bool] = lambda _: False
        self._returned_by = 0.0
        self._known: set[str] = set()
        self._closing = threading.Event()
        self._cleaner: threading.Thread | None = None

    def start(self, is_there: Callable[[str], bool]) -> None:
        """Before the first call: `is_there` says whether a worker of that name runs."""
        self._is_there = is_there
        self._returned_by = time.monotonic() + self._return_seconds
        self._cleaner = threading.Thread(target=self._clean, name="idempotency-keys", daemon=True)
        self._cleaner.start()

    def claim_key(self, caller: str, name: str, fingerprint: str, holder: str) -> KeyClaimResult:
        self._known.add(holder.partition("/")[0])
        return self._store.claim(caller, name, fingerprint, holder, self._is_gone)

    def store_response(self, caller: str, name: str, holder: str, answer: StoredResponse) -> None:
        self._store.keep(caller, name, holder, answer)

    def release_key(self, caller: str, name: str, holder: str) -> None:
        self._store.free(caller, name, holder)

    def close(self) -> None:
        """No worker is there any more."""
        self._closing.set()
        if self._cleaner is not None:
            self._cleaner.join(_CLOSE_SECONDS)
        try:
            self._store.free_those(lambda _: True)
        except KafkaHttpError as error:
            log.debug("Keys are left running: %s", error.message)

    def _is_gone(self, worker: str) -> bool:
        may_return = worker not in self._known and time.monotonic() <= self._returned_by
        return not self._is_there(worker) and not may_return

    def _clean(self) -> None:
        while not self._closing.wait(self._look_every):
            try:
                self._store.free_those(self._is_gone)
                while self._store.remove_old(_AT_ONCE) == _AT_ONCE and not self._closing.wait(_PAUSE):
                    pass  # others want to write too
            except KafkaHttpError as error:
                log.debug("Old idempotency keys are not removed: %s", error.message)
            except Exception:
                log.exception("Removing old idempotency keys failed; it goes on")
