"""`Idempotency-Key` on a publish of either dialect (draft-ietf-httpapi-idempotency-key-header)."""

import logging
import re
import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from operator import itemgetter
from typing import Any, NoReturn

from flask import Request

from kafka_http.errors import InvalidRequest, KafkaHttpError, OutcomeUnknown, TooMuchInFlight, WouldBlock
from kafka_http.event_loop import EventLoop
from kafka_http.logs import request_id
from kafka_http.pending import Pending
from kafka_http.publish.idempotency_keys import (
    IdempotencyService,
    KeyClaim,
    PendingClaim,
    fingerprint,
    keys_unavailable,
)
from kafka_http.records import RecordMetadata, RecordResult, StoredResponse
from kafka_http.web.publish_view import PendingPublishResponse, PublishDialect, PublishView
from kafka_http.web.request_head import KEY_HEADER, RequestHead
from kafka_http.web.responses import RenderedResponse, internal_error

log = logging.getLogger(__name__)

_QUOTED_KEY = re.compile(r'"((?:[ !#-\[\]-~]|\\["\\])*)"')
_BARE_KEY = re.compile(r"[!#-+\--\[\]-~]+")
_MAX_KEY = 255


class IdempotentPublish:
    """Publishes each request with a key once, and repeats the stored response. Any thread may call."""

    def __init__(
        self,
        idempotency: IdempotencyService,
        publish_view: PublishView,
        reserve: Callable[[int, int], int],
        threads: int,
        servers: str = "",
    ) -> None:
        """`reserve` is `RequestBodies.reserve`. At most `threads` threads do what would block a main loop.

        `servers` are the addresses of Kafka, for errors.
        """
        self._servers = servers
        self._idempotency = idempotency
        self._publish_view = publish_view
        self._reserve = reserve
        self._threads = ThreadPoolExecutor(threads, "idempotent-publish")
        self._loop: EventLoop | None = None
        self._loop_thread = 0

    def attach(self, loop: EventLoop) -> None:
        """Continue the requests of `start` in this main loop, whose thread calls this and then `end_round`."""
        self._loop, self._loop_thread = loop, threading.get_ident()
        self._idempotency.attach()

    def end_round(self) -> None:
        """Send what the main loop has submitted to the store of keys in a round. Does not block."""
        self._idempotency.end_round()

    @property
    def is_ready(self) -> bool:
        """Whether the store of keys responds, as far as is known. If not, only threads should wait for it."""
        return self._idempotency.is_responding

    def publish(self, request: Request, dialect: PublishDialect, body: bytes) -> RenderedResponse:
        """Return the response to a publish, or the stored response to the first request with its key. Blocks.

        Without a key, raises an error of the whole request. With a key, raises only the errors of the key:
        `InvalidRequest`, `IdempotencyKeyInUse`, `IdempotencyKeyMismatch`, `Unavailable`.
        """
        if KEY_HEADER not in request.headers:
            with self._publish_view.start(dialect, body) as pending:
                return pending.result()
        head = RequestHead.from_request(request)
        claim = self._claim(head, request.path, request.query_string, body)
        return KeyedPublish(self, dialect, body, claim, is_blocking=True).run()

    def start(self, dialect: PublishDialect, head: RequestHead, path: str, query: bytes, body: bytes) -> "KeyedPublish":
        """Start to publish a request that has a key, like `publish`, without blocking."""
        release = self.reserve(body)
        try:
            claim = self._claim(head, path, query, body)
        except BaseException:
            release()
            raise
        publish = KeyedPublish(self, dialect, body, claim, is_blocking=False, on_claimed=release)
        publish.advance()
        return publish

    def _claim(self, head: RequestHead, path: str, query: bytes, body: bytes) -> PendingClaim:
        key = parse_key(head.headers[KEY_HEADER])
        return self._idempotency.claim(head.owner, key, request_fingerprint(head, path, query, body))

    # For `KeyedPublish`

    def start_publish(self, dialect: PublishDialect, body: bytes, *, blocking: bool) -> PendingPublishResponse:
        """Hand the records of a request to Kafka. Raises `WouldBlock` if a thread must do it."""
        return self._publish_view.start(dialect, body, blocking=blocking, keeps_trying=True)

    def unknown_outcome(self) -> OutcomeUnknown:
        """Return the error of a publish whose result is not known in time."""
        tried = f" Kafka: {self._servers}." if self._servers else ""
        return OutcomeUnknown(
            f"Kafka did not acknowledge the records in time. They may or may not have been written.{tried}"
        )

    def reserve(self, body: bytes) -> Callable[[], object]:
        """Reserve the memory of a body that waits, and return what releases it. Raises `TooMuchInFlight`."""
        size = self._reserve(len(body), 0)
        return partial(self._reserve, -size, 0)

    def resume(self, advance: Callable[[], None]) -> None:
        """Let the main loop make this call, if there is one."""
        if self._loop is None or threading.get_ident() == self._loop_thread:
            advance()
        else:
            self._loop.call_soon(advance)

    def resume_in_thread(self, advance: Callable[[], None]) -> None:
        """Let a thread make this call."""
        self._threads.submit(advance)


