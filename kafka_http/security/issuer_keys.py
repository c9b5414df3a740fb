"""The public keys that JSON Web Tokens are verified with: a file, or the key set that the issuer publishes."""

import json
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple, Protocol

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

from kafka_http.config import ConfigError
from kafka_http.config.settings import is_loopback
from kafka_http.errors import Unauthenticated, Unavailable
from kafka_http.http_client import HttpRequestFailed, HttpTarget, send
from kafka_http.logs import LogOnce
from kafka_http.security.auth_settings import read_auth_file
from kafka_http.security.principal import fingerprint

log = logging.getLogger(__name__)

PublicKey = RSAPublicKey | EllipticCurvePublicKey | Ed25519PublicKey | Ed448PublicKey
_MIN_RSA_BITS = 2048
_FETCH_SECONDS = 5.0
_MAX_BYTES = 1 << 20
_LIFETIME = 300.0
"""Seconds until the keys must be fetched again."""
_EARLY = 240.0
"""Seconds until the keys are fetched again in the background, if they are in use."""
_MIN_INTERVAL = 10.0
"""Seconds between two fetches because of unknown keys, or after a failure."""
_FIRST_INTERVAL = 1.0
"""Seconds between two fetches that fail while no key is known."""
_WAIT_SECONDS = 1.0
"""Maximum time that a request waits for the fetch of another."""


class VerificationKey(NamedTuple):
    """A public key. `id` identifies it in this process. `algorithm` is the only one that its issuer allows."""

    key: PublicKey
    id: str
    algorithm: str | None = None


class KeySource(Protocol):
    """Where the keys come from. Any thread may call."""

    def find(self, key_id: str | None) -> VerificationKey:
        """Return the key that a token names. May block for seconds. Raises `Unauthenticated`, `Unavailable`."""

    def has(self, key: str) -> bool:
        """Whether the key with this `VerificationKey.id` is still one of the issuer's. Does not block."""


class FileKey:
    """The only key, from a file."""

    def __init__(self, key: VerificationKey) -> None:
        self._key = key

    @classmethod
    def from_file(cls, path: str, algorithms: Sequence[str]) -> "FileKey":
        """Read a public key in PEM. Raises `ConfigError`, also if none of the algorithms can use the key."""
        text = read_auth_file("jwt.public_key", path)
        try:
            key = load_pem_public_key(text.encode())
        except (ValueError, UnsupportedAlgorithm):
            raise ConfigError(f"The file {path} (auth.jwt.public_key) is not a public key in PEM.") from None
        if not is_usable(key) or not any(_fits(key, each) for each in algorithms):
            raise ConfigError(
                f"The key in {path} (auth.jwt.public_key) fits none of auth.jwt.algorithms ({', '.join(algorithms)}), "
                f"or is an RSA key with less than {_MIN_RSA_BITS} bits."
            )
        return cls(_verification_key(key))

    def find(self, key_id: str | None) -> VerificationKey:
        return self._key

    def has(self, key: str) -> bool:
        return key == self._key.id


