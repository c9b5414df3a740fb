"""The check point: every request becomes the access of a principal, or a refusal, before its body is read.

The fast path and the views ask it once per request. Its state is replaced as a whole at a reload.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from kafka_http.config import ConfigError
from kafka_http.errors import CrossSiteRequest, KafkaHttpError, Unauthenticated
from kafka_http.security.access import ALL_RIGHTS, UNRESTRICTED, Access, Right, Rules
from kafka_http.security.access_rules import AllowAll
from kafka_http.security.forwarded_calls import ForwardedCaller, is_forwarded
from kafka_http.security.origins import NO_ORIGINS, Origins, key_origins
from kafka_http.security.principal import ANONYMOUS, OFF, Authenticator, Credentials, Principal, Scheme
from kafka_http.security.rate_limits import NO_HEADERS, RateLimits
from kafka_http.security.refusal_log import RefusalLog

API_KEY_PREFIX = "kh_"
_KIND_NAMES: Mapping[Scheme, str] = {
    "key": f"an API key that begins with {API_KEY_PREFIX} (X-Api-Key, or Authorization: Bearer)",
    "jwt": "a token (Authorization: Bearer)",
    "basic": "a user and a password (Authorization: Basic)",
    "certificate": "a client certificate",
    "proxy": "a login at the proxy in front of this server",
}
"""What errors call each kind of credentials."""


class SecurityState(NamedTuple):
    """What the settings and their files say. `authenticators` are in the order in which they are tried."""

    authenticators: Sequence[Authenticator]
    rules: Rules
    anonymous: frozenset[Right]
    limits: RateLimits
    origins: Origins = NO_ORIGINS
    warnings: Sequence[str] = ()
    """Sentences about settings without effect, and about what a reload has opened."""
    is_required: bool = False
    """Whether a reload must not turn authentication off."""


class CheckPoint:
    """Decides about all requests of a process. Any thread may call. `create_app` creates it, before the fork."""

    def __init__(self, load: Callable[[], SecurityState]) -> None:
        """`load` reads the settings and their files. Raises what `load` raises, such as `ConfigError`."""
        self.refusals = RefusalLog()
        self._load = load
        self._replace_state(load())
        self.generation = 0
        """Changes whenever an earlier decision may be wrong: at a reload, and when the cluster's ACLs change."""

    @property
    def warnings(self) -> Sequence[str]:
        """Sentences for the log about settings without effect, and about what the last reload has opened."""
        return self._state.warnings

    @property
    def is_on(self) -> bool:
        """Whether requests need credentials."""
        return bool(self._state.authenticators)

    @property
    def challenge(self) -> str:
        """The value of `WWW-Authenticate` for a 401: the challenge of each kind of credentials, once."""
        return ", ".join(dict.fromkeys(each.challenge for each in self._state.authenticators if each.challenge))

    def _replace_state(self, state: SecurityState) -> None:
        self._state = state
        self.limits = state.limits
        self.origins = state.origins
        """The origins of other web pages that may call this server."""
        schemes = {each.scheme for each in state.authenticators}
        self.accepts_without_secret = not schemes or "proxy" in schemes or bool(state.anonymous)
        """Whether a page that a browser takes for one of this server needs no secret for some requests."""
        self.has_decisions = bool(state.authenticators) or state.limits.is_on
        """Whether requests must be admitted at all: authentication or a limit is on."""

    def reload(self) -> None:
        """Read the settings and their files again. If this raises, the earlier state remains.

        Raises `ConfigError` and what `load` raises.
        """
        state = self._load()
        self._replace_state(state._replace(warnings=(*state.warnings, *_opened(self._state, state))))
        self.expire_decisions()

    def expire_decisions(self) -> None:
        """Let all earlier decisions be made again."""
        self.generation += 1

    def authenticate(self, credentials: Credentials, *, blocking: bool) -> Access:
        """Return what the sender of a request may do.

        Raises `Unauthenticated`, `TooManyLogins`, `CrossSiteRequest`, `Unavailable`; `WouldBlock` if `blocking` is
        false and a thread must do it.
        """
        access = self._authenticate(credentials, blocking=blocking)
        _check_origin(access.principal, credentials.headers.get("origin"))
        return access

    def _authenticate(self, credentials: Credentials, *, blocking: bool) -> Access:
        generation, state = self.generation, self._state
        if not state.authenticators:
            return _access(state, OFF, credentials.address, generation) if state.limits.is_on else UNRESTRICTED
        principal = self._principal(state, credentials, blocking=blocking)
        return _access(state, principal, credentials.address, generation)

    def admit(
        self, credentials: Credentials, needs: Callable[[Access], None], size: int, *, blocking: bool
    ) -> "Admission":
        """Decide about a request with a body of `size` bytes, or of an unknown size (0).

        `needs` checks the rights that the request needs. Raises like `authenticate`, what `needs` raises, and
        `RateLimited`. Refused requests count, too: those without valid credentials for their address.
        """
        try:
            access = self._authenticate(credentials, blocking=blocking)
        except Unauthenticated as error:
            error.headers = self.limits.of(ANONYMOUS, credentials.address).take(0)
            raise
        headers: Mapping[str, str] = {}
        try:
            headers = access.limits.take(size)
            _check_origin(access.principal, credentials.headers.get("origin"))
            needs(access)
        except KafkaHttpError as error:
            error.headers = {**error.headers, **headers}
            error.principal = access.principal.name
            raise
        return Admission(access, headers)

    def admit_forwarded(self, caller: ForwardedCaller, needs: Callable[[Access], None]) -> "Admission":
        """Decide about a request that another node has authenticated, counted and forwarded. Raises like `admit`."""
        generation, state = self.generation, self._state
        if not state.authenticators:
            return Admission(UNRESTRICTED, NO_HEADERS)
        if caller.scheme == "off":
            raise Unauthenticated("The node that forwarded this request has no authentication. Nothing was done.")
        access = _access(state, caller.principal, caller.address, generation)
        try:
            needs(access)
        except KafkaHttpError as error:
            error.principal = access.principal.name
            raise
        return Admission(access, NO_HEADERS)

    def is_current(self, access: Access) -> bool:
        """Whether a decision still holds without another check. Cheap."""
        return access.generation == self.generation and access.principal.expires > time.time()

    def renew(self, access: Access) -> Access | None:
        """Return what the principal of an earlier request may do now, or None if its credentials no longer count.

        For streams, which have no credentials any more. Raises `Unavailable`.
        """
        generation, state = self.generation, self._state
        if access.is_unrestricted:
            return None if state.authenticators else _access(state, OFF, access.address, generation)
        principal = access.principal
        if principal.scheme == "anonymous":
            return _access(state, principal, access.address, generation) if state.anonymous else None
        kinds = [each for each in state.authenticators if each.scheme == principal.scheme]
        if not (is_forwarded(principal) or any(each.is_current(principal) for each in kinds)):
            return None
        return _access(state, principal, access.address, generation)

    def _principal(self, state: SecurityState, credentials: Credentials, *, blocking: bool) -> Principal:
        scheme = present_scheme(credentials)
        for each in state.authenticators:
            if scheme in (None, each.scheme):
                principal = each.authenticate(credentials, blocking=blocking)
                if principal is not None:
                    return principal
        if scheme is not None:
            raise Unauthenticated(
                f"Credentials of this kind are not accepted here. Accepted: {_accepted(state)}. Nothing was done."
            )
        if state.anonymous:
            return ANONYMOUS
        raise Unauthenticated(f"This request needs credentials: {_accepted(state)}. Nothing was done.")


