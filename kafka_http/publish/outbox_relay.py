"""The relay: publishes the tasks of the outbox, a topic's one after the other, whatever becomes of Kafka meanwhile."""

import contextlib
import logging
import random
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence

from kafka_http.broker_protocols import Producer
from kafka_http.errors import KafkaHttpError, NotAuthorized, OutcomeUnknown, TopicNotFound
from kafka_http.publish.task_store import TaskStore, outcome_of
from kafka_http.records import RecordResult
from kafka_http.tasks import QueuedTask, TaskResult

log = logging.getLogger(__name__)

_LANES = 16
"""Topics that are published to at the same time."""
_MOST_TASKS = 500
_MOST_BYTES = 200_000
"""What is handed to Kafka at once: less than one batch, so that of two records for a partition the second is not there
without the first."""
_PATIENCE = 180.0
"""Seconds until a record's fate must be known: more than the producer's delivery timeout."""
_GONE_AFTER = 10.0
"""Seconds for which a topic must be missing, or refuse us, until its tasks fail: a cluster may err as it starts."""
_GRACE = (TopicNotFound, NotAuthorized)
_REST, _LONGEST_REST = 0.1, 5.0
_GATHER = 0.02
"""Seconds between one hand-over of a topic and the next, unless that would be full: each costs as much as the
acceptance of dozens of tasks, in the same process."""
_LOOK_EVERY = 1.0


class OutboxRelay:
    """Any thread may call. A task is published once where nothing dies, and at least once whatever dies."""

    def __init__(self, store: TaskStore, producer: Producer, ended: Callable[[Sequence[QueuedTask]], None]) -> None:
        """`ended` is told of tasks that have ended."""
        self._store = store
        self._producer = producer
        self._tell = ended
        self._lanes: dict[str, _Lane] = {}
        self._lock = threading.Lock()
        self._woken = threading.Event()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="relay", daemon=True)
        self._thread.start()

    def wake(self, topics: Collection[str]) -> None:
        """There are new tasks of these topics."""
        for topic in topics:
            self._lanes.setdefault(topic, _Lane(topic)).has_news = True
        self._woken.set()

    def stop(self, timeout: float) -> None:
        """Begin nothing more, and wait for what is under way, for `timeout` seconds at most."""
        self._stopping.set()
        self._woken.set()
        deadline = time.monotonic() + timeout
        if self._thread is not None:  # which starts the others
            self._thread.join(timeout)
        for lane in list(self._lanes.values()):
            if lane.thread is not None:
                lane.thread.join(max(0.0, deadline - time.monotonic()))

    @contextlib.contextmanager
    def untouched(self, task_id: str) -> Iterator[bool]:
        """Whether Kafka has nothing of a task. As long as the context lasts, it gets nothing."""
        with self._lock:
            yield not any(task_id in each.begun for each in list(self._lanes.values()))

    # The relay's own thread

    def _run(self) -> None:
        looked = float("-inf")
        while not self._stopping.is_set():
            if time.monotonic() >= looked + _LOOK_EVERY:
                looked = time.monotonic()
                self._look()
            self._begin_lanes()
            self._woken.wait(self._pause(looked))
            self._woken.clear()

    def _look(self) -> None:
        """Find topics that nobody has told of: of an earlier process, or of a node that is gone."""
        try:
            for topic in self._store.open_topics():
                self._lanes.setdefault(topic, _Lane(topic)).has_news = True
        except KafkaHttpError as error:
            log.debug("The outbox cannot be looked at: %s", error.message)

    def _begin_lanes(self) -> None:
        lanes = list(self._lanes.values())
        room = _LANES - sum(each.is_busy for each in lanes)
        ready = [each for each in lanes if each.has_news and not each.is_busy and each.has_rested]
        for lane in ready[:room]:
            lane.is_busy = True
            lane.thread = threading.Thread(target=self._work, args=(lane,), name=f"relay-{lane.topic}", daemon=True)
            lane.thread.start()

    def _pause(self, looked: float) -> float:
        """Seconds until there is something to do unasked."""
        resting = [each.rests_until for each in list(self._lanes.values()) if each.has_news and not each.has_rested]
        return max(0.0, min([looked + _LOOK_EVERY, *resting]) - time.monotonic())

    # A lane's thread

    def _work(self, lane: "_Lane") -> None:
        try:
            self._drain(lane)
        except KafkaHttpError as error:  # of the store
            lane.rest(error.message)
        except Exception:
            log.exception("Publishing accepted messages to %s failed; it goes on", lane.topic)
            lane.rest("unforeseen error")
        finally:
            lane.is_busy = False
            self._woken.set()

    def _drain(self, lane: "_Lane") -> None:
        """Publish what there is for the topic, until it is done or has to rest."""
        while not self._stopping.is_set():
            lane.has_news = False
            queued = self._take(lane)
            if not queued:
                self._store.release(lane.topic)
                return
            if not self._publish(lane, queued):
                lane.has_news = True
                return
            if len(queued) < _MOST_TASKS and sum(each.size for each in queued) < _MOST_BYTES / 2:
                self._stopping.wait(_GATHER)

    def _take(self, lane: "_Lane") -> list[QueuedTask]:
        with self._lock:
            queued = self._store.queued(lane.topic, _MOST_TASKS, _MOST_BYTES)
            for each in queued:
                lane.begun.setdefault(each.id, [None] * len(each.records))
        return queued

    def _publish(self, lane: "_Lane", queued: Sequence[QueuedTask]) -> bool:
        """Publish what is open of these tasks. Whether all have ended; where not, the lane rests."""
        places = [(lane.begun[each.id], index) for each in queued for index in range(len(each.records))]
        records = [record for each in queued for record in each.records]
        open_ = [at for at, (outcomes, index) in enumerate(places) if outcomes[index] is None]
        try:
            done = self._producer.produce(lane.topic, [records[at] for at in open_], _PATIENCE, _ignore)
        except KafkaHttpError as error:
            return self._refused(lane, queued, error)
        rest_for = None
        for at, outcome in zip(open_, done, strict=True):
            if isinstance(outcome, KafkaHttpError) and may_pass(outcome):
                rest_for = outcome
                lane.has_doubts = True
            else:
                outcomes, index = places[at]
                outcomes[index] = outcome
        self._end(lane, queued)
        return lane.goes_on(rest_for)

    def _refused(self, lane: "_Lane", queued: Sequence[QueuedTask], error: KafkaHttpError) -> bool:
        """Nothing was written, for a reason that concerns all, or one of them."""
        if may_pass(error) or (isinstance(error, _GRACE) and not lane.is_for_good()):
            lane.leave(queued)
            return lane.goes_on(error)
        if len(queued) > 1:  # which of them is it?
            return all(self._publish(lane, [each]) for each in queued)
        outcomes = lane.begun[queued[0].id]
        outcomes[:] = [error if each is None else each for each in outcomes]
        self._end(lane, queued)
        return True

    def _end(self, lane: "_Lane", queued: Sequence[QueuedTask]) -> None:
        """Those whose records all have an outcome are over."""
        over = [each for each in queued if None not in lane.begun[each.id]]
        if over:
            self._store.end([TaskResult(each.id, *outcome_of(lane.outcomes(each.id))) for each in over])
            for each in over:
                del lane.begun[each.id]
            self._tell(over)


