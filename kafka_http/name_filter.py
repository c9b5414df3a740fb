"""Sets of names that globs describe: topics, consumers and groups that a principal may use."""

from collections.abc import Iterable
from fnmatch import fnmatchcase

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


def _matches_any(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, each) for each in patterns)


ALL_NAMES = NameFilter()
NO_NAMES = NameFilter(include=((),))
