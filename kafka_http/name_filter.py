"""Sets of names that globs describe: topics, consumers and groups that a principal may use."""

import re
from fnmatch import translate
from functools import lru_cache
from typing import NamedTuple

from msgspec import Struct


class NameFilter(Struct, frozen=True):
    """A set of names: those that match one pattern of each group in `include`, and no pattern in `exclude`.

    Patterns are globs on the whole name. Without groups, all names match; with an empty group, none does.
    """

    include: tuple[tuple[str, ...], ...] = ()
    exclude: tuple[str, ...] = ()

    def matches(self, name: str) -> bool:
        return all(_matches_any(name, group) for group in self.include) and not _matches_any(name, self.exclude)

    def narrowed(self, patterns: tuple[str, ...]) -> "NameFilter":
        """Return the names of this filter that also match one of the patterns."""
        return NameFilter((*self.include, patterns), self.exclude)


ALL_NAMES = NameFilter()
NO_NAMES = NameFilter(include=((),))


class _Patterns(NamedTuple):
    """Patterns by the cost of their comparison: names, beginnings of names, and globs."""

    names: frozenset[str]
    prefixes: tuple[str, ...]
    globs: re.Pattern[str] | None


_SPECIAL = re.compile(r"[*?[]")


def _matches_any(name: str, patterns: tuple[str, ...]) -> bool:
    if not patterns:
        return False
    names, prefixes, globs = _prepared(patterns)
    return name in names or name.startswith(prefixes) or (globs is not None and globs.match(name) is not None)


@lru_cache(1024)
def _prepared(patterns: tuple[str, ...]) -> _Patterns:
    """Sort patterns: there may be thousands from ACLs, mostly names and beginnings, for each of thousands of topics."""
    names = frozenset(each for each in patterns if not _SPECIAL.search(each))
    prefixes = tuple(each[:-1] for each in patterns if each.endswith("*") and not _SPECIAL.search(each[:-1]))
    globs = [translate(each) for each in patterns if _SPECIAL.search(each.removesuffix("*"))]
    return _Patterns(names, prefixes, re.compile("|".join(globs)) if globs else None)
