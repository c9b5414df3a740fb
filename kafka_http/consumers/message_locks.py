"""The locks of a queue's messages: who holds each, how long, and how it ends. Without threads, Kafka or sockets."""

from collections import defaultdict, deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from itertools import count
from math import inf

from kafka_http.consumers.held_messages import DropReason, DueTimes, HeldMessage, HeldMessages
from kafka_http.consumers.message_leases import LeaseCall
from kafka_http.consumers.queue_service import MAX_PAGE_BYTES, Settlement
from kafka_http.errors import KafkaHttpError, LeaseLost, OutcomeUnknown
from kafka_http.records import Record, payload_size
from kafka_http.share_groups import Acknowledgement, AckResult, AckType, AcquiredRecords, ShareGroupSettings

_KEPT_SECONDS = 2.0
"""Seconds that a message waits for another client if the call that it was acquired for has ended."""
_MIN_DELAY = 0.1
_RETRY_SECONDS = 1.0

_EVENTS: Mapping[Settlement, str] = {"acknowledge": "acknowledged", "reject": "rejected", "release": "released"}


class Effects:
    """What changes of the locks need: the queue does it when it has released its own lock."""

    def __init__(self) -> None:
        self.acknowledgements: list[Acknowledgement] = []
        self.letters: list[HeldMessage] = []
        """Messages whose dead letters to publish."""
        self.dropped: list[HeldMessage] = []
        self.events: defaultdict[str, int] = defaultdict(int)
        """How often each event of the metric occurred."""


