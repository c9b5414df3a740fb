"""The load loop of one process: many connections, each with one request at a time."""

import re
import socket
import time
from collections.abc import Sequence
from select import EPOLLIN, epoll

import msgspec

from kafka_http.bench.bench_result import BenchError
from kafka_http.bench.load_requests import LoadClient, ResponseError
from kafka_http.bench.target_server import TargetServer
from kafka_http.chunked import ChunkedDecoder

_READ_BYTES = 65536
"""More would make each read as slow as a system call for memory: 25 us of CPU a request in place of 12."""
_CONNECT_SECONDS = 10.0
_CONNECT_INTERVAL = 0.002
"""Seconds between connections. If many arrive at once, the server process that wakes first accepts them all."""

_DRAIN_SECONDS = 30.0
"""How long to wait at the end for the last responses."""

MAX_ERRORS = 3
"""How many different errors are reported."""

_LENGTH = re.compile(rb"\r\n[Cc]ontent-[Ll]ength: *(\d+)")
_CHUNKED = re.compile(rb"\r\n[Tt]ransfer-[Ee]ncoding: *chunked")
_WITHOUT_BODY = (b"204", b"304")


class LoadCounts(msgspec.Struct):
    """What one process counted. `latencies` are those of successful requests, in seconds."""

    latencies: list[float] = []
    messages: int = 0
    errors: int = 0
    first_errors: list[str] = []
    cpu: float = 0.0

    def add_error(self, message: str) -> None:
        self.errors += 1
        if len(self.first_errors) < MAX_ERRORS and message not in self.first_errors:
            self.first_errors.append(message)


class LoadGenerator:
    """Connections to one server. Times are those of `time.monotonic`, which is the same in all processes.

    It shares the machine with the server, so each request costs as little CPU as possible: bytes that were built
    before, epoll without a layer above it, and no more parsing than to find the end of the response.
    """

    def __init__(self, server: TargetServer, clients: Sequence[LoadClient]) -> None:
        self.counts = LoadCounts()
        self.poll = epoll()
        self.connections: dict[int, _Connection] = {}
        """The open connections, by file descriptor."""
        self.address = (server.host, server.port)
        self.begin = self.end = 0.0
        self._clients = clients

    def run(self, begin: float, end: float) -> LoadCounts:
        """Connect and send requests at once, count the responses from `begin` to `end`, wait for the last ones.

        Raises `BenchError` if a connection fails.
        """
        self.begin, self.end = begin, end
        for client in self._clients:
            self._connect(client)
            self._loop_until(time.monotonic() + _CONNECT_INTERVAL)
        self._loop_until(begin)
        cpu = time.process_time()  # without the CPU time of the connects and the warm-up
        self._loop_until(end)
        self.counts.cpu = time.process_time() - cpu
        self._loop_until(end + _DRAIN_SECONDS)
        for connection in list(self.connections.values()):
            connection.close()
        self.poll.close()
        return self.counts

    def _connect(self, client: LoadClient) -> None:
        try:
            _Connection(self, client)
        except OSError as error:
            host, port = self.address
            raise BenchError(f"{host}:{port} does not accept connections: {error.strerror or error}.") from None

    def _loop_until(self, deadline: float) -> None:
        """Handle events until the deadline, or until all connections are closed."""
        poll, connections = self.poll.poll, self.connections
        while connections and (left := deadline - time.monotonic()) > 0:
            for descriptor, _ in poll(left):
                connections[descriptor].on_readable()


