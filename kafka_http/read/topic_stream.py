"""One stream: it reads from Kafka until it is at the end, and follows there one tail with all others of its topic."""

import time
from collections.abc import Callable, Collection
from uuid import UUID

from msgspec import Struct

from kafka_http.errors import KafkaHttpError, OffsetOutOfRange
from kafka_http.read.page_reader import Page, PageReader, ReadLimits
from kafka_http.read.stream_events import OffsetGap, RenderBatch, StreamBatch, View
from kafka_http.read.stream_limits import StreamBudget, StreamLimits
from kafka_http.read.topic_follower import (
    Followed,
    FollowedBatch,
    FollowerTooSlow,
    RetryPeriod,
    TopicFollower,
    TopicFollowers,
)
from kafka_http.records import EARLIEST, Isolation, OffsetReset, PartitionOffsets, TopicPartition
from kafka_http.topics import NEW_PARTITIONS_SECONDS

_PAGE = ReadLimits(records=2000, size=1 << 20)
_PAUSE_SECONDS = 0.2


class StreamRequest(Struct, frozen=True):
    """What a stream is to bring: the topic of this id, from these positions on.

    `has_all`: partitions that the topic gets later are read as well, from their start. `reset` names the end of the log
    where a partition goes on whose offset the log does not have. Without it a stream that `tells_gaps` goes on from the
    earliest where retention has passed it, at its start only if it `is_resumed`; for others that is an error.
    """

    topic: str
    topic_id: UUID | None
    positions: PartitionOffsets
    bounds: StreamLimits = StreamLimits()
    isolation: Isolation = "read_uncommitted"
    has_all: bool = False
    reset: OffsetReset | None = None
    tells_gaps: bool = False
    is_resumed: bool = False


