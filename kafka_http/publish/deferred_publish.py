"""Deferred publishing: the records of a request are checked and serialized now, and published by the outbox relay."""

import threading
import time
from collections.abc import Callable, Sequence

from kafka_http.broker_protocols import Log
from kafka_http.errors import (
    BrokerUnavailable,
    KafkaHttpError,
    OutboxFull,
    PartitionNotFound,
    TopicNotFound,
    WouldBlock,
)
from kafka_http.publish.batch_submitter import BatchSubmitter, PendingItem
from kafka_http.publish.publisher import PublishRequest
from kafka_http.records import BareValues, NewRecord, missing_partitions
from kafka_http.schemas.formats import Formats
from kafka_http.tasks import NewTask, Tasks, encode_records, new_task_id
from kafka_http.topics import check_publishable

_FRESH_SECONDS = 2.0
"""Metadata of a topic is used this long without asking Kafka."""
_STALE_SECONDS = 60.0
"""Metadata is used this long while it is refreshed in the background, or while Kafka is unreachable."""
_UNREACHABLE_SECONDS = 5.0
"""Time before a request asks an unreachable Kafka again."""


class DeferredPublisher:
    """Accepts records to publish later. The composition root creates one. Any thread may call."""

    def __init__(
        self,
        log: Log,
        formats: Formats,
        submitter: "TaskSubmitter",
        check_callback: Callable[[str], object],
        *,
        auto_create_topics: bool,
    ) -> None:
        """`check_callback` raises for a URL that callbacks must not go to. It does not block."""
        self._formats = formats
        self._submitter = submitter
        self._check_callback = check_callback
        self._partitions = _PartitionCounts(log, auto_create_topics=auto_create_topics)

    def accept(
        self,
        topic: str,
        request: PublishRequest,
        callback_url: str | None,
        deadline: float,
        *,
        owner: str = "",
        blocking: bool = True,
    ) -> "PendingTask":
        """Hand the records of a request to the outbox, as a task of `owner`.

        Raises the errors of `Publisher.publish` that do not need Kafka, `TopicNotFound`, `PartitionNotFound`,
        `Unavailable`; with `blocking=False` also `WouldBlock`. The main loop's tasks wait until its `end_round`.
        """
        check_publishable(topic)
        records = self._formats.encode(
            topic, request.records, request.schemas, blocking=blocking, deadline=deadline
        ).records
        if not self._partitions.are_known(topic, records):
            if not blocking:
                raise WouldBlock
            self._partitions.check(topic, records)
        if callback_url is not None:
            self._check_callback(callback_url)
        task = NewTask(new_task_id(), topic, time.time(), encode_records(records), callback_url, owner)
        return self._submitter.submit(task)


class _PartitionCounts:
    """The number of partitions of topics, cached so that Kafka may be unreachable for a while."""

    def __init__(self, log: Log, *, auto_create_topics: bool) -> None:
        self._log = log
        self._auto_create_topics = auto_create_topics
        self._counts: dict[str, tuple[int, float]] = {}
        self._refreshing: set[str] = set()
        self._unreachable_until = float("-inf")

    def are_known(self, topic: str, records: Sequence[NewRecord] | BareValues) -> bool:
        """Whether recent metadata has the topic and all partitions of the records. Does not block."""
        return self._is_cached(topic, records, _FRESH_SECONDS)

    def check(self, topic: str, records: Sequence[NewRecord] | BareValues) -> None:
        """Raise `TopicNotFound` or `PartitionNotFound` if Kafka says so. Return if Kafka is unreachable."""
        if self._is_cached(topic, records, _STALE_SECONDS):
            self._refresh(topic)
            return
        if time.monotonic() < self._unreachable_until:
            return  # accept the records: the relay publishes them when Kafka is back
        try:
            count = self._fetch(topic)
        except TopicNotFound:
            if not self._auto_create_topics:
                raise
        except BrokerUnavailable:
            return
        else:
            for partition in missing_partitions(records, count):
                raise PartitionNotFound(topic, partition, count)

    def _is_cached(self, topic: str, records: Sequence[NewRecord] | BareValues, max_age: float) -> bool:
        count, at = self._counts.get(topic, (0, float("-inf")))
        return time.monotonic() < at + max_age and not missing_partitions(records, count)

    def _refresh(self, topic: str) -> None:
        """Refresh the metadata of a topic in the background."""
        if topic in self._refreshing or time.monotonic() < self._unreachable_until:
            return
        self._refreshing.add(topic)
        threading.Thread(target=self._fetch_quietly, args=(topic,), daemon=True).start()

    def _fetch_quietly(self, topic: str) -> None:
        try:
            self._fetch(topic)
        except KafkaHttpError:
            pass  # the next request finds no metadata and gets the error
        finally:
            self._refreshing.discard(topic)

    def _fetch(self, topic: str) -> int:
        try:
            count = len(self._log.partitions(topic))
        except BrokerUnavailable:
            self._unreachable_until = time.monotonic() + _UNREACHABLE_SECONDS
            raise
        except KafkaHttpError:
            self._counts.pop(topic, None)
            raise
        self._counts[topic] = count, time.monotonic()
        return count


TaskSubmitter = BatchSubmitter[NewTask, NewTask]
PendingTask = PendingItem[NewTask, NewTask]
"""A task on its way to the outbox. Its result is the task, or `OutboxFull`, `Unavailable`."""


def new_task_submitter(tasks: Tasks) -> TaskSubmitter:
    """Create what sends the tasks of a process to the outbox."""

    def accept(batch: Sequence[NewTask]) -> list[NewTask | KafkaHttpError]:
        accepted = tasks.accept_tasks(batch)
        return [*batch[:accepted], *(OutboxFull() for _ in batch[accepted:])]

    return BatchSubmitter(
        accept,
        "task-submitter",
        lambda task: len(task.records),
        unknown="The server's outbox did not answer in time. The messages may or may not be published.",
    )
