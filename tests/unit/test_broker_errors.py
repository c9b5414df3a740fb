"""kafka-python's errors as ours."""

import inspect

import kafka.errors
import pytest

from kafka_http.broker.error_map import DECISIONS, outcome_of, translate
from kafka_http.errors import (
    BrokerError,
    BrokerUnavailable,
    KafkaHttpError,
    NotAuthorized,
    OutcomeUnknown,
    RetriableBrokerError,
    TooLarge,
    TopicNotFound,
)

CLASSES = sorted(
    {
        each
        for each in vars(kafka.errors).values()
        if inspect.isclass(each) and issubclass(each, kafka.errors.KafkaError)
    },
    key=lambda each: each.__name__,
)


def test_kafka_python_has_the_errors_that_were_decided() -> None:
    assert len(CLASSES) == 156  # 157 names: CorruptRecordException is the old name of CorruptRecordError
    assert set(DECISIONS) == set(CLASSES)


@pytest.mark.parametrize("kind", CLASSES, ids=lambda each: each.__name__)
def test_every_error_has_an_answer_of_its_own(kind: type[kafka.errors.KafkaError]) -> None:
    ours = translate(kind)
    assert type(ours) is DECISIONS[kind]
    assert 400 <= ours.status < 600
    assert kind.__name__.removesuffix("Error") in ours.message
    assert ours.message.endswith(".")
    assert "  " not in ours.message and "\n" not in ours.message


@pytest.mark.parametrize("kind", CLASSES, ids=lambda each: each.__name__)
def test_what_may_have_been_written_is_never_called_refused(kind: type[kafka.errors.KafkaError]) -> None:
    ours = outcome_of(kind("told"), "t")
    assert not isinstance(ours, BrokerUnavailable | RetriableBrokerError)
    assert isinstance(ours, OutcomeUnknown) == (ours.status == 504)
    if issubclass(kind, kafka.errors.RetriableError) and kind is not kafka.errors.UnknownTopicOrPartitionError:
        assert isinstance(ours, OutcomeUnknown)


@pytest.mark.parametrize(
    ("error", "ours"),
    [
        (kafka.errors.KafkaConnectionError("111 ECONNREFUSED"), BrokerUnavailable),
        (kafka.errors.RequestTimedOutError(), BrokerUnavailable),
        (kafka.errors.SaslAuthenticationFailedError("told"), BrokerUnavailable),
        (kafka.errors.TopicAuthorizationFailedError("t"), NotAuthorized),
        (kafka.errors.NotLeaderForPartitionError, RetriableBrokerError),
        (kafka.errors.MessageSizeTooLargeError("a whole request"), TooLarge),
        (kafka.errors.UnknownError(), BrokerError),
        (kafka.errors.UnknownTopicOrPartitionError(), RetriableBrokerError),
        (ValueError("not of kafka"), BrokerError),
    ],
)
def test_decisions_that_matter_most(error: Exception, ours: type[KafkaHttpError]) -> None:
    assert type(translate(error)) is ours


def test_an_unknown_topic_is_named() -> None:
    ours = translate(kafka.errors.UnknownTopicOrPartitionError, "t")
    assert isinstance(ours, TopicNotFound)
    assert ours.fields["topic"] == "t"


def test_a_connections_reason_is_told_and_a_request_is_not() -> None:
    assert "ECONNREFUSED" in translate(kafka.errors.KafkaConnectionError("111 ECONNREFUSED")).message
    assert "secret" not in translate(kafka.errors.InvalidRequestError("request with a secret")).message
