"""Translates kafka-python's errors: a rule, and a table of the errors that it does not fit."""

from collections.abc import Mapping

import kafka.errors as kafka

from kafka_http.errors import (
    BrokerError,
    BrokerUnavailable,
    GroupHasMembers,
    InvalidRequest,
    InvalidValue,
    KafkaHttpError,
    NotAuthorized,
    OffsetOutOfRange,
    OutcomeUnknown,
    RetriableBrokerError,
    TooLarge,
    TopicNotFound,
    status_of,
)
from kafka_http.metrics import KAFKA_ERRORS

CONNECTION_LOST = (kafka.KafkaConnectionError, kafka.NodeNotReadyError, kafka.UnknownBrokerIdError, kafka.Cancelled)
"""The connection failed or was closed. Another one may work."""

STALE_METADATA: frozenset[type[kafka.KafkaError]] = frozenset(
    {
        kafka.FencedLeaderEpochError,
        kafka.InconsistentTopicIdError,
        kafka.KafkaStorageError,
        kafka.LeaderNotAvailableError,
        kafka.ListenerNotFoundError,
        kafka.NotLeaderForPartitionError,
        kafka.OffsetNotAvailableError,
        kafka.ReplicaNotAvailableError,
        kafka.UnknownLeaderEpochError,
        kafka.UnknownTopicIdError,
        kafka.UnknownTopicOrPartitionError,
    }
)
"""Errors of a partition after which the metadata must be read again."""

HAS_MEMBERS: frozenset[type[kafka.KafkaError]] = frozenset(
    {
        kafka.CommitFailedError,
        kafka.FencedInstanceIdError,
        kafka.FencedMemberEpochError,
        kafka.GroupSubscribedToTopicError,
        kafka.IllegalGenerationError,
        kafka.InconsistentGroupProtocolError,
        kafka.MemberIdRequiredError,
        kafka.NonEmptyGroupError,
        kafka.RebalanceInProgressError,
        kafka.StaleMemberEpochError,
        kafka.UnknownMemberIdError,
        kafka.UnreleasedInstanceIdError,
    }
)

OVERRIDES: Mapping[type[kafka.KafkaError], type[KafkaHttpError]] = {
    **dict.fromkeys(HAS_MEMBERS, GroupHasMembers),
    kafka.AuthorizationError: NotAuthorized,
    kafka.InvalidTopicError: InvalidRequest,
    kafka.NoOffsetForPartitionError: OffsetOutOfRange,
    kafka.OffsetOutOfRangeError: OffsetOutOfRange,
    # Kafka rejects the record, and would reject it again
    kafka.InvalidRecordError: InvalidValue,
    kafka.InvalidTimestampError: InvalidValue,
    kafka.PolicyViolationError: InvalidValue,
    kafka.UnsupportedForMessageFormatError: InvalidValue,
    kafka.InvalidCommitOffsetSizeError: TooLarge,
    kafka.MessageSizeTooLargeError: TooLarge,
    kafka.OffsetMetadataTooLargeError: TooLarge,
    kafka.RecordListTooLargeError: TooLarge,
    # Kafka rejects the topic, or a change of it
    kafka.InvalidConfigurationError: InvalidValue,
    kafka.InvalidPartitionsError: InvalidValue,
    kafka.InvalidReplicationAssignmentError: InvalidValue,
    kafka.InvalidReplicationFactorError: InvalidValue,
    kafka.TopicDeletionDisabledError: NotAuthorized,
    # no broker answered
    kafka.BrokerNotAvailableError: BrokerUnavailable,
    kafka.Cancelled: BrokerUnavailable,
    kafka.KafkaConnectionError: BrokerUnavailable,
    kafka.KafkaTimeoutError: BrokerUnavailable,
    kafka.MetadataEmptyBrokerList: BrokerUnavailable,
    kafka.NetworkExceptionError: BrokerUnavailable,
    kafka.NodeNotReadyError: BrokerUnavailable,
    kafka.RequestTimedOutError: BrokerUnavailable,
    # the brokers reject this server's credentials: its clients cannot reach them
    kafka.IllegalSaslStateError: BrokerUnavailable,
    kafka.SaslAuthenticationFailedError: BrokerUnavailable,
    kafka.UnsupportedSaslMechanismError: BrokerUnavailable,
    # transient, but without the flag `retriable`
    kafka.BrokerIdNotRegisteredError: RetriableBrokerError,
    kafka.NewLeaderElectedError: RetriableBrokerError,
    kafka.QuotaViolationError: RetriableBrokerError,
    kafka.ReassignmentInProgressError: RetriableBrokerError,
    kafka.StaleBrokerEpochError: RetriableBrokerError,
    kafka.StaleControllerEpochError: RetriableBrokerError,
    kafka.UnknownBrokerIdError: RetriableBrokerError,
    kafka.UnknownControllerIdError: RetriableBrokerError,
}
"""Overrides the rule of `error_class`. An entry applies to subclasses, too."""

