"""A connection for produce requests: what it sends, what it reads in pieces, and how it ends."""

import logging
import socket
import ssl
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from selectors import EVENT_READ, EVENT_WRITE
from typing import Any

import pytest

from kafka_http.broker.partition_queue import Batch, PartitionQueue, ProducerIdentity, TopicClock
from kafka_http.broker.produce_connection import MAX_IN_FLIGHT, ProduceConnection
from kafka_http.broker.produce_requests import PartitionResponse, ProduceProtocol
from tests.support.produce_peer import ProducePeer
from tests.support.small_loop import SmallLoop
from tests.support.tls_pair import tls_pair


def batch(partition: int = 0, data: bytes = b"records", topic: str = "t") -> Batch:
    identity, clock = ProducerIdentity(1, 0), TopicClock(topic)
    queue = PartitionQueue(topic, partition, identity, clock, batch_size=1, compression=0, retry_backoff=0)
    made = Batch(queue, [], 1, without_time=False)
    made.data = data
    return made


class Client:
    """A connection, and what it has reported."""

    def __init__(self, sock: Any, peer: Any, *, lifetime: float = 0, version: int = 8) -> None:
        sock.setblocking(False)
        self.sock = sock
        self.loop = SmallLoop()
        self.peer = ProducePeer(peer, version)
        self.responses: list[tuple[Batch, PartitionResponse]] = []
        self.lost: list[tuple[list[Batch], str]] = []
        self.connection = ProduceConnection(
            self.loop,
            3,
            sock,
            ProduceProtocol(version, "client", 5000),
            lifetime=lifetime,
            on_response=lambda *response: self.responses.append(response),
            on_lost=lambda _, batches, reason: self.lost.append((list(batches), reason)),
        )

    def send(self, *batches: Batch) -> None:
        self.connection.send(batches)

    def requests(self, count: int) -> Sequence[Any]:
        """Run the loop until the peer has so many requests, and return them."""
        self.loop.run_until(lambda: len(self.peer.read()) >= count)
        return self.peer.requests

    def run_until_answered(self, count: int) -> None:
        self.loop.run_until(lambda: len(self.responses) >= count)

    def run_until_lost(self) -> None:
        self.loop.run_until(lambda: self.lost)

    def close(self) -> None:
        self.connection.close("test")
        self.peer.sock.close()
        self.loop.close()


@pytest.fixture
def client() -> Iterator[Client]:
    client = Client(*socket.socketpair())
    yield client
    client.close()


@pytest.mark.parametrize("version", range(3, 9))
def test_one_batch_is_sent_and_answered(version: int) -> None:
    client = Client(*socket.socketpair(), version=version)
    sent = batch(5, b"some records")
    client.send(sent)
    (request,) = client.requests(1)
    assert request.batches == {("t", 5): b"some records"}
    client.peer.answer(request, offset=9)
    client.run_until_answered(1)
    ((answered, response),) = client.responses
    assert answered is sent
    assert (response.partition, response.error_code, response.base_offset) == (5, 0, 9)
    client.close()


def test_batches_of_several_topics_share_a_request(client: Client) -> None:
    client.send(batch(0, b"a"), batch(1, b"b"), batch(0, b"c", "other"))
    (request,) = client.requests(1)
    assert request.batches == {("t", 0): b"a", ("t", 1): b"b", ("other", 0): b"c"}
    client.peer.answer(request)
    client.run_until_answered(3)


def test_request_larger_than_the_socket_buffer_is_sent_in_parts(client: Client) -> None:
    large = bytes(5_000_000)
    client.send(batch(0, large))
    client.send(batch(1, b"behind it"))
    assert client.loop.events_of(client.sock) == EVENT_READ | EVENT_WRITE
    first, second = client.requests(2)
    assert (first.batches[("t", 0)], second.batches[("t", 1)]) == (large, b"behind it")
    assert client.loop.events_of(client.sock) == EVENT_READ


def test_response_in_pieces_of_one_byte_is_read(client: Client) -> None:
    client.send(batch())
    (request,) = client.requests(1)
    for each in client.peer.response(request.number, {("t", 0): (0, 7)}):
        assert not client.responses
        client.peer.sock.send(bytes([each]))
        client.loop.run_round()
    client.run_until_answered(1)


def test_several_responses_in_one_piece_are_read(client: Client) -> None:
    sent = [batch(each) for each in range(4)]
    for each in sent:
        client.send(each)
    requests = client.requests(4)
    together = b"".join(client.peer.response(each.number, dict.fromkeys(each.batches, (0, 7))) for each in requests)
    client.peer.sock.send(together[:-3])
    client.run_until_answered(3)
    client.peer.sock.send(together[-3:])
    client.run_until_answered(4)
    assert [each for each, _ in client.responses] == sent


