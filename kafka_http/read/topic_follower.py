"""The ends of topics' logs: one reader a topic follows it there, for all streams that have come so far."""

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from typing import NamedTuple
from uuid import UUID

from kafka_http.errors import KafkaHttpError
from kafka_http.read.page_reader import WAIT_SLICE, Page, PageReader, ReadLimits
from kafka_http.read.stream_events import StreamBatch, View
from kafka_http.records import Isolation, PartitionOffsets, TopicPartition, size_of
from kafka_http.topics import NEW_PARTITIONS_SECONDS

log = logging.getLogger(__name__)

RING_BYTES = 4 << 20
"""What is kept of a topic's end for streams whose clients are slow, as it is sent."""
PATIENCE_SECONDS = 30.0
"""How long what may pass is let pass before a stream ends of it."""

_BATCH = ReadLimits(records=500, size=256 << 10)
_BATCH_BYTES = 1000
"""About what a batch takes beside what is sent of it."""
_RETRY_SECONDS = 0.5
_LINGER_SECONDS = 5.0


class FollowerTooSlow(Exception):
    """What comes next is not kept any more: it is to be read from Kafka."""


class RetryPeriod:
    """Lets pass, for a while, errors that may pass."""

    __slots__ = ("_since",)

    def __init__(self) -> None:
        self._since: float | None = None

    def reset(self) -> None:
        self._since = None

    def has_for(self, error: KafkaHttpError) -> bool:
        if self._since is None:
            self._since = time.monotonic()
        return error.retry_after is not None and time.monotonic() - self._since < PATIENCE_SECONDS


class FollowedBatch:
    """What one read brought, of all partitions that are followed."""

    def __init__(self, page: Page, before: PartitionOffsets) -> None:
        self.start = dict(before)
        self.next = self.start | {place.partition: offset for place, offset in page.next.items()}
        self.records = page.records
        self.size = 0
        """What it takes in the ring, about."""
        self._pieces: dict[frozenset[int], StreamBatch] = {}

    def include(self, positions: PartitionOffsets) -> None:
        """Partitions that are followed since it was read; it has nothing of them."""
        self.start = {**positions, **self.start}
        self.next = {**positions, **self.next}

    def piece(self, partitions: frozenset[int]) -> StreamBatch:
        """What it has of these partitions."""
        if partitions not in self._pieces:
            of = [each for each in self.records if each.partition in partitions]
            start, following = ({each: at[each] for each in partitions} for at in (self.start, self.next))
            self._pieces[partitions] = StreamBatch(start, of, following)
        return self._pieces[partitions]

    def weigh(self) -> None:
        """Set `size`, once it is rendered."""
        rendered = sum(each.rendered_size for each in self._pieces.values())
        self.size = _BATCH_BYTES + size_of(self.records) + rendered


