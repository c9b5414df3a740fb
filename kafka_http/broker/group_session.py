"""A session of a member with its group: kafka-python's coordinator, driven by coroutines alone."""

import logging
import time
from collections import deque
from contextlib import suppress
from typing import Any

from kafka.consumer.subscription_state import AsyncConsumerRebalanceListener, SubscriptionState
from kafka.coordinator.assignors.range import RangePartitionAssignor
from kafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor
from kafka.coordinator.consumer import ConsumerCoordinator
from kafka.errors import (
    Cancelled,
    FencedInstanceIdError,
    KafkaError,
    KafkaTimeoutError,
    RebalanceInProgressError,
    TopicAuthorizationFailedError,
    UnknownTopicOrPartitionError,
)
from kafka.future import Future
from kafka.net.compat import KafkaNetClient
from kafka.net.selector import NetworkSelector
from kafka.net.wakeup_notifier import WakeupNotifier
from kafka.structs import OffsetAndMetadata
from kafka.structs import TopicPartition as KafkaTopicPartition

from kafka_http.broker.connections import PatchedConnectionManager
from kafka_http.records import RELEASE_SECONDS, Assignment, Commits, MembershipListener, ReleaseCallback, TopicPartition

_log = logging.getLogger(__name__)

SESSION_SECONDS = 10.0
_CONNECT_MS = 3_000
_METADATA_MS = 5_000
_COMMIT_MS = 2_000
_LOST_AFTER = 15.0
"""Seconds without a coordinator after which the brokers' addresses are asked for anew."""


class Entrance:
    """Lets so many coroutines of a loop in at a time."""

    def __init__(self, places: int) -> None:
        self._places = places
        self._queue: deque[Future] = deque()

    async def enter(self) -> None:
        self._places -= 1
        if self._places < 0:
            turn = Future()
            self._queue.append(turn)
            await turn

    def leave(self) -> None:
        self._places += 1
        if self._queue:
            self._queue.popleft().success(None)


class GroupSession:
    """One client of the cluster and its coordinator, for as long as they are of use."""

    def __init__(
        self, loop: NetworkSelector, settings: dict[str, Any], wake: WakeupNotifier, listener: MembershipListener
    ) -> None:
        self._settings = settings
        self._manager = _SessionConnectionManager(loop, **settings)
        self._manager.cluster.config["allow_auto_create_topics"] = False
        self._client = KafkaNetClient(net=loop, manager=self._manager)
        self._subscription = SubscriptionState()
        self._wake = wake
        self._listener = _Rebalances(self, loop, listener)
        self._coordinator: _PatchedCoordinator | None = None
        self._topics: frozenset[str] = frozenset()

    async def connect(self) -> None:
        """Find the cluster. To be called once, first. Raises `KafkaTimeoutError`."""
        await self._manager.bootstrap_async(_CONNECT_MS)
        self._listener.start()
        self._coordinator = _PatchedCoordinator(
            self._client,
            self._subscription,
            self._wake,
            **self._settings,
            api_version=self._manager.broker_version,
            session_timeout_ms=int(SESSION_SECONDS * 1000),
            max_poll_interval_ms=int(SESSION_SECONDS * 1000),
            heartbeat_interval_ms=1000,
            enable_auto_commit=False,
            assignors=(RangePartitionAssignor, RoundRobinPartitionAssignor),
        )

    async def keep(self, topics: frozenset[str], heartbeat_ms: int) -> None:
        """Be a member that wants these topics: join, or join again, where that is needed, and show signs of life."""
        coordinator = self._coordinator
        if coordinator is None:
            raise Cancelled
        coordinator.check()
        if topics != self._topics:
            await self._subscribe(topics)
        coordinator.heartbeat.config["heartbeat_interval_ms"] = heartbeat_ms
        if coordinator.need_rejoin():
            await coordinator.ensure_active_group_async()
        coordinator.poll_heartbeat()

    async def _subscribe(self, topics: frozenset[str]) -> None:
        """Learn the partitions as well: a leader that does not know them would have to share out twice."""
        self._subscription.subscribe(topics=sorted(topics), listener=self._listener)
        cluster = self._manager.cluster
        cluster._topics = set(topics)  # `set_topics` never asks for fewer
        with suppress(UnknownTopicOrPartitionError):  # deleted a moment ago: it has no partitions
            await self._manager.wait_for(cluster.request_update(), _METADATA_MS)
        if cluster.unauthorized_topics:
            raise TopicAuthorizationFailedError(cluster.unauthorized_topics)
        self._topics = topics

    async def commit(self, offsets: Commits, timeout_ms: int) -> None:
        wanted = {
            KafkaTopicPartition(*place): OffsetAndMetadata(each.offset, each.metadata, -1)
            for place, each in offsets.items()
        }
        if self._coordinator is None:
            raise RebalanceInProgressError
        await self._coordinator._commit_offsets_sync_async(wanted, timeout_ms)

    @property
    def member_id(self) -> str | None:
        """Kafka's own id for this member, while it is sure of it."""
        generation = self._coordinator.generation_if_stable() if self._coordinator is not None else None
        return None if generation is None else str(generation.member_id)

    @property
    def generation(self) -> int:
        return -1 if self._coordinator is None else int(self._coordinator._generation.generation_id)

    def close(self) -> None:
        if self._coordinator is not None:
            self._coordinator.stop()
        self._manager.close()


