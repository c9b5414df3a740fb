"""What goes over the socket: a greeting, then calls of the `PROTOCOLS`, one after the other.

An empty message is a ping, whose answer is an empty message.

A call's messages are made from the Protocols themselves: a method added there is one here. msgpack, by msgspec.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from functools import reduce
from inspect import Parameter, signature
from operator import or_
from typing import Any, get_type_hints

import msgspec
from msgspec import Struct

from kafka_http import errors
from kafka_http.consumers.instance_service import InstanceLocator, InstanceService
from kafka_http.errors import KafkaHttpError
from kafka_http.publish.idempotency_keys import IdempotencyKeys
from kafka_http.tasks import Tasks


class Hello(Struct, frozen=True, array_like=True):
    """The first message of a connection.

    `version` is that of the calls, `settings` a digest of the caller's; `worker` is the name of its sign of life,
    which this connection is where `presence` says so.
    """

    version: str
    settings: str
    worker: str
    presence: bool


class Welcome(Struct, frozen=True, array_like=True, tag="welcome"):
    pass


class Refused(Struct, frozen=True, array_like=True, tag="refused"):
    """`why` is a sentence for the user."""

    why: str


class Goodbye(Struct, frozen=True, array_like=True, tag="goodbye"):
    """The daemon closes down in order: another may be started where one is needed, and need not be elsewhere."""


class CallFailed(Struct, frozen=True, array_like=True, tag="failed"):
    """An error of `kafka_http.errors`, by the name of its class."""

    error: str
    message: str
    fields: Mapping[str, Any]


PING = b""
Greeting = Welcome | Refused | Goodbye


class Call:
    """One method of a Protocol: how its request and its answer are written."""

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
        self.request = _message(self.name, [("request_id", str), *fields], self.name)
        self.answer = _message(f"{self.name}_returned", [("value", returns)], "returned")
        self._answers = msgspec.msgpack.Decoder(_one_of([self.answer, CallFailed]))

    def returned(self, value: Any) -> bytes:
        return msgspec.msgpack.encode(self.answer(value))

    def result(self, answer: bytes) -> Any:
        """What the call returned; an error is raised."""
        decoded: Any = self._answers.decode(answer)
        if isinstance(decoded, CallFailed):
            raise _error(decoded)
        return decoded.value


def _message(name: str, fields: list[tuple[str, Any] | tuple[str, Any, Any]], tag: str) -> type[Struct]:
    return msgspec.defstruct(name, fields, frozen=True, array_like=True, tag=tag)


def _one_of(types: Iterable[Any]) -> Any:
    return reduce(or_, types)


def failed(error: KafkaHttpError) -> bytes:
    return msgspec.msgpack.encode(CallFailed(type(error).__name__, error.message, error.fields))


def _error(failed: CallFailed) -> KafkaHttpError:
    kind = getattr(errors, failed.error, KafkaHttpError)
    error: KafkaHttpError = kind.__new__(kind)
    KafkaHttpError.__init__(error, failed.message, **failed.fields)  # a class's own __init__ takes what it likes
    return error


PROTOCOLS = (InstanceService, InstanceLocator, Tasks, IdempotencyKeys)

CALLS = {
    name: Call(protocol, method)
    for protocol in PROTOCOLS
    for name, method in vars(protocol).items()
    if callable(method) and name[0] != "_"
}

requests = msgspec.msgpack.Decoder(_one_of(each.request for each in CALLS.values()))
greetings = msgspec.msgpack.Decoder(Greeting)
hellos = msgspec.msgpack.Decoder(Hello)


def _version() -> str:
    """Changes with whatever crosses the socket, down to the fields of an argument."""
    types = [Hello, Greeting, CallFailed, *(kind for each in CALLS.values() for kind in (each.request, each.answer))]
    schema = msgspec.json.encode(msgspec.json.schema_components(types), order="sorted")
    return hashlib.sha256(b"with pings, " + schema).hexdigest()[:16]


VERSION = _version()
