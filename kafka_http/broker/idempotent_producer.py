"""The producer: an event loop takes records, sends them to the partitions' leaders and reads the responses.

The design and its measurements: the loop that takes a request also writes it to Kafka, so no thread is woken. What
blocks (metadata, connecting, producer ids) runs in helper threads, see `producer_calls`. The rules that keep records in
order and write each once are in `partition_queue`.
"""

import logging
import random
import time
from collections import deque
from collections.abc import Mapping, Sequence
from functools import partial
from threading import Event, Lock, get_ident
from typing import Any

from kafka.partitioner.default import murmur2

from kafka_http.backoff import Backoff
from kafka_http.broker.partition_queue import Batch, PartitionQueue, ProducerIdentity, TopicClock
from kafka_http.broker.pending_publish import KafkaPendingPublish, PartitionAppend, too_large
from kafka_http.broker.produce_connection import ProduceConnection
from kafka_http.broker.produce_requests import PartitionResponse, ProduceProtocol
from kafka_http.broker.producer_calls import OpenedConnection, ProducerCalls
from kafka_http.errors import (
    BrokerUnavailable,
    InvalidValue,
    KafkaHttpError,
    PartitionNotFound,
    TooMuchInFlight,
)
from kafka_http.event_loop import EventLoop, LoopThread
from kafka_http.records import BareValues, NewRecord, PartitionInfo, missing_partitions, payload_size

log = logging.getLogger(__name__)

