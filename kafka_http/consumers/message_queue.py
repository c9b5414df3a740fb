"""A queue of this node: its member of the share group, and the calls of clients that wait for messages."""

import logging
import secrets
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from itertools import count
from math import inf
from threading import Lock, Thread
from typing import Any

from kafka_http.broker_protocols import Broker
from kafka_http.consumers.acquire_calls import ANSWER_SECONDS, AcquireCall, WaitingCalls
from kafka_http.consumers.dead_letters import DeadLetters
from kafka_http.consumers.held_messages import HeldMessage
from kafka_http.consumers.message_leases import LeaseCall
from kafka_http.consumers.message_locks import Effects, MessageLocks
from kafka_http.consumers.queue_service import (
    BlockedPartition,
    HeldLease,
    LeaseResult,
    QueueMessage,
    QueueName,
    QueuePage,
    Settlement,
)
from kafka_http.errors import KafkaHttpError
from kafka_http.metrics import QUEUE_MESSAGES, topic_label
from kafka_http.records import LATEST
from kafka_http.share_groups import AckResult, AcquiredRecords, ShareGroupSettings, ShareListener

log = logging.getLogger(__name__)

_SETTLE_SECONDS = 30.0
_WARN_SECONDS = 60.0

_REFUSED = (
    "Kafka's ACLs do not allow this server to change the settings of the group {} (ALTER_CONFIGS on the group). "
    "The queue has Kafka's defaults: a new queue starts at the end of the topic."
)


class QueueClosed(Exception):
    """The queue has left its group. The next call opens it again."""


