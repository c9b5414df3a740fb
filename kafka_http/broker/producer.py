"""Writing: a request's records through kafka-python's producer, one outcome each."""

import random
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from kafka.errors import IllegalStateError, KafkaError
from kafka.partitioner.default import murmur2

from kafka_http.broker.admin import Admin
from kafka_http.broker.batches import Fate
from kafka_http.broker.clients import Kept
from kafka_http.broker.errors import outcome_of, unknown_outcome
from kafka_http.broker.metadata import Metadata
from kafka_http.broker.sender import Handed, Sender, was_bystander
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

    def produce(self, topic: str, records: Sequence[NewRecord], timeout: float) -> list[Outcome]:
        deadline = time.monotonic() + timeout
        partitions = self._partitions(topic, deadline)
        placed = _placed(records, self._checked(topic, records, partitions))
        sender = self._sender(topic, len(partitions), deadline)
        outcomes: list[Outcome | None] = [self._refusal(each) for each in records]
        waiting = [index for index, refusal in enumerate(outcomes) if refusal is None]
        while waiting:
            handed = self._hand_over(sender, topic, records, _by_partition(placed, waiting))
            waiting = []
            for indexes, run in handed:
                for index, outcome in zip(indexes, self._settled(run, topic, deadline), strict=True):
                    outcomes[index] = outcome
                    if outcome is None:
                        waiting.append(index)
        return self._explained(topic, [each for each in outcomes if each is not None])

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

    def _hand_over(
        self, sender: Sender, topic: str, records: Sequence[NewRecord], places: Mapping[int, Sequence[int]]
    ) -> list[tuple[Sequence[int], Handed]]:
        """Hand the records of each partition over; `places` maps it to their indexes."""
        handed: list[tuple[Sequence[int], Handed]] = []
        for partition, indexes in places.items():
            try:
                handed.append((indexes, sender.hand_over(topic, partition, [records[each] for each in indexes])))
            except IllegalStateError:
                lost = BrokerUnavailable("The connection to Kafka was lost before the record was handed over.")
                handed.append((indexes, _NotHanded(lost, len(indexes))))
            except KafkaError as error:
                handed.append((indexes, _NotHanded(outcome_of(error, topic), len(indexes))))
        sender.wakeup()
        return handed

    def _refusal(self, record: NewRecord) -> KafkaHttpError | None:
        """What kafka-python would stumble over only once the record is in a batch with others."""
        if record.timestamp is not None and not 0 <= record.timestamp <= _LARGEST_TIMESTAMP:
            return InvalidValue("Kafka refuses the record: a timestamp is milliseconds from 1970, 0 or more.")
        size = len(record.value or b"") + len(record.key or b"")
        try:
            size += sum(len(name.encode()) + len(value or b"") for name, value in record.headers)
        except UnicodeEncodeError:
            return InvalidValue("Kafka refuses the record: a header's name is not valid Unicode.")
        return _too_large(self._largest) if size > self._largest else None

    def _settled(self, run: Handed, topic: str, deadline: float) -> list[Outcome | None]:
        """What became of each record, waiting for it; None for one that is to be handed over once more."""
        if not run.wait(max(0.0, deadline - time.monotonic())):
            self._metadata.forget(topic)
        return [each if isinstance(each, Delivery) else _outcome(each, topic, deadline) for each in run.fates()]

    def _explained(self, topic: str, outcomes: list[Outcome]) -> list[Outcome]:
        """The outcomes, with the limit that Kafka does not name where a record is over it."""
        if not any(map(_lacks_limit, outcomes)):
            return outcomes
        try:
            limit = self._admin.message_limit(topic)
        except KafkaHttpError:
            return outcomes
        return [_too_large(limit) if _lacks_limit(each) else each for each in outcomes]


class _NotHanded:
    """Records that could not be handed over, in the place of those that were."""

    def __init__(self, error: KafkaHttpError, count: int) -> None:
        self._fates: list[Fate] = [error] * count

    def wait(self, _: float) -> bool:
        return True

    def fates(self) -> list[Fate]:
        return self._fates


def _outcome(fate: BaseException | None, topic: str, deadline: float) -> Outcome | None:
    """What a client is told of a record that was not written, as far as is known; None where it has another try."""
    if fate is None:
        return unknown_outcome("no answer within the request's time.")
    if isinstance(fate, KafkaHttpError):
        return fate
    if was_bystander(fate) and time.monotonic() < deadline:
        return None
    return outcome_of(fate, topic)


def _lacks_limit(outcome: Outcome) -> bool:
    return isinstance(outcome, TooLarge) and "limit" not in outcome.fields


def _placed(records: Sequence[NewRecord], partitions: Sequence[PartitionInfo]) -> list[int]:
    """The partition of each record: its own, that of its key, or the one of this request."""
    led = [each.partition for each in partitions if each.leader is not None]
    shared = random.choice(led or [each.partition for each in partitions])  # noqa: S311  balance, not secrecy
    return [_place(each, len(partitions), shared) for each in records]


def _by_partition(placed: Sequence[int], indexes: Iterable[int]) -> dict[int, list[int]]:
    places: dict[int, list[int]] = {}
    for index in indexes:
        places.setdefault(placed[index], []).append(index)
    return places


def _place(record: NewRecord, count: int, shared: int) -> int:
    if record.partition is not None:
        return record.partition
    if record.key is None:
        return shared
    return (murmur2(record.key) & 0x7FFFFFFF) % count  # type: ignore[no-any-return]


def _too_large(limit: int) -> TooLarge:
    return TooLarge(f"The message is larger than the {limit} bytes that Kafka takes here.", limit=limit)
