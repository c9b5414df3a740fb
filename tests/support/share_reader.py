"""A listener of a share member that records what it is told."""

import threading
from collections.abc import Callable, Collection, Sequence
from typing import Any

from kafka_http.broker_protocols import Broker, ShareMember
from kafka_http.errors import KafkaHttpError
from kafka_http.records import Record
from kafka_http.share_groups import Acknowledgement, AckResult, AckType, AcquiredRecords, ShareListener
from tests.support.polling import scaled


class ShareReader:
    """A member of a share group for tests. It acquires what `want` says, and acknowledges nothing by itself."""

    def __init__(self, broker: Broker, group: str, topic: str) -> None:
        self._changed = threading.Condition()
        self._wanted = 0
        self.records: list[Record] = []
        self.attempts: list[int] = []
        self.results: dict[Acknowledgement, KafkaHttpError | None] = {}
        self.lost: list[int] = []
        self.failures: list[KafkaHttpError | None] = []
        self.exhausted = 0
        self.member: ShareMember = broker.share_groups.join(
            group,
            topic,
            ShareListener(
                wanted=lambda: self._wanted,
                acquired=self._acquired,
                acknowledged=self._acknowledged,
                lost=self._lost,
                failed=self._failed,
                exhausted=self._exhausted,
            ),
        )

    def want(self, count: int) -> None:
        """Ask for more messages."""
        with self._changed:
            self._wanted += count
        self.member.wake()

    def take(self, count: int, seconds: float = 15) -> list[Record]:
        """Ask for messages, wait for them, and return those that were acquired last."""
        at = len(self.records)
        self.want(count)
        self.wait_until(lambda: len(self.records) >= at + count, seconds)
        return self.records[at:]

    def settle(self, records: Sequence[Record], type_: AckType = AckType.ACCEPT) -> list[KafkaHttpError | None]:
        """Acknowledge messages, wait for the results, and return them in order."""
        acks = [Acknowledgement(each.partition, each.offset, type_) for each in records]
        with self._changed:
            for each in acks:
                self.results.pop(each, None)
        self.member.acknowledge(acks)
        self.wait_until(lambda: all(each in self.results for each in acks))
        return [self.results[each] for each in acks]

    def wait_until(self, condition: Callable[[], Any], seconds: float = 15) -> None:
        """Wait for a condition that a callback makes true."""
        with self._changed:
            assert self._changed.wait_for(condition, scaled(seconds)), f"it did not come to that in {seconds} s"

    def close(self) -> None:
        self.member.close(scaled(5))

    def _acquired(self, acquired: AcquiredRecords) -> None:
        with self._changed:
            self._wanted -= len(acquired.records)
            self.records += acquired.records
            self.attempts += acquired.attempts
            self._changed.notify_all()

    def _acknowledged(self, results: Sequence[AckResult]) -> None:
        with self._changed:
            self.results.update(results)
            self._changed.notify_all()

    def _lost(self, partitions: Collection[int]) -> None:
        with self._changed:
            self.lost += partitions
            self._changed.notify_all()

    def _failed(self, error: KafkaHttpError | None) -> None:
        with self._changed:
            self.failures.append(error)
            self._changed.notify_all()

    def _exhausted(self) -> None:
        with self._changed:
            self.exhausted += 1
            self._changed.notify_all()
