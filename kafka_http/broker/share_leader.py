"""The requests of a share member to one leader, strictly one after the other."""

import logging
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Protocol

from kafka.errors import (
    FencedStateEpochError,
    InvalidRecordStateError,
    InvalidRequestError,
    InvalidShareSessionEpochError,
    KafkaError,
    RequestTimedOutError,
    ShareSessionNotFoundError,
    UnknownError,
)

from kafka_http.backoff import Backoff
from kafka_http.broker.error_map import CONNECTION_LOST, STALE_METADATA, count_error, is_transient
from kafka_http.broker.share_acks import PendingAcks
from kafka_http.broker.share_connections import LoopEvent, ShareConnections
from kafka_http.broker.share_requests import Acks, has_renewals
from kafka_http.broker.share_session import Errors, ShareFetched, ShareSession, Topic
from kafka_http.broker.share_watch import EndWatch
from kafka_http.errors import KafkaHttpError, LeaseLost, OutcomeUnknown
from kafka_http.logs import LogOnce
from kafka_http.share_groups import Acknowledgement, AckType, AcquiredRecords, ShareListener

_log = logging.getLogger(__name__)

POLL_SECONDS = 0.5
"""Interval of requests while messages are wanted but none is known: a lock of another member may have ended."""
KEEP_ALIVE_SECONDS = 240.0
"""Brokers close a connection that is idle for 10 minutes, by default, and release its locks."""
_LOADING_SECONDS = 0.5
"""Time after the first fetch of partitions in which they may still have no messages, because the broker loads them."""
_LOADING_POLL = 0.02
_COMPANY = 3
"""Calls that must have acknowledged during a turn, so that the next one waits for more."""
_COLLECT_SECONDS = 0.0005
"""How long it waits, for each of these calls."""
_MAX_COLLECT_SECONDS = 0.002
_ACK_RETRY_DELAY = 0.1
_MAX_ACK_FAILURES = 50
"""Attempts to acknowledge while Kafka cannot write it down."""
_TOLERATED_FAILURES = 5
"""Fetches that may fail for a transient reason before the listener is told: partitions that Kafka still loads."""
_UNINITIALIZED_SECONDS = 5.0
"""Time in which fetches may fail with `UNINITIALIZED` before the listener is told.

Partitions that are new to the group have this error until a heartbeat has made its coordinator look at the topic.
"""
_LOCKS_LOST = STALE_METADATA | {FencedStateEpochError}
"""Errors of a partition after which its locks are gone."""
_NOT_HELD = (InvalidRecordStateError, InvalidRequestError)
"""Errors of acknowledgements of messages that this session has not locked. The second one: never delivered so far."""
_NO_RESPONSE = (*CONNECTION_LOST, RequestTimedOutError)
UNINITIALIZED = UnknownError
"""Kafka's error (-1) for a partition whose state a group has not written yet.

If a broker ends before it has written the state of a new group, Kafka tries again after half a minute.
"""


class Owner(Protocol):
    """What a `ShareLeader` asks of its member."""

    listener: ShareListener

    def share_of(self, leader: "ShareLeader") -> int:
        """Return how many of the wanted messages to acquire from this leader now."""

    def report(self, source: object, error: Exception | type[KafkaError] | None) -> None:
        """Note why a leader cannot be read, or that it can (None)."""

    def translate(self, error: Exception | type[KafkaError]) -> KafkaHttpError: ...

    def find_leaders(self) -> None:
        """Read the topic's metadata again, soon."""

    def send_heartbeat(self) -> None:
        """Send a heartbeat, soon."""

    def take_calls(self) -> None:
        """Take what threads want: their acknowledgements, and messages."""

    def on_asked(self) -> None:
        """Note that a request for messages has ended."""


