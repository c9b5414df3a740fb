"""A stub of authentication and rules: each principal has the key `kh_NAME`, and rights that a test may change."""

from collections.abc import Mapping
from typing import Any

import pytest

from kafka_http.errors import Unauthenticated
from kafka_http.name_filter import NO_NAMES, NameFilter
from kafka_http.security import security_state
from kafka_http.security.access import NO_RIGHTS, Right, Rights
from kafka_http.security.principal import Credentials, KeyRestriction, Principal
from kafka_http.security.rate_limits import NoLimits, RateLimits

CHALLENGE = 'Bearer realm="kafka_http"'


def names(*patterns: str) -> NameFilter:
    return NameFilter((patterns,)) if patterns else NO_NAMES


class StubAccess:
    """The `Authenticator` and the `Rules` of an application. Requests without a key have the rights `anonymous`.

    `rights` and `restrictions` are by the name of the principal; one without an entry in `rights` is not known. A
    change takes effect after `AppLifecycle.reload`.
    """

    scheme = "key"
    challenge = CHALLENGE

    def __init__(self, rights: Mapping[str, Rights]) -> None:
        self.rights = dict(rights)
        self.restrictions: dict[str, KeyRestriction] = {}
        self.anonymous: frozenset[Right] = frozenset()
        self.limits: RateLimits = NoLimits()

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Let each application that is created from now on use this."""
        before = security_state.load_security

        def load(*arguments: Any) -> Any:
            parts = {"authenticators": [self], "rules": self, "anonymous": self.anonymous, "limits": self.limits}
            return before(*arguments)._replace(**parts)  # type: ignore[arg-type]

        monkeypatch.setattr("kafka_http.app.load_security", load)

    def authenticate(self, credentials: Credentials, *, blocking: bool) -> Principal | None:
        sent = credentials.headers.get("x-api-key")
        if sent is None:
            return None
        name = sent.removeprefix("kh_")
        if name not in self.rights:
            raise Unauthenticated("Unknown key.")
        return Principal(name, "key", restriction=self.restrictions.get(name))

    def is_current(self, principal: Principal) -> bool:
        return principal.name in self.rights

    def rights_of(self, principal: Principal, address: str) -> Rights:
        return self.rights.get(principal.name, NO_RIGHTS)
