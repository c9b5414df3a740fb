"""Requests that are received in the worker's main loop before any thread is at them."""

import re
from io import BytesIO
from typing import Any

from gunicorn.http.body import ChunkedReader
from gunicorn.http.errors import (
    ChunkMissingTerminator,
    LimitRequestHeaders,
    NoMoreData,
    UnsupportedTransferCoding,
)
from gunicorn.http.message import MAX_HEADERS, Request
from gunicorn.http.unreader import IterUnreader

from kafka_http.chunked import ChunkedDecoder

_MAX_HEAD = 1 << 20
"""Bytes of a head, whatever gunicorn's settings allow."""
_BARE_LF = re.compile(rb"(?<!\r)\n")
_BLANK_LINES = re.compile(rb"(?:\r\n)+")


def without_blank_lines(data: bytes) -> bytes:
    """The data without the empty lines that a client may send before a request (RFC 9112, 2.2)."""
    blank = _BLANK_LINES.match(data)
    return data if blank is None else data[blank.end() :]


class RequestReader:
    """Takes one request piece by piece: first its head, which gunicorn's parser reads once it is whole, then its body.

    The main loop makes it with the first bytes of a request that is not published on the fast path, feeds it, and hands
    it to a thread when `is_whole`, or when the request is to be refused.
    """

    def __init__(self, cfg: Any, client: Any, may_be_plain: bool) -> None:
        """`may_be_plain`: once it is whole, it may be one for the fast path."""
        self.request: Any = None
        """gunicorn's `Request`, once the head is there."""
        self.error: Exception | None = None
        """What is wrong with the head."""
        self.refusal: Exception | None = None
        """What the application has against the body; it raises this where it would read it."""
        self.is_too_large = False
        """Whether the body is over the limit, however much of it has come."""
        self.may_be_plain = may_be_plain
        self.head = b""
        self.is_whole = False
        self.rest = b""
        """What follows the request."""
        self.body_size = 0
        self.declared = 0
        """The Content-Length; 0 where there is none."""
        self._cfg = cfg
        self._client = client
        self._received = bytearray()
        self._pieces: list[bytes] = []
        self._chunks: ChunkedDecoder | None = None
        self._behind_head = b""

    @property
    def size(self) -> int:
        """Bytes held."""
        return len(self._received) + len(self.head) + self.body_size

    @property
    def is_chunked(self) -> bool:
        return self._chunks is not None

    @property
    def expects_continue(self) -> bool:
        """Whether the client waits to be asked for the body."""
        return bool(self.request is not None and self.request._expected_100_continue and not self.is_whole)

    def feed(self, data: bytes) -> None:
        """Take what was received. Where the head is wrong, `error` is set."""
        if self.request is not None:
            self._take_body(data)
            return
        searched = max(0, len(self._received) - 3)
        self._received += data
        end = self._received.find(b"\r\n\r\n", searched)
        if end >= 0:
            self._take_head(end + 4)
        elif self._is_wrong(searched):
            self._take_head(len(self._received))

    def received(self) -> bytes:
        """All that has come, for who reads on from the connection. Only right after the head."""
        return self.head + self._behind_head

    def raw(self) -> bytes:
        """All bytes of a request with a Content-Length, and what follows it."""
        return b"".join([self.head, *self._pieces, self.rest])

    def body(self) -> "ReceivedBody":
        """The body for the application. Call it once: the reader lets it go."""
        data, self._pieces, self._behind_head = b"".join(self._pieces), [], b""
        is_malformed = self.is_chunked and not (self.is_whole or self.is_too_large)
        return ReceivedBody(data, is_malformed)

    def _is_wrong(self, searched: int) -> bool:
        """Whether no end can make a head of what is here. gunicorn's parser finds out why."""
        received, cfg = self._received, self._cfg
        line, fields, field = cfg.limit_request_line, cfg.limit_request_fields, cfg.limit_request_field_size
        if _BARE_LF.search(received, searched):
            return True
        if line > 0 and len(received) > line + 2 and received.find(b"\r\n", 0, line + 2) < 0:
            return True
        most = (line or _MAX_HEAD) + (fields if 0 < fields <= MAX_HEADERS else MAX_HEADERS) * ((field or 8190) + 2)
        return len(received) > min(most, _MAX_HEAD)

    def _take_head(self, end: int) -> None:
        self.head, rest = bytes(self._received[:end]), bytes(self._received[end:])
        self._received = bytearray()
        try:
            request: Any = Request(self._cfg, IterUnreader([self.head]), self._client)
            _check_transfer_codings(request)
        except NoMoreData:
            self.error = LimitRequestHeaders("max buffer headers")
            return
        except Exception as error:
            self.error = error
            return
        request.version = min(request.version, (1, 1))  # a later minor version is answered as the last that is known
        self.request = request
        reader = request.body.reader
        if isinstance(reader, ChunkedReader):
            self._chunks = ChunkedDecoder()
        else:
            self.declared = reader.length
        self._behind_head = rest
        self._take_body(rest)

    def _take_body(self, data: bytes) -> None:
        if self._chunks is not None:
            piece = self._chunks.feed(data)
            self.is_whole = self._chunks.has_ended
            self.rest = self._chunks.rest if self.is_whole else b""
        else:
            left = self.declared - self.body_size
            piece, self.rest = (data, b"") if len(data) <= left else (data[:left], data[left:])
            self.is_whole = left <= len(data)
        if piece:
            self.body_size += len(piece)
            self._pieces.append(piece)

    @property
    def is_malformed(self) -> bool:
        """Whether what came cannot be a body."""
        return self._chunks is not None and self._chunks.error is not None


def _check_transfer_codings(request: Any) -> None:
    """Raise for a transfer coding other than chunked: gunicorn accepts gzip before it, and does not undo it."""
    for name, value in request.headers:
        if name == "TRANSFER-ENCODING" and value.lower() != "chunked":
            raise UnsupportedTransferCoding(value)


class ReceivedBody(BytesIO):
    """`wsgi.input` of a request that was received before. Where the chunks were malformed or the client broke off
    between them, the end is an error, and not the end of the body."""

    def __init__(self, data: bytes, is_malformed: bool) -> None:
        super().__init__(data)
        self._is_malformed = is_malformed

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        if self._is_malformed and (not data or size is None or size < 0):
            raise ChunkMissingTerminator(b"")
        return data
