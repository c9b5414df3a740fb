"""What is known about a request, for its access log line and for the metrics."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

from kafka_http.metrics import count_consumed
from kafka_http.records import RecordColumns


class RequestFacts:
    """The facts of one request. The thread that handles the request changes them.

    They are complete when the response has been sent: a stream and an upload add their records until then.
    """

    __slots__ = ("bytes_in", "is_waiting", "kafka_seconds", "records", "route", "topic")

    def __init__(self, route: str = "none", topic: str = "") -> None:
        self.route = route
        """The URL rule, such as `/messages/<topic>`, never a path of a client. `none`: no rule matches."""
        self.topic = topic
        """The topic in the path, one to create, or the only one of a consumer instance's page; empty without one."""
        self.records = 0
        """Records that were written to Kafka, or sent to the client."""
        self.bytes_in: int | None = None
        """Size of the body if the view has read it while it arrived. Otherwise the server knows its size."""
        self.kafka_seconds = 0.0
        """Time that the request has waited for Kafka, also for new messages."""
        self.is_waiting = False
        """Whether the request waits for Kafka now."""


request_facts: ContextVar[RequestFacts | None] = ContextVar("request_facts", default=None)
"""The facts of the request that this thread handles. None outside of requests, such as in the daemon."""


def name_topic(topic: str) -> None:
    """Set the topic of a request that names it in its body. No effect outside of a request."""
    if (facts := request_facts.get()) is not None:
        facts.topic = topic


def count_records(number: int) -> None:
    """Add records that the current request has written or sent. No effect outside of a request."""
    if (facts := request_facts.get()) is not None:
        facts.records += number


def count_received(size: int) -> None:
    """Add bytes of a body that the current request reads while it arrives. No effect outside of a request."""
    if (facts := request_facts.get()) is not None:
        facts.bytes_in = (facts.bytes_in or 0) + size


def count_page(parts: Sequence[RecordColumns]) -> None:
    """Add the records of a page that is sent to the client: to the metrics, and to the current request if any."""
    for each in parts:
        count_consumed(each.topic, len(each), each.size)
    if (facts := request_facts.get()) is None:
        return
    facts.records += sum(map(len, parts))
    topics = {each.topic for each in parts}
    if not facts.topic and len(topics) == 1:
        (facts.topic,) = topics


def count_messages(topic: str, number: int, size: int) -> None:
    """Add messages of a queue that are sent to the client. `size` is that of their keys and values."""
    count_consumed(topic, number, size)
    count_records(number)


@contextmanager
def waiting_for_kafka() -> Iterator[None]:
    """Add the time of a block to what the current request has waited for Kafka. An inner block adds nothing."""
    facts = request_facts.get()
    if facts is None or facts.is_waiting:
        yield
        return
    facts.is_waiting, began = True, time.monotonic()
    try:
        yield
    finally:
        facts.is_waiting = False
        facts.kafka_seconds += time.monotonic() - began
