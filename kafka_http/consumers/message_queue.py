"""A queue of this node: its member of the share group, the messages that it holds, and the calls that wait for them."""

import logging
import secrets
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import count
from math import inf
from threading import Event, Lock

from kafka_http.broker_protocols import Broker
from kafka_http.consumers.dead_letters import DeadLetters
from kafka_http.consumers.message_leases import (
    DropReason,
    DueTimes,
    HeldMessage,
    HeldMessages,
    LeaseCall,
    failed_result,
)
from kafka_http.consumers.queue_service import (
    BlockedPartition,
    HeldLease,
    LeaseResult,
    QueueMessage,
    QueueName,
    QueuePage,
    Settlement,
)
from kafka_http.errors import KafkaHttpError, LeaseLost, OutcomeUnknown, Unavailable
from kafka_http.logs import LogOnce
from kafka_http.metrics import QUEUE_MESSAGES, topic_label
from kafka_http.records import LATEST
from kafka_http.share_groups import (
    Acknowledgement,
    AckResult,
    AckType,
    AcquiredRecords,
    ShareGroupSettings,
    ShareListener,
)

log = logging.getLogger(__name__)

_MIN_WAIT = 0.25
"""Seconds that each call waits for an answer of Kafka, even with `wait=0`."""
_JOIN_SECONDS = 3.0
"""Seconds that the first calls of a queue wait for it to join its group."""
_KEPT_SECONDS = 2.0
"""Seconds that a message waits for another client if the call that it was acquired for has ended."""
_SETTLE_SECONDS = 30.0
_CHECK_SECONDS = 0.1
_RETRY_SECONDS = 1.0
_WARN_SECONDS = 60.0

_EVENTS: Mapping[Settlement, str] = {"acknowledge": "acknowledged", "reject": "rejected", "release": "released"}
_REFUSED = (
    "Kafka's ACLs do not allow this server to change the settings of the group {} (ALTER_CONFIGS on the group). "
    "The queue has Kafka's defaults: a new queue starts at the end of the topic."
)


class QueueClosed(Exception):
    """The queue has left its group. The next call opens it again."""


class _Waiter:
    """A call that waits for messages."""

    def __init__(self, limit: int, lock: float, dead: str) -> None:
        self.limit = limit
        self.lock = lock
        self.dead = dead
        self.messages: Sequence[HeldMessage] = ()
        self.error: KafkaHttpError | None = None
        self.done = Event()


class _Effects:
    """What to do after the queue's lock is released, because it calls the broker or logs."""

    __slots__ = ("acks", "dropped", "events", "letters", "wakes")

    def __init__(self) -> None:
        self.acks: list[Acknowledgement] = []
        self.letters: list[HeldMessage] = []
        self.dropped: list[HeldMessage] = []
        self.events: Counter[str] = Counter()
        self.wakes = False


