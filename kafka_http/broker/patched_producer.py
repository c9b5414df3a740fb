"""kafka-python's producer, cured of what would stop it for ever, and with a way to hand over any legal record."""

import logging
import time
from collections.abc import Callable, Sequence
from threading import Event
from typing import Any, Protocol, cast

from kafka import KafkaProducer
from kafka.cluster import ClusterMetadata
from kafka.errors import (
    InvalidTimestampError,
    KafkaConnectionError,
    KafkaError,
    KafkaProtocolError,
    KafkaTimeoutError,
    RetriableError,
    UnknownError,
)
from kafka.producer.sender import Sender as SenderThread
from kafka.producer.transaction_manager import TransactionManager, TransactionState
from kafka.structs import TopicPartition

from kafka_http.broker import batch_append as batches
from kafka_http.broker.batch_append import AppendResult, PartitionAppend
from kafka_http.broker.connections import PatchedConnectionManager
from kafka_http.broker.error_map import is_refusal, translate
from kafka_http.errors import BrokerUnavailable
from kafka_http.records import NewRecord

log = logging.getLogger(__name__)

_BYSTANDER = "Failed to append record because it was part of a batch"
"""kafka-python's text for the good records of a batch that Kafka refused for another record in it."""
_UNTIMED_SECONDS = 10.0
"""How long a topic's records go without timestamps after Kafka has refused this server's."""
_SAY_EVERY = 60.0
_LOOK_EVERY = 1.0
"""Seconds between two looks for batches whose response was lost."""


class PendingAppend(Protocol):
    """Records of a request that were handed over for one partition."""

    @property
    def is_delivered(self) -> bool:
        """Whether all of them were written."""

    def fates(self) -> list[AppendResult]:
        """What is known of each, in their order."""


