"""Decoder of the chunked transfer coding of HTTP/1.1 (RFC 9112, section 7.1).

It takes bytes as they arrive and never blocks: the worker's main loop and streaming uploads need that. No parser of a
library fits. gunicorn's reads from the socket itself and blocks. h11 0.16 accepts chunk sizes of 2**64 and a bare CR in
chunk extensions, which a proxy may read in another way.
"""

import re

_SIZE_LINE = re.compile(rb"([0-9A-Fa-f]{1,15})(?:[ \t]*;[\t\x20-\x7e\x80-\xff]*)?")
_MAX_LINE_BYTES = 8190
_MAX_TRAILERS = 100


class ChunkedDecoder:
    """Decodes one body. Chunk extensions and trailers are skipped."""

    def __init__(self) -> None:
        self.has_ended = False
        self.error: ValueError | None = None
        """The syntax error that stopped the decoder."""
        self._received = bytearray()
        self._chunk_left = 0
        """Bytes of the current chunk that have not arrived, its line end included."""
        self._trailers = 0

    @property
    def rest(self) -> bytes:
        """The bytes that arrived after the end of the body."""
        return bytes(self._received)

    def feed(self, received: bytes) -> bytes:
        """Return the decoded data of these bytes, up to the end of the body or to an error."""
        if self.error is not None:
            return b""
        pieces: list[bytes] = []
        self._received += received
        try:
            self._decode(pieces)
        except ValueError as error:
            self.error = error
        return b"".join(pieces)

    def _decode(self, pieces: list[bytes]) -> None:
        while self._received and not self.has_ended:
            if self._chunk_left > 2:
                piece = bytes(self._received[: self._chunk_left - 2])
                del self._received[: len(piece)]
                self._chunk_left -= len(piece)
                pieces.append(piece)
            elif not self._read_line():
                return

    def _read_line(self) -> bool:
        """Process the next line. Return false if it has not arrived completely."""
        max_bytes = 0 if self._chunk_left else _MAX_LINE_BYTES
        end = self._received.find(b"\r\n", 0, max_bytes + 2)
        if end < 0:
            if len(self._received) > max_bytes + 1:
                raise ValueError("line without its line end")
            return False
        line = bytes(self._received[:end])
        del self._received[: end + 2]
        if self._chunk_left:
            self._chunk_left = 0
        elif self._trailers:
            self._end_trailer(line)
        else:
            self._begin_chunk(line)
        return True

    def _end_trailer(self, line: bytes) -> None:
        self.has_ended = not line
        self._trailers += 1
        if self._trailers > _MAX_TRAILERS:
            raise ValueError("too many trailers")

    def _begin_chunk(self, line: bytes) -> None:
        if (match := _SIZE_LINE.fullmatch(line)) is None:
            raise ValueError("chunk without a size")
        if size := int(match[1], 16):
            self._chunk_left = size + 2
        else:
            self._trailers = 1
