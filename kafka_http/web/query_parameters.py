"""The query of a URL, parameter by parameter."""

import re
from collections.abc import Collection
from typing import TypeVar

from werkzeug.datastructures import MultiDict

from kafka_http.config.spelling import nearest
from kafka_http.errors import InvalidRequest

Choice = TypeVar("Choice", bound=str)

MAX_INT32 = 2**31 - 1
MAX_INT64 = 2**63 - 1
_DECIMALS = re.compile(r"[0-9]+(\.[0-9]+)?|\.[0-9]+")


def invalid_parameter(name: str, got: str, expected: str) -> InvalidRequest:
    """Return the error for a parameter or header with a wrong value."""
    return InvalidRequest(f"{name} must be {expected}, got {got[:100]!r}.", field=name)


def parse_integer(name: str, text: str, low: int, high: int) -> int:
    """Parse a decimal number without a sign. Raises `InvalidRequest`."""
    if not (text.isascii() and text.isdigit() and len(text) < 20 and low <= int(text) <= high):
        raise invalid_parameter(name, text, f"a whole number from {low} to {high}")
    return int(text)


def known_names(kind: str, name: str, known: Collection[str]) -> str:
    """Return the end of a message about an unknown name: a suggestion and the names that are known.

    >>> known_names("parameters", "limt", ["limit", "wait"])
    "Did you mean 'limit'? Known parameters: limit, wait."
    """
    near = nearest(name, known)
    suggestion = f"Did you mean {near!r}? " if near else ""
    return f"{suggestion}Known {kind}: {', '.join(known) or 'none'}."


class QueryParameters:
    """A request's parameters. Unknown and repeated parameters are rejected, so that typos are not silently ignored."""

    def __init__(self, args: MultiDict[str, str], known: Collection[str]) -> None:
        """Raises `InvalidRequest`."""
        self._args: dict[str, str] = {}
        if not args:
            return
        for name, values in args.lists():
            if name not in known:
                hint = known_names("parameters", name, sorted(known))
                raise InvalidRequest(f"Unknown query parameter {name!r}. {hint}", field=name)
            if len(values) > 1:
                raise InvalidRequest(f"Query parameter {name!r} occurs {len(values)} times. Send it once.", field=name)
            self._args[name] = values[0]

    def __bool__(self) -> bool:
        """Whether there is any parameter."""
        return bool(self._args)

    def text(self, name: str) -> str | None:
        return self._args.get(name)

    def integer(self, name: str, default: int, low: int, high: int) -> int:
        text = self._args.get(name)
        return default if text is None else parse_integer(name, text, low, high)

    def seconds(self, name: str, default: float, high: float, expected: str = "") -> float:
        """Return a time in seconds, from 0 to `high`. Decimals are allowed. `expected` is for the error."""
        text = self._args.get(name)
        if text is None:
            return default
        if not (_DECIMALS.fullmatch(text) and float(text) <= high):
            raise invalid_parameter(name, text, expected or f"a number of seconds from 0 to {high:g}")
        return float(text)

    def choice(self, name: str, choices: Collection[Choice], default: Choice) -> Choice:
        text = self._args.get(name)
        if text is None:
            return default
        for choice in choices:
            if text == choice:
                return choice
        raise invalid_parameter(name, text, " or ".join(filter(None, choices)))

    def flag(self, name: str) -> bool:
        return self.choice(name, ("true", "false"), "false") == "true"
