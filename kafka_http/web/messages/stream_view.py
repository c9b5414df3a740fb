"""Streams of the /messages dialect: a GET that follows a topic over one connection."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial

from flask import Response, request

from kafka_http.config import Config
from kafka_http.environ import DETACH_STREAM
from kafka_http.errors import InvalidRequest, Unavailable
from kafka_http.read.record_filter import RecordFilter
from kafka_http.read.start_positions import FromOffset, FromOffsetSpec
from kafka_http.read.topic_stream import StreamLimits, StreamRequest, TopicStream
from kafka_http.records import EARLIEST
from kafka_http.schemas.topic_formats import TopicFormat
from kafka_http.security.check_point import CheckPoint
from kafka_http.security.stream_access import StreamAccess
from kafka_http.web.access_check import request_access
from kafka_http.web.messages.page_rendering import shown_texts
from kafka_http.web.messages.position_syntax import parse_start
from kafka_http.web.messages.read_parameters import (
    SHARED_PARAMETERS,
    ReadParameters,
    acks_previous,
    requested_formats,
    requested_isolation,
)
from kafka_http.web.messages.stream_body import (
    END,
    EventEncoder,
    LineEncoder,
    StreamBody,
    StreamEncoder,
    StreamResponseBody,
)
from kafka_http.web.negotiation import EVENTS, NDJSON
from kafka_http.web.query_parameters import MAX_INT64, QueryParameters
from kafka_http.web.services import Services
from kafka_http.web.wait_limiter import WaitLimiter

STREAM_TYPES: Mapping[str, type[StreamEncoder]] = {EVENTS: EventEncoder, NDJSON: LineEncoder}

_FROM_START = FromOffsetSpec(EARLIEST)
SEARCH_PARAMETERS = frozenset(("contains", "key"))
_PARAMETERS = (*SHARED_PARAMETERS, "until", *sorted(SEARCH_PARAMETERS))
_MAX_SEARCH_CHARACTERS = 1000


class MessageStreams:
    """Opens streams. An application has one. Any thread may call it."""

    def __init__(self, services: Services, config: Config, wait_limiter: WaitLimiter, check_point: CheckPoint) -> None:
        self._services = services
        self._check_point = check_point
        self._keepalive = config.stream_keepalive
        self._wait_limiter = wait_limiter

    def open(self, topic: str, consumer: str, offset: str, media_type: str) -> Response:
        """Return the response whose body is the stream; 204 if the client reconnects after the stream's end.

        Raises errors of the request before anything is sent.
        """
        with ExitStack() as held:
            held.callback(request_access().limits.acquire_stream())
            return self._open(topic, consumer, offset, media_type, held)

    def _open(self, topic: str, consumer: str, offset: str, media_type: str, held: ExitStack) -> Response:
        """Open a stream. What is `held` is released at its end."""
        query, last_id = QueryParameters(request.args, _PARAMETERS), _last_event_id()
        decode_as = requested_formats(self._services.formats, topic, query)
        isolation, limits = requested_isolation(query), _stream_limits(query)
        parameters = ReadParameters.from_request(consumer, offset, query)
        if last_id:
            parameters = _resume(last_id, parameters)
        encoder = STREAM_TYPES[media_type](self._services.formats, topic, decode_as, parameters.has_all)
        # Before the positions, so that these belong to this topic or to a later one of its name.
        topic_id = self._services.topics.id(topic)
        positions = self._services.resolver.resolve(topic, consumer, parameters.start, parameters.partitions, isolation)
        if parameters.is_committed:
            positions = self._services.resolver.reset(topic, positions, parameters.reset or EARLIEST)
        elif acks_previous(query):
            skips = parameters.reset is not None or (encoder.reports_gaps and bool(last_id))
            self._services.consumers.ack_before(topic, consumer, positions, skip=skips)
        if last_id.endswith(END):
            return Response(status=204)
        stream_request = StreamRequest(
            *(topic, topic_id, positions, limits, isolation),
            has_all=parameters.has_all,
            reset=parameters.reset,
            reports_gaps=encoder.reports_gaps,
            is_resumed=bool(last_id),
            filter=self._record_filter(topic, decode_as, query),
        )
        stream = self._services.streams.open(stream_request, encoder)
        try:
            return self._response(topic, stream, encoder, media_type, held)
        except BaseException:
            stream.close()
            raise

    def _response(
        self, topic: str, stream: TopicStream, encoder: StreamEncoder, media_type: str, held: ExitStack
    ) -> Response:
        if stream.is_empty and _last_event_id():
            stream.close()
            return Response(status=204)
        detach = request.environ.get(DETACH_STREAM)
        # A thread notices only at its second write that the client is gone.
        keepalive = self._keepalive if detach is not None else self._keepalive / 2
        release = None if detach is not None or stream.is_ending else self._acquire_thread()
        access = StreamAccess(self._check_point, request_access(), "read", topic)
        body = StreamBody(
            *(self._services.followers, stream, encoder, keepalive), access=access, on_close=held.pop_all().close
        )
        response = Response(StreamResponseBody(body, detach, release), content_type=media_type)
        response.direct_passthrough = True
        response.headers["X-Accel-Buffering"] = "no"  # nginx sends each event at once
        return response

    def _record_filter(self, topic: str, decode_as: TopicFormat, query: QueryParameters) -> RecordFilter | None:
        """Return the filter of a search, or None if the stream is none. Raises `InvalidRequest`."""
        contains, key = (_search_text(query, name) for name in ("contains", "key"))
        if contains is None and key is None:
            return None
        if query.text("until") != "end":
            raise InvalidRequest("contains and key need until=end: a search ends at the end of the log.", field="until")
        shown = partial(shown_texts, self._services.formats, topic, decode_as) if any(decode_as) else None
        return RecordFilter(contains, key, shown)

    def _acquire_thread(self) -> Callable[[], None]:
        """Acquire the right to keep this thread. Return the function that releases it. Raises `Unavailable`."""
        release = self._wait_limiter.try_acquire()
        if release is None:
            raise Unavailable(
                "Too many streams and waiting requests (limit: half of the threads of each worker, setting threads)."
            )
        return release


def _stream_limits(query: QueryParameters) -> StreamLimits:
    limit = query.integer("limit", 0, 1, MAX_INT64)
    max_bytes = query.integer("max_bytes", 0, 1, MAX_INT64)
    return StreamLimits(limit or None, max_bytes or None, query.choice("until", ("end", ""), "") == "end")


def _search_text(query: QueryParameters, name: str) -> str | None:
    text = query.text(name)
    if text is not None and not (0 < len(text) <= _MAX_SEARCH_CHARACTERS):
        raise InvalidRequest(f"{name} must have 1 to {_MAX_SEARCH_CHARACTERS} characters, got {len(text)}.", field=name)
    return text


def _last_event_id() -> str:
    return request.headers.get("Last-Event-ID", "")


def _resume(last_id: str, parameters: ReadParameters) -> ReadParameters:
    """Return the parameters of a client that reconnects. Raises `InvalidRequest`."""
    start = parse_start(last_id.removesuffix(END))
    are_offsets = all(isinstance(each, FromOffset) or each == _FROM_START for each in start.partitions.values())
    if ":" not in last_id or not are_offsets or start.rest not in (None, _FROM_START):
        raise InvalidRequest(
            f"Last-Event-ID must be an id of this stream, such as 0:42,3:17, got {last_id[:100]!r}.",
            field="Last-Event-ID",
        )
    return ReadParameters(start, None, parameters.reset)
