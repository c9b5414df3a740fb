"""Members of share groups, each of which reads all partitions of one topic."""

import logging
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from typing import Any

from kafka.errors import (
    GroupIdNotFoundError,
    IncompatibleBrokerVersion,
    KafkaError,
    NoError,
    UnsupportedVersionError,
    for_code,
)

from kafka_http.backoff import Backoff
from kafka_http.broker.error_map import translate
from kafka_http.broker.share_connections import LoopEvent, ShareConnections
from kafka_http.broker.share_leader import UNINITIALIZED, ShareLeader
from kafka_http.broker.share_membership import ShareMembership
from kafka_http.broker.share_requests import MAX_RECORDS
from kafka_http.broker.share_session import Topic
from kafka_http.errors import (
    BrokerUnavailable,
    KafkaHttpError,
    LeaseLost,
    QueuesUnsupported,
    RetriableBrokerError,
    WrongGroupType,
)
from kafka_http.logs import LogOnce
from kafka_http.share_groups import Acknowledgement, ShareListener

_log = logging.getLogger(__name__)

_METADATA_SECONDS = 10.0
"""Interval at which new partitions and moved leaders are looked for."""
_METADATA_PAUSE = 0.1
_TOLERATED_SECONDS = 5.0
"""Time without a heartbeat after which the listener is told: a coordinator may move, or start."""
_CLOSE_POLL = 0.01
_SESSION_LIMIT = 133
"""Kafka's error code SHARE_SESSION_LIMIT_REACHED, which kafka-python 3.0.12 does not know."""
_TRANSIENT = (BrokerUnavailable, RetriableBrokerError)


