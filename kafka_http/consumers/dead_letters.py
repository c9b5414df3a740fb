"""Dead letters: messages of a queue that are about to be dropped, published to another topic first."""

import logging
from collections.abc import Callable

from kafka_http.backoff import Backoff
from kafka_http.broker_protocols import PendingPublish, Producer
from kafka_http.consumers.held_messages import HeldMessage
from kafka_http.errors import KafkaHttpError, Unavailable
from kafka_http.logs import LogOnce
from kafka_http.records import NewRecord

log = logging.getLogger(__name__)

_PUBLISH_SECONDS = 10.0
_RETRY_SECONDS = (0.5, 30.0)


class DeadLetters:
    """Publishes the dead letters of a queue. Its queue creates it. Any thread may call; it never blocks."""

    def __init__(
        self,
        producer: Producer,
        on_published: Callable[[HeldMessage], None],
        on_failed: Callable[[HeldMessage, KafkaHttpError, float], None],
    ) -> None:
        """The producer's loop, or the caller of `publish`, calls `on_published` or `on_failed`.

        `on_failed` also gets the error, and the seconds to wait before the next attempt.
        """
        self._producer = producer
        self._on_published = on_published
        self._on_failed = on_failed
        self._log = LogOnce(log)

    def publish(self, message: HeldMessage) -> None:
        """Publish the dead letter of a message to its topic `dead`, and tell the result."""
        letter = dead_letter(message)
        try:
            pending = self._producer.publish(message.dead, [letter], _PUBLISH_SECONDS)
        except KafkaHttpError as error:
            self._failed(message, error)
            return
        pending.add_done_callback(lambda: self._ended(message, pending))

    def _ended(self, message: HeldMessage, pending: PendingPublish) -> None:
        try:
            (result,) = pending.result(0)
        except KafkaHttpError as error:
            result = error
        if isinstance(result, KafkaHttpError):
            self._failed(message, result)
            return
        self._log.clear()
        self._on_published(message)

    def _failed(self, message: HeldMessage, error: KafkaHttpError) -> None:
        problem = f"The dead letter cannot be published to {message.dead} now: {error.message}"
        self._log.warning("Queue of %s: %s Retrying.", message.record.topic, problem)
        message.backoff = message.backoff or Backoff(*_RETRY_SECONDS)
        unavailable = Unavailable(f"{problem} This is retried, and until then the message stays locked.")
        self._on_failed(message, unavailable, message.backoff.next())


def dead_letter(message: HeldMessage) -> NewRecord:
    """Return the record to publish: the key, value, timestamp and headers of the message, and where it is from."""
    record = message.record
    origin = {
        "topic": record.topic,
        "partition": record.partition,
        "offset": record.offset,
        "attempts": message.attempt,
        "reason": message.drop,
    }
    added = [(f"kafka-http-dead-{name}", str(value).encode()) for name, value in origin.items()]
    return NewRecord(record.value, record.key, timestamp=record.timestamp, headers=(*record.headers, *added))
