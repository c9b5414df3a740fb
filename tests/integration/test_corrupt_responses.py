"""Garbage in place of Kafka's responses: nothing that was accepted is lost or written twice."""

import itertools
import os
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from kafka_http.demo import broker_properties
from kafka_http.demo.embedded_kafka import EmbeddedKafka
from kafka_http.demo.local_resources import free_ports
from tests.conftest import new_kafka
from tests.integration.conftest import ServiceFactory
from tests.integration.test_outbox_failures import Clients, consumed, made_topic, pending
from tests.support.load_clients import Load, check_nothing_lost_or_doubled
from tests.support.polling import wait_for

PRODUCE = 0
EVERY = 7


def framed(payload: bytes) -> bytes:
    return struct.pack(">i", len(payload)) + payload


GARBAGE: list[Callable[[bytes], bytes]] = [
    lambda payload: framed(os.urandom(len(payload))),  # another correlation id, and nothing after it that makes sense
    lambda payload: framed(payload[:4] + os.urandom(len(payload) - 4)),  # a body that cannot be parsed
    lambda payload: struct.pack(">i", -1) + payload,
    lambda payload: struct.pack(">i", 0x7FFFFFFF) + payload,
    lambda payload: framed(payload[: len(payload) // 2]),
    lambda payload: framed(payload[:4] + bytes(len(payload) - 4)),  # a response that names no partition
    lambda payload: framed(payload) + framed(payload),
    lambda payload: b"HTTP/1.1 502 Bad Gateway\r\n\r\n",
]


class Proxy:
    """Stands between Kafka's clients and a broker, and replaces some responses to produce requests."""

    def __init__(self, port: int, broker_port: int) -> None:
        self.is_on = False
        self.replaced = 0
        self._broker_port = broker_port
        self._turns = itertools.count(1)
        self._kinds = itertools.cycle(GARBAGE)
        self._listener = socket.create_server(("127.0.0.1", port))
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                broker = socket.create_connection(("127.0.0.1", self._broker_port))
                produces: set[bytes] = set()
                for each in (self._requests, self._responses):
                    threading.Thread(target=each, args=(client, broker, produces), daemon=True).start()

    def _requests(self, client: socket.socket, broker: socket.socket, produces: set[bytes]) -> None:
        with suppress(OSError):
            for payload in frames(client, broker):
                if struct.unpack_from(">h", payload)[0] == PRODUCE:
                    produces.add(payload[4:8])
                broker.sendall(framed(payload))

    def _responses(self, client: socket.socket, broker: socket.socket, produces: set[bytes]) -> None:
        with suppress(OSError):
            for payload in frames(broker, client):
                is_replaced = self.is_on and payload[:4] in produces and next(self._turns) % EVERY == 0
                self.replaced += is_replaced
                client.sendall(next(self._kinds)(payload) if is_replaced else framed(payload))


def frames(source: socket.socket, other: socket.socket) -> Iterator[bytes]:
    """Those that come from a socket, until either side has gone; then both are closed."""
    try:
        with source.makefile("rb") as stream:
            while len(head := stream.read(4)) == 4:
                yield stream.read(*struct.unpack(">i", head))
    except OSError:
        pass
    finally:
        for each in (source, other):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()


@pytest.fixture
def proxy(kafka_parts: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[EmbeddedKafka, Proxy]]:
    """A broker that tells its clients the proxy's address."""
    (port,) = free_ports(1)
    light = broker_properties._light_settings
    listeners = {"advertised.listeners": f"PLAINTEXT://127.0.0.1:{port}"}
    monkeypatch.setattr(broker_properties, "_light_settings", lambda: light() | listeners)
    kafka = new_kafka(tmp_path)
    with closing(Proxy(port, int(kafka.bootstrap_servers.rpartition(":")[2]))) as proxy:
        kafka.start()
        try:
            yield kafka, proxy
        finally:
            kafka.stop()


def test_corrupt_kafka_responses_double_no_accepted_message(
    proxy: tuple[EmbeddedKafka, Proxy], start_service: ServiceFactory
) -> None:
    kafka, between = proxy
    topic = made_topic(kafka, 3)
    service = start_service(kafka.bootstrap_servers, producer__request_timeout_ms=1000)
    assert service.put(f"/messages/{topic}?key=first", b"0").ok
    between.is_on = True
    with Clients(service, topic, 10**9) as clients:
        wait_for(lambda: between.replaced > len(GARBAGE), 60)
        clients.stop()
    between.is_on = False
    wait_for(lambda: not pending(service), 60)
    found = consumed(kafka, topic)
    assert {f"client-{client}": sent for client, sent in clients.accepted.items()} == {
        key: values for key, values in found.items() if key != "first"
    }


def test_corrupt_kafka_responses_double_no_published_message(
    proxy: tuple[EmbeddedKafka, Proxy], start_service: ServiceFactory
) -> None:
    kafka, between = proxy
    topic = made_topic(kafka, 3)
    service = start_service(kafka.bootstrap_servers, producer__request_timeout_ms=1000)
    load = Load(service, topic)
    between.is_on = True
    with load.running(publishers=6, consumers=False):
        wait_for(lambda: between.replaced > len(GARBAGE), 60)
        between.is_on = False
    assert set(Counter(each.status for each in load.answers)) <= {200, 503, 504}
    check_nothing_lost_or_doubled(load, kafka.bootstrap_servers, topic, 3)
