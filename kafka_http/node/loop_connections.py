"""The daemon's connections whose calls need no thread: one loop serves them all."""

import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from math import inf
from selectors import EVENT_READ, EVENT_WRITE
from typing import Any, Protocol

import msgspec
from msgspec import Struct

from kafka_http.consumers.queue_service import PendingCall
from kafka_http.errors import KafkaHttpError, WouldBlock
from kafka_http.event_loop import EventLoop, LoopThread
from kafka_http.logs import request_id
from kafka_http.node.daemon_protocol import CALLS, Call, Channel, encode_error, requests

log = logging.getLogger(__name__)

_STARTS = {"acquire_messages": "start_acquire", "settle_messages": "start_settle"}
"""Calls that wait for Kafka, each with the method that starts it."""
LOOP_CALLS = frozenset((*_STARTS, "confirm_pages", "release_page"))
"""The calls that the loop makes: those of queues that are frequent. The last two wait for nothing."""
_STOP_SECONDS = 1.0


class Session(Protocol):
    """What the calls of a connection need from the session of its worker."""

    def service(self, call: Call) -> Any:
        """Return the implementation of a call's Protocol. Raises the error for the caller."""

    def track(self, call: str, arguments: Sequence[Any], value: object) -> None:
        """Note what a call has acquired or released."""

    def drop(self, value: object) -> None:
        """Release what a call has acquired."""


def call_result(call: Call, session: Session, arguments: Sequence[Any], get: Callable[[], Any]) -> tuple[bytes, object]:
    """Return the response of a call, and the value in it. `get` returns the value, or raises the call's error."""
    try:
        value = get()
        session.track(call.name, arguments, value)
        return call.encode_result(value), value
    except WouldBlock:
        raise
    except KafkaHttpError as error:
        return encode_error(error), None
    except Exception:
        log.exception("Unexpected error in the call %s", call.name)
        return encode_error(KafkaHttpError("An unexpected error occurred; see the log of the server's daemon.")), None


class LoopConnections:
    """Serves connections in one thread, each for as long as its calls are `LOOP_CALLS`.

    A `DaemonServer` creates it and gives it connections. The first one starts the thread, `close` ends it.
    """

    next_deadline = inf

    def __init__(self) -> None:
        self._loop: LoopThread | None = None

    def end_round(self) -> None:
        """Do nothing: the loop drives only sockets."""

    def add(self, connection: "LoopConnection", request: Struct) -> None:
        """Serve a connection from this request on. One thread at a time may call."""
        if self._loop is None:
            self._loop = LoopThread(self, "queue-calls")
        self._loop.call_soon(connection.begin, self._loop, request)

    def close(self) -> None:
        """End the thread."""
        if self._loop is not None:
            self._loop.stop(_STOP_SECONDS)


class LoopConnection:
    """A connection that the loop serves. Its methods run on the loop's thread, and do not block."""

    def __init__(
        self,
        channel: Channel,
        session: Session,
        hand_over: Callable[[Struct], None],
        on_closed: Callable[[], None],
    ) -> None:
        """`hand_over` is called when the loop no longer serves the connection, because this request needs a thread."""
        self._channel = channel
        self._session = session
        self._hand_over = hand_over
        self._on_closed = on_closed
        self._loop: EventLoop
        self._pending: PendingCall | None = None
        """The call under way."""

    def begin(self, loop: EventLoop, request: Struct) -> None:
        """Serve the connection, from this request on."""
        self._loop = loop
        self._channel.settimeout(0)
        loop.register(self._channel, EVENT_READ, self._on_readable)
        self._guarded(self._handle, request)

    def _on_readable(self, _: Any) -> None:
        self._guarded(self._receive)

    def _guarded(self, step: Callable[..., None], *arguments: Any) -> None:
        """Take a step, and close the connection if it fails."""
        try:
            step(*arguments)
        except (OSError, EOFError, msgspec.DecodeError) as error:
            log.debug("Connection closed: %s", error)
            self._close()
        except Exception:
            log.exception("Unexpected error in a connection")
            self._close()

    def _close(self) -> None:
        with suppress(KeyError):  # handed over, but no thread could be started
            self._loop.unregister(self._channel)
        self._channel.close()
        self._on_closed()
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.abandon()

    def _receive(self) -> None:
        try:
            message = self._channel.receive()
        except BlockingIOError:
            return  # the rest of the message follows
        if self._pending is not None:
            raise EOFError("a message during a call")
        self._handle(requests.decode(message))

    def _handle(self, request: Struct) -> None:
        name = type(request).__name__
        if name in LOOP_CALLS and not self._channel.is_abandoned():
            try:
                self._call(CALLS[name], request)
            except WouldBlock:
                pass
            else:
                return
        self._loop.unregister(self._channel)
        self._channel.settimeout(None)
        self._hand_over(request)

    def _call(self, call: Call, request: Struct) -> None:
        number, *arguments = msgspec.structs.astuple(request)
        request_id.set(number)
        try:
            method = getattr(self._session.service(call), _STARTS.get(call.name, call.name))
            pending = method(*arguments) if call.name in _STARTS else None
        except KafkaHttpError as error:
            self._send(encode_error(error))
            return
        if pending is None:
            self._respond(call, arguments, lambda: method(*arguments))
            return
        self._pending = pending
        pending.add_done_callback(lambda: self._loop.call_soon(self._finish, pending, call, arguments))

    def _finish(self, pending: PendingCall, call: Call, arguments: Sequence[Any]) -> None:
        if self._pending is pending:  # otherwise the connection was closed
            self._pending = None
            self._guarded(self._respond, call, arguments, pending.result)

    def _respond(self, call: Call, arguments: Sequence[Any], get: Callable[[], Any]) -> None:
        response, value = call_result(call, self._session, arguments, get)
        try:
            self._send(response)
        except OSError:
            self._session.drop(value)
            raise

    def _send(self, response: bytes) -> None:
        if not self._channel.send_available(response):
            self._loop.modify(self._channel, EVENT_READ | EVENT_WRITE, self._on_ready)

    def _on_ready(self, _: Any) -> None:
        self._guarded(self._send_rest)

    def _send_rest(self) -> None:
        if self._channel.send_available():
            self._loop.modify(self._channel, EVENT_READ, self._on_readable)
        elif self._channel.is_abandoned():
            raise EOFError("the worker has given up")
