"""The access rules in the settings: `[access."pattern of principals"]`.

The rules of all entries that match a principal add up. A pattern that begins with `@` matches groups of a token. The
principal of requests without credentials has the rights of `[access."anonymous"]` alone: no other pattern matches it.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from functools import lru_cache
from string import ascii_letters, digits
from typing import Annotated, Any, NamedTuple

from msgspec import Meta, Struct

from kafka_http.config import Config
from kafka_http.config.sections import read_section
from kafka_http.name_filter import NameFilter
from kafka_http.security.access import ALL_RIGHTS, Right, Rights
from kafka_http.security.principal import ANONYMOUS_NAME, Principal

SECTION = "access"
NAMED_RIGHTS: tuple[Right, ...] = ("publish", "read", "consumer")
"""The rights that hold for names. `admin` has no name."""
_CACHED_PRINCIPALS = 4096

Patterns = Annotated[tuple[str, ...], Meta(description="patterns of names, such as orders.*, separated by commas")]
Switch = Annotated[bool, Meta(description="true or false")]


class AccessEntry(Struct, frozen=True, kw_only=True):
    """The settings in `[access."pattern"]`."""

    publish: Annotated[Patterns, "topics to publish to"] = ()
    read: Annotated[Patterns, "topics to read"] = ()
    consumer: Annotated[Patterns, "names of consumers, groups and queues"] = ()
    admin: Annotated[Switch, "see all topics; tasks and consumer instances of others"] = False


class Explanation(NamedTuple):
    """What one rule says about a principal: a right, the names it holds for, and the rule.

    `names` is empty for the right `admin`. `is_denied`: the rule denies the right.
    """

    right: str
    names: tuple[str, ...]
    rule: str
    is_denied: bool = False


class AllowAll:
    """The rules without `[access]`: each authenticated principal may do everything."""

    def rights_of(self, principal: Principal, address: str) -> Rights:
        return ALL_RIGHTS

    def explain(self, principal: Principal, address: str) -> list[Explanation]:
        """Return what the rules say about a principal."""
        rule = "without [access], each authenticated principal may do everything"
        return [*(Explanation(right, ("*",), rule) for right in NAMED_RIGHTS), Explanation("admin", (), rule)]


class SettingsRules:
    """The rules in `[access]`. `load_security` creates it at the start and at each reload. Any thread may call."""

    def __init__(self, entries: Mapping[str, AccessEntry]) -> None:
        """`entries` maps patterns of principals, or of groups with `@` before them, to what they may do."""
        self._entries = entries
        self._cached = lru_cache(_CACHED_PRINCIPALS)(self._rights_of)

    @classmethod
    def from_config(cls, config: Config) -> "SettingsRules":
        """Return the rules of the section. Raises `ConfigError`. An empty section allows nothing."""
        return cls({pattern: _entry(pattern, section, config.sources) for pattern, section in config.access.items()})

    def rights_of(self, principal: Principal, address: str) -> Rights:
        return self._cached(principal.name, principal.groups, is_anonymous=principal.scheme == "anonymous")

    def explain(self, principal: Principal, address: str) -> list[Explanation]:
        """Return what the rules say about a principal, in their order."""
        matching = self._matching(principal.name, principal.groups, is_anonymous=principal.scheme == "anonymous")
        return [each for pattern, entry in matching for each in _explain(pattern, entry)]

    def warnings(
        self, anonymous: Collection[Right], *, has_groups: bool, principals: Collection[Principal] | None
    ) -> Iterator[str]:
        """Yield a sentence for each rule that can match nothing.

        `anonymous` are the rights of requests without credentials. `has_groups`: principals may have groups.
        `principals` are all users and keys, None if there may be others.
        """
        if anonymous and ANONYMOUS_NAME not in self._entries:
            yield f"auth.anonymous has no effect: there is no {_rule(ANONYMOUS_NAME)}."
        names = None if principals is None else [each.name for each in principals]
        for pattern, entry in self._entries.items():
            if problem := _problem(pattern, entry, anonymous, names, has_groups=has_groups):
                yield f"{_rule(pattern)} has no effect: {problem}."
            for right in ("publish", "read"):
                for topics in getattr(entry, right):
                    if not can_match_topics(topics):
                        yield f"{right} of {_rule(pattern)}: no topic can have a name that matches {topics!r}."

    def _rights_of(self, name: str, groups: frozenset[str], *, is_anonymous: bool) -> Rights:
        matching = [entry for _, entry in self._matching(name, groups, is_anonymous=is_anonymous)]
        publish, read, consumer = (_names(matching, right) for right in NAMED_RIGHTS)
        return Rights(publish, read, consumer=consumer, admin=any(each.admin for each in matching))

    def _matching(self, name: str, groups: frozenset[str], *, is_anonymous: bool) -> list[tuple[str, AccessEntry]]:
        if is_anonymous:
            return [(each, self._entries[each]) for each in (ANONYMOUS_NAME,) if each in self._entries]
        return [item for item in self._entries.items() if _matches(item[0], name, groups)]


def _entry(pattern: str, section: Mapping[str, Any], sources: Mapping[str, str]) -> AccessEntry:
    return AccessEntry(**read_section(AccessEntry, f"{SECTION}.{pattern}", section, sources))


def _matches(pattern: str, name: str, groups: frozenset[str]) -> bool:
    if pattern.startswith("@"):
        return any(fnmatchcase(each, pattern[1:]) for each in groups)
    return fnmatchcase(name, pattern)


def _names(entries: Iterable[AccessEntry], right: Right) -> NameFilter:
    patterns = dict.fromkeys(pattern for each in entries for pattern in getattr(each, right))
    return NameFilter((tuple(patterns),))


def _explain(pattern: str, entry: AccessEntry) -> Iterator[Explanation]:
    for right in NAMED_RIGHTS:
        if names := getattr(entry, right):
            yield Explanation(right, names, _rule(pattern))
    if entry.admin:
        yield Explanation("admin", (), _rule(pattern))


def _rule(pattern: str) -> str:
    return f'[access."{pattern}"]'


def _problem(
    pattern: str, entry: AccessEntry, anonymous: Collection[Right], names: Collection[str] | None, *, has_groups: bool
) -> str:
    """Return why an entry has no effect, or nothing. `names` are those of all users and keys, None if others exist."""
    if entry == AccessEntry():
        return "it has no rights"
    if pattern == ANONYMOUS_NAME:
        given = {right for right in (*NAMED_RIGHTS, "admin") if getattr(entry, right)}
        return "" if given.intersection(anonymous) else "auth.anonymous has none of its rights"
    if pattern.startswith("@"):
        return "" if has_groups else "no principal has groups, because auth.jwt.groups_claim is not set"
    is_known = names is None or any(fnmatchcase(each, pattern) for each in names)
    return "" if is_known else "no user and no key has a matching name"


_ELEMENT = re.compile(r"\[!?\]?[^\]]*\]|.", re.DOTALL)
"""An element of a glob: a set of characters in brackets, or a single character."""
_TOPIC_CHARACTERS = ascii_letters + digits + "._-"
_LONGEST_TOPIC = 249


def can_match_topics(pattern: str) -> bool:
    """Whether a name that Kafka allows for a topic can match a pattern."""
    elements = [each for each in _ELEMENT.findall(pattern) if each != "*"]
    is_long_enough = pattern != "" and len(elements) <= _LONGEST_TOPIC
    return is_long_enough and all(any(fnmatchcase(one, each) for one in _TOPIC_CHARACTERS) for each in elements)