class MessageQueue:
    """The messages of a topic for the clients of one consumer name on this node.

    The `QueueRegistry` creates it at the first call, calls `check_due` several times a second, and closes it when it is
    idle. Any thread may call; the loop of the share member calls its listener. The lock is never held during a call to
    the broker.
    """

    def __init__(
        self,
        name: QueueName,
        broker: Broker,
        settings: ShareGroupSettings,
        node: str = "0",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Join the group. `node` is the part of its leases that names this node. Does not block."""
        self.name = name
        self.settings = settings
        self.attempts = settings.attempts - 1
        """The deliveries of a message. Kafka has one more, in which a dead letter can still be written."""
        self._log = broker.log
        self._clock = clock
        self._lock = Lock()
        # A lease of an earlier queue object must not match one of this object
        self._tag = f"{node}.{secrets.token_hex(3)}"
        self._numbers = count()
        self._held = HeldMessages()
        self._due = DueTimes()
        self._spare: deque[HeldMessage] = deque()
        self._waiters: dict[_Waiter, None] = {}
        self._asked = 0
        self._leased = 0
        self._dead = ""
        self._used = clock()
        self._joined_by = time.monotonic() + _JOIN_SECONDS
        self._is_ready = Event()
        self._failure: KafkaHttpError | None = None
        self._is_closed = False
        self._failure_log = LogOnce(log)
        self._warned: dict[int, float] = {}
        self._letters = DeadLetters(broker.producer, self._letter_ended)
        listener = ShareListener(self._wanted, self._acquired, self._acknowledged, self._lost, self._failed)
        self._member = broker.share_groups.join(name.consumer, name.topic, listener)

    @property
    def leases(self) -> int:
        """The number of messages that clients hold."""
        return self._leased

    @property
    def is_in_use(self) -> bool:
        """Whether clients hold messages, or messages wait for their dead letters."""
        with self._lock:
            return any(each.lease for each in self._held)

    @property
    def has_callers(self) -> bool:
        """Whether calls wait for messages."""
        return bool(self._waiters)

    def holds_any(self, leases: Sequence[str]) -> bool:
        """Whether a client holds one of these messages."""
        with self._lock:
            found = [self._held.with_lease(each) for each in leases]
        return any(each is not None and each.is_leased for each in found)

    def is_idle(self, seconds: float) -> bool:
        """Whether there were neither leases nor waiting calls for this time."""
        return not self._waiters and self._used + seconds <= self._clock() and not self.is_in_use

    # Acquire

    def acquire(self, limit: int, wait: float, lock: float, dead: str = "") -> QueuePage:
        """Return up to `limit` messages. Wait up to `wait` seconds if there are none.

        Raises what prevents the queue from being read, and `QueueClosed`.
        """
        waiter = _Waiter(limit, lock, dead)
        with self._changing() as effects:
            if self._is_closed:
                raise QueueClosed
            self._used, self._dead = self._clock(), dead
            self._waiters[waiter] = None
            self._asked += limit
            self._hand_out(effects)
            effects.wakes = waiter in self._waiters
            self._check_failure(waiter)
        self._wait(waiter, max(wait, _MIN_WAIT))
        if waiter.error is not None:
            raise waiter.error
        return self._page(waiter)

    def _check_failure(self, waiter: _Waiter) -> None:
        """End a call that waits for what does not pass by itself."""
        if waiter in self._waiters and self._failure is not None and not _is_transient(self._failure):
            waiter.error = self._failure
            self._end_waiter(waiter)

    def _wait(self, waiter: _Waiter, seconds: float) -> None:
        if not waiter.done.wait(seconds) and not self._is_ready.is_set():
            self._is_ready.wait(max(0.0, self._joined_by - time.monotonic()))
            waiter.done.wait(_MIN_WAIT)
        with self._lock:
            self._end_waiter(waiter)
            self._used = self._clock()
            if not waiter.messages and waiter.error is None:
                waiter.error = self._failure

    def _end_waiter(self, waiter: _Waiter) -> None:
        if waiter in self._waiters:
            del self._waiters[waiter]
            self._asked -= waiter.limit
            waiter.done.set()

    def _page(self, waiter: _Waiter) -> QueuePage:
        messages = [
            QueueMessage(each.record, each.lease, each.attempt, self._wall_time(each.until)) for each in waiter.messages
        ]
        return QueuePage(
            f"{self._tag}.{next(self._numbers):x}",
            messages,
            () if messages else self._blocked(),
            (_REFUSED.format(self.name.consumer),) if self.settings.refused else (),
        )

    def _blocked(self) -> Sequence[BlockedPartition]:
        """Return the partitions whose window of locks is full while messages wait behind it."""
        with self._lock:
            full = self._held.full_windows(self.settings.window)
        if not full:
            return ()
        ends = self._log.offsets(self.name.topic, {first.record.partition: LATEST for first, _ in full})
        blocking = [first for first, highest in full if ends[first.record.partition] > highest + 1]
        for each in blocking:
            self._warn_blocked(each)
        return [BlockedPartition(each.record.partition, each.record.offset, each.lease) for each in blocking]

    def _warn_blocked(self, message: HeldMessage) -> None:
        partition, now = message.record.partition, self._clock()
        if now - self._warned.get(partition, -inf) >= _WARN_SECONDS:
            self._warned[partition] = now
            log.warning(
                "Queue %s of %s gets no further messages of partition %d until the message at offset %d is settled.",
                *(self.name.consumer, self.name.topic, partition, message.record.offset),
            )

    # Settle

    def settle(self, leases: Sequence[str], settlement: Settlement, lock: float = 0) -> list[LeaseResult]:
        """Settle messages, or extend their locks to `lock` seconds from now. Return when Kafka has noted it."""
        call = LeaseCall(leases)
        with self._changing() as effects:
            self._used = now = self._clock()
            for lease in call.leases:
                message = self._held.with_lease(lease)
                if message is None or not self._is_valid(message, settlement, now):
                    call.end(failed_result(lease, LeaseLost()))
                elif settlement == "extend":
                    self._extend(message, call, lock, effects)
                else:
                    self._settle(message, settlement, call, effects)
        return call.wait(_SETTLE_SECONDS)

    def _is_valid(self, message: HeldMessage, settlement: Settlement, now: float) -> bool:
        """Whether a client holds the message, or has settled it in this way and Kafka has not answered yet."""
        if message.decided is not None:
            return message.event == _EVENTS.get(settlement)
        return now < min(message.until, message.kafka_until)

    def _settle(self, message: HeldMessage, settlement: Settlement, call: LeaseCall, effects: _Effects) -> None:
        message.calls.append(call)
        if message.decided is not None:
            return
        event = _EVENTS[settlement]
        if settlement == "reject":
            self._drop(message, "rejected", event, effects)
        elif settlement == "release" and message.attempt >= self.attempts:
            self._drop(message, "released", event, effects)
        else:
            self._decide(message, AckType.ACCEPT if settlement == "acknowledge" else AckType.RELEASE, event, effects)

    def _extend(self, message: HeldMessage, call: LeaseCall, lock: float, effects: _Effects) -> None:
        until = self._clock() + lock
        if until > message.kafka_until:
            message.renewals.append((call, lock))
            if message.sent is None:
                self._send(message, AckType.RENEW, effects)
            return
        self._lock_until(message, until, call)

    def _lock_until(self, message: HeldMessage, until: float, call: LeaseCall) -> None:
        message.until = until
        if until < message.due:
            self._due.add([message], until)
        call.end(LeaseResult(message.lease, locked_until=self._wall_time(until)))

    def return_page(self, leases: Iterable[str]) -> None:
        """Take back the messages of a page that no client got. The next call gets them in the same attempt."""
        with self._changing() as effects:
            found = [self._held.with_lease(each) for each in leases]
            messages = [each for each in found if each is not None and each.is_leased]
            for each in messages:
                each.lease = ""
                each.until = self._kept_until(each)
            effects.events["released"] += len(messages)
            self._leased -= len(messages)
            self._spare.extendleft(reversed(messages))
            self._schedule(messages)
            self._hand_out(effects)

    # State

    def held(self) -> list[HeldLease]:
        """Return the leases that clients hold."""
        with self._lock:
            leased = [each for each in self._held if each.is_leased]
        return [HeldLease(each.lease, each.attempt, self._wall_time(each.until)) for each in leased]

    def close(self, timeout: float) -> None:
        """Release all messages and leave the group, within `timeout` seconds. Waiting calls return empty pages."""
        with self._lock:
            self._is_closed = True
            for each in list(self._waiters):
                self._end_waiter(each)
        self._member.close(timeout)
        self._lost(self._held.partitions())

    def check_due(self) -> None:
        """Release what was locked for long enough, renew what is locked for longer than Kafka's locks, and retry."""
        with self._changing() as effects:
            now = self._clock()
            messages = [each for each in self._due.pop(now) if self._held.has(each)]
            for each in messages:
                self._attend(each, now, effects)
            self._schedule([each for each in messages if self._held.has(each)])
            if any(not each.lease for each in messages):
                self._clean_spare()

    # Listener of the share member

    def _wanted(self) -> int:
        return self._asked - len(self._spare)

    def _acquired(self, batch: AcquiredRecords) -> None:
        with self._changing() as effects:
            self._is_ready.set()
            messages = [
                HeldMessage(record, attempt, batch.until, 0.0)
                for record, attempt in zip(batch.records, batch.attempts, strict=True)
            ]
            for each in messages:
                self._add(each, effects)
            self._hand_out(effects)
            self._schedule([each for each in messages if not each.due])

    def _add(self, message: HeldMessage, effects: _Effects) -> None:
        if (replaced := self._held.put(message)) is not None:
            self._forget(replaced, LeaseLost(), effects)
        if message.attempt > self.attempts:
            # The process that gave the last attempt to a client has ended without settling it
            message.dead = self._dead
            self._drop(message, "expired", "", effects)
        else:
            message.until = self._kept_until(message)
            self._spare.append(message)

    def _acknowledged(self, results: Sequence[AckResult]) -> None:
        with self._changing() as effects:
            for acknowledgement, error in results:
                message = self._held.get(acknowledgement.partition, acknowledgement.offset)
                if message is not None and message.sent is acknowledgement.type:
                    message.sent = None
                    self._answered(message, acknowledgement.type, error, effects)

    def _answered(
        self, message: HeldMessage, ack_type: AckType, error: KafkaHttpError | None, effects: _Effects
    ) -> None:
        if isinstance(error, LeaseLost):
            self._end(message, error, effects)
        elif error is not None:
            message.end_calls(failed_result(message.lease, error))
            message.retry_at = self._clock() + _RETRY_SECONDS
        elif ack_type is AckType.RENEW:
            self._renewed(message, effects)
        else:
            self._end(message, None, effects)

    def _renewed(self, message: HeldMessage, effects: _Effects) -> None:
        now = self._clock()
        message.kafka_until = now + self.settings.lock
        renewals, message.renewals = message.renewals, []
        for call, lock in renewals:
            if message.decided is None:
                self._lock_until(message, now + lock, call)
            else:
                call.end(failed_result(message.lease, LeaseLost()))
        self._advance(message, effects)

    def _lost(self, partitions: Collection[int]) -> None:
        with self._changing() as effects:
            for each in self._held.of_partitions(partitions):
                self._end(each, LeaseLost(), effects)
            self._clean_spare()

    def _failed(self, error: KafkaHttpError | None) -> None:
        with self._lock:
            self._failure = error
            self._is_ready.set()
            for each in list(self._waiters):
                self._check_failure(each)
        self._log_failure(error)

    def _log_failure(self, error: KafkaHttpError | None) -> None:
        if error is not None:
            self._failure_log.warning("Queue %s of %s cannot be read; retrying: %s", *self._names, error.message)
        elif self._failure_log.clear():
            log.info("Queue %s of %s can be read again.", *self._names)

    @property
    def _names(self) -> tuple[str, str]:
        return self.name.consumer, self.name.topic

    # With the lock

    def _hand_out(self, effects: _Effects) -> None:
        """Give spare messages to the calls that wait, in order."""
        while self._spare and self._waiters:
            waiter = next(iter(self._waiters))
            if messages := self._take(waiter, effects):
                waiter.messages = messages
                self._end_waiter(waiter)

    def _take(self, waiter: _Waiter, effects: _Effects) -> list[HeldMessage]:
        messages: list[HeldMessage] = []
        now = self._clock()
        while self._spare and len(messages) < waiter.limit:
            message = self._spare.popleft()
            if message.decided is not None or now >= message.kafka_until or not self._held.has(message):
                continue
            record = message.record
            message.lease = f"{record.partition}:{record.offset}:{self._tag}{next(self._numbers):x}"
            message.until, message.dead = now + waiter.lock, waiter.dead
            messages.append(message)
        self._leased += len(messages)
        effects.events["acquired"] += len(messages)
        self._schedule(messages)
        return messages

    def _decide(self, message: HeldMessage, ack_type: AckType, event: str, effects: _Effects) -> None:
        """Decide how a message ends. `event` is counted when Kafka has noted it."""
        self._leased -= message.is_leased
        message.decided, message.event = ack_type, event
        self._advance(message, effects)

    def _drop(self, message: HeldMessage, reason: DropReason, event: str, effects: _Effects) -> None:
        message.drop = reason
        self._decide(message, AckType.REJECT, event, effects)

    def _advance(self, message: HeldMessage, effects: _Effects) -> None:
        """Do the next step towards the end of a decided message: its dead letter, then its acknowledgement."""
        if message.decided is None or message.sent is not None or message.is_publishing:
            return
        if message.drop is not None and message.dead:
            message.is_publishing, message.until = True, inf
            effects.letters.append(message)
        else:
            self._send(message, message.decided, effects)

    def _send(self, message: HeldMessage, ack_type: AckType, effects: _Effects) -> None:
        message.sent = ack_type
        effects.acks.append(Acknowledgement(message.record.partition, message.record.offset, ack_type))

    def _letter_ended(self, message: HeldMessage, error: KafkaHttpError | None, delay: float) -> None:
        with self._changing() as effects:
            message.is_publishing = False
            if error is None:
                effects.events["dead"] += 1
                message.drop = None
            else:
                message.retry_at = self._clock() + delay
                message.end_calls(failed_result(message.lease, _letter_error(message, error)))
            if self._held.has(message) and error is None:
                self._advance(message, effects)

    def _attend(self, message: HeldMessage, now: float, effects: _Effects) -> None:
        """Do what is due for a message."""
        if now >= message.kafka_until:
            self._end(message, _NOT_NOTED if message.sent is message.decided else LeaseLost(), effects)
            return
        if message.decided is not None and now >= message.retry_at:
            self._advance(message, effects)
        elif message.decided is None and message.sent is None and now >= message.until:
            self._expire(message, effects)
        if message.sent is None and self._renewal_at(message) <= now:
            self._send(message, AckType.RENEW, effects)

    def _expire(self, message: HeldMessage, effects: _Effects) -> None:
        if message.lease and message.attempt >= self.attempts:
            self._drop(message, "expired", "", effects)
        else:
            self._decide(message, AckType.RELEASE, "expired" if message.lease else "", effects)

    def _renewal_at(self, message: HeldMessage) -> float:
        """Return when Kafka's lock must be renewed: never if it lasts for long enough."""
        return message.kafka_until - self.settings.lock / 2 if message.until > message.kafka_until else inf

    def _schedule(self, messages: Iterable[HeldMessage]) -> None:
        """Set when messages need attention next."""
        by_time: defaultdict[float, list[HeldMessage]] = defaultdict(list)
        soonest = self._clock() + _CHECK_SECONDS
        for each in messages:
            retry = each.retry_at if each.retry_at > soonest else inf
            by_time[max(soonest, min(each.until, self._renewal_at(each), retry, each.kafka_until))].append(each)
        for due, found in by_time.items():
            self._due.add(found, due)

    def _end(self, message: HeldMessage, error: KafkaHttpError | None, effects: _Effects) -> None:
        """Remove a message: Kafka has noted how it ends, or its lock is lost."""
        self._held.remove(message)
        self._forget(message, error, effects)

    def _forget(self, message: HeldMessage, error: KafkaHttpError | None, effects: _Effects) -> None:
        if message.is_leased:
            self._leased -= 1
            effects.events["expired"] += 1
        if error is not None:
            message.end_calls(failed_result(message.lease, error))
            return
        effects.events[message.event] += 1
        if message.drop in ("expired", "released"):
            effects.dropped.append(message)
        message.end_calls(LeaseResult(message.lease, acknowledged=True))

    def _clean_spare(self) -> None:
        self._spare = deque(each for each in self._spare if each.decided is None and self._held.has(each))

    def _kept_until(self, message: HeldMessage) -> float:
        """Return how long a message waits for a client. Releasing it after its last attempt would drop it."""
        return inf if message.attempt >= self.attempts else self._clock() + _KEPT_SECONDS

    def _wall_time(self, until: float) -> int:
        """Return a time of the clock in milliseconds since 1970."""
        return int((time.time() + until - self._clock()) * 1000)

    @contextmanager
    def _changing(self) -> Iterator[_Effects]:
        """Hold the lock, then do what the changes need."""
        effects = _Effects()
        with self._lock:
            yield effects
        self._apply(effects)

    def _apply(self, effects: _Effects) -> None:
        if effects.acks:
            self._member.acknowledge(effects.acks)
        if effects.wakes:
            self._member.wake()
        for each in effects.letters:
            self._letters.publish(each)
        for each in effects.dropped:
            log.warning(
                "Queue %s dropped a message of %s: partition %d, offset %d, attempts %d.",
                *(*self._names, each.record.partition, each.record.offset, each.attempt),
            )
        effects.events["dropped"] += len(effects.dropped)
        for event, number in effects.events.items():
            if event and number:
                QUEUE_MESSAGES.add(number, topic_label(self.name.topic), event)


_NOT_NOTED = OutcomeUnknown("Kafka did not acknowledge this before the lock ended. It may have been done.")


def _letter_error(message: HeldMessage, error: KafkaHttpError) -> Unavailable:
    return Unavailable(
        f"The dead letter cannot be published to {message.dead} now: {error.message} This is retried, and until then "
        "the message stays locked."
    )


def _is_transient(error: KafkaHttpError) -> bool:
    """Whether a retry may succeed."""
    return error.retry_after is not None or isinstance(error, OutcomeUnknown)