class PatchedProducer(KafkaProducer):
    """A producer and its thread. It starts both as it is made, so make it after a fork."""

    _sender: Any

    # aiokafka's builder compresses, with libraries that it brings; kafka-python looks for others.
    _COMPRESSORS = {name: (lambda: True, code) for name, (_, code) in KafkaProducer._COMPRESSORS.items()}  # noqa: RUF012

    def __init__(self, **settings: Any) -> None:
        self._awaited: set[str] = set()
        self._untimed: dict[str, float] = {}
        self._said_at = float("-inf")
        super().__init__(**settings)
        self._metadata.add_listener(self._forget_missing)
        if self._transaction_manager is not None:
            self._transaction_manager.__class__ = _PatchedTransactionManager
        self._sender.woken = False
        self._sender.overdue = set()
        self._sender.looked_at = 0.0
        self._sender.__class__ = _PatchedSenderThread
        self._accumulator.__class__ = batches.PatchedAccumulator
        accumulator = cast("batches.PatchedAccumulator", self._accumulator)
        accumulator.missing, accumulator.lacks_leaders = {}, False

    def __del__(self) -> None:
        """Not kafka-python's own, which takes the log from all producers of the process."""

    @property
    def is_lost(self) -> bool:
        """Whether it is in a state in which it never sends again, such as after an ACL refused it its producer id."""
        manager = self._transaction_manager
        return not self._sender.is_alive() or (manager is not None and manager.has_fatal_error())

    @property
    def asked(self) -> str:
        """The addresses of the brokers, and why those failed that cannot be reached."""
        manager: PatchedConnectionManager = self._sender._client._manager
        return manager.asked()

    def knows(self, topic: str, count: int) -> bool:
        """Whether it has learned of a topic and that many of its partitions. Does not block."""
        return len(self._metadata.partitions_for_topic(topic) or ()) >= count

    def wait_for(self, topic: str, count: int, deadline: float) -> None:
        """Return once it has learned of a topic and that many of its partitions. Raises `BrokerUnavailable`."""
        self._awaited.add(topic)
        try:
            if self._metadata.partitions_for_topic(topic) is None:
                self._wait_on_metadata(topic, _ms_until(deadline))
            while not self.knows(topic, count):
                self._look_again(deadline)
        except RetriableError as error:
            said = f"Kafka's answer about the topic {topic} did not come in time. Tried: {self.asked}."
            raise BrokerUnavailable(said) from error
        except KafkaError as error:
            raise translate(error, topic) from error
        except RuntimeError as error:
            if self._sender._client._net._closed:
                raise BrokerUnavailable("This server is closing down.") from error
            raise
        finally:
            self._awaited.discard(topic)

    def hand_over(
        self,
        topic: str,
        partition: int,
        records: Sequence[NewRecord],
        done: Callable[[PendingAppend], None],
        *,
        is_untimed: bool = False,
    ) -> PendingAppend:
        """Hand records for one partition over; `wakeup` sends. What `send` refuses is legal: null key and value, null
        header values. `done` is called once the fate of all is known, by the producer's thread, perhaps before this
        returns. With `is_untimed`, records without a timestamp of their own get none. Raises `IllegalStateError` where
        the producer is closed."""
        append = PartitionAppend(partition, records, done, is_untimed=is_untimed)
        accumulator = cast("batches.PatchedAccumulator", self._accumulator)
        accumulator.append_run(TopicPartition(topic, partition), append)
        return append

    def omits_timestamps(self, topic: str) -> bool:
        """Whether records of the topic without a timestamp of their own are written without one for now."""
        return bool(self._untimed) and time.monotonic() < self._untimed.get(topic, 0.0)

    def omit_timestamps(self, topic: str) -> None:
        """Kafka has refused the timestamps that this server made: write records without one for a while."""
        now = time.monotonic()
        self._untimed[topic] = now + _UNTIMED_SECONDS
        if now > self._said_at + _SAY_EVERY:
            self._said_at = now
            log.warning(
                "Kafka refuses this server's timestamps (topic %s): the clock of this server or of the broker is off, "
                "or the topic's message.timestamp.*.max.ms is too small. Messages that name no timestamp are written "
                "without one.",
                topic,
            )

    def wakeup(self) -> None:
        """Let the thread send what was handed over; without effect where it is about to look anyway."""
        if not self._sender.woken:
            self._sender.woken = True
            self._sender.wakeup()

    def finish(self, timeout: float) -> None:
        """Send what was handed over, for `timeout` seconds at most, and end."""
        try:
            self.close(timeout)
        except KafkaTimeoutError:
            self.abandon()

    def abandon(self) -> None:
        """End now; what was not acknowledged has no known outcome."""
        self._unregister_cleanup()
        self._sender.force_close()
        self._sender.join(1)
        self._closed = True

    def _forget_missing(self, cluster: ClusterMetadata) -> None:
        """A topic that was deleted would have kafka-python ask for it ten times a second, for ever."""
        cluster._topics -= cluster._topics - cluster.topics(exclude_internal_topics=False) - self._awaited

    def _look_again(self, deadline: float) -> None:
        looked = Event()
        self._metadata.request_update().add_both(lambda _: looked.set())
        self._sender.wakeup()
        if not looked.wait(_ms_until(deadline) / 1000):
            raise KafkaTimeoutError()


class _PatchedTransactionManager(TransactionManager):
    """kafka-python 3.0.12's bookkeeping of its producer id, which ends for ever in two cases without need."""

    def reset_producer_id(self) -> None:
        """Called where a batch expired that may have been written. The state has to say that there is no id any more:
        an id is asked for in that state alone."""
        with self._lock:
            super().reset_producer_id()
            if self._current_state is TransactionState.READY:
                self._current_state = TransactionState.UNINITIALIZED

    def classify_batch_error(self, error: Any, batch: Any, log_start_offset: int = -1) -> str:
        """A batch that Kafka refuses (too large, ACLs, an invalid record) is no reason to stop."""
        found: str = super().classify_batch_error(error, batch, log_start_offset=log_start_offset)
        if found != self.ERROR_CLASS_FATAL or type(error) in self._FATAL_ERRORS or self.is_transactional():
            return found
        if not is_refusal(error) or batch.in_retry():
            self.reset_producer_id()
        elif self.producer_id_and_epoch.match(batch):
            # Kafka has not seen its sequence numbers; the partition's next batch is drained after this one only.
            self.set_sequence_number(batch.topic_partition, batch.base_sequence)
        return self.ERROR_CLASS_RETRIABLE  # fail the batch, and nothing else