class _Rebalances(AsyncConsumerRebalanceListener):
    """Tells the listener of a membership what kafka-python says to its own."""

    def __init__(self, session: GroupSession, loop: NetworkSelector, listener: MembershipListener) -> None:
        self._session = session
        self._loop = loop
        self._listener = listener

    def start(self) -> None:
        """What an earlier session had assigned may be gone."""
        self._listener.lost()

    async def on_partitions_revoked(self, revoked: set[Any]) -> None:
        if not revoked:
            self._listener.lost()
            return
        released = Future()
        self._listener.revoking(self._release(released))
        try:
            offsets = await self._session._manager.wait_for(released, RELEASE_SECONDS * 1000)
            if offsets:
                await self._session.commit(offsets, _COMMIT_MS)
        except FencedInstanceIdError:
            raise
        except KafkaError as error:
            _log.warning("What was delivered before a rebalance is not committed: %s", type(error).__name__)

    def _release(self, released: Future) -> ReleaseCallback:
        def release(offsets: Commits) -> None:
            def done() -> None:
                if not released.is_done:
                    released.success(offsets)

            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(done)

        return release

    async def on_partitions_lost(self, lost: set[Any]) -> None:
        self._listener.lost()

    async def on_partitions_assigned(self, assigned: set[Any]) -> None:
        partitions = frozenset(TopicPartition(*each) for each in assigned)
        self._listener.assigned(Assignment(self._session.generation, partitions))


class _SessionConnectionManager(PatchedConnectionManager):
    def close_idle_connections(self) -> None:
        """Leave them to the broker: kafka-python's timer would keep each closed client for minutes."""


class _PatchedCoordinator(ConsumerCoordinator):
    """Says when there is something to do, notices that it was fenced, and can be stopped in the midst of anything."""

    def __init__(self, client: KafkaNetClient, subscription: SubscriptionState, wake: WakeupNotifier, **settings: Any):
        self._wake = wake
        self._fenced = False
        self._stopped = False
        self._missing_since: float | None = None
        super().__init__(client, subscription, **settings)

    def check(self) -> None:
        """Raise where there is no use in going on."""
        if self._fenced:
            raise FencedInstanceIdError
        if self._missing_since is not None and time.monotonic() > self._missing_since + _LOST_AFTER:
            raise KafkaTimeoutError("The group's coordinator cannot be found.")

    def stop(self) -> None:
        self._stopped = True
        self._close_heartbeat()
        self._cluster._listeners.clear()

    def need_rejoin(self) -> bool:
        return not self._stopped and bool(super().need_rejoin())

    def lookup_coordinator(self) -> Future:
        if self._stopped:
            raise Cancelled
        self.check()
        if self._missing_since is None:
            self._missing_since = time.monotonic()
        found: Future = super().lookup_coordinator()
        return found.add_callback(self._found)  # type: ignore[no-any-return]

    def _found(self, _: Any) -> None:
        self._missing_since = None

    def request_rejoin(self) -> None:
        super().request_rejoin()
        self._wake.notify()

    def reset_generation(self, *args: Any, **kwargs: Any) -> None:
        super().reset_generation(*args, **kwargs)
        self._wake.notify()

    def _handle_metadata_update(self, cluster: Any) -> None:
        super()._handle_metadata_update(cluster)
        self._wake.notify()

    async def _on_join_complete_async(self, *args: Any) -> None:
        """After a takeover nobody may know that he is the leader, who is to see new partitions: so each looks."""
        await super()._on_join_complete_async(*args)
        if self._assignment_snapshot is None:
            self._assignment_snapshot = self._metadata_snapshot

    async def _send_heartbeat_request(self) -> None:
        try:
            await super()._send_heartbeat_request()
        except FencedInstanceIdError:
            self._fence()
            raise

    async def _send_offset_commit_request(self, offsets: Any) -> None:
        try:
            await super()._send_offset_commit_request(offsets)
        except FencedInstanceIdError:
            self._fence()
            raise

    def _fence(self) -> None:
        self._fenced = True
        self._wake.notify()
