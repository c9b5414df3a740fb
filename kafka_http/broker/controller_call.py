"""A request to the controller of the cluster, for one topic."""

import time
from collections.abc import Callable, Sequence
from typing import Any

from kafka.errors import (
    InvalidRequestError,
    InvalidTopicError,
    KafkaError,
    NoError,
    RequestTimedOutError,
    TopicAlreadyExistsError,
    for_code,
)
from kafka.net.manager import KafkaConnectionManager

from kafka_http.broker.connections import ConnectionPool
from kafka_http.broker.error_map import translate
from kafka_http.broker.topic_metadata import ask_metadata
from kafka_http.errors import (
    BrokerUnavailable,
    InvalidRequest,
    InvalidValue,
    KafkaHttpError,
    OutcomeUnknown,
    RetriableBrokerError,
    TopicExists,
)

_TIMEOUT = 15.0
"""Seconds that the controller has. To create or delete a topic with thousands of partitions takes some of them."""
CONTROLLER_MS = int(_TIMEOUT * 1000)
_RETRY_SECONDS = 5.0
_RETRY_DELAY = 0.1

Results = Callable[[Any], Sequence[Any]]
"""Returns the results by topic of a response."""


class ControllerCall:
    """A request, and its repetitions. One thread uses it, for one call of `run`."""

    def __init__(self, connections: ConnectionPool, topic: str, request: Any, results: Results) -> None:
        self._connections = connections
        self._topic = topic
        self._request = request
        self._results = results
        self._changes = not getattr(request, "validate_only", False)
        self._unanswered = 0
        """The number of times that the request was sent and had no response."""

    def run(self, done_already: type[KafkaError] | None = None) -> None:
        """Send the request, and again after a transient refusal.

        `done_already` is the refusal that means that an attempt without a response was successful. Raises the error of
        the controller, with its reason; `OutcomeUnknown` if the topic may have changed.
        """
        deadline = time.monotonic() + _RETRY_SECONDS
        while True:
            result = self._attempt()
            kind = for_code(result.error_code)
            if kind is NoError or (self._unanswered and kind is done_already):
                return
            error = self._refusal(kind, getattr(result, "error_message", None))
            if not isinstance(error, RetriableBrokerError) or time.monotonic() > deadline:
                raise error
            time.sleep(_RETRY_DELAY)

    def _attempt(self) -> Any:
        """Return the result for the topic. The pool may send the request twice, if a connection is lost."""
        try:
            [result] = self._results(self._connections.run(self._ask, _TIMEOUT))
        except BrokerUnavailable as error:
            if self._unanswered and self._changes:
                raise self._unknown_outcome(error) from error
            raise
        return result

    async def _ask(self, manager: KafkaConnectionManager) -> Any:
        controller = (await ask_metadata(manager, [])).controller_id
        connection = await manager.get_connection(controller)
        self._unanswered += 1
        response = await connection.send_request(self._request, CONTROLLER_MS)
        self._unanswered -= 1
        return response

    def _refusal(self, kind: type[KafkaError], message: str | None) -> KafkaHttpError:
        """Return the error for a refusal of the controller, with Kafka's own reason."""
        if kind is TopicAlreadyExistsError:
            return TopicExists(self._topic)
        error = translate(kind, self._topic, servers=self._connections.servers)
        if kind is RequestTimedOutError and self._changes:
            return self._unknown_outcome(error)
        if message and (isinstance(error, InvalidValue) or kind in (InvalidRequestError, InvalidTopicError)):
            name = kind.__name__.removesuffix("Error")
            reason = f"Kafka rejected the topic {self._topic}: {message.rstrip('.')} ({name})."
            rejected = InvalidRequest if kind is InvalidTopicError else InvalidValue
            return rejected(reason, topic=self._topic)
        return error

    def _unknown_outcome(self, error: KafkaHttpError) -> OutcomeUnknown:
        return OutcomeUnknown(
            f"Kafka did not answer in time, so the topic {self._topic} may or may not have changed. {error.message} "
            f"GET /messages/{self._topic} shows the topic.",
            topic=self._topic,
        )
