"""Followers: one thread reads the end of a topic for all streams that have caught up with it."""

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from typing import NamedTuple
from uuid import UUID

from kafka_http.errors import KafkaHttpError
from kafka_http.read.page_reader import WAIT_SLICE, Page, PageReader, ReadLimits
from kafka_http.read.stream_batch import StreamBatch, StreamForm
from kafka_http.records import Isolation, PartitionOffsets, TopicPartition, payload_size
from kafka_http.topics import NEW_PARTITIONS_SECONDS

log = logging.getLogger(__name__)

BUFFER_BYTES = 4 << 20
"""The size of the batches that a follower keeps for slow clients, with their rendered forms."""
RETRY_SECONDS = 30.0
"""The maximum time to retry transient errors before a stream ends."""

_LIMITS = ReadLimits(records=500, size=256 << 10)
_BATCH_OVERHEAD_BYTES = 1000
_RETRY_PAUSE_SECONDS = 0.5
_LINGER_SECONDS = 5.0


class FollowerTooSlow(Exception):
    """The follower no longer has the batch. The stream must read from Kafka."""


class RetryPeriod:
    """Allows retries of transient errors for `RETRY_SECONDS` after the last success. One thread uses it."""

    __slots__ = ("_since",)

    def __init__(self) -> None:
        self._since: float | None = None

    def reset(self) -> None:
        """Note a success."""
        self._since = None

    def allows(self, error: KafkaHttpError) -> bool:
        """Whether to retry after this error."""
        if self._since is None:
            self._since = time.monotonic()
        return error.retry_after is not None and time.monotonic() - self._since < RETRY_SECONDS


class FollowedBatch:
    """The result of one read of a follower, with all partitions that it follows."""

    def __init__(self, page: Page, before: PartitionOffsets) -> None:
        self.start = dict(before)
        self.next = self.start | {tp.partition: offset for tp, offset in page.next.items()}
        self.records = page.records
        self.size = 0
        """The approximate memory that the batch uses, in bytes."""
        self._batches: dict[frozenset[int], StreamBatch] = {}

    def include(self, positions: PartitionOffsets) -> None:
        """Add partitions that are followed since the read. The batch has no records of them."""
        self.start = {**positions, **self.start}
        self.next = {**positions, **self.next}

    def for_partitions(self, partitions: frozenset[int]) -> StreamBatch:
        """Return the part of the batch that belongs to these partitions."""
        if partitions not in self._batches:
            records = [each for each in self.records if each.partition in partitions]
            start, following = ({each: at[each] for each in partitions} for at in (self.start, self.next))
            self._batches[partitions] = StreamBatch(start, records, following)
        return self._batches[partitions]

    def measure(self) -> None:
        """Set `size`, after the batch is rendered."""
        rendered = sum(each.rendered_size for each in self._batches.values())
        self.size = _BATCH_OVERHEAD_BYTES + payload_size(self.records) + rendered


