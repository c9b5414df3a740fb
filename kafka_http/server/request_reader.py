"""Assembles one request from the data that the main loop receives."""

import re
from io import BytesIO
from typing import Any

from gunicorn.http.body import ChunkedReader
from gunicorn.http.errors import (
    ChunkMissingTerminator,
    InvalidRequestLine,
    LimitRequestHeaders,
    NoMoreData,
    UnsupportedTransferCoding,
)
from gunicorn.http.message import MAX_HEADERS, Request
from gunicorn.http.unreader import IterUnreader

from kafka_http.chunked import ChunkedDecoder
from kafka_http.server.app_interface import Client
from kafka_http.server.prepared_heads import CREDENTIAL_HEADERS, FindHead, PreparedHead

_MAX_HEAD = 1 << 20
"""Maximum size of a head, even if gunicorn's settings allow more."""
_MAX_REMEMBERED, _MAX_REMEMBERED_BYTES = 256, 1024
"""Heads that are remembered, and the maximum size of one."""
_TLS_HANDSHAKE = b"\x16\x03"
"""The first bytes of a TLS connection. Its client would wait for an answer until the head is late."""
_BARE_LF = re.compile(rb"(?<!\r)\n")
_BLANK_LINES = re.compile(rb"(?:\r\n)+")


def without_blank_lines(data: bytes) -> bytes:
    """Return the data without the empty lines that a client may send before a request (RFC 9112, 2.2)."""
    blank = _BLANK_LINES.match(data)
    return data if blank is None else data[blank.end() :]


class ParsedHeads:
    """Parses heads with gunicorn's parser, and remembers the requests by the bytes of their heads.

    A client sends the same head again and again, and parsing takes a quarter of the time of a small request. Only the
    main loop uses it.
    """

    def __init__(self, cfg: Any) -> None:
        """`cfg` has gunicorn's settings."""
        self.cfg = cfg
        self._requests: dict[tuple[bytes, Any], Any] = {}

    def parse(self, head: bytes, client: Any) -> Any:
        """Return gunicorn's `Request` for a head from a client's address. Raises what the parser raises."""
        key = head, client[0] if isinstance(client, tuple) else client  # gunicorn trusts some hosts' headers
        request = self._requests.get(key)
        if request is None:
            request = self._parse(head, client)
            if len(head) <= _MAX_REMEMBERED_BYTES and _may_remember(request):
                self._remember(key, request)
        copy = object.__new__(Request)
        copy.__dict__ |= request.__dict__
        copy.peer_addr = copy.remote_addr = client
        return copy

    def _parse(self, head: bytes, client: Any) -> Any:
        request: Any = Request(self.cfg, IterUnreader([head]), client)
        _check_transfer_codings(request)
        request.version = min(request.version, (1, 1))  # the response to HTTP/1.2 is one of HTTP/1.1
        return request

    def _remember(self, key: tuple[bytes, Any], request: Any) -> None:
        if len(self._requests) >= _MAX_REMEMBERED:
            self._requests.clear()
        self._requests[key] = request


