"""The messages that a queue holds, and when they need attention. The queue's lock guards all of it."""

import heapq
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from itertools import count
from math import inf
from typing import Literal

from msgspec import Struct, field

from kafka_http.backoff import Backoff
from kafka_http.consumers.message_leases import LeaseCall
from kafka_http.errors import KafkaHttpError
from kafka_http.records import Record
from kafka_http.share_groups import AckType

_MIN_ENTRIES = 1000

DropReason = Literal["expired", "released", "rejected"]


class HeldMessage(Struct, gc=False, eq=False):
    """A message that this node has acquired. It ends when Kafka has noted what to do with it, or has taken it back.

    A client holds it while it has a `lease` and nothing is `decided`. Times are on the queue's clock, in seconds.
    """

    record: Record
    attempt: int
    kafka_until: float
    """When Kafka's lock ends."""
    until: float = 0.0
    """When the client's lock ends, or how long the message waits for a client."""
    lease: str = ""
    """Empty until a client gets it."""
    dead: str = ""
    """The topic of dead letters, or empty."""
    due: float = 0.0
    """When it needs attention next."""
    due_group: int = 0
    """Its entry in `DueTimes`."""
    decided: AckType | None = None
    """How it ends. Sent to Kafka once no other acknowledgement of it is in flight and its dead letter is written."""
    event: str = ""
    """What is counted at its end."""
    drop: DropReason | None = None
    """Why a dead letter is needed first. None: no dead letter, or it is written."""
    is_publishing: bool = False
    backoff: Backoff | None = None
    """The delays between attempts to publish its dead letter."""
    retry_at: float = 0.0
    """When to try again what has failed."""
    sent: AckType | None = None
    """The acknowledgement that is in flight to Kafka."""
    renewals: list[tuple[LeaseCall, float]] = field(default_factory=list)
    """The calls that wait for a renewal, each with the seconds to lock the message for."""
    calls: list[LeaseCall] = field(default_factory=list)
    """The calls that wait for its end."""

    @property
    def is_leased(self) -> bool:
        return self.lease != "" and self.decided is None

    def end_calls(self) -> None:
        """Tell the calls that wait for it that it has ended as they wanted."""
        for each in self._take_calls():
            each.end(self.lease)

    def fail_calls(self, error: KafkaHttpError) -> None:
        """Give the calls that wait for it an error."""
        for each in self._take_calls():
            each.fail(self.lease, error)

    def _take_calls(self) -> list[LeaseCall]:
        calls = [*self.calls, *(call for call, _ in self.renewals)]
        self.calls, self.renewals = [], []
        return calls


class HeldMessages:
    """The messages that a queue holds, by partition and offset."""

    def __init__(self) -> None:
        self._partitions: defaultdict[int, dict[int, HeldMessage]] = defaultdict(dict)
        self._highest: dict[int, int] = {}

    def __iter__(self) -> Iterator[HeldMessage]:
        return (message for held in self._partitions.values() for message in held.values())

    def put(self, message: HeldMessage) -> HeldMessage | None:
        """Add a message. Return the one of the same offset that it replaces."""
        record = message.record
        held = self._partitions[record.partition]
        replaced = held.get(record.offset)
        held[record.offset] = message
        if record.offset > self._highest.get(record.partition, -1):
            self._highest[record.partition] = record.offset
        return replaced

    def get(self, partition: int, offset: int) -> HeldMessage | None:
        return self._partitions[partition].get(offset)

    def has(self, message: HeldMessage) -> bool:
        """Whether the message is still held, and no later delivery of it."""
        return self.get(message.record.partition, message.record.offset) is message

    def remove(self, message: HeldMessage) -> None:
        self._partitions[message.record.partition].pop(message.record.offset, None)

    def partitions(self) -> list[int]:
        """Return the partitions of which messages are, or were, held."""
        return list(self._partitions)

    def of_partitions(self, partitions: Collection[int]) -> list[HeldMessage]:
        return [message for each in partitions for message in self._partitions[each].values()]

    def with_lease(self, lease: str) -> HeldMessage | None:
        """Return the message of a lease, which may have been decided."""
        partition, _, rest = lease.partition(":")
        offset = rest.partition(":")[0]
        if not (partition.isdecimal() and offset.isdecimal()):
            return None
        found = self._partitions[int(partition)].get(int(offset)) if int(partition) in self._partitions else None
        return found if found is not None and found.lease == lease else None

    def full_windows(self, window: int) -> list[tuple[HeldMessage, int]]:
        """Return what holds up each partition whose window of locks is full, and the highest offset acquired there."""
        full = []
        for partition, held in self._partitions.items():
            if held and self._highest[partition] + 1 - (lowest := min(held)) >= window:
                full.append((held[lowest], self._highest[partition]))
        return full


class DueTimes:
    """When held messages need attention. Messages of one page share an entry, so that a page costs one operation.

    A message that is removed is not kept in memory until its time: that may be as long as a lock.
    """

    def __init__(self) -> None:
        self._heap: list[tuple[float, int]] = []
        self._groups: dict[int, dict[HeldMessage, None]] = {}
        self._numbers = count(1)

    @property
    def next(self) -> float:
        """The earliest time, or one that is too early; infinity if there is none."""
        return self._heap[0][0] if self._heap else inf

    def add(self, messages: Sequence[HeldMessage], due: float) -> None:
        """Set the time of messages. This replaces an earlier one."""
        number = next(self._numbers)
        for each in messages:
            self.remove(each)
            each.due, each.due_group = due, number
        self._groups[number] = dict.fromkeys(messages)
        heapq.heappush(self._heap, (due, number))

    def remove(self, message: HeldMessage) -> None:
        """Remove a message if it has a time."""
        group = self._groups.get(message.due_group)
        if group is None:
            return
        group.pop(message, None)
        if not group:
            del self._groups[message.due_group]
            self._compact()

    def pop(self, now: float) -> Iterator[HeldMessage]:
        """Remove and yield the messages whose time has come."""
        while self._heap and self._heap[0][0] <= now:
            yield from self._groups.pop(heapq.heappop(self._heap)[1], ())

    def _compact(self) -> None:
        if len(self._heap) > 2 * len(self._groups) + _MIN_ENTRIES:
            self._heap = [each for each in self._heap if each[1] in self._groups]
            heapq.heapify(self._heap)
