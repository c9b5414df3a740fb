"""Check values with a compiled JSON Schema, here or in a process of its own.

The process is `python -I jsonschema_checker.py`. It reads requests from stdin and writes responses to stdout, each a
MessagePack after its length. Only a signal ends a check that takes too long, so SIGALRM ends the process. Python starts
it by its file name, so this module imports nothing of kafka_http.
"""

import resource
import signal
import struct
import sys
from collections.abc import Iterable, Mapping
from functools import cached_property, lru_cache
from typing import IO, Any
from urllib.parse import urldefrag, urljoin

import msgspec
from jsonschema_rs import Draft7Validator, ValidationError, validator_for

_BASE = "json-schema:///"
"""The address that jsonschema-rs gives to a schema without one."""
_HTTP = "http://json-schema/"
_MAX_PROBLEM = 300
_LENGTH = struct.Struct(">I")
_COMPILE_SECONDS = 5.0
_CHECK_SECONDS = 2.0
_MAX_MEMORY = 2 << 30
_MAX_CHECKERS = 50


class SchemaError(Exception):
    """The schema cannot be used. The message says why."""


class Mismatch(msgspec.Struct, frozen=True, array_like=True):
    """A part of a value that does not fit the schema: its path and the problem."""

    path: list[str | int]
    problem: str


class SchemaChecker:
    """A compiled schema. Opens no socket and no file. Safe in many threads."""

    def __init__(self, text: str, references: Iterable[tuple[str, str]]) -> None:
        """`references` are the names and texts of other schemas. Raises `SchemaError`.

        Accepts drafts 4 to 2020-12. A schema that names no draft is draft 7, as in Confluent's serializers.
        """
        schema = parse_schema(text)
        has_draft = isinstance(schema, dict) and "$schema" in schema
        retriever = _Retriever(schema, {name: parse_schema(each) for name, each in references})
        try:
            self._validator = (validator_for if has_draft else Draft7Validator)(schema, retriever=retriever, mask="it")
        except ValidationError as error:
            raise SchemaError(_schema_problem(error, retriever.missing)) from None
        except ValueError as error:
            raise SchemaError(f"{error}."[:_MAX_PROBLEM]) from None

    def find_mismatch(self, data: bytes) -> Mismatch | None:
        """Return the first part of a JSON text that does not fit; None if all fits."""
        try:
            instance = msgspec.json.decode(data)
        except RecursionError:
            return Mismatch([], "the value is nested too deeply")
        except msgspec.DecodeError as error:  # for instance a number that is too large for a double
            return Mismatch([], str(error))
        if self._validator.is_valid(instance):  # much faster than to look for errors
            return None
        first = next(self._validator.iter_errors(instance), None)
        return None if first is None else _mismatch(first)


def parse_schema(text: str) -> Any:
    """Return the value of a schema's JSON. Raises `SchemaError`."""
    try:
        return msgspec.json.decode(text)
    except RecursionError:
        raise SchemaError("the schema is nested too deeply.") from None
    except (msgspec.DecodeError, UnicodeEncodeError) as error:
        raise SchemaError(f"the text is not JSON: {error}.") from None


class _Retriever:
    """Returns only the references of a schema: by their names, or by the addresses that the names resolve to."""

    def __init__(self, schema: Any, references: Mapping[str, Any]) -> None:
        self._main = schema
        self._references = references
        self.missing: str | None = None

    def __call__(self, uri: str) -> Any:
        if uri not in self._by_address:
            self.missing = uri
            raise LookupError
        return self._by_address[uri]

    @cached_property
    def _by_address(self) -> Mapping[str, Any]:
        """The references by each address that their names resolve to from any of the schemas."""
        bases = {_BASE, _resolve(_BASE, _own_address(self._main))}
        found = dict(self._references)
        for name, schema in self._references.items():
            found |= {_resolve(base, _own_address(schema) or name): schema for base in bases}
        # Names are relative to the schema in which they are used, which may itself be a reference.
        for base in bases | found.keys():
            for name, schema in self._references.items():
                found.setdefault(_resolve(base, name), schema)
        return found


