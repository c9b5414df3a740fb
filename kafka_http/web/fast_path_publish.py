"""The fast path: publishes of both dialects that do not occupy a thread while they wait for Kafka.

The worker's main loop starts a publish here and sends the response when Kafka has answered. Requests that are invalid,
that would block or that need a feature of the views are left to the views, which give the same responses.
"""

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from urllib.parse import parse_qsl, urlsplit

from werkzeug.datastructures import MultiDict

from kafka_http.config import Config
from kafka_http.errors import KafkaHttpError
from kafka_http.logs import request_id
from kafka_http.publish.publisher import PublishRequest
from kafka_http.schemas.formats import Formats
from kafka_http.web.browser_guard import BrowserGuard
from kafka_http.web.messages.message_publish import MessagesPublish
from kafka_http.web.publish_limits import NO_LIMITS, RECORD_BYTES
from kafka_http.web.publish_view import PublishDialect, PublishView, ResponseFactory
from kafka_http.web.request_bodies import RequestBodies
from kafka_http.web.request_head import KEY_HEADER, RequestHead
from kafka_http.web.responses import STATUS_LINES, RenderedResponse, common_headers, internal_error, set_request_id
from kafka_http.web.rest_v2.produce_view import V2Produce

log = logging.getLogger(__name__)

_ROUTE = re.compile(
    r"/(?:messages/(?P<topic>[A-Za-z0-9._-]+)|topics/(?P<v2>[A-Za-z0-9._-]+)(?:/partitions/(?P<partition>[0-9]{1,9}))?)"
)

_MAX_VALUES = 15_000
"""Maximum number of values in a body. Parsing more would delay the main loop."""
_NO_QUERY: MultiDict[str, str] = MultiDict()

WireResponse = tuple[str, Sequence[tuple[str, str]], bytes]
"""The status line without the protocol, the headers, the body."""


class FastPathPublishes:
    """Starts publishes. An application has one. Any thread may call it."""

    def __init__(
        self,
        publish_view: PublishView,
        formats: Formats,
        config: Config,
        bodies: RequestBodies,
        senders: Sequence[Callable[[], None]],
        *,
        guard: BrowserGuard,
    ) -> None:
        """`senders` send what `publish_view` has started."""
        self._publish_view = publish_view
        self._senders = senders
        self._formats = formats
        self._root = urlsplit(config.base_url).path.rstrip("/")
        self._bodies = bodies
        self._guard = guard
        self._timeout = config.timeout
        self._max_body_bytes = config.max_body_bytes
        self._max_values = min(_MAX_VALUES, config.max_records)

    def begin(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes, on_done: Callable[[], None]
    ) -> "FastPathPublish | None":
        """Start a publish, which `send` sends. Does not block. Return None, with nothing done, if a view must respond.

        Header names are in lower case, each once. `on_done` is called when all results are known: by any thread, so it
        must not block, perhaps before this returns. It may never be called.
        """
        set_request_id(headers.get("x-request-id"))
        try:
            publish = self._parse(method, target, headers)
            if publish is None or publish.timeout != self._timeout or self._is_large(body):
                return None
            if publish.respond_async is not None and "x-forwarded-prefix" in headers:  # the Location header contains it
                return None
            parsed = publish.parse(body, NO_LIMITS)  # `_is_large` limits the records
            reserved = self._bodies.reserve(len(body) + RECORD_BYTES * len(parsed.records))
        except Exception:  # the view will raise it again and respond
            return None
        return self._begin(publish, parsed, reserved, on_done)

    def send(self) -> None:
        """Send what was started: called once for all requests that arrived together. Does not block."""
        for send in self._senders:
            send()

    def _is_large(self, body: bytes) -> bool:
        """Whether a body is over the limit, or has so many values that parsing it would delay the main loop."""
        return len(body) > self._max_body_bytes or body.count(b",") + body.count(b"\n") >= self._max_values

    def _parse(self, method: str, target: str, headers: Mapping[str, str]) -> PublishDialect | None:
        path, _, query = target.partition("?")
        route = _ROUTE.fullmatch(path)
        if route is None or KEY_HEADER in headers or not self._guard.allows(headers):
            return None
        args = MultiDict(parse_qsl(query, keep_blank_values=True, errors="strict")) if query else _NO_QUERY
        head = RequestHead(method, args, headers, self._root)
        if (topic := route["topic"]) is not None:
            return None if head.is_streaming_upload else MessagesPublish(head, topic, self._formats, self._timeout)
        if method != "POST":
            return None
        partition = route["partition"]
        number = None if partition is None else int(partition)
        return V2Produce(head, route["v2"], number, self._formats, self._timeout)

    def _begin(
        self, publish: PublishDialect, parsed: PublishRequest, reserved: int, on_done: Callable[[], None]
    ) -> "FastPathPublish | None":
        try:
            pending = self._publish_view.start(publish, parsed, on_done)
        except Exception as error:  # Kafka may have some records, so no view may repeat it
            pending = partial(_raise, error)
            on_done()
        if pending is None:
            self._bodies.reserve(-reserved)
            return None
        return FastPathPublish(publish, pending, partial(self._bodies.reserve, -reserved))


class FastPathPublish:
    """A publish that was sent to Kafka. `finish` must be called once."""

    def __init__(self, publish: PublishDialect, pending: ResponseFactory, release: Callable[[], object]) -> None:
        self.timeout = publish.timeout
        """Seconds after which the response must be sent at the latest."""
        self._publish = publish
        self._pending = pending
        self._release = release
        self._request_id = request_id.get()

    def finish(self) -> WireResponse:
        """Return the response with the results that are known now. Does not block. Raises nothing."""
        request_id.set(self._request_id)
        try:
            response = self._pending()
        except KafkaHttpError as error:
            response = self._publish.error_response(error)
        except Exception:
            log.exception("Unexpected error: publish to %s", self._publish.topic)
            response = self._publish.error_response(internal_error())
        finally:
            self._release()
        return _wire_response(response)


def _raise(error: Exception) -> RenderedResponse:
    raise error


def _wire_response(response: RenderedResponse) -> WireResponse:
    headers = [
        *response.headers.items(),
        ("Content-Type", response.content_type),
        ("Content-Length", str(len(response.body))),
        *common_headers(),
    ]
    return STATUS_LINES[response.status], headers, response.body
