"""A TCP proxy in front of a broker that understands Kafka's frames, so that it can disturb produce requests.

The broker advertises the proxy's address, so all clients that were not given another address go through it.
"""

import itertools
import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from kafka_http.demo.broker_properties import BrokerNode
from kafka_http.demo.embedded_kafka import EmbeddedKafka
from kafka_http.demo.local_resources import free_ports

PRODUCE, API_VERSIONS = 0, 18


class Forward(NamedTuple):
    """What the proxy does with a frame: after `delay` seconds it sends `data`, and then may cut the connection."""

    data: bytes
    is_cut: bool = False
    delay: float = 0.0


Fault = Callable[[bytes], Forward]
"""Takes the payload of a frame, without its length."""


def framed(payload: bytes) -> bytes:
    return struct.pack(">i", len(payload)) + payload


def cut(_: bytes) -> Forward:
    return Forward(b"", is_cut=True)


def cut_in_the_middle(payload: bytes) -> Forward:
    return Forward(framed(payload)[: len(payload) // 2], is_cut=True)


def cut_afterwards(payload: bytes) -> Forward:
    return Forward(framed(payload), is_cut=True)


def delay_for(seconds: float) -> Fault:
    return lambda payload: Forward(framed(payload), delay=seconds)


def corrupt_record(payload: bytes) -> Forward:
    """Flip a bit in the last record, which the batch's checksum covers: Kafka answers CORRUPT_MESSAGE."""
    place = len(payload) - 6  # within the value: what follows has 1 to 4 bytes, by the version of the request
    return Forward(framed(payload[:place] + bytes([payload[place] ^ 1]) + payload[place + 1 :]))


def corrupt_request(payload: bytes) -> Forward:
    """Replace the whole request, so that Kafka closes the connection."""
    return Forward(framed(b"\x7f" * 4 + os.urandom(len(payload) - 4)))


GARBAGE: Sequence[Fault] = [
    lambda payload: Forward(framed(os.urandom(len(payload)))),  # another correlation id, and nothing that makes sense
    lambda payload: Forward(framed(payload[:4] + os.urandom(len(payload) - 4))),  # a body that cannot be parsed
    lambda payload: Forward(struct.pack(">i", -1) + payload),
    lambda payload: Forward(struct.pack(">i", 0x7FFFFFFF) + payload),
    lambda payload: Forward(framed(payload[: len(payload) // 2])),
    lambda payload: Forward(framed(payload[:4] + bytes(len(payload) - 4))),  # a response that names no partition
    lambda payload: Forward(framed(payload) + framed(payload)),
    lambda _: Forward(b"HTTP/1.1 502 Bad Gateway\r\n\r\n"),
]
"""Responses that no broker sends."""

RESPONSE_FAULTS: Sequence[Fault] = [*GARBAGE, cut, cut_in_the_middle, cut_afterwards, delay_for(0.3), delay_for(1.5)]
REQUEST_FAULTS: Sequence[Fault] = [cut, cut_in_the_middle, cut_afterwards, corrupt_record, corrupt_request]


class KafkaProxy:
    """Forwards to a broker. While `is_on`, every `every`th produce request and response has one of the faults, in turn.

    `max_produce` is the highest version of produce requests that the broker seems to know.
    """

    def __init__(self, port: int, broker_port: int) -> None:
        self.is_on = False
        self.every = 7
        self.request_faults: Sequence[Fault] = []
        self.response_faults: Sequence[Fault] = GARBAGE
        self.max_produce: int | None = None
        self.disturbed = 0
        """The number of faults so far."""
        self.produce_versions: set[int] = set()
        """The versions of all produce requests."""
        self._broker_port = broker_port
        self._turns, self._faults = itertools.count(1), itertools.count()
        self._listener = socket.create_server(("127.0.0.1", port))
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                try:
                    broker = socket.create_connection(("127.0.0.1", self._broker_port))
                except OSError:
                    client.close()
                    continue
                _Tunnel(self, client, broker).start()

    def request_seen(self, payload: bytes) -> None:
        api, version = struct.unpack_from(">hh", payload)
        if api == PRODUCE:
            self.produce_versions.add(version)

    def disturb(self, payload: bytes, faults: Sequence[Fault]) -> Forward:
        """Return what to do with the frame of a produce request or of its response."""
        if not (self.is_on and faults and next(self._turns) % self.every == 0):
            return Forward(framed(payload))
        self.disturbed += 1
        return faults[next(self._faults) % len(faults)](payload)


class _Tunnel:
    """A client's connection and the broker's. A thread for each direction; either ends both."""

    def __init__(self, proxy: KafkaProxy, client: socket.socket, broker: socket.socket) -> None:
        self._proxy, self._client, self._broker = proxy, client, broker
        self._requests: dict[bytes, tuple[int, int]] = {}
        """API key and version of each request, by its correlation id."""

    def start(self) -> None:
        for each in (self._forward_requests, self._forward_responses):
            threading.Thread(target=each, daemon=True).start()

    def _forward_requests(self) -> None:
        for payload in _frames(self._client, self._broker):
            self._requests[payload[4:8]] = api, _ = struct.unpack_from(">hh", payload)
            self._proxy.request_seen(payload)
            faults = self._proxy.request_faults if api == PRODUCE else []
            self._send(self._broker, self._proxy.disturb(payload, faults))

    def _forward_responses(self) -> None:
        for payload in _frames(self._broker, self._client):
            api, version = self._requests.pop(payload[:4], (-1, -1))
            faults = self._proxy.response_faults if api == PRODUCE else []
            forward = self._proxy.disturb(payload, faults)
            if api == API_VERSIONS and self._proxy.max_produce is not None:
                forward = Forward(framed(with_max_produce(payload, version, self._proxy.max_produce)))
            self._send(self._client, forward)

    def _send(self, target: socket.socket, forward: Forward) -> None:
        if forward.delay:
            threading.Event().wait(forward.delay)
        with suppress(OSError):  # the reader of the other direction ends as well
            target.sendall(forward.data)
        if forward.is_cut:
            _shut(self._client, self._broker)


def _frames(source: socket.socket, other: socket.socket) -> Iterator[bytes]:
    """Yield the frames that come from a socket, until either side has gone; then close both."""
    with suppress(OSError), source.makefile("rb") as stream:
        while len(head := stream.read(4)) == 4:
            yield stream.read(*struct.unpack(">i", head))
    _shut(source, other)
    source.close()


def _shut(*sockets: socket.socket) -> None:
    for each in sockets:
        with suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)


def with_max_produce(payload: bytes, version: int, highest: int) -> bytes:
    """Change the highest version of Produce in an ApiVersions response of the given version.

    After correlation id and error code comes an array of API key, lowest and highest version, from version 3 on in the
    compact form: its length is a varint, and each element ends with an empty list of tags.
    """
    is_compact = version >= 3
    place = 4 + 2 + (1 if is_compact else 4)
    while is_compact and payload[place - 1] & 0x80:
        place += 1
    while struct.unpack_from(">h", payload, place)[0] != PRODUCE:
        place += 7 if is_compact else 6
    return payload[: place + 4] + struct.pack(">h", highest) + payload[place + 6 :]


@contextmanager
def kafka_behind_proxy(directory: Path) -> Iterator[tuple[EmbeddedKafka, KafkaProxy]]:
    """Run a broker that advertises the proxy's address. Its `bootstrap_servers` are its own address."""
    port, controller_port, proxy_port = free_ports(3)
    properties = {"advertised.listeners": f"PLAINTEXT://127.0.0.1:{proxy_port}"}
    kafka = EmbeddedKafka(BrokerNode(directory / "kafka", port, controller_port, properties=properties))
    with closing(KafkaProxy(proxy_port, port)) as proxy:
        kafka.start()
        try:
            yield kafka, proxy
        finally:
            kafka.stop()
