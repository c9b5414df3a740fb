"""What can go wrong, one class and one code each.

    KafkaHttpError
    ├── InvalidRequest              400    the client's request is malformed
    ├── NotAuthorized               40301  Kafka's ACLs refuse it
    ├── CrossSiteRequest            40302  a web page of another origin sent it
    ├── TopicNotFound               40401
    │   └── TopicRecreated          40401  deleted, and created again under its name
    ├── PartitionNotFound           40402
    ├── InstanceNotFound            40403  no such v2 consumer instance
    ├── TaskNotFound                404
    ├── NotAcceptable               406    no answer of a type that the client takes
    ├── FormatMismatch              40601  … that the v2 consumer instance gives
    ├── GroupHasMembers             409    the group's own consumers are at work
    ├── IdempotencyKeyInUse                    409    the first request with an idempotency key is not answered yet
    ├── TaskInProgress                409    a task whose messages are on their way to Kafka
    ├── TaskFinished                   409    … that has ended
    ├── InstanceExists              40902
    ├── IllegalState                40903  not at this point of a v2 consumer instance's life
    ├── TooLarge                    413    the body, or a message for the broker
    ├── UnsupportedFormat           415    no serialiser of that name
    ├── UnsupportedEncoding         415    no such Content-Encoding
    ├── OffsetOutOfRange            416
    ├── MisdirectedRequest          421    the Host header names another server
    ├── InvalidValue                422    a serialiser or the broker refuses a record, or the v2 API a field
    │   └── InvalidCallback         422    a callback may not go to that URL
    ├── IdempotencyKeyMismatch                 422    an idempotency key was another request's
    ├── MissingKeySchema            42201  keys of a schema format, and no schema named for them
    ├── MissingValueSchema          42202
    ├── InvalidConsumerConfig       42204
    ├── InvalidSchema               42205  the schema itself is at fault, or is not there
    ├── InvalidPayload              42206  data does not fit its schema
    ├── NotSerializable             42207  it does, and cannot be written all the same
    ├── TooMuchInFlight             42901
    │   └── OutboxFull              42901  as much is accepted and not yet published as may be
    ├── BrokerError                 50002  Kafka answered with an error
    ├── RetriableBrokerError        50003  … that may pass
    ├── Unavailable                 503    this server cannot do it now, for reasons of its own
    │   ├── InstanceBusy            503    another reader has the v2 consumer instance
    │   ├── LeaseExpired               503    the reader had it for too long, or it lost its partitions
    │   ├── PublishTimeout               503    the time of a publish was over before anything was handed to Kafka
    │   ├── RegistryUnavailable     503    the schema registry does not answer, and the schema is not cached
    │   ├── TooManyInstances        503
    │   └── TooManyStreams          503
    ├── BrokerUnavailable           50302  no broker reachable; nothing was handed over
    └── OutcomeUnknown              504    handed over, not answered in time: it may have been written
        └── OutcomePending             504    … and Kafka's answer may still come

The status of a code is `status_of(code)`. Codes are those of the REST Proxy v2 API where it has one for the fault.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar


def status_of(code: int) -> int:
    """The HTTP status of a code: its first three digits."""
    return code // 100 if code > 999 else code


def how_to_install(extra: str) -> str:
    """A sentence on how to add an extra. The distribution is on no package index, so it names the source directory."""
    return f"Run pip install '.[{extra}]' in the source directory of kafka_http."


class KafkaHttpError(Exception):
    """An error with a place in an answer: `{"error": {"code": …, "message": …, **fields}}`.

    `fields` are JSON values that say where the fault is (`record`, `field`, `partition`, …).
    `retry_after` (seconds) becomes the header `Retry-After`.
    """

    code: ClassVar[int] = 500
    retry_after: ClassVar[int | None] = None
    headers: Mapping[str, str] = {}
    """What the answer has beside that."""

    def __init__(self, message: str, **fields: Any) -> None:
        super().__init__(message)
        self.message = message
        self.fields: Mapping[str, Any] = fields

    def as_object(self) -> dict[str, Any]:
        """The `error` of an answer of the /messages dialect."""
        return {"code": self.code, "message": self.message, **self.fields}

    @property
    def status(self) -> int:
        return status_of(self.code)


class InvalidRequest(KafkaHttpError):
    code = 400


class NotAuthorized(KafkaHttpError):
    code = 40301


class CrossSiteRequest(KafkaHttpError):
    code = 40302


class TopicNotFound(KafkaHttpError):
    code = 40401

    def __init__(self, topic: str) -> None:
        super().__init__(f"Topic not found: {topic}. GET /messages lists those there are.", topic=topic)


class TopicRecreated(TopicNotFound):
    def __init__(self, topic: str) -> None:
        KafkaHttpError.__init__(
            self, f"Topic {topic} was deleted and created again. Its offsets begin anew.", topic=topic
        )


class PartitionNotFound(KafkaHttpError):
    code = 40402

    def __init__(self, topic: str, partition: int, count: int) -> None:
        last = f"0 to {count - 1}" if count > 1 else "0"
        super().__init__(
            f"Partition not found: {topic} has no partition {partition}, it has {count} ({last}).",
            topic=topic,
            partition=partition,
            partitions=count,
        )


class NotAcceptable(KafkaHttpError):
    code = 406


class GroupHasMembers(KafkaHttpError):
    code = 409


class IdempotencyKeyInUse(KafkaHttpError):
    code = 409
    retry_after = 1

    def __init__(self) -> None:
        super().__init__(
            "The first request with this Idempotency-Key is still under way: try again, and be answered as that is.",
            field="Idempotency-Key",
        )


class IdempotencyKeyMismatch(KafkaHttpError):
    code = 422

    def __init__(self) -> None:
        super().__init__(
            "This Idempotency-Key was used for another request: method, path, query, Content-Type, Kafka-* headers and "
            "body have to be the same. Nothing was written; a new request takes a new key.",
            field="Idempotency-Key",
        )


class TooLarge(KafkaHttpError):
    code = 413


class UnsupportedFormat(KafkaHttpError):
    code = 415


class UnsupportedEncoding(KafkaHttpError):
    code = 415

    def __init__(self, problem: str, codings: Sequence[str]) -> None:
        """`codings` are those that would be right, none for `identity` alone."""
        right = f"Supported: {', '.join(codings)}." if codings else "Send the body as it is."
        super().__init__(f"{problem} {right} Nothing was written.", encodings=list(codings))
        self.headers = {"Accept-Encoding": ", ".join(codings) or "identity"}


class OffsetOutOfRange(KafkaHttpError):
    code = 416


class MisdirectedRequest(KafkaHttpError):
    code = 421


class InvalidValue(KafkaHttpError):
    code = 422


class InvalidCallback(InvalidValue):
    """A callback may not go to a URL, or to what its host resolves to. The message names no resolved address."""


class TooMuchInFlight(KafkaHttpError):
    code = 42901
    retry_after = 1


class OutboxFull(TooMuchInFlight):
    def __init__(self) -> None:
        super().__init__(
            "Accepted messages wait for Kafka up to outbox_max_bytes: nothing of this request was taken, try again."
        )


class BrokerError(KafkaHttpError):
    code = 50002


class RetriableBrokerError(KafkaHttpError):
    code = 50003
    retry_after = 1


class BrokerUnavailable(KafkaHttpError):
    code = 50302
    retry_after = 1


class OutcomeUnknown(KafkaHttpError):
    code = 504


class OutcomePending(OutcomeUnknown):
    """The request's time is over, that of Kafka's answer is not."""


class InstanceNotFound(KafkaHttpError):
    code = 40403

    def __init__(self) -> None:
        super().__init__("Consumer instance not found.")


class FormatMismatch(KafkaHttpError):
    code = 40601

    def __init__(self) -> None:
        super().__init__(
            "The requested embedded data format does not match the deserializer for this consumer instance"
        )


class InstanceExists(KafkaHttpError):
    code = 40902

    def __init__(self) -> None:
        super().__init__("Consumer with specified consumer ID already exists in the specified consumer group.")


class IllegalState(KafkaHttpError):
    code = 40903


class MissingKeySchema(KafkaHttpError):
    code = 42201


class MissingValueSchema(KafkaHttpError):
    code = 42202


class InvalidConsumerConfig(KafkaHttpError):
    code = 42204


class InvalidSchema(KafkaHttpError):
    """The schema is at fault, whatever the records are: its syntax, what it refers to, its size, or it is not there."""

    code = 42205

    def __init__(self, problem: str, **fields: Any) -> None:
        super().__init__(f"Invalid schema: {problem}", **fields)
        self.problem = problem


class InvalidPayload(KafkaHttpError):
    """A value does not fit its schema. `path` leads to the fault: from the value `.address.zip`, `.items[3]`, or ''."""

    code = 42206
    kind: ClassVar[str] = "Payload error."

    def __init__(self, problem: str, path: str = "", **fields: Any) -> None:
        self.problem = problem
        self.path = path
        where = f"{path.removeprefix('.')}: " if path else ""
        super().__init__(f"{self.kind} {where}{problem}", **fields)

    def within(self, step: str) -> "InvalidPayload":
        """The same fault as seen from one level up: `.name` of an object, `[index]` of a list."""
        return type(self)(self.problem, step + self.path)


class NotSerializable(InvalidPayload):
    code = 42207
    kind = "Error serializing message."


class Unavailable(KafkaHttpError):
    """This server cannot do it now, for reasons of its own: its daemon, its store, another node, too many instances."""

    code = 503
    retry_after = 1


class TooManyInstances(Unavailable):
    def __init__(self, limit: int) -> None:
        super().__init__(
            f"This server holds as many consumer instances as it may ({limit}, its setting max_consumer_instances). "
            "Delete some, or wait until idle ones are closed."
        )


class TooManyStreams(Unavailable):
    def __init__(self, limit: int) -> None:
        super().__init__(
            f"This server's process holds as many streams as it may ({limit}, its setting max_streams). Close some, or "
            "try again later."
        )


class InstanceBusy(Unavailable):
    def __init__(self) -> None:
        super().__init__("Another request is still reading for this consumer instance.")


class RegistryUnavailable(Unavailable):
    """What was asked of the schema registry cannot be had now, and is not cached."""


class PublishTimeout(Unavailable):
    """The time of a publish was over before anything was handed to Kafka."""

    def __init__(self) -> None:
        super().__init__(
            "The request's time (timeout) was over before its records were parsed and serialised. Nothing was written. "
            "Send fewer records, or allow more time."
        )


class LeaseExpired(Unavailable):
    """The instance was lent for too long, or is gone."""

    def __init__(self) -> None:
        super().__init__("The consumer instance was taken back from this request: it took too long.")


class TaskNotFound(KafkaHttpError):
    code = 404


class TaskInProgress(KafkaHttpError):
    code = 409

    def __init__(self) -> None:
        super().__init__("The task's messages are on their way to Kafka already: it cannot be cancelled any more.")


class TaskFinished(KafkaHttpError):
    code = 409

    def __init__(self, status: str) -> None:
        super().__init__(f"The task is {status}: only a pending one can be cancelled.", status=status)
