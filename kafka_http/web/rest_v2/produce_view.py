"""Produce in the REST Proxy v2 API: parses the request and renders the results of its records."""

from collections.abc import Mapping, Sequence

import msgspec

from kafka_http.errors import (
    BrokerUnavailable,
    InvalidValue,
    KafkaHttpError,
    NotAuthorized,
    OutcomeUnknown,
    TooLarge,
)
from kafka_http.publish.publisher import PublishRequest
from kafka_http.records import AppendedRecords, BareValues, ProducerRecord, RecordMetadata, RecordResult
from kafka_http.schemas.formats import Formats, Role
from kafka_http.schemas.topic_formats import TopicFormat
from kafka_http.tasks import NewTask
from kafka_http.web.negotiation import produce_format, v2_response_type
from kafka_http.web.publish_limits import PublishLimits
from kafka_http.web.publish_view import distinct_errors
from kafka_http.web.request_head import RequestHead
from kafka_http.web.responses import (
    NO_HEADERS,
    RenderedResponse,
    appended_entries,
    render_accepted,
    render_v2_error,
    render_v2_json,
)
from kafka_http.web.rest_v2.v2_records import parse_v2

KAFKA_ERROR = 50002
KAFKA_RETRIABLE_ERROR = 50003
_REQUEST_ERRORS = (TooLarge, OutcomeUnknown, BrokerUnavailable)
"""Errors that fail the request if all records have them."""
_ROLES: tuple[Role, ...] = ("key", "value")
_NO_SCHEMA_IDS = '"key_schema_id":null,"value_schema_id":null}'
_STRICT = {"Preference-Applied": "strict"}


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
        self.route = "/topics/<topic>" if partition is None else "/topics/<topic>/partitions/<partition>"
        self.timeout = timeout
        self.respond_async = head.respond_async(head.args.get("callback") if head.args else None)
        self._partition = partition
        self._root_path = head.root_path
        self._accept = head.headers.get("accept")
        self._response_type = v2_response_type(self._accept)
        self._is_strict = head.prefers("strict")
        format_ = produce_format(head.headers.get("content-type"), formats)
        self._formats = TopicFormat(formats.topic_format(topic).key or format_, format_)
        self._is_bare = partition is None and formats.is_verbatim(format_)

    def parse(self, body: bytes, limits: PublishLimits) -> PublishRequest:
        """Parse the body. Raises `InvalidRequest`, `InvalidValue`, and the errors of `limits`."""
        parsed = parse_v2(body, self._formats, limits, InvalidValue, required=True, bare=self._is_bare)
        if self._partition is None or isinstance(parsed.records, BareValues):
            return parsed
        return PublishRequest([_with_partition(each, self._partition) for each in parsed.records], parsed.schemas)

    def response(self, results: Sequence[RecordResult], schema_ids: Mapping[Role, int]) -> RenderedResponse:
        """Render the results.

        The status is 200 even if single records failed, unless the error concerns the whole request or the client
        sent `Prefer: strict`.
        """
        headers = _STRICT if self._is_strict else NO_HEADERS
        if isinstance(results, AppendedRecords):
            entries = appended_entries(results, ',"error_code":null,"error":null')
            ids = msgspec.json.encode(_schema_ids(schema_ids))[1:].decode() if schema_ids else _NO_SCHEMA_IDS
            text = f'{{"offsets":[{entries}],{ids}\n'
            return RenderedResponse(200, headers, self._response_type, text.encode(), len(results))
        failures = [each for each in results if isinstance(each, KafkaHttpError)]
        response = self._mixed_response(results, failures, schema_ids, headers)
        return msgspec.structs.replace(response, records=len(results) - len(failures))

    def _mixed_response(
        self,
        results: Sequence[RecordResult],
        failures: Sequence[KafkaHttpError],
        schema_ids: Mapping[Role, int],
        headers: Mapping[str, str],
    ) -> RenderedResponse:
        if (request_error := _request_error(failures, len(results))) is not None:
            return render_v2_error(request_error, self._accept)
        errors = {id(each): _error(each) for each in distinct_errors(failures)}
        offsets = [
            V2Offset(each.partition, each.offset) if isinstance(each, RecordMetadata) else errors[id(each)]
            for each in results
        ]
        if self._is_strict and failures and len(failures) == len(results):
            more = {"offsets": offsets} if len(failures) > 1 else {}
            return render_v2_error(failures[0], self._accept, headers, **more)
        body = {"offsets": offsets, **_schema_ids(schema_ids)}
        return render_v2_json(body, self._accept, 207 if self._is_strict and failures else 200, headers)

    def accepted_response(self, task: NewTask) -> RenderedResponse:
        return render_accepted(task, self._root_path, self._response_type)

    def error_response(self, error: KafkaHttpError) -> RenderedResponse:
        return render_v2_error(error, self._accept)


def _schema_ids(ids: Mapping[Role, int]) -> dict[str, int | None]:
    return {f"{role}_schema_id": ids.get(role) for role in _ROLES}


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
