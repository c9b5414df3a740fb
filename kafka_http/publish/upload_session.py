"""Streaming uploads: records are published batch by batch while the client sends more."""

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from itertools import groupby
from math import inf
from threading import Event

from kafka_http.broker_protocols import Log, PendingPublish, Producer
from kafka_http.errors import KafkaHttpError, OutcomeUnknown, PartitionNotFound, TopicNotFound, Unavailable
from kafka_http.records import (
    BareValues,
    NewRecord,
    ProducerRecord,
    RecordMetadata,
    RecordResult,
    missing_partitions,
    payload_size,
)
from kafka_http.request_facts import waiting_for_kafka
from kafka_http.schemas.formats import Encoded, Formats, Schemas
from kafka_http.topics import check_publishable

MAX_RECORDS = 10_000
MAX_BYTES = 4 << 20
"""Limits of one upload's records that Kafka has not acknowledged yet. At a limit, the upload waits."""

STOP_SECONDS = 10
_METADATA_AGE = 2.0
"""Maximum age of the partitions that records name, in seconds."""


class UploadPublisher:
    """Opens uploads. The composition root creates one for each process. Any thread may call."""

    def __init__(self, producer: Producer, log: Log, formats: Formats) -> None:
        self._producer = producer
        self._log = log
        self._formats = formats
        self._stopping = Event()

    def stop(self) -> None:
        """Make all uploads end soon. Does not block."""
        self._stopping.set()

    def open(self, topic: str, schemas: Schemas, timeout: float) -> "UploadSession":
        """Start an upload. Raises `InvalidRequest` for an invalid topic name.

        `timeout` is the time in seconds for Kafka's acknowledgement of each batch.
        """
        check_publishable(topic)
        encode = partial(self._formats.encode, topic, schemas=schemas)
        return UploadSession(self._producer, self._log, encode, topic, timeout, stopping=self._stopping)


