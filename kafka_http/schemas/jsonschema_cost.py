"""Estimate from a JSON Schema how much work a check is. The estimate is an upper bound.

The unit is about the time for one keyword and one character of the value. Work grows exponentially with definitions
that each refer twice to the next, and with the depth of the value if a schema refers twice to itself. A pattern may
scan a text once for each of its counts.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

UNBOUNDED = float("inf")
_MAX_WORK = 100_000
"""More work than this is called unbounded."""
_MAX_DEPTH = 100
_UNBOUNDED_KEYWORDS = {"$dynamicRef", "$recursiveRef", "unevaluatedProperties", "unevaluatedItems"}
_DEFINITIONS = {"$defs", "definitions"}
_SEPARATE_PARTS = {"properties", "items", "prefixItems"}
"""Keywords whose schemas each apply to another part of the value."""
_SCHEMAS_BY_NAME = {"properties", "patternProperties", "dependentSchemas", "dependencies"}
_PATTERN_WORK = 50
_COUNT_WORK = 5


def estimate_work(schema: Any, references: Mapping[str, Any] = MappingProxyType({})) -> float:
    """Return the most work for each character of a value; `UNBOUNDED` if it is unknown or grows with the value.

    `references` are other schemas by name.
    """
    return _Estimator(references).cost(schema, schema, 0).work


class _Cost(NamedTuple):
    """The work for one part of a value, and whether the schema applies again to parts of that part."""

    work: float
    is_recursive: bool = False


_UNBOUNDED_COST = _Cost(UNBOUNDED)


class _Estimator:
    def __init__(self, references: Mapping[str, Any]) -> None:
        self._references = references
        self._costs: dict[int, _Cost] = {}

    def cost(self, schema: Any, root: Any, depth: int) -> _Cost:
        """Return the cost of a part of the schema `root`."""
        if depth > _MAX_DEPTH:
            return _UNBOUNDED_COST
        if isinstance(schema, list):
            return _sum([self.cost(each, root, depth + 1) for each in schema])
        if not isinstance(schema, dict):
            return _Cost(1)
        key = id(schema)
        if key not in self._costs:
            self._costs[key] = _Cost(0, is_recursive=True)  # for references to the schema from within it
            costs = [cost for name, value in schema.items() for cost in self._keyword_costs(name, value, root, depth)]
            total = _sum(costs)
            # Two recursions into the same part double the work at each level of the value.
            recursions = sum(each.is_recursive for each in costs)
            has_other_base = schema is not root and _has_address(schema)
            is_unbounded = total.work > _MAX_WORK or recursions > 1 or has_other_base
            self._costs[key] = _UNBOUNDED_COST if is_unbounded else total._replace(work=total.work + 1)
        return self._costs[key]

    def _keyword_costs(self, name: str, value: Any, root: Any, depth: int) -> list[_Cost]:
        """Return the costs of a keyword: one for each schema that may apply to the same part of a value."""
        if name in _UNBOUNDED_KEYWORDS:
            return [_UNBOUNDED_COST]
        if name in _DEFINITIONS:
            return []
        if name == "$ref" and isinstance(value, str):
            return [self._reference_cost(value, root, depth)]
        if name == "pattern" and isinstance(value, str):
            return [_Cost(_pattern_work(value))]
        patterns = [_Cost(_pattern_work(each)) for each in value] if name == "patternProperties" else []
        schemas = value.values() if name in _SCHEMAS_BY_NAME and isinstance(value, dict) else value
        if isinstance(schemas, dict | str) or not isinstance(schemas, Iterable):
            return [self.cost(value, root, depth + 1)]
        costs = [self.cost(each, root, depth + 1) for each in schemas]
        return [_sum(costs)] if name in _SEPARATE_PARTS else [*patterns, *costs]

    def _reference_cost(self, reference: str, root: Any, depth: int) -> _Cost:
        """Return the cost of the target of a JSON pointer (RFC 6901) into the schema or into another one."""
        address, _, pointer = reference.partition("#")
        if address:
            if address not in self._references or (_has_address(root) and ":" not in address):
                return _UNBOUNDED_COST
            root = self._references[address]
        if pointer and not pointer.startswith("/"):
            return _UNBOUNDED_COST
        target = root
        for part in pointer.split("/")[1:]:
            name = part.replace("~1", "/").replace("~0", "~")
            if not isinstance(target, dict) or name not in target:
                return _UNBOUNDED_COST
            target = target[name]
        return self.cost(target, root, depth + 1)


def _has_address(schema: Any) -> bool:
    """Return whether a schema sets the base of the relative references in it."""
    return isinstance(schema, dict) and ("$id" in schema or "id" in schema)


def _sum(costs: Sequence[_Cost]) -> _Cost:
    return _Cost(sum(each.work for each in costs), any(each.is_recursive for each in costs))


def _pattern_work(pattern: str) -> float:
    """Estimate a pattern that needs no backtracking from its length and its counts."""
    if len(pattern) > 500 or "(?" in pattern.replace("(?:", "") or re.search(r"\\[1-9k]", pattern):
        return UNBOUNDED
    # Nested counts multiply: `((a{100}){100}){100}` has a million states.
    counts = [max(int(each or 0) for each in pair) for pair in re.findall(r"\{([0-9]*),?([0-9]*)\}", pattern)]
    counted = math.prod(counts) if "){" in pattern else sum(counts)
    return _PATTERN_WORK + len(pattern) + _COUNT_WORK * counted
