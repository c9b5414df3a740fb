"""kafka-python's producer, cured of what would stop it for ever, and with a way to hand over any legal record."""

import logging
import time
from collections.abc import Callable, Sequence
from threading import Event, Lock
from typing import Any, Protocol, cast

from kafka import KafkaProducer
from kafka.cluster import ClusterMetadata
from kafka.errors import KafkaError, KafkaTimeoutError, RetriableError, UnsupportedCodecError
from kafka.producer.future import FutureRecordMetadata
from kafka.producer.sender import Sender as SenderThread
from kafka.producer.transaction_manager import TransactionManager, TransactionState
from kafka.structs import TopicPartition

from kafka_http.broker import batches
from kafka_http.broker.batches import Fate, Run
from kafka_http.broker.connections import PatchedManager
from kafka_http.broker.errors import is_refusal, translate
from kafka_http.errors import BrokerUnavailable
from kafka_http.records import Delivery, NewRecord

log = logging.getLogger(__name__)

_BYSTANDER = "Failed to append record because it was part of a batch"
"""kafka-python's text for the good records of a batch that Kafka refused for another record in it."""


class Handed(Protocol):
    """Records of a request that were handed over for one partition."""

    @property
    def is_delivered(self) -> bool:
        """Whether all of them were written."""

    def fates(self) -> list[Fate]:
        """What is known of each, in their order."""


class Sender(KafkaProducer):
    """A producer and its thread. It starts both as it is made, so make it after a fork."""

    _sender: Any

    # aiokafka's builder compresses, with libraries that it brings; kafka-python looks for others.
    _COMPRESSORS = {name: (lambda: True, code) for name, (_, code) in KafkaProducer._COMPRESSORS.items()}  # noqa: RUF012

    def __init__(self, *, batch_append: bool = True, **settings: Any) -> None:
        """`batch_append` off is for tests of the slow way."""
        self._awaited: set[str] = set()
        self._appending = Lock()
        super().__init__(**settings)
        self._metadata.add_listener(self._forget_missing)
        if self._transaction_manager is not None:
            self._transaction_manager.__class__ = _Cured
        self._sender.woken = False
        self._sender.__class__ = _CuredThread
        self._appends_runs = batch_append and batches.is_possible(self._accumulator)
        if self._appends_runs:
            self._accumulator.__class__ = batches.Accumulator
        else:
            log.warning("Records are appended one by one, which is slow: kafka-python or aiokafka is not as expected")
            self._check_codec()

    def _check_codec(self) -> None:
        codec: Any = self.config["compression_type"]
        if not KafkaProducer._COMPRESSORS[codec][0]():
            self.abandon()
            raise UnsupportedCodecError(f"kafka-python finds no library for compression_type {codec}")

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
        manager: PatchedManager = self._sender._client._manager
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
            said = f"Kafka's answer about the topic {topic} did not come in time. Asked: {self.asked}."
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
        self, topic: str, partition: int, records: Sequence[NewRecord], done: Callable[[Handed], None]
    ) -> Handed:
        """Hand records for one partition over; `wakeup` sends. What `send` refuses is legal: null key and value, null
        header values. `done` is called once the fate of all is known, by the producer's thread, perhaps before this
        returns. Raises `IllegalStateError` where the producer is closed."""
        place = TopicPartition(topic, partition)
        if self._appends_runs:
            run = Run(partition, records, done)
            cast("batches.Accumulator", self._accumulator).append_run(place, run)
            return run
        with self._appending:  # threads that append record by record slow each other down
            futures = [self._append(place, record) for record in records]
        return _OneByOne(futures, done)

    def _append(self, place: TopicPartition, record: NewRecord) -> FutureRecordMetadata:
        future: FutureRecordMetadata
        headers = _Headers(record.headers)
        future, *_ = self._accumulator.append(place, record.timestamp, record.key, record.value, headers)
        return future

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


class _Cured(TransactionManager):
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


class _CuredThread(SenderThread):
    """kafka-python 3.0.12's thread takes the batches to send out of the accumulator, and then, where one has expired
    that was being retried, forgets them: they would neither be sent nor fail before their own time is over."""

    _transaction_manager: Any
    woken: bool
    """Whether it is about to look for what is to be sent."""

    def _send_producer_data(self, now: float | None = None) -> Any:
        """What has expired is dealt with before anything is taken out."""
        self.woken = False  # before the look: what is appended from now on wakes it again
        now = time.monotonic() if now is None else now
        expired = [*self._accumulator.expired_batches(now=now), *self._get_expired_inflight_batches(now=now)]
        for batch in expired:
            self._complete_batch_with_exception(batch, KafkaTimeoutError("The batch was not acknowledged in its time"))
        if self._transaction_manager is not None and any(batch.in_retry() for batch in expired):
            self._transaction_manager.reset_producer_id()
        return super()._send_producer_data(now=now)


class _OneByOne:
    """Records that were appended one by one, each with a future."""

    def __init__(self, futures: Sequence[FutureRecordMetadata], done: Callable[[Handed], None]) -> None:
        self._futures = futures
        self._left = len(futures)
        self._lock = Lock()
        self._done = done
        for future in futures:
            future.add_both(self._settled)

    def _settled(self, _: object) -> None:
        with self._lock:
            self._left -= 1
            if self._left:
                return
        self._done(self)

    @property
    def is_delivered(self) -> bool:
        return all(future.succeeded() for future in self._futures)

    def fates(self) -> list[Fate]:
        return [_fate(future) for future in self._futures]


def _fate(future: FutureRecordMetadata) -> Fate:
    if not future.is_done:
        return None
    if future.failed():
        return future.exception
    stored: Any = future.value
    return Delivery(stored.partition, stored.offset, stored.timestamp)


class _Headers(list[tuple[str, bytes | None]]):
    """Counts as empty where kafka-python adds up the headers' sizes, which null values have not."""

    def __bool__(self) -> bool:
        return False


def was_bystander(error: BaseException) -> bool:
    """Whether a record was not written only because it shared a batch with one that Kafka refused."""
    return type(error) is KafkaError and str(error.args[0] if error.args else "").startswith(_BYSTANDER)


def _ms_until(deadline: float) -> float:
    return max(0.0, deadline - time.monotonic()) * 1000