def test_five_requests_may_be_in_flight(client: Client) -> None:
    for each in range(MAX_IN_FLIGHT):
        assert client.connection.can_send(time.monotonic())
        client.send(batch(each))
    assert not client.connection.can_send(time.monotonic())
    client.peer.answer(client.requests(MAX_IN_FLIGHT)[0])
    client.run_until_answered(1)
    assert client.connection.can_send(time.monotonic())


def test_late_response_closes_the_connection(client: Client) -> None:
    first, second = batch(0), batch(1)
    client.send(first)
    client.send(second)
    now = time.monotonic()
    client.connection.close_if_late(now + 4, 5)
    assert client.connection.is_open
    client.connection.close_if_late(now + 6, 5)
    assert client.lost == [([first, second], "timed out")]
    assert client.loop.events_of(client.sock) == 0


def test_idle_connection_is_never_late(client: Client) -> None:
    client.connection.close_if_late(time.monotonic() + 1000, 5)
    assert client.connection.is_open


def test_close_by_the_broker_reports_batches_in_flight(client: Client) -> None:
    sent = batch()
    client.send(sent)
    client.requests(1)
    client.peer.sock.close()
    client.run_until_lost()
    assert client.lost == [([sent], "connection closed by the broker")]
    assert not client.connection.is_usable(time.monotonic())


def test_send_to_a_closed_connection_reports_the_batches(client: Client) -> None:
    """The first of two requests of a round may close it. The batches of the second waited for ever."""
    client.peer.sock.close()
    first, second = batch(0), batch(1)
    client.send(first)
    client.send(second)
    assert [each for batches, _ in client.lost for each in batches] == [first, second]


def test_connection_is_closed_once(client: Client) -> None:
    client.send(batch())
    client.connection.close("a reason")
    client.connection.close("another")
    client.loop.run_round()
    assert len(client.lost) == 1


@pytest.mark.parametrize(
    "results",
    [
        {},
        {("t", 0): (0, 7)},
        {("t", 0): (0, 7), ("t", 2): (0, 7)},
        {("t", 0): (0, 7), ("t", 1): (0, 7), ("t", 2): (0, 7)},
        {("other", 0): (0, 7), ("t", 1): (0, 7)},
    ],
)
def test_response_about_other_partitions_closes_the_connection(
    client: Client, results: dict[tuple[str, int], tuple[int, int]], caplog: pytest.LogCaptureFixture
) -> None:
    sent = [batch(0), batch(1)]
    client.send(*sent)
    (request,) = client.requests(1)
    with caplog.at_level(logging.WARNING):
        client.peer.sock.send(client.peer.response(request.number, results))
        client.run_until_lost()
    assert client.lost == [(sent, "malformed response")]
    assert not client.responses
    assert "cannot be read" in caplog.text


@pytest.mark.parametrize("shift", [-1, 1, 1000])
def test_response_with_another_correlation_id_closes_the_connection(client: Client, shift: int) -> None:
    client.send(batch())
    (request,) = client.requests(1)
    client.peer.answer(request._replace(number=request.number + shift))
    client.run_until_lost()
    assert not client.responses


def test_response_without_a_request_closes_the_connection(client: Client) -> None:
    client.peer.sock.send(client.peer.response(1, {("t", 0): (0, 7)}))
    client.run_until_lost()


@pytest.mark.parametrize("size", [-1, 0, 3, 0x7FFFFFFF])
def test_impossible_size_closes_the_connection(client: Client, size: int) -> None:
    client.send(batch())
    client.requests(1)
    client.peer.sock.send(size.to_bytes(4, signed=True))
    client.run_until_lost()


def test_throttle_time_delays_the_next_request(client: Client) -> None:
    client.send(batch())
    client.peer.answer(client.requests(1)[0], throttle_ms=60_000)
    client.run_until_answered(1)
    now = time.monotonic()
    assert not client.connection.can_send(now)
    assert client.connection.is_usable(now)
    assert client.connection.can_send(now + 61)


def test_replaced_connection_closes_after_its_last_response(client: Client) -> None:
    client.send(batch(0))
    client.send(batch(1))
    first, second = client.requests(2)
    client.connection.retire()
    client.peer.answer(first)
    client.run_until_answered(1)
    assert client.connection.is_open
    client.peer.answer(second)
    client.run_until_answered(2)
    assert client.lost == [([], "replaced")]


