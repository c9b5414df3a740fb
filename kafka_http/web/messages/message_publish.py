"""PUT and POST /messages/<topic> in the parsing and rendering of the /messages dialect."""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial

from msgspec.structs import replace

from kafka_http.errors import InvalidRequest, KafkaHttpError, OutcomeUnknown
from kafka_http.publish.publisher import PublishRequest
from kafka_http.records import AppendedRecords, BareValues, ProducerRecord, RecordMetadata, RecordResult
from kafka_http.schemas.formats import NO_SCHEMAS, Formats, Role, SchemaChoice, Schemas
from kafka_http.schemas.topic_formats import TopicFormat
from kafka_http.tasks import NewTask
from kafka_http.web.messages.message_attributes import MessageAttributes, request_attributes
from kafka_http.web.messages.message_bodies import parse_json, parse_lines, parse_record_lines
from kafka_http.web.messages.multipart_bodies import parse_multipart
from kafka_http.web.negotiation import JSON, NDJSON, ContentType, kafka_format
from kafka_http.web.publish_limits import PublishLimits
from kafka_http.web.publish_view import distinct_errors
from kafka_http.web.query_parameters import MAX_INT32, QueryParameters, parse_integer
from kafka_http.web.request_head import RequestHead
from kafka_http.web.responses import (
    NO_HEADERS,
    RenderedResponse,
    appended_entries,
    error_headers,
    render_accepted,
    render_error,
    render_json,
)
from kafka_http.web.rest_v2.v2_records import parse_v2
from kafka_http.web.topic_hints import TopicHint

MAX_TIMEOUT = 60
SCHEMA_PARAMETERS = ("schema_id", "subject", "version", "key_schema_id", "key_subject", "key_version")
SERIALIZER_PARAMETERS = ("format", *SCHEMA_PARAMETERS[:3], "key_format", *SCHEMA_PARAMETERS[3:])
_PARAMETERS = (
    *("callback", "key", "partition", "timestamp", "timeout", "tombstone", "lines", "partitions"),
    *SERIALIZER_PARAMETERS,
)
_MULTIPART = {"multipart/mixed", "multipart/form-data"}


