"""Streams of the /messages dialect: a topic followed over one connection."""

from collections.abc import Callable, Mapping

from flask import Response, request

from kafka_http.config import Config
from kafka_http.core import Core
from kafka_http.core.bounds import Bounds
from kafka_http.core.positions import At, Offset
from kafka_http.core.stream import Stream, StreamRequest
from kafka_http.errors import InvalidRequest, Unavailable
from kafka_http.records import EARLIEST
from kafka_http.web.feeds import Body, Feed
from kafka_http.web.frames import END, EventFrames, Frames, LineFrames
from kafka_http.web.negotiation import EVENTS, NDJSON
from kafka_http.web.positions import parse_start
from kafka_http.web.query import MAX_INT64, Query
from kafka_http.web.selection import SELECTION, Selection, acks_previous, select, wanted_formats, wanted_isolation
from kafka_http.web.waits import Waits

STREAMS: Mapping[str, type[EventFrames] | type[LineFrames]] = {EVENTS: EventFrames, NDJSON: LineFrames}
HAND_OVER = "kafka_http.hand_over"
"""In the environ, where the server can send a stream without a thread: takes a `Feed`, and does not return."""

_FROM_START = At(EARLIEST)
_PARAMETERS = (*SELECTION, "until")


class MessageStreams:
    """Opens streams."""

    def __init__(self, core: Core, config: Config, waits: Waits) -> None:
        self._core = core
        self._keepalive = config.stream_keepalive
        self._waits = waits

    def open(self, topic: str, consumer: str, offset: str, media_type: str) -> Response:
        """The answer whose body is the stream; 204 for who comes back after its end. What is wrong with the request is
        raised here, before anything is sent."""
        core, query, last_id = self._core, Query(request.args, _PARAMETERS), _last_event_id()
        wanted = wanted_formats(core.formats, topic, query)
        isolation, bounds = wanted_isolation(query), _bounds(query)
        selection = select(consumer, offset, query)
        if last_id:
            selection = _resumed(last_id, selection)
        frames = STREAMS[media_type](core.formats, topic, wanted, selection.has_all)
        topic_id = core.topics.id(topic)  # before the positions, which are then this topic's or a later one's
        positions = core.resolver.resolve(topic, consumer, selection.start, selection.wanted, isolation)
        skips = selection.reset is not None or (frames.tells_gaps and bool(last_id))
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
            tells_gaps=frames.tells_gaps,
            is_resumed=bool(last_id),
        )
        stream = core.streams.open(wanted_stream, frames)
        try:
            return self._answer(stream, frames, media_type)
        except BaseException:
            stream.close()
            raise

    def _answer(self, stream: Stream, frames: Frames, media_type: str) -> Response:
        if stream.is_empty and _last_event_id():
            stream.close()
            return Response(status=204)
        hand_over = request.environ.get(HAND_OVER)
        # In a thread it is the second write that fails when the client is gone.
        keepalive = self._keepalive if hand_over is not None else self._keepalive / 2
        feed = Feed(self._core.tails, stream, frames, keepalive)
        body = Body(feed, hand_over, None if hand_over is not None or stream.is_ending else self._place())
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


def _bounds(query: Query) -> Bounds:
    limit = query.integer("limit", 0, 1, MAX_INT64)
    max_bytes = query.integer("max_bytes", 0, 1, MAX_INT64)
    return Bounds(limit or None, max_bytes or None, query.choice("until", ("end", ""), "") == "end")


def _last_event_id() -> str:
    return request.headers.get("Last-Event-ID", "")


def _resumed(last_id: str, selection: Selection) -> Selection:
    """Where a client goes on that has been here."""
    start = parse_start(last_id.removesuffix(END))
    is_ours = all(isinstance(each, Offset) or each == _FROM_START for each in start.partitions.values())
    if ":" not in last_id or not is_ours or start.rest not in (None, _FROM_START):
        raise InvalidRequest(
            f"Last-Event-ID: expected an id of this stream, such as 0:42,3:17, got {last_id[:100]!r}.",
            field="Last-Event-ID",
        )
    return Selection(start, None, selection.reset)
