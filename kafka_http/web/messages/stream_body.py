"""A stream on its way to a client: what is to be sent, whoever sends it."""

import logging
import time
from collections.abc import Callable, Iterator

from kafka_http.errors import KafkaHttpError
from kafka_http.read.topic_follower import TopicFollowers
from kafka_http.read.topic_stream import TopicStream
from kafka_http.web.messages.stream_encoders import StreamEncoder
from kafka_http.web.rendered_responses import unforeseen

log = logging.getLogger(__name__)

_SLICE = 1.0


class StreamBody:
    """The bytes of a stream, one after the other. One thread at a time may call.

    A worker's main loop may be given it as a `kafka_http.server.stream_sender.StreamSource`.
    """

    __slots__ = ("_followers", "_frames", "_said_at", "_stream", "is_over", "keepalive")

    def __init__(self, followers: TopicFollowers, stream: TopicStream, frames: StreamEncoder, keepalive: float) -> None:
        """`keepalive`: after so many seconds of silence comes a sign of life."""
        self.keepalive = keepalive
        self.is_over = False
        """Whether all has been had."""
        self._followers = followers
        self._stream = stream
        self._frames = frames
        self._said_at = 0.0

    @property
    def is_following(self) -> bool:
        """Whether `next(0)` does not block."""
        return self._stream.is_following

    @property
    def due(self) -> float:
        """When there is something to send though nothing happens, on the monotonic clock."""
        return self._said_at + self.keepalive

    def first(self) -> bytes:
        """What comes first: something always, so that the client sees that it is connected."""
        opening = self._frames.first(self._stream.position) + self._next(0)
        self._said_at = time.monotonic()
        return opening or self._frames.idle(self._stream.position)

    def next(self, wait: float) -> bytes:
        """What is to be sent next: nothing where after `wait` seconds there is nothing yet."""
        data = self._next(min(wait, max(0.0, self.due - time.monotonic())))
        if not data and not self.is_over and time.monotonic() >= self.due:
            data = self._frames.idle(self._stream.position)
        if data:
            self._said_at = time.monotonic()
        return data

    def watch(self, moved: Callable[[], None]) -> None:
        """Call this, by any thread, when `next` may have something. It must not block."""
        self._followers.watch(moved)

    def close(self) -> None:
        """The client has all, or is gone."""
        self._stream.close()

    def _next(self, wait: float) -> bytes:
        stream = self._stream
        try:
            data = stream.next(wait)
            if stream.is_over:
                self.is_over = True
                return data + self._frames.end(stream.position)
            if stream.is_stopping:
                self.is_over = True
                return data + self._frames.farewell(stream.position)
        except KafkaHttpError as error:
            self.is_over = True
            return self._frames.error(error, stream.position)
        except Exception:
            log.exception("A stream ends of an unforeseen error")
            self.is_over = True
            return self._frames.error(unforeseen(), stream.position)
        return data


class StreamResponseBody:
    """The body of a stream as WSGI has it: in its thread, but for a server that needs none."""

    def __init__(
        self, feed: StreamBody, hand_over: Callable[[StreamBody], None] | None, release: Callable[[], None] | None
    ) -> None:
        """`hand_over` does not return. `release` is called at the end."""
        self._feed = feed
        self._hand_over = hand_over
        self._release = release
        self._is_mine = True

    def __iter__(self) -> Iterator[bytes]:
        yield self._feed.first()
        if self._hand_over is not None and not self._feed.is_over:
            self._is_mine = False
            self._hand_over(self._feed)
        while not self._feed.is_over:
            yield self._feed.next(_SLICE)

    def close(self) -> None:
        """Called by the server at the end, however it comes."""
        if self._release is not None:
            self._release()
            self._release = None
        if self._is_mine:
            self._feed.close()