class UploadSession:
    """The records of one client, numbered from 0. Those of a partition keep their order.

    The request's thread creates it and is the only one that calls it. It ends with `finish`.
    """

    def __init__(
        self,
        producer: Producer,
        log: Log,
        encode: Callable[..., Encoded],
        topic: str,
        timeout: float,
        *,
        stopping: Event,
    ) -> None:
        self.sent = 0
        """The number of records that were sent to Kafka."""
        self.acknowledged = 0
        """The number of first records that are all written."""
        self.last_offsets: dict[int, int] = {}
        """The last offset of the acknowledged records, by partition."""
        self._producer = producer
        self._log = log
        self._encode = encode
        self._topic = topic
        self._partitions = 0
        self._timeout = timeout
        self._stopping = stopping
        self._batches: deque[_UploadBatch] = deque()
        self._changed = Event()

    @property
    def is_pending(self) -> bool:
        """Whether a record has no result yet."""
        return bool(self._batches)

    @property
    def is_full(self) -> bool:
        """Whether the unacknowledged records have reached a limit."""
        records, size = sum(each.count for each in self._batches), sum(each.size for each in self._batches)
        return records >= MAX_RECORDS or size >= MAX_BYTES

    def send(self, records: Sequence[ProducerRecord]) -> None:
        """Serialize records and send them to Kafka.

        Blocks as long as the serializer does, and for metadata if a record names a partition. Raises the error of the
        first invalid record with its index, after the records before it were sent.
        """
        try:
            self._send(records)
        except KafkaHttpError as error:
            if valid := int(error.fields.get("record", self.sent)) - self.sent:
                self._send(records[:valid])
            raise

    def _send(self, records: Sequence[ProducerRecord]) -> None:
        encoded = self._encode(records, first=self.sent).records
        self._check_partitions(encoded)
        pending = self._producer.publish(self._topic, encoded, self._timeout)
        self._batches.append(_UploadBatch(self.sent, encoded, pending, self._timeout))
        pending.add_done_callback(self._changed.set)
        self.sent += len(encoded)

    def _check_partitions(self, records: Sequence[NewRecord] | BareValues) -> None:
        """Raise `PartitionNotFound`, with its index, for the first record whose partition does not exist.

        The producer finds it only when later records have been sent.
        """
        if isinstance(records, BareValues) or not missing_partitions(records, self._partitions):
            return
        with suppress(TopicNotFound):  # the producer may create it
            self._partitions = len(self._log.partitions(self._topic, _METADATA_AGE))
            for index, each in enumerate(records, self.sent):
                for partition in missing_partitions([each], self._partitions):
                    error = PartitionNotFound(self._topic, partition, self._partitions)
                    error.fields = {**error.fields, "record": index}
                    raise error

    def wait(self, seconds: float) -> None:
        """Wait for results, up to a time."""
        with waiting_for_kafka():
            self._changed.wait(seconds)
        self._changed.clear()

    def check(self) -> None:
        """Count the results that have arrived. Does not block.

        Raises the error of the first record that was not written, with its index, and `Unavailable` when the server
        stops.
        """
        if self._stopping.is_set():
            raise Unavailable("The server is shutting down. Resend the records that are not reported as written here.")
        for batch in self._batches:
            batch.check()
        for batch in self._batches:
            if batch.failure is not None:
                raise batch.failure
        while self._batches and self._batches[0].results is not None:
            self._acknowledge(self._batches.popleft())

    def _acknowledge(self, batch: "_UploadBatch") -> int:
        """Count the first records of a batch that were written."""
        for count, result in enumerate(batch.results or ()):
            if not isinstance(result, RecordMetadata):
                self.acknowledged += count
                return count
            self.last_offsets[result.partition] = result.offset
        self.acknowledged += batch.count
        return batch.count

    def finish(self) -> None:
        """Wait for all results, until their timeout. When the server stops, wait at most `STOP_SECONDS`."""
        latest = time.monotonic() + (STOP_SECONDS if self._stopping.is_set() else self._timeout)
        while any(each.results is None for each in self._batches):
            for batch in self._batches:
                batch.check(latest)
            self.wait(0.02)

    def unacknowledged(self) -> dict[str, list[tuple[int, int]]]:
        """Return the state of the records after the acknowledged ones. Call `finish` before.

        The value has ranges (first, last) of records that are `written`, and of those that are `unknown`, which may be
        written. All others are not written.
        """
        while self._batches and self._acknowledge(self._batches[0]) == self._batches[0].count:
            self._batches.popleft()
        ranges: dict[str, list[tuple[int, int]]] = {}
        states = ((index, _state(result)) for batch in self._batches for index, result in batch.numbered())
        for state, group in groupby((each for each in states if each[0] >= self.acknowledged), lambda each: each[1]):
            indexes = [index for index, _ in group]
            if state is not None:
                ranges.setdefault(state, []).append((indexes[0], indexes[-1]))
        self._batches.clear()
        return ranges


def _state(result: RecordResult) -> str | None:
    if isinstance(result, RecordMetadata):
        return "written"
    return "unknown" if isinstance(result, OutcomeUnknown) else None


class _UploadBatch:
    """Records of an upload that were sent together."""

    def __init__(
        self, first: int, records: Sequence[NewRecord] | BareValues, pending: PendingPublish, timeout: float
    ) -> None:
        self.count = len(records)
        self.size = payload_size(records)
        self.results: Sequence[RecordResult] | None = None
        self.failure: KafkaHttpError | None = None
        self._first = first
        self._pending = pending
        self._deadline = time.monotonic() + timeout

    def check(self, latest: float = inf) -> None:
        """Set the results if they are known, if their timeout is over, or if it is `latest` (monotonic clock)."""
        is_over = self._pending.is_done or time.monotonic() >= min(self._deadline, latest)
        if self.results is not None or not is_over:
            return
        try:
            self.results = self._pending.result(0)
        except KafkaHttpError as error:  # nothing was written
            self.failure = error
            self.results = [error] * self.count
            return
        for index, result in self.numbered():
            if isinstance(result, KafkaHttpError):
                result.fields = {"record": index, **result.fields}
                self.failure = result
                return

    def numbered(self) -> Iterator[tuple[int, RecordResult]]:
        return enumerate(self.results or (), self._first)
