"""All errors that a client can get: one class for each, with its code.

    KafkaHttpError
    ├── InvalidRequest              400    the request is malformed
    ├── Unauthenticated             40101  no credentials, or wrong ones
    ├── NotAuthorized               40301  Kafka's ACLs reject it
    ├── Forbidden                   40302  the principal lacks a right
    ├── CrossSiteRequest            40302  a web page of another origin sent it
    ├── TopicAdminOff               40302  the setting topic_admin is off
    ├── TopicNotFound               40401
    │   └── TopicRecreated          40401  the topic was deleted and created again
    ├── PartitionNotFound           40402
    ├── InstanceNotFound            40403  no such v2 consumer instance
    ├── GroupNotFound               40406  no such consumer group
    ├── TaskNotFound                404
    ├── MetricsElsewhere            404    the metrics are on another address
    ├── NotAcceptable               406    no type in the Accept header is available
    ├── FormatMismatch              40601  the v2 consumer instance has another format
    ├── GroupHasMembers             409    the consumer group has active members
    │   └── QueueInUse              409    clients hold messages of the queue
    ├── IdempotencyKeyInUse         409    the first request with this key is in progress
    ├── TaskInProgress              409    the task's messages are being sent to Kafka
    ├── TaskFinished                409    the task is no longer pending
    ├── InstanceExists              40902
    ├── IllegalState                40903  not possible in this state of the v2 consumer instance
    ├── LeaseLost                   40904  the message of this lease is delivered again
    ├── WrongGroupType              40905  the name is a queue, or an ordinary consumer
    ├── TopicExists                 40906
    ├── TooLarge                    413    the body, or a message, is too large
    ├── UnsupportedFormat           415    no such format
    ├── UnsupportedEncoding         415    no such Content-Encoding
    ├── OffsetOutOfRange            416
    ├── MisdirectedRequest          421    the Host header names another server
    ├── InvalidValue                422    a record, or a field of the v2 API, is invalid
    │   └── InvalidCallback         422    callbacks to this URL are not allowed
    ├── IdempotencyKeyMismatch      422    the key was used for another request
    ├── MissingKeySchema            42201  the format of the keys needs a schema
    ├── MissingValueSchema          42202  the format of the values needs a schema
    ├── InvalidConsumerConfig       42204
    ├── InvalidSchema               42205  the schema is invalid, or does not exist
    ├── InvalidPayload              42206  a value does not match its schema
    ├── NotSerializable             42207  a value matches its schema but cannot be written
    ├── TooMuchInFlight             42901
    │   └── OutboxFull              42901  too many accepted messages wait for Kafka
    ├── RateLimited                 42902  a limit of the principal or of the address is reached
    │   └── TooManyLogins           42902  too many failed logins from an address
    ├── BrokerError                 50002  Kafka answered with an error
    ├── QueuesUnsupported           501    the brokers have no share groups
    ├── RetriableBrokerError        50003  Kafka answered with a transient error
    ├── Unavailable                 503    this server cannot do it now
    │   ├── InstanceBusy            503    another request reads from the v2 consumer instance
    │   ├── LeaseExpired            503    the read took too long, or the partitions were revoked
    │   ├── PublishTimeout          503    the timeout passed before anything was sent to Kafka
    │   ├── RegistryUnavailable     503    the schema registry does not answer
    │   ├── TooManyInstances        503
    │   └── TooManyStreams          503
    ├── BrokerUnavailable           50302  no broker answers; nothing was written
    └── OutcomeUnknown              504    sent, but not acknowledged in time; it may have been written
        └── OutcomePending          504    as above, and Kafka may still acknowledge it

`status_of(code)` is the HTTP status of a code. Where the REST Proxy v2 API has a code for a problem, it is used.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar


def status_of(code: int) -> int:
    """Return the HTTP status of a code: its first three digits."""
    return code // 100 if code > 999 else code


def how_to_install(extra: str) -> str:
    """Return how to install an extra. kafka_http is not on a package index, so it is installed from its source."""
    return f"Run pip install '.[{extra}]' in the source directory of kafka_http."


class WouldBlock(Exception):
    """The caller must not wait, so a thread must do it. Not shown to clients."""


class KafkaHttpError(Exception):
    """An error that becomes a response: `{"error": {"code": …, "message": …, **fields}}`.

    `fields` are JSON values that locate the problem (`record`, `field`, `partition`, …). `retry_after`, in seconds,
    becomes the header `Retry-After`.
    """

    code: ClassVar[int] = 500
    retry_after: ClassVar[int | None] = None
    headers: Mapping[str, str] = {}
    """Other headers of the response."""
    principal: str = ""
    """Whose request was refused, for the log; empty if it is not known."""

    def __init__(self, message: str, **fields: Any) -> None:
        super().__init__(message)
        self.message = message
        self.fields: Mapping[str, Any] = fields

    def as_object(self) -> dict[str, Any]:
        """Return the object `error` of a response of the `/messages` dialect."""
        return {"code": self.code, "message": self.message, **self.fields}

    @property
    def status(self) -> int:
        return status_of(self.code)


class InvalidRequest(KafkaHttpError):
    """The request is malformed."""

    code = 400


class Unauthenticated(KafkaHttpError):
    """The request has no credentials, or wrong ones. The check point adds `WWW-Authenticate`."""

    code = 40101


class NotAuthorized(KafkaHttpError):
    """Kafka's ACLs reject the request."""

    code = 40301


