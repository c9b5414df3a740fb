"""The streams of this process: how many there are, and how one begins."""

import threading

from kafka_http.core.bounds import Bounds
from kafka_http.core.broker import Log
from kafka_http.core.pieces import Render
from kafka_http.core.reading import Reader
from kafka_http.core.stream import Stream
from kafka_http.core.tails import Tails
from kafka_http.errors import TooManyStreams
from kafka_http.records import LATEST, Isolation, Offsets


class Streams:
    """Opens streams. Any thread may call."""

    def __init__(self, log: Log, reader: Reader, tails: Tails, limit: int) -> None:
        """`limit`: how many there may be at a time."""
        self.limit = limit
        self._log = log
        self._reader = reader
        self._tails = tails
        self._lock = threading.Lock()
        self._open = 0

    def open(
        self,
        topic: str,
        positions: Offsets,
        render: Render,
        bounds: Bounds,
        *,
        isolation: Isolation = "read_uncommitted",
    ) -> Stream:
        """A stream from these positions on, which are read once, so that it is known what is wrong with them.

        Raises `TooManyStreams`, and what `Reader.read` does. Whoever has it calls its `close`.
        """
        with self._lock:
            if self._open >= self.limit:
                raise TooManyStreams(self.limit)
            self._open += 1
        stream = Stream(
            self._reader,
            self._tails,
            topic,
            positions,
            render=render,
            bounds=bounds,
            isolation=isolation,
            closed=self._closed,
        )
        try:
            ends = self._log.offsets(topic, dict.fromkeys(positions, LATEST), isolation) if bounds.until_end else None
            stream.begin(ends)
        except BaseException:
            stream.close()
            raise
        return stream

    def _closed(self) -> None:
        with self._lock:
            self._open -= 1
