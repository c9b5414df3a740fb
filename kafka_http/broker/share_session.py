"""A share session with one leader: its connection, its epoch, and its partitions."""

import base64
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple
from uuid import UUID, uuid4

from kafka.errors import InvalidRequestError, KafkaConnectionError, KafkaError, NoError, for_code
from kafka.net.manager import KafkaConnectionManager
from msgspec import Struct

from kafka_http.broker.share_requests import (
    Acks,
    AcquiredColumns,
    PartitionChange,
    SessionId,
    acknowledge_request,
    acquired_columns,
    fetch_request,
)
from kafka_http.records import TopicPartition

Errors = Mapping[int, type[KafkaError]]
"""Kafka's errors by partition."""

_CLOSED = -1
_TIMEOUT_MS = 12_000
"""Time for a response. Where a broker that keeps the states of messages is lost, another one takes some seconds.

A request without a response costs all locks of the session.
"""


class Topic(NamedTuple):
    """A topic's name, and the id that it got when it was created."""

    name: str
    id: UUID


class ShareFetched(Struct, frozen=True):
    """The result of a fetch.

    acquired: the acquired records of each partition that has some.
    corrupt: why the records of a partition could not be decoded. They are locked all the same.
    until: when their locks end at the earliest, on the monotonic clock.
    errors: the errors of partitions that could not be fetched.
    refused: the errors of acknowledgements. All acknowledgements of the partition in this request had no effect.
    """

    acquired: Sequence[AcquiredColumns]
    corrupt: Sequence[Exception]
    until: float
    errors: Errors
    refused: Errors


class ShareSession:
    """One session, on one connection. The broker releases its locks when the connection ends.

    A `ShareLeader` makes it, and another one after the connection is lost. Each has a member id of its own: with the
    same id, a broker that notices the end of the old connection late would release the locks of the new session.
    Brokers do not check that the id has joined the group. Only the loop's thread uses it, for one request at a time.
    """

    def __init__(self, manager: KafkaConnectionManager, group: str, topic: Topic, on_lost: Callable[[], None]) -> None:
        """`manager` is for this session alone. `on_lost` is called once if the connection ends before `close`."""
        self._manager = manager
        self._id = SessionId(group, new_member_id(), topic.id)
        self._topic = topic.name
        self._on_lost = on_lost
        self._connection: Any = None
        self._epoch = 0
        self._partitions: frozenset[int] = frozenset()
        self.used_at = time.monotonic()
        """When the last request was sent."""

    @property
    def is_open(self) -> bool:
        """Whether the broker knows the session, so that it may hold locks."""
        return self._epoch > 0

    async def connect(self, node: int) -> None:
        """Connect to the leader. Raises errors of kafka-python."""
        connection = self._manager.get_connection(node)
        await connection
        connection.close_future.add_both(self._on_connection_closed)
        self._connection = connection

    async def fetch(self, partitions: Collection[int], max_records: int, acks: Acks) -> ShareFetched:
        """Send acknowledgements, and acquire up to `max_records` of these partitions.

        Raises the error of the whole request, or of the connection. After an error of the request the next one opens
        the session again, which keeps the locks, unless the error is that there is no session.
        """
        if acks and not self.is_open:  # the first request of a session cannot carry any
            await self.fetch(partitions, 0, {})
        wanted = frozenset(partitions)
        change = PartitionChange(wanted - self._partitions, self._partitions - wanted)
        sent_at = time.monotonic()
        response = await self._send(fetch_request(self._id, self._epoch, max_records, change, acks))
        self._partitions = wanted
        return self._fetched(response, sent_at)

    async def acknowledge(self, acks: Acks) -> Errors:
        """Send acknowledgements. Return the partitions whose acknowledgements had no effect, with the reason."""
        response = await self._send(acknowledge_request(self._id, self._epoch, acks))
        return {
            each.partition_index: for_code(each.error_code)
            for topic in response.responses
            for each in topic.partitions
            if each.error_code
        }

    async def close(self) -> None:
        """Close the session, so that the broker releases what is locked, and the connection."""
        try:
            if self.is_open:
                self._epoch = _CLOSED
                await self._send(acknowledge_request(self._id, _CLOSED, {}))
        finally:
            self.drop()

    def drop(self) -> None:
        """Close the connection only, without `on_lost`."""
        self._epoch = 0
        self._connection = None
        self._manager.close()

    async def _send(self, request: Any) -> Any:
        if self._connection is None:
            raise KafkaConnectionError("the connection was lost")
        self.used_at = time.monotonic()
        epoch, self._epoch = self._epoch, 0  # an epoch is never used again after an error
        response = await self._connection.send_request(request, _TIMEOUT_MS)
        error = for_code(response.error_code)
        if error is not NoError:
            if error is InvalidRequestError:  # refused before the broker looked at the session
                self._epoch = epoch
            else:
                self._partitions = frozenset()
            raise error(response.error_message)
        self._epoch = epoch + 1
        return response

    def _fetched(self, response: Any, sent_at: float) -> ShareFetched:
        acquired, corrupt, errors, refused = [], [], {}, {}
        for each in (each for topic in response.responses for each in topic.partitions):
            if each.error_code:
                errors[each.partition_index] = for_code(each.error_code)
            if each.acknowledge_error_code:
                refused[each.partition_index] = for_code(each.acknowledge_error_code)
            if each.acquired_records:
                try:
                    acquired.append(acquired_columns(TopicPartition(self._topic, each.partition_index), each))
                except Exception as error:
                    corrupt.append(error)
        until = sent_at + response.acquisition_lock_timeout_ms / 1000
        return ShareFetched(acquired, corrupt, until, errors, refused)

    def _on_connection_closed(self, _: object) -> None:
        if self._connection is not None:
            self._connection = None
            self._epoch = 0
            self._on_lost()


def new_member_id() -> str:
    """Return a random id in the form of Kafka's UUIDs, which brokers parse."""
    text = "-"
    while text.startswith("-"):
        text = base64.urlsafe_b64encode(uuid4().bytes).rstrip(b"=").decode()
    return text
