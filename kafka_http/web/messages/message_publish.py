"""PUT and POST /messages/<topic> in the parsing and rendering of the /messages dialect."""

from kafka_http.errors import InvalidRequest, KafkaHttpError, OutcomeUnknown
from kafka_http.publish.publisher import PublishRequest, PublishResult
from kafka_http.records import ProducerRecord, RecordMetadata
from kafka_http.schemas.formats import NO_SCHEMAS, Formats, SchemaChoice, Schemas
from kafka_http.schemas.topic_formats import TopicFormat
from kafka_http.tasks import NewTask
from kafka_http.web.messages.message_attributes import request_attributes
from kafka_http.web.messages.message_bodies import parse_json, parse_lines, parse_record_lines
from kafka_http.web.messages.multipart_bodies import parse_multipart
from kafka_http.web.negotiation import JSON, NDJSON, ContentType, kafka_format
from kafka_http.web.publish_limits import PublishLimits
from kafka_http.web.publish_view import distinct_errors
from kafka_http.web.query_parameters import MAX_INT32, QueryParameters, parse_integer
from kafka_http.web.request_head import RequestHead
from kafka_http.web.responses import RenderedResponse, error_headers, render_accepted, render_error, render_json
from kafka_http.web.rest_v2.v2_records import parse_v2

MAX_TIMEOUT = 60
SERIALIZER_PARAMETERS = (
    *("format", "schema_id", "subject", "version"),
    *("key_format", "key_schema_id", "key_subject", "key_version"),
)
_PARAMETERS = (
    *("callback", "key", "partition", "timestamp", "timeout", "tombstone", "lines", "partitions"),
    *SERIALIZER_PARAMETERS,
)
_MULTIPART = {"multipart/mixed", "multipart/form-data"}


