"""Reads pages for consumer instances, under a read lease."""

import time
from contextlib import suppress

from kafka_http.consumers.instance_service import InstanceService, ReadLease
from kafka_http.errors import KafkaHttpError, LeaseExpired, TopicNotFound, TopicRecreated
from kafka_http.name_filter import ALL_NAMES, NameFilter
from kafka_http.read.page_reader import WAIT_SLICE, Page, PageReader, ReadLimits
from kafka_http.records import TopicPartition, offset_entries, offsets_of

_PAUSE = 0.1
_MISSING_TOPIC_SECONDS = 0.5
"""The time between two checks for a missing topic, if there is no other topic to wait for."""
_MIN_BYTES_SHARE = 2
"""A page is large enough for `fetch.min.bytes` if half of its limit is used: the next record may not fit."""
_FRESH_SECONDS = 0.5
"""A lease that was acquired or renewed this recently is not checked again before its page is delivered.

It is shorter than the time that a group waits for revoked partitions (`RELEASE_SECONDS`), so a rebalance cannot have
assigned them to another member yet. If they were lost without a rebalance, their records are delivered again.
"""


class LeasedPage:
    """Records of an instance and the lease that they were read under. Call `confirm` or `discard`, once."""

    def __init__(self, instances: InstanceService, lease: ReadLease | None, page: Page) -> None:
        """`lease` is None if it has ended. There are no records then."""
        self.parts = page.parts
        self._instances = instances
        self._lease = lease
        self._page = page

    def confirm(self) -> None:
        """Release the lease. The next page starts after these records."""
        if self._lease is not None:
            ends = {each: offset + 1 for each, offset in self._page.last.items()}
            self._instances.release_lease(self._lease, offset_entries(self._page.next), offset_entries(ends))

    def discard(self) -> None:
        """Release the lease. The next page has the same records, because the client may not have received them."""
        if self._lease is not None:
            self._instances.release_lease(self._lease)


class InstanceReader:
    """Reads pages for consumer instances. The v2 routes create it; any thread may call."""

    def __init__(self, instances: InstanceService, reader: PageReader) -> None:
        self._instances = instances
        self._reader = reader

    def read(self, lease: ReadLease, limits: ReadLimits, until: float, readable: NameFilter = ALL_NAMES) -> LeasedPage:
        """Read a page of the topics in `readable`.

        Wait until `until` (monotonic clock) for an assignment, for records, and for `fetch.min.bytes`. It waits in
        slices and renews the lease after each, so that a rebalance can proceed. Raises the errors of `PageReader.read`
        and `InstanceNotFound`; the lease is released then.
        """
        try:
            return self._read(lease, limits, until, readable)
        except LeaseExpired:
            return LeasedPage(self._instances, None, Page([], {}))
        except BaseException:
            with suppress(KafkaHttpError):
                self._instances.release_lease(lease)
            raise

    def _read(self, lease: ReadLease, limits: ReadLimits, until: float, readable: NameFilter) -> LeasedPage:
        granted = time.monotonic()
        reported: set[str] = set()
        while True:
            seconds = min(WAIT_SLICE, until - time.monotonic())
            page, recreated = self._read_once(lease, limits, seconds, readable)
            left = until - time.monotonic()
            if not recreated <= reported:
                reported |= recreated
                lease = self._instances.renew_lease(lease, (), 0, sorted(recreated))
            elif left <= 0 or _is_enough(page, lease, limits) or self._reader.pause(0):
                is_fresh = time.monotonic() - granted < _FRESH_SECONDS
                return LeasedPage(
                    self._instances, lease, page if is_fresh else self._records_still_assigned(lease, page)
                )
            elif lease.joining:
                lease = self._instances.renew_lease(lease, (), min(WAIT_SLICE, left))
            else:
                if page.parts or not page.next:  # no fetch would wait for more
                    self._reader.pause(min(_PAUSE, left))
                lease = self._instances.renew_lease(lease, () if page.parts else offset_entries(page.next))
            granted = time.monotonic()

    def _records_still_assigned(self, lease: ReadLease, page: Page) -> Page:
        """Return the records whose partitions are still assigned. The delivery of others would not be recorded.

        Raises `LeaseExpired`, also if the daemon was restarted.
        """
        if not page.parts:
            return page
        renewed = self._instances.renew_lease(lease)
        assigned = {
            TopicPartition(each.topic, each.partition)
            for each in renewed.positions
            if renewed.ids.get(each.topic) == lease.ids.get(each.topic)
        }
        if assigned >= page.next.keys():
            return page
        parts = [each for each in page.parts if TopicPartition(each.topic, each.partition) in assigned]
        following, last = (
            {each: offset for each, offset in positions.items() if each in assigned}
            for positions in (page.next, page.last)
        )
        return Page(parts, following, last, page.size)

    def _read_once(
        self, lease: ReadLease, limits: ReadLimits, seconds: float, readable: NameFilter
    ) -> tuple[Page, set[str]]:
        """Read once. Missing topics have no records, and do not prevent the read of others.

        Also returns the topics that were deleted and created again.
        """
        positions = _readable_positions(lease, readable)
        missing: dict[TopicPartition, int] = {}
        recreated: set[str] = set()
        while True:
            topics = {each.topic for each in positions}
            try:
                page = self._reader.read(
                    positions,
                    limits,
                    wait=max(0, seconds),
                    isolation=lease.settings.isolation,
                    reset=lease.settings.reset,
                    ids={topic: topic_id for topic, topic_id in lease.ids.items() if topic in topics},
                )
                return Page(page.parts, {**missing, **page.next}, page.last, page.size), recreated
            except TopicNotFound as error:
                if isinstance(error, TopicRecreated):
                    recreated.add(error.fields["topic"])
                of_topic = {each for each in positions if each.topic == error.fields.get("topic")}
                if not of_topic:
                    raise
                missing |= {each: positions.pop(each) for each in of_topic}
                if not positions:
                    self._reader.pause(min(seconds, _PAUSE if recreated else _MISSING_TOPIC_SECONDS))
                    return Page([], missing), recreated


def _readable_positions(lease: ReadLease, readable: NameFilter) -> dict[TopicPartition, int]:
    positions = offsets_of(lease.positions)
    hidden = {topic for topic in {each.topic for each in positions} if not readable.matches(topic)}
    return {tp: at for tp, at in positions.items() if tp.topic not in hidden} if hidden else positions


def _is_enough(page: Page, lease: ReadLease, limits: ReadLimits) -> bool:
    """Whether a page has enough records for `fetch.min.bytes`, or is full."""
    min_bytes = min(lease.settings.min_bytes, limits.size // _MIN_BYTES_SHARE)
    return bool(page.parts) and (page.size >= min_bytes or page.count >= limits.records)
