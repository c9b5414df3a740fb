"""A publish of the /messages dialect: from a request's parts to records, and from what became of them to an answer."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from werkzeug.datastructures import MultiDict

from kafka_http.core.formats import Formats
from kafka_http.errors import InvalidRequest, KafkaHttpError
from kafka_http.records import Delivery, Outcome, ProducerRecord
from kafka_http.web.answers import Answer, error_answer, error_object, json_answer, retry_header
from kafka_http.web.attributes import request_attributes
from kafka_http.web.envelopes import parse_json, parse_lines, parse_record_lines
from kafka_http.web.multipart import parse_multipart
from kafka_http.web.negotiation import JSON, NDJSON, ContentType, kafka_format
from kafka_http.web.query import Query
from kafka_http.web.v2_records import parse_v2

MAX_TIMEOUT = 60
_PARAMETERS = ("key", "partition", "timestamp", "format", "timeout", "tombstone", "lines", "partitions")


class Head(NamedTuple):
    """A request without its body. Header names are in lower case."""

    method: str
    args: MultiDict[str, str]
    headers: Mapping[str, str]


class Publish(Protocol):
    """A request that publishes, in either dialect. Made from its head, and raises for what is wrong with that."""

    topic: str
    timeout: float
    """Seconds."""

    def records(self, body: bytes) -> list[ProducerRecord]:
        """What is to be published. Raises for what is wrong with it."""

    def answer(self, outcomes: Sequence[Outcome]) -> Answer:
        """What the client is told."""

    def refusal(self, error: KafkaHttpError) -> Answer:
        """What the client is told of an error of the whole request."""


class MessagesPublish:
    """PUT, POST /messages/<topic>."""

    def __init__(self, head: Head, topic: str, formats: Formats, timeout: float) -> None:
        """`timeout` is that of a request which names none."""
        self.topic = topic
        self._head = head
        self._query = Query(head.args, _PARAMETERS)
        self._formats = formats
        self.timeout = self._query.seconds("timeout", timeout, MAX_TIMEOUT)

    def records(self, body: bytes) -> list[ProducerRecord]:
        """Raises `InvalidRequest`, `UnsupportedFormat`."""
        content_type = ContentType.parse(self._head.headers.get("content-type"))
        format_ = self._query.text("format")
        if format_ is not None:
            self._formats.check(format_)
        attributes = request_attributes(self._query, self._head.headers)
        if not self._query.flag("tombstone"):
            records = _parse_body(self._head.method, content_type, self._query, body, self._formats)
        elif body:
            raise InvalidRequest("tombstone=true is a null: send no body with it.", field="tombstone")
        else:
            records = [ProducerRecord(None)]
        return records if attributes is None else [attributes.fill(record) for record in records]

    def answer(self, outcomes: Sequence[Outcome]) -> Answer:
        """200 where all were written, 207 where some failed, the first error's status where all did."""
        failures = [outcome for outcome in outcomes if isinstance(outcome, KafkaHttpError)]
        if not failures:
            return json_answer({"topic": self.topic, "records": outcomes})
        entries = [each if isinstance(each, Delivery) else {"error": error_object(each)} for each in outcomes]
        if len(failures) == len(outcomes):
            return error_answer(failures[0], **({"records": entries} if len(entries) > 1 else {}))
        return json_answer({"topic": self.topic, "records": entries}, 207, retry_header(failures[0]))

    def refusal(self, error: KafkaHttpError) -> Answer:
        return error_answer(error)


def _parse_body(
    method: str, content_type: ContentType, query: Query, body: bytes, formats: Formats
) -> list[ProducerRecord]:
    media_type = content_type.media_type if method == "POST" else ""
    format_ = query.text("format")
    if media_type != NDJSON and (query.text("lines") or query.text("partitions")):
        raise InvalidRequest(f"lines and partitions go with a POST of {NDJSON}.", field="lines")
    if media_type == JSON:
        return parse_json(body, format_)
    if media_type == NDJSON:
        keep = query.choice("partitions", ("keep", ""), "") == "keep"
        if query.choice("lines", ("records", "values"), "values") == "records":
            return parse_record_lines(body, format_, keep)
        return parse_lines(body, format_)
    if (name := kafka_format(media_type, formats)) is not None and format_ in {None, name}:
        return parse_v2(body, name)
    if format_ is not None:
        raise InvalidRequest(
            f"format says how a value in JSON is serialised; a {method} of {content_type.media_type or 'no type'} "
            "is stored byte for byte: leave it away.",
            field="format",
        )
    if media_type in {"multipart/mixed", "multipart/form-data"}:
        return parse_multipart(body, content_type.boundary)
    return [ProducerRecord(body)]
