"""Publishes the records of a request, and returns one result for each."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Self

from msgspec import Struct

from kafka_http.broker_protocols import PendingPublish, Producer
from kafka_http.errors import KafkaHttpError, OutcomePending, PublishTimeout
from kafka_http.records import ProducerRecord, RecordResult
from kafka_http.schemas.formats import NO_SCHEMAS, Formats, Role, Schemas
from kafka_http.schemas.loading_cache import WouldBlock
from kafka_http.topics import check_publishable

MIN_SERIALIZING_SECONDS = 1.0
"""Parsing and serializing may take this long, even if the request's timeout is shorter."""


class PublishRequest(Struct, frozen=True):
    """The records of a request, and the schemas that it names."""

    records: Sequence[ProducerRecord]
    schemas: Schemas = NO_SCHEMAS


class Deadlines(NamedTuple):
    """The times by which a publish is sent to Kafka and by which it is answered, on the monotonic clock."""

    send: float
    response: float

    @classmethod
    def from_timeout(cls, timeout: float) -> Self:
        """Return the deadlines of a request that starts now. With `timeout=0`, its records are still sent."""
        now = time.monotonic()
        return cls(now + max(timeout, MIN_SERIALIZING_SECONDS), now + timeout)


class PublishResult(Struct, frozen=True):
    """One result for each record, in their order, and the ids of the schemas that serialized them, if any."""

    results: Sequence[RecordResult]
    schema_ids: Mapping[Role, int]

    @property
    def is_complete(self) -> bool:
        """Whether all results are final."""
        return not any(isinstance(each, OutcomePending) for each in self.results)


class StartedPublish(Struct, frozen=True):
    """A publish that was sent to Kafka without waiting for its results."""

    pending: PendingPublish
    schema_ids: Mapping[Role, int]

    def published(self) -> PublishResult:
        """Return the results that are known now, and `OutcomePending` for the others. Does not block."""
        return PublishResult(self.pending.results(), self.schema_ids)


class Publisher:
    """Serializes and publishes records. The composition root creates one for each process. Any thread may call."""

    def __init__(self, producer: Producer, formats: Formats) -> None:
        self._producer = producer
        self._formats = formats

    def publish(
        self,
        topic: str,
        messages: PublishRequest,
        deadlines: Deadlines,
        on_complete: Callable[[PublishResult], None] | None = None,
    ) -> PublishResult:
        """Publish the records of a request and wait until `deadlines.response` for Kafka's acknowledgements.

        The failure of one record is its result. A failure of the request is raised, and then no record was written: an
        invalid topic name, an unknown format or schema, a value that cannot be serialized, an unknown topic or
        partition, or no connection to Kafka or the registry. Raises `PublishTimeout` after `deadlines.send`.

        If the returned result is not complete, `on_complete` is called once with the complete result, by the rules for
        `on_results` of `Producer.produce`.
        """
        check_publishable(topic)
        encoded = self._formats.encode(topic, messages.records, messages.schemas, deadline=deadlines.send)
        now = time.monotonic()
        if now > deadlines.send:
            raise PublishTimeout
        timeout = max(0.0, deadlines.response - now)
        ids = encoded.schema_ids
        on_results = None if on_complete is None else lambda results: on_complete(PublishResult(results, ids))
        return PublishResult(self._producer.produce(topic, encoded.records, timeout, on_results), ids)

    def start(
        self, topic: str, messages: PublishRequest, timeout: float, on_done: Callable[[], None]
    ) -> StartedPublish | None:
        """Publish the records of a request. Does not block.

        Returns None, with nothing written, if this would block or fail: call `publish` then. `Producer.send` sends the
        records. `on_done` is called by the rules of `Producer.start`.
        """
        if not self._formats.are_immediate(messages.records):
            return None
        try:
            check_publishable(topic)
            encoded = self._formats.encode(topic, messages.records, messages.schemas, blocking=False)
        except (KafkaHttpError, WouldBlock):
            return None
        pending = self._producer.start(topic, encoded.records, timeout, on_done)
        return None if pending is None else StartedPublish(pending, encoded.schema_ids)
