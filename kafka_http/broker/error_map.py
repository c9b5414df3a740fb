"""The one map from kafka-python's errors to ours: a decision for each class of `kafka.errors`."""

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
)

GONE = (kafka.KafkaConnectionError, kafka.NodeNotReadyError, kafka.UnknownBrokerIdError, kafka.Cancelled)
"""A connection that was not there or went away: another one may serve."""

MOVED: frozenset[type[kafka.KafkaError]] = frozenset(
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
"""A partition's answer that asks for a new look at the metadata."""

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

_UNAVAILABLE = (
    kafka.BrokerNotAvailableError,
    kafka.Cancelled,
    kafka.KafkaConnectionError,
    kafka.KafkaTimeoutError,
    kafka.MetadataEmptyBrokerList,
    kafka.NetworkExceptionError,
    kafka.NodeNotReadyError,
    kafka.RequestTimedOutError,
    # The brokers do not let this server in: for its clients they are not there.
    kafka.IllegalSaslStateError,
    kafka.SaslAuthenticationFailedError,
    kafka.UnsupportedSaslMechanismError,
)

_MAY_PASS = (
    *MOVED,
    kafka.BrokerIdNotRegisteredError,
    kafka.ConcurrentTransactionsError,
    kafka.CoordinatorLoadInProgressError,
    kafka.CoordinatorNotAvailableError,
    kafka.CorrelationIdError,
    kafka.ElectionNotNeededError,
    kafka.EligibleLeadersNotAvailableError,
    kafka.FetchSessionIdNotFoundError,
    kafka.FetchSessionTopicIdError,
    kafka.InvalidFetchSessionEpochError,
    kafka.InvalidMetadataError,
    kafka.InvalidShareSessionEpochError,
    kafka.NewLeaderElectedError,
    kafka.NotControllerError,
    kafka.NotCoordinatorError,
    kafka.NotEnoughReplicasAfterAppendError,
    kafka.NotEnoughReplicasError,
    kafka.PreferredLeaderNotAvailableError,
    kafka.QuotaViolationError,
    kafka.ReassignmentInProgressError,
    kafka.RetriableError,
    kafka.ShareSessionNotFoundError,
    kafka.StaleBrokerEpochError,
    kafka.StaleControllerEpochError,
    kafka.StaleMetadata,
    kafka.ThrottlingQuotaExceededError,
    kafka.TooManyInFlightRequests,
    kafka.UnknownBrokerIdError,
    kafka.UnknownControllerIdError,
    kafka.UnstableOffsetCommitError,
)

_NOT_AUTHORIZED = (
    kafka.AuthorizationError,
    kafka.ClusterAuthorizationFailedError,
    kafka.DelegationTokenAuthorizationFailedError,
    kafka.GroupAuthorizationFailedError,
    kafka.TopicAuthorizationFailedError,
    kafka.TransactionalIdAuthorizationFailedError,
)

_REFUSED_RECORD = (
    kafka.InvalidRecordError,
    kafka.InvalidTimestampError,
    kafka.PolicyViolationError,
    kafka.UnsupportedForMessageFormatError,
)

_TOO_LARGE = (
    kafka.InvalidCommitOffsetSizeError,
    kafka.MessageSizeTooLargeError,
    kafka.OffsetMetadataTooLargeError,
    kafka.RecordListTooLargeError,
)

_INVALID_REQUEST = (kafka.InvalidTopicError,)

_OUT_OF_RANGE = (kafka.NoOffsetForPartitionError, kafka.OffsetOutOfRangeError)

_ANSWERED = (
    # of the broker
    kafka.BrokerResponseError,
    kafka.CorruptRecordError,
    kafka.DuplicateBrokerRegistrationError,
    kafka.DuplicateResourceError,
    kafka.DuplicateVoterError,
    kafka.FeatureUpdateFailedError,
    kafka.FencedStateEpochError,
    kafka.GroupIdNotFoundError,
    kafka.GroupMaxSizeReachedError,
    kafka.IncompatibleBrokerVersion,
    kafka.InconsistentClusterIdError,
    kafka.InconsistentVoterSetError,
    kafka.IneligibleReplicaError,
    kafka.InvalidConfigurationError,
    kafka.InvalidFetchRequestError,
    kafka.InvalidGroupIdError,
    kafka.InvalidPartitionsError,
    kafka.InvalidPrincipalTypeError,
    kafka.InvalidRecordStateError,
    kafka.InvalidRegistrationError,
    kafka.InvalidReplicationAssignmentError,
    kafka.InvalidReplicationFactorError,
    kafka.InvalidRequestError,
    kafka.InvalidRequiredAcksError,
    kafka.InvalidSessionTimeoutError,
    kafka.InvalidUpdateVersionError,
    kafka.InvalidVoterKeyError,
    kafka.LogDirNotFoundError,
    kafka.MismatchedEndpointTypeError,
    kafka.NoError,
    kafka.NoReassignmentInProgressError,
    kafka.OffsetMovedToTieredStorageError,
    kafka.OperationNotAttemptedError,
    kafka.PositionOutOfRangeError,
    kafka.PrincipalDeserializationFailureError,
    kafka.ResourceNotFoundError,
    kafka.SecurityDisabledError,
    kafka.SnapshotNotFoundError,
    kafka.TelemetryTooLargeError,
    kafka.TopicAlreadyExistsError,
    kafka.TopicDeletionDisabledError,
    kafka.UnacceptableCredentialError,
    kafka.UnknownError,
    kafka.UnknownSubscriptionIdError,
    kafka.UnsupportedAssignorError,
    kafka.UnsupportedCompressionTypeError,
    kafka.UnsupportedEndpointTypeError,
    kafka.UnsupportedVersionError,
    kafka.VoterNotFoundError,
    # delegation tokens
    kafka.DelegationTokenAuthDisabledError,
    kafka.DelegationTokenExpiredError,
    kafka.DelegationTokenNotFoundError,
    kafka.DelegationTokenOwnerMismatchError,
    kafka.DelegationTokenRequestNotAllowedError,
    # idempotence and transactions
    kafka.DuplicateSequenceNumberError,
    kafka.InvalidProducerEpochError,
    kafka.InvalidProducerIdMappingError,
    kafka.InvalidTransactionTimeoutError,
    kafka.InvalidTxnStateError,
    kafka.OutOfOrderSequenceNumberError,
    kafka.ProducerFencedError,
    kafka.TransactionAbortableError,
    kafka.TransactionAbortedError,
    kafka.TransactionCoordinatorFencedError,
    kafka.TransactionalIdNotFoundError,
    kafka.UnknownProducerIdError,
    # of the client library itself
    kafka.IllegalArgumentError,
    kafka.IllegalStateError,
    kafka.InvalidReceiveError,
    kafka.KafkaConfigurationError,
    kafka.KafkaError,
    kafka.KafkaProtocolError,
    kafka.LogTruncationError,
    kafka.UnrecognizedBrokerVersion,
    kafka.UnsupportedCodecError,
)

DECISIONS: Mapping[type[kafka.KafkaError], type[KafkaHttpError]] = {
    **dict.fromkeys(_ANSWERED, BrokerError),
    **dict.fromkeys(_MAY_PASS, RetriableBrokerError),
    **dict.fromkeys(_UNAVAILABLE, BrokerUnavailable),
    **dict.fromkeys(_NOT_AUTHORIZED, NotAuthorized),
    **dict.fromkeys(HAS_MEMBERS, GroupHasMembers),
    **dict.fromkeys(_REFUSED_RECORD, InvalidValue),
    **dict.fromkeys(_TOO_LARGE, TooLarge),
    **dict.fromkeys(_INVALID_REQUEST, InvalidRequest),
    **dict.fromkeys(_OUT_OF_RANGE, OffsetOutOfRange),
}

_REFUSED = (GroupHasMembers, InvalidRequest, InvalidValue, NotAuthorized, TooLarge, TopicNotFound)

_SENTENCES: Mapping[type[KafkaHttpError], str] = {
    BrokerUnavailable: "No Kafka broker answers",
    GroupHasMembers: "The consumer group has live members of its own",
    InvalidRequest: "Kafka does not take this topic",
    InvalidValue: "Kafka refuses the record",
    NotAuthorized: "Kafka's ACLs do not allow this",
    RetriableBrokerError: "Kafka cannot answer just now, try again",
    TooLarge: "Kafka does not take the message",
}


_REASONS: Mapping[type[BaseException], str] = {
    kafka.ClusterAuthorizationFailedError: "this server has no permission to do it on the cluster",
    kafka.GroupAuthorizationFailedError: "this server has no permission to use the consumer group",
    kafka.InvalidTopicError: "it is internal, or its name is not 1 to 249 letters, digits, '.', '_' and '-'",
    kafka.KafkaTimeoutError: "no answer in time",
    kafka.MessageSizeTooLargeError: "it is over the topic's max.message.bytes",
    kafka.MetadataEmptyBrokerList: "the cluster has none",
    kafka.NodeNotReadyError: "the connection was lost a moment ago",
    kafka.RecordListTooLargeError: "it is over the topic's segment.bytes",
    kafka.RequestTimedOutError: "no answer in time",
    kafka.SaslAuthenticationFailedError: "they do not accept this server's credentials",
    kafka.TopicAuthorizationFailedError: "this server has no permission to use the topic so",
    kafka.UnsupportedSaslMechanismError: "they do not accept this server's sasl_mechanism",
}
"""Where kafka-python's own words are not for a user."""


class Unreachable(kafka.KafkaConnectionError):
    """No connection to brokers could be made; the text has each address, and why it failed."""


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
    """Why a connection to a broker failed, in a few words without anything of this server's settings."""
    text = f"{type(error).__name__} {error}"
    if found := next((words for sign, words in _CONNECTION_PROBLEMS.items() if sign in text), None):
        return found
    return _REASONS.get(type(error)) or type(error).__name__.removesuffix("Error")


def translate(error: BaseException | type[BaseException], topic: str | None = None) -> KafkaHttpError:
    """Our error for one of kafka-python's, given as it was raised or as the class that an answer names.

    Where the topic asked for is given, Kafka's not knowing it is a `TopicNotFound`.
    """
    kind = error if isinstance(error, type) else type(error)
    if topic is not None and kind is kafka.UnknownTopicOrPartitionError:
        return TopicNotFound(topic)
    ours = _decision(kind)
    if isinstance(error, Unreachable):
        return ours(f"{_SENTENCES[BrokerUnavailable]}: {error.args[0]}.")
    return ours(f"{_SENTENCES.get(ours, 'Kafka answered with an error')}: {_reason(error, kind)}{_asked(error)}")


def is_unavailable(error: kafka.KafkaError) -> bool:
    """Whether it says that no broker answers."""
    return _decision(type(error)) is BrokerUnavailable


def note_asked(error: kafka.KafkaError, addresses: str) -> None:
    """Let an error that no broker answers name the addresses that were asked."""
    if is_unavailable(error) and not isinstance(error, Unreachable):
        error.add_note(addresses)


def _asked(error: BaseException | type[BaseException]) -> str:
    notes = getattr(error, "__notes__", ())
    return f" Asked: {notes[0]}." if notes else ""


def outcome_of(error: BaseException, topic: str, asked: str = "") -> KafkaHttpError:
    """What became of a record that was handed to the producer: refused for certain, or nobody knows.

    `asked` has the addresses of the brokers, for the second case.
    """
    ours = translate(error, topic)
    return ours if isinstance(ours, _REFUSED) else unknown_outcome(_reason(error, type(error)), asked)


def is_refusal(error: BaseException) -> bool:
    """Whether Kafka has not written a record, and would not if asked again."""
    return issubclass(_decision(type(error)), _REFUSED)


def unknown_outcome(reason: str, asked: str, kind: type[OutcomeUnknown] = OutcomeUnknown) -> OutcomeUnknown:
    addresses = f" Asked: {asked}." if asked else ""
    return kind(
        f"Kafka did not acknowledge the record in time, so it may or may not have been written: {reason}{addresses}"
    )


def _decision(kind: type[BaseException]) -> type[KafkaHttpError]:
    for base in kind.__mro__:
        if base in DECISIONS:
            return DECISIONS[base]
    return BrokerError


def _reason(error: BaseException | type[BaseException], kind: type[BaseException]) -> str:
    """What Kafka calls it. The texts of broker errors repeat whole requests, so the class speaks for them."""
    name = kind.__name__.removesuffix("Error")
    told = _REASONS.get(kind) or getattr(kind, "description", "")
    if not told and isinstance(error, BaseException):
        told = str(error.args[0]) if error.args else ""
    return f"{' '.join(told.split()).rstrip('.')} ({name})." if told else f"{name}."
