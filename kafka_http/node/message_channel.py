"""Messages over a socket: 4 bytes of length, big-endian, and so many bytes."""

import socket
import struct
from contextlib import suppress

LARGEST = 64 * 1024 * 1024
_LENGTH = struct.Struct(">I")
_READ = 65536


class Channel:
    """One end of a connection. Used by one thread at a time; any thread may `shut` it.

    A method raises `OSError` where the connection fails or its time is over, and `EOFError` where the other end has
    closed it. After either it is good for nothing but `close`; only `receive` may be called again after `TimeoutError`.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._received = bytearray()

    def settimeout(self, seconds: float | None) -> None:
        """How long each wait of `send` and `receive` may take."""
        self._connection.settimeout(seconds)

    def send(self, message: bytes) -> None:
        self._connection.sendall(_LENGTH.pack(len(message)) + message)

    def receive(self) -> bytes:
        self._fill(_LENGTH.size)
        length: int = _LENGTH.unpack_from(self._received)[0]
        if length > LARGEST:
            raise EOFError(f"a message of {length} bytes")
        end = _LENGTH.size + length
        self._fill(end)
        message = bytes(self._received[_LENGTH.size : end])
        del self._received[:end]
        return message

    def is_abandoned(self) -> bool:
        """Whether the other end has closed the connection. Does not block."""
        try:
            return not self._connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False

    def shut(self) -> None:
        """End the connection for both ends: a thread that waits here is told at once."""
        with suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._connection.close()

    def _fill(self, count: int) -> None:
        """Have at least so many bytes in `_received`."""
        while len(self._received) < count:
            piece = self._connection.recv(_READ)
            if not piece:
                raise EOFError("the other end has closed the connection")
            self._received += piece
