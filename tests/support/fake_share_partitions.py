"""The partitions of a fake share group: deliveries, locks and windows."""

from bisect import bisect_left
from collections.abc import Callable
from typing import TYPE_CHECKING
from uuid import UUID

from kafka_http.errors import KafkaHttpError, LeaseLost
from kafka_http.records import Record
from kafka_http.share_groups import Acknowledgement, AckType, ShareGroupSettings
from tests.support.fake_topics import FakePartition

if TYPE_CHECKING:
    from tests.support.fake_share_groups import FakeShareMember


class FakeDelivery:
    """A message that is not settled: how often it was delivered, and who holds it until when."""

    def __init__(self) -> None:
        self.attempts = 0
        self.member: FakeShareMember | None = None
        self.until = 0.0


class FakeSharePartition:
    """What a group knows of a partition. Settled messages are those from `start` to `next` without a delivery."""

    def __init__(self, start: int) -> None:
        self.start = start
        self.next = start
        self.deliveries: dict[int, FakeDelivery] = {}

    def acquire(
        self, log: FakePartition, member: "FakeShareMember", count: int, now: float
    ) -> list[tuple[Record, int]]:
        settings = member.settings
        again = sorted(offset for offset, each in self.deliveries.items() if each.member is None)
        taken = [log.records[at] for at in (self._index(log, offset) for offset in again[:count])]
        first = self._index(log, self.next)
        for record in log.records[first : first + count - len(taken)]:
            if record.offset >= self.start + settings.window:
                break
            taken.append(record)
            self.next = record.offset + 1
        return [(each, self._lock(each.offset, member, now + settings.lock)) for each in taken]

    @staticmethod
    def _index(log: FakePartition, offset: int) -> int:
        return bisect_left(log.records, offset, key=lambda each: each.offset)

    def _lock(self, offset: int, member: "FakeShareMember", until: float) -> int:
        delivery = self.deliveries.setdefault(offset, FakeDelivery())
        delivery.member, delivery.until = member, until
        delivery.attempts += 1
        return delivery.attempts

    def acknowledge(self, ack: Acknowledgement, member: "FakeShareMember", now: float) -> KafkaHttpError | None:
        if ack.offset < self.start:
            return None
        delivery = self.deliveries.get(ack.offset)
        if delivery is None or delivery.member is not member:
            return LeaseLost()
        if ack.type is AckType.RENEW:
            delivery.until = now + member.settings.lock
        elif ack.type is AckType.RELEASE:
            self._release(ack.offset, member.settings.attempts)
        else:
            del self.deliveries[ack.offset]
        return None

    def release(self, attempts: int, is_over: Callable[[FakeDelivery], bool]) -> None:
        """Release the messages whose locks are over."""
        for offset, each in list(self.deliveries.items()):
            if each.member is not None and is_over(each):
                self._release(offset, attempts)
        self.advance()

    def _release(self, offset: int, attempts: int) -> None:
        delivery = self.deliveries[offset]
        delivery.member = None
        if delivery.attempts >= attempts:
            del self.deliveries[offset]

    def delete_before(self, offset: int) -> None:
        """Settle the messages that retention has removed, also those that are locked."""
        if offset > self.start:
            self.deliveries = {at: each for at, each in self.deliveries.items() if at >= offset}
            self.start, self.next = offset, max(self.next, offset)

    def advance(self) -> None:
        while self.start < self.next and self.start not in self.deliveries:
            self.start += 1


class FakeShareGroup:
    """A group: its settings, and the partitions of each topic that it reads."""

    def __init__(self) -> None:
        self.settings = ShareGroupSettings(5, 30.0, 2000)
        self.from_earliest = False
        self.topics: dict[str, tuple[UUID, dict[int, FakeSharePartition]]] = {}
