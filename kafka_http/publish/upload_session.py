"""Records that are published while more of them come: batch after batch, without waiting for each."""

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import groupby
from math import inf
from threading import Event

from kafka_http.broker_protocols import PendingPublish, Producer
from kafka_http.errors import KafkaHttpError, OutcomeUnknown, PartitionNotFound, Unavailable
from kafka_http.records import NewRecord, ProducerRecord, RecordMetadata, RecordResult
from kafka_http.schemas.formats import Encoded, Formats, Schemas
from kafka_http.topics import check_publishable

MAX_RECORDS = 10_000
MAX_BYTES = 4 << 20
"""Of one upload, on their way to Kafka: beyond that it is full."""

STOP_SECONDS = 10


class UploadPublisher:
    """Begins uploads. Safe in many threads."""

    def __init__(self, producer: Producer, formats: Formats) -> None:
        self._producer = producer
        self._formats = formats
        self._stopping = Event()

    def stop(self) -> None:
        """Have all uploads end soon. Does not block."""
        self._stopping.set()

    def begin(self, topic: str, schemas: Schemas, timeout: float) -> "UploadSession":
        """`timeout`: seconds that each batch may take until it is acknowledged. Raises for a bad name."""
        check_publishable(topic)
        encode = partial(self._formats.encode, topic, schemas=schemas)
        return UploadSession(self._producer, encode, topic, timeout, self._stopping)


class UploadSession:
    """One client's records on their way. They are numbered from 0, and those of a partition stay in their order.

    To be called by one thread.
    """

    def __init__(
        self, producer: Producer, encode: Callable[..., Encoded], topic: str, timeout: float, stopping: Event
    ) -> None:
        self.handed = 0
        """How many records were handed over."""
        self.acknowledged = 0
        """So many, from the first on, are in Kafka, each of them."""
        self.last_offsets: dict[int, int] = {}
        """Of those acknowledged, in each partition."""
        self._producer = producer
        self._encode = encode
        self._topic = topic
        self._timeout = timeout
        self._stopping = stopping
        self._batches: deque[_Batch] = deque()
        self._changed = Event()

    @property
    def is_underway(self) -> bool:
        """Whether something has no answer yet."""
        return bool(self._batches)

    @property
    def is_full(self) -> bool:
        """Whether so much is on its way that no more should be handed over."""
        records, size = sum(each.count for each in self._batches), sum(each.size for each in self._batches)
        return records >= MAX_RECORDS or size >= MAX_BYTES

    def hand_over(self, records: Sequence[ProducerRecord]) -> None:
        """Serialise records and hand them over. Blocks for as long as a serialiser, or a producer that cannot do
        without, takes; `timeout` at most.

        Raises for the first that is wrong, naming its index, and then those before it were handed over.
        """
        try:
            self._hand_over(records)
        except KafkaHttpError as error:
            if good := self._before(error, records):
                self._hand_over(records[:good])
            raise

    def _hand_over(self, records: Sequence[ProducerRecord]) -> None:
        encoded = self._encode(records, first=self.handed).records
        batch = _Batch(self.handed, encoded, self._timeout, self._changed)
        batch.publication = self._producer.start(self._topic, encoded, self._timeout, batch.end)
        self._producer.send()
        if batch.publication is None:
            batch.conclude(self._producer.produce(self._topic, encoded, self._timeout))
        self._batches.append(batch)
        self.handed += len(encoded)

    def _before(self, error: KafkaHttpError, records: Sequence[ProducerRecord]) -> int:
        """How many records are before the one that is wrong, which the error names from now on."""
        if isinstance(error, PartitionNotFound):
            named = [each.partition for each in records].index(error.fields["partition"])
            error.fields = {**error.fields, "record": self.handed + named}
        return int(error.fields.get("record", self.handed)) - self.handed

    def wait(self, seconds: float) -> None:
        """Return when Kafka has answered something, after so many seconds at the latest."""
        self._changed.wait(seconds)
        self._changed.clear()

    def settle(self) -> None:
        """Take note of what Kafka has answered.

        Raises for the first record that was not written, naming its index, and `Unavailable` where the server stops.
        """
        if self._stopping.is_set():
            raise Unavailable("The server stops. Send the records again that are not said here to be written.")
        for batch in self._batches:
            batch.settle()
        for batch in self._batches:
            if batch.failure is not None:
                raise batch.failure
        while self._batches and self._batches[0].outcomes is not None:
            self._count(self._batches.popleft())

    def _count(self, batch: "_Batch") -> int:
        """Count the records from the first on that were written."""
        for count, outcome in enumerate(batch.outcomes or ()):
            if not isinstance(outcome, RecordMetadata):
                self.acknowledged += count
                return count
            self.last_offsets[outcome.partition] = outcome.offset
        self.acknowledged += batch.count
        return batch.count

    def finish(self) -> None:
        """Wait until all have an answer, or cannot get one in time any more: in 10 s where the server stops."""
        latest = time.monotonic() + (STOP_SECONDS if self._stopping.is_set() else self._timeout)
        while any(each.outcomes is None for each in self._batches):
            for batch in self._batches:
                batch.settle(latest)
            self.wait(0.02)

    def rest(self) -> dict[str, list[tuple[int, int]]]:
        """After `finish`: what became of the records behind those that were acknowledged: (first, last) of those
        `written` all the same, and of those `unknown`, which may have been. All others were not written."""
        while self._batches and self._count(self._batches[0]) == self._batches[0].count:
            self._batches.popleft()
        found: dict[str, list[tuple[int, int]]] = {}
        fates = ((index, _fate(outcome)) for batch in self._batches for index, outcome in batch.numbered())
        for fate, run in groupby((each for each in fates if each[0] >= self.acknowledged), lambda each: each[1]):
            indexes = [index for index, _ in run]
            if fate is not None:
                found.setdefault(fate, []).append((indexes[0], indexes[-1]))
        self._batches.clear()
        return found


def _fate(outcome: RecordResult) -> str | None:
    if isinstance(outcome, RecordMetadata):
        return "written"
    return "unknown" if isinstance(outcome, OutcomeUnknown) else None


class _Batch:
    """Records that were handed over together."""

    def __init__(self, first: int, records: Sequence[NewRecord], timeout: float, changed: Event) -> None:
        self.count = len(records)
        self.size = sum(len(each.value or b"") + len(each.key or b"") for each in records)
        self.publication: PendingPublish | None = None
        self.outcomes: Sequence[RecordResult] | None = None
        self.failure: KafkaHttpError | None = None
        self._first = first
        self._deadline = time.monotonic() + timeout
        self._has_ended = False
        self._changed = changed

    def end(self) -> None:
        """Called by any thread, perhaps before `publication` is set."""
        self._has_ended = True
        self._changed.set()

    def settle(self, latest: float = inf) -> None:
        """Look at what became of it, once that is known or its time is over; at `latest` (of the monotonic clock) it
        is."""
        if self.publication is None or self.outcomes is not None:
            return
        if self._has_ended or time.monotonic() >= min(self._deadline, latest):
            self.conclude(self.publication.outcomes())

    def conclude(self, outcomes: Sequence[RecordResult]) -> None:
        self.outcomes = outcomes
        for index, outcome in self.numbered():
            if isinstance(outcome, KafkaHttpError):
                outcome.fields = {"record": index, **outcome.fields}
                self.failure = outcome
                return

    def numbered(self) -> Iterator[tuple[int, RecordResult]]:
        return enumerate(self.outcomes or (), self._first)
