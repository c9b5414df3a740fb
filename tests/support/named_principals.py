"""Principals for tests: each sends its name as an API key, and has the rights that the test gives it."""

from collections.abc import Mapping
from typing import Any

import pytest

from kafka_http.app import load_security
from kafka_http.errors import Unauthenticated
from kafka_http.security.access import Rights
from kafka_http.security.principal import Credentials, Principal

CHALLENGE = 'Bearer realm="kafka_http"'


class NamedPrincipals:
    """The `Authenticator` and the `Rules` of some principals. The key of a principal is `kh_` and its name."""

    scheme = "key"
    challenge = CHALLENGE

    def __init__(self, rights: Mapping[str, Rights]) -> None:
        self.rights = dict(rights)

    def use(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Let all applications that are created have these principals."""

        def load(*arguments: Any) -> Any:
            state = load_security(*arguments)
            return state._replace(authenticators=[self], rules=self)

        monkeypatch.setattr("kafka_http.app.load_security", load)

    def authenticate(self, credentials: Credentials, *, blocking: bool) -> Principal | None:
        key = credentials.headers.get("x-api-key", credentials.access_key)
        if key is None:
            return None
        name = key.removeprefix("kh_")
        if name not in self.rights:
            raise Unauthenticated("Unknown key.")
        return Principal(name, "key")

    def is_current(self, principal: Principal) -> bool:
        return principal.name in self.rights

    def rights_of(self, principal: Principal, address: str) -> Rights:
        return self.rights.get(principal.name, Rights())


def key_of(principal: str) -> dict[str, str]:
    """Return the headers of a request of a principal."""
    return {"X-Api-Key": f"kh_{principal}"}
