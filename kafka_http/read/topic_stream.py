"""Streams: each reads from Kafka up to the end of the topic, and then shares the topic's follower with others."""

import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Collection, Sequence
from itertools import chain
from uuid import UUID

from msgspec import Struct

from kafka_http.broker_protocols import Log
from kafka_http.errors import KafkaHttpError, OffsetOutOfRange, TooManyStreams
from kafka_http.metrics import count_consumed
from kafka_http.read.page_reader import Page, PageReader, ReadLimits
from kafka_http.read.record_filter import RecordFilter
from kafka_http.read.stream_batch import OffsetGap, RenderBatch, StreamBatch, StreamForm
from kafka_http.read.topic_follower import (
    FollowedBatch,
    FollowedTopic,
    FollowerTooSlow,
    RetryPeriod,
    TopicFollower,
    TopicFollowers,
)
from kafka_http.records import (
    EARLIEST,
    LATEST,
    Isolation,
    OffsetReset,
    PartitionOffsets,
    Record,
    RecordColumns,
    TopicPartition,
    count_within,
    payload_size,
)
from kafka_http.topics import NEW_PARTITIONS_SECONDS

_PAGE_LIMITS = ReadLimits(records=2000, size=1 << 20)
_PAUSE_SECONDS = 0.2


class StreamLimits(Struct, frozen=True):
    """What ends a stream: a number of records, a size of keys and values in bytes, or the end of the log at its start.

    A stream may have one record of any size.
    """

    records: int | None = None
    size: int | None = None
    until_end: bool = False


class StreamRequest(Struct, frozen=True):
    """The topic that a stream reads, and from where.

    topic_id: the id that the topic must have.
    positions: the offset to read next of each partition.
    has_all: whether partitions that the topic gets later are read as well, from their start.
    reset: the end of the log to go to if a position is out of range.
    reports_gaps: whether the client is notified of offsets that retention has removed. Without `reset`, such a stream
        continues at the earliest offset; other streams end with an error.
    filter: selects the records of a search, which the limits count; None for all.
    is_resumed: whether the client has read this stream before. If not, the first positions must be in range.
    """

    topic: str
    topic_id: UUID | None
    positions: PartitionOffsets
    limits: StreamLimits = StreamLimits()
    isolation: Isolation = "read_uncommitted"
    has_all: bool = False
    reset: OffsetReset | None = None
    reports_gaps: bool = False
    is_resumed: bool = False
    filter: RecordFilter | None = None


class TopicStreams:
    """Opens the streams of this process and limits their number. The composition root creates it.

    Any thread may call.
    """

    def __init__(self, log: Log, reader: PageReader, followers: TopicFollowers, limit: int) -> None:
        """`limit` is the maximum number of open streams."""
        self.limit = limit
        self._log = log
        self._reader = reader
        self._followers = followers
        self._lock = threading.Lock()
        self._open = 0

    @property
    def count(self) -> int:
        """The number of open streams."""
        return self._open

    def open(self, request: StreamRequest, render: RenderBatch) -> "TopicStream":
        """Open a stream and read once, to find errors in its positions. The caller must close it.

        Raises `TooManyStreams` and the errors of `PageReader.read`.
        """
        with self._lock:
            if self._open >= self.limit:
                raise TooManyStreams(self.limit)
            self._open += 1
        stream = TopicStream(self._reader, self._followers, request, render, self._closed)
        try:
            latest = dict.fromkeys(request.positions, LATEST)
            ends = self._log.offsets(request.topic, latest, request.isolation) if request.limits.until_end else None
            stream.begin(ends)
        except BaseException:
            stream.close()
            raise
        return stream

    def _closed(self) -> None:
        with self._lock:
            self._open -= 1


