"""Users with passwords: HTTP Basic authentication against an htpasswd file of bcrypt hashes."""

import re
import time
from base64 import b64decode
from collections.abc import Collection, Iterator, Mapping
from functools import partial
from typing import NamedTuple

import bcrypt

from kafka_http.config import ConfigError
from kafka_http.errors import Unauthenticated, WouldBlock
from kafka_http.loading_cache import LoadingCache
from kafka_http.security.auth_settings import read_auth_file
from kafka_http.security.login_attempts import LoginAttempts
from kafka_http.security.principal import Credentials, Principal, Scheme, fingerprint, is_valid_name

_HASH = re.compile(r"\$2[by]\$(\d\d)\$[./A-Za-z0-9]{53}")
_MAX_COST = 16
"""A check with this cost takes seconds."""
_MAX_PASSWORD = 72
"""Bytes. bcrypt ignores what is longer."""
_CACHE_SECONDS = 60.0
_CACHE_SIZE = 4096


class Login(NamedTuple):
    """A user and a password that a client sent."""

    user: str
    password: str


class BasicLogins:
    """The `Authenticator` of users with passwords.

    bcrypt is slow by design, so it only runs where the caller may block. A login that it has verified is remembered for
    a minute. At most ten failed logins a minute are checked for an address.
    """

    scheme: Scheme = "basic"
    challenge = 'Basic realm="kafka_http", charset="UTF-8"'

    def __init__(self, hashes: Mapping[str, str], attempts: LoginAttempts) -> None:
        """`hashes` are the users and their bcrypt hashes."""
        self._hashes = hashes
        self._attempts = attempts
        self._verified: LoadingCache[str, Principal] = LoadingCache(_CACHE_SIZE, lambda _: 1, lambda *_: _CACHE_SECONDS)
        cost = max((each[4:6] for each in hashes.values()), default="10")
        self._unmatched_hash = f"$2b${cost}$" + 53 * "."
        """Checked for unknown users, so that the time of the response does not tell that a user exists."""

    @classmethod
    def from_file(cls, path: str, attempts: LoginAttempts) -> "BasicLogins":
        """Read an htpasswd file. Raises `ConfigError`, which names the line."""
        return cls(read_users(path, read_auth_file("basic", path)), attempts)

    @property
    def principals(self) -> Collection[Principal]:
        """All users."""
        return [Principal(user, self.scheme) for user in self._hashes]

    def authenticate(self, credentials: Credentials, *, blocking: bool) -> Principal | None:
        """Return the user. `TooManyLogins` is only raised for logins that are not remembered."""
        sent = credentials.headers.get("authorization", "")
        if sent[:6].lower() != "basic ":
            return None
        login = parse_login(sent[6:])
        load = partial(self._verify, login, credentials.address)
        key = fingerprint("\n".join(login))
        try:
            return self._verified.get(key, load, blocking=False)
        except WouldBlock:
            self._attempts.check(credentials.address)
            if not blocking:
                raise
        return self._verified.get(key, load)

    def is_current(self, principal: Principal) -> bool:
        """Whether the user exists and has the same password."""
        stored = self._hashes.get(principal.name)
        return stored is not None and fingerprint(stored) == principal.credential

    def _verify(self, login: Login, address: str) -> Principal:
        self._attempts.begin(address)
        stored = self._hashes.get(login.user)
        is_right = _matches(login.password, stored or self._unmatched_hash)
        if stored is None or not is_right:
            raise Unauthenticated("Unknown user or wrong password. Nothing was done.")
        self._attempts.succeed(address)
        return Principal(login.user, self.scheme, expires=time.time() + _CACHE_SECONDS, credential=fingerprint(stored))


def _matches(password: str, stored: str) -> bool:
    """Compare in constant time, apart from what the cost of the hash says."""
    try:
        return bcrypt.checkpw(password.encode(), stored.encode())
    except ValueError:  # the salt is not one that bcrypt writes
        return False


def parse_login(encoded: str) -> Login:
    """Return what the header `Authorization: Basic …` says. Raises `Unauthenticated`."""
    try:
        user, colon, password = b64decode(encoded.strip().encode("ascii"), validate=True).decode("utf-8").partition(":")
    except ValueError:
        raise Unauthenticated("The Basic credentials are not base64 of USER:PASSWORD in UTF-8.") from None
    if not colon:
        raise Unauthenticated("The Basic credentials lack the colon between user and password.")
    if not is_valid_name(user) or "\0" in password:
        raise Unauthenticated("The Basic credentials have a user name or password that is not allowed.")
    if len(password.encode()) > _MAX_PASSWORD:
        raise Unauthenticated(f"Passwords have at most {_MAX_PASSWORD} bytes.")
    return Login(user, password)


def read_users(path: str, text: str) -> dict[str, str]:
    """Parse an htpasswd file into users and hashes. Raises `ConfigError`, which names the line but not what it has."""
    users: dict[str, str] = {}
    for number, line in _entries(text):
        user, _, stored = line.partition(":")
        problem = _problem(user, stored) or (f"repeats the user {user}" if user in users else None)
        if problem:
            raise ConfigError(f"{path}, line {number} {problem}.")
        users[user] = stored
    return users


def _entries(text: str) -> Iterator[tuple[int, str]]:
    """Yield the lines with a user, and their numbers."""
    for number, line in enumerate(text.replace("\r\n", "\n").split("\n"), 1):
        if line.strip() and not line.startswith("#"):
            yield number, line


def _problem(user: str, stored: str) -> str | None:
    """Return what is wrong with a line, without its hash."""
    found = _HASH.fullmatch(stored)
    if found is None:
        return "is not USER:HASH with a bcrypt hash ($2y$ or $2b$). Make one with: htpasswd -B"
    if not 4 <= int(found[1]) <= _MAX_COST:
        return f"has a bcrypt hash of cost {int(found[1])}; it must be between 4 and {_MAX_COST}"
    if not is_valid_name(user):
        return (
            "has a user name that is empty, reserved, over 255 characters, or has control characters or spaces at its "
            "ends"
        )
    return None
