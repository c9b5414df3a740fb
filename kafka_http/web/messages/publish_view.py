"""A publish of the /messages dialect: from a request's parts to records, and from what became of them to an answer."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

from werkzeug.datastructures import MultiDict

from kafka_http.errors import InvalidRequest, KafkaHttpError, OutcomeUnknown, TooLarge
from kafka_http.publish.deferred_publish import DeferredPublisher
from kafka_http.publish.publisher import Deadlines, Publisher, PublishRequest, PublishResult
from kafka_http.records import ProducerRecord, RecordMetadata
from kafka_http.schemas.formats import NO_SCHEMAS, Formats, SchemaChoice, Schemas
from kafka_http.schemas.topic_formats import TopicFormat
from kafka_http.tasks import NewTask
from kafka_http.web.messages.message_attributes import request_attributes
from kafka_http.web.messages.message_bodies import parse_json, parse_lines, parse_record_lines
from kafka_http.web.messages.multipart_bodies import parse_multipart
from kafka_http.web.negotiation import JSON, NDJSON, ContentType, kafka_format
from kafka_http.web.publish_limits import PublishLimits
from kafka_http.web.query_parameters import MAX_INT32, QueryParameters, integer
from kafka_http.web.rendered_responses import RenderedResponse, accepted_answer, error_answer, json_answer, retry_header
from kafka_http.web.rest_v2.v2_records import parse_v2

MAX_TIMEOUT = 60
KEY_HEADER = "idempotency-key"
MOST_WITH_KEY = 100_000
"""Messages of a request with an idempotency key: so many have room in the answer that is kept."""
SERIALISING = (
    *("format", "schema_id", "subject", "version"),
    *("key_format", "key_schema_id", "key_subject", "key_version"),
)
_PARAMETERS = (
    *("callback", "key", "partition", "timestamp", "timeout", "tombstone", "lines", "partitions"),
    *SERIALISING,
)


RESPOND_ASYNC = "respond-async"


class Head(NamedTuple):
    """A request without its body. Header names are in lower case; `root` is what stands before the paths of ours.

    `repeated` has, one by one, the `kafka-*` headers that were sent more than once, where the server tells them apart.
    """

    method: str
    args: MultiDict[str, str]
    headers: Mapping[str, str]
    root: str = ""
    repeated: Sequence[tuple[str, str]] = ()

    @property
    def fields(self) -> Collection[tuple[str, str]]:
        """All headers, repeated ones one by one."""
        if not self.repeated:
            return self.headers.items()
        names = {name for name, _ in self.repeated}
        return [*(each for each in self.headers.items() if each[0] not in names), *self.repeated]

    def prefers(self, preference: str) -> bool:
        """Whether the client sends it in `Prefer` (RFC 7240)."""
        sent = self.headers.get("prefer")
        return sent is not None and preference in [each.partition(";")[0].strip().lower() for each in sent.split(",")]

    def later(self, callback_url: str | None) -> "Later | None":
        """The wish to be answered before Kafka has the messages."""
        return Later(callback_url) if callback_url is not None or self.prefers(RESPOND_ASYNC) else None


class Later(NamedTuple):
    """To publish later. `callback_url` is to be told what became of it."""

    callback_url: str | None


class PublishDialect(Protocol):
    """A request that publishes, in either dialect. Made from its head, and raises for what is wrong with that."""

    topic: str
    timeout: float
    """Seconds."""
    later: Later | None

    def messages(self, body: bytes, admission: PublishLimits) -> PublishRequest:
        """What is to be published. Raises for what is wrong with it, and what `admission` raises."""

    def answer(self, published: PublishResult) -> RenderedResponse:
        """What the client is told."""

    def accepted(self, task: NewTask) -> RenderedResponse:
        """What the client is told of what will be published later."""

    def refusal(self, error: KafkaHttpError) -> RenderedResponse:
        """What the client is told of an error of the whole request."""


class PublishView:
    """What becomes of a request that publishes."""

    def __init__(
        self, publisher: Publisher, deferred: DeferredPublisher, max_records: int, hold: Callable[[int, int], int]
    ) -> None:
        """`hold` is `Bodies.hold`."""
        self._publisher = publisher
        self._deferred = deferred
        self._max_records = max_records
        self._hold = hold

    def do(
        self, publish: PublishDialect, body: bytes, settled: Callable[[PublishResult], None] | None = None
    ) -> PublishResult | RenderedResponse:
        """Do it, or see to it that it will be done, and answer that. Blocks. Raises what is wrong with the whole.

        Where not all is settled yet, `settled` hears of it later, as `Publisher.publish` says.
        """
        deadlines = Deadlines.from_timeout(publish.timeout)
        admission = PublishLimits(self._max_records, deadlines.send, self._hold, len(body))
        try:
            return self._do(publish, publish.messages(body, admission), deadlines, settled)
        finally:
            admission.release()

    def _do(
        self,
        publish: PublishDialect,
        messages: PublishRequest,
        deadlines: Deadlines,
        settled: Callable[[PublishResult], None] | None,
    ) -> PublishResult | RenderedResponse:
        if publish.later is not None:
            callback_url = publish.later.callback_url
            task = self._deferred.accept(publish.topic, messages, callback_url, deadlines.send)
            return publish.accepted(task)
        if settled is not None and len(messages.records) > MOST_WITH_KEY:
            raise TooLarge(
                f"A request with an Idempotency-Key takes {MOST_WITH_KEY} messages at most. Nothing was written.",
                limit=MOST_WITH_KEY,
            )
        return self._publisher.publish(publish.topic, messages, deadlines, settled)

    def begin(self, publish: PublishDialect, messages: PublishRequest, done: Callable[[], None]) -> "Begun | None":
        """As `answer`, without blocking: None, with nothing done, where that cannot be, or it would raise.

        `done` is called once it is known what became of it: by any thread, which must not be held up, perhaps before
        this returns; or never.
        """
        if publish.later is None:
            started = self._publisher.start(publish.topic, messages, publish.timeout, done)
            return None if started is None else lambda: publish.answer(started.published())
        accepting = self._deferred.start(publish.topic, messages, publish.later.callback_url, done)
        return None if accepting is None else lambda: publish.accepted(accepting.accepted())


Begun = Callable[[], RenderedResponse]
"""Gives the answer, as far as is known when it is called. Raises what is wrong with the whole. Does not block."""


class MessagesPublish:
    """PUT, POST /messages/<topic>."""

    def __init__(self, head: Head, topic: str, formats: Formats, timeout: float) -> None:
        """`timeout` is that of a request which names none."""
        self.topic = topic
        self._head = head
        self._query = QueryParameters(head.args, _PARAMETERS)
        self._formats = formats
        self.timeout = self._query.seconds("timeout", timeout, MAX_TIMEOUT)
        self.later = head.later(self._query.text("callback"))

    def messages(self, body: bytes, admission: PublishLimits) -> PublishRequest:
        """Raises `InvalidRequest`, `UnsupportedFormat`, and what `admission` raises."""
        check_formats(self._query, self._formats)
        attributes = request_attributes(self._query, self._head.fields)
        messages = self._tombstone(body) if self._query.flag("tombstone") else self._parse(body, admission)
        if attributes is None:
            return messages
        return PublishRequest([attributes.fill(record) for record in messages.records], messages.schemas)

    def answer(self, published: PublishResult) -> RenderedResponse:
        """200 where all were written, 207 where some failed, the first error's status where all did; but 504 where one
        of them may have been written."""
        outcomes = published.results
        failures = [outcome for outcome in outcomes if isinstance(outcome, KafkaHttpError)]
        if not failures:
            return json_answer({"topic": self.topic, "records": outcomes})
        errors = {id(each): {"error": each.as_object()} for each in distinct(failures)}
        entries = [each if isinstance(each, RecordMetadata) else errors[id(each)] for each in outcomes]
        if len(failures) == len(outcomes):
            first = next((each for each in failures if isinstance(each, OutcomeUnknown)), failures[0])
            return error_answer(first, **({"records": entries} if len(entries) > 1 else {}))
        return json_answer({"topic": self.topic, "records": entries}, 207, retry_header(failures[0]))

    def accepted(self, task: NewTask) -> RenderedResponse:
        return accepted_answer(task, self._head.root, JSON)

    def refusal(self, error: KafkaHttpError) -> RenderedResponse:
        return error_answer(error)

    def _tombstone(self, body: bytes) -> PublishRequest:
        if body:
            raise InvalidRequest("tombstone=true is a null: send no body with it.", field="tombstone")
        return PublishRequest([ProducerRecord(None)])

    def _parse(self, body: bytes, admission: PublishLimits) -> PublishRequest:
        method, query = self._head.method, self._query
        content_type = ContentType.parse(self._head.headers.get("content-type"))
        media_type = content_type.media_type if method == "POST" else ""
        format_ = query.text("format")
        if media_type != NDJSON and (query.text("lines") or query.text("partitions")):
            raise InvalidRequest(f"lines and partitions go with a POST of {NDJSON}.", field="lines")
        if media_type in {JSON, NDJSON}:
            return PublishRequest(self._parse_json(media_type, body, admission), schemas_of(query))
        name = kafka_format(media_type, self._formats)
        if name is not None and format_ in {None, name}:
            return self._parse_v2(name, body, admission)
        for each in SERIALISING:
            if query.text(each) is not None:
                raise InvalidRequest(
                    f"{each} says how {'a key' if each.startswith('key') else 'a value'} in JSON is serialised; a "
                    f"{method} of {content_type.media_type or 'no type'} is stored byte for byte: leave it away.",
                    field=each,
                )
        if media_type in {"multipart/mixed", "multipart/form-data"}:
            return PublishRequest(parse_multipart(body, content_type.boundary, admission))
        return PublishRequest([ProducerRecord(body)])

    def _parse_json(self, media_type: str, body: bytes, admission: PublishLimits) -> list[ProducerRecord]:
        query, default = self._query, self._default_formats
        if media_type == JSON:
            return parse_json(body, default, admission)
        keep = query.choice("partitions", ("keep", ""), "") == "keep"
        if query.choice("lines", ("records", "values"), "values") == "records":
            return parse_record_lines(body, default, keep, admission)
        return parse_lines(body, default.value, admission)

    def _parse_v2(self, name: str, body: bytes, admission: PublishLimits) -> PublishRequest:
        messages = parse_v2(body, TopicFormat(self._default_formats.key or name, name), admission)
        named, also = messages.schemas, schemas_of(self._query)
        if NO_SCHEMAS not in {named, also}:
            raise InvalidRequest("The body and the query both name schemas: one of them is enough.")
        return PublishRequest(messages.records, named if also == NO_SCHEMAS else also)

    @property
    def _default_formats(self) -> TopicFormat:
        return default_formats(self._query, self._formats, self.topic)


def distinct(failures: Iterable[KafkaHttpError]) -> Iterable[KafkaHttpError]:
    """Each of the errors once: many records may share one."""
    return {id(each): each for each in failures}.values()


def check_formats(query: QueryParameters, formats: Formats) -> None:
    """Raise `UnsupportedFormat` where a query names a format that there is not."""
    for name in ("format", "key_format"):
        if (format_ := query.text(name)) is not None:
            formats.check(format_)


def default_formats(query: QueryParameters, formats: Formats, topic: str) -> TopicFormat:
    """Of records that name none: the query's, else the topic's."""
    of_topic = formats.of_topic(topic)
    return TopicFormat(query.text("key_format") or of_topic.key, query.text("format") or of_topic.value)


def schemas_of(query: QueryParameters) -> Schemas:
    """Those that a query names."""
    if not query:
        return NO_SCHEMAS
    return Schemas(_schema("key_", query), _schema("", query))


def _schema(prefix: str, query: QueryParameters) -> SchemaChoice:
    schema_id = query.text(f"{prefix}schema_id")
    return SchemaChoice(
        schema_id=None if schema_id is None else integer(f"{prefix}schema_id", schema_id, 0, MAX_INT32),
        subject=query.text(f"{prefix}subject"),
        version=query.text(f"{prefix}version"),
    )
