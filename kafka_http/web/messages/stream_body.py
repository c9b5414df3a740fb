"""Streaming responses: the events or lines of a topic, and the body that sends them."""

import logging
import random
import time
from collections.abc import Callable, Iterator
from typing import ClassVar

import msgspec
from msgspec import Struct

from kafka_http.errors import KafkaHttpError, TopicNotFound, Unavailable
from kafka_http.logs import request_id
from kafka_http.read.stream_batch import StreamBatch
from kafka_http.read.topic_follower import TopicFollowers
from kafka_http.read.topic_stream import TopicStream
from kafka_http.records import EARLIEST, PartitionOffsets
from kafka_http.request_facts import RequestFacts, request_facts
from kafka_http.schemas.formats import Formats
from kafka_http.schemas.topic_formats import TopicFormat
from kafka_http.security.stream_access import StreamAccess
from kafka_http.web.messages.page_rendering import render_records
from kafka_http.web.messages.position_syntax import ALL, position_text
from kafka_http.web.responses import internal_error

log = logging.getLogger(__name__)

END = ";end"
"""Ends the last `id:` of a stream that has reached its end. A client that reconnects with it gets nothing more."""
_RECONNECT_MS = (500, 2500)
"""The range of the delay before clients reconnect to a server that stops. They should not reconnect together."""
_STOPPING_MESSAGE = "Server is stopping. Continue from next."
PROGRESS_SECONDS = 0.5
"""Time between reports of the progress of a search."""
_WAIT_SECONDS = 1.0
"""How long a thread waits for the next event before it checks the keepalive."""


class EventEncoder(Struct, frozen=True):
    """Encodes server-sent events (HTML, section 9.2). Browsers do not dispatch an event with only an `id:`.

    Equal encoders return the same bytes, so streams share the bytes of a batch.
    """

    reports_gaps: ClassVar[bool] = True
    """Whether it can report offsets that the log no longer has."""
    formats: Formats
    topic: str
    decode_as: TopicFormat
    has_all: bool = False
    """Whether the stream has all partitions, future ones too."""

    def __call__(self, batch: StreamBatch) -> bytes:
        """Encode the records of a batch."""
        offsets: dict[int | str, str] = {each: f"{each}:{offset}" for each, offset in sorted(batch.start.items())}
        if self.has_all:
            offsets["*"] = ALL
        at = self._position(batch.start)
        events = [b"id: %b\nevent: gap\ndata: %b\n\n" % (at, msgspec.json.encode(gap)) for gap in batch.gaps]
        for record, line in zip(batch.records, _lines(self, batch), strict=True):
            offsets[record.partition] = f"{record.partition}:{record.offset + 1}"
            events.append(b"id: %b\ndata: %b\n\n" % (",".join(offsets.values()).encode(), line))
        return b"".join(events)

    def first(self, position: PartitionOffsets) -> bytes:
        """Encode the start of the stream."""
        return b"id: %b\n\n" % self._position(position)

    def idle(self, position: PartitionOffsets) -> bytes:
        """Encode a keepalive."""
        return self.first(position)

    def progress(self, scanned: int, position: PartitionOffsets) -> bytes:
        """Encode the progress of a search."""
        return b'id: %b\nevent: progress\ndata: {"scanned":%d}\n\n' % (self._position(position), scanned)

    def end(self, position: PartitionOffsets) -> bytes:
        """Encode the end of a stream that has reached the requested end."""
        at = self._position(position)
        return b'id: %b\nevent: end\ndata: {"next":"%b"}\n\n' % (at + END.encode(), at)

    def error(self, error: KafkaHttpError, position: PartitionOffsets) -> bytes:
        """Encode the end of a stream by an error."""
        at = _position_after(error, position, has_all=self.has_all)
        return b"id: %b\nevent: error\ndata: %b\n\n" % (at.encode(), _error_json(error, at))

    def stopping(self, position: PartitionOffsets) -> bytes:
        """Encode the end of a stream because the server stops."""
        delay = random.randint(*_RECONNECT_MS)  # noqa: S311  not a secret
        return b"retry: %d\nid: %b\n\n" % (delay, self._position(position))

    def _position(self, position: PartitionOffsets) -> bytes:
        return position_text(position, has_all=self.has_all).encode()