class _Changes:
    """Holds a queue's lock during a block, then carries out what the changes in it need."""

    def __init__(self, lock: Any, take: Callable[[], tuple[Any, ...]], carry_out: Callable[..., None]) -> None:
        self._lock = lock
        self._take = take
        self._carry_out = carry_out

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, error: object, *_: object) -> None:
        try:
            changes = self._take() if error is None else None
        finally:
            self._lock.release()
        if changes is not None:
            self._carry_out(*changes)


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
        self._settings = settings
        self._topics = broker.log
        self._clock = clock
        self._lock = Lock()
        # A lease of an earlier queue object must not match one of this object
        self._tag = f"{node}.{secrets.token_hex(3)}"
        self._locks = MessageLocks(settings, self._tag, clock)
        self._pages = count()
        self._waiting = WaitingCalls(self._end_call)
        self._unsettled: dict[LeaseCall, float] = {}
        """Calls that no thread waits for, and when they end at the latest. The first one is due first."""
        self._ended: list[AcquireCall | LeaseCall] = []
        """Calls that have ended, but are not complete: that is done without the lock."""
        self._changing = _Changes(self._lock, self._take_changes, self._carry_out)
        self._used = clock()
        self._is_closed = False
        self._warned: dict[int, float] = {}
        self._letters = DeadLetters(broker.producer, self._letter_published, self._letter_failed)
        listener = ShareListener(
            wanted=self._wanted,
            acquired=self._acquired,
            acknowledged=self._acknowledged,
            exhausted=self._exhausted,
            lost=self._lost,
            failed=self._failed,
        )
        self._member = broker.share_groups.join(name.consumer, name.topic, listener)

    @property
    def leases(self) -> int:
        """The number of messages that clients hold."""
        return self._locks.leased

    @property
    def is_in_use(self) -> bool:
        """Whether clients hold messages, or messages wait for their dead letters."""
        with self._lock:
            return any(each.lease for each in self._locks.held)

    @property
    def has_callers(self) -> bool:
        """Whether calls wait for messages."""
        return bool(self._waiting)

    def retire(self, seconds: float) -> bool:
        """Take no more calls if there were neither leases nor waiting calls for this time. Return whether that is so.

        `close` must follow.
        """
        if self._waiting or self._used + seconds > self._clock():
            return False
        with self._lock:
            is_idle = not self._waiting and not any(each.lease for each in self._locks.held)
            self._is_closed |= is_idle
            return is_idle

    # Acquire

    def acquire(self, limit: int, wait: float, lock: float, dead: str = "") -> QueuePage:
        """Return up to `limit` messages. Wait up to `wait` seconds if there are none.

        Raises what prevents the queue from being read, and `QueueClosed`.
        """
        call = self._start(AcquireCall(self, limit, lock, dead))
        call.wait(wait)
        if not call.is_done:
            with self._changing:
                self._waiting.set_overdue(call)
            call.wait(ANSWER_SECONDS)
        if not call.is_done:
            with self._changing:
                self._waiting.end(call)
        if call.is_empty:
            call.blocked = self._blocked()
        return call.result(0)

    def start_acquire(self, limit: int, wait: float, lock: float, dead: str = "") -> AcquireCall:
        """Do what `acquire` does, but do not wait for the result. Raises `QueueClosed`."""
        call = AcquireCall(self, limit, lock, dead, self._clock() + wait)
        call.is_overdue = wait <= 0
        return self._start(call)

    def _start(self, call: AcquireCall) -> AcquireCall:
        with self._changing:
            if self._is_closed:
                raise QueueClosed
            self._used, self._locks.dead = self._clock(), call.dead
            self._waiting.add(call)
            self._hand_out()
        if not call.is_done:
            self._member.wake()
        return call

    def _end_call(self, call: AcquireCall) -> None:
        self._used = self._clock()
        self._ended.append(call)

    def _hand_out(self) -> None:
        """Give spare messages to the calls that wait, in order."""
        while self._locks.spare and self._waiting:
            call = self._waiting.first
            if messages := self._locks.lease(call.limit, call.lock, call.dead):
                call.messages = messages
                self._waiting.end(call)

    def abandon(self, call: AcquireCall) -> None:
        """End a call that nobody waits for any more. Its messages are for others."""
        with self._changing:
            self._waiting.end(call)
            self._locks.take_back([each.lease for each in call.messages])
            call.messages = ()
            self._hand_out()

    def page(self, call: AcquireCall) -> QueuePage:
        """Return the page of a call that is done."""
        messages = [
            QueueMessage(each.record, each.lease, each.attempt, self._wall_time(each.until)) for each in call.messages
        ]
        return QueuePage(
            f"{self._tag}.{next(self._pages):x}",
            messages,
            call.blocked,
            (_REFUSED.format(self.name.consumer),) if self._settings.refused else (),
        )

    def _blocked(self) -> list[BlockedPartition]:
        """Return the partitions whose window of locks is full while messages wait behind it."""
        with self._lock:
            full = self._locks.held.full_windows(self._settings.window)
        if not full:
            return []
        ends = self._topics.offsets(self.name.topic, {first.record.partition: LATEST for first, _ in full})
        blocking = [first for first, highest in full if ends[first.record.partition] > highest + 1]
        for each in blocking:
            self._warn_blocked(each)
        return [BlockedPartition(each.record.partition, each.record.offset, each.lease) for each in blocking]

    def _warn_blocked(self, message: HeldMessage) -> None:
        partition, now = message.record.partition, self._clock()
        if now - self._warned.get(partition, -inf) >= _WARN_SECONDS:
            self._warned[partition] = now
            log.warning(
                "Queue %s gets no further messages of %s, partition %d, until the message at offset %d is done.",
                *(*self._names, partition, message.record.offset),
            )

    # Settle

    def settle(self, leases: Sequence[str], settlement: Settlement, lock: float = 0) -> list[LeaseResult]:
        """Settle messages, or extend their locks to `lock` seconds from now. Return when Kafka has noted it."""
        call = self._settle(leases, settlement, lock, inf)
        call.wait(_SETTLE_SECONDS)
        return call.result(0)

    def start_settle(self, leases: Sequence[str], settlement: Settlement, lock: float = 0) -> LeaseCall:
        """Do what `settle` does, but do not wait for the result."""
        return self._settle(leases, settlement, lock, self._clock() + _SETTLE_SECONDS)

    def _settle(self, leases: Sequence[str], settlement: Settlement, lock: float, until: float) -> LeaseCall:
        call = LeaseCall(leases, self._wall_time, self._ended.append)
        with self._changing:
            self._used = self._clock()
            if leases and until < inf:
                self._unsettled[call] = until
            for lease in call.leases:
                self._locks.settle(lease, settlement, call, lock)
        return call

    def return_page(self, leases: Iterable[str]) -> None:
        """Take back the messages of a page that no client got. The next call gets them in the same attempt."""
        with self._changing:
            self._locks.take_back(leases)
            self._hand_out()

    def page_sent(self, leases: Iterable[str]) -> None:
        """Note that a client has got the messages of a page."""
        with self._lock:
            self._locks.forget_contents(leases)

    def held(self) -> list[HeldLease]:
        """Return the leases that clients hold."""
        with self._lock:
            leased = [each for each in self._locks.held if each.is_leased]
        return [HeldLease(each.lease, each.attempt, self._wall_time(each.until)) for each in leased]

    def holds_any(self, leases: Sequence[str]) -> bool:
        """Whether a client holds one of these messages."""
        with self._lock:
            found = [self._locks.held.with_lease(each) for each in leases]
        return any(each is not None and each.is_leased for each in found)

    def check_due(self) -> None:
        """Do what is due: release, renew, retry, and end calls that have waited for long enough."""
        now = self._clock()
        if now < self._locks.next_due and now < self.next_call_end:
            return
        with self._changing:
            self._locks.check_due()
            self._waiting.check_due(now)
            self._ended += [each for each, until in self._unsettled.items() if until <= now]

    @property
    def next_call_end(self) -> float:
        """When `check_due` must be called at the latest, for the sake of calls that no thread waits for."""
        return min((self._waiting.next_due, *list(self._unsettled.values())[:1]))

    def close(self, timeout: float) -> None:
        """Release all messages and leave the group, within `timeout` seconds. Waiting calls return empty pages."""
        with self._changing:
            self._is_closed = True
            self._waiting.end_all()
        self._member.close(timeout)
        self._lost(self._locks.held.partitions())

    # Listener of the share member, and of the dead letters

    def _wanted(self) -> int:
        return self._waiting.asked - self._locks.spare

    def _acquired(self, batch: AcquiredRecords) -> None:
        with self._changing:
            self._waiting.note_messages()
            self._locks.add(batch)
            self._hand_out()
            self._locks.schedule_new(batch)

    def _acknowledged(self, results: Sequence[AckResult]) -> None:
        with self._changing:
            self._locks.acknowledged(results)

    def _exhausted(self) -> None:
        with self._changing:
            self._waiting.end_round()

    def _lost(self, partitions: Collection[int]) -> None:
        with self._changing:
            self._locks.lose(partitions)

    def _failed(self, error: KafkaHttpError | None) -> None:
        with self._changing:
            self._waiting.fail(error)

    def _letter_published(self, message: HeldMessage) -> None:
        with self._changing:
            self._locks.letter_published(message)

    def _letter_failed(self, message: HeldMessage, error: KafkaHttpError, delay: float) -> None:
        with self._changing:
            self._locks.letter_failed(message, error, delay)

    # What changes of the locks need

    def _take_changes(self) -> tuple[Effects, list[AcquireCall | LeaseCall]]:
        effects, ended = self._locks.take_effects(), self._ended.copy()
        self._ended.clear()
        for each in ended:
            if isinstance(each, LeaseCall):
                self._unsettled.pop(each, None)
        return effects, ended

    def _carry_out(self, effects: Effects, ended: Iterable[AcquireCall | LeaseCall]) -> None:
        if effects.acknowledgements:
            self._member.acknowledge(effects.acknowledgements)
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
        for call in ended:
            self._complete(call)

    def _complete(self, call: AcquireCall | LeaseCall) -> None:
        """Complete a call. Kafka must be asked first for what blocks an empty page, which a thread does."""
        if isinstance(call, AcquireCall) and call.is_empty and call.until < inf:
            with self._lock:
                is_blocked = bool(self._locks.held.full_windows(self._settings.window))
            if is_blocked:
                Thread(target=self._complete_blocked, args=(call,), name="blocked-queue", daemon=True).start()
                return
        call.complete()

    def _complete_blocked(self, call: AcquireCall) -> None:
        try:
            call.blocked = self._blocked()
        except KafkaHttpError as error:
            call.error = error
        finally:
            call.complete()

    @property
    def _names(self) -> tuple[str, str]:
        return self.name.consumer, self.name.topic

    def _wall_time(self, until: float) -> int:
        """Return a time of the clock in milliseconds since 1970."""
        return int((time.time() + until - self._clock()) * 1000)
