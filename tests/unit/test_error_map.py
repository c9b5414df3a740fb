"""kafka-python's errors as ours."""

import inspect

import kafka.errors
import pytest

from kafka_http.broker.error_map import EXCEPTIONS, error_class, result_of, translate
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


def test_error_map_knows_the_errors_of_the_pinned_kafka_python() -> None:
    """The exceptions were chosen with this list of errors in view; a new kafka-python needs another look."""
    assert len(CLASSES) == 156  # 157 names: CorruptRecordException is the old name of CorruptRecordError
    assert set(EXCEPTIONS) <= set(CLASSES)


@pytest.mark.parametrize("kind", sorted(EXCEPTIONS, key=lambda each: each.__name__), ids=lambda each: each.__name__)
def test_exception_that_repeats_the_rule_or_its_base_class_is_not_listed(kind: type[kafka.errors.KafkaError]) -> None:
    others = {each: ours for each, ours in EXCEPTIONS.items() if each is not kind}
    inherited = next((others[base] for base in kind.__mro__ if base in others), None)
    by_rule = RetriableBrokerError if getattr(kind, "retriable", False) else BrokerError
    assert EXCEPTIONS[kind] is not (inherited or by_rule)


@pytest.mark.parametrize("kind", CLASSES, ids=lambda each: each.__name__)
def test_translate_every_kafka_error_returns_one_clean_sentence(kind: type[kafka.errors.KafkaError]) -> None:
    ours = translate(kind)
    assert type(ours) is error_class(kind)
    assert 400 <= ours.status < 600
    assert kind.__name__.removesuffix("Error") in ours.message
    assert ours.message.endswith(".")
    assert "  " not in ours.message
    assert "\n" not in ours.message


@pytest.mark.parametrize("kind", CLASSES, ids=lambda each: each.__name__)
def test_result_of_error_after_which_the_record_may_be_written_is_unknown(kind: type[kafka.errors.KafkaError]) -> None:
    ours = result_of(kind("told"), "t")
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
def test_translate_common_error_returns_its_class(error: Exception, ours: type[KafkaHttpError]) -> None:
    assert type(translate(error)) is ours


def test_translate_unknown_topic_returns_topic_not_found() -> None:
    ours = translate(kafka.errors.UnknownTopicOrPartitionError, "t")
    assert isinstance(ours, TopicNotFound)
    assert ours.fields["topic"] == "t"


def test_translate_shows_connection_reason_but_no_request() -> None:
    assert "ECONNREFUSED" in translate(kafka.errors.KafkaConnectionError("111 ECONNREFUSED")).message
    assert "secret" not in translate(kafka.errors.InvalidRequestError("request with a secret")).message