class TopicFollower:
    """Follows the end of a topic's log in its own thread, and keeps the latest batches. Any thread may call.

    `TopicFollowers` creates it for the first stream that catches up. It ends some seconds after the last stream has
    left, on a permanent error, or when the server stops.
    """

    def __init__(self, followed: "FollowedTopic", reader: PageReader, on_progress: Callable[[], None]) -> None:
        """The follower's thread calls `on_progress` when there is a new batch, and at its end."""
        self._topic = followed.topic
        self._ids = {followed.topic: followed.topic_id}
        self._isolation = followed.isolation
        self._reader = reader
        self._on_progress = on_progress
        self._changed = threading.Condition()
        self._positions: dict[int, int] = {}
        self._forms: Counter[StreamForm] = Counter()
        self._batches: deque[FollowedBatch] = deque()
        self._end = 0
        self._size = 0
        self._left_at = time.monotonic()
        self._error: KafkaHttpError | None = None
        self._look_at = 0.0
        self.partition_count = 0
        """The number of partitions of the topic, followed or not. It is 0 until it is known."""
        self.is_closed = False

    def start(self) -> None:
        """Start the thread."""
        threading.Thread(target=self._run, name=f"follower of {self._topic}", daemon=True).start()

    def join(self, form: StreamForm, positions: PartitionOffsets) -> tuple[int, PartitionOffsets] | None:
        """Follow for a stream of this form. Return the number of its first batch and the offsets where it starts.

        A partition that is not followed yet is followed from the given position. Returns None if the follower is
        closed: use another one then.
        """
        with self._changed:
            if self.is_closed:
                return None
            self._positions = {**positions, **self._positions}
            self._forms[form] += 1
            return self._end, {each: self._positions[each] for each in positions}

    def leave(self, form: StreamForm) -> None:
        """Stop following for a stream of this form."""
        with self._changed:
            self._forms[form] -= 1
            if not self._forms[form]:
                del self._forms[form]
            self._left_at = time.monotonic()

    def batch(self, number: int, wait: float) -> FollowedBatch | None:
        """Return the batch of this number, or None. Wait up to `wait` seconds for it.

        Raises `FollowerTooSlow` if the batch is no longer kept, and after the last batch the error that ended the
        follower.
        """
        if number == self._end and not wait and not self.is_closed:  # the common case with many streams: no lock
            return None
        with self._changed:
            # `wake` comes once at a stop: a stream that is about to wait then must not miss it
            if number == self._end and wait and not self.is_closed and not self._reader.is_stopping:
                self._changed.wait(wait)
            if number < self._end - len(self._batches):
                raise FollowerTooSlow
            if number < self._end:
                return self._batches[number - self._end]
            if self._error is not None:
                raise self._error
            return None

    def wake(self) -> None:
        """Make waiting calls of `batch` return."""
        with self._changed:
            self._changed.notify_all()

    # In the follower's thread

    def _run(self) -> None:
        retries = RetryPeriod()
        while not self._close_if_unused():
            try:
                self._find_partitions()
                self._read()
                retries.reset()
            except KafkaHttpError as error:
                if not retries.allows(error):
                    self._close(error)
                self._reader.pause(_RETRY_PAUSE_SECONDS)
            except Exception:
                log.exception("Following the end of %s failed", self._topic)
                self._close(KafkaHttpError("Unexpected error. See the server's log for details."))

    def _close_if_unused(self) -> bool:
        """Close if no stream has followed for a while, or if the server stops."""
        with self._changed:
            is_unused = not self._forms and time.monotonic() - self._left_at > _LINGER_SECONDS
            if (is_unused or self._reader.is_stopping) and not self.is_closed:
                self._close(None)
            return self.is_closed

    def _close(self, error: KafkaHttpError | None) -> None:
        with self._changed:
            self._error = error
            self.is_closed = True
            self._changed.notify_all()
        self._on_progress()

    def _find_partitions(self) -> None:
        if time.monotonic() < self._look_at:
            return
        self._look_at = time.monotonic() + NEW_PARTITIONS_SECONDS
        count = len(self._reader.partitions(self._topic))
        if count != self.partition_count:
            self.partition_count = count
            self.wake()
            self._on_progress()

    def _read(self) -> None:
        with self._changed:
            before = dict(self._positions)
        positions = {TopicPartition(self._topic, each): offset for each, offset in before.items()}
        page = self._reader.read(positions, _LIMITS, wait=WAIT_SLICE, isolation=self._isolation, ids=self._ids)
        batch = FollowedBatch(page, before)
        if batch.next != batch.start:
            self._add(batch)

    def _add(self, batch: FollowedBatch) -> None:
        """Render a batch for all forms, then append it, so that streams do not wait for a format."""
        rendered: set[StreamForm] = set()
        while not self._append(batch, rendered):
            with self._changed:
                forms = set(self._forms) - rendered
            for form in forms:
                batch.for_partitions(form.partitions).prepare(form.render)
            rendered |= forms
        self._on_progress()

    def _append(self, batch: FollowedBatch, rendered: set[StreamForm]) -> bool:
        """Append a batch. Return False if it is not rendered for a form that has just joined."""
        with self._changed:
            batch.include(self._positions)
            if not self._forms.keys() <= rendered:  # rendering is slow, so it happens without the lock
                return False
            batch.measure()
            self._positions = dict(batch.next)
            self._batches.append(batch)
            self._end += 1
            self._size += batch.size
            while self._size > BUFFER_BYTES and len(self._batches) > 1:
                self._size -= self._batches.popleft().size
            self._changed.notify_all()
            return True


class FollowedTopic(NamedTuple):
    """What streams that share a follower have in common: the topic, its id and the isolation level."""

    topic: str
    topic_id: UUID | None
    isolation: Isolation


class TopicFollowers:
    """The followers of this process. The composition root creates it. Any thread may call."""

    def __init__(self, reader: PageReader) -> None:
        self._reader = reader
        self._lock = threading.Lock()
        self._followers: dict[FollowedTopic, TopicFollower] = {}
        self._watchers: set[Callable[[], None]] = set()

    def join(
        self, followed: FollowedTopic, form: StreamForm, positions: PartitionOffsets
    ) -> tuple[TopicFollower, int, PartitionOffsets]:
        """Follow a topic. Return the follower and the result of `TopicFollower.join`."""
        while True:
            follower = self._follower(followed)
            joined = follower.join(form, positions)
            if joined is not None:
                return follower, *joined

    def watch(self, on_progress: Callable[[], None]) -> None:
        """Call a function when a stream may have a new batch. Any thread calls it. It must not block."""
        self._watchers.add(on_progress)

    def wake(self) -> None:
        """Make waiting streams return, because the reader stops."""
        with self._lock:
            followers = list(self._followers.values())
        for follower in followers:
            follower.wake()
        self._notify()

    def _follower(self, followed: FollowedTopic) -> TopicFollower:
        with self._lock:
            follower = self._followers.get(followed)
            if follower is None or follower.is_closed:
                for closed in [key for key, each in self._followers.items() if each.is_closed]:
                    del self._followers[closed]
                follower = self._followers[followed] = TopicFollower(followed, self._reader, self._notify)
                follower.start()
            return follower

    def _notify(self) -> None:
        for watcher in self._watchers:
            watcher()