class Forbidden(KafkaHttpError):
    """The principal lacks a right."""

    code = 40302

    def __init__(
        self, principal: str, right: str, resource: str, name: str, effect: str = " Nothing was done."
    ) -> None:
        """`resource` is `topic`, `consumer` or `server`. `name` is empty for the server."""
        where = f"{resource} {name[:255]}" if name else "this server"
        fields = {"right": right, resource: name} if name else {"right": right}
        super().__init__(f"{principal} does not have the right {right} on {where}.{effect}", **fields)
        self.principal = principal


class CrossSiteRequest(KafkaHttpError):
    """A web page of another origin sent the request."""

    code = 40302


class TopicAdminOff(KafkaHttpError):
    """The setting `topic_admin` is off."""

    code = 40302

    def __init__(self) -> None:
        super().__init__(
            "Topics cannot be created, changed or deleted: the setting topic_admin (--topic-admin) is off. "
            "Nothing was done.",
            setting="topic_admin",
        )


class TopicNotFound(KafkaHttpError):
    """No topic of this name."""

    code = 40401

    def __init__(self, topic: str) -> None:
        super().__init__(f"Topic not found: {topic}. GET /messages lists the topics.", topic=topic)


class TopicRecreated(TopicNotFound):
    """The topic was deleted and created again."""

    def __init__(self, topic: str) -> None:
        KafkaHttpError.__init__(
            self, f"Topic {topic} was deleted and created again. Its offsets start at 0 again.", topic=topic
        )


class PartitionNotFound(KafkaHttpError):
    """The topic has no such partition."""

    code = 40402

    def __init__(self, topic: str, partition: int, count: int) -> None:
        last = f"0 to {count - 1}" if count > 1 else "0"
        super().__init__(
            f"Partition not found: {topic} has no partition {partition}. It has {count} ({last}).",
            topic=topic,
            partition=partition,
            partitions=count,
        )


class NotAcceptable(KafkaHttpError):
    """No type in the Accept header is available."""

    code = 406


class GroupHasMembers(KafkaHttpError):
    """The consumer group has active members."""

    code = 409


class QueueInUse(GroupHasMembers):
    """Clients hold messages of the queue."""


class IdempotencyKeyInUse(KafkaHttpError):
    """The first request with this key is in progress."""

    code = 409
    retry_after = 1

    def __init__(self) -> None:
        super().__init__(
            "A request with this Idempotency-Key is still in progress. Retry to get its response.",
            field="Idempotency-Key",
        )


class IdempotencyKeyMismatch(KafkaHttpError):
    """The key was used for another request."""

    code = 422

    def __init__(self) -> None:
        super().__init__(
            "This Idempotency-Key was used for another request. Method, path, query, Content-Type, Kafka-* headers and "
            "body must be the same. Nothing was written. Use a new key for a new request.",
            field="Idempotency-Key",
        )


