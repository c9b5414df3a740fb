"""Produce in the REST Proxy v2 API: parses the request and renders the results of its records."""

from collections.abc import Sequence

import msgspec

from kafka_http.errors import (
    BrokerUnavailable,
    InvalidValue,
    KafkaHttpError,
    NotAuthorized,
    OutcomeUnknown,
    TooLarge,
)
from kafka_http.publish.publisher import PublishRequest, PublishResult
from kafka_http.records import ProducerRecord, RecordMetadata
from kafka_http.schemas.formats import Formats, Role
from kafka_http.schemas.topic_formats import TopicFormat
from kafka_http.tasks import NewTask
from kafka_http.web.messages.publish_view import Head, distinct
from kafka_http.web.negotiation import produced_format, v2_answer_type
from kafka_http.web.publish_limits import PublishLimits
from kafka_http.web.rendered_responses import RenderedResponse, accepted_answer, v2_answer, v2_error_answer
from kafka_http.web.rest_v2.v2_records import parse_v2

KAFKA_ERROR = 50002
KAFKA_RETRIABLE_ERROR = 50003
_REQUEST_ERRORS = (TooLarge, OutcomeUnknown, BrokerUnavailable)
"""Errors that fail the request if all records have them."""
ROLES: tuple[Role, ...] = ("key", "value")


class V2Offset(msgspec.Struct, frozen=True, gc=False):
    """The result of one record in the response."""

    partition: int | None
    offset: int | None
    error_code: int | None = None
    error: str | None = None


class V2Produce:
    """A produce request: POST /topics/<topic> or /topics/<topic>/partitions/<partition>."""

    def __init__(self, head: Head, topic: str, partition: int | None, formats: Formats, timeout: float) -> None:
        """Check the headers. `partition` is the one in the path. Raises `NotAcceptable`, `UnsupportedFormat`."""
        self.topic = topic
        self.timeout = timeout
        self._partition = partition
        self._accept = head.headers.get("accept")
        self._head = head
        self.later = head.later(head.args.get("callback"))
        v2_answer_type(self._accept)
        format_ = produced_format(head.headers.get("content-type"), formats)
        self._formats = TopicFormat(formats.topic_format(topic).key or format_, format_)

    def messages(self, body: bytes, admission: PublishLimits) -> PublishRequest:
        """Parse the body. Raises `InvalidRequest`, `InvalidValue`, and the errors of `admission`."""
        messages = parse_v2(body, self._formats, admission, InvalidValue, required=True)
        if self._partition is None:
            return messages
        return PublishRequest([_with_partition(each, self._partition) for each in messages.records], messages.schemas)

    def answer(self, published: PublishResult) -> RenderedResponse:
        """Render the results.

        The status is 200 even if single records failed, unless the error concerns the whole request or the client
        sent `Prefer: strict`.
        """
        results = published.outcomes
        failures = [each for each in results if isinstance(each, KafkaHttpError)]
        if (request_error := _request_error(failures, len(results))) is not None:
            return v2_error_answer(request_error, self._accept)
        errors = {id(each): _error(each) for each in distinct(failures)}
        offsets = [
            V2Offset(each.partition, each.offset) if isinstance(each, RecordMetadata) else errors[id(each)]
            for each in results
        ]
        ids = {f"{role}_schema_id": published.schema_ids.get(role) for role in ROLES}
        body = {"offsets": offsets, **ids}
        if not self._head.prefers("strict"):
            return v2_answer(body, self._accept)
        applied = {"Preference-Applied": "strict"}
        if failures and len(failures) == len(results):
            more = {"offsets": offsets} if len(failures) > 1 else {}
            return v2_error_answer(failures[0], self._accept, applied, **more)
        return v2_answer(body, self._accept, 207 if failures else 200, applied)

    def accepted(self, task: NewTask) -> RenderedResponse:
        return accepted_answer(task, self._head.root, v2_answer_type(self._accept))

    def refusal(self, error: KafkaHttpError) -> RenderedResponse:
        return v2_error_answer(error, self._accept)


def _with_partition(record: ProducerRecord, partition: int) -> ProducerRecord:
    return msgspec.structs.replace(record, partition=partition) if record.partition is None else record


def _request_error(failures: Sequence[KafkaHttpError], records: int) -> KafkaHttpError | None:
    """Return the error of the whole request: `NotAuthorized` of any record, or another one that all records have."""
    not_authorized = next((each for each in failures if isinstance(each, NotAuthorized)), None)
    if not_authorized is None and failures and len(failures) == records:
        for kind in _REQUEST_ERRORS:
            if all(isinstance(each, kind) for each in failures):
                return failures[0]
    return not_authorized


def _error(error: KafkaHttpError) -> V2Offset:
    is_retriable = error.retry_after is not None or isinstance(error, OutcomeUnknown)
    return V2Offset(None, None, KAFKA_RETRIABLE_ERROR if is_retriable else KAFKA_ERROR, error.message)