class LineEncoder(Struct, frozen=True):
    """Encodes NDJSON: one record on each line. Unless an error occurs, the lines can be published again."""

    reports_gaps: ClassVar[bool] = False
    formats: Formats
    topic: str
    decode_as: TopicFormat
    has_all: bool = False

    def __call__(self, batch: StreamBatch) -> bytes:
        return b"\n".join([*_lines(self, batch), b""])

    def first(self, position: PartitionOffsets) -> bytes:
        return b""

    def idle(self, position: PartitionOffsets) -> bytes:
        return b"\n"

    def progress(self, scanned: int, position: PartitionOffsets) -> bytes:
        return b""

    def end(self, position: PartitionOffsets) -> bytes:
        return b""

    def error(self, error: KafkaHttpError, position: PartitionOffsets) -> bytes:
        return _error_json(error, _position_after(error, position, has_all=self.has_all)) + b"\n"

    def stopping(self, position: PartitionOffsets) -> bytes:
        return self.error(Unavailable(_STOPPING_MESSAGE), position)


StreamEncoder = EventEncoder | LineEncoder


def _lines(encoder: StreamEncoder, batch: StreamBatch) -> list[bytes]:
    """Return the JSON of each record on one line. Line ends occur only between the tokens of JSON."""
    texts = render_records(encoder.formats, encoder.topic, encoder.decode_as, batch.records)
    return [each.replace(b"\n", b" ").replace(b"\r", b" ") for each in texts]


def _position_after(error: KafkaHttpError, position: PartitionOffsets, *, has_all: bool) -> str:
    """Return where to continue after an error. A deleted topic's offsets are invalid in a new topic of its name."""
    if not isinstance(error, TopicNotFound):
        return position_text(position, has_all=has_all)
    return ALL if has_all else ",".join(f"{partition}:{EARLIEST}" for partition in sorted(position))


def _error_json(error: KafkaHttpError, position: str) -> bytes:
    return msgspec.json.encode({"error": error.as_object(), "next": position})


