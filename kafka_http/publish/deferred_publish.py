"""Publishing later: a request's records are checked and serialised as ever, and kept until the relay publishes them."""

import threading
import time
from collections.abc import Callable, Sequence

from kafka_http.broker_protocols import Log
from kafka_http.errors import BrokerUnavailable, KafkaHttpError, PartitionNotFound, TopicNotFound
from kafka_http.publish.publisher import PublishRequest
from kafka_http.publish.task_submission import TaskSubmission, TaskSubmitter
from kafka_http.records import NewRecord, partitions_beyond
from kafka_http.schemas.formats import Formats
from kafka_http.schemas.loading_cache import WouldBlock
from kafka_http.tasks import NewTask, new_task_id, packed
from kafka_http.topics import check_publishable

_FRESH = 2.0
"""Seconds for which what Kafka said of a topic is believed."""
_STALE = 60.0
"""Seconds for which it is believed while Kafka is being asked, or does not answer."""
_AWAY = 5.0
"""Seconds for which nobody waits for a Kafka that has not answered."""


class DeferredPublisher:
    """Accepts what is to be published later. Safe in many threads."""

    def __init__(
        self,
        log: Log,
        formats: Formats,
        acceptor: TaskSubmitter,
        check_callback: Callable[[str], object],
        *,
        auto_create_topics: bool,
    ) -> None:
        """`check_callback` raises for a URL that no callback may go to. It does not block."""
        self._formats = formats
        self._acceptor = acceptor
        self._check_callback = check_callback
        self._places = _Places(log, auto_create_topics=auto_create_topics)

    def accept(self, topic: str, messages: PublishRequest, callback_url: str | None, deadline: float) -> NewTask:
        """Return once the task is safe. Raises as `Publisher.publish` does, `OutboxFull`, `Unavailable`; not for a
        Kafka that is away."""
        check_publishable(topic)
        encoded = self._formats.encode(topic, messages.records, messages.schemas, deadline=deadline)
        self._places.check(topic, encoded.records)
        task = self._task(topic, encoded.records, callback_url)
        return self._acceptor.accept(task)

    def start(
        self, topic: str, messages: PublishRequest, callback_url: str | None, done: Callable[[], None]
    ) -> TaskSubmission | None:
        """As `accept`, without waiting: None, with nothing done, where that cannot be, or it would raise. `done` is
        called by a thread that must not be held up."""
        if not self._formats.are_immediate(messages.records):
            return None
        try:
            check_publishable(topic)
            encoded = self._formats.encode(topic, messages.records, messages.schemas, blocking=False)
            if not self._places.are_known(topic, encoded.records):
                return None
            return self._acceptor.start(self._task(topic, encoded.records, callback_url), done)
        except (KafkaHttpError, WouldBlock):
            return None

    def _task(self, topic: str, records: Sequence[NewRecord], callback_url: str | None) -> NewTask:
        if callback_url is not None:
            self._check_callback(callback_url)
        return NewTask(new_task_id(), topic, time.time(), packed(records), callback_url)


class _Places:
    """The topics and partitions there are, as far as Kafka says so in time."""

    def __init__(self, log: Log, *, auto_create_topics: bool) -> None:
        self._log = log
        self._auto_create_topics = auto_create_topics
        self._known: dict[str, tuple[int, float]] = {}
        self._asking: set[str] = set()
        self._away_until = float("-inf")

    def are_known(self, topic: str, records: Sequence[NewRecord]) -> bool:
        """Whether all that they name is there, as far as is known. Does not block."""
        count, at = self._known.get(topic, (0, float("-inf")))
        return time.monotonic() < at + _FRESH and not partitions_beyond(records, count)

    def check(self, topic: str, records: Sequence[NewRecord]) -> None:
        """Raise `TopicNotFound`, `PartitionNotFound` where Kafka says so."""
        if self.are_known(topic, records):
            return
        count, at = self._known.get(topic, (0, float("-inf")))
        now = time.monotonic()
        if now < at + _STALE and not partitions_beyond(records, count):
            self._ask_aside(topic)
        elif now >= self._away_until:
            try:
                count = self._ask(topic)
            except TopicNotFound:
                if not self._auto_create_topics:
                    raise
            except BrokerUnavailable:
                return
            else:
                for partition in partitions_beyond(records, count):
                    raise PartitionNotFound(topic, partition, count)

    def _ask_aside(self, topic: str) -> None:
        """Learn how it is now, for those who come next."""
        if topic in self._asking or time.monotonic() < self._away_until:
            return
        self._asking.add(topic)
        threading.Thread(target=self._ask_quietly, args=(topic,), daemon=True).start()

    def _ask_quietly(self, topic: str) -> None:
        try:
            self._ask(topic)
        except KafkaHttpError:
            pass  # who comes next is told
        finally:
            self._asking.discard(topic)

    def _ask(self, topic: str) -> int:
        try:
            count = len(self._log.partitions(topic))
        except BrokerUnavailable:
            self._away_until = time.monotonic() + _AWAY
            raise
        except KafkaHttpError:
            self._known.pop(topic, None)
            raise
        self._known[topic] = count, time.monotonic()
        return count
