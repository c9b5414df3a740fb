"""A member's session with its consumer group: kafka-python's coordinator, driven by coroutines."""

import logging
from collections import deque
from contextlib import suppress
from typing import Any

from kafka.consumer.subscription_state import AsyncConsumerRebalanceListener, SubscriptionState
from kafka.coordinator.assignors.range import RangePartitionAssignor
from kafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor
from kafka.errors import (
    Cancelled,
    FencedInstanceIdError,
    KafkaError,
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

from kafka_http.broker.patches import PatchedCoordinator, SessionConnectionManager
from kafka_http.records import RELEASE_SECONDS, Assignment, Commits, MembershipListener, ReleaseCallback, TopicPartition

_log = logging.getLogger(__name__)

SESSION_SECONDS = 10.0
_CONNECT_MS = 3_000
_METADATA_MS = 5_000
_COMMIT_MS = 2_000


class LoopSemaphore:
    """A semaphore for the coroutines of one kafka-python loop. They get it in the order of their calls."""

    def __init__(self, count: int) -> None:
        self._free = count
        self._waiting: deque[Future] = deque()

    async def acquire(self) -> None:
        self._free -= 1
        if self._free < 0:
            acquired = Future()
            self._waiting.append(acquired)
            await acquired

    def release(self) -> None:
        self._free += 1
        if self._waiting:
            self._waiting.popleft().success(None)


class GroupSession:
    """One client of the cluster and its coordinator.

    A `KafkaMembership` creates it and closes it after an error. All methods run on the thread of the loop.
    """

    def __init__(
        self, loop: NetworkSelector, settings: dict[str, Any], wake: WakeupNotifier, listener: MembershipListener
    ) -> None:
        self._settings = settings
        self._manager = SessionConnectionManager(loop, **settings)
        self._manager.cluster.config["allow_auto_create_topics"] = False
        self._client = KafkaNetClient(net=loop, manager=self._manager)
        self._subscription = SubscriptionState()
        self._wake = wake
        self._listener = _Rebalances(self, loop, listener)
        self._coordinator: PatchedCoordinator | None = None
        self._topics: frozenset[str] = frozenset()

    async def connect(self) -> None:
        """Connect to the cluster. Call it once, before `poll`. Raises `KafkaTimeoutError`."""
        await self._manager.bootstrap_async(_CONNECT_MS)
        self._listener.start()
        self._coordinator = PatchedCoordinator(
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

    async def poll(self, topics: frozenset[str], heartbeat_ms: int) -> None:
        """Join the group for these topics if that is needed, and send a heartbeat."""
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
        """Subscribe, and fetch the partitions: a leader that does not know them would have to rebalance twice."""
        self._subscription.subscribe(topics=sorted(topics), listener=self._listener)
        cluster = self._manager.cluster
        cluster._topics = set(topics)  # `set_topics` never removes topics
        with suppress(UnknownTopicOrPartitionError):  # just deleted: it has no partitions
            await self._manager.wait_for(cluster.request_update(), _METADATA_MS)
        if cluster.unauthorized_topics:
            raise TopicAuthorizationFailedError(cluster.unauthorized_topics)
        self._topics = topics

    async def commit(self, offsets: Commits, timeout_ms: int) -> None:
        commits = {
            KafkaTopicPartition(*tp): OffsetAndMetadata(each.offset, each.metadata, -1) for tp, each in offsets.items()
        }
        if self._coordinator is None:
            raise RebalanceInProgressError
        await self._coordinator._commit_offsets_sync_async(commits, timeout_ms)

    @property
    def member_id(self) -> str | None:
        """The id that Kafka gave this member, while the generation is stable."""
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
    """Passes kafka-python's rebalance events to the listener of a membership."""

    def __init__(self, session: GroupSession, loop: NetworkSelector, listener: MembershipListener) -> None:
        self._session = session
        self._loop = loop
        self._listener = listener

    def start(self) -> None:
        """Report the partitions of an earlier session as lost."""
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
            _log.warning("Offsets of delivered records were not committed before a rebalance: %s", type(error).__name__)

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
