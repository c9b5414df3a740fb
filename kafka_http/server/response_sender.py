"""Sends what clients do not take at once, and finds out whether they have taken it."""

import logging
from selectors import EVENT_WRITE
from typing import Protocol

from kafka_http.event_loop import EventLoop
from kafka_http.server.app_interface import RequestPolicy
from kafka_http.server.client_connection import ClientConnection, ConnectionTimeouts
from kafka_http.server.request_receiver import SMALL_BYTES

log = logging.getLogger(__name__)

_DOUBT_SECONDS = 0.5
"""Time in which a client that has gone refuses a response: longer than a round trip. One that waits does nothing."""
_CHECK_SECONDS = 1.0
"""Interval of looking for slow clients, and the minimum age of a response that is given up."""


class SendingLoop(Protocol):
    """What the sender needs of the connection loop."""

    def unwatch(self, connection: ClientConnection) -> None:
        """Stop waiting for the socket."""

    def continue_response(self, connection: ClientConnection) -> None:
        """Continue with a response whose data so far is sent."""

    def end_response(self, connection: ClientConnection) -> None:
        """End a response that was sent: wait for the next request, or close the connection."""

    def drop(self, connection: ClientConnection) -> None:
        """Close a connection."""


class ResponseSender:
    """The connections with unsent data. The connection loop makes it, and calls all methods."""

    def __init__(self, connections: SendingLoop, main_loop: EventLoop, policy: RequestPolicy, stall: float) -> None:
        """`stall`: seconds without progress after which a client is disconnected."""
        self.unsent = ConnectionTimeouts()
        """Connections with data that their clients have not accepted."""
        self.doubtful = ConnectionTimeouts()
        """Connections that have sent a response after the client closed its side."""
        self._connections = connections
        self._main_loop = main_loop
        self._policy = policy
        self._stall = stall
        self._next_check = 0.0

    def send_rest(self, connection: ClientConnection) -> None:
        """Send the unsent data when the client accepts it, then continue the response."""
        self._connections.unwatch(connection)
        connection.is_watched = True
        self._main_loop.register(connection, EVENT_WRITE, self._on_writable)
        self.unsent.add(connection, self._stall)

    def end(self, connection: ClientConnection) -> None:
        """End a response that was sent. A client that had closed its side may have gone: wait whether it refuses."""
        if connection.on_sent is not None and connection.has_eof:
            connection.is_watched = True
            self._main_loop.register(connection, 0, self._on_refused)  # errors only
            self.doubtful.add(connection, _DOUBT_SECONDS)
        else:
            self._connections.end_response(connection)

    def expire(self, now: float) -> None:
        """Close stalled connections, and the slowest ones if unsent data uses too much memory."""
        for connection in self.unsent.pop_expired(now):
            log.info("Closed a connection after %s s without progress.", self._stall)
            self._connections.drop(connection)
        for connection in self.doubtful.pop_expired(now):
            self._connections.unwatch(connection)
            self._connections.end_response(connection)
        if len(self.unsent) > 1 and now >= self._next_check:
            self._next_check = now + _CHECK_SECONDS
            self._limit_unsent(now)

    def discard(self, connection: ClientConnection) -> None:
        """Forget a connection."""
        self.unsent.discard(connection)
        self.doubtful.discard(connection)

    def _on_writable(self, connection: ClientConnection) -> None:
        if connection not in self.unsent:
            return
        try:
            has_progress = connection.send_buffer.flush()
        except OSError:
            self._connections.drop(connection)
            return
        if not connection.send_buffer.unsent:
            self.unsent.discard(connection)
            self._connections.unwatch(connection)
            self._connections.continue_response(connection)
        elif has_progress:
            self.unsent.add(connection, self._stall)

    def _on_refused(self, connection: ClientConnection) -> None:
        if connection in self.doubtful:
            self._connections.drop(connection)

    def _limit_unsent(self, now: float) -> None:
        """Close the slowest connections if unsent data uses most of `max_answers_in_flight`."""
        excess = sum(each.send_buffer.size for each in self.unsent) - self._policy.max_answers_in_flight * 3 // 4
        if excess <= 0:
            return
        large = [
            each for each in self.unsent if each.send_buffer.size > SMALL_BYTES and now - each.started > _CHECK_SECONDS
        ]
        large.sort(key=lambda each: each.send_buffer.sent_bytes / (now - each.started))
        for each in large[:-1]:
            if excess > 0:
                excess -= each.send_buffer.size
                log.info("Closed a slow connection: max_answers_in_flight is reached.")
                self._connections.drop(each)
