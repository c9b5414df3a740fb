"""A client of Kafka that is closed at the end."""

from collections.abc import Iterator
from contextlib import contextmanager

from kafka_http.broker import KafkaBroker
from kafka_http.config import Config


@contextmanager
def open_broker(config: Config) -> Iterator[KafkaBroker]:
    """Open a broker, and close it also if the test fails: its calls and its threads would not end."""
    broker = KafkaBroker(config)
    try:
        yield broker
    finally:
        broker.close(5)
