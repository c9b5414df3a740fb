"""The one write path: a request's records in, one outcome each out."""

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

LEAST_PARSING_SECONDS = 1.0
"""What parsing and serialising may take however short a request's timeout is."""


class PublishRequest(Struct, frozen=True):
    """A request's records, and the schemas that it names."""

    records: Sequence[ProducerRecord]
    schemas: Schemas = NO_SCHEMAS


class Deadlines(NamedTuple):
    """When a publish has to be handed to Kafka, and when to be answered, both on the monotonic clock."""

    hand_over: float
    answer: float

    @classmethod
    def from_timeout(cls, timeout: float) -> Self:
        """Those of a request that begins now. With `timeout=0` its records are handed over all the same."""
        now = time.monotonic()
        return cls(now + max(timeout, LEAST_PARSING_SECONDS), now + timeout)


class PublishResult(Struct, frozen=True):
    """One outcome a record, in their order, and the ids of the schemas that they were written with, if any."""

    outcomes: Sequence[RecordResult]
    schema_ids: Mapping[Role, int]

    @property
    def is_settled(self) -> bool:
        """Whether no more is to be expected of Kafka."""
        return not any(isinstance(each, OutcomePending) for each in self.outcomes)


class StartedPublish(Struct, frozen=True):
    """A request's records on their way."""

    publication: PendingPublish
    schema_ids: Mapping[Role, int]

    def published(self) -> PublishResult:
        """What is known now; a `OutcomePending` of the others. Does not block."""
        return PublishResult(self.publication.outcomes(), self.schema_ids)


class Publisher:
    """Serialises and sends. Safe in many threads."""

    def __init__(self, producer: Producer, formats: Formats) -> None:
        self._producer = producer
        self._formats = formats

    def publish(
        self,
        topic: str,
        messages: PublishRequest,
        deadlines: Deadlines,
        settled: Callable[[PublishResult], None] | None = None,
    ) -> PublishResult:
        """Publish a request's records and wait until `deadlines.answer` for Kafka's acknowledgement of all.

        A failure of one record is its outcome. What fails the request whole is raised, and then nothing was written:
        a bad name, a format or a schema that is not there, a value that its serialiser refuses, an unknown topic or
        partition, no broker, no registry; `PublishTimeout` once `deadlines.hand_over` has passed.

        Where what is returned is not settled, `settled` is called once with what is, as `Producer.produce` does it.
        """
        check_publishable(topic)
        encoded = self._formats.encode(topic, messages.records, messages.schemas, deadline=deadlines.hand_over)
        now = time.monotonic()
        if now > deadlines.hand_over:
            raise PublishTimeout
        timeout = max(0.0, deadlines.answer - now)
        ids = encoded.schema_ids
        later = None if settled is None else lambda outcomes: settled(PublishResult(outcomes, ids))
        return PublishResult(self._producer.produce(topic, encoded.records, timeout, later), ids)

    def start(
        self, topic: str, messages: PublishRequest, timeout: float, done: Callable[[], None]
    ) -> StartedPublish | None:
        """As `publish`, without waiting: None, with nothing written, where that cannot be, or it would raise.

        As `Producer.start` does it: the producer's `send` sends, `done` is called once each record has its outcome.
        """
        if not self._formats.are_immediate(messages.records):
            return None
        try:
            check_publishable(topic)
            encoded = self._formats.encode(topic, messages.records, messages.schemas, blocking=False)
        except (KafkaHttpError, WouldBlock):
            return None
        publication = self._producer.start(topic, encoded.records, timeout, done)
        return None if publication is None else StartedPublish(publication, encoded.schema_ids)