class _Connection:
    """A blocking socket with one request at a time. It is read only when it has data."""

    __slots__ = (
        "_client",
        "_decoder",
        "_generator",
        "_missing",
        "_must_close",
        "_parts",
        "_sent_at",
        "_socket",
        "_status",
    )

    def __init__(self, generator: LoadGenerator, client: LoadClient) -> None:
        self._generator = generator
        self._client = client
        self._connect()

    def _connect(self) -> None:
        self._socket = socket.create_connection(self._generator.address, _CONNECT_SECONDS)
        # Nagle's algorithm would delay the last packet of a request and add to its latency.
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.settimeout(None)
        self._generator.poll.register(self._socket, EPOLLIN)
        self._generator.connections[self._socket.fileno()] = self
        self._send_request()

    def close(self) -> None:
        del self._generator.connections[self._socket.fileno()]
        self._socket.close()  # epoll forgets it

    def _send_request(self) -> None:
        self._parts: list[bytes] = []
        self._missing = -1
        self._decoder: ChunkedDecoder | None = None
        self._sent_at = time.monotonic()
        try:
            self._socket.sendall(self._client.request)
        except OSError:
            return  # the next read reports the error, or has the response that the server sent before it closed

    def on_readable(self) -> None:
        try:
            data = self._socket.recv(_READ_BYTES)
        except OSError as error:
            self._on_lost(error.strerror or str(error))
            return
        if not data:
            self._on_lost("the server closed it during a request")
        elif self._decoder is not None:
            self._on_chunks(self._decoder, data)
        elif self._missing < 0:
            self._on_head(b"".join((*self._parts, data)))
        else:
            self._missing -= len(data)
            self._parts.append(data)
            if self._missing <= 0:
                self._on_response(b"".join(self._parts))

    def _on_head(self, received: bytes) -> None:
        """Find the end of the response. `received` is all of it so far."""
        head_end = received.find(b"\r\n\r\n")
        if head_end < 0:
            self._parts = [received]
            return
        self._status = received[9:12]
        self._must_close = received.find(b"close", 0, head_end) >= 0
        body = received[head_end + 4 :]
        length = _LENGTH.search(received, 0, head_end)
        if length is None and _CHUNKED.search(received, 0, head_end):
            self._decoder = ChunkedDecoder()
            self._parts = []
            self._on_chunks(self._decoder, body)
        elif length is None and self._status not in _WITHOUT_BODY:
            self._on_lost("a response has no Content-Length, which the bench needs")
        else:
            self._missing = (int(length[1]) if length else 0) - len(body)
            self._parts = [body]
            if self._missing <= 0:
                self._on_response(body)

    def _on_chunks(self, decoder: ChunkedDecoder, data: bytes) -> None:
        """Decode a body without a length, which other servers send: Go's if it is over 2 KiB."""
        self._parts.append(decoder.feed(data))
        if decoder.has_ended:
            self._on_response(b"".join(self._parts))
        elif decoder.error is not None:
            self._on_lost(f"the chunked body is wrong: {decoder.error}")

    def _on_response(self, body: bytes) -> None:
        now = time.monotonic()
        counts = self._generator.counts
        is_counted = self._generator.begin <= now < self._generator.end
        try:
            messages = self._messages_in(body)
        except ResponseError as failed:
            if is_counted:
                counts.add_error(str(failed))
        else:
            if is_counted and messages is not None:
                counts.latencies.append(now - self._sent_at)
                counts.messages += messages
        if self._must_close or now >= self._generator.end:
            self._reconnect(now)
        else:
            self._send_request()

    def _messages_in(self, body: bytes) -> int | None:
        """The number of messages in a response; None if it is not counted. Raises `ResponseError`."""
        if not self._status.startswith(b"2") or self._status == b"207":
            raise ResponseError(f"{self._status.decode()} {body[:300].decode(errors='replace').strip()}")
        return self._client.handle_response(body)

    def _on_lost(self, why: str) -> None:
        now = time.monotonic()
        if now < self._generator.end:
            self._generator.counts.add_error(f"A connection was lost: {why}")
        self._reconnect(now)

    def _reconnect(self, now: float) -> None:
        """Close the connection. Open it again if the time is not over."""
        self.close()
        if now < self._generator.end:
            try:
                self._connect()
            except OSError as error:
                self._generator.counts.add_error(f"A connection could not be opened again: {error.strerror or error}")
