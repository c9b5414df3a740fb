"""The daemon's side of the socket: the connections of workers, and what ends with a worker.

A connection has a thread until it makes calls of queues: one loop serves all connections that do. What ends with a
worker is its read leases of consumer instances, and pages of queues that were not sent yet.
"""

import logging
import socket
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import msgspec
from msgspec import Struct

from kafka_http.consumers.instance_service import InstanceService, ReadLease
from kafka_http.consumers.queue_service import QueuePage, QueueService
from kafka_http.errors import KafkaHttpError
from kafka_http.logs import LogOnce, request_id
from kafka_http.node.daemon_protocol import (
    CALLS,
    PING,
    VERSION,
    Call,
    Channel,
    Greeting,
    Hello,
    Rejected,
    Stopping,
    Welcome,
    hellos,
    requests,
)
from kafka_http.node.data_directory import is_same_user
from kafka_http.node.loop_connections import LOOP_CALLS, LoopConnection, LoopConnections, call_result

log = logging.getLogger(__name__)


ServiceLookup = Callable[[type], Any]
"""Returns the implementation of a Protocol. Raises the error for the caller if it is not available now."""

LINGER_SECONDS = 10.0
"""How long the daemon waits for a worker before it stops."""

_RELEASES = {"release_lease", "release_page", "confirm_pages", "update_keys"}
"""Calls that release something. That is done even if the worker no longer waits for the response."""

_GREETING_SECONDS = 5.0
_ACCEPT_SECONDS = 0.25


class DaemonServer:
    """Answers the calls of the workers until no worker is connected any more.

    The daemon's main thread runs `serve`; any thread may call the other methods.
    """

    def __init__(self, listener: socket.socket, services: ServiceLookup, settings: str) -> None:
        """`settings` is the digest of the settings that the daemon was started with."""
        self._listener = listener
        self._services = services
        self._settings = settings
        self._workers: dict[str, _WorkerSession] = {}
        self._lock = threading.Lock()
        self._linger = LINGER_SECONDS
        self._alone_since = time.monotonic()
        self._closing = False
        self._loop_connections = LoopConnections()

    @property
    def has_workers(self) -> bool:
        return bool(self._workers)

    def is_connected(self, worker: str) -> bool:
        """Return whether the worker of this name runs."""
        return worker in self._workers

    def serve(self) -> None:
        """Accept connections until no worker was connected for `LINGER_SECONDS`."""
        self._listener.settimeout(_ACCEPT_SECONDS)
        problem = LogOnce(log)
        while not self._is_done():
            try:
                with suppress(TimeoutError):
                    self._accept_connection()
            except (OSError, RuntimeError) as error:  # too many open files or threads
                problem.warning("Cannot accept a connection of a worker: %s", error)
                time.sleep(_ACCEPT_SECONDS)

    def _accept_connection(self) -> None:
        connection, _ = self._listener.accept()
        try:
            threading.Thread(target=self._handle, args=(connection,), daemon=True).start()
        except RuntimeError:
            connection.close()
            raise

    def stop(self) -> None:
        """Stop as soon as the last worker has disconnected."""
        self._linger = 0.0

    def close(self) -> None:
        self._listener.close()
        self._loop_connections.close()

    def _is_done(self) -> bool:
        with self._lock:
            if not self._workers and time.monotonic() >= self._alone_since + self._linger:
                self._closing = True
            return self._closing

    def _handle(self, connection: socket.socket) -> None:
        channel = Channel(connection)
        self._serve(channel, lambda: is_same_user(connection) and self._serve_connection(channel))

    def _serve(self, channel: Channel, serve: Callable[[], bool]) -> None:
        """Serve a connection in this thread, and close it unless `serve` returns that the loop serves it now."""
        is_in_loop = False
        try:
            is_in_loop = serve()
        except (OSError, EOFError, msgspec.DecodeError) as error:
            log.debug("Connection closed: %s", error)
        except Exception:
            log.exception("Unexpected error in a connection")
        finally:
            if not is_in_loop:
                channel.close()

    def _serve_connection(self, channel: Channel) -> bool:
        channel.settimeout(_GREETING_SECONDS)
        hello = hellos.decode(channel.receive())
        greeting, worker = self._accept(hello, channel)
        if worker is None:
            channel.send(msgspec.msgpack.encode(greeting))
            return False
        try:
            channel.send(msgspec.msgpack.encode(greeting))  # fails if the worker has just given up
            channel.settimeout(None)
            return self._serve_calls(channel, worker)
        finally:
            if hello.is_heartbeat:
                self._end(hello.worker, worker)

    def _serve_calls(self, channel: Channel, worker: "_WorkerSession", first: Struct | None = None) -> bool:
        """Answer the calls of a connection, until the loop can do it."""
        is_in_loop = False
        try:
            if first is not None:
                self._answer(channel, worker, first)
            while not is_in_loop:
                message = channel.receive()
                if message == PING:
                    channel.send(PING)
                    continue
                request = requests.decode(message)
                is_in_loop = type(request).__name__ in LOOP_CALLS
                if not is_in_loop:
                    self._answer(channel, worker, request)
        finally:
            if not is_in_loop:
                worker.channels.discard(channel)
        self._serve_in_loop(channel, worker, request)
        return True

    def _serve_in_loop(self, channel: Channel, worker: "_WorkerSession", request: Struct) -> None:
        def hand_over(first: Struct) -> None:
            serve = partial(self._serve, channel, lambda: self._serve_calls(channel, worker, first))
            threading.Thread(target=serve, daemon=True).start()

        connection = LoopConnection(channel, worker, hand_over, lambda: worker.channels.discard(channel))
        with self._lock:
            self._loop_connections.add(connection, request)

    def _accept(self, hello: Hello, channel: Channel) -> "tuple[Greeting, _WorkerSession | None]":
        with self._lock:
            if self._closing:
                return Stopping(), None
            if (hello.version, hello.settings) != (VERSION, self._settings):
                # After an upgrade, this daemon ends with its last worker. Then the new version can start its own.
                self._closing = not self._workers
                return (Stopping() if self._closing else _rejection(hello)), None
            if hello.is_heartbeat:
                if channel.is_abandoned():  # while this daemon hung; the worker may have a later connection
                    raise EOFError("the worker has given up")
                self._workers[hello.worker] = _WorkerSession(self._services)
            worker = self._workers.get(hello.worker)
            if worker is None:
                return Stopping(), None
            worker.channels.add(channel)
            return Welcome(), worker

    def _answer(self, channel: Channel, worker: "_WorkerSession", request: Struct) -> None:
        if channel.is_abandoned():
            request = _without_claims(request)
        response, value = self._call(request, worker)
        try:
            channel.send(response)
        except OSError:
            worker.drop(value)
            raise

    def _call(self, request: Struct, worker: "_WorkerSession") -> tuple[bytes, object]:
        """Return the response of a call, and the value in it."""
        call = CALLS[type(request).__name__]
        number, *arguments = msgspec.structs.astuple(request)
        request_id.set(number)
        return call_result(call, worker, arguments, lambda: getattr(worker.service(call), call.name)(*arguments))

    def _end(self, name: str, worker: "_WorkerSession") -> None:
        with self._lock:
            if self._workers.get(name) is worker:  # it may have connected again
                del self._workers[name]
            self._alone_since = time.monotonic()
        worker.end()