class _Lane:
    """The way of one topic's tasks to Kafka. One thread at a time is on it."""

    def __init__(self, topic: str) -> None:
        self.topic = topic
        self.has_news = False
        self.is_busy = False
        self.thread: threading.Thread | None = None
        self.rests_until = 0.0
        self.begun: dict[str, list[RecordResult | None]] = {}
        """The tasks of which Kafka may have something, and the outcomes of their records as far as there are any."""
        self.has_doubts = False
        """Whether Kafka may have some of those that it has not acknowledged."""
        self._failures = 0
        self._refused_since: float | None = None
        self._said = ""

    @property
    def has_rested(self) -> bool:
        return time.monotonic() >= self.rests_until

    def outcomes(self, task_id: str) -> list[RecordResult]:
        return [each for each in self.begun[task_id] if each is not None]

    def leave(self, queued: Sequence[QueuedTask]) -> None:
        """Nothing came of trying these."""
        if not self.has_doubts:
            for each in queued:
                if not any(self.begun[each.id]):
                    del self.begun[each.id]

    def goes_on(self, error: KafkaHttpError | None) -> bool:
        """Whether there was no error. Else the lane rests."""
        if error is not None:
            self.rest(error.message)
            return False
        if self._said:
            log.info("Accepted messages reach %s again", self.topic)
        self._failures, self._refused_since, self._said, self.has_doubts = 0, None, "", False
        return True

    def rest(self, reason: str) -> None:
        """Pause, the longer the more often it has come to that."""
        longest = min(_LONGEST_REST, _REST * 2.0**self._failures)
        self._failures = min(self._failures + 1, 10)
        self.rests_until = time.monotonic() + longest * random.uniform(0.5, 1)  # noqa: S311  not for secrecy
        if reason != self._said:
            self._said = reason
            log.warning("Accepted messages wait for their way to %s: %s", self.topic, reason)

    def is_for_good(self) -> bool:
        """Whether what cannot be done could not be done for long enough."""
        now = time.monotonic()
        if self._refused_since is None:
            self._refused_since = now
        return now >= self._refused_since + _GONE_AFTER


def _ignore(_: Sequence[RecordResult]) -> None:
    """Called with outcomes that come after `_PATIENCE`: the records are published again then."""


def may_pass(error: KafkaHttpError) -> bool:
    """Whether another try may have another outcome."""
    return error.retry_after is not None or isinstance(error, OutcomeUnknown)