class MessagesPublish:
    """One publish: a `PublishDialect`."""

    def __init__(self, head: RequestHead, topic: str, formats: Formats, timeout: float) -> None:
        """`timeout` is the default, in seconds. Raises `InvalidRequest`."""
        self.topic = topic
        self._head = head
        self._query = QueryParameters(head.args, _PARAMETERS)
        self._formats = formats
        self.timeout = self._query.seconds("timeout", timeout, MAX_TIMEOUT)
        self.respond_async = head.respond_async(self._query.text("callback"))

    def parse(self, body: bytes, limits: PublishLimits) -> PublishRequest:
        """Parse the body. Raises `InvalidRequest`, `UnsupportedFormat`, and the errors of `limits`."""
        check_formats(self._query, self._formats)
        attributes = request_attributes(self._query, self._head.all_headers)
        parsed = self._tombstone(body) if self._query.flag("tombstone") else self._parse(body, limits)
        if attributes is None:
            return parsed
        return PublishRequest([attributes.fill(record) for record in parsed.records], parsed.schemas)

    def response(self, published: PublishResult) -> RenderedResponse:
        """Return 200 if all records were written, 207 if some failed, and the first error's status if all failed.

        If all failed and one of them may have been written, the status is 504.
        """
        results = published.results
        failures = [each for each in results if isinstance(each, KafkaHttpError)]
        if not failures:
            return render_json({"topic": self.topic, "records": results})
        errors = {id(each): {"error": each.as_object()} for each in distinct_errors(failures)}
        entries = [each if isinstance(each, RecordMetadata) else errors[id(each)] for each in results]
        if len(failures) == len(results):
            first = next((each for each in failures if isinstance(each, OutcomeUnknown)), failures[0])
            return render_error(first, **({"records": entries} if len(entries) > 1 else {}))
        return render_json({"topic": self.topic, "records": entries}, 207, error_headers(failures[0]))

    def accepted_response(self, task: NewTask) -> RenderedResponse:
        return render_accepted(task, self._head.root_path, JSON)

    def error_response(self, error: KafkaHttpError) -> RenderedResponse:
        return render_error(error)

    def _tombstone(self, body: bytes) -> PublishRequest:
        if body:
            raise InvalidRequest("tombstone=true publishes null. Send no body with it.", field="tombstone")
        return PublishRequest([ProducerRecord(None)])

    def _parse(self, body: bytes, limits: PublishLimits) -> PublishRequest:
        content_type = ContentType.parse(self._head.headers.get("content-type"))
        media_type = content_type.media_type if self._head.method == "POST" else ""
        format_ = self._query.text("format")
        if media_type != NDJSON and (self._query.text("lines") or self._query.text("partitions")):
            raise InvalidRequest(f"lines and partitions require a POST of {NDJSON}.", field="lines")
        if media_type in {JSON, NDJSON}:
            return PublishRequest(self._parse_json(media_type, body, limits), schemas_of(self._query))
        v2_format = kafka_format(media_type, self._formats)
        if v2_format is not None and format_ in {None, v2_format}:
            return self._parse_v2(v2_format, body, limits)
        self._reject_serializers(content_type.media_type)
        if media_type in _MULTIPART:
            return PublishRequest(parse_multipart(body, content_type.boundary, limits))
        return PublishRequest([ProducerRecord(body)])

    def _reject_serializers(self, media_type: str) -> None:
        """Reject parameters that choose a serializer, for a body that is stored byte for byte."""
        for name in SERIALIZER_PARAMETERS:
            if self._query.text(name) is not None:
                raise InvalidRequest(
                    f"{name} requires {'a key' if name.startswith('key') else 'a value'} in JSON. A "
                    f"{self._head.method} of {media_type or 'no Content-Type'} is stored byte for byte.",
                    field=name,
                )

    def _parse_json(self, media_type: str, body: bytes, limits: PublishLimits) -> list[ProducerRecord]:
        default = default_formats(self._query, self._formats, self.topic)
        if media_type == JSON:
            return parse_json(body, default, limits)
        are_records, keep_partitions = line_parameters(self._query)
        if are_records:
            return parse_record_lines(body, default, keep_partitions, limits)
        return parse_lines(body, default.value, limits)

    def _parse_v2(self, name: str, body: bytes, limits: PublishLimits) -> PublishRequest:
        default = default_formats(self._query, self._formats, self.topic)
        parsed = parse_v2(body, TopicFormat(default.key or name, name), limits)
        in_body, in_query = parsed.schemas, schemas_of(self._query)
        if NO_SCHEMAS not in {in_body, in_query}:
            raise InvalidRequest("Body and query both name schemas. Name them in one of the two.")
        return PublishRequest(parsed.records, in_body if in_query == NO_SCHEMAS else in_query)


def check_formats(query: QueryParameters, formats: Formats) -> None:
    """Check the formats that a query names. Raises `UnsupportedFormat`."""
    for name in ("format", "key_format"):
        if (format_ := query.text(name)) is not None:
            formats.check(format_)


def default_formats(query: QueryParameters, formats: Formats, topic: str) -> TopicFormat:
    """Return the formats of records that name none: those of the query, else of the topic."""
    of_topic = formats.topic_format(topic)
    return TopicFormat(query.text("key_format") or of_topic.key, query.text("format") or of_topic.value)


def line_parameters(query: QueryParameters) -> tuple[bool, bool]:
    """Return whether the lines of NDJSON are records, and whether these keep their partitions."""
    keep_partitions = query.choice("partitions", ("keep", ""), "") == "keep"
    return query.choice("lines", ("records", "values"), "values") == "records", keep_partitions


def schemas_of(query: QueryParameters) -> Schemas:
    """Return the schemas that a query names."""
    return Schemas(_schema("key_", query), _schema("", query)) if query else NO_SCHEMAS


def _schema(prefix: str, query: QueryParameters) -> SchemaChoice:
    schema_id = query.text(f"{prefix}schema_id")
    return SchemaChoice(
        schema_id=None if schema_id is None else parse_integer(f"{prefix}schema_id", schema_id, 0, MAX_INT32),
        subject=query.text(f"{prefix}subject"),
        version=query.text(f"{prefix}version"),
    )