def _nothing() -> None:
    """Do nothing."""


_Steps = Generator[Pending | None, None, Any]
"""Yields what must be done before the next step, or None if the next step must not run in a main loop."""


class KeyedPublish:
    """The response to a publish with a key: a future that is used once, and the steps on its way.

    A thread waits for each step (`run`). Or each step is a callback (`advance`): in the main loop, in a thread if it
    may block, and without a main loop in any thread. One step runs at a time.
    """

    on_sent = None

    def __init__(
        self,
        publisher: IdempotentPublish,
        dialect: PublishDialect,
        body: bytes,
        claim: PendingClaim,
        *,
        is_blocking: bool,
        on_claimed: Callable[[], object] = _nothing,
    ) -> None:
        """`on_claimed` is called when the store of keys has answered: it releases the body's memory."""
        self._publisher = publisher
        self._dialect = dialect
        self._body = body
        self._claim = claim
        self._is_blocking = is_blocking
        self._on_claimed = on_claimed
        self._lock = threading.Lock()
        self._known: Callable[[], RenderedResponse] = partial(_raise, keys_unavailable())
        self._is_done = False
        self._is_answered = False
        self._callback: Callable[[], None] = _nothing
        self._request_id = request_id.get()
        self._steps = self._run()

    def run(self) -> RenderedResponse:
        """Wait for each step, and return the response. Raises as `result` does."""
        for awaited in self._steps:
            if awaited is None:
                continue
            with suppress(KafkaHttpError):  # the next step gets it
                awaited.result()
            if not awaited.is_done:  # Kafka has not answered in time
                try:
                    return self.result()
                finally:
                    awaited.add_done_callback(self._resume)
        return self.result()

    def advance(self) -> None:
        """Run the steps that do not have to wait."""
        token = request_id.set(self._request_id)
        try:
            self._advance()
        finally:
            request_id.reset(token)

    def _advance(self) -> None:
        for awaited in self._steps:
            if awaited is None:
                self._publisher.resume_in_thread(self.advance)
                return
            if not awaited.is_done:
                awaited.add_done_callback(self._resume)
                return

    def result(self, timeout: float | None = 0) -> RenderedResponse:
        """Return the response that is known now, which the client gets. Call it once. Does not block.

        Raises an error of the key, as `IdempotentPublish.publish` does.
        """
        with self._lock:
            self._is_answered = True
            known = self._known
        return known()

    def add_done_callback(self, callback: Callable[[], None]) -> None:
        """Call `callback` when the response is complete and stored, or now if it is. It must not block."""
        with self._lock:
            is_done = self._is_done
            if not is_done:
                self._callback = callback
        if is_done:
            callback()

    def release(self) -> None:
        """Do nothing: the memory is released when Kafka has answered."""

    def _resume(self) -> None:
        self._publisher.resume(self.advance)

    def _set_known(self, known: Callable[[], RenderedResponse], *, is_done: bool = False) -> bool:
        """Set the response that is known from now on. Return False if the client has got another one already."""
        with self._lock:
            if self._is_answered:
                return False
            self._known, self._is_done = known, is_done
        if is_done:
            callback, self._callback = self._callback, _nothing  # it may refer to this object
            callback()
        return True

    def _run(self) -> _Steps:
        yield self._claim
        self._on_claimed()
        try:
            claim = self._claim.result(0)
        except KafkaHttpError as error:
            self._set_known(partial(_raise, error), is_done=True)
            return
        if isinstance(claim, StoredResponse):
            self._set_known(partial(_replay, claim), is_done=True)
        elif self._set_known(lambda: self._dialect.error_response(self._publisher.unknown_outcome())):
            yield from self._publish_claimed(claim)
        else:
            claim.release()  # the client got a 503, which says that nothing was written

    def _publish_claimed(self, claim: KeyClaim) -> _Steps:
        """Publish, end the claim, then respond."""
        try:
            response, results = yield from self._publish()
        except Exception:
            log.exception("Unexpected error: publish to %s", self._dialect.topic)
            response, results = self._dialect.error_response(internal_error()), ()
        is_in_time = self._set_known(lambda: response)
        stored = _response_to_store(response, results) if is_in_time else self._late_response(response, results)
        with suppress(KafkaHttpError):  # at the end of the process
            yield claim.release() if stored is None else claim.complete(_stored(stored))
        self._set_known(lambda: response, is_done=True)

    def _publish(self) -> Generator[Pending | None, None, tuple[RenderedResponse, Sequence[RecordResult]]]:
        """Return the response, and the results of the records if they got to Kafka."""
        try:
            pending = yield from self._start()
        except KafkaHttpError as error:
            return self._dialect.error_response(error), ()
        with pending:
            self._set_known(lambda: pending.result(0))
            yield pending.pending
            try:
                result = pending.pending.result(0)
            except KafkaHttpError as error:
                return self._dialect.error_response(error), ()
            return pending.render(result), result if isinstance(result, Sequence) else ()

    def _start(self) -> Generator[None, None, PendingPublishResponse]:
        try:
            return self._publisher.start_publish(self._dialect, self._body, blocking=self._is_blocking)
        except WouldBlock:
            release = self._publisher.reserve(self._body)
        try:
            yield None
            return self._publisher.start_publish(self._dialect, self._body, blocking=True)
        finally:
            release()

    def _late_response(self, response: RenderedResponse, results: Sequence[RecordResult]) -> RenderedResponse:
        """Return what to store after the client got a 504. The key keeps a response in any case."""
        is_known = _is_final(response.status) and not _all_retriable(results)
        if is_known or response.status == OutcomeUnknown.code:
            return response
        return self._dialect.error_response(self._publisher.unknown_outcome())


