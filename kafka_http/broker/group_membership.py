"""Static members of consumer groups that do not fetch: kafka-python's group coordination without its consumer.

`KafkaConsumer` needs two threads for each member, fetches records, and a poll that ends too early forgets a join that
has just succeeded, so that the group rebalances again. Its coordinator consists of coroutines: here those of all
members run on one thread.
"""

import logging
from collections.abc import Collection, Mapping
from contextlib import suppress
from threading import Lock
from typing import Any

from kafka.errors import (
    CommitFailedError,
    FencedInstanceIdError,
    IllegalGenerationError,
    KafkaError,
    RebalanceInProgressError,
    UnknownMemberIdError,
)
from kafka.net.selector import NetworkSelector
from kafka.net.wakeup_notifier import WakeupNotifier

from kafka_http.broker.admin_client import Admin
from kafka_http.broker.error_map import translate
from kafka_http.broker.group_session import GroupSession, LoopSemaphore
from kafka_http.broker.open_file_limit import OpenFileLimit
from kafka_http.broker.patches import net_settings
from kafka_http.errors import BrokerUnavailable, KafkaHttpError, RetriableBrokerError
from kafka_http.logs import LogOnce
from kafka_http.records import Commits, MembershipListener

_log = logging.getLogger(__name__)

_POLL_INTERVAL = 3.0
_RECONNECT_DELAY = 0.5
_HEARTBEATS_PER_SECOND = 150
"""Limit for all members together: a heartbeat costs 0.4 ms. Each member sends one every 0.3 to 3 seconds."""
_MAX_CONNECTING = 16
"""Members that connect at the same time. Many hundreds would delay each other until all of them time out."""
_NOT_A_MEMBER = (CommitFailedError, IllegalGenerationError, RebalanceInProgressError, UnknownMemberIdError)
_DESCRIPTORS_PER_MEMBER = 3
"""A member connects to the coordinator, to a broker for metadata, and for a short time to another one."""


class KafkaMemberships:
    """The memberships of a process. The first `join` starts the thread, which is after the fork."""

    def __init__(self, settings: Mapping[str, Any], admin: Admin) -> None:
        """`settings` are those of `KafkaNetClient`."""
        # metadata_max_age_ms bounds how late new partitions are seen
        self._settings = {"metadata_max_age_ms": 60_000, **net_settings(settings)}
        self.servers = ", ".join(settings["bootstrap_servers"])
        """The addresses of Kafka in the settings, for errors."""
        self._admin = admin
        self._lock = Lock()
        self._loop: NetworkSelector | None = None
        self._closed = False
        self._members: set[KafkaMembership] = set()
        self._open_files = OpenFileLimit(_DESCRIPTORS_PER_MEMBER, "consumer instances")
        self.connecting = LoopSemaphore(_MAX_CONNECTING)

    def join(
        self, group: str, member_id: str, topics: Collection[str], listener: MembershipListener
    ) -> "KafkaMembership":
        with self._lock:
            if self._closed:
                raise BrokerUnavailable("This server is shutting down.")
            self._open_files.check(len(self._members) + 1)
            if self._loop is None:
                # No warnings of slow steps: in a busy process every step looks slow.
                self._loop = NetworkSelector(client_id="kafka_http-members", slow_task_threshold_secs=0)
                self._loop.start()
            identity = {"group_id": group, "group_instance_id": member_id}
            member = KafkaMembership(self, self._loop, identity, topics, listener)
            self._members.add(member)
        return member

    @property
    def settings(self) -> Mapping[str, Any]:
        return self._settings

    @property
    def heartbeat_ms(self) -> int:
        return int(1000 * min(3.0, max(0.3, len(self._members) / _HEARTBEATS_PER_SECOND)))

    def discard(self, member: "KafkaMembership") -> None:
        with self._lock:
            self._members.discard(member)

    def remove(self, group: str, instance_id: str, member_id: str | None) -> None:
        """Remove a static member from its group. Raises errors of `kafka_http.errors`."""
        self._admin.remove_member(group, instance_id, member_id)

    def close(self) -> None:
        """End all memberships in this process. None of them leaves its group."""
        with self._lock:
            self._closed = True
            members, loop = list(self._members), self._loop
        for member in members:
            member.close()
        if loop is not None:
            loop.close()


