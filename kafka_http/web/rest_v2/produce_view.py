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
from kafka_http.web.negotiation import produce_format, v2_response_type
from kafka_http.web.publish_limits import PublishLimits
from kafka_http.web.publish_view import distinct_errors
from kafka_http.web.request_head import RequestHead
from kafka_http.web.responses import RenderedResponse, render_accepted, render_v2_error, render_v2_json
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

    def __init__(self, head: RequestHead, topic: str, partition: int | None, formats: Formats, timeout: float) -> None:
        """Check the headers. `partition` is the one in the path. Raises `NotAcceptable`, `UnsupportedFormat`."""
        self.topic = topic
        self.timeout = timeout
        self._partition = partition
        self._accept = head.headers.get("accept")
        self._head = head
        self.respond_async = head.respond_async(head.args.get("callback"))
        v2_response_type(self._accept)
        format_ = produce_format(head.headers.get("content-type"), formats)
        self._formats = TopicFormat(formats.topic_format(topic).key or format_, format_)

    def parse(self, body: bytes, limits: PublishLimits) -> PublishRequest:
        """Parse the body. Raises `InvalidRequest`, `InvalidValue`, and the errors of `limits`."""
        messages = parse_v2(body, self._formats, limits, InvalidValue, required=True)
        if self._partition is None:
            return messages
        return PublishRequest([_with_partition(each, self._partition) for each in messages.records], messages.schemas)

    def response(self, published: PublishResult) -> RenderedResponse:
        """Render the results.

        The status is 200 even if single records failed, unless the error concerns the whole request or the client
        sent `Prefer: strict`.
        """
        results = published.results
        failures = [each for each in results if isinstance(each, KafkaHttpError)]
        if (request_error := _request_error(failures, len(results))) is not None:
            return render_v2_error(request_error, self._accept)
        errors = {id(each): _error(each) for each in distinct_errors(failures)}
        offsets = [
            V2Offset(each.partition, each.offset) if isinstance(each, RecordMetadata) else errors[id(each)]
            for each in results
        ]
        ids = {f"{role}_schema_id": published.schema_ids.get(role) for role in ROLES}
        body = {"offsets": offsets, **ids}
        if not self._head.prefers("strict"):
            return render_v2_json(body, self._accept)
        applied = {"Preference-Applied": "strict"}
        if failures and len(failures) == len(results):
            more = {"offsets": offsets} if len(failures) > 1 else {}
            return render_v2_error(failures[0], self._accept, applied, **more)
        return render_v2_json(body, self._accept, 207 if failures else 200, applied)

    def accepted_response(self, task: NewTask) -> RenderedResponse:
        return render_accepted(task, self._head.root_path, v2_response_type(self._accept))

    def error_response(self, error: KafkaHttpError) -> RenderedResponse:
        return render_v2_error(error, self._accept)


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