class PublishedKeys:
    """The keys of a JSON Web Key Set (RFC 7517), which is fetched when a token needs it. Each process has its own.

    Known keys stay valid while fetching fails.
    """

    def __init__(self, url: str, clock: Callable[[], float] = time.monotonic) -> None:
        """Raises `ConfigError`."""
        try:
            self._target = HttpTarget.from_url(url)
        except HttpRequestFailed as error:
            raise ConfigError(f"auth.jwt.jwks_url {error}.") from None
        self._clock = clock
        self._keys: Mapping[str | None, VerificationKey] = {}
        self._lock = threading.Lock()
        """Held while the keys are fetched."""
        self._log = LogOnce(log, 60)
        self.expire()

    def expire(self) -> None:
        """Fetch the keys before the next token is verified. Those that are known remain if that fails."""
        self._fetched_at = self._tried_at = self._early_at = float("-inf")
        self._has_failed = False

    def find(self, key_id: str | None) -> VerificationKey:
        """Return the key of this `kid`. A token without `kid` gets the only key."""
        is_refreshed = not self._must_fetch(key_id) or self._fetch_once(key_id)
        self._refresh_early()
        if (key := self._known(key_id)) is not None:
            return key
        if self._has_failed or not is_refreshed:
            raise Unavailable("The keys of the token's issuer cannot be fetched. Nothing was done. Retry.")
        raise Unauthenticated("The token names a key that its issuer does not publish. Nothing was done.")

    @property
    def is_exposed(self) -> bool:
        """Whether others on the network can replace the keys."""
        return self._target.scheme == "http" and not is_loopback(self._target.host)

    def has(self, key: str) -> bool:
        self._refresh_early()
        return any(each.id == key for each in self._keys.values())

    def _known(self, key_id: str | None) -> VerificationKey | None:
        keys = self._keys
        return next(iter(keys.values())) if key_id is None and len(keys) == 1 else keys.get(key_id)

    def _must_fetch(self, key_id: str | None) -> bool:
        """Whether a token must wait for the keys."""
        now = self._clock()
        if self._known(key_id) is not None:
            return now - self._fetched_at > _LIFETIME and not self._has_failed
        interval = _FIRST_INTERVAL if self._has_failed and not self._keys else _MIN_INTERVAL
        return now - self._tried_at > interval

    def _fetch_once(self, key_id: str | None) -> bool:
        """Fetch the keys unless another thread does. Return False if that takes too long."""
        if not self._lock.acquire(timeout=_WAIT_SECONDS):
            return False
        try:
            if self._must_fetch(key_id):
                self._fetch()
        finally:
            self._lock.release()
        return True

    def _refresh_early(self) -> None:
        """Fetch keys that will soon be too old in the background, so that no request waits for it."""
        now = self._clock()
        if now - self._fetched_at > _EARLY and now - max(self._tried_at, self._early_at) > _MIN_INTERVAL:
            self._early_at = now
            threading.Thread(target=self._fetch_unless_fetching, name="issuer keys", daemon=True).start()

    def _fetch_unless_fetching(self) -> None:
        if self._lock.acquire(blocking=False):
            try:
                self._fetch()
            finally:
                self._lock.release()

    def _fetch(self) -> None:
        try:
            self._keys = parse_key_set(self._download())
        except HttpRequestFailed as error:
            self._has_failed = True
            message = "Cannot fetch the keys of the tokens' issuer: %s %s. Known keys: %d."
            self._log.warning(message, self._target.host, error, len(self._keys))
        else:
            self._has_failed = False
            self._fetched_at = self._clock()
            if not self._keys:
                self._log.warning("The issuer of the tokens publishes no key that can verify signatures.")
            elif self._log.clear():
                log.info("The keys of the tokens' issuer can be fetched again.")
        self._tried_at = self._clock()  # at the end: until then, others must wait

    def _download(self) -> bytes:
        headers = {"Accept": "application/json"}
        with send("GET", self._target, headers, timeout=_FETCH_SECONDS, max_bytes=_MAX_BYTES) as response:
            if response.status != 200:
                raise HttpRequestFailed(f"answered with status {response.status}")
            return response.read()


@cache
def published_keys(url: str) -> PublishedKeys:
    """Return the keys of a URL. A reload gets the same object: known keys stay valid if it cannot fetch them again."""
    return PublishedKeys(url)


def parse_key_set(body: bytes) -> dict[str | None, VerificationKey]:
    """Return the keys for signatures by their `kid`, without others. Raises `HttpRequestFailed`."""
    try:
        listed = json.loads(body)["keys"]
        return {each.get("kid"): key for each in listed if (key := _parse_key(each))}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise HttpRequestFailed("did not answer with a JSON Web Key Set") from None


def _parse_key(entry: Mapping[str, Any]) -> VerificationKey | None:
    """Return None for keys that are private, symmetric, weak, unknown, or for encryption."""
    if entry.get("use", "sig") != "sig" or "d" in entry:
        return None
    try:
        key = jwt.PyJWK(dict(entry)).key
    except (jwt.PyJWTError, ValueError, TypeError, KeyError, UnsupportedAlgorithm):
        return None
    return _verification_key(key, entry.get("alg")) if is_usable(key) else None


def _verification_key(key: Any, algorithm: str | None = None) -> VerificationKey:
    encoded = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return VerificationKey(key, fingerprint(encoded.hex()), algorithm)


def is_usable(key: Any) -> bool:
    """Whether a key is public, of a known kind, and not weak."""
    return isinstance(key, PublicKey) and not (isinstance(key, RSAPublicKey) and key.key_size < _MIN_RSA_BITS)


def _fits(key: Any, algorithm: str) -> bool:
    try:
        jwt.get_algorithm_by_name(algorithm).prepare_key(key)
    except (TypeError, ValueError, jwt.PyJWTError):
        return False
    return True
