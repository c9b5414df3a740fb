"""kafka-python's producer, with fixes for what stops it for ever, and an append for many records."""

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
from kafka_http.broker.error_map import is_refusal, translate
from kafka_http.broker.patches import PatchedConnectionManager
from kafka_http.errors import BrokerUnavailable
from kafka_http.records import NewRecord

log = logging.getLogger(__name__)

_SAME_BATCH = "Failed to append record because it was part of a batch"
"""kafka-python's text for the valid records of a batch that Kafka rejected because of another record."""
_UNTIMED_SECONDS = 10.0
"""How long a topic's records are sent without timestamps after Kafka has rejected this server's."""
_WARNING_INTERVAL = 60.0
_CHECK_INTERVAL = 1.0
"""Seconds between two checks for batches whose response was lost."""


class PendingAppend(Protocol):
    """Records of a request that were appended for one partition."""

    @property
    def is_delivered(self) -> bool:
        """Whether all records were written."""

    def results(self) -> list[AppendResult]:
        """Return the result of each record, in order, as far as it is known."""


class PatchedProducer(KafkaProducer):
    """A producer and its thread. The constructor starts the thread, so create it after a fork."""

    _sender: Any

    # aiokafka's builder compresses, with its own libraries; kafka-python looks for others.
    _COMPRESSORS = {name: (lambda: True, code) for name, (_, code) in KafkaProducer._COMPRESSORS.items()}  # noqa: RUF012

    def __init__(self, **settings: Any) -> None:
        self._awaited_topics: set[str] = set()
        self._untimed_until: dict[str, float] = {}
        self._warned_at = float("-inf")
        super().__init__(**settings)
        self._metadata.add_listener(self._forget_missing)
        if self._transaction_manager is not None:
            self._transaction_manager.__class__ = _PatchedTransactionManager
        self._sender.woken = False
        self._sender.overdue = set()
        self._sender.checked_at = 0.0
        self._sender.__class__ = _PatchedSenderThread
        self._accumulator.__class__ = batches.PatchedAccumulator
        accumulator = cast("batches.PatchedAccumulator", self._accumulator)
        accumulator.missing, accumulator.lacks_leaders = {}, False

    def __del__(self) -> None:
        """Replaces kafka-python's, which disables the logging of all producers of the process."""

    @property
    def is_lost(self) -> bool:
        """Whether it can never send again, for example after an ACL denied its producer id."""
        manager = self._transaction_manager
        return not self._sender.is_alive() or (manager is not None and manager.has_fatal_error())

    @property
    def addresses_tried(self) -> str:
        """The addresses of the brokers, each with the reason if it cannot be reached."""
        manager: PatchedConnectionManager = self._sender._client._manager
        return manager.addresses_tried()

    def has_metadata(self, topic: str, count: int) -> bool:
        """Return whether it has the metadata of `count` partitions of a topic. Does not block."""
        return len(self._metadata.partitions_for_topic(topic) or ()) >= count

    def wait_for(self, topic: str, count: int, deadline: float) -> None:
        """Wait for the metadata of `count` partitions of a topic. Raises `BrokerUnavailable`."""
        self._awaited_topics.add(topic)
        try:
            if self._metadata.partitions_for_topic(topic) is None:
                self._wait_on_metadata(topic, _ms_until(deadline))
            while not self.has_metadata(topic, count):
                self._refresh_metadata(deadline)
        except RetriableError as error:
            message = f"Kafka did not return the metadata of the topic {topic} in time. Tried: {self.addresses_tried}."
            raise BrokerUnavailable(message) from error
        except KafkaError as error:
            raise translate(error, topic) from error
        except RuntimeError as error:
            if self._sender._client._net._closed:
                raise BrokerUnavailable("This server is shutting down.") from error
            raise
        finally:
            self._awaited_topics.discard(topic)

    def append(
        self,
        topic: str,
        partition: int,
        records: Sequence[NewRecord],
        done: Callable[[PendingAppend], None],
        *,
        is_untimed: bool = False,
    ) -> PendingAppend:
        """Append records for one partition; `wakeup` sends them.

        Unlike in `KafkaProducer.send`, key and value may both be null, and so may header values. `done` is called when
        all results are known, by the producer's thread, perhaps before this method returns. With `is_untimed`, records
        without a timestamp of their own get none. Raises `IllegalStateError` if the producer is closed.
        """
        append = PartitionAppend(partition, records, done, is_untimed=is_untimed)
        accumulator = cast("batches.PatchedAccumulator", self._accumulator)
        accumulator.append_all(TopicPartition(topic, partition), append)
        return append

    def omits_timestamps(self, topic: str) -> bool:
        """Return whether records without a timestamp of their own are now written without one."""
        return bool(self._untimed_until) and time.monotonic() < self._untimed_until.get(topic, 0.0)

    def omit_timestamps(self, topic: str) -> None:
        """Write records without timestamps for a while, because Kafka has rejected this server's."""
        now = time.monotonic()
        self._untimed_until[topic] = now + _UNTIMED_SECONDS
        if now > self._warned_at + _WARNING_INTERVAL:
            self._warned_at = now
            log.warning(
                "Kafka rejects this server's timestamps (topic %s): the clock of this server or a broker is wrong, "
                "or the topic's message.timestamp.*.max.ms is too small. Messages without a timestamp of their own are "
                "written without one.",
                topic,
            )

    def wakeup(self) -> None:
        """Let the thread send the appended records. Does nothing if it is about to do so."""
        if not self._sender.woken:
            self._sender.woken = True
            self._sender.wakeup()

    def finish(self, timeout: float) -> None:
        """Send the appended records, for `timeout` seconds at most, and close."""
        try:
            self.close(timeout)
        except KafkaTimeoutError:
            self.abandon()

    def abandon(self) -> None:
        """Close now. The outcome of records without acknowledgement stays unknown."""
        self._unregister_cleanup()
        self._sender.force_close()
        self._sender.join(1)
        self._closed = True

    def _forget_missing(self, cluster: ClusterMetadata) -> None:
        """Drop deleted topics: kafka-python would ask for their metadata ten times a second, for ever."""
        cluster._topics -= cluster._topics - cluster.topics(exclude_internal_topics=False) - self._awaited_topics

    def _refresh_metadata(self, deadline: float) -> None:
        updated = Event()
        self._metadata.request_update().add_both(lambda _: updated.set())
        self._sender.wakeup()
        if not updated.wait(_ms_until(deadline) / 1000):
            raise KafkaTimeoutError()


