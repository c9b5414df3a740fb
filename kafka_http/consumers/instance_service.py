"""Consumer instances of the v2 dialect, as its views see them.

An instance belongs to a group and lives in the node's daemon (or, `daemon = inline`, in this process). Records do not
pass through it: a view borrows the instance, reads by the one read path, and gives it back with what it delivered.
"""

from collections.abc import Sequence
from typing import Protocol

from msgspec import Struct

from kafka_http.records import Definition, InstanceSettings, OffsetReset, RecordPlace, TopicIds, TopicPartition


class ReadLease(Struct, frozen=True):
    """An instance lent to one reader: its settings, and what to read of each partition that it has now.

    It lasts until it is given back, its borrower's connection ends, or its time is over. An empty `positions` of a
    subscribed instance means that it has no partitions, or (`joining`) that its group has not given it any yet. The
    positions are those of the topics with these `ids`; one that is not there yet has none.
    """

    id: str
    settings: InstanceSettings
    positions: Sequence[RecordPlace]
    joining: bool = False
    ids: TopicIds = {}


class InstanceService(Protocol):
    """What can be done with instances. All calls block and may be made from any thread; times are in seconds.

    All but the first two raise `InstanceNotFound`, and each of these counts as use: an instance idle for too long is
    removed.
    """

    def list_instances(self) -> list[Definition]:
        """All there are, those of other nodes on the same store included, by group and name. No use of any of them."""

    def create(self, group: str, name: str, settings: InstanceSettings) -> None:
        """Raises `InstanceExists`, `TooManyInstances`."""

    def delete(self, group: str, name: str) -> None:
        """Commit what auto commit owes, leave the group, forget the instance."""

    def settings(self, group: str, name: str) -> InstanceSettings: ...

    def subscribe(self, group: str, name: str, topics: Sequence[str], pattern: str | None) -> None:
        """Subscribe to these topics or, where there is one, to those that a pattern matches whole. Replaces the
        subscription before. Does not wait for the assignment. Raises `IllegalState` for an assigned instance."""

    def unsubscribe(self, group: str, name: str) -> None:
        """Leave the group and drop the subscription or the assignment."""

    def subscription(self, group: str, name: str) -> list[str]:
        """The topics subscribed to, those that a pattern matches now included."""

    def assign(self, group: str, name: str, partitions: Sequence[TopicPartition]) -> None:
        """Read these partitions, and be no member. Raises `IllegalState` for a subscribed instance,
        `TopicNotFound`, `PartitionNotFound`."""

    def assignments(self, group: str, name: str) -> list[TopicPartition]: ...

    def seek(self, group: str, name: str, places: Sequence[RecordPlace]) -> None:
        """Set what is read next. Waits for the assignment like `borrow`, for the instance's timeout. Raises
        `IllegalState` for a partition that is not assigned."""

    def seek_times(self, group: str, name: str, times: Sequence[RecordPlace]) -> None:
        """As `seek`, to the first record at or after a time: each `offset` is milliseconds."""

    def seek_ends(self, group: str, name: str, partitions: Sequence[TopicPartition], end: OffsetReset) -> None:
        """As `seek`, to an end of the log."""

    def commit(self, group: str, name: str, places: Sequence[RecordPlace] | None) -> None:
        """Commit these offsets + 1, or (None) what was delivered; behind the last record, the end of the log.

        Waits for the assignment like `seek`. Raises `TopicNotFound`, `PartitionNotFound`, with nothing committed.
        """

    def committed(self, group: str, name: str, partitions: Sequence[TopicPartition]) -> list[RecordPlace]:
        """The group's committed offsets, partitions without one left out."""

    def borrow(self, group: str, name: str, timeout: float) -> ReadLease:
        """Lend the instance to one reader, waiting `timeout` at most for those before it and for its assignment.

        Where its assignment has not come in that time the loan is `joining`; its reader renews it, or drops it. Auto
        commit commits here what earlier loans delivered, at the latest every 5 s. Raises `IllegalState` where it is
        neither subscribed nor assigned, `InstanceBusy` where another still has it.
        """

    def renew(
        self, loan: ReadLease, positions: Sequence[RecordPlace] = (), timeout: float = 0, recreated: Sequence[str] = ()
    ) -> ReadLease:
        """The loan with the partitions that the instance has now, for a reader that has found nothing so far.

        `positions` are where its empty page ended. Waits `timeout` at most while there is no assignment; the loan is
        `joining` where none has come. Read on from what it lends. `recreated` are topics that the reader has found to
        have other ids. Raises `LeaseExpired`.
        """

    def give_back(self, loan: ReadLease, positions: Sequence[RecordPlace], delivered: Sequence[RecordPlace]) -> None:
        """End a loan: `positions` to read next, and `delivered`, behind the last record handed out of each partition.

        Both are ignored for partitions lost meanwhile, and for a loan that has ended.
        """

    def drop(self, loan: ReadLease) -> None:
        """End a loan whose answer did not reach its client: everything stays as it was."""
