"""The `ShareGroups` of a Kafka cluster: settings of groups, their offsets, and their members in this process."""

from collections.abc import Mapping
from contextlib import suppress
from threading import Lock
from typing import Any

from kafka_http.broker.group_requests import GroupRequests
from kafka_http.broker.open_file_limit import OpenFileLimit
from kafka_http.broker.share_connections import ShareConnections
from kafka_http.broker.share_group_settings import ShareGroupConfigs
from kafka_http.broker.share_member import KafkaShareMember, stop_members, wrong_group_type
from kafka_http.errors import BrokerUnavailable, GroupNotFound
from kafka_http.share_groups import ShareGroupSettings, ShareListener, ShareProgress

_DESCRIPTORS_PER_MEMBER = 4
"""A member has a connection to each leader of its topic, and another one while it watches the end of the topic."""


class KafkaShareGroups:
    """Share groups. Any thread may call. The first `join` starts the members' thread, which is after the fork."""

    def __init__(self, settings: Mapping[str, Any], requests: GroupRequests, configs: ShareGroupConfigs) -> None:
        """`settings` are those of `KafkaNetClient`, for the members."""
        self._settings = settings
        self._requests = requests
        self._configs = configs
        self._lock = Lock()
        self._connections: ShareConnections | None = None
        self._members: set[KafkaShareMember] = set()
        self._open_files = OpenFileLimit(_DESCRIPTORS_PER_MEMBER, "queues")
        self._is_closed = False

    def settings(self, group: str) -> ShareGroupSettings:
        return self._configs.settings(group)

    def prepare(self, group: str, attempts: int) -> ShareGroupSettings:
        if any(each.type != "share" for each in self._requests.describe([group])):
            raise wrong_group_type(group)
        self._requests.share_progress(group)  # raises `QueuesUnsupported` if share groups are switched off
        return self._configs.prepare(group, attempts)

    def progress(self, group: str, topic: str) -> dict[int, ShareProgress]:
        found = self._requests.share_progress(group)
        if not found and not self._requests.describe([group]):  # Kafka does not always say that there is no group
            raise GroupNotFound(group)
        return {tp.partition: each for tp, each in found.items() if tp.topic == topic}

    def delete_offsets(self, group: str, topic: str) -> None:
        self._requests.delete_share_offsets(group, topic)
        if not self._requests.share_progress(group):
            with suppress(GroupNotFound):
                self._requests.delete(group)

    def join(self, group: str, topic: str, listener: ShareListener) -> KafkaShareMember:
        with self._lock:
            if self._is_closed:
                raise BrokerUnavailable("This server is shutting down.")
            self._open_files.check(len(self._members) + 1)
            if self._connections is None:
                self._connections = ShareConnections(self._settings)
                self._connections.start()
            member = KafkaShareMember(self._connections, group, topic, listener, self._discard)
            self._members.add(member)
        return member

    def close(self, timeout: float) -> None:
        """End all members within `timeout` seconds, and the thread."""
        with self._lock:
            self._is_closed = True
            members, connections = list(self._members), self._connections
        if connections is not None:
            connections.loop.run(stop_members, connections, members, timeout)
            connections.close()

    def _discard(self, member: KafkaShareMember) -> None:
        with self._lock:
            self._members.discard(member)
