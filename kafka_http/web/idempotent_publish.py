"""`Idempotency-Key` on a publish of either dialect (draft-ietf-httpapi-idempotency-key-header)."""

import re
from collections.abc import Sequence
from functools import partial
from operator import itemgetter

from flask import Request

from kafka_http.errors import InvalidRequest, KafkaHttpError, OutcomePending, OutcomeUnknown, TooMuchInFlight
from kafka_http.publish.idempotency_keys import IdempotencyService, KeyClaim, fingerprint
from kafka_http.records import RecordMetadata, RecordResult, StoredResponse
from kafka_http.tasks import NewTask
from kafka_http.web.publish_view import PendingPublishResponse, PublishDialect, PublishView
from kafka_http.web.request_head import KEY_HEADER, RequestHead
from kafka_http.web.responses import RenderedResponse

_QUOTED_KEY = re.compile(r'"((?:[ !#-\[\]-~]|\\["\\])*)"')
_BARE_KEY = re.compile(r"[!#-+\--\[\]-~]+")
_MAX_KEY = 255
_NO_CALLER = ""
"""Keys are separate for each caller, but the server does not know its callers yet."""


class IdempotentPublish:
    """Publishes each request with a key once, and repeats the stored response. Any thread may call."""

    def __init__(self, idempotency: IdempotencyService, publish_view: PublishView) -> None:
        self._idempotency = idempotency
        self._publish_view = publish_view

    def publish(self, request: Request, dialect: PublishDialect, body: bytes) -> RenderedResponse:
        """Return the response to a publish, or the stored response to the first request with its key.

        Raises an error of the whole request if it has no key; for the key `InvalidRequest`, `IdempotencyKeyInUse`,
        `IdempotencyKeyMismatch`, `Unavailable`.
        """
        header = request.headers.get(KEY_HEADER)
        if header is None:
            with self._publish_view.start(dialect, body) as pending:
                return pending.result()
        claim = self._idempotency.claim(_NO_CALLER, parse_key(header), request_fingerprint(request, body))
        if isinstance(claim, StoredResponse):
            return _replay(claim)
        try:
            return self._publish(claim, dialect, body)
        except BaseException:
            claim.release()
            raise

    def _publish(self, claim: KeyClaim, dialect: PublishDialect, body: bytes) -> RenderedResponse:
        results: Sequence[RecordResult] = ()
        try:
            with self._publish_view.start(dialect, body, keeps_trying=True) as pending:
                result = pending.pending.result()
                response = pending.render(result)
        except KafkaHttpError as error:
            response = dialect.error_response(error)
        else:
            results = () if isinstance(result, NewTask) else result
            if any(isinstance(each, OutcomePending) for each in results):
                store = partial(_store_final, claim, dialect, pending)
                pending.add_done_callback(lambda: claim.defer(store))
                return response
        _store_or_release(claim, response, results)
        return response


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


def request_fingerprint(request: Request, body: bytes) -> str:
    """Return a hash of the parts of a request that decide what is written."""
    head = RequestHead.from_request(request)
    kafka_headers = (each for each in head.all_headers if each[0].startswith("kafka-"))
    by_name = sorted(kafka_headers, key=itemgetter(0))  # the order of repeated ones matters
    texts = (request.method, request.path, head.headers.get("content-type", ""), repr(by_name))
    return fingerprint([*(each.encode() for each in texts), request.query_string, body])


def _store_final(claim: KeyClaim, dialect: PublishDialect, pending: PendingPublishResponse) -> None:
    """Store the final results, after the client got a 504. The key keeps a response in any case."""
    results: Sequence[RecordResult] = ()
    try:
        results = pending.pending.result(0)
        response = pending.render(results)
    except KafkaHttpError as error:
        response = dialect.error_response(error)
    is_known = _is_final(response.status) and not _all_retriable(results)
    if not is_known and response.status != OutcomeUnknown.code:
        response = dialect.error_response(
            OutcomeUnknown("Kafka did not acknowledge the records in time. They may or may not have been written.")
        )
    _store(claim, response)


def _store_or_release(claim: KeyClaim, response: RenderedResponse, results: Sequence[RecordResult]) -> None:
    """Store the response. Release the key if nothing was written and a retry may succeed."""
    is_unknown = response.status == OutcomeUnknown.code or any(isinstance(each, OutcomeUnknown) for each in results)
    if is_unknown or (_is_final(response.status) and not _all_retriable(results)):
        _store(claim, response)
    else:
        claim.release()


def _store(claim: KeyClaim, response: RenderedResponse) -> None:
    headers = {**response.headers, "Content-Type": response.content_type}
    claim.complete(StoredResponse(response.status, headers, response.body))


def _is_final(status: int) -> bool:
    return status < 500 and status != TooMuchInFlight.code // 100


def _all_retriable(results: Sequence[RecordResult]) -> bool:
    """Whether all records failed and a retry may succeed. The v2 API may say so with a 200."""
    return bool(results) and not any(isinstance(each, RecordMetadata) or _is_final(each.status) for each in results)


def _replay(stored: StoredResponse) -> RenderedResponse:
    headers = {name: value for name, value in stored.headers.items() if name != "Content-Type"}
    return RenderedResponse(
        stored.status, {**headers, "Idempotency-Replayed": "true"}, stored.headers["Content-Type"], stored.body
    )
