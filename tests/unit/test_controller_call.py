"""Requests to the controller: refusals, repetitions, and attempts without a response."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from kafka.errors import KafkaConnectionError, NotControllerError, RequestTimedOutError, TopicAlreadyExistsError

from kafka_http.broker import controller_call
from kafka_http.broker.controller_call import ControllerCall
from kafka_http.errors import BrokerUnavailable, OutcomeUnknown, RetriableBrokerError, TopicExists

LOST = KafkaConnectionError
OK = 0


class StubConnections:
    """A pool whose controller answers with error codes, or loses the connection after it got the request (`LOST`).

    `None`: no broker can be reached.
    """

    servers = "kafka1:9092"

    def __init__(self, answers: Sequence[Any]) -> None:
        self._answers = list(answers)

    def run(self, exchange: Any, timeout: float) -> Any:
        coroutine = exchange(self)
        try:
            coroutine.send(None)
        except StopIteration as end:
            return end.value
        except KafkaConnectionError:
            raise BrokerUnavailable("No Kafka broker answers: kafka1:9092 (timed out).") from None
        raise AssertionError("the exchange waits")

    async def get_connection(self, node: int) -> Any:
        if self._answers[0] is None:
            raise KafkaConnectionError
        return self

    async def send_request(self, request: Any, timeout_ms: int) -> Any:
        answer = self._answers.pop(0)
        if answer is LOST:
            raise KafkaConnectionError
        return [SimpleNamespace(error_code=answer, error_message=None)]


@pytest.fixture(autouse=True)
def controller(monkeypatch: pytest.MonkeyPatch) -> None:
    async def metadata(manager: Any, topics: Any) -> Any:
        return SimpleNamespace(controller_id=1)

    monkeypatch.setattr(controller_call, "ask_metadata", metadata)
    monkeypatch.setattr(controller_call, "_RETRY_DELAY", 0)


def call(*answers: Any, validate_only: bool = False) -> ControllerCall:
    connections: Any = StubConnections(answers)
    return ControllerCall(connections, "t", SimpleNamespace(validate_only=validate_only), list)


def test_request_is_repeated_after_a_transient_refusal() -> None:
    call(NotControllerError.errno, NotControllerError.errno, OK).run()


def test_transient_refusals_end_after_the_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(controller_call, "_RETRY_SECONDS", -1)
    with pytest.raises(RetriableBrokerError):
        call(NotControllerError.errno).run()


def test_request_without_a_response_may_have_been_done() -> None:
    with pytest.raises(OutcomeUnknown, match=r"topic t may or may not have changed.*kafka1:9092"):
        call(LOST).run()
    with pytest.raises(OutcomeUnknown, match="may or may not have changed"):
        call(RequestTimedOutError.errno).run()


def test_request_that_was_not_sent_or_that_only_validates_did_nothing() -> None:
    for not_done in (call(None), call(LOST, validate_only=True), call(RequestTimedOutError.errno, validate_only=True)):
        with pytest.raises(BrokerUnavailable):
            not_done.run()


def test_topic_that_an_attempt_without_a_response_has_created_is_no_error() -> None:
    """The pool repeats a request on a new connection when it loses the old one."""
    repeated = call(LOST, TopicAlreadyExistsError.errno)
    with pytest.raises(OutcomeUnknown):
        repeated.run(TopicAlreadyExistsError)
    repeated.run(TopicAlreadyExistsError)
    with pytest.raises(TopicExists):
        call(TopicAlreadyExistsError.errno).run(TopicAlreadyExistsError)