class TopicStream:
    """The stream of one client. `TopicStreams.open` creates it. One thread at a time may call it, until `close`."""

    __slots__ = (
        "_budget",
        "_ends",
        "_first",
        "_follower",
        "_followers",
        "_form",
        "_gaps",
        "_is_aligned",
        "_is_open",
        "_look_at",
        "_looked_for",
        "_may_skip",
        "_number",
        "_on_close",
        "_read_until",
        "_reader",
        "_request",
        "_retries",
        "is_ending",
        "position",
        "returned",
        "scanned",
    )

    def __init__(
        self,
        reader: PageReader,
        followers: TopicFollowers,
        request: StreamRequest,
        render: RenderBatch,
        on_close: Callable[[], None],
    ) -> None:
        """`close` calls `on_close` once."""
        self.position: PartitionOffsets = dict(sorted(request.positions.items()))
        """The offset after the last batch of `next`, by partition."""
        self.scanned = 0
        """The number of records that a search has looked at."""
        self.returned = 0
        """The number of records that `next` has returned."""
        self.is_ending = False
        """Whether the rest of the stream is in memory, so that `next` does not wait any more."""
        self._reader = reader
        self._followers = followers
        self._on_close = on_close
        self._request = request
        self._form = StreamForm(frozenset(request.positions), render)
        self._budget = _StreamBudget(request.limits)
        self._may_skip = request.reports_gaps and request.is_resumed
        self._gaps: list[OffsetGap] = []
        self._look_at = time.monotonic() + NEW_PARTITIONS_SECONDS
        self._looked_for = 0
        self._retries = RetryPeriod()
        self._follower: TopicFollower | None = None
        self._number = 0
        self._is_aligned = False
        """Whether the position is the start of the follower's next batch. If not, some of that batch was read."""
        self._read_until: PartitionOffsets | None = None
        """Where to stop reading from Kafka: at the end of the stream, or at the start of the follower's batch."""
        self._ends = False
        self._first: StreamBatch | None = None
        self._is_open = True

    def begin(self, until: PartitionOffsets | None) -> None:
        """Read the first batch. Call this once, before all other methods.

        `until` are the offsets where the stream ends; None for an endless stream. Raises the errors of
        `PageReader.read`.
        """
        self._read_until = until
        self._ends = until is not None
        page = self._page(self.position)
        self._first = self._batch_of(page)
        self._check_end(self._first)
        self._may_skip = self._request.reports_gaps

    @property
    def is_over(self) -> bool:
        """Whether the stream has ended and `next` has returned everything."""
        return self.is_ending and self._first is None

    @property
    def is_empty(self) -> bool:
        """Whether the stream has ended without any records."""
        return self.is_ending and (self._first is None or not (self._first.records or self._first.gaps))

    @property
    def is_search(self) -> bool:
        """Whether only selected records are returned, so that `next` may return nothing while it reads."""
        return self._request.filter is not None

    @property
    def is_following(self) -> bool:
        """Whether the stream is at the follower, so that `next(0)` does not block: batches are rendered already."""
        return (
            self._follower is not None
            and self._read_until is None
            and self._is_aligned
            and not self._has_unread_partitions
        )

    @property
    def is_stopping(self) -> bool:
        """Whether the server stops, so that `next` returns nothing more although the stream has not ended."""
        return self._reader.is_stopping

    def next(self, wait: float) -> bytes:
        """Return the next batch in its rendered form.

        Returns nothing after `wait` seconds, and when the stream has just reached the follower. Transient errors are
        retried for up to 30 s. Raises the error that ends the stream.
        """
        until = time.monotonic() + wait
        while not self.is_over and not self.is_stopping:
            was_following, left = self.is_following, max(0.0, until - time.monotonic())
            batch = self._take(left, was_following=was_following)
            if batch is not None and (batch.records or batch.gaps):
                rendered = batch.rendered(self._form.render)
                self.returned += len(batch.records)
                count_consumed(self._request.topic, len(batch.records), batch.payload_size)
                return rendered
            if time.monotonic() >= until or (self.is_following and not was_following):
                break
        return b""

    def close(self) -> None:
        """Release the stream's resources. The caller must call this. A second call has no effect."""
        if self._is_open:
            self._is_open = False
            self._leave_follower()
            self._on_close()

    def _take(self, wait: float, *, was_following: bool) -> StreamBatch | None:
        """Return the next batch. A stream that was following does not read from Kafka: that could block."""
        batch: StreamBatch | None
        if self._first is not None:
            batch, self._first = self._first, None
        elif (
            self._follower is not None
            and self._read_until is None
            and (was_following or not self._has_unread_partitions)
        ):
            batch = self._from_follower(self._follower, wait)
        else:
            batch = self._from_log(wait)
        if batch is not None:
            self.position = batch.next
        return batch

    # Reading from Kafka

    def _from_log(self, wait: float) -> StreamBatch | None:
        try:
            self._find_partitions()
            if self._follower is not None and self._read_until is None:  # no new partitions: follow again
                return None
            until = self._read_until or {}
            page = self._page({each: at for each, at in self.position.items() if each not in until or at < until[each]})
        except KafkaHttpError as error:
            if not self._retries.allows(error):
                raise
            self._reader.pause(min(wait, _PAUSE_SECONDS))
            return None
        self._retries.reset()
        batch = self._batch_of(page)
        self._check_end(batch)
        if not page.parts and self._read_until is None:
            self.position = batch.next
            self._join_follower()
        elif batch.next == self.position and not self.is_ending:
            self._reader.pause(min(wait, _PAUSE_SECONDS))  # the log does not have the offsets that it had
        return batch

    def _page(self, partitions: Collection[int]) -> Page:
        request = self._request
        limits = _PAGE_LIMITS if request.filter is not None else self._budget.limits(_PAGE_LIMITS)
        ids = {request.topic: request.topic_id}
        while True:
            positions = {TopicPartition(request.topic, each): self.position[each] for each in partitions}
            try:
                return self._reader.read(positions, limits, isolation=request.isolation, ids=ids)
            except OffsetOutOfRange as error:
                self._skip(error)

    def _skip(self, error: OffsetOutOfRange) -> None:
        """Move the positions into the log. Raises the error if the request does not allow that."""
        moved = {}
        for each in error.fields["partitions"]:
            partition, at = each["partition"], self.position[each["partition"]]
            is_removed = self._may_skip and at < each["earliest"]
            if (end := self._request.reset or (EARLIEST if is_removed else None)) is None:
                raise error
            moved[partition] = to = each[end]
            if self._request.reports_gaps and to > at:
                self._gaps.append(OffsetGap(partition, at, to))
        self.position = {**self.position, **moved}

    def _batch_of(self, page: Page) -> StreamBatch:
        """Return the part of a page before `_read_until`, as far as the limits allow."""
        following = {**self.position, **{tp.partition: at for tp, at in page.next.items()}}
        parts = page.parts
        if self._read_until is not None:
            until = self._read_until
            parts = [each[: bisect_left(each.offsets, until[each.partition])] for each in parts]
            following = {each: max(self.position[each], min(at, until[each])) for each, at in following.items()}
        gaps, self._gaps = self._gaps, []
        return self._limited(StreamBatch(self.position, self._selected(parts), following, gaps))

    def _selected(self, parts: Sequence[RecordColumns]) -> list[Record]:
        if (search := self._request.filter) is None:
            return list(chain.from_iterable(parts))
        self.scanned += sum(map(len, parts))
        return [record for part in parts for record in search.select(part)]

    def _check_end(self, batch: StreamBatch) -> None:
        """Check whether a batch reaches `_read_until`."""
        if self._read_until is not None and all(batch.next[each] >= at for each, at in self._read_until.items()):
            self.is_ending |= self._ends
            self._is_aligned = batch.next == self._read_until
            self._read_until = None

    # New partitions

    @property
    def _reads_new_partitions(self) -> bool:
        return self._request.has_all and not self._ends

    @property
    def _has_unread_partitions(self) -> bool:
        """Whether the follower knows of new partitions that the stream should read and does not."""
        if self._follower is None or not self._reads_new_partitions:
            return False
        if (count := self._follower.partition_count) <= len(self.position):
            return False
        return count != self._looked_for or time.monotonic() >= self._look_at

    def _find_partitions(self) -> None:
        """Look for new partitions if it is time to, and read them from now on."""
        if not self._reads_new_partitions or (time.monotonic() < self._look_at and not self._has_unread_partitions):
            return
        looked_for = 0 if self._follower is None else self._follower.partition_count
        new = self._reader.starts_of_new(self._request.topic, self.position)
        self._look_at, self._looked_for = time.monotonic() + NEW_PARTITIONS_SECONDS, looked_for
        if new:
            self._leave_follower()
            self._read_until = None
            self.position = dict(sorted({**self.position, **new}.items()))
            self._form = StreamForm(frozenset(self.position), self._form.render)

    # Following

    def _join_follower(self) -> None:
        followed = FollowedTopic(self._request.topic, self._request.topic_id, self._request.isolation)
        self._follower, self._number, start = self._followers.join(followed, self._form, self.position)
        self._is_aligned = start == self.position
        if any(at > self.position[each] for each, at in start.items()):
            self._read_until = start

    def _from_follower(self, follower: TopicFollower, wait: float) -> StreamBatch | None:
        try:
            batch = follower.batch(self._number, wait)
        except (FollowerTooSlow, OffsetOutOfRange):  # read from Kafka what the log still has
            self._leave_follower()
            return None
        if batch is None:
            return None
        self._number += 1
        return self._limited(self._aligned(batch))

    def _aligned(self, followed: FollowedBatch) -> StreamBatch:
        """Return the shared batch, or a part of it if the stream has read the beginning from Kafka."""
        shared, position = followed.for_partitions(self._form.partitions), self.position
        if shared.start == position:
            return shared
        records = [each for each in shared.records if each.offset >= position[each.partition]]
        following = {each: max(at, position[each]) for each, at in shared.next.items()}
        self._is_aligned = following == shared.next
        return StreamBatch(position, records, following)

    def _leave_follower(self) -> None:
        if self._follower is not None:
            self._follower.leave(self._form)
            self._follower = None

    def _limited(self, batch: StreamBatch) -> StreamBatch:
        """Return the part of a batch that the stream's limits allow."""
        count = self._budget.spend(batch.records)
        self.is_ending |= self._budget.is_spent
        if count == len(batch.records):
            return batch
        records = batch.records[:count]
        following = dict(batch.start)
        following.update((each.partition, each.offset + 1) for each in records)
        return StreamBatch(batch.start, records, following, batch.gaps)


class _StreamBudget:
    """What is left of a stream's limits."""

    __slots__ = ("_has_spent", "_records", "_size", "is_spent")

    def __init__(self, limits: StreamLimits) -> None:
        self._records = limits.records
        self._size = limits.size
        self._has_spent = False
        self.is_spent = False

    def limits(self, page: ReadLimits) -> ReadLimits:
        """Return the limits of the next page, so that its partitions share evenly what is left."""
        return ReadLimits(min(page.records, self._records or page.records), min(page.size, self._size or page.size))

    def spend(self, records: Sequence[Record]) -> int:
        """Return how many of the first records are within the limits, and count them."""
        if self._records is None and self._size is None:
            return len(records)
        count = len(records)
        if self._records is not None:
            count = min(count, self._records)
            self._records -= count
            self.is_spent = self._records == 0
        if self._size is not None and records:
            count = self._spend_size(records[:count], self._size)
        self._has_spent |= count > 0
        return count

    def _spend_size(self, records: Sequence[Record], left: int) -> int:
        count = count_within(records, left) or int(not self._has_spent)
        self._size = max(0, left - payload_size(records[:count]))
        self.is_spent |= not self._size or count < len(records)
        return count
