"""Requests that the calling thread sends on kafka-python's connections itself."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from kafka.errors import InvalidReceiveError, KafkaConnectionError, RequestTimedOutError
from kafka.protocol.metadata import MetadataRequest, MetadataResponse
from kafka.protocol.parser import KafkaProtocol

from kafka_http.broker.patches import exchange_directly

VERSION = 1


class Node:
    """A connection of kafka-python, logged in and idle, and the broker's end of its socket."""

    def __init__(self) -> None:
        ours, self.broker = socket.socketpair()
        ours.setblocking(False)
        self.connection = SimpleNamespace(
            connected=True,
            initializing=False,
            paused=set(),
            in_flight_requests=[],
            _request_buffer=[],
            _reauth=SimpleNamespace(is_reauthenticating=False),
            broker_version_data=SimpleNamespace(api_version=lambda _: VERSION),
            parser=KafkaProtocol(receive_message_max_bytes=1 << 20),
            transport=SimpleNamespace(_sock=ours, _write_buffer=[], last_read=0.0, last_write=0.0),
            _maybe_throttle=lambda _: None,
        )

    def receive(self) -> bytes:
        """The next request, without its size."""
        size = int.from_bytes(self.broker.recv(4, socket.MSG_WAITALL))
        return self.broker.recv(size, socket.MSG_WAITALL)

    def answer(self, request: bytes, controller: int, pieces: int = 1) -> None:
        response = MetadataResponse(brokers=[], controller_id=controller, topics=[])
        data = request[4:8] + response.encode(version=VERSION)
        frame = len(data).to_bytes(4) + data
        for start in range(0, len(frame), -(-len(frame) // pieces)):
            self.broker.sendall(frame[start : start + -(-len(frame) // pieces)])

    def close(self) -> None:
        self.broker.close()
        self.connection.transport._sock.close()


@pytest.fixture
def nodes() -> Iterator[list[Node]]:
    nodes = [Node(), Node()]
    yield nodes
    for each in nodes:
        each.close()


def exchange(nodes: list[Node], seconds: float = 5.0) -> list[Any] | None:
    manager: Any = SimpleNamespace(_conns={number: each.connection for number, each in enumerate(nodes)})
    requests = {number: MetadataRequest(topics=[]) for number in range(len(nodes))}
    return exchange_directly(manager, requests, time.monotonic() + seconds)


def in_thread(broker: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=broker, daemon=True)
    thread.start()
    return thread


def test_exchange_sends_to_all_nodes_before_it_waits(nodes: list[Node]) -> None:
    def broker() -> None:
        requests = [each.receive() for each in nodes]
        nodes[1].answer(requests[1], 11, pieces=7)
        nodes[0].answer(requests[0], 10, pieces=3)

    thread = in_thread(broker)
    responses = exchange(nodes)
    thread.join()
    assert responses is not None
    assert [each.controller_id for each in responses] == [10, 11]
    assert all(each.connection.transport._sock.getblocking() is False for each in nodes)  # as the loop needs it


@pytest.mark.parametrize(
    "state",
    [
        {"connected": False},
        {"initializing": True},
        {"paused": {"throttle"}},
        {"in_flight_requests": [1]},
        {"_request_buffer": [1]},
        {"_reauth": SimpleNamespace(is_reauthenticating=True)},
    ],
)
def test_exchange_leaves_connections_that_are_not_ready_to_the_loop(nodes: list[Node], state: dict[str, Any]) -> None:
    vars(nodes[1].connection).update(state)
    assert exchange(nodes) is None
    nodes[0].broker.setblocking(False)
    with pytest.raises(BlockingIOError):  # nothing was sent
        nodes[0].broker.recv(1)


def test_exchange_without_response_times_out(nodes: list[Node]) -> None:
    with pytest.raises(RequestTimedOutError):
        exchange(nodes[:1], 0.05)


def test_exchange_on_a_closed_connection_raises_connection_error(nodes: list[Node]) -> None:
    nodes[0].broker.close()
    with pytest.raises(KafkaConnectionError):
        exchange(nodes[:1])


def test_exchange_rejects_too_large_a_response(nodes: list[Node]) -> None:
    nodes[0].broker.sendall(b"\x7f\xff\xff\xff")
    with pytest.raises(InvalidReceiveError):
        exchange(nodes[:1])