def _opened(before: SecurityState, after: SecurityState) -> Sequence[str]:
    """Return sentences about what everyone may do after a reload: a file that was not complete may lack a section.

    Raises `ConfigError` if authentication is required and would end.
    """
    if before.authenticators and not after.authenticators:
        if after.is_required:
            raise ConfigError("require_auth: the section [auth] is gone. Turning authentication off needs a restart.")
        return ("Authentication is off from now on: the section [auth] is gone.",)
    if isinstance(after.rules, AllowAll) and not isinstance(before.rules, AllowAll):
        return ("Each authenticated principal may do everything from now on: the section [access] is gone.",)
    return ()


class Admission(NamedTuple):
    """The decision to let a request pass. `headers` are the `RateLimit-…` headers of its response."""

    access: Access
    headers: Mapping[str, str]


def present_scheme(credentials: Credentials) -> Scheme | None:
    """Return the kind of the credentials in the headers or the query, or None: a certificate or a proxy may decide.

    The first that is present decides: Authorization, X-Api-Key, access_key.
    """
    headers = credentials.headers
    sent = headers.get("authorization")
    if sent is None:
        return "key" if "x-api-key" in headers or credentials.access_key is not None else None
    kind, _, secret = sent.partition(" ")
    kind = kind.lower()
    if kind == "bearer":
        return "key" if secret.lstrip(" ").startswith(API_KEY_PREFIX) else "jwt"
    return "basic" if kind == "basic" else "off"


def _accepted(state: SecurityState) -> str:
    """Return the kinds of credentials that are on, for errors."""
    kinds = {each.scheme for each in state.authenticators}
    return "; or ".join(name for scheme, name in _KIND_NAMES.items() if scheme in kinds)


def _access(state: SecurityState, principal: Principal, address: str, generation: int) -> Access:
    limits = state.limits.of(principal, address)
    if principal is OFF:
        return Access(OFF, ALL_RIGHTS, address, generation, limits)
    rights = state.rules.rights_of(principal, address)
    if principal.scheme == "anonymous":
        rights = rights.only(state.anonymous)
    if principal.restriction is not None:
        rights = rights.restricted(principal.restriction)
    return Access(principal, rights, address, generation, limits)


def _check_origin(principal: Principal, origin: str | None) -> None:
    """Check that an API key is used by pages of its origins only. Raises `CrossSiteRequest`."""
    patterns = principal.restriction.origins if principal.restriction else None
    if patterns is None:
        return
    origins = key_origins(patterns)
    if origin is None or not (origin in origins or origins.allows_reading):
        sent = "no Origin header" if origin is None else f"Origin: {origin[:100]}"
        raise CrossSiteRequest(
            f"The API key {principal.name} is for web pages of its origins only, got {sent}. Nothing was done."
        )