class ShareLeader:
    """The turns of one leader. Each takes all acknowledgements that came up, and acquires messages.

    A turn costs Kafka about the same for one call as for ten. So if several calls have acknowledged something during a
    turn, the next one waits a little for more. A lone client never waits for others.

    A `KafkaShareMember` makes it for each broker that leads partitions, and stops it when the broker leads none. Only
    the loop's thread uses it.
    """

    def __init__(self, owner: Owner, connections: ShareConnections, group: str, topic: Topic, node: int) -> None:
        self.node = node
        self.partitions: frozenset[int] = frozenset()
        self.may_have_messages = True
        """Whether it makes sense to ask for messages."""
        self.asking = 0
        """How many messages the request in flight asks for."""
        self.asked_at = 0.0
        self.is_busy = False
        """Whether it calls `Owner.take_calls` soon: it is in a turn, and not waiting for something to do."""
        self.is_stopped = False
        self._owner = owner
        self._connections = connections
        self._group = group
        self._topic = topic
        self._acks = PendingAcks()
        self._ack_calls = 0
        """How many calls have acknowledged since the last turn began."""
        self._session: ShareSession | None = None
        self._was_connected = False
        self._watch = EndWatch(connections, topic.name, node, self._on_watch_end)
        self._event = LoopEvent(connections.loop)
        self._backoff = Backoff(0.1, 2.0)
        self._ack_failures = 0
        self._fetch_failures = 0
        self._failing_since = 0.0
        """When the first of the fetches failed that have failed since then."""
        self._loading: set[int] = set()
        """Partitions that have had no messages so far, perhaps because the broker loads them until `_loading_until`."""
        self._loading_until = float("inf")
        self._warnings = LogOnce(_log)
        self._is_stopping = False

    def read(self, partitions: frozenset[int]) -> None:
        """Read these partitions from now on."""
        if partitions != self.partitions:
            self.partitions = partitions
            self.may_have_messages = True
            self._loading = set(partitions)
            self._loading_until = float("inf")
            self.wake()

    def add(self, acknowledgements: Iterable[Acknowledgement]) -> None:
        """Send these acknowledgements of one call with the next request."""
        self._acks.add(acknowledgements)
        self._ack_calls += 1
        self.wake()

    def wake(self) -> None:
        """End the wait for something to do."""
        self._event.set()

    def is_ready(self, now: float) -> bool:
        """Return whether this leader may be asked for messages now."""
        return not self.asking and (self.may_have_messages or now >= self.asked_at + POLL_SECONDS)

    def lose(self, partitions: Collection[int]) -> None:
        """Note that all locks of these partitions are gone."""
        self._owner.listener.lost(partitions)
        self._report(self._acks.drop(partitions), LeaseLost())

    def stop(self) -> None:
        """Send the acknowledgements, close the session, and end."""
        self._is_stopping = True
        self.wake()

    def drop(self) -> None:
        """Close the connection, so that a request without a response ends."""
        if self._session is not None:
            self._session.drop()

    # Turns

    async def run(self) -> None:
        """Ask the leader until `stop`."""
        self.is_busy = True
        try:
            while not self._is_stopping or self._acks:
                try:
                    await self._turn(self._session or await self._connect())
                    self._backoff.reset()
                except Exception as error:  # of any kind: the next turn may succeed
                    self._fail(error)
                    if self._is_stopping:
                        break
                    await self._pause(self._backoff.next())
            await self._close_session()
        finally:
            self.is_stopped, self.is_busy = True, False
            self._owner.take_calls()
            self._report([*self._acks.unsettled(), *self._acks.drop(self.partitions)], LeaseLost())

    async def _pause(self, seconds: float) -> None:
        """Wait, also if there is something to do, but not if `stop` is called."""
        until = time.monotonic() + seconds
        while not self._is_stopping and (left := until - time.monotonic()) > 0:
            await self._event.wait(left)

    async def _connect(self) -> ShareSession:
        session = ShareSession(self._connections.new_manager(), self._group, self._topic, self._on_connection_lost)
        try:
            await session.connect(self.node)
        except BaseException:
            session.drop()
            raise
        self._session = session
        self._was_connected = True
        return session

    async def _turn(self, session: ShareSession) -> None:
        await self._collect()
        acks = self._acks.take()
        wanted = 0 if has_renewals(acks) or self._is_stopping else self._owner.share_of(self)
        if wanted:
            await self._fetch(session, wanted, acks)
        elif acks:
            await self._acknowledge(session, acks)
        else:
            await self._idle(session)

    async def _collect(self) -> None:
        """Wait for more calls if several have come during the last turn."""
        self._owner.take_calls()
        if self._ack_calls >= _COMPANY and not self._is_stopping:
            await self._connections.sleep(min(_MAX_COLLECT_SECONDS, self._ack_calls * _COLLECT_SECONDS))
            self._owner.take_calls()
        self._ack_calls = 0

    async def _fetch(self, session: ShareSession, wanted: int, acks: Acks) -> None:
        self.asking, self.asked_at, self.may_have_messages = wanted, time.monotonic(), False
        self._loading_until = min(self._loading_until, self.asked_at + _LOADING_SECONDS)
        try:
            fetched = await session.fetch(self.partitions, wanted, acks)
            self._receive(fetched)
        finally:
            self.asking = 0
        await self._settle(session, acks, fetched.refused)
        if self._loading and not self.may_have_messages and time.monotonic() < self._loading_until:
            self.may_have_messages = True
            await self._connections.sleep(_LOADING_POLL)
        self._owner.on_asked()

    async def _acknowledge(self, session: ShareSession, acks: Acks) -> None:
        if not session.is_open:
            await session.fetch(self.partitions, 0, {})
        await self._settle(session, acks, await session.acknowledge(acks))

    async def _idle(self, session: ShareSession) -> None:
        """Wait until there is something to do."""
        if self._owner.listener.wanted() > 0:
            self._watch.start(self.partitions)
            await self._wait(POLL_SECONDS)
            return
        await self._wait(max(0.0, session.used_at + KEEP_ALIVE_SECONDS - time.monotonic()))
        if session.is_open and time.monotonic() >= session.used_at + KEEP_ALIVE_SECONDS:
            await session.fetch(self.partitions, 0, {})

    async def _wait(self, seconds: float) -> None:
        self.is_busy = False
        self._owner.take_calls()  # after that: a thread that still saw it busy relies on this
        try:
            await self._event.wait(seconds)
        finally:
            self.is_busy = True

    async def _close_session(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            try:
                await session.close()
            except KafkaError as error:
                _log.debug("The session with broker %s was not closed: %s", self.node, error)

    # Results

    def _receive(self, fetched: ShareFetched) -> None:
        for each in fetched.acquired:
            self.may_have_messages = True
            self._loading.discard(each.records.partition)
            if each.records and not self._is_stopping:  # else they are released
                self._owner.listener.acquired(AcquiredRecords(each.records, each.attempts, fetched.until))
            self._acks.add(Acknowledgement(each.records.partition, offset, AckType.GAP) for offset in each.gaps)
        for error in fetched.corrupt:
            self._warnings.warning("Messages of a queue cannot be decoded, and stay locked for a while: %s", error)
        self._check_partitions(fetched.errors)

    def _check_partitions(self, errors: Errors) -> None:
        if moved := [each for each, error in errors.items() if error in _LOCKS_LOST]:
            self.lose(moved)
            self._owner.find_leaders()
        failures = [error for error in errors.values() if error not in _LOCKS_LOST]
        self._fetch_failures = self._fetch_failures + 1 if failures else 0
        if self._fetch_failures == 1:
            self._failing_since = time.monotonic()
        if not failures:
            self._owner.report(self.node, None)
        elif UNINITIALIZED in failures and time.monotonic() < self._failing_since + _UNINITIALIZED_SECONDS:
            self._owner.send_heartbeat()
        elif self._fetch_failures > _TOLERATED_FAILURES or not _may_pass(failures[0]):
            self._owner.report(self.node, failures[0])

    async def _settle(self, session: ShareSession, acks: Acks, refused: Errors) -> None:
        """Report the results. One bad acknowledgement spoils all of its partition: find it by halves."""
        for partition, types in acks.items():
            if partition not in refused:
                self._report(self._acks.settle(partition, types), None)
            elif refused[partition] in _NOT_HELD and len(types) > 1:
                offsets = sorted(types)
                for half in (offsets[: len(offsets) // 2], offsets[len(offsets) // 2 :]):
                    part = {partition: {each: types[each] for each in half}}
                    await self._settle(session, part, await session.acknowledge(part))
            else:
                await self._refuse(partition, types, refused[partition])

    async def _refuse(self, partition: int, types: Mapping[int, AckType], kind: type[KafkaError]) -> None:
        count_error(kind)
        if _may_pass(kind) and kind not in _LOCKS_LOST and self._ack_failures < _MAX_ACK_FAILURES:
            self._ack_failures += 1
            self._acks.send_again({partition: types})
            await self._connections.sleep(_ACK_RETRY_DELAY)
            return
        is_lost = kind in _LOCKS_LOST or kind in _NOT_HELD
        self._report(self._acks.settle(partition, types), LeaseLost() if is_lost else self._owner.translate(kind))
        if kind in _LOCKS_LOST:
            self.lose([partition])
            self._owner.find_leaders()

    def _report(self, acks: Sequence[Acknowledgement], error: KafkaHttpError | None) -> None:
        if error is None:
            self._ack_failures = 0
            self.may_have_messages |= any(each.type is AckType.RELEASE for each in acks)
        if results := [(each, error) for each in acks if each.type is not AckType.GAP]:
            self._owner.listener.acknowledged(results)

    # Failures

    def _on_watch_end(self, has_moved: bool) -> None:
        self.may_have_messages |= has_moved
        self.wake()

    def _on_connection_lost(self) -> None:
        self._session = None
        self.lose(self.partitions)
        self.wake()

    def _fail(self, error: Exception) -> None:
        count_error(type(error))
        self._owner.take_calls()
        if isinstance(error, InvalidShareSessionEpochError):  # opened again, the session has its locks
            self._acks.add(self._acks.unsettled())
            return
        was_connected, self._was_connected = self._was_connected, False
        self.may_have_messages = False
        self._owner.find_leaders()
        if not (was_connected and isinstance(error, (*_NO_RESPONSE, UNINITIALIZED))):  # else the next attempt tells
            self._owner.report(self.node, error)
        self._report(self._acks.unsettled(), self._result_of(error))
        if isinstance(error, ShareSessionNotFoundError):
            self.lose(self.partitions)
        elif self._session is None:  # the locks were lost with the connection
            self._report(self._acks.drop(self.partitions), LeaseLost())
        self._owner.on_asked()

    def _result_of(self, error: Exception) -> KafkaHttpError:
        """Return the result of acknowledgements whose request failed."""
        if isinstance(error, ShareSessionNotFoundError):
            return LeaseLost()
        if isinstance(error, _NO_RESPONSE):
            return OutcomeUnknown(
                "Kafka did not answer the acknowledgement in time, so the message may or may not be delivered again. "
                f"{self._owner.translate(error).message}"
            )
        return self._owner.translate(error)


def _may_pass(kind: type[KafkaError]) -> bool:
    """Return whether the error of a partition may be over soon."""
    return kind is UNINITIALIZED or is_transient(kind)
