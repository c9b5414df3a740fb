"""What is known about a request, for its access log line and for the metrics."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar


class RequestFacts:
    """The facts of one request. The thread that handles the request changes them.

    They are complete when the response has been sent: a stream and an upload add their records until then.
    """

    __slots__ = ("kafka_seconds", "records", "route", "topic")

    def __init__(self, route: str = "none", topic: str = "") -> None:
        self.route = route
        """The URL rule, such as `/messages/<topic>`, never a path of a client. `none`: no rule matches."""
        self.topic = topic
        """The topic in the path; empty without one."""
        self.records = 0
        """Records that were written to Kafka, or sent to the client."""
        self.kafka_seconds = 0.0
        """Time that the request has waited for Kafka."""


request_facts: ContextVar[RequestFacts | None] = ContextVar("request_facts", default=None)
"""The facts of the request that this thread handles. None outside of requests, such as in the daemon."""


def count_records(number: int) -> None:
    """Add records that the current request has written or sent. No effect outside of a request."""
    if (facts := request_facts.get()) is not None:
        facts.records += number


@contextmanager
def waiting_for_kafka() -> Iterator[None]:
    """Add the time of a block to what the current request has waited for Kafka. Do not nest."""
    facts, began = request_facts.get(), time.monotonic()
    try:
        yield
    finally:
        if facts is not None:
            facts.kafka_seconds += time.monotonic() - began
