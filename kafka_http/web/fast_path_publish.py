"""Plain publishes of both dialects without a thread that waits for Kafka: begun here, answered when Kafka has answered.

For a server that calls from an event loop or from a few threads. Whatever is not plain, or wrong, or would have to wait
for something, is left to the views, which say the same in the same words.
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
from kafka_http.web.messages.publish_view import KEY_HEADER, Begun, Head, MessagesPublish, PublishDialect, PublishView
from kafka_http.web.messages.upload_view import is_upload
from kafka_http.web.publish_limits import NO_LIMITS, RECORD_BYTES
from kafka_http.web.rendered_responses import STATUS_LINES, RenderedResponse, number_request, tags, unforeseen
from kafka_http.web.request_bodies import RequestBodies
from kafka_http.web.rest_v2.produce_view import V2Produce

log = logging.getLogger(__name__)

_ROUTE = re.compile(
    r"/(?:messages/(?P<topic>[A-Za-z0-9._-]+)|topics/(?P<v2>[A-Za-z0-9._-]+)(?:/partitions/(?P<partition>[0-9]{1,9}))?)"
)

_MOST_VALUES = 15_000
_NO_QUERY: MultiDict[str, str] = MultiDict()

WireAnswer = tuple[str, Sequence[tuple[str, str]], bytes]
"""Status line without the protocol, headers, body."""


class FastPathPublishes:
    """Begins publishes. Any thread may call."""

    def __init__(
        self,
        publishing: PublishView,
        formats: Formats,
        config: Config,
        bodies: RequestBodies,
        senders: Sequence[Callable[[], None]],
        *,
        guard: BrowserGuard,
    ) -> None:
        """`senders` let go what `publishing` has begun."""
        self._publishing = publishing
        self._senders = senders
        self._formats = formats
        self._root = urlsplit(config.base_url).path.rstrip("/")
        self._bodies = bodies
        self._guard = guard
        self._timeout = config.timeout
        self._max_body_bytes = config.max_body_bytes
        self._most_values = min(_MOST_VALUES, config.max_records)

    def begin(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes, done: Callable[[], None]
    ) -> "FastPathPublish | None":
        """Begin a publish, which `send` sends. Does not block. None, with nothing done, for a request that is another's
        to answer.

        Header names are in lower case, each there once. `done` is called when Kafka has answered: by any thread, which
        must not be held up, perhaps before this returns; or never.
        """
        number_request(headers.get("x-request-id"))
        try:
            publish = self._parse(method, target, headers)
            if publish is None or publish.timeout != self._timeout or self._is_large(body):
                return None
            if publish.later is not None and "x-forwarded-prefix" in headers:  # Location has it
                return None
            messages = publish.messages(body, NO_LIMITS)  # `_is_large` bounds the records
            held = self._bodies.hold(len(body) + RECORD_BYTES * len(messages.records))
        except Exception:  # the view meets it again, and says what it is
            return None
        return self._begin(publish, messages, held, done)

    def send(self) -> None:
        """Send what was begun: once for all requests that came together. Does not block."""
        for send in self._senders:
            send()

    def _is_large(self, body: bytes) -> bool:
        """Whether it is over the limit, or has so many values that an event loop would be at it for long."""
        return len(body) > self._max_body_bytes or body.count(b",") + body.count(b"\n") >= self._most_values

    def _parse(self, method: str, target: str, headers: Mapping[str, str]) -> PublishDialect | None:
        path, _, query = target.partition("?")
        route = _ROUTE.fullmatch(path)
        if route is None or KEY_HEADER in headers or not self._guard.admits(headers):
            return None
        args = MultiDict(parse_qsl(query, keep_blank_values=True, errors="strict")) if query else _NO_QUERY
        head = Head(method, args, headers, self._root)
        if (topic := route["topic"]) is not None:
            return None if is_upload(head) else MessagesPublish(head, topic, self._formats, self._timeout)
        if method != "POST":
            return None
        partition = route["partition"]
        number = None if partition is None else int(partition)
        return V2Produce(head, route["v2"], number, self._formats, self._timeout)

    def _begin(
        self, publish: PublishDialect, messages: PublishRequest, held: int, done: Callable[[], None]
    ) -> "FastPathPublish | None":
        try:
            begun = self._publishing.begin(publish, messages, done)
        except Exception as error:  # Kafka may have some of it: no view may do it again
            begun = partial(_raise, error)
            done()
        if begun is None:
            self._bodies.hold(-held)
            return None
        return FastPathPublish(publish, begun, partial(self._bodies.hold, -held))


class FastPathPublish:
    """A publish on its way to Kafka, until its client has an answer. `answer` is to be called once."""

    def __init__(self, publish: PublishDialect, begun: Begun, release: Callable[[], object]) -> None:
        self.timeout = publish.timeout
        """Seconds after which the client is to be answered at the latest."""
        self._publish = publish
        self._begun = begun
        self._release = release
        self._request_id = request_id.get()

    def answer(self) -> WireAnswer:
        """What is to be said as far as is known now. Does not block, raises nothing."""
        request_id.set(self._request_id)
        try:
            answer = self._begun()
        except KafkaHttpError as error:
            answer = self._publish.refusal(error)
        except Exception:
            log.exception("unforeseen error: a publish to %s", self._publish.topic)
            answer = self._publish.refusal(unforeseen())
        finally:
            self._release()
        return _on_the_wire(answer)


def _raise(error: Exception) -> RenderedResponse:
    raise error


def _on_the_wire(answer: RenderedResponse) -> WireAnswer:
    headers = [
        *answer.headers.items(),
        ("Content-Type", answer.content_type),
        ("Content-Length", str(len(answer.body))),
        *tags(),
    ]
    return STATUS_LINES[answer.status], headers, answer.body
