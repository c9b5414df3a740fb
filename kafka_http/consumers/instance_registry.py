"""The consumer instances of a process."""

import logging
import re
import secrets
import time
from collections.abc import Callable, Sequence
from threading import Event, Lock, Thread

from kafka_http.broker_protocols import Broker
from kafka_http.consumers.consumer_instance import ConsumerInstance
from kafka_http.consumers.instance_service import ANY_CALLER, InstanceCaller, InstanceStore, ReadLease
from kafka_http.errors import InstanceExists, InstanceNotFound, KafkaHttpError, LeaseExpired, TooManyInstances
from kafka_http.logs import LogOnce
from kafka_http.metrics import INSTANCES
from kafka_http.records import (
    InstanceDefinition,
    InstanceProgress,
    InstanceSettings,
    OffsetEntry,
    OffsetReset,
    StoredInstance,
    TopicPartition,
    offsets_of,
)
from kafka_http.topics import TopicMatcher, compile_pattern

_log = logging.getLogger(__name__)

_TICK = 0.5
_UPDATE_TOPICS_SECONDS = 3.0
_NOT_IN_MEMBER_ID = re.compile(r"[^A-Za-z0-9._-]")
_COMMIT_SECONDS = 2.0
"""The time after the start of `close` in which commits may start."""

InstanceKey = tuple[str, str]
"""The group and the name of an instance."""