class KafkaMembership:
    """One member of a group. `KafkaMemberships.join` creates it; `leave`, `close` or fencing ends it.

    Any thread may call the public methods. The coroutines run on the loop's thread.
    """

    def __init__(
        self,
        memberships: KafkaMemberships,
        loop: NetworkSelector,
        identity: dict[str, str],
        topics: Collection[str],
        listener: MembershipListener,
    ) -> None:
        """`identity` are kafka-python's settings `group_id` and `group_instance_id`."""
        self._memberships = memberships
        self._loop = loop
        self._identity = identity
        self._topics = frozenset(topics)
        self._listener = listener
        self._wake = WakeupNotifier(loop)
        self._session: GroupSession | None = None
        self._closed = False
        self._warnings = LogOnce(_log)
        loop.call_soon_threadsafe(self._run)

    def subscribe(self, topics: Collection[str]) -> None:
        self._topics = frozenset(topics)
        self._notify()

    def commit(self, offsets: Commits, timeout: float) -> None:
        try:
            self._loop.run(self._commit, offsets, int(timeout * 1000))
        except _NOT_A_MEMBER:
            raise RetriableBrokerError("The group is rebalancing; offsets cannot be committed now. Retry.") from None
        except FencedInstanceIdError:
            self._notify()
            raise RetriableBrokerError("Another process has taken over this consumer instance. Retry.") from None
        except KafkaError as error:
            raise translate(error, servers=self._memberships.servers) from error
        except RuntimeError:  # the loop is closed
            raise BrokerUnavailable("This server is shutting down.") from None

    def leave(self) -> None:
        if self._closed:
            return
        member_id = self._session.member_id if self._session is not None else None
        self.close()
        try:
            self._memberships.remove(self._identity["group_id"], self._identity["group_instance_id"], member_id)
        except KafkaHttpError as error:
            group = self._identity["group_id"]
            _log.warning("A member of the group %s could not leave and will time out: %s", group, error.message)

    def close(self) -> None:
        self._closed = True
        with suppress(RuntimeError, KafkaError):
            self._loop.run(self._close_session)
        self._notify()
        self._memberships.discard(self)

    def _notify(self) -> None:
        with suppress(RuntimeError):
            self._wake.notify()

    # The methods below run on the loop's thread.

    async def _run(self) -> None:
        while not self._closed:
            try:
                await self._run_session()
            except FencedInstanceIdError:
                if not self._closed:
                    self._closed = True
                    self._listener.fenced()
                    self._memberships.discard(self)
            except Exception as error:  # of any kind: the next session may succeed
                if not self._closed:
                    self._fail(translate(error, servers=self._memberships.servers))
            finally:
                self._close_session()
            if not self._closed:
                await self._wake(_RECONNECT_DELAY)

    def _fail(self, error: KafkaHttpError) -> None:
        self._warnings.warning("A member of the group %s reconnects: %s", self._identity["group_id"], error.message)
        self._listener.failed(error)

    async def _run_session(self) -> None:
        """Run one session of the member, until an error that requires a new session."""
        settings = dict(self._memberships.settings)
        await self._memberships.connecting.acquire()
        try:
            if self._closed:
                return
            self._session = session = GroupSession(self._loop, settings | self._identity, self._wake, self._listener)
            await session.connect()
        finally:
            self._memberships.connecting.release()
        while not self._closed:
            await session.poll(self._topics, self._memberships.heartbeat_ms)
            await self._wake(_POLL_INTERVAL)

    async def _commit(self, offsets: Commits, timeout_ms: int) -> None:
        if self._session is None:
            raise RebalanceInProgressError
        await self._session.commit(offsets, timeout_ms)

    def _close_session(self) -> None:
        if self._session is not None:
            self._session.close()
            self._session = None
