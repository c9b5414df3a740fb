"""The query of a URL, read parameter by parameter."""

import re
from collections.abc import Collection
from typing import TypeVar

from werkzeug.datastructures import MultiDict

from kafka_http.errors import InvalidRequest

Choice = TypeVar("Choice", bound=str)

MAX_INT32 = 2**31 - 1
MAX_INT64 = 2**63 - 1
_DECIMALS = re.compile(r"[0-9]+(\.[0-9]+)?|\.[0-9]+")


def bad(name: str, got: str, expected: str) -> InvalidRequest:
    """The error for a parameter or header of a wrong value."""
    return InvalidRequest(f"{name}: expected {expected}, got {got[:100]!r}.", field=name)


def integer(name: str, text: str, low: int, high: int) -> int:
    """Read a decimal number without sign. Raises `InvalidRequest` naming the bounds."""
    if not (text.isascii() and text.isdigit() and len(text) < 20 and low <= int(text) <= high):
        raise bad(name, text, f"a whole number from {low} to {high}")
    return int(text)


class QueryParameters:
    """A request's parameters. One that the call does not know, or that is there twice, is an error: a typing mistake
    must not be taken for a wish not uttered."""

    def __init__(self, args: MultiDict[str, str], known: Collection[str]) -> None:
        self._args: dict[str, str] = {}
        if not args:
            return
        for name, values in args.lists():
            if name not in known:
                there = f"there are: {', '.join(sorted(known))}" if known else "there are none"
                raise InvalidRequest(f"Unknown parameter {name!r} in the query; for this call {there}.", field=name)
            if len(values) > 1:
                raise InvalidRequest(f"Parameter {name!r} is there {len(values)} times in the query.", field=name)
            self._args[name] = values[0]

    def __bool__(self) -> bool:
        """Whether there is any parameter."""
        return bool(self._args)

    def text(self, name: str) -> str | None:
        return self._args.get(name)

    def integer(self, name: str, default: int, low: int, high: int) -> int:
        text = self._args.get(name)
        return default if text is None else integer(name, text, low, high)

    def seconds(self, name: str, default: float, high: float) -> float:
        """A time in seconds, decimals allowed, from 0 to `high`."""
        text = self._args.get(name)
        if text is None:
            return default
        if not (_DECIMALS.fullmatch(text) and float(text) <= high):
            raise bad(name, text, f"a number of seconds from 0 to {high:g}")
        return float(text)

    def choice(self, name: str, choices: Collection[Choice], default: Choice) -> Choice:
        text = self._args.get(name)
        if text is None:
            return default
        for choice in choices:
            if text == choice:
                return choice
        raise bad(name, text, " or ".join(filter(None, choices)))

    def flag(self, name: str) -> bool:
        return self.choice(name, ("true", "false"), "false") == "true"