class _PatchedTransactionManager(TransactionManager):
    """kafka-python 3.0.12's state of its producer id, which fails for ever in two cases without need."""

    def reset_producer_id(self) -> None:
        """Let a new id be requested after a batch expired that may have been written.

        kafka-python requests one only if the state says that there is none.
        """
        with self._lock:
            super().reset_producer_id()
            if self._current_state is TransactionState.READY:
                self._current_state = TransactionState.UNINITIALIZED

    def classify_batch_error(self, error: Any, batch: Any, log_start_offset: int = -1) -> str:
        """Do not stop the producer because of a batch that Kafka rejects (too large, ACLs, an invalid record)."""
        found: str = super().classify_batch_error(error, batch, log_start_offset=log_start_offset)
        if found != self.ERROR_CLASS_FATAL or type(error) in self._FATAL_ERRORS or self.is_transactional():
            return found
        if not is_refusal(error) or batch.in_retry():
            self.reset_producer_id()
        elif self.producer_id_and_epoch.match(batch):
            # Kafka has not used its sequence numbers; the partition's next batch is drained only after this one.
            self.set_sequence_number(batch.topic_partition, batch.base_sequence)
        return self.ERROR_CLASS_RETRIABLE  # fails the batch, and nothing else


class _PatchedSenderThread(SenderThread):
    """kafka-python 3.0.12's thread, which loses batches in two cases and gives up without need."""

    _transaction_manager: Any
    woken: bool
    """Whether it is about to look for records to send."""
    overdue: set[Any]
    """Batches that had no response in time at the last check, at `checked_at`."""
    checked_at: float

    def _send_producer_data(self, now: float | None = None) -> Any:
        """Fail expired batches before any batch is drained.

        kafka-python drains the batches to send, and loses them if a batch that was being retried has expired: they are
        neither sent nor failed before their own timeout.
        """
        self.woken = False  # before the check: records appended from now on wake it again
        now = time.monotonic() if now is None else now
        expired = [*self._accumulator.expired_batches(now=now), *self._get_expired_inflight_batches(now=now)]
        for batch in expired:
            self._complete_batch_with_exception(batch, KafkaTimeoutError("The batch was not acknowledged in time"))
        if self._transaction_manager is not None and any(batch.in_retry() for batch in expired):
            self._transaction_manager.reset_producer_id()
        if isinstance(self._accumulator, batches.PatchedAccumulator):
            for batch in self._accumulator.take_orphaned():
                self._complete_batch_with_exception(batch, KafkaError("the topic no longer has this partition"))
        if now >= self.checked_at + _CHECK_INTERVAL:
            self._retry_lost(now)
        poll_ms: float = super()._send_producer_data(now=now)
        is_watchful = self._in_flight_batches or getattr(self._accumulator, "lacks_leaders", False)
        return min(poll_ms, _CHECK_INTERVAL * 1000) if is_watchful else poll_ms

    def _retry_lost(self, now: float) -> None:
        """Resend batches whose response is lost, with the same sequence numbers.

        kafka-python silently drops a request whose response does not match it.
        """
        self.checked_at = now
        request_timeout_ms: Any = self.config["request_timeout_ms"]
        since = now - request_timeout_ms / 1000 - _CHECK_INTERVAL
        in_flight = [batch for queue in self._in_flight_batches.values() for _, batch in queue]
        overdue = {each for each in in_flight if each.drained is not None and each.drained < since}
        for batch in overdue & self.overdue:  # a response that had arrived was read between the two checks
            self._complete_batch_with_exception(batch, KafkaConnectionError("the response was lost"))
        self.overdue = overdue - self.overdue

    def _failed_produce(self, batches: Any, node_id: Any, error: Any) -> None:
        """Resend, with the same sequence numbers, after anything that is not a response."""
        if isinstance(error, KafkaProtocolError) or not isinstance(error, KafkaError):
            error = KafkaConnectionError(str(error))
        super()._failed_produce(batches, node_id, error)

    def _can_retry(self, batch: Any, error_cls: Any) -> bool:
        """Resend after `UnknownError`: the batch may have been written, and the sequence numbers tell."""
        is_unknown = batch.has_sequence and issubclass(error_cls, UnknownError)
        return bool(super()._can_retry(batch, KafkaConnectionError if is_unknown else error_cls))

    def _record_exceptions_fn(self, top_level_exception: Any, record_errors: Any, error_message: Any) -> Any:
        """Keep `InvalidTimestampError`, which kafka-python replaces by a more general error for several records."""
        error_of = super()._record_exceptions_fn(top_level_exception, record_errors, error_message)
        if not isinstance(top_level_exception, InvalidTimestampError):
            return error_of
        return lambda index: found if failed_with_batch(found := error_of(index)) else top_level_exception


def failed_with_batch(error: BaseException) -> bool:
    """Return whether a record failed only because Kafka rejected another record of its batch."""
    return type(error) is KafkaError and str(error.args[0] if error.args else "").startswith(_SAME_BATCH)


def _ms_until(deadline: float) -> float:
    return max(0.0, deadline - time.monotonic()) * 1000
