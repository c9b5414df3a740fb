"""A request's records between their hand-over to kafka-python and Kafka's last word on them."""

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from threading import Lock

from kafka.errors import IllegalStateError, InvalidTimestampError, KafkaError

from kafka_http.broker.batch_append import AppendResult
from kafka_http.broker.error_map import result_of, unknown_outcome
from kafka_http.broker.patched_producer import PatchedProducer, PendingAppend, was_bystander
from kafka_http.errors import BrokerUnavailable, KafkaHttpError, OutcomePending, TooLarge
from kafka_http.records import NewRecord, RecordMetadata, RecordResult


class KafkaPendingPublish:
    """The records of one request. Any thread may call.

    Handed over once more are those that Kafka did not write only because of others in their batch, and those that it
    refused for a timestamp that this server made.
    """

    def __init__(
        self,
        sender: PatchedProducer,
        topic: str,
        records: Sequence[NewRecord],
        deadline: float,
        done: "Callable[[KafkaPendingPublish], None]",
    ) -> None:
        """`done` is called once, with this, when each record has its outcome: by the sender's thread, which must not be
        held up, or by the one that hands over. From `deadline` (of the monotonic clock) on nothing is tried again."""
        self.limit: int | None = None  # of the size of a message, where Kafka was asked
        self._sender = sender
        self._topic = topic
        self._records = records
        self._deadline = deadline
        self._done = [done]
        self._refused: dict[int, KafkaHttpError] = {}
        self._parts: list[_Part] = []
        self._open = 0
        self._lock = Lock()

    def refuse(self, index: int, error: KafkaHttpError) -> None:
        """Leave a record out: this is its outcome."""
        self._refused[index] = error

    def begin(self, placed: Sequence[int]) -> None:
        """Hand all records over but those refused; the sender's `wakeup` sends them. `placed` has the partition of
        each."""
        with self._lock:
            self._open = 1
        self._placed = placed
        self._hand_over([each for each in range(len(self._records)) if each not in self._refused])
        self._close_one()

    def when_done(self, done: "Callable[[KafkaPendingPublish], None]") -> None:
        """Have this called as well when each record has its outcome: at once where that is so."""
        with self._lock:
            if self._open:
                self._done.append(done)
                return
        done(self)

    @property
    def is_delivered(self) -> bool:
        """Whether all records were written."""
        return not self._refused and all(each.handed is not None and each.handed.is_delivered for each in self._parts)

    def outcomes(self) -> list[RecordResult]:
        """One a record, in their order, as far as is known now."""
        fates: list[AppendResult] = [None] * len(self._records)
        for part in list(self._parts):
            if part.handed is None:
                continue
            if len(part.indexes) == len(fates):
                fates = part.handed.fates()
                continue
            for index, fate in zip(part.indexes, part.handed.fates(), strict=True):
                fates[index] = fate
        for index, error in list(self._refused.items()):
            fates[index] = error
        errors: dict[int, KafkaHttpError] = {}  # one for all records that failed of the same
        return [each if isinstance(each, RecordMetadata) else self._shared_outcome(each, errors) for each in fates]

    @property
    def lacks_limit(self) -> bool:
        """Whether Kafka has refused a record for its size, without naming the limit."""
        if self.is_delivered:
            return False
        return any(isinstance(each, TooLarge) and "limit" not in each.fields for each in self.outcomes())

    def _shared_outcome(self, fate: BaseException | None, errors: dict[int, KafkaHttpError]) -> KafkaHttpError:
        error = errors.get(id(fate))
        if error is None:
            error = errors[id(fate)] = self._outcome(fate)
        return error

    def _outcome(self, fate: BaseException | None) -> KafkaHttpError:
        """What a client is told of a record that was not written, as far as is known."""
        if fate is None:
            return unknown_outcome("no answer within the request's time.", self._sender.asked, OutcomePending)
        error = fate if isinstance(fate, KafkaHttpError) else result_of(fate, self._topic, self._sender.asked)
        is_too_large = self.limit is not None and isinstance(error, TooLarge) and "limit" not in error.fields
        return too_large(self.limit or 0) if is_too_large else error

    def _hand_over(self, indexes: Sequence[int]) -> None:
        for partition, those in _by_partition(self._placed, indexes).items():
            with self._lock:
                self._open += 1
            self._hand_over_to(partition, those)

    def _hand_over_to(self, partition: int, indexes: Sequence[int]) -> None:
        part = _Part(indexes, is_untimed=self._sender.omits_timestamps(self._topic))
        self._parts.append(part)  # before it can be settled, so that another try of a record comes behind the first
        is_all = len(indexes) == len(self._records)
        records = self._records if is_all else [self._records[each] for each in indexes]
        try:
            settle = partial(self._settle, part)
            part.handed = self._sender.hand_over(self._topic, partition, records, settle, is_untimed=part.is_untimed)
            return
        except IllegalStateError:
            error: KafkaHttpError = BrokerUnavailable("The connection to Kafka was lost before the record was sent.")
        except KafkaError as refused:
            error = result_of(refused, self._topic)
        self._refused |= dict.fromkeys(indexes, error)
        self._close_one()

    def _settle(self, part: "_Part", handed: PendingAppend) -> None:
        """Called by the sender's thread."""
        part.handed = handed
        if not handed.is_delivered and time.monotonic() < self._deadline:
            fates = zip(part.indexes, handed.fates(), strict=True)
            if again := [index for index, fate in fates if self._goes_again(part, index, fate)]:
                self._hand_over(again)  # and the thread that calls looks for what is to be sent, right after this
        self._close_one()

    def _goes_again(self, part: "_Part", index: int, fate: AppendResult) -> bool:
        if isinstance(fate, InvalidTimestampError) and self._records[index].timestamp is None and not part.is_untimed:
            self._sender.omit_timestamps(self._topic)
            return True
        return isinstance(fate, BaseException) and was_bystander(fate)

    def _close_one(self) -> None:
        with self._lock:
            self._open -= 1
            if self._open:
                return
        for done in self._done:
            done(self)


class _Part:
    """Some of the records, handed over together for one partition."""

    __slots__ = ("handed", "indexes", "is_untimed")

    def __init__(self, indexes: Sequence[int], *, is_untimed: bool) -> None:
        self.indexes = indexes
        self.is_untimed = is_untimed
        self.handed: PendingAppend | None = None


def _by_partition(placed: Sequence[int], indexes: Sequence[int]) -> Mapping[int, Sequence[int]]:
    if len(set(placed)) == 1:
        return {placed[0]: indexes} if indexes else {}
    places: dict[int, list[int]] = {}
    for index in indexes:
        places.setdefault(placed[index], []).append(index)
    return places


def too_large(limit: int) -> TooLarge:
    return TooLarge(f"The message is larger than the {limit} bytes that Kafka takes here.", limit=limit)
