"""Publishing for both dialects: from a request's body to its response, once Kafka or the outbox has the records."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

from kafka_http.errors import KafkaHttpError, TooLarge
from kafka_http.pending import Pending
from kafka_http.publish.deferred_publish import DeferredPublisher
from kafka_http.publish.publisher import Deadlines, Publisher, PublishRequest
from kafka_http.records import RecordResult
from kafka_http.schemas.formats import Role
from kafka_http.tasks import NewTask
from kafka_http.web.publish_limits import RECORD_BYTES, LoopLimits, PublishLimits
from kafka_http.web.request_head import RespondAsync
from kafka_http.web.responses import RenderedResponse

MAX_RECORDS_WITH_KEY = 100_000
"""Messages of a request with an idempotency key, whose response is stored."""
_MAX_VALUES = 15_000
"""Maximum number of values in a body that a main loop parses. More would delay its other requests."""


class PublishDialect(Protocol):
    """The head of a request that publishes, in the parsing and rendering of its dialect. It may serve many bodies.

    Its constructor checks the head.
    """

    topic: str
    timeout: float
    """Seconds."""

    @property
    def route(self) -> str:
        """The URL rule, for `RequestFacts`."""

    respond_async: RespondAsync | None

    def parse(self, body: bytes, limits: PublishLimits) -> PublishRequest:
        """Parse a body. Raises an error for an invalid body, and the errors of `limits`."""

    def response(self, results: Sequence[RecordResult], schema_ids: Mapping[Role, int]) -> RenderedResponse:
        """Return the response with the result of each record."""

    def accepted_response(self, task: NewTask) -> RenderedResponse:
        """Return the response for messages that were stored for later."""

    def error_response(self, error: KafkaHttpError) -> RenderedResponse:
        """Return the response for an error of the whole request."""


class PendingPublishResponse:
    """The response to a publish that was handed to Kafka or to the outbox: a future. Any thread may call.

    Use it as a context manager, or call `release` at the end.
    """

    __slots__ = ("add_done_callback", "pending", "release", "render")

    on_sent = None

    def __init__(
        self, pending: Pending, render: Callable[[Any], RenderedResponse], release: Callable[[], object]
    ) -> None:
        self.pending = pending
        """Its result is one result for each record, or the task that the outbox has stored."""
        self.render = render
        """Renders such a result."""
        self.release = release
        """Releases the memory that the request has reserved. Call it once."""
        self.add_done_callback = pending.add_done_callback

    def result(self, timeout: float | None = None) -> RenderedResponse:
        """Wait up to `timeout` seconds, by default the request's own, and return the response with what is known then.

        `timeout=0` does not block. Raises an error of the whole request.
        """
        return self.render(self.pending.result(timeout))

    def __enter__(self) -> "PendingPublishResponse":
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


class PublishView:
    """Publishes requests of both dialects. Any thread may call."""

    def __init__(
        self, publisher: Publisher, deferred: DeferredPublisher, max_records: int, reserve: Callable[[int, int], int]
    ) -> None:
        """`reserve` is `RequestBodies.reserve`."""
        self._publisher = publisher
        self._deferred = deferred
        self._max_records = max_records
        self._loop_limits = LoopLimits(min(_MAX_VALUES, max_records))
        self._reserve = reserve

    def start(
        self, dialect: PublishDialect, body: bytes, *, blocking: bool = True, keeps_trying: bool = False
    ) -> PendingPublishResponse:
        """Parse a body and hand its records to Kafka, or to the outbox.

        With `blocking=True`, for a thread, the caller has reserved the memory of the body. With `blocking=False`, for a
        main loop, this method reserves it, and the records may wait until the loop's `end_round`. `keeps_trying` is
        that of `Producer.publish`.

        Nothing was published if this raises: an error of the whole request, or `WouldBlock` if `blocking=False` and a
        thread must do it.
        """
        deadlines = Deadlines.from_timeout(dialect.timeout)
        if blocking:
            limits = PublishLimits(self._max_records, deadlines.send, self._reserve, len(body))
            release: Callable[[], object] = limits.release
        else:
            limits, release = self._loop_limits, _release_nothing
        try:
            parsed = dialect.parse(body, limits)
            if not blocking:
                release = self._reserve_all(body, parsed)
            return self._start(dialect, parsed, deadlines, release, blocking=blocking, keeps_trying=keeps_trying)
        except BaseException:
            release()
            raise

    def _reserve_all(self, body: bytes, parsed: PublishRequest) -> Callable[[], object]:
        size = self._reserve(len(body) + RECORD_BYTES * len(parsed.records), 0)
        return lambda: self._reserve(-size, 0)

    def _start(
        self,
        dialect: PublishDialect,
        parsed: PublishRequest,
        deadlines: Deadlines,
        release: Callable[[], object],
        *,
        blocking: bool,
        keeps_trying: bool,
    ) -> PendingPublishResponse:
        if dialect.respond_async is not None:
            url, owner = dialect.respond_async
            accepted = self._deferred.accept(dialect.topic, parsed, url, deadlines.send, owner=owner, blocking=blocking)
            return PendingPublishResponse(accepted, dialect.accepted_response, release)
        if keeps_trying and len(parsed.records) > MAX_RECORDS_WITH_KEY:
            raise TooLarge(
                f"A request with an Idempotency-Key may have at most {MAX_RECORDS_WITH_KEY} messages. Nothing was "
                "written.",
                limit=MAX_RECORDS_WITH_KEY,
            )
        pending, schema_ids = self._publisher.publish(
            dialect.topic, parsed, deadlines, blocking=blocking, keeps_trying=keeps_trying
        )
        return PendingPublishResponse(pending, lambda results: dialect.response(results, schema_ids), release)


def _release_nothing() -> None:
    """Do nothing: no memory is reserved yet."""


def distinct_errors(errors: Iterable[KafkaHttpError]) -> Iterable[KafkaHttpError]:
    """Return each error object once. Many records may share one."""
    return {id(each): each for each in errors}.values()
