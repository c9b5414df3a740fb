"""The chunked transfer coding of HTTP/1.1."""

import re

_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})(?:[ \t]*;[\t\x20-\x7e\x80-\xff]*)?")
_LONGEST_LINE = 8190
_MOST_TRAILERS = 100


class Chunks:
    """The chunked transfer coding, RFC 9112, 7.1. Chunk extensions and trailers are skipped."""

    def __init__(self) -> None:
        self.has_ended = False
        self.fault: ValueError | None = None
        """What is not as it should be; nothing behind it can be had."""
        self._received = bytearray()
        self._left = 0  # of a chunk, with the line end behind it
        self._trailers = 0

    @property
    def rest(self) -> bytes:
        """What was received behind the end."""
        return bytes(self._received)

    def feed(self, received: bytes) -> bytes:
        """The data in what was received, up to a fault or the end."""
        pieces: list[bytes] = []
        if self.fault is not None:
            return b""
        self._received += received
        try:
            self._take(pieces)
        except ValueError as fault:
            self.fault = fault
        return b"".join(pieces)

    def _take(self, pieces: list[bytes]) -> None:
        while self._received and not self.has_ended:
            if self._left > 2:
                piece = bytes(self._received[: self._left - 2])
                del self._received[: len(piece)]
                self._left -= len(piece)
                pieces.append(piece)
            elif not self._take_line():
                return

    def _take_line(self) -> bool:
        """Take the line that begins here; false where its end has not come yet."""
        longest = 0 if self._left else _LONGEST_LINE
        end = self._received.find(b"\r\n", 0, longest + 2)
        if end < 0:
            if len(self._received) > longest + 1:
                raise ValueError("a line without its end")
            return False
        line = bytes(self._received[:end])
        del self._received[: end + 2]
        if self._left:
            self._left = 0
        elif self._trailers:
            self._end_trailer(line)
        else:
            self._begin_chunk(line)
        return True

    def _end_trailer(self, line: bytes) -> None:
        self.has_ended = not line
        self._trailers += 1
        if self._trailers > _MOST_TRAILERS:
            raise ValueError("too many trailers")

    def _begin_chunk(self, line: bytes) -> None:
        if (size := _SIZE.fullmatch(line)) is None:
            raise ValueError("a chunk without a size")
        if length := int(size[1], 16):
            self._left = length + 2
        else:
            self._trailers = 1
