"""Writes the records of a request through kafka-python's producer."""

import random
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from threading import Event, Lock, Thread
from typing import Any

from kafka.partitioner.default import murmur2

from kafka_http.broker.admin_client import Admin
from kafka_http.broker.client_lifecycle import ClientHolder
from kafka_http.broker.patched_producer import PatchedProducer
from kafka_http.broker.pending_publish import KafkaPendingPublish, too_large
from kafka_http.broker.topic_metadata import TopicMetadata
from kafka_http.errors import (
    BrokerUnavailable,
    InvalidValue,
    KafkaHttpError,
    OutcomePending,
    PartitionNotFound,
    RetriableBrokerError,
    TooMuchInFlight,
    TopicNotFound,
)
from kafka_http.records import (
    NewRecord,
    PartitionInfo,
    RecordResult,
    ResultsCallback,
    missing_partitions,
    payload_size,
)

_METADATA_AGE = 2.0
"""Maximum age of metadata, in seconds. Deleted topics and new partitions are noticed after this time."""
_LEADER_DELAY = 0.05
_MAX_TIMESTAMP = 2**63 - 1
_MAX_UNACKNOWLEDGED_BYTES = 64 << 20
"""Bytes of keys and values that still wait for Kafka after their clients got a response."""
_STICKY_SECONDS = 0.02
"""Seconds for which records with neither key nor partition go to the same one, so that requests share a batch."""