class TooLarge(KafkaHttpError):
    """The body, or a message, is too large."""

    code = 413


class UnsupportedFormat(KafkaHttpError):
    """No such format."""

    code = 415


class UnsupportedEncoding(KafkaHttpError):
    """No such Content-Encoding."""

    code = 415

    def __init__(self, problem: str, codings: Sequence[str]) -> None:
        """`codings` are the supported ones; none means that only `identity` is."""
        right = f"Supported: {', '.join(codings)}." if codings else "Send the body without a Content-Encoding."
        super().__init__(f"{problem} {right} Nothing was written.", encodings=list(codings))
        self.headers = {"Accept-Encoding": ", ".join(codings) or "identity"}


class OffsetOutOfRange(KafkaHttpError):
    """The log of a partition does not have the offset."""

    code = 416


class MisdirectedRequest(KafkaHttpError):
    """The Host header names another server."""

    code = 421


class InvalidValue(KafkaHttpError):
    """A record, or a field of the v2 API, is invalid."""

    code = 422


class InvalidCallback(InvalidValue):
    """Callbacks to a URL, or to an address of its host, are not allowed. The message names no resolved address."""


class TooMuchInFlight(KafkaHttpError):
    """Too many bytes are in flight."""

    code = 42901
    retry_after = 1


class OutboxFull(TooMuchInFlight):
    """Too many accepted messages wait for Kafka."""

    def __init__(self) -> None:
        super().__init__(
            "The outbox is full (outbox_max_bytes): too many messages wait for Kafka. Nothing was accepted. Retry."
        )


class RateLimited(KafkaHttpError):
    """A limit of the principal, or of the client's address, is reached. `headers` has `Retry-After`."""

    code = 42902


class TooManyLogins(RateLimited):
    """Too many failed logins from an address, or too many logins at a time."""


class BrokerError(KafkaHttpError):
    """Kafka answered with an error."""

    code = 50002


class QueuesUnsupported(KafkaHttpError):
    """The brokers have no share groups."""

    code = 501

    def __init__(self) -> None:
        super().__init__(
            "Queues need share groups, which these brokers do not have or have switched off. They are in Apache Kafka "
            "since 4.2, with the feature share.version at 1."
        )


class RetriableBrokerError(KafkaHttpError):
    """Kafka answered with a transient error."""

    code = 50003
    retry_after = 1


class BrokerUnavailable(KafkaHttpError):
    """No broker answers; nothing was written."""

    code = 50302
    retry_after = 1


class OutcomeUnknown(KafkaHttpError):
    """Sent, but not acknowledged in time; it may have been written."""

    code = 504


class OutcomePending(OutcomeUnknown):
    """The request's timeout has passed, but Kafka may still acknowledge the record."""


class InstanceNotFound(KafkaHttpError):
    """No such v2 consumer instance."""

    code = 40403

    def __init__(self) -> None:
        super().__init__("Consumer instance not found.")


class GroupNotFound(KafkaHttpError):
    """No such consumer group."""

    code = 40406

    def __init__(self, group: str) -> None:
        super().__init__(f"There is no consumer group {group}. GET /consumers lists all groups.", group=group)


class FormatMismatch(KafkaHttpError):
    """The v2 consumer instance has another format."""

    code = 40601

    def __init__(self) -> None:
        super().__init__(
            "The requested embedded data format does not match the deserializer for this consumer instance"
        )


class InstanceExists(KafkaHttpError):
    """A v2 consumer instance of this name exists."""

    code = 40902

    def __init__(self) -> None:
        super().__init__("Consumer with specified consumer ID already exists in the specified consumer group.")


class IllegalState(KafkaHttpError):
    """Not possible in this state of the v2 consumer instance."""

    code = 40903


class LeaseLost(KafkaHttpError):
    """The lease has ended: it expired, was settled, or its node has ended. The message is delivered again."""

    code = 40904

    def __init__(self) -> None:
        super().__init__(
            "This lease has ended: its lock is over, its message was acknowledged, rejected or given back before, or "
            "the server that held it has ended. Forget it: a message that is not done comes again, with a new lease."
        )


