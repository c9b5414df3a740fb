"""Requests without a thread: the main loop starts them and sends the response when it is known."""

import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

from kafka_http.event_loop import guarded
from kafka_http.logs import request_id
from kafka_http.metrics import RequestTally
from kafka_http.server.access_log import AccessLog
from kafka_http.server.app_interface import (
    Client,
    FastPathHandler,
    FastPathResponse,
    OnSent,
    PendingResponse,
    PreparedRequest,
)
from kafka_http.server.client_connection import ClientConnection, GroupedTimeouts, LoggedRequest
from kafka_http.server.fast_path_parser import FastPathHead
from kafka_http.server.gunicorn_responses import render
from kafka_http.server.prepared_heads import PreparedHead, PreparedHeads

_FORWARDED = frozenset(("x-forwarded-for", "forwarded"))


class FastPathWorker(Protocol):
    """What the fast path needs of the worker."""

    log: Any

    @property
    def allows_keepalive(self) -> bool:
        """Whether a connection may be kept open for another request."""

    def count_request(self) -> None:
        """Count a request toward gunicorn's `max_requests`."""


class FastPath:
    """The pending requests of a main loop, which calls all methods."""

    def __init__(
        self,
        worker: FastPathWorker,
        handler: FastPathHandler,
        call_soon: Callable[..., None],
        send_response: Callable[[ClientConnection, bytes, OnSent | None], None],
    ) -> None:
        """`call_soon` is that of the loop. `send_response` sends a whole response to a client."""
        self.pending = GroupedTimeouts()
        """Connections whose response is not known."""
        self.find_head = PreparedHeads(handler, self._prepare).find
        self._worker = worker
        self._handler = handler
        self._call_soon = call_soon
        self._send_response = send_response
        self._access_log = AccessLog(worker.log)
        self._tally = RequestTally()
        self._done: deque[tuple[ClientConnection, PendingResponse]] = deque()
        """Responses that are known, with their connections."""
        self._finished: list[tuple[ClientConnection, FastPathResponse]] = []
        """Responses that are counted next, then sent."""
        self._is_scheduled = False
        """Whether the loop will call `_respond_to_done`."""

    def start(self, connection: ClientConnection, head: PreparedHead, body: bytes) -> bool:
        """Start a request, or do nothing and return False if it needs a view."""
        connection.started = time.monotonic()
        pending = head.prepared.start(body, connection.client.connection)
        request_id.set("-")  # the loop's next log lines are about other requests
        if pending is None:
            return False
        connection.pending_response, connection.method = pending, head.parsed.method
        connection.closes_after_response = head.parsed.is_last
        if self._access_log.is_on:
            connection.logged_request = LoggedRequest(head.parsed, len(body), time.monotonic())
        self.pending.add(connection, pending.timeout)
        pending.add_done_callback(partial(self._on_done, connection, pending))
        return True

    def expire(self, now: float) -> None:
        """Respond to the requests whose response is not known in time."""
        if expired := self.pending.pop_expired(now):
            for connection in expired:
                self._finish(connection, now)
            self._send_finished()

    def _prepare(self, head: FastPathHead, client: Client) -> PreparedRequest | None:
        if self._access_log.is_on and not _FORWARDED.isdisjoint(head.headers):
            return None  # only the application finds out the client's address
        return self._handler.prepare(head.method, head.target, head.headers, client)

    def _on_done(self, connection: ClientConnection, pending: PendingResponse) -> None:
        """Let the loop respond. Any thread may call."""
        self._done.append((connection, pending))
        if not self._is_scheduled:
            self._is_scheduled = True
            self._call_soon(self._respond_to_done)

    def _respond_to_done(self) -> None:
        """Respond to all requests that are done, in one go."""
        self._is_scheduled = False  # before the first is taken, so that none is left behind
        now = time.monotonic()
        for _ in range(len(self._done)):
            connection, pending = self._done.popleft()
            if connection.pending_response is pending:  # otherwise its timeout was over before
                self.pending.discard(connection, pending.timeout)
                self._finish(connection, now)
        self._send_finished()

    def _finish(self, connection: ClientConnection, now: float) -> None:
        """Prepare the response, and add it to the tally. The caller has removed the connection from `pending`."""
        pending, connection.pending_response = connection.pending_response, None
        if pending is not None:
            response = pending.finish()
            self._tally.add(response.route, connection.method, response.status, now - connection.started)
            self._finished.append((connection, response))

    def _send_finished(self) -> None:
        """Send the responses after all of them are counted.

        Writing the counts once for many requests costs less. If the process is killed between the two, requests are
        counted that were not answered, never the other way round.
        """
        self._tally.write()
        request_id.set("-")  # the requests have set it
        finished, self._finished = self._finished, []
        for connection, response in finished:
            guarded(self._send, connection, response)

    def _send(self, connection: ClientConnection, response: FastPathResponse) -> None:
        worker = self._worker
        worker.count_request()
        if connection.logged_request is not None:
            self._access_log.write(connection, response)
        if not connection.is_closed:
            is_last = connection.closes_after_response = connection.closes_after_response or not worker.allows_keepalive
            self._send_response(connection, render(response, is_last=is_last), response.on_sent)
        elif response.on_sent is not None:  # the client was disconnected before its response was known
            response.on_sent(False)