class TopicStream:
    """One client's way through a topic. One thread at a time may call."""

    __slots__ = (
        "_budget",
        "_closed",
        "_ends",
        "_first",
        "_gaps",
        "_in_step",
        "_is_open",
        "_look_at",
        "_looked_for",
        "_may_skip",
        "_number",
        "_patience",
        "_reader",
        "_request",
        "_tail",
        "_tails",
        "_until",
        "_view",
        "is_ending",
        "position",
    )

    def __init__(
        self,
        reader: PageReader,
        tails: TopicFollowers,
        request: StreamRequest,
        render: RenderBatch,
        closed: Callable[[], None],
    ) -> None:
        """`closed` is called once, by `close`."""
        self.position: PartitionOffsets = dict(sorted(request.positions.items()))
        """Where it is, by partition: behind all that `next` has given."""
        self.is_ending = False
        """Whether there is nothing to wait for: what is left of it is here."""
        self._reader = reader
        self._tails = tails
        self._closed = closed
        self._request = request
        self._view = View(frozenset(request.positions), render)
        self._budget = StreamBudget(request.bounds)
        self._may_skip = request.tells_gaps and request.is_resumed
        self._gaps: list[OffsetGap] = []
        self._look_at = time.monotonic() + NEW_PARTITIONS_SECONDS
        self._looked_for = 0
        self._patience = RetryPeriod()
        self._tail: TopicFollower | None = None
        self._number = 0
        self._in_step = False
        """Whether it is where the tail's next batch begins; else it is to come there, or had some of it already."""
        self._until: PartitionOffsets | None = None
        self._ends = False
        self._first: StreamBatch | None = None
        self._is_open = True

    def begin(self, until: PartitionOffsets | None) -> None:
        """Read for the first time, up to these offsets (None: on and on). To be called once, before all else. Raises
        what `PageReader.read` does."""
        self._until = until
        self._ends = until is not None
        page = self._page(self.position)
        self._first = self._piece(page)
        self._check_end(self._first)
        self._may_skip = self._request.tells_gaps

    @property
    def is_over(self) -> bool:
        """Whether all has been had."""
        return self.is_ending and self._first is None

    @property
    def is_empty(self) -> bool:
        """Whether it is over before it has given anything."""
        return self.is_ending and (self._first is None or not (self._first.records or self._first.gaps))

    @property
    def is_at_tail(self) -> bool:
        """Whether `next(0)` does not block: what comes is rendered already."""
        return self._tail is not None and self._until is None and self._in_step and not self._misses_partitions

    @property
    def is_stopping(self) -> bool:
        """Whether the server is about to stop: nothing more comes, though it is not over."""
        return self._reader.is_stopping

    def next(self, wait: float) -> bytes:
        """What comes next, as it is to be sent; nothing after `wait` seconds, and where it has just come to the tail.

        Raises what ends it. Errors that may pass are borne for a while.
        """
        until = time.monotonic() + wait
        while not self.is_over and not self.is_stopping:
            was_at_tail, left = self.is_at_tail, max(0.0, until - time.monotonic())
            piece = self._take(left, at_tail=was_at_tail)
            if piece is not None and (piece.records or piece.gaps):
                return piece.rendered(self._view.render)
            if time.monotonic() >= until or (self.is_at_tail and not was_at_tail):
                break
        return b""

    def close(self) -> None:
        """Make room for another. Once is enough; it must be called."""
        if self._is_open:
            self._is_open = False
            self._leave_tail()
            self._closed()

    def _take(self, wait: float, *, at_tail: bool) -> StreamBatch | None:
        """The next piece. `at_tail` it does not read from Kafka: what is news there waits for another call."""
        piece: StreamBatch | None
        if self._first is not None:
            piece, self._first = self._first, None
        elif self._tail is not None and self._until is None and (at_tail or not self._misses_partitions):
            piece = self._from_tail(self._tail, wait)
        else:
            piece = self._from_log(wait)
        if piece is not None:
            self.position = piece.next
        return piece

    # from Kafka

    def _from_log(self, wait: float) -> StreamBatch | None:
        try:
            self._look_for_partitions()
            if self._tail is not None and self._until is None:  # there are none: it goes on at the tail
                return None
            until = self._until or {}
            wanted = {each: at for each, at in self.position.items() if each not in until or at < until[each]}
            page = self._page(wanted)
        except KafkaHttpError as error:
            if not self._patience.has_for(error):
                raise
            self._reader.pause(min(wait, _PAUSE_SECONDS))
            return None
        self._patience.reset()
        piece = self._piece(page)
        self._check_end(piece)
        if not page.records and self._until is None:
            self.position = piece.next
            self._join()
        elif piece.next == self.position and not self.is_ending:
            self._reader.pause(min(wait, _PAUSE_SECONDS))  # a log without what it had
        return piece

    def _page(self, partitions: Collection[int]) -> Page:
        request, limits = self._request, self._budget.limits(_PAGE)
        ids = {request.topic: request.topic_id}
        while True:
            places = {TopicPartition(request.topic, each): self.position[each] for each in partitions}
            try:
                return self._reader.read(places, limits, isolation=request.isolation, ids=ids)
            except OffsetOutOfRange as error:
                self._skip(error)

    def _skip(self, error: OffsetOutOfRange) -> None:
        """Go on where the log has something. Raises the error where that is not asked for."""
        moved = {}
        for each in error.fields["partitions"]:
            partition, at = each["partition"], self.position[each["partition"]]
            is_passed = self._may_skip and at < each["earliest"]
            if (end := self._request.reset or (EARLIEST if is_passed else None)) is None:
                raise error
            moved[partition] = to = each[end]
            if self._request.tells_gaps and to > at:
                self._gaps.append(OffsetGap(partition, at, to))
        self.position = {**self.position, **moved}

    def _piece(self, page: Page) -> StreamBatch:
        """What a page brings before `until`, as far as the budget goes."""
        following = {**self.position, **{place.partition: at for place, at in page.next.items()}}
        records = page.records
        if self._until is not None:
            until = self._until
            records = [each for each in records if each.offset < until[each.partition]]
            following = {each: max(self.position[each], min(at, until[each])) for each, at in following.items()}
        gaps, self._gaps = self._gaps, []
        return self._within_budget(StreamBatch(self.position, records, following, gaps))

    def _check_end(self, piece: StreamBatch) -> None:
        """See whether a piece has come to what this reads up to: its end, or the place where the tail goes on."""
        if self._until is not None and all(piece.next[each] >= at for each, at in self._until.items()):
            self.is_ending |= self._ends
            self._in_step = piece.next == self._until
            self._until = None

    @property
    def _misses_partitions(self) -> bool:
        """Whether its tail knows of partitions that it does not read yet, though it reads all."""
        if self._tail is None or not self._reads_new or (count := self._tail.partition_count) <= len(self.position):
            return False
        return count != self._looked_for or time.monotonic() >= self._look_at

    @property
    def _followed(self) -> Followed:
        return Followed(self._request.topic, self._request.topic_id, self._request.isolation)

    @property
    def _reads_new(self) -> bool:
        return self._request.has_all and not self._ends

    def _look_for_partitions(self) -> None:
        """Read new partitions from now on, if there are any."""
        if not self._reads_new or (time.monotonic() < self._look_at and not self._misses_partitions):
            return
        looked_for = 0 if self._tail is None else self._tail.partition_count
        new = self._reader.starts_of_new(self._request.topic, self.position)
        self._look_at, self._looked_for = time.monotonic() + NEW_PARTITIONS_SECONDS, looked_for
        if new:
            self._leave_tail()
            self._until = None
            self.position = dict(sorted({**self.position, **new}.items()))
            self._view = View(frozenset(self.position), self._view.render)

    # from the tail

    def _join(self) -> None:
        self._tail, self._number, there = self._tails.join(self._followed, self._view, self.position)
        self._in_step = there == self.position
        if any(at > self.position[each] for each, at in there.items()):
            self._until = there

    def _from_tail(self, tail: TopicFollower, wait: float) -> StreamBatch | None:
        try:
            batch = tail.batch(self._number, wait)
        except (FollowerTooSlow, OffsetOutOfRange):  # what the log still has of it shows there
            self._leave_tail()
            return None
        if batch is None:
            return None
        self._number += 1
        return self._within_budget(self._piece_of(batch))

    def _piece_of(self, batch: FollowedBatch) -> StreamBatch:
        """What a batch has for this stream: what all have, but where it had some of it from Kafka before."""
        shared, position = batch.piece(self._view.partitions), self.position
        if shared.start == position:
            return shared
        records = [each for each in shared.records if each.offset >= position[each.partition]]
        following = {each: max(at, position[each]) for each, at in shared.next.items()}
        self._in_step = following == shared.next
        return StreamBatch(position, records, following)

    def _leave_tail(self) -> None:
        if self._tail is not None:
            self._tail.leave(self._view)
            self._tail = None

    def _within_budget(self, piece: StreamBatch) -> StreamBatch:
        count = self._budget.spend(piece.records)
        self.is_ending |= self._budget.is_spent
        if count == len(piece.records):
            return piece
        records = piece.records[:count]
        following = dict(piece.start)
        following.update((each.partition, each.offset + 1) for each in records)
        return StreamBatch(piece.start, records, following, piece.gaps)
