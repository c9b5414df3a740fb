"""What goes over the line of a stream: server-sent events, or lines of JSON."""

import random
from typing import Protocol

import msgspec
from msgspec import Struct

from kafka_http.core.formats import Formats
from kafka_http.core.pieces import Piece
from kafka_http.core.topic_formats import TopicFormat
from kafka_http.errors import KafkaHttpError, Unavailable
from kafka_http.records import Offsets, Record
from kafka_http.web.pages import render_record

END = ";end"
"""Behind a position in the last `id:` of a stream that has come to its end: nothing follows, whoever asks again."""

_COME_BACK_MS = (500, 2500)
"""Clients of a server that stops come back one by one."""
_STOPPING = "The server stops. Go on from next in a moment."


class Frames(Protocol):
    """A form of streams. Hashable: those that are equal give the same."""

    def __call__(self, piece: Piece) -> bytes:
        """The records of a piece."""

    def first(self, position: Offsets) -> bytes:
        """What goes before all else."""

    def idle(self, position: Offsets) -> bytes:
        """A sign of life."""

    def end(self, position: Offsets) -> bytes:
        """The stream has come to the end that was asked for."""

    def error(self, error: KafkaHttpError, position: Offsets) -> bytes:
        """It ends for another reason."""

    def farewell(self, position: Offsets) -> bytes:
        """The server stops."""


class EventFrames(Struct, frozen=True):
    """Server-sent events (HTML, 9.2). One that has an `id:` alone is not dispatched, but its id is taken."""

    formats: Formats
    topic: str
    wanted: TopicFormat

    def __call__(self, piece: Piece) -> bytes:
        places = {partition: f"{partition}:{offset}" for partition, offset in sorted(piece.start.items())}
        frames = []
        for record in piece.records:
            places[record.partition] = f"{record.partition}:{record.offset + 1}"
            line = _line(self.formats, self.topic, self.wanted, record)
            frames.append(b"id: %b\ndata: %b\n\n" % (",".join(places.values()).encode(), line))
        return b"".join(frames)

    def first(self, position: Offsets) -> bytes:
        return b"id: %b\n\n" % _position(position)

    def idle(self, position: Offsets) -> bytes:
        return self.first(position)

    def end(self, position: Offsets) -> bytes:
        at = _position(position)
        return b'id: %b\nevent: end\ndata: {"next":"%b"}\n\n' % (at + END.encode(), at)

    def error(self, error: KafkaHttpError, position: Offsets) -> bytes:
        return b"id: %b\nevent: error\ndata: %b\n\n" % (_position(position), _error(error, position))

    def farewell(self, position: Offsets) -> bytes:
        return b"retry: %d\nid: %b\n\n" % (random.randint(*_COME_BACK_MS), _position(position))  # noqa: S311  no secret


class LineFrames(Struct, frozen=True):
    """A record a line, nothing else as long as all goes well: what comes is good to be published again."""

    formats: Formats
    topic: str
    wanted: TopicFormat

    def __call__(self, piece: Piece) -> bytes:
        lines = [_line(self.formats, self.topic, self.wanted, record) for record in piece.records]
        return b"\n".join([*lines, b""])

    def first(self, position: Offsets) -> bytes:
        return b""

    def idle(self, position: Offsets) -> bytes:
        return b"\n"

    def end(self, position: Offsets) -> bytes:
        return b""

    def error(self, error: KafkaHttpError, position: Offsets) -> bytes:
        return _error(error, position) + b"\n"

    def farewell(self, position: Offsets) -> bytes:
        return self.error(Unavailable(_STOPPING), position)


def _line(formats: Formats, topic: str, wanted: TopicFormat, record: Record) -> bytes:
    """A record's JSON on one line: JSON has line ends between its tokens alone."""
    return render_record(formats, topic, wanted, record).replace(b"\n", b" ").replace(b"\r", b" ")


def _position(position: Offsets) -> bytes:
    return ",".join([f"{partition}:{offset}" for partition, offset in sorted(position.items())]).encode()


def _error(error: KafkaHttpError, position: Offsets) -> bytes:
    return msgspec.json.encode({"error": error.as_object(), "next": _position(position).decode()})
