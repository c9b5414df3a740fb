"""Streams of the /messages dialect: a topic followed over one connection."""

from collections.abc import Callable, Mapping

from flask import Response, request

from kafka_http.config import Config
from kafka_http.core import Core
from kafka_http.core.bounds import Bounds
from kafka_http.core.positions import Committed, Offset, Start
from kafka_http.core.stream import Stream
from kafka_http.errors import InvalidRequest, Unavailable
from kafka_http.web.feeds import Body, Feed
from kafka_http.web.frames import END, EventFrames, Frames, LineFrames
from kafka_http.web.negotiation import EVENTS, NDJSON
from kafka_http.web.positions import parse_start
from kafka_http.web.query import MAX_INT64, Query
from kafka_http.web.selection import SELECTION, acks_previous, start_of, wanted_formats, wanted_isolation
from kafka_http.web.waits import Waits

STREAMS: Mapping[str, type[EventFrames] | type[LineFrames]] = {EVENTS: EventFrames, NDJSON: LineFrames}
HAND_OVER = "kafka_http.hand_over"
"""In the environ, where the server can send a stream without a thread: takes a `Feed`, and does not return."""

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
        query = Query(request.args, _PARAMETERS)
        frames = STREAMS[media_type](self._core.formats, topic, wanted_formats(self._core.formats, topic, query))
        isolation, bounds = wanted_isolation(query), _bounds(query)
        start, wanted, ended = _resumed(*start_of(consumer, offset, query))
        positions = self._core.resolver.resolve(topic, consumer, start, wanted, isolation)
        if isinstance(start.rest, Committed):
            positions = self._core.resolver.reset(topic, positions, start.rest.reset)
        elif acks_previous(query):
            self._core.consumers.ack_before(topic, consumer, positions)
        if ended:
            return Response(status=204)
        stream = self._core.streams.open(topic, positions, frames, bounds, isolation=isolation)
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


def _resumed(start: Start, wanted: frozenset[int] | None) -> tuple[Start, frozenset[int] | None, bool]:
    """Where a client goes on that has been here, else where it starts; and whether it has come to the end already."""
    last = _last_event_id()
    if not last:
        return start, wanted, False
    start = parse_start(last.removesuffix(END))
    if start.rest is not None or not all(isinstance(each, Offset) for each in start.partitions.values()):
        raise InvalidRequest(
            f"Last-Event-ID: expected an id of this stream, such as 0:42,3:17, got {last[:100]!r}.",
            field="Last-Event-ID",
        )
    return start, None, last.endswith(END)