class StreamBody:
    """The bytes of one streaming response. One thread at a time may call.

    The view creates it. Our server's thread for streams takes it over as a
    `kafka_http.server.stream_sender.StreamSource`; otherwise the request's thread sends it.
    """

    __slots__ = (
        "_access",
        "_encoder",
        "_facts",
        "_followers",
        "_on_close",
        "_progress_at",
        "_request_id",
        "_sent_at",
        "_stream",
        "is_over",
        "keepalive",
    )

    def __init__(
        self,
        followers: TopicFollowers,
        stream: TopicStream,
        encoder: StreamEncoder,
        keepalive: float,
        *,
        access: StreamAccess,
        on_close: Callable[[], None],
    ) -> None:
        """Create the body in the thread of its request.

        `keepalive` is the time in seconds after which something is sent if there are no events. `on_close` is called
        at the end, perhaps twice.
        """
        self.keepalive = keepalive
        self.is_over = False
        """Whether `next` has returned all bytes."""
        self._access = access
        self._followers = followers
        self._stream = stream
        self._encoder = encoder
        self._on_close = on_close
        self._sent_at = 0.0
        self._progress_at = time.monotonic() + PROGRESS_SECONDS
        self._facts = request_facts.get() or RequestFacts()
        self._request_id = request_id.get()

    @property
    def is_following(self) -> bool:
        """Whether `next(0)` does not block."""
        return self._stream.is_following

    @property
    def due(self) -> float:
        """When `next` must be called even without events, on the monotonic clock.

        That is the time of the next keepalive, or 0 if the right to the topic must be checked.
        """
        return 0.0 if self._access.is_due else self._sent_at + self.keepalive

    def first(self) -> bytes:
        """Return the first bytes: never none, so that the client sees that it is connected."""
        opening = self._encoder.first(self._stream.position) + self._next(0)
        self._sent_at = time.monotonic()
        return opening or self._encoder.idle(self._stream.position)

    def next(self, wait: float) -> bytes:
        """Return the next bytes, or none if there are no events within `wait` seconds."""
        keepalive_at = self._sent_at + self.keepalive
        if self._stream.is_search:
            wait = min(wait, PROGRESS_SECONDS)
        data = self._next(min(wait, max(0.0, keepalive_at - time.monotonic()))) + self._progress()
        if not data and not self.is_over and time.monotonic() >= keepalive_at:
            data = self._encoder.idle(self._stream.position)
        if data:
            self._sent_at = time.monotonic()
        return data

    def _progress(self) -> bytes:
        """Return the progress of a search, if a report is due."""
        now = time.monotonic()
        if not self._stream.is_search or self.is_over or now < self._progress_at:
            return b""
        self._progress_at = now + PROGRESS_SECONDS
        return self._encoder.progress(self._stream.scanned, self._stream.position)

    def watch(self, on_data: Callable[[], None]) -> None:
        """Call `on_data` when `next` may return something. Any thread calls it, so it must not block."""
        self._followers.watch(on_data)

    def close(self) -> None:
        """End the stream. The client has received everything, or is disconnected."""
        self._stream.close()
        self._on_close()

    def _next(self, wait: float) -> bytes:
        """Return the next bytes, unless the client may no longer read the topic: then the error that ends the stream.

        Reading can take long, so the right is checked again before the data is sent.
        """
        position = self._stream.position
        try:
            self._access.check()
            data = self._read(wait) if self._stream.is_following else self._read_as_request(wait)
            if data:
                self._access.check()
        except KafkaHttpError as error:
            return self._end(error, position)
        self._facts.records = self._stream.returned
        return data

    def _read_as_request(self, wait: float) -> bytes:
        """Read from Kafka in a thread that reads for many streams, and count the time for this stream's request."""
        facts_before, id_before = request_facts.set(self._facts), request_id.set(self._request_id)
        try:
            return self._read(wait)
        finally:
            request_facts.reset(facts_before)
            request_id.reset(id_before)

    def _read(self, wait: float) -> bytes:
        stream = self._stream
        try:
            data = stream.next(wait)
        except KafkaHttpError as error:
            return self._end(error, stream.position)
        except Exception:
            log.exception("Unexpected error: stream ended")
            return self._end(internal_error(), stream.position)
        if stream.is_over:
            self.is_over = True
            if stream.is_search:
                data += self._encoder.progress(stream.scanned, stream.position)
            return data + self._encoder.end(stream.position)
        if stream.is_stopping:
            self.is_over = True
            return data + self._encoder.stopping(stream.position)
        return data

    def _end(self, error: KafkaHttpError, position: PartitionOffsets) -> bytes:
        self.is_over = True
        return self._encoder.error(error, position)


class StreamResponseBody:
    """The WSGI body of a stream. The request's thread sends it, unless the server takes the stream over."""

    def __init__(
        self, body: StreamBody, detach: Callable[[StreamBody], None] | None, release: Callable[[], None] | None
    ) -> None:
        """`detach` passes the stream to the server and does not return. `release` is called at the end."""
        self._body = body
        self._detach = detach
        self._release = release
        self._is_detached = False

    def __iter__(self) -> Iterator[bytes]:
        yield self._body.first()
        if self._detach is not None and not self._body.is_over:
            self._is_detached = True
            self._detach(self._body)
        while not self._body.is_over:
            yield self._body.next(_WAIT_SECONDS)

    def close(self) -> None:
        """Called by the server at the end of the response."""
        if self._release is not None:
            self._release()
            self._release = None
        if not self._is_detached:
            self._body.close()
