"""Evaluates the ACLs of a Kafka cluster for the principals of HTTP requests, as Kafka's StandardAuthorizer does.

An ACL applies to the principal `User:<name>` or to all users, from its host or from all hosts. What one ACL denies, no
other allows. The right to read, write, delete or alter a topic includes the right to describe it.
"""

import glob
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from ipaddress import IPv6Address, ip_address
from typing import NamedTuple

from kafka_http.acls import CLUSTER_NAME, Acl, AclResource
from kafka_http.name_filter import NameFilter
from kafka_http.security.access import Rights
from kafka_http.security.access_rules import Explanation
from kafka_http.security.principal import Principal

ALL_USERS, ALL_HOSTS, ALL_NAMES = "User:*", "*", "*"
ANONYMOUS_USER = "User:ANONYMOUS"
"""Kafka's principal for clients without credentials."""
_CACHED_RIGHTS = 4096
_NO_HOST, _OTHER_ADDRESS = "no address", "other"


class _Operations(NamedTuple):
    """The operations on a kind of resource that give a right, and those whose denial takes it."""

    resource: AclResource
    allowing: frozenset[str]
    denying: frozenset[str]


def _operations(resource: AclResource, allowing: str, denying: str) -> _Operations:
    return _Operations(resource, frozenset(allowing.split()), frozenset(denying.split()))


_RIGHTS: Mapping[str, _Operations] = {
    "publish": _operations("topic", "write all", "write describe all"),
    "read": _operations("topic", "read all", "read describe all"),
    "describe": _operations("topic", "describe read write delete alter all", "describe all"),
    "consumer": _operations("group", "read all", "read describe all"),
    "admin": _operations("cluster", "alter all", "alter describe all"),
}
"""The rights. This server describes what it reads and writes, as all clients do: `describe` must not be denied."""


class AclRules:
    """The rules that the ACLs of one moment make. Immutable. Any thread may call."""

    def __init__(self, acls: Iterable[Acl]) -> None:
        self._by_principal: dict[str, list[Acl]] = {}
        for each in acls:
            host = _comparable(each.host) or _NO_HOST
            self._by_principal.setdefault(each.principal, []).append(each._replace(host=host))
        self._hosts = {each.host for entries in self._by_principal.values() for each in entries}
        self._cached = lru_cache(_CACHED_RIGHTS)(self._rights_of)

    def rights_of(self, principal: Principal, address: str) -> Rights:
        return self._cached(_user(principal), self._host(address))

    def explain(self, principal: Principal, address: str) -> list[Explanation]:
        """Return what the ACLs say about a principal that calls from an address."""
        return [
            Explanation(right, () if each.resource == "cluster" else (_pattern(each),), _text(each), each.is_denied)
            for each in self._matching(_user(principal), self._host(address))
            for right in _concerned_rights(each)
        ]

    def _rights_of(self, user: str, host: str) -> Rights:
        acls = self._matching(user, host)
        names = {right: _names(acls, right) for right in ("publish", "read", "describe", "consumer")}
        return Rights(**names, admin=_names(acls, "admin").matches(CLUSTER_NAME))

    def _host(self, address: str) -> str:
        """Return the address if an ACL names it, empty if the address is not known, and otherwise one other host."""
        host = _comparable(address)
        return host if host in self._hosts or not host else _OTHER_ADDRESS

    def _matching(self, user: str, host: str) -> list[Acl]:
        """Return the ACLs for a user and a host. What is denied to any host is denied to an unknown host."""
        entries = [each for name in (user, ALL_USERS) for each in self._by_principal.get(name, ())]
        return [each for each in entries if each.host in (ALL_HOSTS, host) or (each.is_denied and not host)]


def _user(principal: Principal) -> str:
    return ANONYMOUS_USER if principal.scheme == "anonymous" else f"User:{principal.name}"


@lru_cache(_CACHED_RIGHTS)
def _comparable(address: str) -> str:
    """Return an address in its only form, empty if it is none. Java writes 0:0:0:0:0:0:0:1 for ::1."""
    if address == ALL_HOSTS:
        return address
    try:
        parsed = ip_address(address)
    except ValueError:
        return ""
    return str(parsed.ipv4_mapped or parsed) if isinstance(parsed, IPv6Address) else str(parsed)


def _names(acls: Iterable[Acl], right: str) -> NameFilter:
    """Return the names for which a right holds, in an order that does not depend on the broker's."""
    resource, allowing, denying = _RIGHTS[right]
    of_kind = [each for each in acls if each.resource == resource]
    allowed = [each for each in of_kind if not each.is_denied and each.operation in allowing]
    denied = [each for each in of_kind if each.is_denied and each.operation in denying]
    return NameFilter((_patterns(allowed),), _patterns(_effective(denied, allowed)))


def _effective(denied: Sequence[Acl], allowed: Sequence[Acl]) -> list[Acl]:
    """Return the ACLs that deny something that is allowed. `GET /access` must not show the names in the others."""
    texts = [_beginning(each) for each in allowed]
    names = frozenset(texts)
    prefixes = tuple(text for text, each in zip(texts, allowed, strict=True) if _is_prefix(each))
    return [
        each
        for each in denied
        if (text := _beginning(each)) in names
        or text.startswith(prefixes)
        or (_is_prefix(each) and any(other.startswith(text) for other in texts))
    ]


def _patterns(acls: Iterable[Acl]) -> tuple[str, ...]:
    return tuple(sorted({_pattern(each) for each in acls}))


def _is_prefix(acl: Acl) -> bool:
    return acl.is_prefix or acl.name == ALL_NAMES


def _beginning(acl: Acl) -> str:
    """Return the name of a resource, or the beginning of all names that an ACL is about."""
    return "" if acl.name == ALL_NAMES and not acl.is_prefix else acl.name


def _concerned_rights(acl: Acl) -> list[str]:
    """Return the rights that an ACL gives or takes, without `describe` if it gives another."""
    rights = [
        right
        for right, (resource, allowing, denying) in _RIGHTS.items()
        if acl.resource == resource and acl.operation in (denying if acl.is_denied else allowing)
    ]
    return rights if acl.is_denied or len(rights) < 2 else [each for each in rights if each != "describe"]


def _pattern(acl: Acl) -> str:
    if acl.is_prefix:
        return f"{glob.escape(acl.name)}*"
    return acl.name if acl.name == ALL_NAMES else glob.escape(acl.name)


def _text(acl: Acl) -> str:
    verb = "Deny" if acl.is_denied else "Allow"
    names = f"{acl.name} (prefixed)" if acl.is_prefix else acl.name
    return f"{acl.principal}: {verb} {acl.operation} on {acl.resource} {names} from host {acl.host}"
