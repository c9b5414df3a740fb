"""Who sends a request: the credentials of a request, and the principal that they prove."""

import math
import os
from collections.abc import Collection, Mapping
from hashlib import blake2b
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

from msgspec import Struct

Scheme = Literal["basic", "key", "jwt", "certificate", "proxy", "anonymous", "off"]
"""How a principal was authenticated. `off`: authentication is off."""


class Credentials(NamedTuple):
    """What the check point needs of a request. Header names are in lower case, each once.

    `peer` is the address of the TCP connection, `address` that of the client, which a trusted proxy may have forwarded.
    Both are empty on a Unix socket. `access_key` was removed from the query. `certificate` is the client's verified
    one, in the form of `ssl.SSLSocket.getpeercert()`.
    """

    headers: Mapping[str, str]
    peer: str
    address: str
    access_key: str | None = None
    certificate: Mapping[str, Any] | None = None


class ConnectedClient(Protocol):
    """The client of a connection, as the server knows it: see `Credentials.peer` and `Credentials.certificate`."""

    @property
    def address(self) -> str:
        """The address of the TCP connection."""

    @property
    def certificate(self) -> Mapping[str, Any] | None:
        """The verified certificate."""

    @property
    def connection(self) -> Any:
        """The `ConnectionCounts` of the connection, or None."""


class KeyRestriction(Struct, frozen=True):
    """What an API key narrows. `topics` are patterns, None: all. `origins` are those of web pages, None: all."""

    publish_only: bool = False
    topics: tuple[str, ...] | None = None
    origins: tuple[str, ...] | None = None


class Principal(Struct, frozen=True):
    """An authenticated client."""

    name: str
    scheme: Scheme
    groups: frozenset[str] = frozenset()
    """From a token."""
    expires: float = math.inf
    """When its credentials must be checked again, in seconds since 1970."""
    credential: str = ""
    """Identifies the credentials without revealing them, so that `Authenticator.is_current` can find them again."""
    restriction: KeyRestriction | None = None


class Authenticator(Protocol):
    """One kind of credentials. It is created at the start and at each reload. Any thread may call."""

    scheme: Scheme
    challenge: str
    """For `WWW-Authenticate`; empty if there is none for this kind."""

    def authenticate(self, credentials: Credentials, *, blocking: bool) -> Principal | None:
        """Return the principal, or None if the request has no credentials of this kind.

        Raises `Unauthenticated` for wrong credentials, `TooManyLogins`, and `WouldBlock` if `blocking` is false and a
        thread must check them.
        """

    def is_current(self, principal: Principal) -> bool:
        """Whether this would authenticate the principal now that another authenticator of this kind returned."""


@runtime_checkable
class PrincipalList(Protocol):
    """An `Authenticator` whose principals are all in a file."""

    @property
    def principals(self) -> Collection[Principal]:
        """All principals that it may return."""


ANONYMOUS_NAME = "anonymous"
"""The principal of requests without credentials. Users, keys and tokens of this name are rejected."""
ANONYMOUS = Principal(ANONYMOUS_NAME, "anonymous")
OFF = Principal("", "off")
"""The principal of all requests while authentication is off."""

_MAX_NAME = 255
_FINGERPRINT_KEY = os.urandom(32)
"""The workers inherit it."""


def is_valid_name(name: str) -> bool:
    """Whether users, keys and other principals may have this name, which occurs in rules, errors and log lines."""
    return 0 < len(name) <= _MAX_NAME and name.isprintable() and name == name.strip() and name != ANONYMOUS_NAME


def fingerprint(secret: str) -> str:
    """Return what identifies a secret in this process and its workers without revealing it."""
    return blake2b(secret.encode(errors="surrogatepass"), key=_FINGERPRINT_KEY, digest_size=16).hexdigest()
