"""How much work it may be to check with a JSON Schema, told from the schema alone, and rather too much than too little.

The unit is about the time for one keyword and one character. A schema doubles the work with each line where it refers
twice to what refers twice to something; a pattern may go over a text again for each count in it.
"""

import math
import re
from collections.abc import Iterable
from typing import Any

ENDLESS = float("inf")
_MOST = 100_000
"""From here on it is called endless."""
_DEEPEST = 100
_UNTOLD = {"$dynamicRef", "$recursiveRef", "unevaluatedProperties", "unevaluatedItems"}
_SCHEMAS_BY_NAME = {"properties", "patternProperties", "dependentSchemas", "dependencies"}
_DEFINITIONS = {"$defs", "definitions"}
_OF_A_PATTERN = 50
_OF_A_COUNT = 5


def work_of(schema: Any) -> float:
    """The most work there is for each character of a value; `ENDLESS` for a schema that refers to itself or others."""
    return _Work(schema).of(schema, 0)


class _Work:
    def __init__(self, root: Any) -> None:
        self._root = root
        self._known: dict[int, float] = {}

    def of(self, schema: Any, depth: int) -> float:
        if isinstance(schema, list):
            return self._sum(schema, depth)
        if not isinstance(schema, dict):
            return 1
        key = id(schema)
        if key not in self._known:
            self._known[key] = ENDLESS  # as long as it is being told: it refers to itself
            work = 1 + sum(self._of_keyword(name, value, depth) for name, value in schema.items())
            is_moved = schema is not self._root and ("$id" in schema or "id" in schema)
            self._known[key] = ENDLESS if work > _MOST or depth > _DEEPEST or is_moved else work
        return self._known[key]

    def _of_keyword(self, name: str, value: Any, depth: int) -> float:
        if depth > _DEEPEST or name in _UNTOLD:
            return ENDLESS
        if name == "$ref" and isinstance(value, str):
            return self._of_target(value, depth)
        if name == "pattern" and isinstance(value, str):
            return _of_pattern(value)
        if name in _SCHEMAS_BY_NAME and isinstance(value, dict):
            patterns = sum(map(_of_pattern, value)) if name == "patternProperties" else 0
            return patterns + self._sum(value.values(), depth)
        return 0 if name in _DEFINITIONS else self.of(value, depth + 1)

    def _sum(self, schemas: Iterable[Any], depth: int) -> float:
        return sum(self.of(each, depth + 1) for each in schemas)

    def _of_target(self, reference: str, depth: int) -> float:
        """What lies at a JSON pointer (RFC 6901) into the schema itself; others are not followed."""
        if reference != "#" and not reference.startswith("#/"):
            return ENDLESS
        target = self._root
        for part in reference[2:].split("/") if len(reference) > 1 else ():
            name = part.replace("~1", "/").replace("~0", "~")
            if not isinstance(target, dict) or name not in target:
                return ENDLESS
            target = target[name]
        return self.of(target, depth + 1)


def _of_pattern(pattern: str) -> float:
    """Without what has to be tried back and forth, its length and its counts say how much work it is."""
    if len(pattern) > 500 or "(?" in pattern.replace("(?:", "") or re.search(r"\\[1-9k]", pattern):
        return ENDLESS
    counts = [max(int(each or 0) for each in pair) for pair in re.findall(r"\{([0-9]*),?([0-9]*)\}", pattern)]
    counted = math.prod(counts) if "){" in pattern else sum(counts)
    return _OF_A_PATTERN + len(pattern) + _OF_A_COUNT * counted
