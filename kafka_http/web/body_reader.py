"""Request bodies of streaming uploads: reading what has arrived without waiting for more.

The `read(n)` and `readline()` of a WSGI server wait for more than is needed: gunicorn's for 1,024 bytes of a chunked
body. Under gunicorn, this module therefore reads from the connection itself. Under another server it uses `read1`, or
waits for 1,024 bytes.
"""

import select
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Protocol

from kafka_http.chunked import ChunkedDecoder
from kafka_http.errors import InvalidRequest, TooLarge
from kafka_http.web.messages.message_bodies import lines_of

READ_SIZE = 1 << 17
_SMALL_READ = 1024


class BodySource(Protocol):
    """The bytes of a body."""

    @property
    def has_ended(self) -> bool: ...

    def wait(self, seconds: float) -> bool:
        """Wait until there is something to read, at most `seconds`. Return whether there is."""

    def can_send(self) -> bool:
        """Whether a small piece of the response can be sent without waiting for the client to read."""

    def read(self) -> bytes:
        """Return what has arrived, perhaps nothing. Raises if the body is incomplete or malformed."""


def body_source(environ: Mapping[str, Any], length: int | None) -> BodySource:
    """Return the source of a request's body. `length` is its Content-Length."""
    stream, client = environ["wsgi.input"], environ.get("gunicorn.socket")
    reader = getattr(stream, "reader", None)
    if isinstance(client, socket.socket) and reader is not None:
        if hasattr(reader, "length"):
            return _LengthSource(client, reader)
        if hasattr(reader, "parser") and hasattr(reader, "req"):
            return _ChunkedSource(client, stream)
    return _StreamSource(stream, length)


class BodyReader:
    """Reads the lines of a body as they arrive. The thread of the upload calls."""

    def __init__(self, source: BodySource, max_line_bytes: int, reserve: Callable[[int], None]) -> None:
        """`reserve` is called with the bytes of a line that has not ended yet. It may raise."""
        self._source = source
        self._max_line_bytes = max_line_bytes
        self._reserve = reserve
        self._partial_line = bytearray()
        self._line_number = 1

    @property
    def has_ended(self) -> bool:
        """Whether `lines` has returned all lines."""
        return self._source.has_ended and not self._partial_line

    def wait(self, seconds: float) -> bool:
        """Wait until `lines` has something to do, at most `seconds`. Return whether it has."""
        return self._source.has_ended or self._source.wait(seconds)

    def can_send(self) -> bool:
        """Whether a small piece of the response can be sent without waiting for the client to read."""
        return self._source.can_send()

    def lines(self) -> list[tuple[int, bytes]]:
        """Return the complete lines that are not empty, each after its number.

        Raises `InvalidRequest` if the body is incomplete, `TooLarge` if a line is over the limit.
        """
        searched = len(self._partial_line)
        self._partial_line += self.read_available()
        end = self._partial_line.rfind(b"\n", searched) + 1
        if self._source.has_ended:
            end = len(self._partial_line)
        text = bytes(self._partial_line[:end])
        del self._partial_line[:end]
        lines = list(lines_of(text, self._line_number))
        self._check_length(lines)
        self._line_number += text.count(b"\n")
        return lines

    def _check_length(self, lines: list[tuple[int, bytes]]) -> None:
        partial = len(self._partial_line)
        longest = max([partial, *(len(line) for _, line in lines)])
        if longest > self._max_line_bytes:
            limit = self._max_line_bytes
            raise TooLarge(f"A line is longer than max_body_bytes, {limit} bytes.", limit=limit)
        self._reserve(partial)

    def read(self, size: int = READ_SIZE) -> bytes:
        """Wait for some bytes and return them. `size` has no effect. `drain_body` needs it in a `wsgi.input`."""
        while not (piece := self.read_available()) and not self._source.has_ended:
            pass
        return piece

    def read_available(self) -> bytes:
        """Return what has arrived, perhaps nothing. Raises `InvalidRequest`."""
        try:
            return self._source.read()
        except InvalidRequest:
            raise
        except Exception as error:  # each WSGI server has its own exceptions for an incomplete body
            raise _incomplete_body() from error