_NOT_WRITTEN = (GroupHasMembers, InvalidRequest, InvalidValue, NotAuthorized, TooLarge, TopicNotFound)

_MESSAGES: Mapping[type[KafkaHttpError], str] = {
    BrokerUnavailable: "No Kafka broker answers",
    GroupHasMembers: "The consumer group has active members",
    InvalidRequest: "Kafka does not accept this topic",
    InvalidValue: "Kafka rejected the record",
    NotAuthorized: "Kafka's ACLs do not allow this request",
    RetriableBrokerError: "Kafka cannot answer now; retry",
    TooLarge: "Kafka rejected the message",
}

_REASONS: Mapping[type[BaseException], str] = {
    kafka.ClusterAuthorizationFailedError: "this server has no permission on the cluster",
    kafka.GroupAuthorizationFailedError: "this server has no permission to use the consumer group",
    kafka.InvalidTopicError: "the topic is internal, or its name is not 1 to 249 letters, digits, '.', '_' and '-'",
    kafka.KafkaTimeoutError: "no response in time",
    kafka.MessageSizeTooLargeError: "it is larger than the topic's max.message.bytes",
    kafka.MetadataEmptyBrokerList: "the cluster has no brokers",
    kafka.NodeNotReadyError: "the connection was just lost",
    kafka.RecordListTooLargeError: "it is larger than the topic's segment.bytes",
    kafka.RequestTimedOutError: "no response in time",
    kafka.SaslAuthenticationFailedError: "the brokers reject this server's credentials",
    kafka.TopicDeletionDisabledError: "the brokers delete no topics: their setting delete.topic.enable is false",
    kafka.TopicAuthorizationFailedError: "this server has no permission for this operation on the topic",
    kafka.UnsupportedSaslMechanismError: "the brokers reject this server's sasl_mechanism",
}
"""Reasons that users get instead of kafka-python's own text."""


class Unreachable(kafka.KafkaConnectionError):
    """No connection to a broker succeeded. The text has each address and its reason."""


_CONNECTION_PROBLEMS = {
    "ECONNREFUSED": "connection refused",
    "EHOSTUNREACH": "no route to the host",
    "ENETUNREACH": "no route to the host",
    "DNS": "name not resolved",
    "timed out": "timed out",
    "Timed out": "timed out",
    "Handshake failed": "TLS handshake failed",
    "disconnected": "connection closed by the broker",
}


def connection_problem(error: BaseException) -> str:
    """Return why a connection to a broker failed, in a few words, without this server's settings."""
    text = f"{type(error).__name__} {error}"
    if found := next((words for sign, words in _CONNECTION_PROBLEMS.items() if sign in text), None):
        return found
    return _REASONS.get(type(error)) or type(error).__name__.removesuffix("Error")


