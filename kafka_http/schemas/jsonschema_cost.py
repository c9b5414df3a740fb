"""How much work it may be to check with a JSON Schema, told from the schema alone, and rather too much than too little.

The unit is about the time for one keyword and one character. A schema doubles the work with each line where it refers
twice to what refers twice to something, and with each level of a value where it refers twice to itself; a pattern may
go over a text again for each count in it.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

ENDLESS = float("inf")
_MOST = 100_000
"""From here on it is called endless."""
_DEEPEST = 100
_UNTOLD = {"$dynamicRef", "$recursiveRef", "unevaluatedProperties", "unevaluatedItems"}
_DEFINITIONS = {"$defs", "definitions"}
_FOR_DIFFERENT_PARTS = {"properties", "items", "prefixItems"}
"""Of what they hold, each is for another part of the value."""
_SCHEMAS_BY_NAME = {"properties", "patternProperties", "dependentSchemas", "dependencies"}
_OF_A_PATTERN = 50
_OF_A_COUNT = 5


def work_of(schema: Any, references: Mapping[str, Any] = MappingProxyType({})) -> float:
    """The most work there is for each character of a value; `ENDLESS` where that cannot be told, or grows with it."""
    return _Work(references).of(schema, schema, 0).work


class _Told(NamedTuple):
    """The work for one part of a value, and whether the schema is applied again to parts of that."""

    work: float
    recurs: bool = False


_ENDLESS = _Told(ENDLESS)


class _Work:
    def __init__(self, references: Mapping[str, Any]) -> None:
        self._references = references
        self._known: dict[int, _Told] = {}

    def of(self, schema: Any, root: Any, depth: int) -> _Told:
        """`root` is the whole schema that it is a part of."""
        if depth > _DEEPEST:
            return _ENDLESS
        if isinstance(schema, list):
            return _either([self.of(each, root, depth + 1) for each in schema])
        if not isinstance(schema, dict):
            return _Told(1)
        key = id(schema)
        if key not in self._known:
            self._known[key] = _Told(0, recurs=True)  # as long as it is being told: that is the recursion
            told = _both([part for name, value in schema.items() for part in self._parts(name, value, root, depth)])
            is_moved = schema is not root and _has_address(schema)
            self._known[key] = _ENDLESS if told.work > _MOST or is_moved else told._replace(work=told.work + 1)
        return self._known[key]

    def _parts(self, name: str, value: Any, root: Any, depth: int) -> list[_Told]:
        """What a keyword adds, one for each schema that it may apply to the same part of a value."""
        if name in _UNTOLD:
            return [_ENDLESS]
        if name in _DEFINITIONS:
            return []
        if name == "$ref" and isinstance(value, str):
            return [self._of_target(value, root, depth)]
        if name == "pattern" and isinstance(value, str):
            return [_Told(_of_pattern(value))]
        parts = [_Told(_of_pattern(each)) for each in value] if name == "patternProperties" else []
        schemas = value.values() if name in _SCHEMAS_BY_NAME and isinstance(value, dict) else value
        if isinstance(schemas, dict | str) or not isinstance(schemas, Iterable):
            return [self.of(value, root, depth + 1)]
        told = [self.of(each, root, depth + 1) for each in schemas]
        return [_either(told)] if name in _FOR_DIFFERENT_PARTS else [*parts, *told]

    def _of_target(self, reference: str, root: Any, depth: int) -> _Told:
        """What lies at a JSON pointer (RFC 6901) into the schema itself, or into one that it refers to by its name."""
        address, _, pointer = reference.partition("#")
        if address:
            if address not in self._references or (_has_address(root) and ":" not in address):
                return _ENDLESS
            root = self._references[address]
        if pointer and not pointer.startswith("/"):
            return _ENDLESS
        target = root
        for part in pointer.split("/")[1:]:
            name = part.replace("~1", "/").replace("~0", "~")
            if not isinstance(target, dict) or name not in target:
                return _ENDLESS
            target = target[name]
        return self.of(target, root, depth + 1)


def _has_address(schema: Any) -> bool:
    """Whether it says what relative references in it are relative to."""
    return isinstance(schema, dict) and ("$id" in schema or "id" in schema)


def _either(parts: Sequence[_Told]) -> _Told:
    """For different parts of a value, any of which the schema may be applied to again."""
    return _Told(sum(each.work for each in parts), any(each.recurs for each in parts))


def _both(parts: Sequence[_Told]) -> _Told:
    """For the same part: two that recur double the work with each level of the value."""
    told = _either(parts)
    return _ENDLESS if sum(each.recurs for each in parts) > 1 else told


def _of_pattern(pattern: str) -> float:
    """Without what has to be tried back and forth, its length and its counts say how much work it is."""
    if len(pattern) > 500 or "(?" in pattern.replace("(?:", "") or re.search(r"\\[1-9k]", pattern):
        return ENDLESS
    counts = [max(int(each or 0) for each in pair) for pair in re.findall(r"\{([0-9]*),?([0-9]*)\}", pattern)]
    counted = math.prod(counts) if "){" in pattern else sum(counts)
    return _OF_A_PATTERN + len(pattern) + _OF_A_COUNT * counted