class TopicFollower:
    """Follows the end of one topic's log in a thread of its own, and keeps the last of it. Any thread may call."""

    def __init__(self, followed: "Followed", reader: PageReader, moved: Callable[[], None]) -> None:
        """`moved` is called by its thread when there is more, or will never be."""
        self._topic = followed.topic
        self._ids = {followed.topic: followed.topic_id}
        self._isolation = followed.isolation
        self._reader = reader
        self._moved = moved
        self._changed = threading.Condition()
        self._positions: dict[int, int] = {}
        self._views: Counter[View] = Counter()
        self._batches: deque[FollowedBatch] = deque()
        self._end = 0
        self._size = 0
        self._left_at = time.monotonic()
        self._error: KafkaHttpError | None = None
        self._look_at = 0.0
        self.partition_count = 0
        """How many the topic has, whether they are followed or not; 0 while that is not known."""
        self.is_closed = False

    def start(self) -> None:
        threading.Thread(target=self._run, name=f"tail of {self._topic}", daemon=True).start()

    def join(self, view: View, positions: PartitionOffsets) -> tuple[int, PartitionOffsets] | None:
        """Follow from now on: the number of the batch to come next, and where it begins in these partitions.

        One that nobody has followed is followed from the position given. None where this tail is closed: take another.
        """
        with self._changed:
            if self.is_closed:
                return None
            self._positions = {**positions, **self._positions}
            self._views[view] += 1
            return self._end, {each: self._positions[each] for each in positions}

    def leave(self, view: View) -> None:
        with self._changed:
            self._views[view] -= 1
            if not self._views[view]:
                del self._views[view]
            self._left_at = time.monotonic()

    def batch(self, number: int, wait: float) -> FollowedBatch | None:
        """The batch of that number, waiting up to `wait` seconds for it.

        Raises `FollowerTooSlow`, and once all that was read has been had the error that has ended it.
        """
        if number == self._end and not wait and not self.is_closed:  # as is asked of many streams again and again
            return None
        with self._changed:
            if number == self._end and wait and not self.is_closed:
                self._changed.wait(wait)
            if number < self._end - len(self._batches):
                raise FollowerTooSlow
            if number < self._end:
                return self._batches[number - self._end]
            if self._error is not None:
                raise self._error
            return None

    def wake(self) -> None:
        """Let those who wait return."""
        with self._changed:
            self._changed.notify_all()

    def _run(self) -> None:
        patience = RetryPeriod()
        while not self._closes():
            try:
                self._look_for_partitions()
                self._read()
                patience.reset()
            except KafkaHttpError as error:
                if not patience.has_for(error):
                    self._close(error)
                self._reader.pause(_RETRY_SECONDS)
            except Exception:
                log.exception("The end of %s cannot be followed", self._topic)
                self._close(KafkaHttpError("Unforeseen error; the server's log says more."))

    def _closes(self) -> bool:
        """Close where nobody has followed for a while, or the server stops."""
        with self._changed:
            idle = not self._views and time.monotonic() - self._left_at > _LINGER_SECONDS
            if (idle or self._reader.is_stopping) and not self.is_closed:
                self._close(None)
            return self.is_closed

    def _close(self, error: KafkaHttpError | None) -> None:
        with self._changed:
            self._error = error
            self.is_closed = True
            self._changed.notify_all()
        self._moved()

    def _look_for_partitions(self) -> None:
        if time.monotonic() < self._look_at:
            return
        self._look_at = time.monotonic() + NEW_PARTITIONS_SECONDS
        count = len(self._reader.partitions(self._topic))
        if count != self.partition_count:
            self.partition_count = count
            self.wake()
            self._moved()

    def _read(self) -> None:
        with self._changed:
            before = dict(self._positions)
        places = {TopicPartition(self._topic, each): offset for each, offset in before.items()}
        page = self._reader.read(places, _BATCH, wait=WAIT_SLICE, isolation=self._isolation, ids=self._ids)
        batch = FollowedBatch(page, before)
        if batch.next != batch.start:
            self._add(batch)

    def _add(self, batch: FollowedBatch) -> None:
        """Render a batch for all who follow, then let them have it: who takes it need not wait for a format."""
        ready: set[View] = set()
        while not self._append(batch, ready):
            with self._changed:
                views = set(self._views) - ready
            for view in views:
                batch.piece(view.partitions).prepare(view.render)
            ready |= views
        self._moved()

    def _append(self, batch: FollowedBatch, ready: set[View]) -> bool:
        """False where somebody has come meanwhile for whom it is not rendered yet."""
        with self._changed:
            batch.include(self._positions)
            if not self._views.keys() <= ready:
                return False
            batch.weigh()
            self._positions = dict(batch.next)
            self._batches.append(batch)
            self._end += 1
            self._size += batch.size
            while self._size > RING_BYTES and len(self._batches) > 1:
                self._size -= self._batches.popleft().size
            self._changed.notify_all()
            return True


class Followed(NamedTuple):
    """What those have in common who share a tail: the topic, not a later one of its name, and the isolation."""

    topic: str
    topic_id: UUID | None
    isolation: Isolation


class TopicFollowers:
    """The tails of this process, one for each topic and isolation that is followed. Any thread may call."""

    def __init__(self, reader: PageReader) -> None:
        self._reader = reader
        self._lock = threading.Lock()
        self._tails: dict[Followed, TopicFollower] = {}
        self._watchers: set[Callable[[], None]] = set()

    def join(
        self, followed: Followed, view: View, positions: PartitionOffsets
    ) -> tuple[TopicFollower, int, PartitionOffsets]:
        """Follow a topic's tail: which it is, the number of its next batch, and where that begins."""
        while True:
            tail = self._tail(followed)
            joined = tail.join(view, positions)
            if joined is not None:
                return tail, *joined

    def watch(self, moved: Callable[[], None]) -> None:
        """Call this, by any thread, whenever some stream at its tail may have more to give. It must not block."""
        self._watchers.add(moved)

    def wake(self) -> None:
        """Let those who wait return, and those who watch look: the reader stops."""
        with self._lock:
            tails = list(self._tails.values())
        for tail in tails:
            tail.wake()
        self._moved()

    def _tail(self, followed: Followed) -> TopicFollower:
        with self._lock:
            tail = self._tails.get(followed)
            if tail is None or tail.is_closed:
                for closed in [each for each, tail in self._tails.items() if tail.is_closed]:
                    del self._tails[closed]
                tail = self._tails[followed] = TopicFollower(followed, self._reader, self._moved)
                tail.start()
            return tail

    def _moved(self) -> None:
        for watcher in self._watchers:
            watcher()