def _without_claims(request: Struct) -> Struct:
    """Return the part of a request that is done even if its caller has given up. Its client has got an error."""
    if type(request).__name__ not in _RELEASES:
        raise EOFError("the caller has given up")
    return msgspec.structs.replace(request, claims=[]) if hasattr(request, "claims") else request


def _rejection(hello: Hello) -> Rejected:
    what = "version" if hello.version != VERSION else "set of settings"
    return Rejected(
        f"The server's daemon runs with another {what} and still has workers. Retry when these workers have ended."
    )


class _WorkerSession:
    """A connected worker: its connections, its read leases, and the pages of queues that it has not sent yet."""

    def __init__(self, services: ServiceLookup) -> None:
        self.channels: set[Channel] = set()
        self._services = services
        self._held: dict[str, ReadLease | QueuePage] = {}
        self._lock = threading.Lock()
        self._has_ended = False

    def service(self, call: Call) -> Any:
        """Return the implementation of a call's Protocol. Raises the error for the caller."""
        return self._services(call.protocol)

    def track(self, call: str, arguments: Sequence[Any], value: object) -> None:
        """Note what a call has acquired or released."""
        if isinstance(value, ReadLease | QueuePage):
            self._add(value)
        elif call == "release_lease":
            self._forget(arguments[0].id)
        elif call == "release_page":
            self._forget(arguments[0])
        elif call == "confirm_pages":
            self._forget(*arguments[0])

    def drop(self, value: object) -> None:
        """Release what a call has acquired, unless that was done already."""
        if not isinstance(value, ReadLease | QueuePage):
            return
        with self._lock:
            if self._held.pop(value.id, None) is None:
                return
        try:
            if isinstance(value, QueuePage):
                self._services(QueueService).release_page(value.id)
            else:
                self._services(InstanceService).release_lease(value)
        except KafkaHttpError as error:
            log.debug("%s had ended already: %s", type(value).__name__, error)

    def end(self) -> None:
        """Close the connections of a worker that has disconnected, and drop what it holds."""
        with self._lock:
            self._has_ended = True
            held = list(self._held.values())
        for channel in tuple(self.channels):
            channel.shutdown()
        for each in held:
            self.drop(each)

    def _add(self, value: ReadLease | QueuePage) -> None:
        if isinstance(value, QueuePage) and not value.messages:
            return
        with self._lock:
            self._held[value.id] = value
            has_ended = self._has_ended
        if has_ended:
            self.drop(value)

    def _forget(self, *ids: str) -> None:
        with self._lock:
            for each in ids:
                self._held.pop(each, None)
