"""What a connection still has to send."""

import socket
from collections import deque


class SendBuffer:
    """Stands in for a connection's socket where an answer is written. Never blocks: it keeps what the client does not
    take at once.

    Either a thread or the main loop uses it, never both at the same time: whoever has the connection.
    """

    __slots__ = ("_socket", "has_sent", "taken", "unsent")

    def __init__(self, client: socket.socket) -> None:
        self._socket = client
        self.unsent: deque[memoryview] = deque()
        self.has_sent = False
        """Whether anything of the current answer was written."""
        self.taken = 0
        """Bytes of it that the client has taken, or its kernel."""

    @property
    def size(self) -> int:
        """Bytes that wait to be sent."""
        return sum(map(len, self.unsent))

    def sendall(self, data: bytes | memoryview) -> None:
        """Send this, now or later. Raises `OSError` where the connection is broken."""
        self.has_sent = True
        sent = 0 if self.unsent else self._send(data)
        if sent < len(data):
            self.unsent.append(memoryview(data)[sent:])

    def send(self, data: bytes) -> int:
        """As `sendall`, which takes everything."""
        self.sendall(data)
        return len(data)

    def flush(self) -> bool:
        """Send what the client takes; whether it took anything. Raises `OSError`."""
        is_moving = False
        while self.unsent:
            first = self.unsent.popleft()
            sent = self._send(first)
            is_moving |= sent > 0
            if sent < len(first):
                self.unsent.appendleft(first[sent:])
                break
        return is_moving

    def _send(self, data: bytes | memoryview) -> int:
        try:
            sent = self._socket.send(data, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return 0
        self.taken += sent
        return sent

    def begin(self) -> None:
        """Another answer comes."""
        self.has_sent, self.taken = False, 0
