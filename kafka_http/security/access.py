"""Rights, and what one principal may do."""

from collections.abc import Collection, Iterable
from typing import Literal, Protocol

from msgspec import Struct

from kafka_http.errors import Forbidden, TopicNotFound, Unauthenticated
from kafka_http.name_filter import ALL_NAMES, NO_NAMES, NameFilter
from kafka_http.security.principal import OFF, KeyRestriction, Principal
from kafka_http.security.rate_limits import UNLIMITED, ClientLimits

Right = Literal["publish", "read", "consumer", "admin"]

_PUBLISH_ONLY: tuple[Right, ...] = ("publish",)


class Rights(Struct, frozen=True):
    """What rules allow: topics to publish to, to read and to describe, names of consumers and groups, and `admin`.

    Who may publish to a topic or read it may also describe it, so `describe` has other topics only.
    """

    publish: NameFilter = NO_NAMES
    read: NameFilter = NO_NAMES
    describe: NameFilter = NO_NAMES
    consumer: NameFilter = NO_NAMES
    admin: bool = False

    def allows(self, right: Right, name: str) -> bool:
        """Whether a right holds for a topic or consumer. The right `admin` has no name."""
        if right == "admin":
            return self.admin
        names: NameFilter = getattr(self, right)
        return names.matches(name)

    def may_describe(self, topic: str) -> bool:
        return self.admin or any(each.matches(topic) for each in (self.publish, self.read, self.describe))

    def only(self, rights: Collection[Right]) -> "Rights":
        """Return these rights without all that are not named."""
        return Rights(
            self.publish if "publish" in rights else NO_NAMES,
            self.read if "read" in rights else NO_NAMES,
            NO_NAMES,
            self.consumer if "consumer" in rights else NO_NAMES,
            admin=self.admin and "admin" in rights,
        )

    def restricted(self, restriction: KeyRestriction) -> "Rights":
        """Return these rights as an API key narrows them."""
        rights = self.only(_PUBLISH_ONLY) if restriction.publish_only else self
        if restriction.topics is None:
            return rights
        publish, read, describe = (
            each.narrowed(restriction.topics) for each in (rights.publish, rights.read, rights.describe)
        )
        return Rights(publish, read, describe, rights.consumer)


ALL_RIGHTS = Rights(ALL_NAMES, ALL_NAMES, ALL_NAMES, ALL_NAMES, admin=True)
NO_RIGHTS = Rights()


class Rules(Protocol):
    """The access rules of one moment. Any thread may call."""

    def rights_of(self, principal: Principal, address: str) -> Rights:
        """Return the rights of a principal that calls from an address. Must not block.

        Raises `Unavailable` while the rules are not known yet.
        """


class Access:
    """What the sender of a request may do, by the rules of the moment when it was made. Immutable."""

    __slots__ = ("address", "generation", "limits", "principal", "rights")

    def __init__(
        self,
        principal: Principal,
        rights: Rights,
        address: str = "",
        generation: int = 0,
        limits: ClientLimits = UNLIMITED,
    ) -> None:
        """`generation` is that of the check point's state."""
        self.principal = principal
        self.rights = rights
        self.address = address
        self.generation = generation
        self.limits = limits

    @property
    def owner(self) -> str:
        """The owner of tasks, idempotency keys and instances that it makes; empty if authentication is off."""
        return self.principal.name

    @property
    def is_unrestricted(self) -> bool:
        """Whether authentication is off."""
        return self.principal is OFF

    def may(self, right: Right, name: str = "") -> bool:
        """Whether a right holds for a topic or consumer."""
        return self.rights.allows(right, name)

    @property
    def visible_owner(self) -> str | None:
        """The owner of the tasks and instances that are visible; None: all are."""
        return None if self.is_unrestricted or self.rights.admin else self.owner

    def may_use(self, owner: str) -> bool:
        """Whether tasks and instances of this owner are visible. Those without an owner need `admin`."""
        return self.visible_owner is None or (owner == self.owner and owner != "")

    def require_listing(self) -> None:
        """Check that it may list what it owns, not only find it by its name.

        Many clients share the name `anonymous`, or a key that a web page shows to everyone (`publish_only`): they
        must not see the tasks of each other. Raises `Forbidden`, `Unauthenticated`.
        """
        restriction = self.principal.restriction
        if self.principal.scheme == "anonymous" or (restriction is not None and restriction.publish_only):
            self.require("admin")

    def require(self, right: Right, name: str = "") -> None:
        """Check a right on a topic, or on a consumer for the right `consumer`.

        Raises `TopicNotFound` without any right on the topic, `Forbidden` if another right is missing, and
        `Unauthenticated` in place of both for a request without credentials.
        """
        if self.rights.allows(right, name):
            return
        if self.principal.scheme == "anonymous":
            raise Unauthenticated(f"This request needs credentials with the right {right}. Nothing was done.")
        if right in ("publish", "read") and not self.rights.may_describe(name):
            raise TopicNotFound(name)
        resource = "server" if right == "admin" else "consumer" if right == "consumer" else "topic"
        raise Forbidden(self.principal.name, right, resource, name)

    def require_describe(self, topic: str) -> None:
        """Raise `TopicNotFound` if the topic must not be visible; `Unauthenticated` without credentials."""
        if not self.rights.may_describe(topic):
            if self.principal.scheme == "anonymous":
                raise Unauthenticated("This request needs credentials.")
            raise TopicNotFound(topic)

    def visible(self, topics: Iterable[str]) -> list[str]:
        """Return the topics that may be described."""
        if self.is_unrestricted:
            return list(topics)
        return [each for each in topics if self.rights.may_describe(each)]


REFUSED = Access(Principal("", "anonymous"), NO_RIGHTS)
"""That of a request which the access check has refused, for what explains the refusal."""
UNRESTRICTED = Access(OFF, ALL_RIGHTS)
"""The access of each request while authentication is off."""