def translate(
    error: BaseException | type[BaseException], topic: str | None = None, *, servers: str = ""
) -> KafkaHttpError:
    """Return the `KafkaHttpError` for an error of kafka-python: an exception, or the class that a response names.

    With `topic`, an unknown topic becomes `TopicNotFound`. A 5xx names `servers`, the addresses of Kafka, unless the
    error has those that were tried.
    """
    kind = error if isinstance(error, type) else type(error)
    if topic is not None and kind is kafka.UnknownTopicOrPartitionError:
        return TopicNotFound(topic)
    error_type = error_class(kind)
    if isinstance(error, Unreachable):
        return error_type(f"{_MESSAGES[BrokerUnavailable]}: {error.args[0]}.")
    return error_type(
        f"{_MESSAGES.get(error_type, 'Kafka answered with an error')}: {_reason(error, kind)}"
        f"{_addresses(error) or _servers(error_type, servers)}"
    )


def is_unavailable(error: kafka.KafkaError) -> bool:
    """Return whether the error means that no broker answers."""
    return error_class(type(error)) is BrokerUnavailable


def note_addresses(error: kafka.KafkaError, addresses: str) -> None:
    """Add the addresses that were tried to an error which means that no broker answers."""
    if is_unavailable(error) and not isinstance(error, Unreachable):
        error.add_note(addresses)


def _addresses(error: BaseException | type[BaseException]) -> str:
    notes = getattr(error, "__notes__", ())
    return f" Tried: {notes[0]}." if notes else ""


def _servers(error_type: type[KafkaHttpError], servers: str) -> str:
    return f" Kafka: {servers}." if servers and status_of(error_type.code) >= 500 else ""


def result_of(error: BaseException, topic: str, tried: str = "") -> KafkaHttpError:
    """Return the result of a record that the producer failed to send: rejected, or `OutcomeUnknown`.

    `tried` has the addresses of the brokers, for the second case.
    """
    translated = translate(error, topic)
    return translated if isinstance(translated, _NOT_WRITTEN) else unknown_outcome(_reason(error, type(error)), tried)


def count_error(kind: type[BaseException]) -> None:
    """Count an error of Kafka for the metrics, under its name."""
    KAFKA_ERRORS.add(1, kind.__name__.removesuffix("Error"))


def is_transient(kind: type[BaseException]) -> bool:
    """Return whether a broker names an error that may be over soon, and has written nothing."""
    return error_class(kind) in (RetriableBrokerError, BrokerUnavailable)


def unknown_outcome(reason: str, tried: str, kind: type[OutcomeUnknown] = OutcomeUnknown) -> OutcomeUnknown:
    """Return the error of a record that was sent but not acknowledged. `tried` has the addresses of the brokers."""
    addresses = f" Tried: {tried}." if tried else ""
    return kind(
        f"Kafka did not acknowledge the record in time; it may or may not have been written: {reason}{addresses}"
    )


def error_class(kind: type[BaseException]) -> type[KafkaHttpError]:
    """Return the class of the translated error.

    It is that in `OVERRIDES`, else `RetriableBrokerError` if kafka-python's class is `retriable`, else `BrokerError`.
    """
    for base in kind.__mro__:
        if base in OVERRIDES:
            return OVERRIDES[base]
    return RetriableBrokerError if getattr(kind, "retriable", False) else BrokerError


def _reason(error: BaseException | type[BaseException], kind: type[BaseException]) -> str:
    """Return the reason of an error, with Kafka's name for it.

    The text of an error from a broker repeats the whole request, so the description of its class is used instead.
    """
    name = kind.__name__.removesuffix("Error")
    reason = _REASONS.get(kind) or getattr(kind, "description", "")
    if not reason and isinstance(error, BaseException):
        reason = str(error.args[0]) if error.args else ""
    return f"{' '.join(reason.split()).rstrip('.')} ({name})." if reason else f"{name}."
