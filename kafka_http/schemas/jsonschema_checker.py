"""A JSON Schema, compiled, and the process that checks with those which may take long.

    python -I jsonschema_checker.py

answers the requests on its stdin on its stdout, each a MessagePack with its length before it, and is ended by SIGALRM
where one takes longer than it may: nothing else can end a check, which lets no other thread run meanwhile. Started as a
file, hence it imports nothing of ours.
"""

import resource
import signal
import struct
import sys
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import IO, Any, Literal
from urllib.parse import urldefrag, urljoin

import msgspec
from jsonschema_rs import Draft7Validator, ValidationError, validator_for

_BASE = "json-schema:///"
"""What jsonschema-rs takes for the address of a schema that does not say its own."""
_HTTP = "http://json-schema/"
_LONGEST = 300
_LENGTH = struct.Struct(">I")
_MOST_MEMORY = 2 << 30
_MOST_CHECKERS = 50


class SchemaFault(Exception):
    """The schema cannot be used; the text says why."""


class Fault(msgspec.Struct, frozen=True, array_like=True):
    """What does not fit the schema, and where it is."""

    path: list[str | int]
    problem: str


class Checker:
    """A schema with those it refers to, by their names. It opens no socket and no file. Safe in many threads."""

    def __init__(self, text: str, references: Iterable[tuple[str, str]]) -> None:
        """Raises `SchemaFault`. Drafts 4 to 2020-12; 7 where it names none, as Confluent's serialisers have it."""
        schema = parsed(text)
        has_draft = isinstance(schema, dict) and "$schema" in schema
        retriever = _Retriever(schema, {name: parsed(each) for name, each in references})
        try:
            self._validator = (validator_for if has_draft else Draft7Validator)(schema, retriever=retriever, mask="it")
        except ValidationError as error:
            raise SchemaFault(_problem_of_schema(error, retriever.missing)) from None
        except ValueError as error:
            raise SchemaFault(f"{error}."[:_LONGEST]) from None

    def fault_in(self, data: bytes) -> Fault | None:
        """The first thing that does not fit; None where all does."""
        try:
            instance = msgspec.json.decode(data)
        except RecursionError:
            return Fault([], "nested too deeply")
        except msgspec.DecodeError as error:  # a number that no double holds, for instance
            return Fault([], str(error))
        if self._validator.is_valid(instance):
            return None
        first = next(self._validator.iter_errors(instance), None)
        return None if first is None else _fault(first)


def parsed(text: str) -> Any:
    """A schema as what its JSON says. Raises `SchemaFault`."""
    try:
        return msgspec.json.decode(text)
    except RecursionError:
        raise SchemaFault("it is nested too deeply.") from None
    except (msgspec.DecodeError, UnicodeEncodeError) as error:
        raise SchemaFault(f"it is not JSON: {error}.") from None


class _Retriever:
    """Gives a schema's own references, by their names or what these come to from where they are used; nothing else."""

    def __init__(self, schema: Any, references: Mapping[str, Any]) -> None:
        self._main = schema
        self._references = references
        self.missing: str | None = None

    def __call__(self, uri: str) -> Any:
        if uri not in self._known:
            self.missing = uri
            raise LookupError
        return self._known[uri]

    @cached_property
    def _known(self) -> Mapping[str, Any]:
        """By every address that a reference comes to from any schema here."""
        starts = {_BASE, _joined(_BASE, _own_address(self._main))}
        known = dict(self._references)
        for name, schema in self._references.items():
            known |= {_joined(start, _own_address(schema) or name): schema for start in starts}
        for base in starts | known.keys():
            for name, schema in self._references.items():
                known.setdefault(_joined(base, name), schema)
        return known


def _own_address(schema: Any) -> str:
    own = schema.get("$id", schema.get("id")) if isinstance(schema, dict) else None
    return own if isinstance(own, str) else ""


def _joined(base: str, name: str) -> str:
    """What a reference comes to (RFC 3986, section 5), without its fragment. Python joins what it takes for HTTP's."""
    try:
        joined = urljoin(base.replace(_BASE, _HTTP, 1), name)
    except ValueError:
        return name
    return urldefrag(joined)[0].replace(_HTTP, _BASE, 1)


def _problem_of_schema(error: ValidationError, missing: str | None) -> str:
    if missing is not None:
        name = missing.removeprefix(_BASE)[:_LONGEST]
        return f'it refers to "{name}", which is not among its references.'
    where = "/".join(map(str, error.instance_path))[:_LONGEST]
    return f"{f'at {where}, ' if where else ''}{error.message[:_LONGEST]}."


_KINDS = {str: "string", int: "number", float: "number", list: "array", dict: "object", bool: "boolean"}


def _fault(error: ValidationError) -> Fault:
    path = list(error.instance_path)
    match error.kind.as_dict():
        case {"property": str(name)} if error.kind.name == "required":
            return Fault([*path, name], "is missing, and the schema requires it")
        case {"types": list(types)} if error.kind.name == "type":
            return Fault(path, f"expected {' or '.join(types)}, got {_KINDS.get(type(error.instance), 'null')}")
    return Fault(path, error.message[:_LONGEST])


class CheckRequest(msgspec.Struct, array_like=True):
    """Check with the schema of a number, for so many seconds at most. Its text is told once, at first without data."""

    number: int
    seconds: float
    text: str | None = None
    references: list[tuple[str, str]] = []
    data: bytes | None = None


class CheckResponse(msgspec.Struct, array_like=True):
    """`unknown`: the schema has to be told again."""

    kind: Literal["good", "fault", "bad schema", "unknown"]
    fault: Fault | None = None
    problem: str = ""


def write(message: CheckRequest | CheckResponse, stream: IO[bytes]) -> None:
    encoded = msgspec.msgpack.encode(message)
    stream.write(_LENGTH.pack(len(encoded)) + encoded)
    stream.flush()


def read(stream: IO[bytes]) -> bytes:
    """The next message; none, and the other end is gone."""
    length = stream.read(_LENGTH.size)
    return stream.read(_LENGTH.unpack(length)[0]) if len(length) == _LENGTH.size else b""


def _serve() -> None:
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_AS, (_MOST_MEMORY, _MOST_MEMORY))
    checkers: OrderedDict[int, Checker] = OrderedDict()
    while message := read(sys.stdin.buffer):
        request = msgspec.msgpack.decode(message, type=CheckRequest)
        signal.setitimer(signal.ITIMER_REAL, request.seconds)
        answer = _answer(request, checkers)
        signal.setitimer(signal.ITIMER_REAL, 0)
        write(answer, sys.stdout.buffer)


def _answer(request: CheckRequest, checkers: OrderedDict[int, Checker]) -> CheckResponse:
    if request.text is not None:
        try:
            checkers[request.number] = Checker(request.text, request.references)
        except SchemaFault as error:
            return CheckResponse("bad schema", problem=str(error))
    if request.number not in checkers:
        return CheckResponse("unknown")
    checkers.move_to_end(request.number)
    if len(checkers) > _MOST_CHECKERS:
        checkers.popitem(last=False)
    fault = None if request.data is None else checkers[request.number].fault_in(request.data)
    return CheckResponse("good" if fault is None else "fault", fault)


if __name__ == "__main__":
    _serve()
