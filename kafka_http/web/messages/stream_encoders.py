"""What goes over the line of a stream: server-sent events, or lines of JSON."""

import random
from typing import ClassVar, Protocol

import msgspec
from msgspec import Struct

from kafka_http.errors import KafkaHttpError, TopicNotFound, Unavailable
from kafka_http.read.stream_batch import StreamBatch
from kafka_http.records import EARLIEST, PartitionOffsets, Record
from kafka_http.schemas.formats import Formats
from kafka_http.schemas.topic_formats import TopicFormat
from kafka_http.web.messages.page_rendering import render_record
from kafka_http.web.messages.position_syntax import ALL, position_text

END = ";end"
"""Behind a position in the last `id:` of a stream that has come to its end: nothing follows, whoever asks again."""

_COME_BACK_MS = (500, 2500)
"""Clients of a server that stops come back one by one."""
_STOPPING = "The server stops. Go on from next in a moment."


class StreamEncoder(Protocol):
    """A form of streams. Hashable: those that are equal give the same."""

    reports_gaps: ClassVar[bool]
    """Whether it can say which offsets are not there any more."""

    def __call__(self, piece: StreamBatch) -> bytes:
        """The records of a piece."""

    def first(self, position: PartitionOffsets) -> bytes:
        """What goes before all else."""

    def idle(self, position: PartitionOffsets) -> bytes:
        """A sign of life."""

    def end(self, position: PartitionOffsets) -> bytes:
        """The stream has come to the end that was asked for."""

    def error(self, error: KafkaHttpError, position: PartitionOffsets) -> bytes:
        """It ends for another reason."""

    def farewell(self, position: PartitionOffsets) -> bytes:
        """The server stops."""


class EventEncoder(Struct, frozen=True):
    """Server-sent events (HTML, 9.2). One that has an `id:` alone is not dispatched, but its id is taken."""

    reports_gaps: ClassVar[bool] = True
    formats: Formats
    topic: str
    wanted: TopicFormat
    has_all: bool = False
    """Whether it has all partitions, those that the topic gets later as well."""

    def __call__(self, piece: StreamBatch) -> bytes:
        places: dict[int | str, str] = {each: f"{each}:{offset}" for each, offset in sorted(piece.start.items())}
        if self.has_all:
            places["*"] = ALL
        at = self._position(piece.start)
        frames = [b"id: %b\nevent: gap\ndata: %b\n\n" % (at, msgspec.json.encode(gap)) for gap in piece.gaps]
        for record in piece.records:
            places[record.partition] = f"{record.partition}:{record.offset + 1}"
            line = _line(self.formats, self.topic, self.wanted, record)
            frames.append(b"id: %b\ndata: %b\n\n" % (",".join(places.values()).encode(), line))
        return b"".join(frames)

    def first(self, position: PartitionOffsets) -> bytes:
        return b"id: %b\n\n" % self._position(position)

    def idle(self, position: PartitionOffsets) -> bytes:
        return self.first(position)

    def end(self, position: PartitionOffsets) -> bytes:
        at = self._position(position)
        return b'id: %b\nevent: end\ndata: {"next":"%b"}\n\n' % (at + END.encode(), at)

    def error(self, error: KafkaHttpError, position: PartitionOffsets) -> bytes:
        at = _resumes_at(error, position, has_all=self.has_all)
        return b"id: %b\nevent: error\ndata: %b\n\n" % (at.encode(), _error(error, at))

    def farewell(self, position: PartitionOffsets) -> bytes:
        return b"retry: %d\nid: %b\n\n" % (random.randint(*_COME_BACK_MS), self._position(position))  # noqa: S311  no secret

    def _position(self, position: PartitionOffsets) -> bytes:
        return position_text(position, has_all=self.has_all).encode()


class LineEncoder(Struct, frozen=True):
    """A record a line, nothing else as long as all goes well: what comes is good to be published again."""

    reports_gaps: ClassVar[bool] = False
    formats: Formats
    topic: str
    wanted: TopicFormat
    has_all: bool = False

    def __call__(self, piece: StreamBatch) -> bytes:
        lines = [_line(self.formats, self.topic, self.wanted, record) for record in piece.records]
        return b"\n".join([*lines, b""])

    def first(self, position: PartitionOffsets) -> bytes:
        return b""

    def idle(self, position: PartitionOffsets) -> bytes:
        return b"\n"

    def end(self, position: PartitionOffsets) -> bytes:
        return b""

    def error(self, error: KafkaHttpError, position: PartitionOffsets) -> bytes:
        return _error(error, _resumes_at(error, position, has_all=self.has_all)) + b"\n"

    def farewell(self, position: PartitionOffsets) -> bytes:
        return self.error(Unavailable(_STOPPING), position)


def _line(formats: Formats, topic: str, wanted: TopicFormat, record: Record) -> bytes:
    """A record's JSON on one line: JSON has line ends between its tokens alone."""
    return render_record(formats, topic, wanted, record).replace(b"\n", b" ").replace(b"\r", b" ")


def _resumes_at(error: KafkaHttpError, position: PartitionOffsets, *, has_all: bool) -> str:
    """Where to go on after an error. Offsets of a topic that is gone are none of a later one of its name."""
    if not isinstance(error, TopicNotFound):
        return position_text(position, has_all=has_all)
    return ALL if has_all else ",".join(f"{partition}:{EARLIEST}" for partition in sorted(position))


def _error(error: KafkaHttpError, position: str) -> bytes:
    return msgspec.json.encode({"error": error.as_object(), "next": position})
