"""Brokers for a producer, in one process: they take the place of `ProducerCalls`, and answer produce requests."""

import socket
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from typing import Any

from kafka_http.broker.idempotent_producer import IdempotentProducer
from kafka_http.broker.partition_queue import ProducerIdentity
from kafka_http.broker.patches import TakenSocket
from kafka_http.broker.producer_calls import OpenedConnection
from kafka_http.errors import KafkaHttpError, TopicNotFound
from kafka_http.records import PartitionInfo
from tests.support.partition_play import PartitionLog, StoredRecord
from tests.support.produce_peer import ProducePeer, Request
from tests.support.small_loop import SmallLoop

NOT_LEADER, UNKNOWN_TOPIC = 6, 3
SETTINGS: dict[str, Any] = {
    "client_id": "client",
    "max_request_size": 1 << 20,
    "batch_size": 1 << 16,
    "delivery_timeout_ms": 10_000,
    "long_delivery_timeout_ms": 120_000,
    "request_timeout_ms": 5000,
    "retry_backoff_ms": 1,
    "linger_ms": 0,
}


class FakeLeaders:
    """Topics, their leaders and logs. As `ProducerCalls`, it makes calls when the test says so, in the test's thread.

    `errors` has the errors that the next calls of a name raise. The brokers answer in `serve`.
    """

    def __init__(self) -> None:
        self.topics: dict[str, list[PartitionInfo]] = {}
        self.logs: dict[tuple[str, int], PartitionLog] = defaultdict(PartitionLog)
        self.errors: dict[str, list[KafkaHttpError]] = defaultdict(list)
        self.calls: list[str] = []
        """The names of all calls that were made."""
        self.peers: dict[int, list[ProducePeer]] = defaultdict(list)
        """The brokers' ends of all connections, by node id."""
        self.answered: list[tuple[int, Request]] = []
        """The answered requests, with the node ids."""
        self.silent: set[int] = set()
        """Brokers that do not answer."""
        self.lifetime = 0.0
        """That of logins, in seconds."""
        self.limit = 1000
        self.first_epoch = 0
        self._next_producer = count(1)
        self._submitted: list[tuple[Callable[..., Any], tuple[Any, ...], Callable[..., None]]] = []
        self._is_closed = False

    def create(self, topic: str, *leaders: int) -> None:
        """Create a topic with one partition for each leader, or change its leaders. The logs stay."""
        self.topics[topic] = [PartitionInfo(each, leader, (leader,), (leader,)) for each, leader in enumerate(leaders)]

    def delete(self, topic: str) -> None:
        """Delete a topic and its logs."""
        for partition in range(len(self.topics.pop(topic))):
            self.logs.pop((topic, partition), None)

    def stored(self, topic: str, partition: int = 0) -> list[StoredRecord]:
        return self.logs[topic, partition].records

    # As `ProducerCalls`

    @property
    def addresses(self) -> dict[int, str]:
        return {1: "broker1:9092", 2: "broker2:9092"}

    def submit(self, call: Callable[..., Any], *args: Any, then: Callable[[Any, KafkaHttpError | None], None]) -> None:
        if not self._is_closed:
            self._submitted.append((call, args, then))

    def close(self) -> None:
        self._is_closed = True
        for peers in self.peers.values():
            for each in peers:
                each.sock.close()

    def partitions(self, topic: str) -> list[PartitionInfo]:
        self._called("partitions")
        if topic not in self.topics:
            raise TopicNotFound(topic)
        return self.topics[topic]

    def connect(self, node: int) -> OpenedConnection:
        self._called("connect")
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        self.peers[node].append(ProducePeer(theirs))
        return OpenedConnection(TakenSocket(ours, (0, 8), self.lifetime), 8)

    def new_identity(self) -> ProducerIdentity:
        self._called("new_identity")
        return ProducerIdentity(next(self._next_producer), self.first_epoch)

    def message_limit(self, _: str) -> int:
        self._called("message_limit")
        return self.limit

    def _called(self, name: str) -> None:
        self.calls.append(name)
        if self.errors[name]:
            raise self.errors[name].pop(0)

    # For tests

    def make_calls(self) -> None:
        """Make the submitted calls."""
        submitted, self._submitted = self._submitted, []
        for call, args, then in submitted:
            try:
                result, error = call(*args), None
            except KafkaHttpError as raised:
                result, error = None, raised
            then(result, error)

    def serve(self) -> None:
        """Let all brokers that are not silent answer what they have received."""
        for node, peers in list(self.peers.items()):
            for peer in peers:
                requests = [] if node in self.silent or peer.sock.fileno() < 0 else peer.read()
                while requests:
                    self._answer(node, peer, requests.pop(0))

    def _answer(self, node: int, peer: ProducePeer, request: Request) -> None:
        self.answered.append((node, request))
        results = {place: self._append(node, place, data) for place, data in request.batches.items()}
        with suppress(BrokenPipeError):
            peer.sock.sendall(peer.response(request.number, results))

    def _append(self, node: int, place: tuple[str, int], data: bytes) -> tuple[int, int]:
        topic, partition = place
        known = self.topics.get(topic, [])
        if partition >= len(known):
            return UNKNOWN_TOPIC, -1
        if known[partition].leader != node:
            return NOT_LEADER, -1
        answer = self.logs[place].append(data)
        return answer.error_code, answer.offset


class ProducerRun:
    """A producer, its brokers and its loop, which the test drives."""

    def __init__(self, **settings: Any) -> None:
        self.brokers = FakeLeaders()
        self.loop = SmallLoop()
        self.producer = IdempotentProducer(SETTINGS | settings, self.brokers)  # type: ignore[arg-type]
        self.producer.attach(self.loop)
        self.loop.after_round = self.producer.end_round

    def round(self) -> None:
        """Run a round of the loop, make blocking calls, and let the brokers answer."""
        self.loop.run_round()
        self.brokers.make_calls()
        self.brokers.serve()

    def run_until(self, condition: Callable[[], Any]) -> None:
        def holds() -> Any:
            self.brokers.make_calls()
            self.brokers.serve()
            return condition()

        self.loop.run_until(holds)

    def run_until_done(self, *publishes: Any) -> None:
        self.run_until(lambda: all(each.is_done for each in publishes))

    def close(self) -> None:
        self.producer.close(0)
        self.brokers.close()
        self.loop.close()
