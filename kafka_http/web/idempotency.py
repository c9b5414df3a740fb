"""`Idempotency-Key` on a publish of either dialect: draft-ietf-httpapi-idempotency-key-header."""

import logging
import re
from functools import partial
from operator import itemgetter

from flask import Request

from kafka_http.core.idempotency import Attempt, Idempotency, fingerprint
from kafka_http.core.publishing import Published
from kafka_http.errors import InvalidRequest, KafkaHttpError, TooMuchInFlight
from kafka_http.records import Delivery, KeptAnswer
from kafka_http.web.answers import Answer
from kafka_http.web.bodies import head_of
from kafka_http.web.publishing import KEY_HEADER, Publish, Publishing

log = logging.getLogger(__name__)

_STRING = re.compile(r'"((?:[ !#-\[\]-~]|\\["\\])*)"')
_TOKEN = re.compile(r"[!#-+\--\[\]-~]+")
_LONGEST = 255
_NOBODY = ""
"""The caller, as long as the server knows none."""


class Once:
    """Has each request with a key done once. Safe in many threads."""

    def __init__(self, idempotency: Idempotency, publishing: Publishing) -> None:
        self._idempotency = idempotency
        self._publishing = publishing

    def answer(self, request: Request, publish: Publish, body: bytes) -> Answer:
        """What the client is told: what has become of the request, or of the first one with its key.

        Raises what is wrong with the whole where there is no key; `InvalidRequest`, `KeyInUse`, `KeyMismatch`,
        `Unavailable` for the key's sake.
        """
        header = request.headers.get(KEY_HEADER)
        if header is None:
            return _answer(publish, self._publishing.do(publish, body))
        claimed = self._idempotency.claim(_NOBODY, parse_key(header), fingerprint_of(request, body))
        if isinstance(claimed, KeptAnswer):
            return _replayed(claimed)
        try:
            return self._do(claimed, publish, body)
        except BaseException:
            claimed.free()
            raise

    def _do(self, attempt: Attempt, publish: Publish, body: bytes) -> Answer:
        def settled(published: Published) -> None:
            attempt.later(partial(_settle, attempt, publish, published))

        try:
            done = self._publishing.do(publish, body, settled)
        except KafkaHttpError as error:
            done = publish.refusal(error)
        answer = _answer(publish, done)
        if isinstance(done, Answer) or done.is_settled:
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


def _settle(attempt: Attempt, publish: Publish, published: Published) -> None:
    """Kafka has said its last word, after the client was answered."""
    try:
        _conclude(attempt, publish.answer(published), published)
    except BaseException:
        attempt.free()
        raise


def _conclude(attempt: Attempt, answer: Answer, done: Published | Answer) -> None:
    if _is_final(answer.status) and not _may_pass(done):
        headers = {**answer.headers, "Content-Type": answer.content_type}
        attempt.keep(KeptAnswer(answer.status, headers, answer.body))
    else:
        attempt.free()


def _is_final(status: int) -> bool:
    return status < 500 and status != TooMuchInFlight.code // 100


def _may_pass(done: Published | Answer) -> bool:
    """Whether nothing was written, and another try may be luckier: the v2 API may say so with a 200."""
    if isinstance(done, Answer):
        return False
    return bool(done.outcomes) and not any(
        isinstance(each, Delivery) or _is_final(each.status) for each in done.outcomes
    )


def _answer(publish: Publish, done: Published | Answer) -> Answer:
    return done if isinstance(done, Answer) else publish.answer(done)


def _replayed(kept: KeptAnswer) -> Answer:
    headers = {name: value for name, value in kept.headers.items() if name != "Content-Type"}
    return Answer(
        kept.status, {**headers, "Idempotency-Replayed": "true"}, kept.headers["Content-Type"], kept.body
    )
