"""JSON Web Tokens (RFC 7519) of an issuer, in `Authorization: Bearer`."""

import logging
import math
import time
from collections.abc import Mapping
from functools import partial
from typing import Any

import jwt

from kafka_http.errors import Unauthenticated
from kafka_http.loading_cache import LoadingCache
from kafka_http.security.auth_settings import JwtSettings
from kafka_http.security.check_point import API_KEY_PREFIX
from kafka_http.security.issuer_keys import FileKey, KeySource, VerificationKey, published_keys
from kafka_http.security.principal import Credentials, Principal, Scheme, fingerprint, is_valid_name

log = logging.getLogger(__name__)

LEEWAY = 30
"""Seconds that the clocks of the issuer and of this server may differ."""
_MAX_TOKEN = 16384
_CACHE_SECONDS = 60.0
_CACHE_SIZE = 4096

_PROBLEMS: Mapping[type[Exception], str] = {
    jwt.ExpiredSignatureError: "has expired",
    jwt.ImmatureSignatureError: "is not valid yet",
    jwt.InvalidAlgorithmError: "is signed with an algorithm that is not accepted",
}
"""What is wrong with a token, for errors that tell nothing about the keys."""


class JsonWebTokens:
    """The `Authenticator` of tokens. A token that it has verified is remembered for a minute.

    Verifying may fetch the issuer's keys, so it only happens where the caller may block.
    """

    scheme: Scheme = "jwt"
    challenge = 'Bearer realm="kafka_http"'

    def __init__(self, settings: JwtSettings, keys: KeySource) -> None:
        self._settings = settings
        self._keys = keys
        self._required = ["iss", "aud", *(["exp"] if settings.require_exp else [])]
        self._verified: LoadingCache[str, Principal] = LoadingCache(
            _CACHE_SIZE, lambda _: 1, lambda _, principal: principal.expires - time.time()
        )

    @classmethod
    def from_settings(cls, settings: JwtSettings) -> "JsonWebTokens":
        """Read the public key, or prepare to fetch the issuer's keys. Raises `ConfigError`."""
        if settings.public_key:
            return cls(settings, FileKey.from_file(settings.public_key, settings.algorithms))
        keys = published_keys(settings.jwks_url)
        if keys.is_exposed:
            log.warning("auth.jwt.jwks_url uses http: others on the network can replace the keys and forge tokens.")
        keys.expire()
        return cls(settings, keys)

    def authenticate(self, credentials: Credentials, *, blocking: bool) -> Principal | None:
        """Return the principal that the token names. Also raises `Unavailable`, while no keys are known."""
        kind, _, token = credentials.headers.get("authorization", "").partition(" ")
        token = token.strip()
        if kind.lower() != "bearer" or token.startswith(API_KEY_PREFIX):
            return None
        if len(token) > _MAX_TOKEN:
            raise Unauthenticated("The token is too long. Nothing was done.")
        return self._verified.get(fingerprint(token), partial(self._verify, token), blocking=blocking)

    def is_current(self, principal: Principal) -> bool:
        """Whether the token has not expired and its key is still the issuer's."""
        expires, _, key = principal.credential.partition(" ")
        return float(expires) > time.time() and self._keys.has(key)

    def _verify(self, token: str) -> Principal:
        try:
            key = self._find_key(jwt.get_unverified_header(token))
            claims = self._decode(token, key)
        except jwt.PyJWTError as error:
            raise Unauthenticated(f"The token {self._problem(error)}. Nothing was done.") from None
        except (ValueError, TypeError, ArithmeticError, RecursionError):  # PyJWT does not check all that it gets
            raise Unauthenticated("The token is malformed. Nothing was done.") from None
        return self._principal(claims, key)

    def _problem(self, error: jwt.PyJWTError) -> str:
        """Say what is wrong. The expected claims are only shown for a token whose signature is right."""
        match error:
            case jwt.MissingRequiredClaimError():
                return f"lacks the claim {error.claim}"
            case jwt.InvalidAudienceError():
                return f"is for another audience (expected: {self._settings.audience})"
            case jwt.InvalidIssuerError():
                return f"is from another issuer (expected: {self._settings.issuer})"
        return _PROBLEMS.get(type(error), "is malformed, or its signature is wrong")

    def _find_key(self, header: Mapping[str, Any]) -> VerificationKey:
        algorithm = header.get("alg")
        if algorithm not in self._settings.algorithms:  # before the keys are fetched for it
            raise jwt.InvalidAlgorithmError
        key = self._keys.find(header.get("kid"))
        if key.algorithm not in (None, algorithm):
            raise jwt.InvalidAlgorithmError
        return key

    def _decode(self, token: str, key: VerificationKey) -> dict[str, Any]:
        settings = self._settings
        return jwt.decode(
            token,
            key.key,
            settings.algorithms,
            {"require": self._required, "verify_sub": False, "verify_jti": False},
            audience=settings.audience,
            issuer=settings.issuer,
            leeway=LEEWAY,
        )

    def _principal(self, claims: Mapping[str, Any], key: VerificationKey) -> Principal:
        settings = self._settings
        name = claims.get(settings.principal_claim)
        if not isinstance(name, str) or not is_valid_name(name):
            raise Unauthenticated(
                f"The token has no valid name in the claim {settings.principal_claim}. Nothing was done."
            )
        groups = claims.get(settings.groups_claim, []) if settings.groups_claim else []
        if not isinstance(groups, list) or not all(isinstance(each, str) and is_valid_name(each) for each in groups):
            raise Unauthenticated(
                f"The claim {settings.groups_claim} of the token is not a list of names. Nothing was done."
            )
        expires = float(int(claims["exp"]) + LEEWAY) if "exp" in claims else math.inf
        again = min(expires, time.time() + _CACHE_SECONDS)
        return Principal(name, self.scheme, frozenset(groups), again, credential=f"{expires} {key.id}")
