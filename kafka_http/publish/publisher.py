"""Serializes the records of a request and hands them to Kafka."""

import time
from collections.abc import Mapping, Sequence
from typing import Self

from msgspec import Struct

from kafka_http.broker_protocols import PendingPublish, Producer
from kafka_http.errors import PublishTimeout
from kafka_http.records import BareValues, ProducerRecord
from kafka_http.schemas.formats import NO_SCHEMAS, Formats, Role, Schemas
from kafka_http.topics import check_publishable

MIN_SERIALIZING_SECONDS = 1.0
"""Parsing and serializing may take this long, even if the request's timeout is shorter."""


class PublishRequest(Struct, frozen=True):
    """The records of a request, and the schemas that it names.

    `BareValues` are the bytes to store: their format stores them verbatim, and the request names no schema.
    """

    records: Sequence[ProducerRecord] | BareValues
    schemas: Schemas = NO_SCHEMAS


class Deadlines(Struct, frozen=True, gc=False):
    """The times by which a publish is sent to Kafka and by which it is answered, on the monotonic clock."""

    send: float
    response: float

    @classmethod
    def from_timeout(cls, timeout: float) -> Self:
        """Return the deadlines of a request that starts now. With `timeout=0`, its records are still sent."""
        now = time.monotonic()
        return cls(now + max(timeout, MIN_SERIALIZING_SECONDS), now + timeout)


class Publisher:
    """Serializes and publishes records. The composition root creates one for each process. Any thread may call."""

    def __init__(self, producer: Producer, formats: Formats) -> None:
        self._producer = producer
        self._formats = formats

    def publish(
        self,
        topic: str,
        request: PublishRequest,
        deadlines: Deadlines,
        *,
        blocking: bool = True,
        keeps_trying: bool = False,
    ) -> tuple[PendingPublish, Mapping[Role, int]]:
        """Serialize the records of a request and hand them to Kafka.

        Returns their future, which fails after `deadlines.response`, and the ids of the schemas that serialized them.
        `keeps_trying` is that of `Producer.publish`. Nothing was handed to Kafka if this raises: for an invalid topic
        name, an unknown format or schema, a value that cannot be serialized, a registry that does not answer;
        `PublishTimeout` after `deadlines.send`, `TooMuchInFlight`; with `blocking=False` also `WouldBlock`.
        """
        check_publishable(topic)
        encoded = self._formats.encode(
            topic, request.records, request.schemas, blocking=blocking, deadline=deadlines.send
        )
        now = time.monotonic()
        if now > deadlines.send:
            raise PublishTimeout
        timeout = max(0.0, deadlines.response - now)
        pending = self._producer.publish(topic, encoded.records, timeout, keeps_trying=keeps_trying)
        return pending, encoded.schema_ids
