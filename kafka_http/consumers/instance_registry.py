"""All consumer instances of a process."""

import logging
import re
import secrets
import time
from collections.abc import Callable, Sequence
from threading import Event, Lock, Thread

from kafka_http.broker_protocols import Broker
from kafka_http.consumers.consumer_instance import ConsumerInstance
from kafka_http.consumers.instance_service import ReadLease
from kafka_http.consumers.instance_store import InstanceStore
from kafka_http.errors import InstanceExists, InstanceNotFound, KafkaHttpError, LeaseExpired, TooManyInstances
from kafka_http.records import (
    Definition,
    InstanceProgress,
    InstanceSettings,
    OffsetReset,
    RecordPlace,
    StoredInstance,
    TopicPartition,
)
from kafka_http.topics import TopicMatcher, compile_pattern

_log = logging.getLogger(__name__)

_TICK = 0.5
_LOOK_UP_SECONDS = 3.0
_NOT_IN_ID = re.compile(r"[^A-Za-z0-9._-]")
_COMMIT_SECONDS = 2.0
"""From the start of a stop on; a commit that has begun by then may take longer."""

Key = tuple[str, str]


class InstanceRegistry:
    """The `Instances` that live in this process. Starts its thread with the first call, so after a fork."""

    def __init__(
        self,
        broker: Broker,
        store: InstanceStore,
        *,
        limit: int,
        idle_timeout: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`clock` tells seconds; with it go the idle time, auto commit and the time of loans."""
        self._broker = broker
        self._store = store
        self._limit = limit
        self._idle_timeout = idle_timeout
        self._clock = clock
        self._lock = Lock()
        self._starting = Lock()
        self._instances: dict[Key, ConsumerInstance] = {}
        self._loans: dict[str, ConsumerInstance] = {}
        self._keeper: Thread | None = None
        self._closing = Event()
        self._said = ""

    def start(self) -> None:
        """Bring back the instances of the store, and look after all of them from now on. Raises `Unavailable`."""
        with self._starting:
            if self._keeper is not None:
                return
            for stored in self._store.load():
                self.adopt(stored)
            self._keeper = Thread(target=self._keep, name="instances", daemon=True)
            self._keeper.start()

    def close(self, *, leave: bool = False) -> None:
        """End all instances in this process. Their groups wait for another process to bring them back, unless told
        to `leave`.

        What auto commit owes is committed first: if the other process comes later than a group waits for a member, only
        committed offsets count.
        """
        self._closing.set()
        with self._lock:
            instances, self._instances = list(self._instances.values()), {}
        until = time.monotonic() + _COMMIT_SECONDS
        for instance in instances:
            if time.monotonic() < until:
                instance.commit_owed()
            instance.close(leave=leave)

    def adopt(self, stored: StoredInstance) -> None:
        """Hold an instance that is in the store; it joins its group again as the one that it was."""
        definition = stored.definition
        instance = ConsumerInstance(definition, stored.progress, self._broker, self._store, self._clock)
        with self._lock:
            if (definition.group, definition.name) in self._instances:
                return
            self._instances[definition.group, definition.name] = instance
        self._look_up([instance])

    def forget(self, group: str, name: str) -> None:
        """Hold an instance no longer: another node has it, and its partitions."""
        with self._lock:
            instance = self._instances.pop((group, name), None)
        if instance is not None:
            instance.close()

    def names(self) -> list[Key]:
        """Group and name of each instance."""
        with self._lock:
            return list(self._instances)

    # Instances

    def list_instances(self) -> list[Definition]:
        with self._lock:
            definitions = [each.definition for each in self._instances.values()]
        return sorted(definitions, key=lambda each: (each.group, each.name))

    def create(self, group: str, name: str, settings: InstanceSettings) -> None:
        self.start()
        definition = Definition(group, name, _member_id(name), settings)
        instance = ConsumerInstance(definition, InstanceProgress(), self._broker, self._store, self._clock)
        with self._lock:
            self._drop_gone()
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

    def delete(self, group: str, name: str) -> None:
        self._end(self._find(group, name), commit=True)

    def settings(self, group: str, name: str) -> InstanceSettings:
        return self._find(group, name).definition.settings

    def subscribe(self, group: str, name: str, topics: Sequence[str], pattern: str | None) -> None:
        instance = self._find(group, name)
        if pattern is not None:
            compile_pattern(pattern)
        elif not topics:
            instance.unsubscribe()
            return
        instance.subscribe(topics, pattern, TopicMatcher(self._broker.log))

    def unsubscribe(self, group: str, name: str) -> None:
        self._find(group, name).unsubscribe()

    def subscription(self, group: str, name: str) -> list[str]:
        return self._find(group, name).subscription()

    def assign(self, group: str, name: str, partitions: Sequence[TopicPartition]) -> None:
        self._find(group, name).assign(partitions)

    def assignments(self, group: str, name: str) -> list[TopicPartition]:
        return self._find(group, name).assignments()

    def seek(self, group: str, name: str, places: Sequence[RecordPlace]) -> None:
        self._find(group, name).seek(_by_partition(places))

    def seek_times(self, group: str, name: str, times: Sequence[RecordPlace]) -> None:
        self._find(group, name).seek_to(_by_partition(times))

    def seek_ends(self, group: str, name: str, partitions: Sequence[TopicPartition], end: OffsetReset) -> None:
        self._find(group, name).seek_to(dict.fromkeys(partitions, end))

    def commit(self, group: str, name: str, places: Sequence[RecordPlace] | None) -> None:
        self._find(group, name).commit(places)

    def committed(self, group: str, name: str, partitions: Sequence[TopicPartition]) -> list[RecordPlace]:
        return self._find(group, name).committed(partitions)

    def borrow(self, group: str, name: str, timeout: float) -> ReadLease:
        instance = self._find(group, name)
        loan = instance.borrow(timeout)
        with self._lock:
            self._loans[loan.id] = instance
        return loan

    def renew(
        self, loan: ReadLease, positions: Sequence[RecordPlace] = (), timeout: float = 0, recreated: Sequence[str] = ()
    ) -> ReadLease:
        if (instance := self._loans.get(loan.id)) is None:
            raise LeaseExpired
        return instance.renew(loan, positions, timeout, recreated)

    def give_back(self, loan: ReadLease, positions: Sequence[RecordPlace], delivered: Sequence[RecordPlace]) -> None:
        if (instance := self._loans.pop(loan.id, None)) is not None:
            instance.give_back(loan, positions, delivered)

    def drop(self, loan: ReadLease) -> None:
        if (instance := self._loans.pop(loan.id, None)) is not None:
            instance.drop(loan)

    # within

    def _find(self, group: str, name: str) -> ConsumerInstance:
        self.start()
        if (instance := self._instances.get((group, name))) is None:
            raise InstanceNotFound
        instance.use()
        return instance

    def _end(self, instance: ConsumerInstance, *, commit: bool) -> None:
        key = instance.definition.group, instance.definition.name
        with self._lock:
            if self._instances.pop(key, None) is not instance:
                return
        instance.end(commit=commit)

    def _drop_gone(self) -> None:
        for key in [key for key, each in self._instances.items() if each.is_gone]:
            del self._instances[key]

    def _keep(self) -> None:
        looked_up = time.monotonic()
        while not self._closing.wait(_TICK):
            try:
                self.tidy()
                if time.monotonic() - looked_up >= _LOOK_UP_SECONDS:
                    self.look_up()
                    looked_up = time.monotonic()
            except Exception:
                _log.exception("Looking after the consumer instances failed; it goes on.")

    def tidy(self) -> None:
        """End the instances that were idle for too long, and the loans whose time is over."""
        with self._lock:
            self._drop_gone()
            self._loans = {each: i for each, i in self._loans.items() if i.loan_id == each}
            idle = [each for each in self._instances.values() if each.is_idle(self._idle_timeout)]
        for instance in idle:
            try:
                self._end(instance, commit=False)
            except KafkaHttpError as error:
                _log.warning("An idle consumer instance is not forgotten: %s", error.message)

    def look_up(self) -> None:
        """Find out which topics there are now for all that are subscribed."""
        with self._lock:
            instances = list(self._instances.values())
        self._look_up(instances)

    def _look_up(self, instances: Sequence[ConsumerInstance]) -> None:
        subscribed = [each for each in instances if each.is_subscribed]
        if not subscribed:
            return
        try:
            names = TopicMatcher(self._broker.log)
        except KafkaHttpError as error:
            if error.message != self._said:
                self._said = error.message
                _log.warning("The topics of consumer instances are not looked up: %s", error.message)
            return
        self._said = ""
        for instance in subscribed:
            try:
                instance.look_up(names)
            except KafkaHttpError as error:
                _log.warning("A consumer instance cannot be subscribed: %s", error.message)


def _member_id(name: str) -> str:
    """An id for Kafka (`group.instance.id`), which allows the characters of a topic's name alone."""
    return f"{_NOT_IN_ID.sub('_', name)}-{secrets.token_hex(4)}"


def _by_partition(places: Sequence[RecordPlace]) -> dict[TopicPartition, int]:
    return {TopicPartition(each.topic, each.partition): each.offset for each in places}