def parse_key(header: str) -> str:
    """Parse the header: a string of structured fields (RFC 9651), or a bare token, as many clients send it."""
    quoted = _QUOTED_KEY.fullmatch(header)
    key = re.sub(r"\\(.)", r"\1", quoted[1]) if quoted else header
    if not (quoted or _BARE_KEY.fullmatch(header)) or not 1 <= len(key) <= _MAX_KEY:
        raise InvalidRequest(
            f"Idempotency-Key must be one text of 1 to {_MAX_KEY} printable ASCII characters in quotes, such as "
            '"8e03978e-40d5-43dd-bc93-6894a57f9324". Without quotes it must not have spaces, commas, quotes or '
            "backslashes.",
            field="Idempotency-Key",
        )
    return key


def request_fingerprint(head: RequestHead, path: str, query: bytes, body: bytes) -> str:
    """Return a hash of the parts of a request that decide what is written."""
    kafka_headers = (each for each in head.all_headers if each[0].startswith("kafka-"))
    by_name = sorted(kafka_headers, key=itemgetter(0))  # the order of repeated ones matters
    texts = (head.method, path, head.headers.get("content-type", ""), repr(by_name))
    return fingerprint([*(each.encode() for each in texts), query, body])


def _response_to_store(response: RenderedResponse, results: Sequence[RecordResult]) -> RenderedResponse | None:
    """Return the response to store, or None if nothing was written and a retry may succeed."""
    if _is_final(response.status) and not _all_retriable(results):
        return response
    is_unknown = response.status == OutcomeUnknown.code or any(isinstance(each, OutcomeUnknown) for each in results)
    return response if is_unknown else None


def _stored(response: RenderedResponse) -> StoredResponse:
    headers = {**response.headers, "Content-Type": response.content_type}
    return StoredResponse(response.status, headers, response.body)


def _is_final(status: int) -> bool:
    return status < 500 and status != TooMuchInFlight.code // 100


def _all_retriable(results: Sequence[RecordResult]) -> bool:
    """Whether all records failed and a retry may succeed. The v2 API may say so with a 200."""
    return bool(results) and not any(isinstance(each, RecordMetadata) or _is_final(each.status) for each in results)


def _raise(error: Exception) -> NoReturn:
    raise error


def _replay(stored: StoredResponse) -> RenderedResponse:
    headers = {name: value for name, value in stored.headers.items() if name != "Content-Type"}
    return RenderedResponse(
        stored.status, {**headers, "Idempotency-Replayed": "true"}, stored.headers["Content-Type"], stored.body
    )
