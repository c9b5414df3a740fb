"""Streams of the /messages dialect: a topic followed over one connection."""

from collections.abc import Callable, Mapping

from flask import Response, request

from kafka_http.config import Config
from kafka_http.errors import InvalidRequest, Unavailable
from kafka_http.read.start_positions import FromOffset, FromTimestamp
from kafka_http.read.topic_stream import StreamLimits, StreamRequest, TopicStream
from kafka_http.records import EARLIEST
from kafka_http.web.messages.position_syntax import parse_start
from kafka_http.web.messages.read_parameters import (
    SELECTION,
    ReadParameters,
    acks_previous,
    select,
    wanted_formats,
    wanted_isolation,
)
from kafka_http.web.messages.stream_body import StreamBody, StreamResponseBody
from kafka_http.web.messages.stream_encoders import END, EventEncoder, LineEncoder, StreamEncoder
from kafka_http.web.negotiation import EVENTS, NDJSON
from kafka_http.web.query_parameters import MAX_INT64, QueryParameters
from kafka_http.web.services import Services
from kafka_http.web.wait_limiter import WaitLimiter

STREAMS: Mapping[str, type[EventEncoder] | type[LineEncoder]] = {EVENTS: EventEncoder, NDJSON: LineEncoder}
HAND_OVER = "kafka_http.hand_over"
"""In the environ, where the server can send a stream without a thread: takes a `StreamBody`, and does not return."""

_FROM_START = FromTimestamp(EARLIEST)
_PARAMETERS = (*SELECTION, "until")


class MessageStreams:
    """Opens streams."""

    def __init__(self, core: Services, config: Config, waits: WaitLimiter) -> None:
        self._core = core
        self._keepalive = config.stream_keepalive
        self._waits = waits

    def open(self, topic: str, consumer: str, offset: str, media_type: str) -> Response:
        """The answer whose body is the stream; 204 for who comes back after its end. What is wrong with the request is
        raised here, before anything is sent."""
        core, query, last_id = self._core, QueryParameters(request.args, _PARAMETERS), _last_event_id()
        wanted = wanted_formats(core.formats, topic, query)
        isolation, bounds = wanted_isolation(query), _bounds(query)
        selection = select(consumer, offset, query)
        if last_id:
            selection = _resumed(last_id, selection)
        frames = STREAMS[media_type](core.formats, topic, wanted, selection.has_all)
        topic_id = core.topics.id(topic)  # before the positions, which are then this topic's or a later one's
        positions = core.resolver.resolve(topic, consumer, selection.start, selection.wanted, isolation)
        skips = selection.reset is not None or (frames.reports_gaps and bool(last_id))
        if selection.is_committed:
            positions = core.resolver.reset(topic, positions, selection.reset or EARLIEST)
        elif acks_previous(query):
            core.consumers.ack_before(topic, consumer, positions, skip=skips)
        if last_id.endswith(END):
            return Response(status=204)
        wanted_stream = StreamRequest(
            topic,
            topic_id,
            positions,
            bounds,
            isolation,
            has_all=selection.has_all,
            reset=selection.reset,
            reports_gaps=frames.reports_gaps,
            is_resumed=bool(last_id),
        )
        stream = core.streams.open(wanted_stream, frames)
        try:
            return self._answer(stream, frames, media_type)
        except BaseException:
            stream.close()
            raise

    def _answer(self, stream: TopicStream, frames: StreamEncoder, media_type: str) -> Response:
        if stream.is_empty and _last_event_id():
            stream.close()
            return Response(status=204)
        hand_over = request.environ.get(HAND_OVER)
        # In a thread it is the second write that fails when the client is gone.
        keepalive = self._keepalive if hand_over is not None else self._keepalive / 2
        feed = StreamBody(self._core.followers, stream, frames, keepalive)
        body = StreamResponseBody(feed, hand_over, None if hand_over is not None or stream.is_ending else self._place())
        response = Response(body, content_type=media_type, direct_passthrough=True)
        response.headers["X-Accel-Buffering"] = "no"  # nginx: pass on what comes as it comes
        return response

    def _place(self) -> Callable[[], None]:
        """A place among those that may hold a thread. Raises `Unavailable`."""
        place = self._waits.hold()
        if place is None:
            raise Unavailable(
                "Streams and requests that wait hold as many of this server's threads as they may: half of its setting "
                "threads."
            )
        return place


def _bounds(query: QueryParameters) -> StreamLimits:
    limit = query.integer("limit", 0, 1, MAX_INT64)
    max_bytes = query.integer("max_bytes", 0, 1, MAX_INT64)
    return StreamLimits(limit or None, max_bytes or None, query.choice("until", ("end", ""), "") == "end")


def _last_event_id() -> str:
    return request.headers.get("Last-Event-ID", "")


def _resumed(last_id: str, selection: ReadParameters) -> ReadParameters:
    """Where a client goes on that has been here."""
    start = parse_start(last_id.removesuffix(END))
    is_ours = all(isinstance(each, FromOffset) or each == _FROM_START for each in start.partitions.values())
    if ":" not in last_id or not is_ours or start.rest not in (None, _FROM_START):
        raise InvalidRequest(
            f"Last-Event-ID: expected an id of this stream, such as 0:42,3:17, got {last_id[:100]!r}.",
            field="Last-Event-ID",
        )
    return ReadParameters(start, None, selection.reset)