class KafkaShareMember:
    """A member of a group that reads one topic. `KafkaShareGroups.join` makes it, `close` ends it.

    Any thread may call `acknowledge`, `wake` and `close`. Everything else runs on the loop's thread.
    """

    def __init__(
        self,
        connections: ShareConnections,
        group: str,
        topic: str,
        listener: ShareListener,
        on_closed: Callable[["KafkaShareMember"], None],
    ) -> None:
        self.listener = listener
        self._connections = connections
        self._group = group
        self._topic = topic
        self._on_closed = on_closed
        self._membership = ShareMembership(connections, group, topic)
        self._topic_now: Topic | None = None
        self._leaders: dict[int, ShareLeader] = {}
        self._all_leaders: tuple[ShareLeader, ...] = ()
        """The same for other threads: it is replaced, and does not change."""
        self._by_partition: dict[int, ShareLeader] = {}
        self._inbox: deque[Sequence[Acknowledgement]] = deque()
        """The acknowledgements of each call."""
        self._problems: dict[object, KafkaHttpError] = {}
        """By what has them: "group", "topic", or the node id of a leader."""
        self._told: KafkaHttpError | None = None
        self._warnings = LogOnce(_log)
        self._beat_event = LoopEvent(connections.loop)
        self._find_event = LoopEvent(connections.loop)
        self._is_notified = False
        self._is_woken = False
        self._is_closing = False
        self._has_left = False
        self._stopping: list[ShareLeader] = []
        connections.loop.call_soon_threadsafe(self._keep_joined)

    # For any thread

    def acknowledge(self, acknowledgements: Sequence[Acknowledgement]) -> None:
        self._inbox.append(acknowledgements)
        self._notify()

    def wake(self) -> None:
        self._is_woken = True
        self._notify()

    def _notify(self) -> None:
        """Let the loop call `take_calls`, unless a leader will do it: at the end of its turn, or before it waits."""
        if not self._is_notified and not (self._all_leaders and all(each.is_busy for each in self._all_leaders)):
            self._is_notified = True
            self._call(self._on_notified)

    def close(self, timeout: float) -> None:
        with suppress(RuntimeError, KafkaError):  # the loop has ended
            self._connections.loop.run(stop_members, self._connections, [self], timeout)
        self._on_closed(self)

    def _call(self, call: Callable[[], None]) -> None:
        with suppress(RuntimeError, KafkaError):
            self._connections.loop.call_soon_threadsafe(call)

    # On the loop's thread

    def _on_notified(self) -> None:
        self._is_notified = False  # first, so that no call is overlooked that comes from now on
        self.take_calls()

    def take_calls(self) -> None:
        """Give acknowledgements to the leaders of their partitions, and let all be asked if `wake` was called."""
        if self._is_woken:
            self._is_woken = False
            for leader in self._leaders.values():
                leader.may_have_messages = True
                leader.wake()
        while self._inbox:
            self._sort(self._inbox.popleft())

    def _sort(self, acknowledgements: Sequence[Acknowledgement]) -> None:
        by_leader: dict[ShareLeader | None, list[Acknowledgement]] = {}
        for each in acknowledgements:
            by_leader.setdefault(self._by_partition.get(each.partition), []).append(each)
        for leader, acks in by_leader.items():
            if leader is None or leader.is_stopped:
                self.listener.acknowledged([(each, LeaseLost()) for each in acks])
            else:
                leader.add(acks)

    def share_of(self, leader: ShareLeader) -> int:
        """Share the wanted messages among the leaders that may have some. Those asked long ago come first."""
        now = time.monotonic()
        left = self.listener.wanted() - sum(each.asking for each in self._leaders.values())
        if left <= 0 or not leader.is_ready(now):
            return 0
        ready = sorted((each for each in self._leaders.values() if each.is_ready(now)), key=_asked_at)
        least, more = divmod(left, len(ready))
        rank = ready.index(leader)
        share = min(MAX_RECORDS, least + (rank < more))
        if not share:
            for each in ready[:more]:
                each.wake()
        return share

    def on_asked(self) -> None:
        """Let other leaders ask for what this one did not have, or tell the listener that none has any."""
        waiting = [each for each in self._leaders.values() if each.may_have_messages and not each.asking]
        for each in waiting:
            each.wake()
        if not waiting and not any(each.asking for each in self._leaders.values()) and self.listener.wanted() > 0:
            self.listener.exhausted()

    def translate(self, error: Exception | type[Exception]) -> KafkaHttpError:
        """Return our error for one of kafka-python."""
        kind = error if isinstance(error, type) else type(error)
        if issubclass(kind, IncompatibleBrokerVersion | UnsupportedVersionError):
            return QueuesUnsupported()
        if kind is GroupIdNotFoundError:
            return wrong_group_type(self._group)
        if kind is UNINITIALIZED:
            return RetriableBrokerError(
                f"Kafka does not have the state of the queue {self._group} of {self._topic} ready. If a broker has "
                f"just ended, this takes up to a minute. Retry. Kafka: {self._connections.servers}."
            )
        if getattr(kind, "errno", None) == _SESSION_LIMIT:
            return RetriableBrokerError(
                "The broker has too many share sessions; its setting group.share.max.share.sessions limits them "
                "(ShareSessionLimitReached)."
            )
        return translate(error, self._topic, servers=self._connections.servers)

    def report(self, source: object, error: Exception | type[KafkaError] | None) -> None:
        """Note what prevents the group from being read, or a part of it. Tell the listener when that changes."""
        if error is None:
            self._problems.pop(source, None)
        else:
            if not isinstance(error, KafkaError | type):
                _log.error("A member of the queue %s failed", self._group, exc_info=error)
            self._problems[source] = self.translate(error)
        self._tell_problem()

    def _tell_problem(self) -> None:
        before, now = self._told, self._problem
        if self._is_closing or (before and before.message) == (now and now.message):
            return
        self._told = now
        if now is None:
            self._warnings.clear()
        else:
            self._warnings.warning("The queue %s of %s cannot be read: %s", self._group, self._topic, now.message)
        self.listener.failed(now)

    @property
    def _problem(self) -> KafkaHttpError | None:
        """What prevents all leaders from being read. A group without a coordinator can be read, once it was joined."""
        if self._leaders and not self._leaders.keys() <= self._problems.keys():
            return next((each for each in self._problems.values() if not isinstance(each, _TRANSIENT)), None)
        return next(iter(self._problems.values()), None)

    # Membership

    async def _keep_joined(self) -> None:
        backoff, is_finding, last_beat = Backoff(0.1, 2.0), False, time.monotonic()
        while not self._is_closing:
            try:
                if await self._membership.beat():
                    self.find_leaders()
                delay, last_beat = self._membership.interval, time.monotonic()
                self.report("group", None)
                backoff.reset()
            except Exception as error:  # of any kind: the next attempt may succeed
                delay = backoff.next()
                tolerated = _TOLERATED_SECONDS if isinstance(self.translate(error), RetriableBrokerError) else 0
                if time.monotonic() > last_beat + tolerated:
                    self.report("group", error)
            if self._membership.may_read and not is_finding:
                is_finding = True
                self._connections.loop.call_soon(self._keep_leaders)
            await self._beat_event.wait(delay)
        try:
            await self._membership.leave()
        except KafkaError as error:
            _log.debug("A member of the queue %s could not leave, and will time out: %s", self._group, error)
        self._has_left = True

    def find_leaders(self) -> None:
        """Read the topic's metadata again, soon."""
        self._find_event.set()

    def send_heartbeat(self) -> None:
        """Send a heartbeat, soon."""
        self._beat_event.set()

    async def _keep_leaders(self) -> None:
        backoff = Backoff(0.2, 2.0)
        while not self._is_closing:
            delay = _METADATA_SECONDS
            try:
                self._use(await self._connections.metadata(self._topic))
                self.report("topic", None)
                backoff.reset()
            except Exception as error:
                delay = backoff.next()
                self.report("topic", error)
            await self._connections.sleep(_METADATA_PAUSE)
            await self._find_event.wait(delay)

    def _use(self, metadata: Any) -> None:
        """Read the partitions from their leaders. Raises the error of the topic."""
        error = for_code(metadata.error_code)
        topic = None if error is not NoError else Topic(self._topic, metadata.topic_id)
        if topic != self._topic_now:  # it was deleted, or created again
            self._assign({})
            self._topic_now = topic
        if topic is None:
            raise error(self._topic)
        partitions: dict[int, set[int]] = {}
        for each in metadata.partitions:
            if each.leader_id >= 0:
                partitions.setdefault(each.leader_id, set()).add(each.partition_index)
        self._assign({node: frozenset(each) for node, each in partitions.items()})

    def _assign(self, partitions: dict[int, frozenset[int]]) -> None:
        """Give each leader its partitions. Locks are lost where the leader has changed."""
        for node, leader in list(self._leaders.items()):
            if gone := leader.partitions - partitions.get(node, frozenset()):
                leader.lose(gone)
            if node not in partitions:
                leader.stop()
                del self._leaders[node]
                self._problems.pop(node, None)
        for node, mine in partitions.items():
            if node not in self._leaders:
                self._leaders[node] = self._new_leader(node)
            self._leaders[node].read(mine)
        self._all_leaders = tuple(self._leaders.values())
        self._by_partition = {each: leader for leader in self._leaders.values() for each in leader.partitions}
        self._tell_problem()

    def _new_leader(self, node: int) -> ShareLeader:
        assert self._topic_now is not None  # noqa: S101  partitions belong to a topic
        leader = ShareLeader(self, self._connections, self._group, self._topic_now, node)
        self._connections.loop.call_soon(leader.run)
        return leader

    def stop(self) -> None:
        """Send what was acknowledged, close the sessions, and leave the group. Only the loop's thread calls this."""
        self._is_closing = True
        self._beat_event.set()
        self._find_event.set()
        self.take_calls()
        self._stopping = list(self._leaders.values())
        for each in self._stopping:
            each.stop()

    @property
    def is_stopped(self) -> bool:
        """Whether the sessions are closed and the group has no more of this member."""
        return self._has_left and all(each.is_stopped for each in self._stopping)

    def drop(self) -> None:
        """Close the connections, so that requests without a response end. Only the loop's thread calls this."""
        for each in self._stopping:
            each.drop()


async def stop_members(connections: ShareConnections, members: Collection[KafkaShareMember], timeout: float) -> None:
    """Stop members together, within `timeout` seconds."""
    deadline = time.monotonic() + timeout
    for each in members:
        each.stop()
    while time.monotonic() < deadline and not all(each.is_stopped for each in members):
        await connections.sleep(_CLOSE_POLL)
    for each in members:
        each.drop()


def _asked_at(leader: ShareLeader) -> float:
    return leader.asked_at


def wrong_group_type(group: str) -> WrongGroupType:
    """Return the error for a queue on the name of an ordinary group."""
    return WrongGroupType(
        f"The name {group} belongs to an ordinary consumer group. A queue needs a name of its own. GET /consumers "
        "lists the names in use.",
        group=group,
    )
