"""Asking the leaders of partitions, wherever they are just now."""

import time
from collections.abc import Callable, Collection, Iterable, Sequence
from itertools import chain, repeat
from typing import Any

from kafka.errors import NoError, OffsetOutOfRangeError, for_code
from kafka.net.manager import KafkaConnectionManager

from kafka_http.broker.connections import ConnectionPool
from kafka_http.broker.error_map import STALE_METADATA, translate
from kafka_http.broker.topic_metadata import NoLeader, TopicMetadata
from kafka_http.errors import BrokerUnavailable, KafkaHttpError
from kafka_http.records import TopicPartition

Answers = dict[TopicPartition, Any]
Request = Callable[[Sequence[TopicPartition], float], Any]
"""Makes the request for the partitions of one node, which may wait there for so many seconds."""
Parts = Callable[[Any], Iterable[tuple[TopicPartition, Any]]]
"""What the answer of a node says of each partition."""

_PAUSES = (0.0, 0.05, 0.2, 0.5, 1.0)
"""Before each look for a leader that has moved, the last again and again; an election takes about a second."""
_SLICE = 0.1


class LeaderRequests:
    """Any thread may call; each call has a connection to itself."""

    def __init__(self, connections: ConnectionPool, metadata: TopicMetadata, timeout: float) -> None:
        """`timeout` in seconds is that of a request; one that waits gets it on top."""
        self._connections = connections
        self._metadata = metadata
        self._timeout = timeout

    def ask(self, places: Collection[TopicPartition], request: Request, parts: Parts, wait: float = 0) -> Answers:
        """Ask the partitions' leaders, all of them together, and again where one has moved.

        Waits for `wait` seconds at most, and not that long for more than one leader. Raises what else they answer.
        """
        until = time.monotonic() + wait + self._timeout
        failure: KafkaHttpError = NoLeader("The partition's leader is moving, try again.")
        for pause in chain(_PAUSES, repeat(_PAUSES[-1])):
            if time.monotonic() + pause > until:
                break
            if pause:
                time.sleep(pause)
            try:
                return self._attempt(places, request, parts, wait)
            except _LeaderMoved as moved:
                failure = moved.failure
                for topic in {each.topic for each in places}:
                    self._metadata.forget(topic)
        raise failure

    def _attempt(self, places: Collection[TopicPartition], request: Request, parts: Parts, wait: float) -> Answers:
        """Raises `_LeaderMoved` where another look at the metadata may help, so not where no broker has any."""
        try:
            leaders = self._metadata.by_leader(places)
        except NoLeader as error:
            raise _LeaderMoved(error) from error
        longest = wait if len(leaders) == 1 else min(wait, _SLICE)
        requests = {node: request(partitions, longest) for node, partitions in leaders.items()}
        try:
            nodes = self._send(requests, longest + self._timeout)
        except BrokerUnavailable as error:
            raise _LeaderMoved(error) from error
        answers = {place: answer for node in nodes for place, answer in parts(node)}
        _check(answers)
        return answers

    def _send(self, requests: dict[int, Any], timeout: float) -> list[Any]:
        """One request to each of these nodes, all under way together."""

        async def ask(manager: KafkaConnectionManager) -> list[Any]:
            sent = [manager.send(request, node, int(timeout * 1000)) for node, request in requests.items()]
            return [await each for each in sent]

        return self._connections.run(ask, timeout)


class _LeaderMoved(Exception):
    """A partition's leader is not, or not yet, where the metadata has it."""

    def __init__(self, failure: KafkaHttpError) -> None:
        self.failure = failure


def is_out_of_range(answer: Any) -> bool:
    return for_code(answer.error_code) is OffsetOutOfRangeError


def _check(answers: Answers) -> None:
    for place, answer in answers.items():
        error = for_code(answer.error_code)
        if error in STALE_METADATA:
            raise _LeaderMoved(NoLeader(translate(error).message))
        if error not in (NoError, OffsetOutOfRangeError):
            raise translate(error, place.topic)
