"""The load loop of one process: many connections, on each the next request when the last one is answered."""

import re
import socket
import time
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from selectors import EVENT_READ, EVENT_WRITE, DefaultSelector

from kafka_http.bench.conversations import Address, Conversation, RequestFailed
from kafka_http.bench.errors import BenchError

_PIECE = 65536
_CONNECT_SECONDS = 10.0
_APART = 0.002
"""Seconds between two connections: of many at once, the first of the server's processes to wake takes them all."""

_DRAIN_SECONDS = 30.0
"""How long the answers are waited for that are still to come at the end."""

_SHOWN = 3
_LENGTH = re.compile(rb"\r\n[Cc]ontent-[Ll]ength: *(\d+)")
_BODILESS = (b"204", b"304")


@dataclass
class Tally:
    """What one process has counted between the beginning and the end that it was given."""

    latencies: "array[float]" = field(default_factory=lambda: array("d"))
    """In seconds, of the answers that were none of `errors`."""
    messages: int = 0
    errors: int = 0
    first_errors: list[str] = field(default_factory=list)
    cpu: float = 0.0

    def count_error(self, sentence: str) -> None:
        self.errors += 1
        if len(self.first_errors) < _SHOWN and sentence not in self.first_errors:
            self.first_errors.append(sentence)


class Generator:
    """Connections to one address; `run` drives them. Times are of `time.monotonic`, which all processes share."""

    def __init__(self, address: Address, conversations: Sequence[Conversation]) -> None:
        self.tally = Tally()
        self.selector = DefaultSelector()
        self.address = (address.host, address.port)
        self.begin = self.end = 0.0
        self._conversations = conversations

    def run(self, begin: float, end: float) -> Tally:
        """Connect and send at once, count from `begin` to `end`, wait for the answers to what was sent before that.

        Raises `BenchError` where it cannot connect.
        """
        self.begin, self.end = begin, end
        for conversation in self._conversations:
            self._connect(conversation)
            self._loop_until(time.monotonic() + _APART)
        self._loop_until(begin)
        cpu = time.process_time()
        self._loop_until(end)
        self.tally.cpu = time.process_time() - cpu
        self._loop_until(end + _DRAIN_SECONDS)
        for key in list(self.selector.get_map().values()):
            key.fileobj.close()  # type: ignore[union-attr]  # all of them are sockets
        self.selector.close()
        return self.tally

    def _connect(self, conversation: Conversation) -> None:
        try:
            _Connection(self, conversation).ask()
        except OSError as error:
            host, port = self.address
            raise BenchError(f"{host}:{port} takes no connection: {error.strerror or error}.") from None

    def _loop_until(self, moment: float) -> None:
        """Until then, or until no connection has anything to do any more."""
        select, registered = self.selector.select, self.selector.get_map()
        while registered and (left := moment - time.monotonic()) > 0:
            for key, events in select(left):
                key.data(events)


class _Connection:
    """A socket, the request that is on its way, and what has come of its answer."""

    def __init__(self, generator: Generator, conversation: Conversation) -> None:
        self._generator = generator
        self._conversation = conversation
        self._connect()

    def _connect(self) -> None:
        self._socket = socket.create_connection(self._generator.address, _CONNECT_SECONDS)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.setblocking(False)
        self._generator.selector.register(self._socket, EVENT_READ, self._on_event)

    def ask(self) -> None:
        self._pieces: list[bytes] = []
        self._missing = -1  # the head is not there yet
        self._asked = time.monotonic()
        self._send(self._conversation.request)

    def close(self) -> None:
        if self._socket.fileno() != -1:
            self._generator.selector.unregister(self._socket)
            self._socket.close()

    def _send(self, data: bytes | memoryview) -> None:
        try:
            sent = self._socket.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            sent = len(data)  # reading will say why
        self._unsent = memoryview(data)[sent:] if sent < len(data) else b""
        if self._unsent:
            self._generator.selector.modify(self._socket, EVENT_READ | EVENT_WRITE, self._on_event)

    def _on_event(self, events: int) -> None:
        if events & EVENT_READ:
            self._receive()
        elif self._unsent:
            self._send(self._unsent)
        else:
            self._generator.selector.modify(self._socket, EVENT_READ, self._on_event)

    def _receive(self) -> None:
        try:
            piece = self._socket.recv(_PIECE)
        except BlockingIOError:
            return
        except OSError as error:
            self._lose(error.strerror or str(error))
            return
        if not piece:
            self._lose("it was closed amid a request")
        elif self._missing < 0:
            self._start(piece)
        else:
            self._pieces.append(piece)
            self._missing -= len(piece)
            if self._missing <= 0:
                self._finish(b"".join(self._pieces))

    def _start(self, piece: bytes) -> None:
        """The first bytes of an answer, up to the end of its head at least."""
        if self._pieces:
            piece = self._pieces.pop() + piece
        end = piece.find(b"\r\n\r\n")
        if end < 0:
            self._pieces.append(piece)
            return
        self._status = piece[9:12]
        self._is_last = b"close" in piece[:end]
        found = _LENGTH.search(piece, 0, end)
        if found is None and self._status not in _BODILESS:
            self._lose("an answer has no Content-Length: this server's answers cannot be measured")
            return
        body = piece[end + 4 :]
        self._missing = (int(found[1]) if found else 0) - len(body)
        if self._missing > 0:
            self._pieces.append(body)
        else:
            self._finish(body)

    def _finish(self, body: bytes) -> None:
        now = time.monotonic()
        generator = self._generator
        if self._unsent:
            self._count_refusal(body)
            self._reconnect(now)
            return
        if generator.begin <= now < generator.end:
            self._count(body, now)
        else:
            self._take(body)
        if self._is_last:
            self._reconnect(now)
        elif now < generator.end:
            self.ask()
        else:
            self.close()

    def _count(self, body: bytes, now: float) -> None:
        messages = self._take(body, self._generator.tally)
        if messages is not None:
            self._generator.tally.latencies.append(now - self._asked)
            self._generator.tally.messages += messages

    def _take(self, body: bytes, tally: Tally | None = None) -> int | None:
        """The messages of an answer, None where it is not to be counted; an error is counted in `tally`."""
        refused = ""
        if not self._status.startswith(b"2") or self._status == b"207":
            refused = f"{self._status.decode()} {body[:300].decode(errors='replace').strip()}"
        else:
            try:
                return self._conversation.take(body)
            except RequestFailed as failed:
                refused = str(failed)
        if tally is not None:
            tally.count_error(refused)
        return None

    def _count_refusal(self, body: bytes) -> None:
        """It was answered before all of it was sent, and the rest cannot be sent any more."""
        self._generator.tally.count_error(f"{self._status.decode()} {body[:300].decode(errors='replace').strip()}")

    def _lose(self, why: str) -> None:
        now = time.monotonic()
        if now < self._generator.end:
            self._generator.tally.count_error(f"A connection was lost: {why}")
        self._reconnect(now)

    def _reconnect(self, now: float) -> None:
        self.close()
        if now >= self._generator.end:
            return
        try:
            self._connect()
        except OSError as error:
            self._generator.tally.count_error(f"It could not connect again: {error.strerror or error}")
        else:
            self.ask()
