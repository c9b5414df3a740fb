"""The daemon's side of the socket: a thread a connection, loans that end with their worker, and when to close down."""

import logging
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import msgspec
from msgspec import Struct

from kafka_http.consumers.instance_service import InstanceService, ReadLease
from kafka_http.errors import KafkaHttpError
from kafka_http.logs import request_id
from kafka_http.node.daemon_protocol import (
    CALLS,
    PING,
    VERSION,
    Goodbye,
    Greeting,
    Hello,
    Refused,
    Welcome,
    failed,
    hellos,
    requests,
)
from kafka_http.node.data_directory import is_same_user
from kafka_http.node.message_channel import Channel

log = logging.getLogger(__name__)


Services = Callable[[type], Any]
"""What answers the calls of a Protocol. Raises what its caller is to be told where it cannot be had now."""

LINGER_SECONDS = 10.0
"""How long it waits for a worker when there is none."""

_ENDINGS = {"release_lease", "store_response", "release_key"}
"""Calls that end what a worker has begun. They are obeyed even if it has not waited for the answer."""

_GREETING_SECONDS = 5.0
_LOOK_EVERY = 0.25


class DaemonServer:
    """Answers the workers' calls, until there are no workers any more.

    `settings` is the digest of the settings it was started with.
    """

    def __init__(self, listener: socket.socket, services: Services, settings: str) -> None:
        self._listener = listener
        self._services = services
        self._settings = settings
        self._workers: dict[str, _Worker] = {}
        self._lock = threading.Lock()
        self._linger = LINGER_SECONDS
        self._alone_since = time.monotonic()
        self._closing = False

    @property
    def has_workers(self) -> bool:
        return bool(self._workers)

    def is_there(self, worker: str) -> bool:
        """Whether a worker of that name runs."""
        return worker in self._workers

    def serve(self) -> None:
        """Return when no worker has been there for a while."""
        self._listener.settimeout(_LOOK_EVERY)
        while not self._is_over():
            with suppress(TimeoutError):
                connection, _ = self._listener.accept()
                threading.Thread(target=self._attend, args=(connection,), daemon=True).start()

    def stop(self) -> None:
        """Do not wait for another worker when the last has gone."""
        self._linger = 0.0

    def close(self) -> None:
        self._listener.close()

    def _is_over(self) -> bool:
        with self._lock:
            if not self._workers and time.monotonic() >= self._alone_since + self._linger:
                self._closing = True
            return self._closing

    def _attend(self, connection: socket.socket) -> None:
        """A connection's life."""
        channel = Channel(connection)
        try:
            if is_same_user(connection):
                self._converse(channel)
        except (OSError, EOFError, msgspec.DecodeError) as error:
            log.debug("A connection has ended: %s", error)
        except Exception:
            log.exception("A connection has failed")
        finally:
            channel.close()

    def _converse(self, channel: Channel) -> None:
        channel.settimeout(_GREETING_SECONDS)
        hello = hellos.decode(channel.receive())
        greeting, worker = self._admit(hello, channel)
        channel.send(msgspec.msgpack.encode(greeting))
        if worker is None:
            return
        channel.settimeout(None)
        try:
            while True:
                self._answer(channel, worker)
        finally:
            worker.channels.discard(channel)
            if hello.presence:
                self._end(hello.worker, worker)

    def _admit(self, hello: Hello, channel: Channel) -> "tuple[Greeting, _Worker | None]":
        with self._lock:
            if self._closing:
                return Goodbye(), None
            if (hello.version, hello.settings) != (VERSION, self._settings):
                # One that has been replaced makes way as soon as its own workers are gone.
                self._closing = not self._workers
                return (Goodbye() if self._closing else Refused(_why(hello))), None
            if hello.presence:
                self._workers[hello.worker] = _Worker(self._services)
            worker = self._workers.get(hello.worker)
            if worker is None:
                return Goodbye(), None
            worker.channels.add(channel)
            return Welcome(), worker

    def _answer(self, channel: Channel, worker: "_Worker") -> None:
        message = channel.receive()
        if message == PING:
            channel.send(PING)
            return
        request = requests.decode(message)
        if type(request).__name__ not in _ENDINGS and channel.is_abandoned():
            raise EOFError("the caller of a call has given up")  # and has told its client so
        answer, loan = self._result(request, worker)
        try:
            channel.send(answer)
        except OSError:
            if loan is not None:
                worker.drop(loan)
            raise

    def _result(self, request: Struct, worker: "_Worker") -> tuple[bytes, ReadLease | None]:
        call = CALLS[type(request).__name__]
        number, *arguments = msgspec.structs.astuple(request)
        request_id.set(number)
        try:
            value = getattr(self._services(call.protocol), call.name)(*arguments)
            worker.note(call.name, arguments, value)
            return call.returned(value), value if isinstance(value, ReadLease) else None
        except KafkaHttpError as error:
            return failed(error), None
        except Exception:
            log.exception("unforeseen error: %s", call.name)
            return failed(KafkaHttpError("Unforeseen error; the log of the server's daemon says more.")), None

    def _end(self, name: str, worker: "_Worker") -> None:
        with self._lock:
            if self._workers.get(name) is worker:  # it may be back already
                del self._workers[name]
            self._alone_since = time.monotonic()
        worker.end()


def _why(hello: Hello) -> str:
    what = "version" if hello.version != VERSION else "set of settings"
    return f"The server's daemon has another {what} and workers of its own still: try again when they are gone."


class _Worker:
    """A worker that runs: its connections, and what it has borrowed."""

    def __init__(self, services: Services) -> None:
        self.channels: set[Channel] = set()
        self._services = services
        self._loans: dict[str, ReadLease] = {}
        self._lock = threading.Lock()
        self._gone = False

    def note(self, call: str, arguments: list[Any], value: object) -> None:
        """Follow a call that has been done: what was borrowed by it, or given back."""
        if isinstance(value, ReadLease):
            with self._lock:
                self._loans[value.id] = value
                gone = self._gone
            if gone:
                self.drop(value)
        elif call == "release_lease":
            with self._lock:
                self._loans.pop(arguments[0].id, None)

    def drop(self, loan: ReadLease) -> None:
        """End a loan, where that has not been done."""
        with self._lock:
            if self._loans.pop(loan.id, None) is None:
                return
        try:
            self._services(InstanceService).release_lease(loan)
        except KafkaHttpError as error:
            log.debug("A loan had ended already: %s", error)

    def end(self) -> None:
        """The worker has gone: its loans end, its connections are closed."""
        with self._lock:
            self._gone = True
            loans = list(self._loans.values())
        for channel in tuple(self.channels):
            channel.shut()
        for loan in loans:
            self.drop(loan)
