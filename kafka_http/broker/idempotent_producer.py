"""The producer: an event loop takes records, sends them to the partitions' leaders and reads the responses.

The loop that takes a request also writes it to Kafka, so no other thread is woken: this takes a third of the time of a
producer with a thread. What blocks (metadata, connecting, producer ids) runs in helper threads, see `producer_calls`.
The rules that keep records in order and write each once are in `partition_queue`.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from threading import Event, Lock, get_ident
from typing import Any

from kafka_http.broker.leader_connections import LeaderConnections
from kafka_http.broker.partition_queue import Batch, PartitionQueue, ProducerIdentity, TopicClock
from kafka_http.broker.pending_publish import KafkaPendingPublish
from kafka_http.broker.produce_connection import ProduceConnection
from kafka_http.broker.produce_requests import PartitionResponse
from kafka_http.broker.producer_calls import ProducerCalls
from kafka_http.broker.topic_queues import METADATA_AGE, TopicQueues
from kafka_http.errors import BrokerUnavailable, KafkaHttpError, PartitionNotFound, TooMuchInFlight
from kafka_http.event_loop import EventLoop, LoopThread
from kafka_http.logs import LogOnce
from kafka_http.records import BareValues, NewRecord, PartitionInfo, payload_size

log = logging.getLogger(__name__)

_REFRESH_AGE = 1.0
"""Age in seconds of a topic's metadata from which on a publish refreshes it in the background."""
_TICK_SECONDS = 0.05
"""Time between two checks of what is late or to be retried."""
_MAX_UNACKNOWLEDGED_BYTES = 64 << 20
"""Bytes of keys and values in publishes that keep trying."""
_CODECS = {None: 0, "gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}
_JOIN_SECONDS = 1.0
_NEVER = float("inf")


class IdempotentProducer:
    """The `Producer` of a Kafka cluster. Any thread may call `publish`; the loop's thread calls all other methods.

    The composition root creates it before a fork and calls `close` at the end.
    """

    def __init__(self, settings: Mapping[str, Any], calls: ProducerCalls) -> None:
        """`settings` are those of `client_settings.producer_settings`."""
        self._calls = calls
        self._max_size: int = settings["max_request_size"]
        self._delivery_seconds = settings["delivery_timeout_ms"] / 1000
        self._long_seconds = settings["long_delivery_timeout_ms"] / 1000
        self._retry_backoff = settings["retry_backoff_ms"] / 1000
        self._linger = settings["linger_ms"] / 1000
        self._batch_size: int = settings["batch_size"]
        self._codec = _CODECS[settings.get("compression_type")]
        self._connections = LeaderConnections(
            settings,
            calls,
            on_response=self._on_response,
            on_lost=self._on_lost,
            on_opened=self._on_opened,
            on_failed=self._on_failed,
            call_in_loop=self._call_in_loop,
        )
        self.addresses_tried = self._connections.addresses_tried
        self._loop: EventLoop | None = None
        self._own_loop: LoopThread | None = None
        self._loop_thread = 0
        self._calls_in_loop: deque[tuple[Callable[..., None], tuple[Any, ...]]] = deque()
        """Calls that other threads pass to the loop. After a change of loops, the new loop makes those left."""
        self._is_closed = False
        self._lock = Lock()
        """For the start of a loop, and the unacknowledged bytes."""
        self._unacknowledged_bytes = 0
        self._identity: ProducerIdentity | None = None
        self._first_epoch = 0
        """The epoch of new queues. Queues of forgotten topics have used those before it."""
        self._is_renewing_identity = False
        self._warnings = LogOnce(log)
        self._topics: dict[str, TopicQueues] = {}
        self._busy: set[PartitionQueue] = set()
        self._scheduled: list[PartitionQueue] = []
        self._waiting_topics: set[TopicQueues] = set()
        """Topics with publishes that wait for metadata."""
        self._next_tick = _NEVER
        self._on_idle: Callable[[], None] | None = None

    # Any thread

    def publish(
        self, topic: str, records: Sequence[NewRecord] | BareValues, timeout: float, *, keeps_trying: bool = False
    ) -> KafkaPendingPublish:
        now = time.monotonic()
        seconds = self._long_seconds if keeps_trying else self._delivery_seconds
        pending = KafkaPendingPublish(topic, records, now + timeout, now + max(timeout, seconds), self.addresses_tried)
        pending.find_limit = self._find_limit
        if keeps_trying:
            self._count_unacknowledged(pending)
        if get_ident() == self._loop_thread or self._is_closed:
            self._begin(pending)
        else:
            self._call_in_loop(self._begin, pending)
        return pending

    def _call_in_loop(self, call: Callable[..., None], *args: Any) -> None:
        self._calls_in_loop.append((call, args))
        (self._loop or self._start_loop()).call_soon(self._make_call)

    def _make_call(self) -> None:
        with suppress(IndexError):  # the new loop has made it
            call, args = self._calls_in_loop.popleft()
            call(*args)

    def _start_loop(self) -> EventLoop:
        with self._lock:
            if self._loop is None:
                self._use_thread()
            assert self._loop is not None  # noqa: S101  set just now
            return self._loop

    def _use_thread(self) -> LoopThread:
        self._own_loop = loop = LoopThread(self, "producer")
        self._loop_thread = loop.thread.ident or 0
        loop.call_soon(self._connections.use, loop)
        self._loop = loop
        for _ in range(len(self._calls_in_loop)):
            loop.call_soon(self._make_call)
        return loop

    def _count_unacknowledged(self, pending: KafkaPendingPublish) -> None:
        """Count the bytes of a publish until it ends. Raises `TooMuchInFlight`."""
        size = payload_size(pending.records)
        with self._lock:
            if self._unacknowledged_bytes >= _MAX_UNACKNOWLEDGED_BYTES:
                raise TooMuchInFlight(
                    f"Too many messages with an Idempotency-Key wait for Kafka: {self._unacknowledged_bytes} bytes, "
                    f"limit {_MAX_UNACKNOWLEDGED_BYTES}. Nothing was written. Retry.",
                    limit=_MAX_UNACKNOWLEDGED_BYTES,
                )
            self._unacknowledged_bytes += size
        pending.add_done_callback(partial(self._discount, size))

    def _discount(self, size: int) -> None:
        with self._lock:
            self._unacknowledged_bytes -= size

    # Start and end

    def attach(self, loop: EventLoop) -> None:
        self._loop_thread = get_ident()
        self._connections.use(loop)
        self._loop = loop

    def close(self, timeout: float) -> None:
        """Send what waits, for up to `timeout` seconds, and close all connections.

        The loop of `attach` must have ended: a thread takes its place.
        """
        if self._loop is not None and not self._is_closed:
            loop = self._own_loop or self._use_thread()
            is_idle = Event()
            loop.call_soon(self._notify_idle, is_idle.set)
            is_idle.wait(timeout)
            loop.call_soon(self._end)
            loop.stop(_JOIN_SECONDS)
        self._is_closed = True
        self._calls.close()

    def _notify_idle(self, on_idle: Callable[[], None]) -> None:
        """Call a function in the next check that finds no waiting records."""
        self._on_idle = on_idle
        self._next_tick = 0.0

    def _end(self) -> None:
        """Close the connections, and end all publishes: those in flight are unknown."""
        self._is_closed = True
        self._connections.close()
        error = BrokerUnavailable("This server is shutting down.")
        for topic in self._topics.values():
            self._fail_queues(topic, error)
            self._fail_waiting(topic, error)

    # A round of the loop

    @property
    def next_deadline(self) -> float:
        return self._next_tick

    def end_round(self) -> None:
        if self._scheduled:
            self._send_scheduled()
        if self._next_tick != _NEVER and (now := time.monotonic()) >= self._next_tick:
            self._tick(now)

    def _send_scheduled(self) -> None:
        """Send one request to each leader, with one batch of each partition that has records."""
        now = time.monotonic()
        scheduled, self._scheduled = self._scheduled, []
        for each in scheduled:
            each.is_scheduled = False
        requests: dict[ProduceConnection, list[Batch]] = {}
        for queue in scheduled:
            connection = self._connections.get(queue.leader, now)
            if connection is None:
                if queue.leader is None and queue.topic in self._topics:  # it may have been forgotten in this round
                    self._read_metadata(self._topics[queue.topic])
            elif not connection.can_send(now):
                self._schedule(queue)  # now, so that it precedes the queues that the next responses schedule
            elif not self._lingers(queue, now):
                if (batch := queue.next_batch(now)) is not None:
                    requests.setdefault(connection, []).append(batch)
                elif queue.needs_identity:
                    self._renew_identity()
        for connection, batches in requests.items():
            for part in self._within_request_size(batches):
                connection.send(part)

    def _within_request_size(self, batches: list[Batch]) -> Iterable[list[Batch]]:
        """Split the batches for a broker into requests of at most the largest size."""
        if len(batches) == 1:
            return (batches,)
        parts: list[list[Batch]] = [[]]
        size = 0
        for each in batches:
            size += len(each.data)
            if parts[-1] and size > self._max_size:
                parts.append([])
                size = len(each.data)
            parts[-1].append(each)
        return parts

    def _lingers(self, queue: PartitionQueue, now: float) -> bool:
        """Whether more records may join the next batch, as the setting linger_ms asks."""
        if not self._linger or queue.has_batch:
            return False
        due = queue.waiting_since + self._linger
        if now >= due or queue.has_full_batch:
            return False
        self._next_tick = min(self._next_tick, due)
        return True

    def _schedule(self, queue: PartitionQueue) -> None:
        """Look at a queue at the end of this round, or forget it if it is empty."""
        if not queue.is_busy:
            self._busy.discard(queue)
            return
        if not queue.is_scheduled:
            queue.is_scheduled = True
            self._scheduled.append(queue)
        self._busy.add(queue)
        if self._next_tick == _NEVER:
            self._next_tick = time.monotonic() + _TICK_SECONDS

    def _tick(self, now: float) -> None:
        """Give up what is late, and look at all records that wait."""
        self._next_tick = now + _TICK_SECONDS
        self._connections.close_late(now)
        for queue in list(self._busy):
            queue.give_up_overdue(now)
            self._schedule(queue)
        for topic in list(self._waiting_topics):
            self._check_waiting(topic, now)
        self._send_scheduled()
        if not self._busy and not self._waiting_topics:
            self._next_tick = _NEVER
            if self._on_idle is not None:
                self._on_idle()

    # Publishing

    def _begin(self, pending: KafkaPendingPublish) -> None:
        try:
            self._place_or_wait(pending)
        except Exception:
            log.exception("A publish failed before it was sent.")
            pending.fail(KafkaHttpError("Internal server error. The server's log has details."))

    def _place_or_wait(self, pending: KafkaPendingPublish) -> None:
        """Put the records into their queues, or let the publish wait for metadata."""
        if self._is_closed or not pending.records:
            self._end_at_once(pending)
            return
        topic = self._topics.get(pending.topic)
        if topic is None:
            topic = self._topics[pending.topic] = TopicQueues(pending.topic, self._new_queue, self._max_size)
        now = time.monotonic()
        if topic.waiting or self._needs_metadata(topic, pending, now):
            topic.waiting.append(pending)
            self._waiting_topics.add(topic)
            self._next_tick = min(self._next_tick, now + _TICK_SECONDS)
            self._read_metadata(topic)
            return
        for queue in topic.place(pending):
            self._schedule(queue)
        if topic.age(now) > _REFRESH_AGE:
            self._read_metadata(topic)

    def _end_at_once(self, pending: KafkaPendingPublish) -> None:
        if self._is_closed:
            pending.fail(BrokerUnavailable("This server is shutting down."))
        else:
            pending.complete()

    def _needs_metadata(self, topic: TopicQueues, pending: KafkaPendingPublish, now: float) -> bool:
        is_connected = topic.age(now) < METADATA_AGE or any(
            self._connections.get(each.leader, now) is not None for each in topic.queues.values()
        )
        return topic.needs_metadata(pending.records, now, is_connected=is_connected)

    def _new_queue(self, topic: str, partition: int, clock: TopicClock) -> PartitionQueue:
        assert self._identity is not None  # noqa: S101  it is read before the first metadata
        identity = ProducerIdentity(self._identity.producer_id, max(self._identity.epoch, self._first_epoch))
        return PartitionQueue(
            topic,
            partition,
            identity,
            clock,
            batch_size=self._batch_size,
            compression=self._codec,
            retry_backoff=self._retry_backoff,
            addresses_tried=self.addresses_tried,
        )

    def _find_limit(self, pending: KafkaPendingPublish) -> None:
        """Look up the size limit that a record was over, which Kafka does not name. Then complete the publish."""

        def complete(limit: int | None, _: KafkaHttpError | None) -> None:
            pending.limit = limit
            pending.complete()

        self._calls.submit(self._calls.message_limit, pending.topic, then=complete)

    # Responses and connections

    def _on_response(self, batch: Batch, response: PartitionResponse) -> None:
        queue = batch.queue
        if queue.on_response(response) and queue.topic in self._topics:
            self._read_metadata(self._topics[queue.topic])
        self._schedule(queue)

    def _on_lost(self, batches: Sequence[Batch]) -> None:
        for batch in batches:
            batch.queue.on_connection_lost()
            self._schedule(batch.queue)

    def _on_opened(self, node: int) -> None:
        for queue in list(self._busy):
            if queue.leader == node:
                self._schedule(queue)

    def _on_failed(self, node: int) -> None:
        """Look for another leader of the partitions whose leader cannot be reached."""
        for topic in list(self._topics.values()):
            led = [each for each in topic.queues.values() if each.leader == node]
            if led:
                topic.expire_metadata()
            if any(each.is_busy for each in led):
                self._read_metadata(topic)

    # Metadata and producer ids

    def _read_metadata(self, topic: TopicQueues) -> None:
        """Read a topic's metadata in a helper thread, and get a producer id if there is none."""
        now = time.monotonic()
        if not topic.is_reading and not self._is_closed and now >= topic.read_after:
            topic.is_reading = True
            topic.read_after = now + self._retry_backoff
            then = partial(self._call_in_loop, self._on_metadata, topic)
            self._calls.submit(self._read, topic.name, then=then)

    def _read(self, topic: str) -> tuple[list[PartitionInfo], ProducerIdentity | None]:
        partitions = self._calls.partitions(topic)
        return partitions, self._calls.new_identity() if self._identity is None else None

    def _on_metadata(
        self,
        topic: TopicQueues,
        found: tuple[list[PartitionInfo], ProducerIdentity | None] | None,
        error: KafkaHttpError | None,
    ) -> None:
        topic.is_reading = False
        if found is None:
            self._on_metadata_failed(topic, error or BrokerUnavailable("No Kafka broker answers."))
            return
        partitions, identity = found
        self._identity = self._identity or identity
        topic.update(partitions)
        for queue in topic.missing_for_long():
            for pending in queue.withdraw():
                topic.place(pending)
            queue.fail(PartitionNotFound(topic.name, queue.partition, len(partitions)))
        waiting, topic.waiting = topic.waiting, deque()
        self._waiting_topics.discard(topic)
        for pending in waiting:
            topic.place(pending)
        for queue in topic.queues.values():
            self._schedule(queue)

    def _on_metadata_failed(self, topic: TopicQueues, error: KafkaHttpError) -> None:
        is_recent = topic.age(time.monotonic()) < METADATA_AGE
        if isinstance(error, BrokerUnavailable) and is_recent:
            return  # a short outage: the publishes wait until their deadline
        self._fail_waiting(topic, error)
        if error.retry_after is None:
            self._fail_queues(topic, error)
        if error.retry_after is None or not topic.partitions:
            self._forget(topic)

    def _fail_waiting(self, topic: TopicQueues, error: KafkaHttpError) -> None:
        """Fail the publishes that wait for metadata."""
        waiting, topic.waiting = topic.waiting, deque()
        self._waiting_topics.discard(topic)
        for pending in waiting:
            pending.fail(error)

    def _fail_queues(self, topic: TopicQueues, error: KafkaHttpError) -> None:
        """Fail the records of a topic that are not in flight."""
        for queue in topic.queues.values():
            queue.fail(error)
            self._schedule(queue)

    def _forget(self, topic: TopicQueues) -> None:
        """Forget a missing topic, unless a publish waits or a batch is in flight.

        Later queues begin with another epoch: the topic may be there after all, and have the sequence numbers.
        """
        queues = topic.queues.values()
        is_used = topic.waiting or any(each.is_busy for each in queues)
        if not is_used and self._topics.get(topic.name) is topic:
            self._first_epoch = max([self._first_epoch, *(each.epoch + 1 for each in queues)])
            del self._topics[topic.name]

    def _check_waiting(self, topic: TopicQueues, now: float) -> None:
        """Read the metadata again for the publishes that wait for it, and end those that are late."""
        late = [each for each in topic.waiting if each.deadline <= now]
        topic.waiting = deque(each for each in topic.waiting if each.deadline > now)
        error = BrokerUnavailable(
            f"Kafka did not return the metadata of the topic {topic.name} in time. Tried: {self.addresses_tried()}."
        )
        for pending in late:
            pending.fail(error)
        if topic.waiting:
            self._read_metadata(topic)
        else:
            self._waiting_topics.discard(topic)

    def _renew_identity(self) -> None:
        """Get another producer id, because a partition has used up its epochs."""
        if not self._is_renewing_identity:
            self._is_renewing_identity = True
            then = partial(self._call_in_loop, self._on_identity)
            self._calls.submit(self._calls.new_identity, then=then)

    def _on_identity(self, identity: ProducerIdentity | None, error: KafkaHttpError | None) -> None:
        self._is_renewing_identity = False
        if identity is None:
            self._warnings.warning("Kafka gave no producer id; retrying: %s", error)
            return
        self._identity, self._first_epoch = identity, 0
        for topic in self._topics.values():
            for queue in topic.queues.values():
                if queue.needs_identity:
                    queue.set_identity(identity)
                    self._schedule(queue)
