"""Publishing for both dialects: from a parsed request to the records in Kafka, or to a task for later."""

from collections.abc import Callable, Iterable
from typing import Protocol

from kafka_http.errors import KafkaHttpError, TooLarge
from kafka_http.publish.deferred_publish import DeferredPublisher
from kafka_http.publish.publisher import Deadlines, Publisher, PublishRequest, PublishResult
from kafka_http.tasks import NewTask
from kafka_http.web.publish_limits import PublishLimits
from kafka_http.web.request_head import RespondAsync
from kafka_http.web.responses import RenderedResponse

MAX_RECORDS_WITH_KEY = 100_000
"""Messages of a request with an idempotency key, whose response is stored."""


class PublishDialect(Protocol):
    """A request that publishes, in the parsing and rendering of its dialect. Its constructor checks the head."""

    topic: str
    timeout: float
    """Seconds."""
    respond_async: RespondAsync | None

    def parse(self, body: bytes, limits: PublishLimits) -> PublishRequest:
        """Parse the body. Raises an error for an invalid body, and the errors of `limits`."""

    def response(self, published: PublishResult) -> RenderedResponse:
        """Return the response with the result of each record."""

    def accepted_response(self, task: NewTask) -> RenderedResponse:
        """Return the response for messages that were stored for later."""

    def error_response(self, error: KafkaHttpError) -> RenderedResponse:
        """Return the response for an error of the whole request."""


ResponseFactory = Callable[[], RenderedResponse]
"""Returns the response with the results that are known now. Does not block. Raises errors of the whole request."""


class PublishView:
    """Publishes requests of both dialects. Any thread may call."""

    def __init__(
        self, publisher: Publisher, deferred: DeferredPublisher, max_records: int, reserve: Callable[[int, int], int]
    ) -> None:
        """`reserve` is `RequestBodies.reserve`."""
        self._publisher = publisher
        self._deferred = deferred
        self._max_records = max_records
        self._reserve = reserve

    def publish(
        self, dialect: PublishDialect, body: bytes, on_complete: Callable[[PublishResult], None] | None = None
    ) -> PublishResult | RenderedResponse:
        """Publish and wait for Kafka, or store the messages for later. Raises an error of the whole request.

        `on_complete` is called later if not all results are known on return, as `Publisher.publish` says.
        """
        deadlines = Deadlines.from_timeout(dialect.timeout)
        limits = PublishLimits(self._max_records, deadlines.send, self._reserve, len(body))
        try:
            return self._publish(dialect, dialect.parse(body, limits), deadlines, on_complete)
        finally:
            limits.release()

    def _publish(
        self,
        dialect: PublishDialect,
        parsed: PublishRequest,
        deadlines: Deadlines,
        on_complete: Callable[[PublishResult], None] | None,
    ) -> PublishResult | RenderedResponse:
        if dialect.respond_async is not None:
            callback_url = dialect.respond_async.callback_url
            task = self._deferred.accept(dialect.topic, parsed, callback_url, deadlines.send)
            return dialect.accepted_response(task)
        if on_complete is not None and len(parsed.records) > MAX_RECORDS_WITH_KEY:
            raise TooLarge(
                f"A request with an Idempotency-Key may have at most {MAX_RECORDS_WITH_KEY} messages. Nothing was "
                "written.",
                limit=MAX_RECORDS_WITH_KEY,
            )
        return self._publisher.publish(dialect.topic, parsed, deadlines, on_complete)

    def start(
        self, dialect: PublishDialect, parsed: PublishRequest, on_done: Callable[[], None]
    ) -> ResponseFactory | None:
        """Start a publish without blocking. Return None, with nothing done, if it would block or raise.

        Any thread calls `on_done` when all results are known, perhaps before this returns. It must not block. It may
        never be called.
        """
        if dialect.respond_async is None:
            started = self._publisher.start(dialect.topic, parsed, dialect.timeout, on_done)
            return None if started is None else lambda: dialect.response(started.published())
        accepting = self._deferred.start(dialect.topic, parsed, dialect.respond_async.callback_url, on_done)
        return None if accepting is None else lambda: dialect.accepted_response(accepting.accepted())


def distinct_errors(errors: Iterable[KafkaHttpError]) -> Iterable[KafkaHttpError]:
    """Return each error object once. Many records may share one."""
    return {id(each): each for each in errors}.values()