class RequestReader:
    """Assembles a request: first its head, then its body.

    The main loop creates it for a request that it has not started on the fast path at once, and feeds it. The head is
    one for the fast path, or gunicorn's parser parses it. When `is_complete`, or when the request is to be rejected,
    the loop starts the request.
    """

    def __init__(self, heads: ParsedHeads, address: Any, client: Client, find_head: FindHead | None) -> None:
        """Create a reader. `address` is gunicorn's form of the client's address.

        `find_head` finds heads for the fast path; None: the request needs a view.
        """
        self.prepared: PreparedHead | None = None
        """The head, if the complete request may be started on the fast path."""
        self.request: Any = None
        """gunicorn's `Request`: when the head is complete, but for the fast path only after `parse_head`."""
        self.error: Exception | None = None
        """The error in the head."""
        self.body_error: Exception | None = None
        """The application's error for this body. The application raises it when it reads the body."""
        self.decision: Any = None
        """The application's decision about this request before its body, for the environ."""
        self.is_too_large = False
        """Whether the body is over the limit, even if most of it has not arrived."""
        self.head = b""
        self.is_complete = False
        self.rest = b""
        """Received data after the request."""
        self.body_size = 0
        self.content_length = 0
        """The Content-Length; 0 without one."""
        self._heads = heads
        self._find_head = find_head
        self._address = address
        self._client = client
        self._received = bytearray()
        self._body_parts: list[bytes] = []
        self._chunks: ChunkedDecoder | None = None
        self._after_head = b""

    @property
    def has_head(self) -> bool:
        """Whether the head is complete and valid."""
        return self.request is not None or self.prepared is not None

    @property
    def missing(self) -> int:
        """Bytes of the body with a Content-Length that have not arrived."""
        return self.content_length - self.body_size

    @property
    def size(self) -> int:
        """Bytes in memory."""
        return len(self._received) + len(self.head) + self.body_size

    @property
    def is_chunked(self) -> bool:
        return self._chunks is not None

    @property
    def expects_continue(self) -> bool:
        """Whether the client waits for `100 Continue`."""
        return bool(self.request is not None and self.request._expected_100_continue and not self.is_complete)

    @property
    def is_malformed(self) -> bool:
        """Whether the received data cannot be a body."""
        return self._chunks is not None and self._chunks.error is not None

    def feed(self, data: bytes) -> None:
        """Add received data. Sets `error` if the head is invalid."""
        if self.has_head:
            self._feed_body(data)
            return
        searched = max(0, len(self._received) - 3)
        self._received += data
        if self._received.startswith(_TLS_HANDSHAKE):
            self.error = InvalidRequestLine("TLS on a port for plain HTTP")
            return
        end = self._received.find(b"\r\n\r\n", searched)
        if end >= 0:
            self._end_head(end + 4)
        elif self._is_head_invalid(searched):
            self._end_head(len(self._received))

    def all_received(self) -> bytes:
        """Return everything that was received, for a thread that reads on from the socket. Call it after the head."""
        return self.head + self._after_head

    def start_body(self, head: bytes, found: tuple[PreparedHead, int], data: bytes) -> None:
        """Begin with a head for the fast path, which was found already, and the data after it."""
        self.head = head
        self.prepared, self.content_length = found
        self._after_head = data
        self._feed_body(data)

    def whole_body(self) -> bytes:
        """Return the received body. The reader keeps it."""
        if len(self._body_parts) > 1:
            self._body_parts = [b"".join(self._body_parts)]
        return self._body_parts[0] if self._body_parts else b""

    def body(self) -> "ReceivedBody":
        """Return the body for the application. Call it once: the reader releases the body's memory."""
        data = self.whole_body()
        self._body_parts, self._after_head = [], b""
        is_malformed = self.is_chunked and not (self.is_complete or self.is_too_large)
        return ReceivedBody(data, is_malformed)

    def _is_head_invalid(self, searched: int) -> bool:
        """Return whether no further data can make a valid head. gunicorn's parser then finds the reason."""
        received, cfg = self._received, self._heads.cfg
        line, fields, field = cfg.limit_request_line, cfg.limit_request_fields, cfg.limit_request_field_size
        if _BARE_LF.search(received, searched):
            return True
        if line > 0 and len(received) > line + 2 and received.find(b"\r\n", 0, line + 2) < 0:
            return True
        limit = (line or _MAX_HEAD) + (fields if 0 < fields <= MAX_HEADERS else MAX_HEADERS) * ((field or 8190) + 2)
        return len(received) > min(limit, _MAX_HEAD)

    def _end_head(self, end: int) -> None:
        head, rest = bytes(self._received[:end]), bytes(self._received[end:])
        self._received = bytearray()
        found = None if self._find_head is None else self._find_head(head, end, self._client)
        if found is not None:
            self.start_body(head, found, rest)
            return
        self.head = head
        self.parse_head()
        if self.error is None:
            self._after_head = rest
            self._feed_body(rest)

    def parse_head(self) -> None:
        """Parse the head with gunicorn's parser. Sets `request` or `error`."""
        try:
            request = self._heads.parse(self.head, self._address)
        except NoMoreData:
            self.error = LimitRequestHeaders("max buffer headers")
            return
        except Exception as error:
            self.error = error
            return
        self.request = request
        reader = request.body.reader
        if isinstance(reader, ChunkedReader):
            self._chunks = ChunkedDecoder()
        else:
            self.content_length = reader.length

    def _feed_body(self, data: bytes) -> None:
        if self._chunks is not None:
            part = self._chunks.feed(data)
            self.is_complete = self._chunks.has_ended
            self.rest = self._chunks.rest if self.is_complete else b""
        else:
            missing = self.missing
            part, self.rest = (data, b"") if len(data) <= missing else (data[:missing], data[missing:])
            self.is_complete = missing <= len(data)
        if part:
            self.body_size += len(part)
            self._body_parts.append(part)


def _may_remember(request: Any) -> bool:
    """Whether the request has no body reader with a state, and no credentials."""
    if isinstance(request.body.reader, ChunkedReader):
        return False
    return CREDENTIAL_HEADERS.isdisjoint(name.lower() for name, _ in request.headers)


def _check_transfer_codings(request: Any) -> None:
    """Raise an error for a transfer coding other than chunked: gunicorn accepts gzip but does not decode it."""
    for name, value in request.headers:
        if name == "TRANSFER-ENCODING" and value.lower() != "chunked":
            raise UnsupportedTransferCoding(value)


class ReceivedBody(BytesIO):
    """The `wsgi.input` of a request that the main loop has received.

    If the chunks are malformed or incomplete, its end raises an error: a partial body must not look complete.
    """

    def __init__(self, data: bytes, is_malformed: bool) -> None:
        super().__init__(data)
        self._is_malformed = is_malformed

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        if self._is_malformed and (not data or size is None or size < 0):
            raise ChunkMissingTerminator(b"")
        return data
