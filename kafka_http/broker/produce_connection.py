"""One connection to a broker, on which produce requests are sent and their responses arrive."""

import logging
import ssl
import time
from collections import deque
from collections.abc import Callable, Sequence
from selectors import EVENT_READ, EVENT_WRITE
from struct import Struct
from typing import Any

from kafka_http.broker.partition_queue import Batch
from kafka_http.broker.produce_requests import PartitionResponse, ProduceProtocol
from kafka_http.event_loop import EventLoop
from kafka_http.metrics import KAFKA_SECONDS

log = logging.getLogger(__name__)

MAX_IN_FLIGHT = 5
"""Requests in flight. Kafka recognizes the last five batches of a partition when they are sent again."""
_SIZE = Struct(">i")
_RECEIVE_BYTES = 1 << 16
_MAX_RESPONSE = 100_000_000
_WOULD_BLOCK = (BlockingIOError, InterruptedError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
_RENEW_SHARE, _EXPIRE_SHARE = 0.7, 0.95
"""The parts of a login's lifetime after which another connection is made, and this one is used no more (KIP-368)."""

_TIMES = KAFKA_SECONDS.at("produce")

OnResponse = Callable[[Batch, PartitionResponse], None]
OnLost = Callable[["ProduceConnection", Sequence[Batch], str], None]


class ProduceConnection:
    """A connection that kafka-python has opened and logged in. Only the loop's thread calls it.

    The producer creates it. It ends when the broker closes it, when a response is late, or with `close`.
    """

    def __init__(
        self,
        loop: EventLoop,
        node: int,
        sock: Any,
        protocol: ProduceProtocol,
        *,
        lifetime: float,
        on_response: OnResponse,
        on_lost: OnLost,
    ) -> None:
        """`lifetime` is that of the login in seconds, 0 if it is not limited."""
        self.node = node
        self.is_open = True
        self.renew_at, self._expires_at = _renewal(lifetime)
        """When another connection should replace this one, on the monotonic clock."""
        self._loop = loop
        self._sock = sock
        self._protocol = protocol
        self._on_response = on_response
        self._on_lost = on_lost
        self._is_tls = isinstance(sock, ssl.SSLSocket)
        self._correlation_id = 0
        self._in_flight: deque[tuple[int, float, Sequence[Batch]]] = deque()
        self._received = bytearray()
        self._unsent: deque[memoryview] = deque()
        self._throttled_until = 0.0
        self._send_needs, self._receive_needs = EVENT_WRITE, EVENT_READ
        self._watched = EVENT_READ
        self._is_retired = False
        loop.register(sock, EVENT_READ, self._on_event)

    def can_send(self, now: float) -> bool:
        """Whether another request may be sent."""
        return len(self._in_flight) < MAX_IN_FLIGHT and now >= self._throttled_until

    def is_usable(self, now: float) -> bool:
        """Whether it is open and its login is valid."""
        return self.is_open and now < self._expires_at

    def retire(self) -> None:
        """Close after the responses to the requests in flight: another connection replaces this one."""
        self._is_retired = True
        if not self._in_flight:
            self.close("replaced")

    def move(self, loop: EventLoop) -> None:
        """Use another loop: the one before has ended."""
        self._loop = loop
        loop.register(self._sock, self._events, self._on_event)

    def send(self, batches: Sequence[Batch]) -> None:
        """Send one request. Each partition occurs once."""
        if not self.is_open:  # another request of this round has closed it
            self._on_lost(self, batches, "connection closed")
            return
        self._correlation_id = number = (self._correlation_id + 1) & 0x7FFFFFFF
        if len(batches) == 1:
            queue = batches[0].queue
            data = self._protocol.encode_one(number, queue.topic_field, queue.partition, batches[0].data)
        else:
            topics: dict[bytes, list[tuple[int, bytes]]] = {}
            for each in batches:
                topics.setdefault(each.queue.topic_field, []).append((each.queue.partition, each.data))
            data = self._protocol.encode(number, topics)
        self._in_flight.append((number, time.monotonic(), batches))
        self._unsent.append(memoryview(data))
        if len(self._unsent) == 1:
            self._flush()

    def close_if_late(self, now: float, seconds: float) -> None:
        """Close if the broker has not responded for `seconds`."""
        if self._in_flight and self._in_flight[0][1] + seconds < now:
            self.close("timed out")

    def close(self, reason: str) -> None:
        """Close, and report the batches that are in flight."""
        if not self.is_open:
            return
        self.is_open = False
        self._loop.unregister(self._sock)
        self._sock.close()
        log.debug("Closed the connection to broker %s: %s", self.node, reason)
        batches = [each for _, _, sent in self._in_flight for each in sent]
        self._in_flight.clear()
        self._unsent.clear()
        self._on_lost(self, batches, reason)

    @property
    def _events(self) -> int:
        return self._receive_needs | self._send_needs if self._unsent else self._receive_needs

    def _flush(self) -> None:
        """Send what the kernel takes now. Wait for the socket if something is left."""
        while self._unsent:
            data = self._unsent[0]
            try:
                sent = self._sock.send(data)
            except _WOULD_BLOCK as wait:
                self._send_needs = _needed_event(wait, EVENT_WRITE)
                break
            except OSError as error:
                self.close(error.strerror or str(error))
                return
            if sent < len(data):
                self._unsent[0] = data[sent:]
            else:
                self._unsent.popleft()
        self._watch()

    def _watch(self) -> None:
        events = self._events
        if events != self._watched:
            self._watched = events
            self._loop.modify(self._sock, events, self._on_event)

    def _on_event(self, _: Any) -> None:
        if self._unsent:
            self._flush()
        while self.is_open:
            try:
                data = self._sock.recv(_RECEIVE_BYTES)
            except _WOULD_BLOCK as wait:
                self._receive_needs = _needed_event(wait, EVENT_READ)
                self._watch()
                return
            except OSError as error:
                self.close(error.strerror or str(error))
                return
            if not data:
                self.close("connection closed by the broker")
                return
            self._handle_data(data)
            if not self._is_tls and len(data) < _RECEIVE_BYTES:  # TLS may have more that no event announces
                return

    def _handle_data(self, data: bytes) -> None:
        self._received += data
        received, start = self._received, 0
        while self.is_open and len(received) - start >= _SIZE.size:
            size: int = _SIZE.unpack_from(received, start)[0]
            if not _SIZE.size <= size <= _MAX_RESPONSE:
                self.close("malformed response")
                return
            end = start + _SIZE.size + size
            if end > len(received):
                break
            self._handle_frame(bytes(received[start + _SIZE.size : end]))
            start = end
        del received[:start]

    def _handle_frame(self, frame: bytes) -> None:
        try:
            responses, throttle = self._protocol.decode(frame)
            number, sent_at, batches = self._in_flight[0]
            if _SIZE.unpack_from(frame)[0] != number:
                raise ValueError("its correlation id is that of another request")
            sent = {(each.queue.topic_field, each.queue.partition): each for each in batches}
            answered = [(sent.pop((each.topic, each.partition)), each) for each in responses]
            if sent:
                raise ValueError("a partition is missing")
        except Exception as error:  # corrupt bytes raise anything
            log.warning("Broker %s sent a response that cannot be read: %s", self.node, error)
            self.close("malformed response")
            return
        self._in_flight.popleft()
        _TIMES.observe(time.monotonic() - sent_at)
        if throttle:
            self._throttled_until = time.monotonic() + throttle
        for batch, response in answered:
            self._on_response(batch, response)
        if self._is_retired and not self._in_flight:
            self.close("replaced")


def _renewal(lifetime: float) -> tuple[float, float]:
    """Return when to renew a login, and when it is too old, on the monotonic clock."""
    if not lifetime:
        return float("inf"), float("inf")
    now = time.monotonic()
    return now + _RENEW_SHARE * lifetime, now + _EXPIRE_SHARE * lifetime


def _needed_event(wait: OSError, usual: int) -> int:
    """Return the event after which to try again: TLS may have to read before it sends, and the other way round."""
    if isinstance(wait, ssl.SSLWantReadError):
        return EVENT_READ
    return EVENT_WRITE if isinstance(wait, ssl.SSLWantWriteError) else usual
