"""The v2 API's produce: from a request's parts to records, and from what became of them to an answer."""

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
_WHOLE = (TooLarge, OutcomeUnknown, BrokerUnavailable)
"""What is an error of the answer where it is each record's."""


ROLES: tuple[Role, ...] = ("key", "value")


class V2Offset(msgspec.Struct, frozen=True, gc=False):
    """Where a record is, or why it is nowhere, as the answer has it."""

    partition: int | None
    offset: int | None
    error_code: int | None = None
    error: str | None = None


class V2Produce:
    """POST /topics/<topic>, /topics/<topic>/partitions/<partition>."""

    def __init__(self, head: Head, topic: str, partition: int | None, formats: Formats, timeout: float) -> None:
        """`partition` is the path's. Raises `NotAcceptable`, `UnsupportedFormat`."""
        self.topic = topic
        self.timeout = timeout
        self._partition = partition
        self._accept = head.headers.get("accept")
        self._head = head
        self.later = head.later(head.args.get("callback"))
        v2_answer_type(self._accept)
        format_ = produced_format(head.headers.get("content-type"), formats)
        self._formats = TopicFormat(formats.of_topic(topic).key or format_, format_)

    def messages(self, body: bytes, admission: PublishLimits) -> PublishRequest:
        """Raises `InvalidRequest`, `InvalidValue`, and what `admission` raises."""
        messages = parse_v2(body, self._formats, admission, InvalidValue, required=True)
        if self._partition is None:
            return messages
        return PublishRequest([_placed(each, self._partition) for each in messages.records], messages.schemas)

    def answer(self, published: PublishResult) -> RenderedResponse:
        """200 though single records failed; what says it of the whole, and `Prefer: strict`, make it an error."""
        outcomes = published.results
        failures = [each for each in outcomes if isinstance(each, KafkaHttpError)]
        if (whole := _error_of_all(failures, len(outcomes))) is not None:
            return v2_error_answer(whole, self._accept)
        errors = {id(each): _error(each) for each in distinct(failures)}
        offsets = [
            V2Offset(each.partition, each.offset) if isinstance(each, RecordMetadata) else errors[id(each)]
            for each in outcomes
        ]
        ids = {f"{role}_schema_id": published.schema_ids.get(role) for role in ROLES}
        body = {"offsets": offsets, **ids}
        if not self._head.prefers("strict"):
            return v2_answer(body, self._accept)
        applied = {"Preference-Applied": "strict"}
        if failures and len(failures) == len(outcomes):
            more = {"offsets": offsets} if len(failures) > 1 else {}
            return v2_error_answer(failures[0], self._accept, applied, **more)
        return v2_answer(body, self._accept, 207 if failures else 200, applied)

    def accepted(self, task: NewTask) -> RenderedResponse:
        return accepted_answer(task, self._head.root, v2_answer_type(self._accept))

    def refusal(self, error: KafkaHttpError) -> RenderedResponse:
        return v2_error_answer(error, self._accept)


def _placed(record: ProducerRecord, partition: int) -> ProducerRecord:
    return msgspec.structs.replace(record, partition=partition) if record.partition is None else record


def _error_of_all(failures: Sequence[KafkaHttpError], records: int) -> KafkaHttpError | None:
    """What failed the request whole: a refusal of its sender by one record, another by all."""
    refused = next((each for each in failures if isinstance(each, NotAuthorized)), None)
    if refused is None and failures and len(failures) == records:
        for kind in _WHOLE:
            if all(isinstance(each, kind) for each in failures):
                return failures[0]
    return refused


def _error(error: KafkaHttpError) -> V2Offset:
    may_pass = error.retry_after is not None or isinstance(error, OutcomeUnknown)
    return V2Offset(None, None, KAFKA_RETRIABLE_ERROR if may_pass else KAFKA_ERROR, error.message)
