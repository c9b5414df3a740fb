"""A request's body as it arrives: what is there is read, and no more is waited for.

A WSGI server's `read(n)` and `readline()` wait for more than what would do: gunicorn's for 1,024 bytes of a chunked
body. So this takes gunicorn's connection over; under another server it is `read1`, or else 1,024 bytes are waited for.
"""

import select
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Protocol

from kafka_http.chunked import Chunks
from kafka_http.errors import InvalidRequest, TooLarge
from kafka_http.web.messages.message_bodies import lines_of

PIECE = 1 << 17
_LITTLE = 1024


class Source(Protocol):
    """Where a body comes from."""

    @property
    def has_ended(self) -> bool: ...

    def wait(self, seconds: float) -> bool:
        """Whether something is there to be read; returns once it is, after so many seconds at the latest."""

    def can_answer(self) -> bool:
        """Whether a little can be sent without waiting for the client to read."""

    def read(self) -> bytes:
        """What is there. Perhaps nothing, though the body has not ended. Raises where it breaks off."""


def source_of(environ: Mapping[str, Any], length: int | None) -> Source:
    """The body of a request; `length` as its Content-Length says."""
    stream, client = environ["wsgi.input"], environ.get("gunicorn.socket")
    reader = getattr(stream, "reader", None)
    if isinstance(client, socket.socket) and reader is not None:
        if hasattr(reader, "length"):
            return _Measured(client, reader)
        if hasattr(reader, "parser") and hasattr(reader, "req"):
            return _Chunked(client, stream)
    return _Whatever(stream, length)


class BodyReader:
    """The lines of a body as they arrive."""

    def __init__(self, source: Source, limit: int, hold: Callable[[int], None]) -> None:
        """`limit`: bytes of a line. `hold` is called with the bytes of a line that has not ended yet, and may raise."""
        self._source = source
        self._limit = limit
        self._hold = hold
        self._begun = bytearray()
        self._number = 1

    @property
    def has_ended(self) -> bool:
        """Whether all lines have been given out."""
        return self._source.has_ended and not self._begun

    def wait(self, seconds: float) -> bool:
        return self._source.has_ended or self._source.wait(seconds)

    def can_answer(self) -> bool:
        return self._source.can_answer()

    def lines(self) -> list[tuple[int, bytes]]:
        """The lines that are complete by now, each with its number; empty ones are left out.

        Raises `InvalidRequest` where the body breaks off, `TooLarge` for a line over the limit.
        """
        searched = len(self._begun)
        self._begun += self.some()
        ended = self._begun.rfind(b"\n", searched) + 1
        if self._source.has_ended:
            ended = len(self._begun)
        text = bytes(self._begun[:ended])
        del self._begun[:ended]
        lines = list(lines_of(text, self._number))
        self._check(lines)
        self._number += text.count(b"\n")
        return lines

    def _check(self, lines: list[tuple[int, bytes]]) -> None:
        begun = len(self._begun)
        longest = max([begun, *(len(line) for _, line in lines)])
        if longest > self._limit:
            raise TooLarge(f"A line is over max_body_bytes, {self._limit} bytes.", limit=self._limit)
        self._hold(begun)

    def read(self, size: int = PIECE) -> bytes:
        """As any file's, for who wants the rest of the body; whatever `size` says."""
        while not (piece := self.some()) and not self._source.has_ended:
            pass
        return piece

    def some(self) -> bytes:
        """What is there of the body. Perhaps nothing, though it has not ended. Raises `InvalidRequest`."""
        try:
            return self._source.read()
        except InvalidRequest:
            raise
        except Exception as error:  # each WSGI server has its own for a body that breaks off
            raise _broken_off() from error


class _Polled:
    """A socket, and what was read from it already."""

    def __init__(self, client: socket.socket, unreader: Any) -> None:
        self._client = client
        self._unreader = unreader
        self._poll = select.poll()
        self._poll.register(client, select.POLLIN)
        self._poll_out = select.poll()
        self._poll_out.register(client, select.POLLOUT)
        _notice_death(client)

    def wait(self, seconds: float) -> bool:
        pending = getattr(self._client, "pending", None)  # TLS: decrypted, and no longer in the socket
        if self._unreader.buf.tell() or (pending is not None and pending()):
            return True
        return bool(self._poll.poll(seconds * 1000))

    def can_answer(self) -> bool:
        return bool(self._poll_out.poll(0))


class _Measured(_Polled):
    """A body with a Content-Length."""

    def __init__(self, client: socket.socket, reader: Any) -> None:
        super().__init__(client, reader.unreader)
        self._reader = reader
        self.has_ended = not reader.length

    def read(self) -> bytes:
        first: bytes = self._reader.read(1)
        if not first and not self.has_ended:
            raise _broken_off()
        piece: bytes = first + self._reader.read(min(PIECE, self._unreader.buf.tell()))
        self.has_ended = not self._reader.length
        return piece


class _Chunked(_Polled):
    """A chunked body. The connection is closed after it."""

    def __init__(self, client: socket.socket, stream: Any) -> None:
        super().__init__(client, stream.reader.req.unreader)
        stream.failed = True  # gunicorn does not know any more where the body ends
        stream.reader.req.force_close()
        self._chunks = Chunks()

    @property
    def has_ended(self) -> bool:
        return self._chunks.has_ended

    def wait(self, seconds: float) -> bool:
        return self._chunks.fault is not None or super().wait(seconds)

    def read(self) -> bytes:
        if self.has_ended:
            return b""
        if self._chunks.fault is not None:
            raise self._chunks.fault
        if not (received := self._unreader.read(None, read_ahead=PIECE)):
            raise _broken_off()
        return self._chunks.feed(received)


class _Whatever:
    """A body under a server that tells nothing of what has come: to read is to wait."""

    def __init__(self, stream: Any, length: int | None) -> None:
        self.has_ended = length == 0
        read1 = getattr(stream, "read1", None)
        self._read, self._most = (stream.read, _LITTLE) if read1 is None else (read1, PIECE)
        self._left = length

    def wait(self, seconds: float) -> bool:
        return True

    def can_answer(self) -> bool:
        return True

    def read(self) -> bytes:
        size = self._most if self._left is None else min(self._most, self._left)
        piece: bytes = self._read(size) if size else b""
        if self._left is not None:
            self._left -= len(piece)
        if not piece and self._left:
            raise _broken_off()
        self.has_ended = not piece or self._left == 0
        return piece


def _broken_off() -> InvalidRequest:
    return InvalidRequest(
        "The body breaks off: it is shorter than its Content-Length says, or its chunks are malformed. "
        "Lines that were complete by then are published."
    )


def _notice_death(client: socket.socket) -> None:
    """Let a wait for a client that has vanished without a word end, in two minutes."""
    with suppress(OSError, AttributeError):  # no TCP
        client.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in ((socket.TCP_KEEPIDLE, 60), (socket.TCP_KEEPINTVL, 15), (socket.TCP_KEEPCNT, 4)):
            client.setsockopt(socket.IPPROTO_TCP, option, value)