class InstanceRegistry:
    """The `InstanceService` of the process that holds the instances: the daemon, or the server if `daemon = inline`.

    The first call starts its thread, and `close` ends it. Any thread may call, in one process, after the fork.
    """

    def __init__(
        self,
        broker: Broker,
        store: InstanceStore,
        *,
        limit: int,
        idle_timeout: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`limit` is the maximum number of instances, and `idle_timeout` the time in seconds until idle ones end.

        `clock` returns seconds. It is used for idle instances, auto-commit and the time of leases.
        """
        self._broker = broker
        self._store = store
        self._limit = limit
        self._idle_timeout = idle_timeout
        self._clock = clock
        self._lock = Lock()
        self._starting = Lock()
        self._instances: dict[InstanceKey, ConsumerInstance] = {}
        self._leases: dict[str, ConsumerInstance] = {}
        self._thread: Thread | None = None
        self._closing = Event()
        self._topics_log = LogOnce(_log)

    def start(self) -> None:
        """Load the instances from the store and start the maintenance thread. Raises `Unavailable`."""
        with self._starting:
            if self._thread is not None:
                return
            for stored in self._store.load():
                self.adopt(stored)
            self._thread = Thread(target=self._run, name="instances", daemon=True)
            self._thread.start()

    def close(self, *, leave: bool = False) -> None:
        """End all instances in this process. With `leave`, they leave their groups.

        Without it, the groups wait for a process that continues the instances. Auto-commit commits first: if that
        process comes later than the session timeout, it starts at the committed offsets.
        """
        self._closing.set()
        with self._lock:
            instances, self._instances = list(self._instances.values()), {}
        until = time.monotonic() + _COMMIT_SECONDS
        for instance in instances:
            instance.close(leave=leave, commit=time.monotonic() < until)

    def adopt(self, stored: StoredInstance) -> None:
        """Continue an instance from the store. It rejoins its group with the same member id."""
        definition = stored.definition
        instance = ConsumerInstance(definition, stored.progress, self._broker, self._store, self._clock)
        with self._lock:
            if (definition.group, definition.name) in self._instances:
                return
            self._instances[definition.group, definition.name] = instance
        self._update_topics([instance])

    def forget(self, group: str, name: str) -> None:
        """End an instance in this process, because another node has adopted it."""
        with self._lock:
            instance = self._instances.pop((group, name), None)
        if instance is not None:
            instance.close()

    def names(self) -> list[InstanceKey]:
        """Return group and name of each instance."""
        with self._lock:
            return list(self._instances)

    # InstanceService

    def list_instances(self) -> list[InstanceDefinition]:
        with self._lock:
            definitions = [each.definition for each in self._instances.values()]
        return sorted(definitions, key=lambda each: (each.group, each.name))

    def create(self, group: str, name: str, settings: InstanceSettings, caller: InstanceCaller = ANY_CALLER) -> None:
        self.start()
        definition = InstanceDefinition(group, name, _member_id(name), settings, owner=caller.owner)
        instance = ConsumerInstance(definition, InstanceProgress(), self._broker, self._store, self._clock)
        with self._lock:
            self._remove_closed()
            if (group, name) in self._instances:
                raise InstanceExists
            if len(self._instances) >= self._limit:
                raise TooManyInstances(self._limit)
            self._instances[group, name] = instance
        try:
            self._store.create(definition)
        except BaseException:
            with self._lock:
                self._instances.pop((group, name), None)
            raise

    def delete(self, group: str, name: str, caller: InstanceCaller = ANY_CALLER) -> None:
        self._delete(self._find(group, name, caller), commit=True)

    def settings(self, group: str, name: str, caller: InstanceCaller = ANY_CALLER) -> InstanceSettings:
        return self._find(group, name, caller).definition.settings

    def subscribe(
        self, group: str, name: str, topics: Sequence[str], pattern: str | None, caller: InstanceCaller = ANY_CALLER
    ) -> None:
        instance = self._find(group, name, caller)
        if pattern is not None:
            compile_pattern(pattern)
        elif not topics:
            instance.unsubscribe()
            return
        instance.subscribe(topics, pattern, caller.readable, TopicMatcher(self._broker.log))

    def unsubscribe(self, group: str, name: str, caller: InstanceCaller = ANY_CALLER) -> None:
        self._find(group, name, caller).unsubscribe()

    def subscription(self, group: str, name: str, caller: InstanceCaller = ANY_CALLER) -> list[str]:
        return self._find(group, name, caller).subscription()

    def assign(
        self, group: str, name: str, partitions: Sequence[TopicPartition], caller: InstanceCaller = ANY_CALLER
    ) -> None:
        self._find(group, name, caller).assign(partitions)

    def assignments(self, group: str, name: str, caller: InstanceCaller = ANY_CALLER) -> list[TopicPartition]:
        return self._find(group, name, caller).assignments()

    def seek(self, group: str, name: str, entries: Sequence[OffsetEntry], caller: InstanceCaller = ANY_CALLER) -> None:
        self._find(group, name, caller).seek(offsets_of(entries))

    def seek_times(
        self, group: str, name: str, times: Sequence[OffsetEntry], caller: InstanceCaller = ANY_CALLER
    ) -> None:
        self._find(group, name, caller).seek_to(offsets_of(times))

    def seek_ends(
        self,
        group: str,
        name: str,
        partitions: Sequence[TopicPartition],
        end: OffsetReset,
        caller: InstanceCaller = ANY_CALLER,
    ) -> None:
        self._find(group, name, caller).seek_to(dict.fromkeys(partitions, end))

    def commit(
        self, group: str, name: str, entries: Sequence[OffsetEntry] | None, caller: InstanceCaller = ANY_CALLER
    ) -> None:
        self._find(group, name, caller).commit(entries)

    def committed(
        self, group: str, name: str, partitions: Sequence[TopicPartition], caller: InstanceCaller = ANY_CALLER
    ) -> list[OffsetEntry]:
        return self._find(group, name, caller).committed(partitions)

    def acquire_lease(self, group: str, name: str, timeout: float, caller: InstanceCaller = ANY_CALLER) -> ReadLease:
        instance = self._find(group, name, caller)
        instance.update_readable(caller)
        lease = instance.acquire(timeout)
        with self._lock:
            self._leases[lease.id] = instance
        return lease

    def renew_lease(
        self, lease: ReadLease, positions: Sequence[OffsetEntry] = (), timeout: float = 0, recreated: Sequence[str] = ()
    ) -> ReadLease:
        if (instance := self._leases.get(lease.id)) is None:
            raise LeaseExpired
        return instance.renew(lease, positions, timeout, recreated)

    def release_lease(
        self, lease: ReadLease, positions: Sequence[OffsetEntry] = (), delivered: Sequence[OffsetEntry] = ()
    ) -> None:
        if (instance := self._leases.pop(lease.id, None)) is not None:
            instance.release(lease, positions, delivered)

    def _find(self, group: str, name: str, caller: InstanceCaller) -> ConsumerInstance:
        self.start()
        instance = self._instances.get((group, name))
        if instance is None or not caller.may_use(instance.definition.owner):
            raise InstanceNotFound
        instance.touch()
        return instance

    def _delete(self, instance: ConsumerInstance, *, commit: bool) -> None:
        key = instance.definition.group, instance.definition.name
        with self._lock:
            if self._instances.pop(key, None) is not instance:
                return
        instance.delete(commit=commit)

    def _remove_closed(self) -> None:
        for key in [key for key, each in self._instances.items() if each.is_closed]:
            del self._instances[key]

    # Maintenance

    def _run(self) -> None:
        updated = time.monotonic()
        while not self._closing.wait(_TICK):
            try:
                INSTANCES.set(len(self._instances))
                self.end_idle()
                if time.monotonic() - updated >= _UPDATE_TOPICS_SECONDS:
                    self.update_topics()
                    updated = time.monotonic()
            except Exception:
                _log.exception("Maintenance of the consumer instances failed; retrying")

    def end_idle(self) -> None:
        """End idle instances and expired leases."""
        with self._lock:
            self._remove_closed()
            for lease, each in list(self._leases.items()):  # others release leases meanwhile, without the lock
                if each.lease_id != lease:
                    self._leases.pop(lease, None)
            idle = [each for each in self._instances.values() if each.is_idle(self._idle_timeout)]
        for instance in idle:
            try:
                self._delete(instance, commit=False)
            except KafkaHttpError as error:
                _log.warning("Idle consumer instance could not be deleted: %s", error.message)

    def update_topics(self) -> None:
        """Update the topics of all subscriptions, because topics may be new or deleted."""
        with self._lock:
            instances = list(self._instances.values())
        self._update_topics(instances)

    def _update_topics(self, instances: Sequence[ConsumerInstance]) -> None:
        subscribed = [each for each in instances if each.is_subscribed]
        if not subscribed:
            return
        try:
            matcher = TopicMatcher(self._broker.log)
        except KafkaHttpError as error:
            self._topics_log.warning("Topics of consumer instances could not be updated: %s", error.message)
            return
        self._topics_log.clear()
        for instance in subscribed:
            try:
                instance.update_topics(matcher)
            except KafkaHttpError as error:
                _log.warning("Consumer instance could not be subscribed: %s", error.message)


def _member_id(name: str) -> str:
    """Return a new `group.instance.id`, which may have the same characters as a topic name."""
    return f"{_NOT_IN_MEMBER_ID.sub('_', name)}-{secrets.token_hex(4)}"