class WrongGroupType(KafkaHttpError):
    """The name belongs to a group of another type: a queue cannot be an ordinary consumer, and the reverse."""

    code = 40905


class TopicExists(KafkaHttpError):
    """There is a topic of this name."""

    code = 40906

    def __init__(self, topic: str) -> None:
        super().__init__(f"The topic {topic} exists already. Nothing was done.", topic=topic)


class MissingKeySchema(KafkaHttpError):
    """The format of the keys needs a schema."""

    code = 42201


class MissingValueSchema(KafkaHttpError):
    """The format of the values needs a schema."""

    code = 42202


class InvalidConsumerConfig(KafkaHttpError):
    """The configuration of a v2 consumer instance is invalid."""

    code = 42204


class InvalidSchema(KafkaHttpError):
    """The schema itself cannot be used: its syntax, its references, its size, or it does not exist."""

    code = 42205

    def __init__(self, problem: str, **fields: Any) -> None:
        super().__init__(f"Invalid schema: {problem}", **fields)
        self.problem = problem


class InvalidPayload(KafkaHttpError):
    """A value does not match its schema. `path` locates the problem: `.address.zip`, `.items[3]`, or empty."""

    code = 42206
    kind: ClassVar[str] = "Payload error."

    def __init__(self, problem: str, path: str = "", **fields: Any) -> None:
        self.problem = problem
        self.path = path
        where = f"{path.removeprefix('.')}: " if path else ""
        super().__init__(f"{self.kind} {where}{problem}", **fields)

    def within(self, step: str) -> "InvalidPayload":
        """Return this error with `step`, which is `.name` or `[index]`, before its path."""
        return type(self)(self.problem, step + self.path)


class NotSerializable(InvalidPayload):
    """A value matches its schema but cannot be written."""

    code = 42207
    kind = "Error serializing message."


class Unavailable(KafkaHttpError):
    """This server cannot do it now: because of its daemon, its store, another node, or a limit."""

    code = 503
    retry_after = 1


class TooManyInstances(Unavailable):
    """The limit of consumer instances is reached."""

    def __init__(self, limit: int) -> None:
        super().__init__(
            f"Too many consumer instances (limit: {limit}, setting max_consumer_instances). Delete some, or wait until "
            "idle ones are closed."
        )


class TooManyStreams(Unavailable):
    """The limit of streams is reached."""

    def __init__(self, limit: int) -> None:
        super().__init__(
            f"Too many streams (limit: {limit} for each worker, setting max_streams). Close some, or retry later."
        )


class InstanceBusy(Unavailable):
    """Another request reads from the v2 consumer instance."""

    def __init__(self) -> None:
        super().__init__("Another request is reading from this consumer instance.")


class RegistryUnavailable(Unavailable):
    """The schema registry does not answer, and the schema is not cached."""


class PublishTimeout(Unavailable):
    """The timeout of a publish passed before anything was sent to Kafka."""

    def __init__(self) -> None:
        super().__init__(
            "The timeout passed before the records were parsed and serialized. Nothing was written. Send fewer records "
            "or a longer timeout."
        )


class LeaseExpired(Unavailable):
    """The read lease of a consumer instance has expired, or the instance was deleted."""

    def __init__(self) -> None:
        super().__init__("The read took too long; the consumer instance was released.")


class MetricsElsewhere(KafkaHttpError):
    """The metrics are served on another address."""

    code = 404

    def __init__(self, bind: str) -> None:
        super().__init__(f"The metrics are not here but on the address {bind} (metrics_bind): GET /metrics there.")


class TaskNotFound(KafkaHttpError):
    """No such task."""

    code = 404


class TaskInProgress(KafkaHttpError):
    """The task's messages are being sent to Kafka."""

    code = 409

    def __init__(self) -> None:
        super().__init__("The task cannot be cancelled: its messages are being sent to Kafka.")


class TaskFinished(KafkaHttpError):
    """The task is no longer pending."""

    code = 409

    def __init__(self, status: str) -> None:
        super().__init__(
            f"The task cannot be cancelled: it is {status}. Only a pending task can be cancelled.", status=status
        )
