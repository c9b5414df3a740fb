"""The producer's connections to the brokers that lead partitions: one for each broker."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from kafka_http.backoff import Backoff
from kafka_http.broker.partition_queue import Batch
from kafka_http.broker.produce_connection import OnResponse, ProduceConnection
from kafka_http.broker.produce_requests import ProduceProtocol
from kafka_http.broker.producer_calls import OpenedConnection, ProducerCalls
from kafka_http.errors import KafkaHttpError
from kafka_http.event_loop import EventLoop

log = logging.getLogger(__name__)

_MAX_BACKOFF_SECONDS = 1.0


class LeaderConnections:
    """Opens a connection to a broker when it is first needed, and again after it is lost or its login is old.

    The producer creates it. Only the loop's thread calls it, apart from `addresses_tried`.
    """

    def __init__(
        self,
        settings: Mapping[str, Any],
        calls: ProducerCalls,
        *,
        on_response: OnResponse,
        on_lost: Callable[[Sequence[Batch]], None],
        on_opened: Callable[[int], None],
        on_failed: Callable[[int], None],
        call_in_loop: Callable[..., None],
    ) -> None:
        """`on_lost` gets the batches that were in flight, `on_opened` and `on_failed` a broker's node id.

        `call_in_loop` lets the loop make a call; any thread may call it.
        """
        self._client_id: str = settings["client_id"]
        self._request_ms: int = settings["request_timeout_ms"]
        self._retry_backoff = settings["retry_backoff_ms"] / 1000
        self._calls = calls
        self._on_response = on_response
        self._on_lost = on_lost
        self._on_opened = on_opened
        self._on_failed = on_failed
        self._call_in_loop = call_in_loop
        self._loop: EventLoop | None = None
        self._open: dict[int, ProduceConnection] = {}
        self._replaced: set[ProduceConnection] = set()
        """Those that wait for their last responses."""
        self._opening: set[int] = set()
        self._backoffs: dict[int, tuple[float, Backoff]] = {}
        """For brokers that could not be reached: the time of the next attempt, and the backoff after it."""
        self._problems: dict[int, str] = {}
        self._is_closed = False

    def addresses_tried(self) -> str:
        """Return the addresses of the brokers, each with the reason if it cannot be reached. Any thread may call."""
        problems, addresses = self._problems, self._calls.addresses.items()
        return ", ".join(f"{each} ({problems[node]})" if node in problems else each for node, each in addresses)

    def use(self, loop: EventLoop) -> None:
        """Use this loop, in place of one that has ended."""
        self._loop = loop
        for each in self._all():
            each.move(loop)

    def get(self, node: int | None, now: float) -> ProduceConnection | None:
        """Return the connection to a broker. If there is none, open one, and return None until then."""
        if node is None:
            return None
        connection = self._open.get(node)
        is_usable = connection is not None and connection.is_usable(now)
        if connection is None or not is_usable or now >= connection.renew_at:
            self._connect(node, now)
        return connection if is_usable else None

    def close_late(self, now: float) -> None:
        """Close the connections on which a response is late."""
        for each in self._all():
            each.close_if_late(now, self._request_ms / 1000)

    def close(self) -> None:
        """Close all connections, and open no more."""
        self._is_closed = True
        for each in self._all():
            each.close("shutdown")

    def _all(self) -> list[ProduceConnection]:
        return [*self._open.values(), *self._replaced]

    def _connect(self, node: int, now: float) -> None:
        """Connect to a broker in a helper thread, unless this failed a moment ago."""
        not_before, _ = self._backoffs.get(node, (0.0, None))
        if node in self._opening or now < not_before or self._is_closed:
            return
        self._opening.add(node)
        self._calls.submit(self._calls.connect, node, then=partial(self._call_in_loop, self._on_connected, node))

    def _on_connected(self, node: int, opened: OpenedConnection | None, error: KafkaHttpError | None) -> None:
        self._opening.discard(node)
        if opened is None:
            _, backoff = self._backoffs.get(node, (0.0, Backoff(self._retry_backoff, _MAX_BACKOFF_SECONDS)))
            self._backoffs[node] = time.monotonic() + backoff.next(), backoff
            self._problems[node] = _problem(error)
            log.debug("Broker %s cannot be reached: %s", node, error)
            self._on_failed(node)
        elif self._is_closed:
            opened.taken.sock.close()
        else:
            self._add(node, opened)

    def _add(self, node: int, opened: OpenedConnection) -> None:
        self._backoffs.pop(node, None)
        self._problems.pop(node, None)
        before = self._open.get(node)
        assert self._loop is not None  # noqa: S101  it makes this call
        self._open[node] = ProduceConnection(
            self._loop,
            node,
            opened.taken.sock,
            ProduceProtocol(opened.version, self._client_id, self._request_ms),
            lifetime=opened.taken.lifetime,
            on_response=self._on_response,
            on_lost=self._on_connection_lost,
        )
        if before is not None:
            self._replaced.add(before)
            before.retire()
        self._on_opened(node)

    def _on_connection_lost(self, connection: ProduceConnection, batches: Sequence[Batch], reason: str) -> None:
        self._replaced.discard(connection)
        if self._open.get(connection.node) is connection:
            del self._open[connection.node]
            self._problems[connection.node] = reason
        self._on_lost(batches)


def _problem(error: KafkaHttpError | None) -> str:
    """Return the reason from an error that names it after an address, in parentheses."""
    text = "" if error is None else error.message
    return text[text.rfind("(") + 1 : text.rfind(")")] or "cannot be reached"
