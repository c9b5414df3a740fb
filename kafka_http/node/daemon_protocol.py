"""The protocol of the daemon's socket: framed messages, a handshake, then calls of the `PROTOCOLS` one after the other.

A message is its length (4 bytes, big-endian) and its content (msgpack). An empty message is a ping; its response is an
empty message. The messages of a call are derived from the Protocols themselves: a method added there is a call here.
"""

import hashlib
import select
import socket
import struct
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import reduce
from inspect import Parameter, signature
from operator import or_
from typing import Any, get_type_hints

import msgspec
from msgspec import Struct

from kafka_http import errors
from kafka_http.consumers.instance_service import InstanceLocator, InstanceService
from kafka_http.consumers.queue_service import QueueLocator, QueueService
from kafka_http.errors import KafkaHttpError
from kafka_http.publish.idempotency_keys import IdempotencyKeys
from kafka_http.tasks import Tasks

NOT_REPEATABLE = frozenset(("create", "delete", "settle_messages", "delete_queue", "cancel_task"))
"""Calls that are not repeated: after a success whose response was lost, the second result would differ."""
CONNECTION_LOST = "The connection to the server's daemon was lost. Retry."
"""The error of a call that is not repeated."""

MAX_MESSAGE_BYTES = 64 * 1024 * 1024
PING = b""
_LENGTH = struct.Struct(">I")
_READ_BYTES = 65536


class Channel:
    """Sends and receives messages at one end of a connection. One thread at a time uses it; any may call `shutdown`.

    Methods raise `OSError` if the connection fails or times out, and `EOFError` if the other end has closed it. After
    an error only `close` may be called, except that `receive` may be repeated after a `TimeoutError`. With a timeout
    of 0 it raises `BlockingIOError` instead, until the whole message has arrived.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._received = bytearray()
        self._unsent: bytes | memoryview = b""

    def fileno(self) -> int:
        return self._connection.fileno()

    def settimeout(self, seconds: float | None) -> None:
        """Set the timeout of each wait in `send` and `receive`."""
        self._connection.settimeout(seconds)

    def send(self, message: bytes) -> None:
        self._connection.sendall(_LENGTH.pack(len(message)) + message)

    def send_available(self, message: bytes | None = None) -> bool:
        """Send what the system takes now of a message, or of the rest of the last one. Return whether all is sent.

        The timeout must be 0.
        """
        if message is not None:
            self._unsent = _LENGTH.pack(len(message)) + message
        with suppress(BlockingIOError):
            while self._unsent:
                self._unsent = memoryview(self._unsent)[self._connection.send(self._unsent) :]
        return not self._unsent

    def receive(self) -> bytes:
        self._fill(_LENGTH.size)
        length: int = _LENGTH.unpack_from(self._received)[0]
        if length > MAX_MESSAGE_BYTES:
            raise EOFError(f"a message of {length} bytes")
        end = _LENGTH.size + length
        self._fill(end)
        message = bytes(self._received[_LENGTH.size : end])
        del self._received[:end]
        return message

    def is_abandoned(self) -> bool:
        """Return whether the other end has closed the connection. Does not block."""
        poll = select.poll()
        poll.register(self._connection, select.POLLIN)
        # With a timeout, `recv` waits in spite of MSG_DONTWAIT.
        return bool(poll.poll(0)) and not self._connection.recv(1, socket.MSG_PEEK)

    def shutdown(self) -> None:
        """Shut the connection down for both ends, which wakes a thread that waits at it."""
        with suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._connection.close()

    def _fill(self, count: int) -> None:
        """Receive until the buffer has at least `count` bytes."""
        while len(self._received) < count:
            chunk = self._connection.recv(_READ_BYTES)
            if not chunk:
                raise EOFError("the other end has closed the connection")
            self._received += chunk


class Hello(Struct, frozen=True, array_like=True):
    """The first message of a connection.

    `version` is the version of the protocol, `settings` a digest of the worker's settings, `worker` the name of the
    worker. A worker has one connection with `is_heartbeat`: it counts as running for as long as this connection lasts.
    """

    version: str
    settings: str
    worker: str
    is_heartbeat: bool


class Welcome(Struct, frozen=True, array_like=True, tag="welcome"):
    """The daemon accepts the connection."""


class Rejected(Struct, frozen=True, array_like=True, tag="refused"):
    """The daemon rejects the connection. `reason` is a sentence for users."""

    reason: str


class Stopping(Struct, frozen=True, array_like=True, tag="goodbye"):
    """The daemon stops in order. The worker may start another one if it needs it."""


class CallFailed(Struct, frozen=True, array_like=True, tag="failed"):
    """An error of `kafka_http.errors`, with the name of its class."""

    error: str
    message: str
    fields: Mapping[str, Any]


Greeting = Welcome | Rejected | Stopping


class Call:
    """One method of a Protocol: the types of its request and its response."""

    def __init__(self, protocol: type, method: Callable[..., Any]) -> None:
        hints = get_type_hints(method)
        returns = hints.pop("return")
        self.protocol = protocol
        self.name = method.__name__
        defaults = {name: each.default for name, each in signature(method).parameters.items()}
        fields = [
            (name, kind) if defaults[name] is Parameter.empty else (name, kind, defaults[name])
            for name, kind in hints.items()
        ]
        self.request = _message_type(self.name, [("request_id", str), *fields], self.name)
        self.response = _message_type(f"{self.name}_returned", [("value", returns)], "returned")
        self._responses = msgspec.msgpack.Decoder(_union([self.response, CallFailed]))

    def encode_result(self, value: Any) -> bytes:
        return msgspec.msgpack.encode(self.response(value))

    def decode_result(self, response: bytes) -> Any:
        """Return what the call returned, or raise the error that it raised."""
        decoded: Any = self._responses.decode(response)
        if isinstance(decoded, CallFailed):
            raise _error_of(decoded)
        return decoded.value


def _message_type(name: str, fields: list[tuple[str, Any] | tuple[str, Any, Any]], tag: str) -> type[Struct]:
    return msgspec.defstruct(name, fields, frozen=True, array_like=True, tag=tag)


def _union(types: Iterable[Any]) -> Any:
    return reduce(or_, types)


def encode_error(error: KafkaHttpError) -> bytes:
    """Encode an error as the response of a call."""
    return msgspec.msgpack.encode(CallFailed(type(error).__name__, error.message, error.fields))


def _error_of(failed: CallFailed) -> KafkaHttpError:
    kind = getattr(errors, failed.error, KafkaHttpError)
    error: KafkaHttpError = kind.__new__(kind)
    KafkaHttpError.__init__(error, failed.message, **failed.fields)  # subclasses have other parameters
    return error


PROTOCOLS = (InstanceService, InstanceLocator, QueueService, QueueLocator, Tasks, IdempotencyKeys)

CALLS = {
    name: Call(protocol, method)
    for protocol in PROTOCOLS
    for name, method in vars(protocol).items()
    if callable(method) and name[0] != "_"
}

requests = msgspec.msgpack.Decoder(_union(each.request for each in CALLS.values()))
greetings = msgspec.msgpack.Decoder(Greeting)
hellos = msgspec.msgpack.Decoder(Hello)


def _version() -> str:
    """Return a digest of everything that crosses the socket, down to the fields of an argument."""
    types = [Hello, Greeting, CallFailed, *(kind for each in CALLS.values() for kind in (each.request, each.response))]
    schema = msgspec.json.encode(msgspec.json.schema_components(types), order="sorted")
    return hashlib.sha256(b"with pings, " + schema).hexdigest()[:16]


VERSION = _version()
