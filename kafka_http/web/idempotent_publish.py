"""`Idempotency-Key` on a publish of either dialect: draft-ietf-httpapi-idempotency-key-header."""

import logging
import re
from collections.abc import Sequence
from functools import partial
from operator import itemgetter

from flask import Request

from kafka_http.errors import InvalidRequest, KafkaHttpError, OutcomeUnknown, TooMuchInFlight
from kafka_http.publish.idempotency_keys import IdempotencyService, KeyClaim, fingerprint
from kafka_http.publish.publisher import PublishResult
from kafka_http.records import RecordMetadata, RecordResult, StoredResponse
from kafka_http.web.messages.publish_view import KEY_HEADER, PublishDialect, PublishView
from kafka_http.web.rendered_responses import RenderedResponse
from kafka_http.web.request_bodies import head_of

log = logging.getLogger(__name__)

_STRING = re.compile(r'"((?:[ !#-\[\]-~]|\\["\\])*)"')
_TOKEN = re.compile(r"[!#-+\--\[\]-~]+")
_LONGEST = 255
_NOBODY = ""
"""The caller, as long as the server knows none."""


class IdempotentPublish:
    """Has each request with a key done once. Safe in many threads."""

    def __init__(self, idempotency: IdempotencyService, publishing: PublishView) -> None:
        self._idempotency = idempotency
        self._publishing = publishing

    def answer(self, request: Request, publish: PublishDialect, body: bytes) -> RenderedResponse:
        """What the client is told: what has become of the request, or of the first one with its key.

        Raises what is wrong with the whole request; for the key `InvalidRequest`, `IdempotencyKeyInUse`,
        `IdempotencyKeyMismatch`, `Unavailable`.
        """
        header = request.headers.get(KEY_HEADER)
        if header is None:
            return _answer(publish, self._publishing.do(publish, body))
        claimed = self._idempotency.claim(_NOBODY, parse_key(header), fingerprint_of(request, body))
        if isinstance(claimed, StoredResponse):
            return _replayed(claimed)
        try:
            return self._do(claimed, publish, body)
        except BaseException:
            claimed.release()
            raise

    def _do(self, attempt: KeyClaim, publish: PublishDialect, body: bytes) -> RenderedResponse:
        def settled(published: PublishResult) -> None:
            attempt.defer(partial(_settle, attempt, publish, published))

        try:
            done = self._publishing.do(publish, body, settled)
        except KafkaHttpError as error:
            done = publish.refusal(error)
        answer = _answer(publish, done)
        if isinstance(done, RenderedResponse) or done.is_complete:
            _conclude(attempt, answer, done)
        return answer


def parse_key(header: str) -> str:
    """The key in a header: a structured field's string (RFC 9651), or a bare token, as many send it."""
    string = _STRING.fullmatch(header)
    key = re.sub(r"\\(.)", r"\1", string[1]) if string else header
    if not (string or _TOKEN.fullmatch(header)) or not 1 <= len(key) <= _LONGEST:
        raise InvalidRequest(
            f"Idempotency-Key is one text of 1 to {_LONGEST} printable ASCII characters in quotes, such as "
            '"8e03978e-40d5-43dd-bc93-6894a57f9324"; without quotes it has no space, comma, quote or backslash.',
            field="Idempotency-Key",
        )
    return key


def fingerprint_of(request: Request, body: bytes) -> str:
    """Of the parts of a request that decide what is written."""
    head = head_of(request)
    kafka = (each for each in head.fields if each[0].startswith("kafka-"))  # as good as the query
    named = sorted(kafka, key=itemgetter(0))  # the order of repeated ones counts
    texts = (request.method, request.path, head.headers.get("content-type", ""), repr(named))
    return fingerprint([*(each.encode() for each in texts), request.query_string, body])


def _settle(attempt: KeyClaim, publish: PublishDialect, published: PublishResult) -> None:
    """Kafka has said its last word, after the client was answered with a 504. The key keeps an answer in any case."""
    answer = publish.answer(published)
    is_known = _is_final(answer.status) and not _may_pass(published.results)
    if not is_known and answer.status != OutcomeUnknown.code:
        answer = publish.refusal(
            OutcomeUnknown("Kafka did not acknowledge the records in time: they may or may not have been written.")
        )
    _keep(attempt, answer)


def _conclude(attempt: KeyClaim, answer: RenderedResponse, done: PublishResult | RenderedResponse) -> None:
    """Keep the answer, or free the key where certainly nothing was written, and another try may be luckier."""
    outcomes = [] if isinstance(done, RenderedResponse) else done.results
    is_unknown = answer.status == OutcomeUnknown.code or any(isinstance(each, OutcomeUnknown) for each in outcomes)
    if is_unknown or (_is_final(answer.status) and not _may_pass(outcomes)):
        _keep(attempt, answer)
    else:
        attempt.release()


def _keep(attempt: KeyClaim, answer: RenderedResponse) -> None:
    headers = {**answer.headers, "Content-Type": answer.content_type}
    attempt.complete(StoredResponse(answer.status, headers, answer.body))


def _is_final(status: int) -> bool:
    return status < 500 and status != TooMuchInFlight.code // 100


def _may_pass(outcomes: Sequence[RecordResult]) -> bool:
    """Whether each record failed for a reason that may pass: the v2 API may say so with a 200."""
    return bool(outcomes) and not any(isinstance(each, RecordMetadata) or _is_final(each.status) for each in outcomes)


def _answer(publish: PublishDialect, done: PublishResult | RenderedResponse) -> RenderedResponse:
    return done if isinstance(done, RenderedResponse) else publish.answer(done)


def _replayed(kept: StoredResponse) -> RenderedResponse:
    headers = {name: value for name, value in kept.headers.items() if name != "Content-Type"}
    return RenderedResponse(
        kept.status, {**headers, "Idempotency-Replayed": "true"}, kept.headers["Content-Type"], kept.body
    )
