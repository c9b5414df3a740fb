"""Writing: a request's records through kafka-python's producer, one outcome each."""

import random
import time
from collections.abc import Mapping, Sequence
from threading import Lock
from typing import Any

from kafka.errors import IllegalStateError, KafkaError
from kafka.partitioner.default import murmur2
from kafka.producer.future import FutureRecordMetadata

from kafka_http.broker.admin import Admin
from kafka_http.broker.clients import Kept
from kafka_http.broker.errors import outcome_of, unknown_outcome
from kafka_http.broker.metadata import Metadata
from kafka_http.broker.sender import Sender, was_bystander
from kafka_http.errors import (
    BrokerUnavailable,
    InvalidValue,
    KafkaHttpError,
    PartitionNotFound,
    RetriableBrokerError,
    TooLarge,
    TopicNotFound,
)
from kafka_http.records import Delivery, NewRecord, Outcome, PartitionInfo

_METADATA_AGE = 2.0
"""How long a topic that was deleted or has grown may go unnoticed."""
_LEADER_PAUSE = 0.05
_LARGEST_TIMESTAMP = 2**63 - 1
Handed = FutureRecordMetadata | KafkaHttpError


class KafkaRecordProducer:
    """The `Producer` of a Kafka cluster. Any thread may call."""

    def __init__(
        self, settings: Mapping[str, Any], metadata: Metadata, admin: Admin, *, auto_create_topics: bool = False
    ) -> None:
        """`settings` are those of `KafkaProducer`."""
        # A look of its own must not create a topic: that is done here, with an answer where it is refused.
        self._kept = Kept(Sender, Sender.abandon, {**settings, "allow_auto_create_topics": False}, metadata.alive)
        self._metadata = metadata
        self._admin = admin
        self._auto_create_topics = auto_create_topics
        self._largest = settings["max_request_size"]
        self._appending = Lock()

    def produce(self, topic: str, records: Sequence[NewRecord], timeout: float) -> list[Outcome]:
        deadline = time.monotonic() + timeout
        partitions = self._partitions(topic, deadline)
        placed = _placed(records, self._checked(topic, records, partitions))
        sender = self._sender(topic, len(partitions), deadline)
        outcomes: dict[int, Outcome] = {}
        waiting = list(range(len(records)))
        while waiting:
            handed = self._hand_over(sender, topic, [(placed[each], records[each]) for each in waiting])
            settled = {each: self._settled(one, topic, deadline) for each, one in zip(waiting, handed, strict=True)}
            outcomes |= {each: settled_as for each, settled_as in settled.items() if settled_as is not None}
            waiting = [each for each, settled_as in settled.items() if settled_as is None]
        return self._explained(topic, [outcomes[each] for each in range(len(records))])

    def close(self, timeout: float) -> None:
        if (sender := self._kept.close()) is not None:
            sender.finish(timeout)

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
        named = max((each.partition for each in records if each.partition is not None), default=0)
        if named >= len(partitions):
            partitions = self._metadata.partitions(topic)
        for each in records:
            if each.partition is not None and not 0 <= each.partition < len(partitions):
                raise PartitionNotFound(topic, each.partition, len(partitions))
        return partitions

    def _sender(self, topic: str, count: int, deadline: float) -> Sender:
        sender = self._kept.get()
        if sender.is_lost:
            self._kept.drop(sender)
            sender = self._kept.get()
            if sender.is_lost:
                raise BrokerUnavailable("The connection to Kafka was lost and is made anew, try again.")
        sender.wait_for(topic, count, deadline)
        return sender

    def _hand_over(self, sender: Sender, topic: str, placed: Sequence[tuple[int, NewRecord]]) -> list[Handed]:
        with self._appending:  # threads that append record by record slow each other down
            handed = [self._append(sender, topic, partition, record) for partition, record in placed]
        sender.wakeup()
        return handed

    def _append(self, sender: Sender, topic: str, partition: int, record: NewRecord) -> Handed:
        if (refusal := self._refusal(sender, record)) is not None:
            return refusal
        try:
            return sender.append(topic, partition, record)
        except IllegalStateError:
            return BrokerUnavailable("The connection to Kafka was lost before the record was handed over.")
        except KafkaError as error:
            return outcome_of(error, topic)

    def _refusal(self, sender: Sender, record: NewRecord) -> KafkaHttpError | None:
        """What kafka-python would stumble over only once the record is in a batch with others."""
        if record.timestamp is not None and not 0 <= record.timestamp <= _LARGEST_TIMESTAMP:
            return InvalidValue("Kafka refuses the record: a timestamp is milliseconds from 1970, 0 or more.")
        try:
            size = sender.size_of(record)
        except UnicodeEncodeError:
            return InvalidValue("Kafka refuses the record: a header's name is not valid Unicode.")
        if size > self._largest:
            return _too_large(self._largest)
        return None

    def _settled(self, handed: Handed, topic: str, deadline: float) -> Outcome | None:
        """What became of a record, waiting for it; None where it is to be handed over once more."""
        if isinstance(handed, KafkaHttpError):
            return handed
        try:
            stored = handed.get(max(0.0, deadline - time.monotonic()))
        except KafkaError as error:
            if not handed.is_done:
                self._metadata.forget(topic)
                return unknown_outcome("no answer within the request's time.")
            if was_bystander(error) and time.monotonic() < deadline:
                return None
            return outcome_of(error, topic)
        return Delivery(stored.partition, stored.offset, stored.timestamp)

    def _explained(self, topic: str, outcomes: list[Outcome]) -> list[Outcome]:
        """The outcomes, with the limit that Kafka does not name where a record is over it."""
        if not any(map(_lacks_limit, outcomes)):
            return outcomes
        try:
            limit = self._admin.message_limit(topic)
        except KafkaHttpError:
            return outcomes
        return [_too_large(limit) if _lacks_limit(each) else each for each in outcomes]


def _lacks_limit(outcome: Outcome) -> bool:
    return isinstance(outcome, TooLarge) and "limit" not in outcome.fields


def _placed(records: Sequence[NewRecord], partitions: Sequence[PartitionInfo]) -> list[int]:
    """The partition of each record: its own, that of its key, or the one of this request."""
    led = [each.partition for each in partitions if each.leader is not None]
    shared = random.choice(led or [each.partition for each in partitions])  # noqa: S311  balance, not secrecy
    return [_place(each, len(partitions), shared) for each in records]


def _place(record: NewRecord, count: int, shared: int) -> int:
    if record.partition is not None:
        return record.partition
    if record.key is None:
        return shared
    return (murmur2(record.key) & 0x7FFFFFFF) % count  # type: ignore[no-any-return]


def _too_large(limit: int) -> TooLarge:
    return TooLarge(f"The message is larger than the {limit} bytes that Kafka takes here.", limit=limit)
