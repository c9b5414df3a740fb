"""What consumer instances read: borrowed from whoever holds them, read by the one read path, given back."""

import time
from collections.abc import Sequence
from contextlib import suppress

from kafka_http.consumers.instance_service import InstanceService, ReadLease
from kafka_http.errors import KafkaHttpError, LeaseExpired, TopicNotFound, TopicRecreated
from kafka_http.read.page_reader import WAIT_SLICE, Page, PageReader, ReadLimits
from kafka_http.records import Positions, Record, RecordPlace, TopicPartition

_PAUSE = 0.1
_MISSING_SECONDS = 0.5
"""How often a reader looks for a topic where it has no other to wait for."""
_FULL = 2
"""A page is enough for `fetch.min.bytes` where it is half of what fits: the next record may be larger than the rest."""


class LeasedPage:
    """Records of an instance on their way to its client. One of its two methods must be called, once."""

    def __init__(self, instances: InstanceService, loan: ReadLease | None, page: Page) -> None:
        """`loan` is None where it has ended: then there are no records."""
        self.records: Sequence[Record] = page.records
        self._instances = instances
        self._loan = loan
        self._page = page

    def delivered(self) -> None:
        """The client has them: read on behind them."""
        if self._loan is not None:
            behind = {each: offset + 1 for each, offset in self._page.last.items()}
            self._instances.give_back(self._loan, _places(self._page.next), _places(behind))

    def lost(self) -> None:
        """The client may not have them: they are read again."""
        if self._loan is not None:
            self._instances.drop(self._loan)


class InstanceReader:
    """Reads pages for consumer instances."""

    def __init__(self, instances: InstanceService, reader: PageReader) -> None:
        self._instances = instances
        self._reader = reader

    def read(self, loan: ReadLease, limits: ReadLimits, until: float) -> LeasedPage:
        """A page for an instance that was borrowed, waiting `until` then (of the monotonic clock) for records, or for
        partitions to read, and for `fetch.min.bytes`.

        Waits in slices, so that partitions that come or go meanwhile are seen. Raises as `PageReader.read` does, and
        `InstanceNotFound`; the loan is over then.
        """
        try:
            return self._read(loan, limits, until)
        except LeaseExpired:
            return LeasedPage(self._instances, None, Page([], {}))
        except BaseException:
            with suppress(KafkaHttpError):
                self._instances.drop(loan)
            raise

    def _read(self, loan: ReadLease, limits: ReadLimits, until: float) -> LeasedPage:
        enough = min(loan.settings.min_bytes, limits.size // _FULL)
        told: set[str] = set()
        while True:
            page, recreated = self._look(loan, limits, min(WAIT_SLICE, until - time.monotonic()))
            if not recreated <= told:
                told |= recreated
                loan = self._instances.renew(loan, (), 0, sorted(recreated))
                continue
            left = until - time.monotonic()
            full = _size(page.records) >= enough or len(page.records) >= limits.records
            if left <= 0 or (page.records and full) or self._reader.pause(0):
                return LeasedPage(self._instances, loan, self._still_lent(loan, page))
            if loan.joining:
                loan = self._instances.renew(loan, (), min(WAIT_SLICE, left))
            else:
                if page.records or not loan.positions:  # there is nothing that one could wait for in Kafka
                    self._reader.pause(min(_PAUSE, left))
                loan = self._instances.renew(loan, () if page.records else _places(page.next))

    def _still_lent(self, loan: ReadLease, page: Page) -> Page:
        """What of the page may be handed out still: nobody would note down the delivery of the rest. Raises
        `LeaseExpired`, also where the instance's holder has died since."""
        if not page.records:
            return page
        now = self._instances.renew(loan)
        ours = {
            TopicPartition(each.topic, each.partition)
            for each in now.positions
            if now.ids.get(each.topic) == loan.ids.get(each.topic)
        }
        if ours >= page.next.keys():
            return page
        records = [each for each in page.records if TopicPartition(each.topic, each.partition) in ours]
        following, last = (
            {each: offset for each, offset in positions.items() if each in ours} for positions in (page.next, page.last)
        )
        return Page(records, following, last)

    def _look(self, loan: ReadLease, limits: ReadLimits, seconds: float) -> tuple[Page, set[str]]:
        """Read once. Topics that are not there, or not yet, have no records, and the others are read.

        Also returns the topics that were deleted and created again.
        """
        positions = {TopicPartition(each.topic, each.partition): each.offset for each in loan.positions}
        gone: dict[TopicPartition, int] = {}
        recreated: set[str] = set()
        settings = loan.settings
        while True:
            topics = {each.topic for each in positions}
            try:
                page = self._reader.read(
                    positions,
                    limits,
                    wait=max(0, seconds),
                    isolation=settings.isolation,
                    reset=settings.reset,
                    ids={topic: topic_id for topic, topic_id in loan.ids.items() if topic in topics},
                )
                return Page(page.records, {**gone, **page.next}, page.last), recreated
            except TopicNotFound as error:
                if isinstance(error, TopicRecreated):
                    recreated.add(error.fields["topic"])
                of_it = {each for each in positions if each.topic == error.fields.get("topic")}
                if not of_it:
                    raise
                gone |= {each: positions.pop(each) for each in of_it}
                if not positions:
                    self._reader.pause(min(seconds, _PAUSE if recreated else _MISSING_SECONDS))
                    return Page([], gone), recreated


def _size(records: Sequence[Record]) -> int:
    return sum(len(each.value or b"") + len(each.key or b"") for each in records)


def _places(positions: Positions) -> list[RecordPlace]:
    return [RecordPlace(each.topic, each.partition, offset) for each, offset in positions.items()]
