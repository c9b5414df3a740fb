"""kafka-python's errors as ours."""

import inspect
from collections.abc import Callable, Iterator

import kafka.errors
import pytest

from kafka_http.administration import TopicSettings
from kafka_http.broker import KafkaBroker
from kafka_http.broker.error_map import OVERRIDES, error_class, note_addresses, result_of, translate
from kafka_http.config.sources import load_config
from kafka_http.demo.local_resources import free_ports
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
from kafka_http.records import NewRecord

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
    assert set(OVERRIDES) <= set(CLASSES)


@pytest.mark.parametrize("kind", sorted(OVERRIDES, key=lambda each: each.__name__), ids=lambda each: each.__name__)
def test_exception_that_repeats_the_rule_or_its_base_class_is_not_listed(kind: type[kafka.errors.KafkaError]) -> None:
    others = {each: ours for each, ours in OVERRIDES.items() if each is not kind}
    inherited = next((others[base] for base in kind.__mro__ if base in others), None)
    by_rule = RetriableBrokerError if getattr(kind, "retriable", False) else BrokerError
    assert OVERRIDES[kind] is not (inherited or by_rule)


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


@pytest.mark.parametrize("kind", CLASSES, ids=lambda each: each.__name__)
def test_error_that_is_a_5xx_names_the_addresses_of_kafka(kind: type[kafka.errors.KafkaError]) -> None:
    error = translate(kind, "t", servers="kafka1:9092, kafka2:9092")
    assert error.message.endswith(" Kafka: kafka1:9092, kafka2:9092.") == (error.status >= 500)


def test_error_with_the_addresses_that_were_tried_has_no_others() -> None:
    error = kafka.errors.RequestTimedOutError()
    note_addresses(error, "kafka3:9092 (timed out)")
    assert translate(error, servers="kafka1:9092").message.endswith(" Tried: kafka3:9092 (timed out).")


CALLS: dict[str, Callable[[KafkaBroker], object]] = {
    "topics": lambda broker: broker.log.topics(),
    "partitions": lambda broker: broker.log.partitions("t"),
    "offsets": lambda broker: broker.log.offsets("t", {0: "latest"}),
    "configs": lambda broker: broker.log.configs("t"),
    "committed": lambda broker: broker.groups.committed("g", "t", [0]),
    "members": lambda broker: broker.groups.members("g"),
    "acls": lambda broker: broker.acls.describe_acls(),
    "create": lambda broker: broker.topic_admin.create("t", TopicSettings(None, None, {})),
    "publish": lambda broker: broker.producer.publish("t", [NewRecord(b"x")], 0.5).result(),
}


@pytest.fixture(scope="module")
def unreachable() -> Iterator[KafkaBroker]:
    (port,) = free_ports(1)
    broker = KafkaBroker(load_config({"bootstrap_servers": f"127.0.0.1:{port}"}, environ={}))
    yield broker
    broker.close(0)


@pytest.mark.parametrize("call", CALLS)
def test_error_of_each_call_names_the_address_that_does_not_answer(unreachable: KafkaBroker, call: str) -> None:
    with pytest.raises(BrokerUnavailable, match=r"127\.0\.0\.1:\d+"):
        CALLS[call](unreachable)
