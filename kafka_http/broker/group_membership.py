"""Static members of consumer groups that read nothing: kafka-python's group coordination, without its consumer.

`KafkaConsumer` takes a thread for each member that polls it and one of its own, fetches unless it is kept from it, and
a poll that ends too early forgets a join that has just succeeded, so that the group starts anew. Its coordinator is
coroutines: here those of all members run on one thread.
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
from kafka_http.broker.connections import net_settings
from kafka_http.broker.error_map import translate
from kafka_http.broker.group_session import Entrance, GroupSession
from kafka_http.broker.open_file_limit import OpenFileLimit
from kafka_http.errors import BrokerUnavailable, KafkaHttpError, RetriableBrokerError
from kafka_http.records import Commits, MembershipListener

_log = logging.getLogger(__name__)

_TICK = 3.0
_PAUSE = 0.5
_HEARTBEATS_A_SECOND = 150
"""Of all members together (each costs 0.4 ms); but each sends one in 0.3 to 3 seconds."""
_AT_ONCE = 16
"""Members that connect at the same time: many hundreds would keep each other from it until they all give up."""
_NOT_A_MEMBER = (CommitFailedError, IllegalGenerationError, RebalanceInProgressError, UnknownMemberIdError)
_DESCRIPTORS = 3
"""Of a member: to the coordinator, to a broker for metadata, and for a moment to another one."""


class KafkaMemberships:
    """The memberships of a process. Its thread is started by the first one, so after a fork."""

    def __init__(self, settings: Mapping[str, Any], admin: Admin) -> None:
        """`settings` are those of `KafkaNetClient`."""
        self._settings = {"metadata_max_age_ms": 60_000, **net_settings(settings)}  # new partitions are seen by then
        self._admin = admin
        self._lock = Lock()
        self._loop: NetworkSelector | None = None
        self._closed = False
        self._members: set[KafkaMembership] = set()
        self._descriptors = OpenFileLimit(_DESCRIPTORS, "consumer instances")
        self.entrance = Entrance(_AT_ONCE)

    def join(
        self, group: str, member_id: str, topics: Collection[str], listener: MembershipListener
    ) -> "KafkaMembership":
        with self._lock:
            if self._closed:
                raise BrokerUnavailable("This server is closing down.")
            self._descriptors.check(len(self._members) + 1)
            if self._loop is None:
                # A busy process makes each step of the loop look slow: no warnings of that.
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
        return int(1000 * min(3.0, max(0.3, len(self._members) / _HEARTBEATS_A_SECOND)))

    def ended(self, member: "KafkaMembership") -> None:
        with self._lock:
            self._members.discard(member)

    def remove(self, group: str, instance_id: str, member_id: str | None) -> None:
        """Let Kafka forget a static member. Raises our errors."""
        self._admin.remove_member(group, instance_id, member_id)

    def close(self) -> None:
        """End all memberships in this process; none of them leaves its group."""
        with self._lock:
            self._closed = True
            members, loop = list(self._members), self._loop
        for member in members:
            member.close()
        if loop is not None:
            loop.close()


class KafkaMembership:
    """One member. Its coroutines run on the loop's thread; other threads hand things over to it."""

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
        self._said = ""
        loop.call_soon_threadsafe(self._live)

    def subscribe(self, topics: Collection[str]) -> None:
        self._topics = frozenset(topics)
        self._notify()

    def commit(self, offsets: Commits, timeout: float) -> None:
        try:
            self._loop.run(self._commit, offsets, int(timeout * 1000))
        except _NOT_A_MEMBER:
            raise RetriableBrokerError(
                "The group is sharing out its partitions anew: nothing can be committed just now, try again."
            ) from None
        except FencedInstanceIdError:
            self._notify()
            raise RetriableBrokerError("Another process has taken this consumer instance over, try again.") from None
        except KafkaError as error:
            raise translate(error) from error
        except RuntimeError:  # the loop's
            raise BrokerUnavailable("This server is closing down.") from None

    def leave(self) -> None:
        if self._closed:
            return
        member_id = self._session.member_id if self._session is not None else None
        self.close()
        try:
            self._memberships.remove(self._identity["group_id"], self._identity["group_instance_id"], member_id)
        except KafkaHttpError as error:
            _log.warning("A member of %s is left to time out: %s", self._identity["group_id"], error.message)

    def close(self) -> None:
        self._closed = True
        with suppress(RuntimeError, KafkaError):
            self._loop.run(self._hang_up)
        self._notify()
        self._memberships.ended(self)

    def _notify(self) -> None:
        with suppress(RuntimeError):
            self._wake.notify()

    # On the loop's thread

    async def _live(self) -> None:
        while not self._closed:
            try:
                await self._one_session()
            except FencedInstanceIdError:
                if not self._closed:
                    self._closed = True
                    self._listener.fenced()
                    self._memberships.ended(self)
            except Exception as error:  # whatever it is, the next session may do better
                if not self._closed:
                    self._fail(translate(error))
            finally:
                self._hang_up()
            if not self._closed:
                await self._wake(_PAUSE)

    def _fail(self, error: KafkaHttpError) -> None:
        if error.message != self._said:
            self._said = error.message
            _log.warning("A member of the group %s starts anew: %s", self._identity["group_id"], error.message)
        self._listener.failed(error)

    async def _one_session(self) -> None:
        """Be a member until something goes wrong that only a new start can put right."""
        settings = dict(self._memberships.settings)
        await self._memberships.entrance.enter()
        try:
            if self._closed:
                return
            self._session = session = GroupSession(self._loop, settings | self._identity, self._wake, self._listener)
            await session.connect()
        finally:
            self._memberships.entrance.leave()
        while not self._closed:
            await session.keep(self._topics, self._memberships.heartbeat_ms)
            await self._wake(_TICK)

    async def _commit(self, offsets: Commits, timeout_ms: int) -> None:
        if self._session is None:
            raise RebalanceInProgressError
        await self._session.commit(offsets, timeout_ms)

    def _hang_up(self) -> None:
        if self._session is not None:
            self._session.close()
            self._session = None