def _own_address(schema: Any) -> str:
    own = schema.get("$id", schema.get("id")) if isinstance(schema, dict) else None
    return own if isinstance(own, str) else ""


def _resolve(base: str, name: str) -> str:
    """Resolve a name (RFC 3986, section 5), without its fragment. urljoin knows HTTP's scheme and not `_BASE`'s."""
    try:
        resolved = urljoin(base.replace(_BASE, _HTTP, 1), name)
    except ValueError:
        return name
    return urldefrag(resolved)[0].replace(_HTTP, _BASE, 1)


def _schema_problem(error: ValidationError, missing: str | None) -> str:
    if missing is not None:
        name = missing.removeprefix(_BASE)[:_MAX_PROBLEM]
        return f'the schema refers to "{name}", which is not among its references.'
    path = "/".join(map(str, error.instance_path))[:_MAX_PROBLEM]
    return f"{f'at {path}, ' if path else ''}{error.message[:_MAX_PROBLEM]}."


_JSON_TYPES = {str: "string", int: "number", float: "number", list: "array", dict: "object", bool: "boolean"}


def _mismatch(error: ValidationError) -> Mismatch:
    path = list(error.instance_path)
    match error.kind.as_dict():
        case {"property": str(name)} if error.kind.name == "required":
            return Mismatch([*path, name], "the required property is missing")
        case {"types": list(types)} if error.kind.name == "type":
            return Mismatch(path, f"expected {' or '.join(types)}, got {_JSON_TYPES.get(type(error.instance), 'null')}")
    return Mismatch(path, error.message[:_MAX_PROBLEM])


class CheckRequest(msgspec.Struct, array_like=True):
    """Check a JSON text with a schema; without `data`, only compile the schema."""

    schema: str
    references: list[tuple[str, str]]
    data: bytes | None = None


class CheckResponse(msgspec.Struct, array_like=True):
    """What does not fit, or what is wrong with the schema, if anything."""

    mismatch: Mismatch | None = None
    schema_problem: str | None = None


def write_message(message: CheckRequest | CheckResponse, stream: IO[bytes]) -> None:
    """Write a request or a response."""
    encoded = msgspec.msgpack.encode(message)
    stream.write(_LENGTH.pack(len(encoded)) + encoded)
    stream.flush()


def read_message(stream: IO[bytes]) -> bytes:
    """Return the next message; empty if the other end is closed."""
    length = stream.read(_LENGTH.size)
    return stream.read(_LENGTH.unpack(length)[0]) if len(length) == _LENGTH.size else b""


@lru_cache(_MAX_CHECKERS)
def _compile(schema: str, references: tuple[tuple[str, str], ...]) -> SchemaChecker:
    signal.setitimer(signal.ITIMER_REAL, _COMPILE_SECONDS)
    return SchemaChecker(schema, references)


def _respond(request: CheckRequest) -> CheckResponse:
    try:
        checker = _compile(request.schema, tuple(request.references))
    except SchemaError as error:
        return CheckResponse(schema_problem=str(error))
    signal.setitimer(signal.ITIMER_REAL, _CHECK_SECONDS)
    return CheckResponse(None if request.data is None else checker.find_mismatch(request.data))


def _serve() -> None:
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    # A schema of many patterns takes gigabytes. A failed allocation ends the process.
    resource.setrlimit(resource.RLIMIT_AS, (_MAX_MEMORY, _MAX_MEMORY))
    while message := read_message(sys.stdin.buffer):
        response = _respond(msgspec.msgpack.decode(message, type=CheckRequest))
        signal.setitimer(signal.ITIMER_REAL, 0)
        write_message(response, sys.stdout.buffer)


if __name__ == "__main__":
    _serve()