class KafkaRecordProducer:
    """The `Producer` of a Kafka cluster. Any thread may call.

    It has two producers of kafka-python. One serves publishes that end with the client's timeout. The other, created on
    first use, serves publishes whose result is needed later: its batches live longer, and expired batches of the first
    do not reset its sequence numbers.
    """

    def __init__(
        self,
        settings: Mapping[str, Any],
        long_lived: Mapping[str, Any],
        metadata: TopicMetadata,
        admin: Admin,
        *,
        auto_create_topics: bool = False,
    ) -> None:
        """`settings` are the `KafkaProducer` settings of the first producer, `long_lived` those of the second."""
        # kafka-python must not create topics: this class does, and reports errors.
        self._default, self._long_lived = (
            ClientHolder(
                PatchedProducer,
                PatchedProducer.abandon,
                {**each, "allow_auto_create_topics": False},
                metadata.check_reachable,
            )
            for each in (settings, long_lived)
        )
        self._delivery_seconds = long_lived["delivery_timeout_ms"] / 1000
        self._unacknowledged_bytes = 0
        self._unacknowledged_lock = Lock()
        self._metadata = metadata
        self._admin = admin
        self._auto_create_topics = auto_create_topics
        self._max_size = settings["max_request_size"]
        self._sticky: dict[str, tuple[int, float]] = {}
        self._background = ThreadPoolExecutor(1)
        self._refreshing: set[str] = set()

    def produce(
        self, topic: str, records: Sequence[NewRecord], timeout: float, on_results: ResultsCallback | None = None
    ) -> list[RecordResult]:
        deadline = last = time.monotonic() + timeout
        holder = self._default
        if on_results is not None:
            self._check_unacknowledged()
            holder, last = self._long_lived, max(deadline, time.monotonic() + self._delivery_seconds)
        partitions = self._check_partitions(topic, records, self._partitions(topic, deadline))
        sender = self._sender(holder, topic, len(partitions), deadline)
        finished = Event()
        pending = KafkaPendingPublish(sender, topic, records, last, lambda _: finished.set())
        self._append(pending, topic, records, partitions)
        sender.wakeup()
        if not finished.wait(max(0.0, deadline - time.monotonic())):
            self._metadata.remove(topic)
        self._add_limit(pending, topic)
        outcomes = pending.results()
        if on_results is not None and any(isinstance(each, OutcomePending) for each in outcomes):
            size = self._add_unacknowledged(payload_size(records))

            def finish() -> None:
                self._add_unacknowledged(-size)
                on_results(pending.results())

            pending.add_done_callback(partial(self._on_done, topic, finish))
        return outcomes

    def _add_unacknowledged(self, size: int) -> int:
        with self._unacknowledged_lock:
            self._unacknowledged_bytes += size
        return size

    def _check_unacknowledged(self) -> None:
        """Raise `TooMuchInFlight` if too many bytes wait for their results."""
        if self._unacknowledged_bytes >= _MAX_UNACKNOWLEDGED_BYTES:
            raise TooMuchInFlight(
                f"Too many messages with an Idempotency-Key wait for Kafka: {self._unacknowledged_bytes} bytes, limit "
                f"{_MAX_UNACKNOWLEDGED_BYTES}. Nothing was written. Retry.",
                limit=_MAX_UNACKNOWLEDGED_BYTES,
            )

    def start(
        self, topic: str, records: Sequence[NewRecord], timeout: float, on_done: Callable[[], None]
    ) -> KafkaPendingPublish | None:
        partitions = self._cached_partitions(topic)
        sender = self._default.current
        if not partitions or sender is None or sender.is_lost or not sender.has_metadata(topic, len(partitions)):
            return None
        if missing_partitions(records, len(partitions)):
            return None
        deadline = time.monotonic() + timeout
        pending = KafkaPendingPublish(sender, topic, records, deadline, partial(self._on_done, topic, on_done))
        self._append(pending, topic, records, partitions)
        return pending

    def send(self) -> None:
        if (sender := self._default.current) is not None:
            sender.wakeup()

    def close(self, timeout: float) -> None:
        self._background.shutdown(wait=False, cancel_futures=True)
        senders = [each for each in (self._default.close(), self._long_lived.close()) if each is not None]
        ends = [Thread(target=each.finish, args=(timeout,), daemon=True) for each in senders]
        for end in ends:
            end.start()
        for end in ends:
            end.join()

    def _cached_partitions(self, topic: str) -> list[PartitionInfo] | None:
        """Return the cached partitions of a topic, and refresh them in the background before they expire."""
        if (partitions := self._metadata.cached(topic, _METADATA_AGE / 2)) is not None:
            return partitions
        if (partitions := self._metadata.cached(topic, _METADATA_AGE)) is not None and topic not in self._refreshing:
            self._refreshing.add(topic)
            self._background.submit(self._refresh, topic)
        return partitions

    def _refresh(self, topic: str) -> None:
        with suppress(KafkaHttpError):  # the next caller gets the error
            self._metadata.partitions(topic)
        self._refreshing.discard(topic)

    def _on_done(self, topic: str, on_done: Callable[[], None], pending: KafkaPendingPublish) -> None:
        """Called by the producer's thread when all records have results."""
        if pending.lacks_limit:
            with suppress(RuntimeError):  # already closed
                self._background.submit(self._add_limit, pending, topic).add_done_callback(lambda _: on_done())
                return
        on_done()

    def _partitions(self, topic: str, deadline: float) -> list[PartitionInfo]:
        """Return the topic's partitions. A missing topic is created if the settings allow it."""
        try:
            return self._metadata.partitions(topic, max_age=_METADATA_AGE)
        except TopicNotFound:
            if not self._auto_create_topics:
                raise
        self._admin.create_topic(topic)
        while time.monotonic() < deadline:
            try:
                partitions = self._metadata.partitions(topic)
                if all(each.leader is not None for each in partitions):
                    return partitions
            except (TopicNotFound, RetriableBrokerError):
                pass  # the broker that was asked does not know it yet
            self._metadata.remove(topic)
            time.sleep(_LEADER_DELAY)
        raise RetriableBrokerError(f"The topic {topic} was just created and is not ready yet. Retry.")

    def _check_partitions(
        self, topic: str, records: Sequence[NewRecord], partitions: list[PartitionInfo]
    ) -> list[PartitionInfo]:
        """Return the partitions, refreshed if a record names a partition that is not among them."""
        if missing_partitions(records, len(partitions)):
            partitions = self._metadata.partitions(topic)
        for partition in missing_partitions(records, len(partitions)):
            raise PartitionNotFound(topic, partition, len(partitions))
        return partitions

    def _sender(
        self, holder: ClientHolder[PatchedProducer], topic: str, count: int, deadline: float
    ) -> PatchedProducer:
        sender = holder.get()
        if sender.is_lost:
            holder.drop(sender)
            sender = holder.get()
            if sender.is_lost:
                raise BrokerUnavailable("The connection to Kafka was lost and is being restored. Retry.")
        sender.wait_for(topic, count, deadline)
        return sender

    def _append(
        self,
        pending: KafkaPendingPublish,
        topic: str,
        records: Sequence[NewRecord],
        partitions: Sequence[PartitionInfo],
    ) -> None:
        """Append the records, without those that Kafka would reject."""
        shared = self._sticky_partition(topic, partitions)
        max_size, count = self._max_size, len(partitions)
        for index, each in enumerate(records):
            size = len(each.value or b"") + len(each.key or b"")
            unusual = size > max_size or each.timestamp is not None or each.headers
            if unusual and (error := self._rejection(each, size)) is not None:
                pending.reject(index, error)
        pending.begin(
            [shared if each.key is None and each.partition is None else _partition_of(each, count) for each in records]
        )

    def _sticky_partition(self, topic: str, partitions: Sequence[PartitionInfo]) -> int:
        """Return the partition of records with neither key nor partition."""
        partition, until = self._sticky.get(topic, (0, 0.0))
        if (now := time.monotonic()) < until and partition < len(partitions):
            return partition
        with_leader = [each.partition for each in partitions if each.leader is not None]
        partition = random.choice(with_leader or [each.partition for each in partitions])  # noqa: S311  balance, not secrecy
        self._sticky[topic] = partition, now + _STICKY_SECONDS
        return partition

    def _rejection(self, record: NewRecord, size: int) -> KafkaHttpError | None:
        """Return the error of a record that would make its whole batch fail. `size` is that of key and value."""
        if record.timestamp is not None and not 0 <= record.timestamp <= _MAX_TIMESTAMP:
            return InvalidValue("The timestamp must be milliseconds since 1970, 0 or more.")
        try:
            size += sum(len(name.encode()) + len(value or b"") for name, value in record.headers)
        except UnicodeEncodeError:
            return InvalidValue("The name of a header must be valid Unicode.")
        return too_large(self._max_size) if size > self._max_size else None

    def _add_limit(self, pending: KafkaPendingPublish, topic: str) -> None:
        """Look up the size limit, which Kafka does not name, if a record is over it."""
        if pending.lacks_limit:
            with suppress(KafkaHttpError):
                pending.limit = self._admin.message_limit(topic)


def _partition_of(record: NewRecord, count: int) -> int:
    """Return the partition of a record: its own, or that of its key."""
    if record.partition is not None:
        return record.partition
    return (murmur2(record.key) & 0x7FFFFFFF) % count  # type: ignore[no-any-return]