class MessageLocks:
    """The messages that a queue has acquired. One thread at a time may call; nothing blocks.

    Each change adds to `effects`, which the caller takes and carries out. Times are on `clock`, in seconds.
    """

    def __init__(self, settings: ShareGroupSettings, tag: str, clock: Callable[[], float]) -> None:
        """`tag` is the part of the leases that names the node and this object."""
        self.attempts = settings.attempts - 1
        """The deliveries of a message. Kafka has one more, in which a dead letter can still be written."""
        self.held = HeldMessages()
        self.leased = 0
        """The number of messages that clients hold."""
        self.dead = ""
        """The topic for the dead letters of messages that arrive after their last attempt."""
        self._kafka_lock = settings.lock
        self._tag = tag
        self._clock = clock
        self._numbers = count()
        self._due = DueTimes()
        self._spare: deque[HeldMessage] = deque()
        self._effects = Effects()

    @property
    def spare(self) -> int:
        """The number of messages that wait for a client."""
        return len(self._spare)

    @property
    def next_due(self) -> float:
        """When to call `check_due` at the latest."""
        return self._due.next

    def take_effects(self) -> Effects:
        """Return what the changes since the last call need."""
        effects, self._effects = self._effects, Effects()
        return effects

    # Messages come and go

    def add(self, batch: AcquiredRecords) -> None:
        """Add messages that Kafka has locked for this node. `schedule_new` must follow."""
        for record, attempt in zip(batch.records, batch.attempts, strict=True):
            message = HeldMessage(record, attempt, batch.until)
            if (replaced := self.held.put(message)) is not None:
                self._forget(replaced, _loss_of(replaced))
            if attempt > self.attempts:
                # The process that gave the last attempt to a client has ended without settling it
                message.dead = self.dead
                self._drop(message, "expired", "")
            else:
                message.until = self._kept_until(message)
                self._spare.append(message)

    def schedule_new(self, batch: AcquiredRecords) -> None:
        """Set the times of those messages that `add` has added and no client has got."""
        partition = batch.records.partition
        found = [self.held.get(partition, offset) for offset in batch.records.offsets]
        self._schedule([each for each in found if each is not None and not each.due])

    def lease(self, limit: int, lock: float, dead: str) -> list[HeldMessage]:
        """Lock up to `limit` spare messages of up to `MAX_PAGE_BYTES` for a client, each with a new lease."""
        messages: list[HeldMessage] = []
        until, size = (now := self._clock()) + lock, 0
        while self._spare and len(messages) < limit:
            message = self._spare.popleft()
            if self._is_spare(message) and now < message.kafka_until:
                record = message.record
                size += payload_size((record,))
                if messages and size > MAX_PAGE_BYTES:
                    self._spare.appendleft(message)
                    break
                message.lease = f"{record.partition}:{record.offset}:{self._tag}{next(self._numbers):x}"
                message.until, message.dead = until, dead
                messages.append(message)
        self.leased += len(messages)
        self._effects.events["acquired"] += len(messages)
        self._schedule(messages)
        return messages

    def take_back(self, leases: Iterable[str]) -> None:
        """Make messages that no client got spare again, in the same attempt."""
        found = [self.held.with_lease(each) for each in leases]
        messages = [each for each in found if each is not None and each.is_leased]
        for each in messages:
            each.lease = ""
            each.until = self._kept_until(each)
        self.leased -= len(messages)
        self._effects.events["released"] += len(messages)
        self._spare.extendleft(reversed(messages))
        self._schedule(messages)

    def forget_contents(self, leases: Iterable[str]) -> None:
        """Free the memory of messages that their clients have got, unless a dead letter may need them."""
        for message in map(self.held.with_lease, leases):
            if message is not None and not message.dead:
                record = message.record
                message.record = Record(record.topic, record.partition, record.offset, record.timestamp, None, None, ())

    def lose(self, partitions: Collection[int]) -> None:
        """Remove all messages of partitions, because Kafka has ended their locks."""
        for each in self.held.of_partitions(partitions):
            self._end(each, _loss_of(each))
        self._clean_spare()

    # What clients want

    def settle(self, lease: str, settlement: Settlement, call: LeaseCall, lock: float = 0) -> None:
        """Settle the message of a lease, or extend its lock to `lock` seconds from now. `call` gets the result."""
        message = self.held.with_lease(lease)
        if message is None or not self._may_settle(message, settlement):
            call.fail(lease, LeaseLost())
        elif settlement == "extend":
            self._extend(message, call, lock)
        else:
            message.calls.append(call)
            if message.decided is None:
                self._settle(message, settlement)

    def _may_settle(self, message: HeldMessage, settlement: Settlement) -> bool:
        """Whether a client holds the message, or has settled it in this way and Kafka has not answered yet."""
        if message.decided is not None:
            return message.event == _EVENTS.get(settlement)
        return self._clock() < min(message.until, message.kafka_until)

    def _settle(self, message: HeldMessage, settlement: Settlement) -> None:
        event = _EVENTS[settlement]
        if settlement == "reject":
            self._drop(message, "rejected", event)
        elif settlement == "release" and message.attempt >= self.attempts:
            self._drop(message, "released", event)
        else:
            self._decide(message, AckType.ACCEPT if settlement == "acknowledge" else AckType.RELEASE, event)

    def _extend(self, message: HeldMessage, call: LeaseCall, lock: float) -> None:
        until = self._clock() + lock
        if until <= message.kafka_until:
            self._lock_until(message, until, call)
            return
        message.renewals.append((call, lock))
        if message.sent is None:
            self._send(message, AckType.RENEW)

    def _lock_until(self, message: HeldMessage, until: float, call: LeaseCall) -> None:
        message.until = until
        if until < message.due:
            self._due.add([message], until)
        call.extend(message.lease, until)

    # What Kafka answers

    def acknowledged(self, results: Sequence[AckResult]) -> None:
        """Note the results of acknowledgements."""
        for acknowledgement, error in results:
            message = self.held.get(acknowledgement.partition, acknowledgement.offset)
            if message is None or message.sent is not acknowledgement.type:
                continue  # the message was lost meanwhile
            message.sent = None
            if error is None and acknowledgement.type is AckType.RENEW:
                self._renewed(message)
            elif error is None or isinstance(error, LeaseLost):
                self._end(message, error)
            else:
                self._retry(message, error, _RETRY_SECONDS)

    def _renewed(self, message: HeldMessage) -> None:
        now = self._clock()
        message.kafka_until = now + self._kafka_lock
        renewals, message.renewals = message.renewals, []
        for call, lock in renewals:
            if message.decided is None:
                self._lock_until(message, now + lock, call)
            else:
                call.fail(message.lease, LeaseLost())
        self._advance(message)

    def letter_published(self, message: HeldMessage) -> None:
        """Note that the dead letter of a message is written, so that it can be dropped."""
        message.is_publishing, message.drop = False, None
        self._effects.events["dead"] += 1
        if self.held.has(message):
            self._advance(message)

    def letter_failed(self, message: HeldMessage, error: KafkaHttpError, delay: float) -> None:
        """Try again to write a dead letter after `delay` seconds. Calls that wait for it get the error."""
        message.is_publishing = False
        self._retry(message, error, delay)

    def _retry(self, message: HeldMessage, error: KafkaHttpError, delay: float) -> None:
        message.fail_calls(error)
        message.retry_at = self._clock() + delay
        self._schedule([message])

    # What is due

    def check_due(self) -> None:
        """Release what was locked for long enough, renew what is locked for longer than Kafka's locks, and retry."""
        now = self._clock()
        messages = [each for each in self._due.pop(now) if self.held.has(each)]
        for each in messages:
            if now < each.kafka_until:
                self._attend(each, now)
            else:
                self._end(each, _loss_of(each))
        self._schedule([each for each in messages if self.held.has(each)])
        if any(not each.lease for each in messages):
            self._clean_spare()

    def _attend(self, message: HeldMessage, now: float) -> None:
        if message.decided is not None and now >= message.retry_at:
            self._advance(message)
        elif message.decided is None and message.sent is None and now >= message.until:
            self._expire(message)
        if message.sent is None and self._renewal_at(message) <= now:
            self._send(message, AckType.RENEW)

    def _expire(self, message: HeldMessage) -> None:
        if message.lease and message.attempt >= self.attempts:
            self._drop(message, "expired", "")
        else:
            self._decide(message, AckType.RELEASE, "expired" if message.lease else "")

    def _renewal_at(self, message: HeldMessage) -> float:
        """Return when Kafka's lock must be renewed: never if it lasts for long enough."""
        return message.kafka_until - self._kafka_lock / 2 if message.until > message.kafka_until else inf

    def _schedule(self, messages: Iterable[HeldMessage]) -> None:
        """Set when messages need attention next."""
        by_time: defaultdict[float, list[HeldMessage]] = defaultdict(list)
        soonest = self._clock() + _MIN_DELAY
        for each in messages:
            retry = each.retry_at if each.retry_at > soonest else inf
            by_time[max(soonest, min(each.until, self._renewal_at(each), retry, each.kafka_until))].append(each)
        for due, found in by_time.items():
            self._due.add(found, due)

    # How a message ends

    def _drop(self, message: HeldMessage, reason: DropReason, event: str) -> None:
        message.drop = reason
        self._decide(message, AckType.REJECT, event)

    def _decide(self, message: HeldMessage, ack_type: AckType, event: str) -> None:
        """Decide how a message ends. `event` is counted when Kafka has noted it."""
        self.leased -= message.is_leased
        message.decided, message.event = ack_type, event
        self._advance(message)

    def _advance(self, message: HeldMessage) -> None:
        """Do the next step towards the end of a decided message: its dead letter, then its acknowledgement."""
        if message.decided is None or message.sent is not None or message.is_publishing:
            return
        if message.drop is not None and message.dead:
            message.is_publishing, message.until = True, inf
            self._effects.letters.append(message)
            self._schedule([message])  # its lock must be renewed until the letter is written
        else:
            self._send(message, message.decided)

    def _send(self, message: HeldMessage, ack_type: AckType) -> None:
        message.sent = ack_type
        acknowledgement = Acknowledgement(message.record.partition, message.record.offset, ack_type)
        self._effects.acknowledgements.append(acknowledgement)

    def _end(self, message: HeldMessage, error: KafkaHttpError | None) -> None:
        """Remove a message: Kafka has noted how it ends, or its lock is lost."""
        self.held.remove(message)
        self._forget(message, error)

    def _forget(self, message: HeldMessage, error: KafkaHttpError | None) -> None:
        self._due.remove(message)
        if message.is_leased:
            self.leased -= 1
            self._effects.events["expired"] += 1
        if error is not None:
            message.fail_calls(error)
            return
        self._effects.events[message.event] += 1
        if message.drop in ("expired", "released"):
            self._effects.dropped.append(message)
        message.end_calls()

    # Spare messages

    def _is_spare(self, message: HeldMessage) -> bool:
        return message.decided is None and self.held.has(message)

    def _clean_spare(self) -> None:
        self._spare = deque(filter(self._is_spare, self._spare))

    def _kept_until(self, message: HeldMessage) -> float:
        """Return how long a message waits for a client. To release it in its last attempt would be to drop it."""
        return inf if message.attempt >= self.attempts else self._clock() + _KEPT_SECONDS


def _loss_of(message: HeldMessage) -> KafkaHttpError:
    """Return the error for those who wait for a message whose lock is lost."""
    if message.sent is not None and message.sent is message.decided:
        return OutcomeUnknown("Kafka did not acknowledge this before it ended the lock. It may have been done.")
    return LeaseLost()