_METADATA_AGE = 2.0
"""Seconds. A record with a key waits for newer metadata than this, so that it goes to the right partition."""
_REFRESH_AGE = 1.0
"""Age of a topic's metadata from which on a publish refreshes it in the background."""
_TICK_SECONDS = 0.05
"""Time between two checks of what is late or to be retried."""
_STICKY_SECONDS = 0.02
"""Seconds for which records with neither key nor partition go to the same one, so that requests share a batch."""
_MISSING_SECONDS = 2.0
"""Time that a partition must be missing before its records fail. New partitions reach brokers at different times."""
_MAX_TIMESTAMP = 2**63 - 1
_MAX_UNACKNOWLEDGED_BYTES = 64 << 20
"""Keys and values of publishes that keep trying after their clients got a response."""
_CODECS = {None: 0, "gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}
_JOIN_SECONDS = 1.0


class TopicState:
    """What the producer knows of a topic, and the queues of its partitions."""

    def __init__(self, name: str) -> None:
        self.clock = TopicClock(name)
        self.partitions: Sequence[PartitionInfo] = ()
        self.queues: dict[int, PartitionQueue] = {}
        self.read_at = float("-inf")
        """When the metadata was read, on the monotonic clock."""
        self.is_reading = False
        self.read_after = 0.0
        """Earliest time of the next reading."""
        self.waiting: deque[KafkaPendingPublish] = deque()
        """Publishes that wait for metadata."""
        self.sticky_partition = 0
        self.sticky_until = 0.0
        self.missing_since: dict[int, float] = {}
        """When partitions with records were first missing from the metadata."""

    @property
    def is_connected(self) -> bool:
        """Whether there is a connection to the leader of any partition."""
        return any(each.connection is not None and each.connection.is_open for each in self.queues.values())


class IdempotentProducer:
    """The `Producer` of a Kafka cluster. Any thread may call `publish`; the loop's thread calls all other methods.

    The composition root creates it before a fork and calls `close` at the end.
    """

    def __init__(self, settings: Mapping[str, Any], calls: ProducerCalls) -> None:
        """`settings` are those of `client_settings.producer_settings`."""
        self._settings = settings
        self._calls = calls
        self._max_size: int = settings["max_request_size"]
        self._delivery_seconds = settings["delivery_timeout_ms"] / 1000
        self._long_seconds = settings["long_delivery_timeout_ms"] / 1000
        self._request_seconds = settings["request_timeout_ms"] / 1000
        self._retry_backoff = settings["retry_backoff_ms"] / 1000
        self._linger = settings["linger_ms"] / 1000
        self._loop: EventLoop | None = None
        self._own_loop: LoopThread | None = None
        self._loop_thread = 0
        self._starting = Lock()
        self._is_closed = False
        self._identity: ProducerIdentity | None = None
        self._first_epoch = 0
        """The epoch of new queues. Queues of an earlier topic of the same name have used all before it."""
        self._topics: dict[str, TopicState] = {}
        self._connections: dict[int, ProduceConnection] = {}
        self._connecting: set[int] = set()
        self._connect_after: dict[int, tuple[float, Backoff]] = {}
        self._problems: dict[int, str] = {}
        """Why brokers cannot be reached."""
        self._busy: set[PartitionQueue] = set()
        self._scheduled: list[PartitionQueue] = []
        self._waiting_topics: set[str] = set()
        self._next_tick = float("inf")
        self._is_renewing = False
        self._idle_event: Event | None = None
        self._unacknowledged_bytes = 0
        self._lock = Lock()

    # Any thread

    def publish(
        self, topic: str, records: Sequence[NewRecord] | BareValues, timeout: float, *, keeps_trying: bool = False
    ) -> KafkaPendingPublish:
        now = time.monotonic()
        seconds = self._long_seconds if keeps_trying else self._delivery_seconds
        pending = KafkaPendingPublish(topic, records, now + timeout, now + max(timeout, seconds), self.addresses_tried)
        if keeps_trying:
            self._count_unacknowledged(pending)
        if get_ident() == self._loop_thread:
            self._begin(pending)
        else:
            (self._loop or self._start_loop()).call_soon(self._begin, pending)
        return pending

    def addresses_tried(self) -> str:
        """Return the addresses of the brokers, each with the reason if it cannot be reached."""
        problems, addresses = self._problems, self._calls.addresses.items()
        return ", ".join(f"{each} ({problems[node]})" if node in problems else each for node, each in addresses)

    def attach(self, loop: EventLoop) -> None:
        self._loop = loop
        self._loop_thread = get_ident()

    def _start_loop(self) -> EventLoop:
        with self._starting:
            if self._loop is None:
                self._own_loop = self._loop = LoopThread(self, "producer")
                self._loop_thread = self._own_loop.thread.ident or 0
            return self._loop

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

    def close(self, timeout: float) -> None:
        """Send what waits, for up to `timeout` seconds, and close all connections.

        A loop of `attach` must have ended: a thread takes over.
        """
        deadline = time.monotonic() + timeout
        if self._loop is not None and self._own_loop is None:
            self._own_loop = loop = LoopThread(self, "producer")
            self._loop, self._loop_thread = loop, loop.thread.ident or 0
            loop.call_soon(self._move_connections, loop)
        if self._own_loop is not None:
            is_idle = Event()
            self._own_loop.call_soon(self._when_idle, is_idle)
            is_idle.wait(max(0.0, deadline - time.monotonic()))
            self._own_loop.call_soon(self._close_connections)
            self._own_loop.stop(_JOIN_SECONDS)
        self._calls.close()

    def _move_connections(self, loop: EventLoop) -> None:
        for each in self._connections.values():
            each.move(loop)

    def _when_idle(self, is_idle: Event) -> None:
        """Set the event when no record waits any more."""
        waiting = len(self._busy) + sum(len(self._topics[each].waiting) for each in self._waiting_topics)
        if not waiting:
            is_idle.set()
        elif self._own_loop is not None:
            self._next_tick = min(self._next_tick, time.monotonic() + _TICK_SECONDS)
            self._idle_event = is_idle

    def _close_connections(self) -> None:
        self._is_closed = True
        error = BrokerUnavailable("This server is shutting down.")
        for connection in list(self._connections.values()):
            connection.close("shutdown")
        for topic in self._topics.values():
            self._fail_queues(topic, error)
            for pending in topic.waiting:
                pending.fail(error)

    # A round of the loop

    @property
    def next_deadline(self) -> float:
        return self._next_tick

    def end_round(self) -> None:
        if self._scheduled:
            self._send_scheduled()
        if self._next_tick != float("inf") and (now := time.monotonic()) >= self._next_tick:
            self._tick(now)

    def _send_scheduled(self) -> None:
        """Send one request to each leader, with one batch of each partition that has records."""
        now = time.monotonic()
        scheduled, self._scheduled = self._scheduled, []
        requests: dict[ProduceConnection, list[Batch]] = {}
        for queue in scheduled:
            queue.is_scheduled = False
            connection = queue.connection
            if connection is None or not connection.is_usable(now):
                self._find_leader(queue)
                continue
            if now >= connection.renew_at:
                self._connect(connection.node)
            if connection.can_send(now) and not self._lingers(queue, now):
                if (batch := queue.next_batch(now)) is not None:
                    requests.setdefault(connection, []).append(batch)
                elif queue.needs_identity:
                    self._renew_identity()
        for connection, batches in requests.items():
            for part in self._within_request_size(batches):
                connection.send(part)

    def _within_request_size(self, batches: list[Batch]) -> list[list[Batch]]:
        """Split batches into requests of at most the largest size."""
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
        if now >= due or queue.waiting_bytes_reach(self._settings["batch_size"]):
            return False
        self._next_tick = min(self._next_tick, due)
        return True

    def _schedule(self, queue: PartitionQueue) -> None:
        if not queue.is_scheduled:
            queue.is_scheduled = True
            self._scheduled.append(queue)
        self._busy.add(queue)
        if self._next_tick == float("inf"):
            self._next_tick = time.monotonic() + _TICK_SECONDS

    def _tick(self, now: float) -> None:
        """Give up what is late, and look at all records that wait."""
        self._next_tick = now + _TICK_SECONDS
        for connection in list(self._connections.values()):
            connection.close_if_late(now, self._request_seconds)
        for queue in list(self._busy):
            queue.give_up_overdue(now)
            self._reschedule(queue)
        for name in list(self._waiting_topics):
            self._check_waiting(name, now)
        self._send_scheduled()
        if not self._busy and not self._waiting_topics:
            self._next_tick = float("inf")
            if self._idle_event is not None:
                self._idle_event.set()

    def _reschedule(self, queue: PartitionQueue) -> None:
        """Look at a queue again at the end of the round, or forget it if it is empty."""
        if queue.is_busy:
            self._schedule(queue)
        else:
            self._busy.discard(queue)

    # Publishing

    def _begin(self, pending: KafkaPendingPublish) -> None:
        try:
            self._place_or_wait(pending)
        except Exception:
            log.exception("A publish failed before it was sent.")
            pending.fail(KafkaHttpError("Internal server error. The server's log has details."))

    def _place_or_wait(self, pending: KafkaPendingPublish) -> None:
        now = time.monotonic()
        topic = self._topics.get(pending.topic)
        if topic is None:
            topic = self._topics[pending.topic] = TopicState(pending.topic)
        age = now - topic.read_at
        if self._is_closed:
            pending.fail(BrokerUnavailable("This server is shutting down."))
        elif self._identity is None or topic.waiting or self._needs_metadata(topic, pending.records, age):
            topic.waiting.append(pending)
            self._waiting_topics.add(pending.topic)
            self._read_topic(pending.topic, topic)
        else:
            self._place(topic, pending)
        if age >= _REFRESH_AGE:
            self._read_topic(pending.topic, topic)

    def _needs_metadata(self, topic: TopicState, records: Sequence[NewRecord] | BareValues, age: float) -> bool:
        if not topic.partitions:
            return True
        if age < _METADATA_AGE:
            return bool(missing_partitions(records, len(topic.partitions)))
        if not topic.is_connected:
            return True
        return not isinstance(records, BareValues) and any(
            each.key is not None or each.partition is not None for each in records
        )

    def _place(self, topic: TopicState, pending: KafkaPendingPublish) -> None:
        """Add the records to the queues of their partitions."""
        records = pending.records
        if not records:
            pending.complete()
            return
        for partition in missing_partitions(records, len(topic.partitions)):
            pending.fail(PartitionNotFound(pending.topic, partition, len(topic.partitions)))
            return
        if isinstance(records, BareValues):
            shared = self._sticky_partition(topic)
            self._enqueue(topic, pending.append(shared, None, has_timestamps=False))
            return
        partitions, has_timestamps = self._partitions_of(topic, pending, records)
        rejected = pending.rejected
        if rejected is None and partitions.count(partitions[0]) == len(partitions):
            self._enqueue(topic, pending.append(partitions[0], None, has_timestamps=has_timestamps))
            return
        indexes: dict[int, list[int]] = {}
        for index, partition in enumerate(partitions):
            if rejected is None or index not in rejected:
                indexes.setdefault(partition, []).append(index)
        # All appends first: the first one's result must not end the publish
        appends = [pending.append(each, some, has_timestamps=has_timestamps) for each, some in indexes.items()]
        for append in appends:
            self._enqueue(topic, append)
        if not appends:
            pending.complete()

    def _partitions_of(
        self, topic: TopicState, pending: KafkaPendingPublish, records: Sequence[NewRecord]
    ) -> tuple[list[int], bool]:
        """Return the partition of each record, and whether any has a timestamp. Reject records that Kafka would."""
        count, max_size, shared, has_timestamps = len(topic.partitions), self._max_size, -1, False
        partitions: list[int] = []
        for index, each in enumerate(records):
            key = each.key
            size = len(each.value or b"") + len(key or b"")
            if size > max_size or each.timestamp is not None or each.headers:
                has_timestamps |= each.timestamp is not None
                if (error := self._rejection(each, size)) is not None:
                    pending.rejected = pending.rejected or {}
                    pending.rejected[index] = error
            if each.partition is not None:
                partitions.append(each.partition)
            elif key is not None:
                partitions.append((murmur2(key) & 0x7FFFFFFF) % count)
            else:
                shared = shared if shared >= 0 else self._sticky_partition(topic)
                partitions.append(shared)
        return partitions, has_timestamps

    def _sticky_partition(self, topic: TopicState) -> int:
        """Return the partition of records with neither key nor partition."""
        now = time.monotonic()
        if now < topic.sticky_until and topic.sticky_partition < len(topic.partitions):
            return topic.sticky_partition
        with_leader = [each.partition for each in topic.partitions if each.leader is not None]
        all_partitions = [each.partition for each in topic.partitions]
        topic.sticky_partition = random.choice(with_leader or all_partitions)  # noqa: S311  balance, not secrecy
        topic.sticky_until = now + _STICKY_SECONDS
        return topic.sticky_partition

    def _rejection(self, record: NewRecord, size: int) -> KafkaHttpError | None:
        """Return the error of a record that would make its whole batch fail. `size` is that of key and value."""
        if record.timestamp is not None and not 0 <= record.timestamp <= _MAX_TIMESTAMP:
            return InvalidValue("The timestamp must be milliseconds since 1970, 0 or more.")
        try:
            size += sum(len(name.encode()) + len(value or b"") for name, value in record.headers)
        except UnicodeEncodeError:
            return InvalidValue("The name of a header must be valid Unicode.")
        return too_large(self._max_size) if size > self._max_size else None

    def _enqueue(self, topic: TopicState, append: PartitionAppend) -> None:
        append.pending.on_complete = self._on_results
        queue = topic.queues[append.partition]
        if self._linger and not queue.waiting:
            queue.waiting_since = time.monotonic()
        queue.add(append)
        self._schedule(queue)

    def _on_results(self, pending: KafkaPendingPublish) -> None:
        """Complete a publish. Look up the size limit first, which Kafka does not name, if a record is over it."""
        if not pending.lacks_limit:
            pending.complete()
            return

        def complete(limit: int | None, _: KafkaHttpError | None) -> None:
            pending.limit = limit
            pending.complete()

        self._calls.submit(self._calls.message_limit, pending.topic, then=complete)

    # Responses

    def _on_response(self, batch: Batch, response: PartitionResponse) -> None:
        queue = batch.queue
        if queue.on_response(response):
            self._read_topic(queue.topic, self._topics[queue.topic], delay=True)
        self._reschedule(queue)

    def _on_lost(self, connection: ProduceConnection, batches: Sequence[Batch], reason: str) -> None:
        if self._connections.get(connection.node) is connection:
            del self._connections[connection.node]
            self._problems[connection.node] = reason
        for batch in batches:
            batch.queue.on_connection_lost()
            self._schedule(batch.queue)

    # Leaders and connections

    def _find_leader(self, queue: PartitionQueue) -> None:
        """Get the connection to a partition's leader."""
        node = queue.leader
        connection = None if node is None else self._connections.get(node)
        if connection is not None and connection.is_usable(time.monotonic()):
            queue.connection = connection
            self._schedule(queue)
        elif node is None:
            self._read_topic(queue.topic, self._topics[queue.topic], delay=True)
        else:
            self._connect(node)

    def _connect(self, node: int) -> None:
        """Connect to a broker in a helper thread, unless this failed a moment ago."""
        not_before, _ = self._connect_after.get(node, (0.0, None))
        if node in self._connecting or time.monotonic() < not_before or self._is_closed:
            return
        self._connecting.add(node)
        then = partial(self._in_loop, self._on_connected, node)
        self._calls.submit(self._calls.connect, node, then=then)

    def _in_loop(self, call: Any, key: Any, result: Any, error: KafkaHttpError | None) -> None:
        """Pass the result of a blocking call to the loop."""
        if self._loop is not None:
            self._loop.call_soon(call, key, result, error)

    def _on_connected(self, node: int, opened: OpenedConnection | None, error: KafkaHttpError | None) -> None:
        self._connecting.discard(node)
        if opened is None:
            self._on_connect_failed(node, error)
            return
        if self._is_closed:
            opened.taken.sock.close()
            return
        self._connect_after.pop(node, None)
        self._problems.pop(node, None)
        before = self._connections.get(node)
        protocol = ProduceProtocol(opened.version, self._settings["client_id"], int(self._request_seconds * 1000))
        assert self._loop is not None  # noqa: S101  it makes this call
        connection = ProduceConnection(
            self._loop, node, opened.taken.sock, protocol, opened.taken.lifetime, self._on_response, self._on_lost
        )
        self._connections[node] = connection
        if before is not None:
            before.retire()
        for topic in self._topics.values():
            for queue in topic.queues.values():
                if queue.leader == node:
                    queue.connection = connection
                    if queue.is_busy:
                        self._schedule(queue)

    def _on_connect_failed(self, node: int, error: KafkaHttpError | None) -> None:
        _, backoff = self._connect_after.get(node, (0.0, Backoff(self._retry_backoff, 1.0)))
        self._connect_after[node] = time.monotonic() + backoff.next(), backoff
        self._problems[node] = _problem(error)
        log.debug("Broker %s cannot be reached: %s", node, error)
        for queue in self._busy:
            if queue.leader == node:
                self._read_topic(queue.topic, self._topics[queue.topic], delay=True)

    # Metadata and producer ids

    def _read_topic(self, name: str, topic: TopicState, *, delay: bool = False) -> None:
        """Read a topic's metadata in a helper thread, and get a producer id if there is none.

        With `delay`, not more often than the retry backoff.
        """
        now = time.monotonic()
        if topic.is_reading or self._is_closed or (now < topic.read_after and delay):
            return
        topic.is_reading = True
        topic.read_after = now + self._retry_backoff
        then = partial(self._in_loop, self._on_topic, name)
        self._calls.submit(self._read_blocking, name, self._identity is None, then=then)

    def _read_blocking(self, name: str, needs_identity: bool) -> tuple[list[PartitionInfo], ProducerIdentity | None]:
        partitions = self._calls.partitions(name)
        return partitions, self._calls.new_identity() if needs_identity else None

    def _on_topic(
        self,
        name: str,
        found: tuple[list[PartitionInfo], ProducerIdentity | None] | None,
        error: KafkaHttpError | None,
    ) -> None:
        topic = self._topics[name]
        topic.is_reading = False
        if found is None:
            self._on_topic_failed(name, topic, error or BrokerUnavailable("No Kafka broker answers."))
            return
        partitions, identity = found
        if self._identity is None and identity is not None:
            self._identity = identity
        topic.partitions, topic.read_at = partitions, time.monotonic()
        self._update_queues(name, topic)
        waiting, topic.waiting = topic.waiting, deque()
        self._waiting_topics.discard(name)
        for pending in waiting:
            self._place(topic, pending)

    def _update_queues(self, name: str, topic: TopicState) -> None:
        """Create queues for new partitions, and note the leaders."""
        for each in topic.partitions:
            queue = topic.queues.get(each.partition)
            if queue is None:
                queue = topic.queues[each.partition] = self._new_queue(name, topic, each.partition)
            if each.leader is not None and each.leader != queue.leader:
                queue.leader = each.leader
                queue.connection = self._connections.get(each.leader)
            if queue.is_busy:
                self._schedule(queue)
        self._fail_missing(name, topic)

    def _new_queue(self, name: str, topic: TopicState, partition: int) -> PartitionQueue:
        assert self._identity is not None  # noqa: S101  it is read together with the metadata
        identity = ProducerIdentity(self._identity.producer_id, max(self._identity.epoch, self._first_epoch))
        return PartitionQueue(
            name,
            partition,
            identity,
            topic.clock,
            batch_size=self._settings["batch_size"],
            compression=_CODECS[self._settings.get("compression_type")],
            retry_backoff=self._retry_backoff,
            addresses_tried=self.addresses_tried,
        )

    def _fail_missing(self, name: str, topic: TopicState) -> None:
        """Fail the records for partitions that a topic, created again with fewer, has not had for some seconds."""
        now, count = time.monotonic(), len(topic.partitions)
        missing = [each for each, queue in topic.queues.items() if each >= count and queue.is_busy]
        topic.missing_since = {each: topic.missing_since.get(each, now) for each in missing}
        for partition, since in topic.missing_since.items():
            if now > since + _MISSING_SECONDS:
                topic.queues[partition].fail(PartitionNotFound(name, partition, count))
                self._reschedule(topic.queues[partition])

    def _on_topic_failed(self, name: str, topic: TopicState, error: KafkaHttpError) -> None:
        """Handle an error of a topic's metadata: that it is missing, or that no broker answers."""
        is_known = time.monotonic() < topic.read_at + _METADATA_AGE
        if isinstance(error, BrokerUnavailable) and is_known and self._identity is not None:
            return  # a short outage: the publishes wait until their deadline
        waiting, topic.waiting = topic.waiting, deque()
        self._waiting_topics.discard(name)
        for pending in waiting:
            pending.fail(error)
        if error.retry_after is None:
            self._fail_queues(topic, error)
            self._forget(name, topic)

    def _fail_queues(self, topic: TopicState, error: KafkaHttpError) -> None:
        """Fail the records of a topic that are not in flight."""
        for queue in topic.queues.values():
            if queue.is_busy:
                queue.fail(error)
                self._reschedule(queue)

    def _forget(self, name: str, topic: TopicState) -> None:
        """Forget a deleted topic. A new one of this name must not use its sequence numbers again."""
        if any(each.is_busy for each in topic.queues.values()):
            return
        self._first_epoch = max([self._first_epoch, *(each.epoch + 1 for each in topic.queues.values())])
        del self._topics[name]

    def _check_waiting(self, name: str, now: float) -> None:
        """Read the metadata again for the publishes that wait for it, and end those that are late."""
        topic = self._topics[name]
        late = [each for each in topic.waiting if each.deadline <= now]
        topic.waiting = deque(each for each in topic.waiting if each.deadline > now)
        for pending in late:
            reason = f"Kafka did not return the metadata of the topic {name} in time. Tried: {self.addresses_tried()}."
            pending.fail(BrokerUnavailable(reason))
        if topic.waiting:
            self._read_topic(name, topic, delay=True)
        else:
            self._waiting_topics.discard(name)

    def _renew_identity(self) -> None:
        """Get another producer id, because a partition has used up its epochs."""
        if not self._is_renewing:
            self._is_renewing = True
            then = partial(self._in_loop, self._on_identity, None)
            self._calls.submit(self._calls.new_identity, then=then)

    def _on_identity(self, _: None, identity: ProducerIdentity | None, error: KafkaHttpError | None) -> None:
        self._is_renewing = False
        if identity is None:
            log.warning("Kafka gave no producer id; retrying: %s", error)
            return
        self._identity, self._first_epoch = identity, 0
        for topic in self._topics.values():
            for queue in topic.queues.values():
                if queue.needs_identity:
                    queue.set_identity(identity)
                    self._reschedule(queue)


def _problem(error: KafkaHttpError | None) -> str:
    """Return the reason from an error that names it after an address, in parentheses."""
    text = "" if error is None else error.message
    return text[text.rfind("(") + 1 : text.rfind(")")] or "cannot be reached"
