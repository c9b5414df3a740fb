"""The calls that acquire messages of a queue, and wait for them."""

from collections.abc import Callable, Sequence
from math import inf
from typing import Protocol

from kafka_http.consumers.held_messages import HeldMessage
from kafka_http.consumers.queue_service import BlockedPartition, QueuePage
from kafka_http.errors import KafkaHttpError, NotAuthorized, QueuesUnsupported, TopicNotFound, WrongGroupType
from kafka_http.pending import DoneCallbacks

ANSWER_SECONDS = 3.0
"""Seconds that a call waits after its own `wait` until Kafka has said that there are no messages."""
_FIRST_ROUNDS = 3
"""How often Kafka must have no messages before a queue that has had none yet counts as empty.

The first request after a member has joined is often empty.
"""
_LASTING = (TopicNotFound, NotAuthorized, WrongGroupType, QueuesUnsupported)
"""Errors after which no call waits for messages. Others may pass while it waits."""


class PageMaker(Protocol):
    """What an `AcquireCall` asks of its queue."""

    def page(self, call: "AcquireCall") -> QueuePage:
        """Return the page of a call that is done."""

    def abandon(self, call: "AcquireCall") -> None:
        """End a call that nobody waits for any more."""


class AcquireCall(DoneCallbacks):
    """A call that waits for messages: a `PendingCall`, whose result is a page. The queue's lock guards its attributes.

    `MessageQueue.acquire` and `start_acquire` make it.
    """

    __slots__ = ("_queue", "blocked", "dead", "error", "is_overdue", "limit", "lock", "messages", "rounds", "until")

    def __init__(self, queue: PageMaker, limit: int, lock: float, dead: str, until: float = inf) -> None:
        """`until` is when it waits no longer, on the queue's clock. Infinity if a thread waits, which ends it."""
        super().__init__()
        self._queue = queue
        self.limit = limit
        self.lock = lock
        self.dead = dead
        self.until = until
        self.rounds = 0
        """The number of rounds until which Kafka must have no messages."""
        self.is_overdue = False
        """Whether it waits only until Kafka has said that there are none."""
        self.messages: Sequence[HeldMessage] = ()
        self.blocked: Sequence[BlockedPartition] = ()
        self.error: KafkaHttpError | None = None

    @property
    def is_empty(self) -> bool:
        """Whether it ends without messages and without an error."""
        return not self.messages and self.error is None

    @property
    def due(self) -> float:
        """When its wait is over, or when it ends at the latest if that was so."""
        return self.until + ANSWER_SECONDS if self.is_overdue else self.until

    def result(self, timeout: float | None = None) -> QueuePage:
        """Wait until it is done, and return the page, or raise what prevents the queue from being read."""
        self.wait(timeout)
        if self.error is not None:
            raise self.error
        return self._queue.page(self)

    def abandon(self) -> None:
        """End it. The messages that it has got are for others."""
        self._queue.abandon(self)


class WaitingCalls:
    """The calls of a queue that wait for messages, in order. The queue's lock guards it.

    A round is over when all leaders were asked for messages and have none.
    """

    def __init__(self, on_end: Callable[[AcquireCall], None]) -> None:
        """`on_end` is called when a call has ended, under the lock. `complete` must follow without it."""
        self.asked = 0
        """How many messages the calls want."""
        self._on_end = on_end
        self._calls: dict[AcquireCall, None] = {}
        self._rounds = 0
        self._needed_rounds = _FIRST_ROUNDS
        self._failure: KafkaHttpError | None = None

    def __bool__(self) -> bool:
        return bool(self._calls)

    @property
    def first(self) -> AcquireCall:
        return next(iter(self._calls))

    @property
    def next_due(self) -> float:
        """When `check_due` must be called. Any thread may ask."""
        return min((each.due for each in list(self._calls)), default=inf)

    def add(self, call: AcquireCall) -> None:
        call.rounds = self._rounds + self._needed_rounds
        self._calls[call] = None
        self.asked += call.limit

    def end(self, call: AcquireCall) -> None:
        """End a call, with its messages or without. No effect if it has ended."""
        if call in self._calls:
            del self._calls[call]
            self.asked -= call.limit
            if call.is_empty:
                call.error = self._failure
            self._on_end(call)

    def end_all(self) -> None:
        for each in list(self._calls):
            self.end(each)

    def set_overdue(self, call: AcquireCall) -> None:
        """Let a call wait only until Kafka has said that there are no messages."""
        call.is_overdue = True
        self._check_rounds(call)

    def check_due(self, now: float) -> None:
        """End the calls that have waited for long enough."""
        for each in [each for each in self._calls if each.due <= now]:
            if each.is_overdue:
                self.end(each)
            else:
                self.set_overdue(each)

    def note_messages(self) -> None:
        """Note that Kafka has had some."""
        self._needed_rounds = 1

    def end_round(self) -> None:
        """Note that Kafka has none."""
        self._rounds += 1
        if self._rounds >= _FIRST_ROUNDS:
            self._needed_rounds = 1
        for each in list(self._calls):
            self._check_rounds(each)

    def fail(self, error: KafkaHttpError | None) -> None:
        """Note why the queue cannot be read, or that it can (None)."""
        self._failure = error
        for each in list(self._calls):
            if isinstance(error, _LASTING) or (error is not None and each.is_overdue):
                each.error = error
                self.end(each)

    def _check_rounds(self, call: AcquireCall) -> None:
        if call.is_overdue and self._rounds >= call.rounds:
            self.end(call)