class _PatchedSenderThread(SenderThread):
    """kafka-python 3.0.12's thread, which forgets batches in two cases, and gives up where it need not."""

    _transaction_manager: Any
    woken: bool
    """Whether it is about to look for what is to be sent."""
    overdue: set[Any]
    """Batches that had no response in time at the last look, at `looked_at`."""
    looked_at: float

    def _send_producer_data(self, now: float | None = None) -> Any:
        """Deal with what has expired before anything is taken out: kafka-python takes the batches to send out of the
        accumulator, and forgets them where one has expired that was being retried. They would neither be sent nor fail
        before their own time is over."""
        self.woken = False  # before the look: what is appended from now on wakes it again
        now = time.monotonic() if now is None else now
        expired = [*self._accumulator.expired_batches(now=now), *self._get_expired_inflight_batches(now=now)]
        for batch in expired:
            self._complete_batch_with_exception(batch, KafkaTimeoutError("The batch was not acknowledged in its time"))
        if self._transaction_manager is not None and any(batch.in_retry() for batch in expired):
            self._transaction_manager.reset_producer_id()
        if isinstance(self._accumulator, batches.PatchedAccumulator):
            for batch in self._accumulator.take_homeless():
                self._complete_batch_with_exception(batch, KafkaError("the topic no longer has this partition"))
        if now >= self.looked_at + _LOOK_EVERY:
            self._retry_lost(now)
        poll_ms: float = super()._send_producer_data(now=now)
        is_watchful = self._in_flight_batches or getattr(self._accumulator, "lacks_leaders", False)
        return min(poll_ms, _LOOK_EVERY * 1000) if is_watchful else poll_ms

    def _retry_lost(self, now: float) -> None:
        """Send batches again, under the same sequence numbers, whose response cannot come any more: kafka-python drops
        a request with a response that does not fit it, and nobody is told."""
        self.looked_at = now
        request_timeout_ms: Any = self.config["request_timeout_ms"]
        since = now - request_timeout_ms / 1000 - _LOOK_EVERY
        in_flight = [batch for queue in self._in_flight_batches.values() for _, batch in queue]
        overdue = {each for each in in_flight if each.drained is not None and each.drained < since}
        for batch in overdue & self.overdue:  # a response that had come already was read between the two looks
            self._complete_batch_with_exception(batch, KafkaConnectionError("the response was lost"))
        self.overdue = overdue - self.overdue

    def _failed_produce(self, batches: Any, node_id: Any, error: Any) -> None:
        """Whatever was received instead of a response: ask again, under the same sequence numbers."""
        if isinstance(error, KafkaProtocolError) or not isinstance(error, KafkaError):
            error = KafkaConnectionError(str(error))
        super()._failed_produce(batches, node_id, error)

    def _can_retry(self, batch: Any, error_cls: Any) -> bool:
        """An error that says nothing leaves open whether the batch was written; its sequence numbers settle that."""
        is_unknown = batch.has_sequence and issubclass(error_cls, UnknownError)
        return bool(super()._can_retry(batch, KafkaConnectionError if is_unknown else error_cls))

    def _record_exceptions_fn(self, top_level_exception: Any, record_errors: Any, error_message: Any) -> Any:
        """kafka-python calls several records with a timestamp that Kafka refuses by a more general name."""
        error_of = super()._record_exceptions_fn(top_level_exception, record_errors, error_message)
        if not isinstance(top_level_exception, InvalidTimestampError):
            return error_of
        return lambda index: found if was_bystander(found := error_of(index)) else top_level_exception


def was_bystander(error: BaseException) -> bool:
    """Whether a record was not written only because it shared a batch with one that Kafka refused."""
    return type(error) is KafkaError and str(error.args[0] if error.args else "").startswith(_BYSTANDER)


def _ms_until(deadline: float) -> float:
    return max(0.0, deadline - time.monotonic()) * 1000