class MessagesPublish:
    """The head of a publish: a `PublishDialect`."""

    route = "/messages/<topic>"

    def __init__(
        self, head: RequestHead, topic: str, formats: Formats, timeout: float, hint: TopicHint | None = None
    ) -> None:
        """`timeout` is the default, in seconds. `hint` is for a missing topic. Raises `InvalidRequest`."""
        self._hint = hint
        self.topic = topic
        self._head = head
        self._query = QueryParameters(head.args, _PARAMETERS)
        self._formats = formats
        self.timeout = self._query.seconds("timeout", timeout, MAX_TIMEOUT)
        self.respond_async = head.respond_async(self._query.text("callback"))

    def parse(self, body: bytes, limits: PublishLimits) -> PublishRequest:
        """Parse a body. Raises `InvalidRequest`, `UnsupportedFormat`, and the errors of `limits`."""
        attributes = self._attributes
        parsed = self._tombstone(body) if self._is_tombstone else self._parse(body, limits)
        if attributes is None:
            return parsed
        records = parsed.records
        if isinstance(records, BareValues):
            records = [ProducerRecord(each) for each in records]
        return PublishRequest([attributes.fill(each) for each in records], parsed.schemas)

    # The first body evaluates these properties, so that an error about receiving the body (413, 429) comes first.

    @cached_property
    def _attributes(self) -> MessageAttributes | None:
        check_formats(self._query, self._formats)
        return request_attributes(self._query, self._head.all_headers)

    @cached_property
    def _is_tombstone(self) -> bool:
        return self._query.flag("tombstone")

    @cached_property
    def _default(self) -> TopicFormat:
        return default_formats(self._query, self._formats, self.topic)

    @cached_property
    def _schemas(self) -> Schemas:
        return schemas_of(self._query)

    @cached_property
    def _is_bare(self) -> bool:
        """Whether values are stored verbatim, and no schema is named."""
        names_schema = any(self._query.text(name) is not None for name in SCHEMA_PARAMETERS)
        return not names_schema and self._formats.is_verbatim(self._default.value)

    @cached_property
    def _parse(self) -> Callable[[bytes, PublishLimits], PublishRequest]:
        """The parser of bodies of the Content-Type."""
        content_type = ContentType.parse(self._head.headers.get("content-type"))
        media_type = content_type.media_type if self._head.method == "POST" else ""
        if media_type != NDJSON and (self._query.text("lines") or self._query.text("partitions")):
            raise InvalidRequest(f"lines and partitions require a POST of {NDJSON}.", field="lines")
        if media_type in {JSON, NDJSON}:
            return self._parse_json if media_type == JSON else self._parse_lines
        v2_format = kafka_format(media_type, self._formats)
        if v2_format is not None and self._query.text("format") in {None, v2_format}:
            return partial(self._parse_v2, v2_format)
        self._reject_serializers(content_type.media_type)
        if media_type in _MULTIPART:
            return lambda body, limits: PublishRequest(parse_multipart(body, content_type.boundary, limits))
        return lambda body, _: PublishRequest(BareValues([body]))

    def _tombstone(self, body: bytes) -> PublishRequest:
        if body:
            raise InvalidRequest("tombstone=true publishes null. Send no body with it.", field="tombstone")
        return PublishRequest(BareValues([None]))

    def _reject_serializers(self, media_type: str) -> None:
        """Reject parameters that choose a serializer, for a body that is stored byte for byte."""
        for name in SERIALIZER_PARAMETERS:
            if self._query.text(name) is not None:
                raise InvalidRequest(
                    f"{name} requires {'a key' if name.startswith('key') else 'a value'} in JSON. A "
                    f"{self._head.method} of {media_type or 'no Content-Type'} is stored byte for byte.",
                    field=name,
                )

    def _parse_json(self, body: bytes, limits: PublishLimits) -> PublishRequest:
        return PublishRequest(parse_json(body, self._default, limits, bare=self._is_bare), self._schemas)

    def _parse_lines(self, body: bytes, limits: PublishLimits) -> PublishRequest:
        are_records, keep_partitions = line_parameters(self._query)
        if are_records:
            records = parse_record_lines(body, self._default, keep_partitions, limits)
            return PublishRequest(records, self._schemas)
        return PublishRequest(parse_lines(body, self._default.value, limits, bare=self._is_bare), self._schemas)

    def _parse_v2(self, name: str, body: bytes, limits: PublishLimits) -> PublishRequest:
        default = self._default
        parsed = parse_v2(body, TopicFormat(default.key or name, name), limits)
        in_body, in_query = parsed.schemas, self._schemas
        if NO_SCHEMAS not in {in_body, in_query}:
            raise InvalidRequest("Body and query both name schemas. Name them in one of the two.")
        return PublishRequest(parsed.records, in_body if in_query == NO_SCHEMAS else in_query)

    def response(self, results: Sequence[RecordResult], schema_ids: Mapping[Role, int]) -> RenderedResponse:
        """Return 200 if all records were written, 207 if some failed, and the first error's status if all failed.

        If all failed and one of them may have been written, the status is 504.
        """
        if isinstance(results, AppendedRecords):
            timestamp = "null" if results.timestamp is None else results.timestamp
            appended = appended_entries(results, f',"timestamp":{timestamp}')
            body = f'{{"topic":"{self.topic}","records":[{appended}]}}\n'  # a topic's name needs no escapes
            return RenderedResponse(200, NO_HEADERS, JSON, body.encode(), len(results))
        failures = [each for each in results if isinstance(each, KafkaHttpError)]
        return replace(self._mixed_response(results, failures), records=len(results) - len(failures))

    def _mixed_response(self, results: Sequence[RecordResult], failures: Sequence[KafkaHttpError]) -> RenderedResponse:
        if not failures:
            return render_json({"topic": self.topic, "records": results})
        errors = {id(each): {"error": each.as_object()} for each in distinct_errors(failures)}
        entries = [each if isinstance(each, RecordMetadata) else errors[id(each)] for each in results]
        if len(failures) == len(results):
            first = next((each for each in failures if isinstance(each, OutcomeUnknown)), failures[0])
            first = first if self._hint is None else self._hint.explain(first)
            return render_error(first, **({"records": entries} if len(entries) > 1 else {}))
        return render_json({"topic": self.topic, "records": entries}, 207, error_headers(failures[0]))

    def accepted_response(self, task: NewTask) -> RenderedResponse:
        return render_accepted(task, self._head.root_path, JSON)

    def error_response(self, error: KafkaHttpError) -> RenderedResponse:
        return render_error(error if self._hint is None else self._hint.explain(error))


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
