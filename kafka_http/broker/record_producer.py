"""Writing: a request's records through kafka-python's producer, one outcome each."""

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
from kafka_http.records import NewRecord, PartitionInfo, RecordResult, ResultsCallback, partitions_beyond

_METADATA_AGE = 2.0
"""How long a topic that was deleted or has grown may go unnoticed."""
_LEADER_PAUSE = 0.05
_LARGEST_TIMESTAMP = 2**63 - 1
_MOST_OWED = 64 << 20
"""Bytes of keys and values that wait for Kafka's answer though their clients have one."""
_STICKY = 0.02
"""Seconds for which records with neither key nor partition go to the same one, so that requests share a batch."""


class KafkaRecordProducer:
    """The `Producer` of a Kafka cluster. Any thread may call.

    It has two producers of kafka-python. One serves publishes whose time is over with the client's. The other, made on
    first use, serves those whose outcome is asked for afterwards: its batches live longer, under sequence numbers that
    no expired batch of the first resets.
    """

    def __init__(
        self,
        settings: Mapping[str, Any],
        patient: Mapping[str, Any],
        metadata: TopicMetadata,
        admin: Admin,
        *,
        auto_create_topics: bool = False,
    ) -> None:
        """`settings` and `patient` are those of `KafkaProducer`, for the one and the other."""
        # A look of its own must not create a topic: that is done here, with an answer where it is refused.
        self._kept, self._patient = (
            ClientHolder(
                PatchedProducer, PatchedProducer.abandon, {**each, "allow_auto_create_topics": False}, metadata.alive
            )
            for each in (settings, patient)
        )
        self._delivery_seconds = patient["delivery_timeout_ms"] / 1000
        self._owed = 0
        self._owing = Lock()
        self._metadata = metadata
        self._admin = admin
        self._auto_create_topics = auto_create_topics
        self._largest = settings["max_request_size"]
        self._sticky: dict[str, tuple[int, float]] = {}
        self._aside = ThreadPoolExecutor(1)
        self._looked_up: set[str] = set()

    def produce(
        self, topic: str, records: Sequence[NewRecord], timeout: float, settled: ResultsCallback | None = None
    ) -> list[RecordResult]:
        deadline = last = time.monotonic() + timeout
        kept = self._kept
        if settled is not None:
            self._check_owed()
            kept, last = self._patient, max(deadline, time.monotonic() + self._delivery_seconds)
        partitions = self._checked(topic, records, self._partitions(topic, deadline))
        sender = self._sender(kept, topic, len(partitions), deadline)
        done = Event()
        underway = KafkaPendingPublish(sender, topic, records, last, lambda _: done.set())
        self._begin(underway, topic, records, partitions)
        sender.wakeup()
        if not done.wait(max(0.0, deadline - time.monotonic())):
            self._metadata.forget(topic)
        self._explain(underway, topic)
        outcomes = underway.outcomes()
        if settled is not None and any(isinstance(each, OutcomePending) for each in outcomes):
            size = self._owe(sum(len(each.value or b"") + len(each.key or b"") for each in records))

            def settle() -> None:
                self._owe(-size)
                settled(underway.outcomes())

            underway.when_done(partial(self._settled, topic, settle))
        return outcomes

    def _owe(self, size: int) -> int:
        with self._owing:
            self._owed += size
        return size

    def _check_owed(self) -> None:
        """Raise `TooMuchInFlight` where as much waits for its outcome as may."""
        if self._owed >= _MOST_OWED:
            raise TooMuchInFlight(
                f"{self._owed} bytes of messages with an Idempotency-Key still wait for Kafka's answer, "
                f"the limit is {_MOST_OWED}. Nothing was written; try again.",
                limit=_MOST_OWED,
            )

    def start(
        self, topic: str, records: Sequence[NewRecord], timeout: float, done: Callable[[], None]
    ) -> KafkaPendingPublish | None:
        partitions = self._at_hand(topic)
        sender = self._kept.current
        if not partitions or sender is None or sender.is_lost or not sender.knows(topic, len(partitions)):
            return None
        if partitions_beyond(records, len(partitions)):
            return None
        deadline = time.monotonic() + timeout
        underway = KafkaPendingPublish(sender, topic, records, deadline, partial(self._settled, topic, done))
        self._begin(underway, topic, records, partitions)
        return underway

    def send(self) -> None:
        if (sender := self._kept.current) is not None:
            sender.wakeup()

    def close(self, timeout: float) -> None:
        self._aside.shutdown(wait=False, cancel_futures=True)
        senders = [each for each in (self._kept.close(), self._patient.close()) if each is not None]
        ends = [Thread(target=each.finish, args=(timeout,), daemon=True) for each in senders]
        for end in ends:
            end.start()
        for end in ends:
            end.join()

    def _at_hand(self, topic: str) -> list[PartitionInfo] | None:
        """The topic's partitions as far as they are known, without waiting. They are looked up again in good time."""
        if (partitions := self._metadata.known(topic, _METADATA_AGE / 2)) is not None:
            return partitions
        if (partitions := self._metadata.known(topic, _METADATA_AGE)) is not None and topic not in self._looked_up:
            self._looked_up.add(topic)
            self._aside.submit(self._look_up, topic)
        return partitions

    def _look_up(self, topic: str) -> None:
        with suppress(KafkaHttpError):  # who comes next is told
            self._metadata.partitions(topic)
        self._looked_up.discard(topic)

    def _settled(self, topic: str, done: Callable[[], None], underway: KafkaPendingPublish) -> None:
        """Called by the sender's thread."""
        if underway.lacks_limit:
            with suppress(RuntimeError):  # closed already
                self._aside.submit(self._explain, underway, topic).add_done_callback(lambda _: done())
                return
        done()

    def _partitions(self, topic: str, deadline: float) -> list[PartitionInfo]:
        """The topic's partitions; the topic is created first where it is missing and the settings say so."""
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
                pass  # the broker asked has not heard of it yet
            self._metadata.forget(topic)
            time.sleep(_LEADER_PAUSE)
        raise RetriableBrokerError(f"The topic {topic} was created just now and is not ready yet, try again.")

    def _checked(
        self, topic: str, records: Sequence[NewRecord], partitions: list[PartitionInfo]
    ) -> list[PartitionInfo]:
        """The partitions, looked at again where a record names one that was not there a moment ago."""
        if partitions_beyond(records, len(partitions)):
            partitions = self._metadata.partitions(topic)
        for partition in partitions_beyond(records, len(partitions)):
            raise PartitionNotFound(topic, partition, len(partitions))
        return partitions

    def _sender(self, kept: ClientHolder[PatchedProducer], topic: str, count: int, deadline: float) -> PatchedProducer:
        sender = kept.get()
        if sender.is_lost:
            kept.drop(sender)
            sender = kept.get()
            if sender.is_lost:
                raise BrokerUnavailable("The connection to Kafka was lost and is made anew, try again.")
        sender.wait_for(topic, count, deadline)
        return sender

    def _begin(
        self,
        underway: KafkaPendingPublish,
        topic: str,
        records: Sequence[NewRecord],
        partitions: Sequence[PartitionInfo],
    ) -> None:
        """Hand the records over, without those that Kafka would refuse."""
        shared = self._shared(topic, partitions)
        largest, count = self._largest, len(partitions)
        for index, each in enumerate(records):
            size = len(each.value or b"") + len(each.key or b"")
            unusual = size > largest or each.timestamp is not None or each.headers
            if unusual and (refusal := self._refusal(each, size)) is not None:
                underway.refuse(index, refusal)
        underway.begin(
            [shared if each.key is None and each.partition is None else _place(each, count) for each in records]
        )

    def _shared(self, topic: str, partitions: Sequence[PartitionInfo]) -> int:
        """Where the records go that have neither key nor partition."""
        partition, until = self._sticky.get(topic, (0, 0.0))
        if (now := time.monotonic()) < until and partition < len(partitions):
            return partition
        led = [each.partition for each in partitions if each.leader is not None]
        partition = random.choice(led or [each.partition for each in partitions])  # noqa: S311  balance, not secrecy
        self._sticky[topic] = partition, now + _STICKY
        return partition

    def _refusal(self, record: NewRecord, size: int) -> KafkaHttpError | None:
        """What kafka-python would stumble over only once the record is in a batch with others. `size` is that of key
        and value."""
        if record.timestamp is not None and not 0 <= record.timestamp <= _LARGEST_TIMESTAMP:
            return InvalidValue("Kafka refuses the record: a timestamp is milliseconds from 1970, 0 or more.")
        try:
            size += sum(len(name.encode()) + len(value or b"") for name, value in record.headers)
        except UnicodeEncodeError:
            return InvalidValue("Kafka refuses the record: a header's name is not valid Unicode.")
        return too_large(self._largest) if size > self._largest else None

    def _explain(self, underway: KafkaPendingPublish, topic: str) -> None:
        """Tell the limit, which Kafka does not name, where a record is over it."""
        if underway.lacks_limit:
            with suppress(KafkaHttpError):
                underway.limit = self._admin.message_limit(topic)


def _place(record: NewRecord, count: int) -> int:
    """The partition of a record: its own, or that of its key."""
    if record.partition is not None:
        return record.partition
    return (murmur2(record.key) & 0x7FFFFFFF) % count  # type: ignore[no-any-return]
