"""Requests to the leaders of partitions, repeated when a leader has moved."""

import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from kafka.errors import NoError, OffsetOutOfRangeError, for_code
from kafka.protocol.consumer import FetchRequest, ListOffsetsRequest

from kafka_http.backoff import Backoff
from kafka_http.broker.connections import ConnectionPool
from kafka_http.broker.error_map import STALE_METADATA, count_error, translate
from kafka_http.broker.topic_metadata import NoLeader, TopicMetadata
from kafka_http.errors import BrokerUnavailable, KafkaHttpError, RetriableBrokerError
from kafka_http.metrics import KAFKA_SECONDS, OTHER
from kafka_http.records import TopicPartition

PartitionResponses = dict[TopicPartition, Any]
Request = Callable[[Sequence[TopicPartition], float], Any]
"""Creates the request for the partitions of one node. The node may wait the given seconds for records."""
ByPartition = Callable[[Any], Iterable[tuple[TopicPartition, Any]]]
"""Splits the response of a node by partition."""

_NAMES: Mapping[type, str] = {FetchRequest: "fetch", ListOffsetsRequest: "list_offsets"}
"""Requests in the metrics."""
_MULTI_NODE_WAIT = 0.1
"""Longest wait for records, in seconds, when more than one node is asked."""


class LeaderRequests:
    """Sends requests to leaders. Any thread may call; each call has its own connection."""

    def __init__(self, connections: ConnectionPool, metadata: TopicMetadata, timeout: float) -> None:
        """`timeout` is that of a request, in seconds. One that waits for records has this time in addition."""
        self._connections = connections
        self._metadata = metadata
        self._timeout = timeout

    def ask(
        self, partitions: Collection[TopicPartition], request: Request, by_partition: ByPartition, wait: float = 0
    ) -> PartitionResponses:
        """Send a request to each leader at the same time, and again if a leader has moved.

        The brokers wait up to `wait` seconds for records, less if there is more than one leader. Raises the errors in
        the responses.
        """
        until = time.monotonic() + wait + self._timeout
        failure: KafkaHttpError = NoLeader(
            f"The leader of the partition is moving. Retry. Kafka: {self._metadata.servers}."
        )
        backoff, delay = Backoff(0.05, 1.0), 0.0  # an election takes about a second
        while time.monotonic() + delay <= until:
            if delay:  # even a sleep of 0 gives other threads the interpreter
                time.sleep(delay)
            try:
                return self._attempt(partitions, request, by_partition, wait)
            except _LeaderMoved as moved:
                delay = backoff.next()
                failure = moved.failure
                for topic in {each.topic for each in partitions}:
                    self._metadata.remove(topic)
        raise failure

    def _attempt(
        self, partitions: Collection[TopicPartition], request: Request, by_partition: ByPartition, wait: float
    ) -> PartitionResponses:
        """Raises `_LeaderMoved` if reading the metadata again may help; not if no broker answers."""
        try:
            leaders = self._metadata.by_leader(partitions)
        except NoLeader as error:
            raise _LeaderMoved(error) from error
        wait_limit = wait if len(leaders) == 1 else min(wait, _MULTI_NODE_WAIT)
        requests = {node: request(partitions, wait_limit) for node, partitions in leaders.items()}
        began = time.monotonic()
        try:
            nodes = self._connections.ask_nodes(requests, wait_limit + self._timeout)
            if not wait_limit:
                _observe(requests.values(), time.monotonic() - began)
        except (BrokerUnavailable, RetriableBrokerError) as error:  # retriable: the cluster no longer has this broker
            raise _LeaderMoved(error) from error
        responses = {tp: response for node in nodes for tp, response in by_partition(node)}
        _check(responses, self._metadata.servers)
        return responses


def _observe(requests: Iterable[Any], seconds: float) -> None:
    for each in requests:
        KAFKA_SECONDS.observe(seconds, _NAMES.get(type(each), OTHER))


class _LeaderMoved(Exception):
    """The leader of a partition is not, or not yet, the node that the metadata names."""

    def __init__(self, failure: KafkaHttpError) -> None:
        self.failure = failure


def is_out_of_range(response: Any) -> bool:
    """Return whether a partition's response says that the requested offset does not exist."""
    return for_code(response.error_code) is OffsetOutOfRangeError


def _check(responses: PartitionResponses, servers: str) -> None:
    for tp, response in responses.items():
        error = for_code(response.error_code)
        if error not in (NoError, OffsetOutOfRangeError):
            count_error(error)
        if error in STALE_METADATA:
            raise _LeaderMoved(NoLeader(translate(error, servers=servers).message))
        if error not in (NoError, OffsetOutOfRangeError):
            raise translate(error, tp.topic, servers=servers)