class LimitedSource:
    """A body whose sender has a limit of bytes per second. After each read it pauses until the limit allows more."""

    def __init__(self, source: BodySource, add_bytes: Callable[[int], float]) -> None:
        """`add_bytes` is `ClientLimits.add_bytes`."""
        self._source = source
        self._add_bytes = add_bytes
        self._paused_until = 0.0
        self.can_send = source.can_send

    @property
    def has_ended(self) -> bool:
        return self._source.has_ended

    def wait(self, seconds: float) -> bool:
        if (pause := self._paused_until - time.monotonic()) > 0:
            time.sleep(min(pause, seconds))
            return False
        return self._source.wait(seconds)

    def read(self) -> bytes:
        piece = self._source.read()
        self._paused_until = time.monotonic() + self._add_bytes(len(piece))
        return piece


class _SocketSource:
    """A connection of gunicorn, and the bytes that gunicorn has read from it already."""

    def __init__(self, client: socket.socket, unreader: Any) -> None:
        self._client = client
        self._unreader = unreader
        self._poll_in = select.poll()
        self._poll_in.register(client, select.POLLIN)
        self._poll_out = select.poll()
        self._poll_out.register(client, select.POLLOUT)
        _enable_keepalive(client)

    def wait(self, seconds: float) -> bool:
        pending = getattr(self._client, "pending", None)  # TLS: bytes that are decrypted already
        if self._unreader.buf.tell() or (pending is not None and pending()):
            return True
        return bool(self._poll_in.poll(seconds * 1000))

    def can_send(self) -> bool:
        return bool(self._poll_out.poll(0))


class _LengthSource(_SocketSource):
    """A body with a Content-Length."""

    def __init__(self, client: socket.socket, reader: Any) -> None:
        super().__init__(client, reader.unreader)
        self._reader = reader
        self.has_ended = not reader.length

    def read(self) -> bytes:
        first: bytes = self._reader.read(1)
        if not first and not self.has_ended:
            raise _incomplete_body()
        piece: bytes = first + self._reader.read(min(READ_SIZE, self._unreader.buf.tell()))
        self.has_ended = not self._reader.length
        return piece


class _ChunkedSource(_SocketSource):
    """A chunked body. The connection is closed after it."""

    def __init__(self, client: socket.socket, stream: Any) -> None:
        super().__init__(client, stream.reader.req.unreader)
        stream.failed = True  # gunicorn cannot find the end of the body from here on
        stream.reader.req.force_close()
        self._decoder = ChunkedDecoder()

    @property
    def has_ended(self) -> bool:
        return self._decoder.has_ended

    def wait(self, seconds: float) -> bool:
        return self._decoder.error is not None or super().wait(seconds)

    def read(self) -> bytes:
        if self.has_ended:
            return b""
        if self._decoder.error is not None:
            raise self._decoder.error
        if not (received := self._unreader.read(None, read_ahead=READ_SIZE)):
            raise _incomplete_body()
        return self._decoder.feed(received)


class _StreamSource:
    """A body under another server. It cannot tell what has arrived, so reading blocks."""

    def __init__(self, stream: Any, length: int | None) -> None:
        self.has_ended = length == 0
        read1 = getattr(stream, "read1", None)
        self._read, self._max_read = (stream.read, _SMALL_READ) if read1 is None else (read1, READ_SIZE)
        self._left = length

    def wait(self, seconds: float) -> bool:
        return True

    def can_send(self) -> bool:
        return True

    def read(self) -> bytes:
        size = self._max_read if self._left is None else min(self._max_read, self._left)
        piece: bytes = self._read(size) if size else b""
        if self._left is not None:
            self._left -= len(piece)
        if not piece and self._left:
            raise _incomplete_body()
        self.has_ended = not piece or self._left == 0
        return piece


def _incomplete_body() -> InvalidRequest:
    return InvalidRequest(
        "Body is incomplete: it is shorter than its Content-Length, or its chunks are malformed. "
        "Complete lines before that are published."
    )


def _enable_keepalive(client: socket.socket) -> None:
    """Detect within two minutes that a client has vanished without closing its connection."""
    with suppress(OSError, AttributeError):  # not TCP
        client.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in ((socket.TCP_KEEPIDLE, 60), (socket.TCP_KEEPINTVL, 15), (socket.TCP_KEEPCNT, 4)):
            client.setsockopt(socket.IPPROTO_TCP, option, value)
