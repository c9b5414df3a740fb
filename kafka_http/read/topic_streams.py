"""The streams of this process: how many there are, and how one begins."""

import threading

from kafka_http.broker_protocols import Log
from kafka_http.errors import TooManyStreams
from kafka_http.read.page_reader import PageReader
from kafka_http.read.stream_events import RenderBatch
from kafka_http.read.topic_follower import TopicFollowers
from kafka_http.read.topic_stream import StreamRequest, TopicStream
from kafka_http.records import LATEST


class TopicStreams:
    """Opens streams. Any thread may call."""

    def __init__(self, log: Log, reader: PageReader, tails: TopicFollowers, limit: int) -> None:
        """`limit`: how many there may be at a time."""
        self.limit = limit
        self._log = log
        self._reader = reader
        self._tails = tails
        self._lock = threading.Lock()
        self._open = 0

    def open(self, request: StreamRequest, render: RenderBatch) -> TopicStream:
        """A stream, whose positions are read once, so that it is known what is wrong with them.

        Raises `TooManyStreams`, and what `PageReader.read` does. Whoever has it calls its `close`.
        """
        with self._lock:
            if self._open >= self.limit:
                raise TooManyStreams(self.limit)
            self._open += 1
        stream = TopicStream(self._reader, self._tails, request, render, self._closed)
        try:
            latest = dict.fromkeys(request.positions, LATEST)
            ends = self._log.offsets(request.topic, latest, request.isolation) if request.bounds.until_end else None
            stream.begin(ends)
        except BaseException:
            stream.close()
            raise
        return stream

    def _closed(self) -> None:
        with self._lock:
            self._open -= 1
