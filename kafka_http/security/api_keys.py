"""API keys: a TOML file with the SHA-256 of each key, and what the key narrows."""

import re
import secrets
import time
import tomllib
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from hashlib import sha256
from typing import Annotated, Any

from msgspec import Meta, Struct

from kafka_http.config import ConfigError
from kafka_http.config.sections import read_section
from kafka_http.config.settings import Origins
from kafka_http.errors import Unauthenticated
from kafka_http.security.auth_settings import read_auth_file
from kafka_http.security.check_point import API_KEY_PREFIX
from kafka_http.security.principal import (
    Credentials,
    KeyRestriction,
    Principal,
    Scheme,
    fingerprint,
    is_valid_name,
)

_KEY = re.compile(rf"{API_KEY_PREFIX}[!-~]{{1,509}}")
_NEVER = datetime.max.replace(tzinfo=UTC)

Sha256 = Annotated[str, Meta(pattern=r"^[0-9a-fA-F]{64}$", description="the SHA-256 of the key, 64 hexadecimal digits")]
Time = Annotated[datetime, Meta(tz=True, description="a time with its zone, such as 2030-01-01T00:00:00Z")]
Switch = Annotated[bool, Meta(description="true or false")]
OptionalOrigins = Annotated[Origins | None, Meta(description="a list of origins such as https://app.example.org")]
OptionalPatterns = Annotated[tuple[str, ...] | None, Meta(description="a list of patterns such as orders.*")]


class KeySettings(Struct, frozen=True, kw_only=True):
    """The entry of a key in the file."""

    sha256: Annotated[Sha256, "SHA-256 of the whole key, in hexadecimal digits; required"] = ""
    expires: Annotated[Time, "when the key expires; default: never"] = _NEVER
    publish_only: Annotated[Switch, "the key may only publish; it can be sent as access_key"] = False
    origins: Annotated[OptionalOrigins, "the only web pages that may use the key"] = None
    topics: Annotated[OptionalPatterns, "patterns of the only topics that the key is for"] = None

    def principal(self, name: str) -> Principal:
        """Return the principal of the key."""
        restriction = KeyRestriction(self.publish_only, self.topics, self.origins)
        return Principal(
            name,
            "key",
            expires=self.expires.timestamp(),
            credential=fingerprint(self.sha256.lower()),
            restriction=None if restriction == KeyRestriction() else restriction,
        )


class ApiKeys:
    """The `Authenticator` of API keys: in `Authorization: Bearer`, in `X-Api-Key`, or in `access_key`."""

    scheme: Scheme = "key"
    challenge = 'Bearer realm="kafka_http"'

    def __init__(self, principals: Mapping[bytes, Principal]) -> None:
        """`principals` are those of the keys, by the SHA-256 of the key."""
        self._principals = principals
        self._current = {each.credential: each for each in principals.values()}

    @classmethod
    def from_file(cls, path: str) -> "ApiKeys":
        """Read the file of keys. Raises `ConfigError`, which names the entry."""
        return cls(read_keys(path, read_auth_file("keys", path)))

    @property
    def principals(self) -> Collection[Principal]:
        """The principals of all keys."""
        return self._principals.values()

    def authenticate(self, credentials: Credentials, *, blocking: bool) -> Principal | None:
        """Return the principal of the key. Does not block."""
        sent = _header_key(credentials.headers)
        key = credentials.access_key if sent is None else sent
        if key is None:
            return None
        # The digest is the lookup's only input: how long it takes tells nothing about the keys.
        principal = self._principals.get(sha256(key.encode()).digest()) if _KEY.fullmatch(key) else None
        if principal is None:
            raise Unauthenticated("Unknown API key. Nothing was done.")
        if principal.expires <= time.time():
            raise Unauthenticated("The API key has expired. Nothing was done.")
        if sent is None and not (principal.restriction and principal.restriction.publish_only):
            raise Unauthenticated("Only keys marked publish_only can be sent as access_key. Nothing was done.")
        return principal

    def is_current(self, principal: Principal) -> bool:
        """Whether the key exists, has not expired, and narrows the same."""
        return self._current.get(principal.credential) == principal and principal.expires > time.time()


def _header_key(headers: Mapping[str, str]) -> str | None:
    authorization = headers.get("authorization")
    if authorization is None:
        return headers.get("x-api-key")
    kind, _, key = authorization.partition(" ")
    key = key.strip()
    return key if kind.lower() == "bearer" and key.startswith(API_KEY_PREFIX) else None


def read_keys(path: str, text: str) -> dict[bytes, Principal]:
    """Parse the file of keys into principals by the SHA-256 of the key. Raises `ConfigError`."""
    try:
        entries = tomllib.loads(text)
    except ValueError as error:
        raise ConfigError(f"The file {path} (auth.keys) is not TOML: {error}.") from None
    principals: dict[bytes, Principal] = {}
    for name, entry in entries.items():
        settings = _read_entry(path, name, entry)
        digest = bytes.fromhex(settings.sha256)
        if digest in principals:
            raise ConfigError(f"{path}: [{principals[digest].name}] and [{name}] have the same key.")
        principals[digest] = settings.principal(name)
    return principals


def _read_entry(path: str, name: str, entry: Any) -> KeySettings:
    if not is_valid_name(name):
        raise ConfigError(
            f"{path}: the name {name[:40]!r} is empty, reserved, over 255 characters, or has control characters or "
            "spaces at its ends."
        )
    if not isinstance(entry, Mapping):
        raise ConfigError(f"{path}: {name} must be a table such as [{name}] with sha256.")
    settings = KeySettings(**read_section(KeySettings, name, entry, {f"{name}.{each}": path for each in entry}))
    if not settings.sha256:
        raise ConfigError(f"{path}: [{name}] needs sha256. `kafka-http key create {name}` makes a key and its entry.")
    return settings


def new_key() -> str:
    """Return a new key, with 256 random bits."""
    return API_KEY_PREFIX + secrets.token_urlsafe(32)
