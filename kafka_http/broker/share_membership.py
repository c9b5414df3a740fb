"""Membership of a share group: heartbeats to its coordinator."""

import time
from typing import Any

from kafka.errors import (
    CoordinatorNotAvailableError,
    FencedMemberEpochError,
    GroupIdNotFoundError,
    KafkaError,
    NoError,
    NotCoordinatorError,
    UnknownMemberIdError,
    for_code,
)

from kafka_http.broker.messages import ShareGroupHeartbeatRequest
from kafka_http.broker.share_connections import ShareConnections
from kafka_http.broker.share_session import new_member_id

_JOINING, _LEAVING = 0, -1
_ASSIGNMENT_POLL = 0.05
_ASSIGNMENT_SECONDS = 3.0
"""Time after which a member reads without an assignment: it reads all partitions anyway."""


class ShareMembership:
    """One member of a share group. Only the loop's thread uses it, for one call at a time.

    Kafka initializes a partition's start offset when a member subscribes, and tells the member's assignment then. The
    assignment itself is not followed: each member reads all partitions, so that none is left to a node whose clients
    are gone. Brokers do not check it.
    """

    def __init__(self, connections: ShareConnections, group: str, topic: str) -> None:
        self._connections = connections
        self._group = group
        self._topic = topic
        self._member_id = new_member_id()
        self._epoch = _JOINING
        self._coordinator: int | None = None
        self._interval = _ASSIGNMENT_POLL
        self._joined_at = 0.0
        self.may_read = False
        """Whether the partitions are initialized."""

    @property
    def interval(self) -> float:
        """Seconds until the next heartbeat."""
        return self._interval if self.may_read else _ASSIGNMENT_POLL

    async def beat(self) -> bool:
        """Join, or send a heartbeat. Return whether the assignment has changed.

        Raises errors of kafka-python. `GroupIdNotFoundError` means that the name belongs to a group of another type.
        """
        is_joining = self._epoch == _JOINING
        try:
            response = await self._send(self._epoch)
        except (UnknownMemberIdError, FencedMemberEpochError, GroupIdNotFoundError):
            if is_joining:
                raise
            is_joining = True  # the member was removed, or the group was deleted
            response = await self._send(_JOINING)
        self._epoch = response.member_epoch
        self._interval = response.heartbeat_interval_ms / 1000
        if is_joining:
            self._joined_at = time.monotonic()
        has_partitions = response.assignment is not None and bool(response.assignment.topic_partitions)
        if has_partitions or time.monotonic() > self._joined_at + _ASSIGNMENT_SECONDS:
            self.may_read = True
        return has_partitions

    async def leave(self) -> None:
        """Leave the group. Raises errors of kafka-python."""
        if self._epoch > _JOINING:
            await self._send(_LEAVING)

    async def _send(self, epoch: int) -> Any:
        new_request: Any = ShareGroupHeartbeatRequest
        request = new_request(
            group_id=self._group,
            member_id=self._member_id,
            member_epoch=epoch,
            rack_id=None,
            subscribed_topic_names=[self._topic] if epoch == _JOINING else None,
        )
        if self._coordinator is None:
            self._coordinator = await self._connections.coordinator(self._group)
        try:
            response = await self._connections.ask(self._coordinator, request)
        except KafkaError:
            self._coordinator = None
            raise
        self._check(response)
        return response

    def _check(self, response: Any) -> None:
        error = for_code(response.error_code)
        if error in (CoordinatorNotAvailableError, NotCoordinatorError):
            self._coordinator = None
        if error in (UnknownMemberIdError, FencedMemberEpochError, GroupIdNotFoundError):
            self._epoch = _JOINING
        if error is not NoError:
            raise error(response.error_message)