def test_replaced_connection_closes_at_once_if_nothing_is_in_flight(client: Client) -> None:
    client.connection.retire()
    assert client.lost == [([], "replaced")]


def test_login_is_renewed_before_it_ends() -> None:
    client = Client(*socket.socketpair(), lifetime=100)
    now = time.monotonic()
    assert now + 60 < client.connection.renew_at < now + 80
    assert client.connection.is_usable(now + 90)
    assert not client.connection.is_usable(now + 96)
    client.close()


def test_login_without_a_lifetime_never_ends(client: Client) -> None:
    assert client.connection.renew_at == float("inf")
    assert client.connection.is_usable(time.monotonic() + 1e9)


def test_connection_moves_to_another_loop(client: Client) -> None:
    client.send(batch(0, bytes(5_000_000)))
    client.loop.close()
    client.loop = SmallLoop()
    client.connection.move(client.loop)
    client.peer.answer(client.requests(1)[0])
    client.run_until_answered(1)


# TLS


@pytest.fixture
def tls(tmp_path: Path) -> Iterator[Client]:
    """A connection over TLS, without a network."""
    client = Client(*tls_pair(tmp_path))
    yield client
    client.close()


def test_tls_carries_requests_and_responses(tls: Client) -> None:
    for each in range(3):
        tls.send(batch(each))
    for each in tls.requests(3):
        tls.peer.answer(each)
    tls.run_until_answered(3)


def test_tls_request_larger_than_the_socket_buffer_is_sent_in_parts(tls: Client) -> None:
    large = bytes(3_000_000)
    tls.send(batch(0, large))
    assert tls.loop.events_of(tls.sock) & EVENT_WRITE
    (request,) = tls.requests(1)
    assert request.batches[("t", 0)] == large
    assert tls.loop.events_of(tls.sock) == EVENT_READ


def test_tls_responses_of_one_event_are_all_read(tls: Client) -> None:
    """TLS decrypts more than it returns, and the socket does not announce the rest."""
    sent = [batch(each) for each in range(3)]
    for each in sent:
        tls.send(each)
    for each in tls.requests(3):
        tls.peer.answer(each)
    tls.loop.run_round()
    tls.loop.run_round()
    assert [each for each, _ in tls.responses] == sent


def test_tls_close_by_the_broker_reports_batches_in_flight(tls: Client) -> None:
    sent = batch()
    tls.send(sent)
    tls.requests(1)
    tls.peer.sock.close()
    tls.run_until_lost()
    assert tls.lost[0][0] == [sent]


def test_corrupt_tls_bytes_close_the_connection(tls: Client) -> None:
    sent = batch()
    tls.send(sent)
    tls.requests(1)
    raw = socket.socket(fileno=tls.peer.sock.detach())
    raw.send(b"no TLS record at all")
    tls.run_until_lost()
    assert tls.lost[0][0] == [sent]
    raw.close()


class WantingSocket:
    """A socket whose next calls raise what TLS raises during a change of keys."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self.send_errors: list[OSError] = []
        self.receive_errors: list[OSError] = []

    def send(self, data: memoryview) -> int:
        if self.send_errors:
            raise self.send_errors.pop()
        return self._sock.send(data)

    def recv(self, size: int) -> bytes:
        if self.receive_errors:
            raise self.receive_errors.pop()
        return self._sock.recv(size)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        return ssl.SSLSocket


@pytest.fixture
def wanting() -> Iterator[Client]:
    sock, peer = socket.socketpair()
    client = Client(WantingSocket(sock), peer)
    yield client
    client.close()


def test_tls_that_must_read_before_it_sends_waits_for_data(wanting: Client) -> None:
    """Waiting for room to write, which there is, would keep the processor busy."""
    wanting.sock.send_errors = [ssl.SSLWantReadError()]
    wanting.send(batch())
    assert wanting.loop.events_of(wanting.sock) == EVENT_READ
    wanting.peer.sock.send(b"\0")
    wanting.loop.run_round()
    assert len(wanting.peer.read()) == 1


def test_tls_that_must_write_before_it_reads_waits_for_room(wanting: Client) -> None:
    wanting.send(batch())
    (request,) = wanting.requests(1)
    wanting.sock.receive_errors = [ssl.SSLWantWriteError()]
    wanting.peer.answer(request)
    wanting.loop.run_round()
    assert wanting.loop.events_of(wanting.sock) == EVENT_WRITE
    wanting.run_until_answered(1)
    assert wanting.loop.events_of(wanting.sock) & EVENT_READ
