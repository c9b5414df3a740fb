"""HTTP with the schema registry: several addresses, a time-out for all of it, and nothing of credentials in an error.

By urllib3, for its pool is safe in many threads, it needs no other package, and it sends nothing that it was not
told to: no environment's proxy, no `.netrc`, and redirects are not followed.
"""

import ssl
import time
from collections.abc import Iterator
from threading import Lock
from typing import Any

import msgspec
from msgspec import Struct
from urllib3 import BaseHTTPResponse, PoolManager, Timeout
from urllib3.exceptions import ConnectTimeoutError, HTTPError, NewConnectionError, ReadTimeoutError, SSLError

from kafka_http.config import ConfigError
from kafka_http.encoding import encode_base64
from kafka_http.errors import InvalidSchema, RegistryUnavailable
from kafka_http.schemas.registry_settings import RegistrySettings

_TYPE = "application/vnd.schemaregistry.v1+json"
_ROUNDS = 2
_PAUSE = 0.1
"""Every address is tried that often, with so many seconds between the rounds."""
_HUNG_SHARE = 0.9
"""Of the time-out: a question that failed after so much of it was not refused but left unanswered."""
_CHUNK = 1 << 16
_MAY_PASS = {408, 429}


class RegistryResponse(Struct, frozen=True):
    """What the registry said: a status below 500, and the JSON of its body."""

    status: int
    body: bytes

    @property
    def is_missing(self) -> bool:
        return self.status == 404

    @property
    def problem(self) -> str:
        """The registry's own words on what is wrong, or its status where it has none."""
        return self.words or f"status {self.status}"

    @property
    def words(self) -> str:
        """The message of an error of the registry's API, or nothing."""
        try:
            return msgspec.json.decode(self.body, type=_Problem).message[:500].rstrip(".")
        except msgspec.MsgspecError:
            return ""

    @property
    def is_of_a_registry(self) -> bool:
        """Whether an error is one of the registry's API, and not of some other server."""
        try:
            return msgspec.json.decode(self.body, type=_Problem).error_code is not None
        except msgspec.MsgspecError:
            return False


class _Problem(Struct):
    error_code: int | None = None
    message: str = ""


class _Failed(Exception):
    """One attempt at one address has failed; the text says why."""


class RegistryConnection:
    """Asks one address after another until one answers. Safe in many threads; connects when it is first asked.

    After a question that was not answered in time, others fail at once but one at a time, until one is answered: a
    registry that hangs does not keep all threads waiting.
    """

    def __init__(self, settings: RegistrySettings) -> None:
        """Raises `ConfigError` where a file of certificates cannot be read."""
        self._urls = [url.rstrip("/") for url in settings.url]
        self._timeout = settings.timeout
        self._limit = settings.max_schema_bytes
        self._headers = {"Accept": f"{_TYPE}, application/json", "Content-Type": _TYPE, **_authorization(settings)}
        tls = _tls(settings) if any(url.startswith("https:") for url in self._urls) else None
        self._pool = PoolManager(num_pools=len(self._urls), maxsize=8, retries=False, ssl_context=tls)
        self._first = 0
        self._is_hung = False
        self._probe = Lock()
        password = settings.basic_auth.partition(":")[2]
        sent = self._headers.get("Authorization", "").partition(" ")[2]
        self._secrets = [each for each in (settings.basic_auth, sent, password) if each]

    @property
    def name(self) -> str:
        """The registry as an error calls it."""
        return f"The schema registry ({', '.join(self._urls)})"

    def ask(self, method: str, path: str, body: Any = None) -> RegistryResponse:
        """Its answer, within the time-out of the settings whatever happens.

        Raises `RegistryUnavailable`, and `InvalidSchema` for an answer larger than a schema may be.
        """
        if not self._is_hung:
            return self._ask(method, path, body)
        if not self._probe.acquire(blocking=False):
            raise self._unavailable("it does not respond")
        try:
            return self._ask(method, path, body)
        finally:
            self._probe.release()

    def _ask(self, method: str, path: str, body: Any) -> RegistryResponse:
        began = time.monotonic()
        problem = "no answer in time"
        for index, seconds in self._attempts():
            try:
                answer = self._attempt(method, self._urls[index] + path, body, seconds)
            except _Failed as failed:
                problem = str(failed)
            else:
                self._first = index
                self._is_hung = False
                return answer
        self._is_hung = time.monotonic() - began > _HUNG_SHARE * self._timeout
        raise self._unavailable(problem)

    def _unavailable(self, problem: str) -> RegistryUnavailable:
        return RegistryUnavailable(f"{self.name} cannot be asked for a schema that is not cached: {problem}.")

    def _attempts(self) -> Iterator[tuple[int, float]]:
        """Which address to ask next, and for how many seconds at most: the last that answered comes first."""
        deadline = time.monotonic() + self._timeout
        count = len(self._urls)
        first = self._first
        for number in range(_ROUNDS * count):
            if number and number % count == 0:
                time.sleep(_PAUSE)
            left = deadline - time.monotonic()
            if left <= 0:
                return
            yield (first + number) % count, left / (count - number % count)

    def _attempt(self, method: str, url: str, body: Any, seconds: float) -> RegistryResponse:
        deadline = time.monotonic() + seconds
        data = None if body is None else msgspec.json.encode(body)
        try:
            response = self._pool.request(
                method,
                url,
                body=data,
                headers=self._headers,
                timeout=Timeout(total=seconds),
                redirect=False,
                preload_content=False,
            )
            with response:
                answer = RegistryResponse(response.status, self._read(response, deadline))
                response.release_conn()
        except HTTPError as error:
            raise _Failed(_in_words(error, seconds)) from None
        self._check(answer)
        return answer

    def _read(self, response: BaseHTTPResponse, deadline: float) -> bytes:
        read = bytearray()
        while chunk := response.read1(_CHUNK):
            read += chunk
            if len(read) > 4 * self._limit + _CHUNK:
                raise InvalidSchema(f"it is larger than the {self._limit} bytes that a schema may have here.")
            if time.monotonic() > deadline:
                raise _Failed("no answer in time")
        return bytes(read)

    def _check(self, answer: RegistryResponse) -> None:
        status = answer.status
        words = f": {self._without_secrets(answer.words)}" if answer.words else ""
        if status in {401, 403, 407}:
            raise _Failed(f"it refuses this server's credentials (status {status}){words}")
        if status >= 500 or status in _MAY_PASS:
            raise _Failed(f"it answers with status {status}{words}")
        if status >= 300 and not answer.is_of_a_registry:
            raise _Failed(f"it answers as no schema registry does (status {status})")

    def _without_secrets(self, words: str) -> str:
        for secret in self._secrets:
            words = words.replace(secret, "(hidden)")
        return words


def _authorization(settings: RegistrySettings) -> dict[str, str]:
    if settings.bearer_token:
        return {"Authorization": f"Bearer {settings.bearer_token}"}
    if settings.basic_auth:
        return {"Authorization": f"Basic {encode_base64(settings.basic_auth.encode())}"}
    return {}


def _tls(settings: RegistrySettings) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=settings.ca_file or None)
        if settings.certificate_file:
            key = settings.key_file or None
            context.load_cert_chain(settings.certificate_file, key, settings.key_password or None)
    except OSError as error:  # ssl.SSLError is one
        raise ConfigError(f"A certificate or key of [schema_registry] cannot be used: {error.strerror}.") from None
    return context


def _in_words(error: HTTPError, seconds: float) -> str:
    if isinstance(error, NewConnectionError):  # to urllib3 one of the next
        return "no connection to it can be made"
    if isinstance(error, ConnectTimeoutError | ReadTimeoutError):
        return f"no answer within {seconds:.3g} s"
    if isinstance(error, SSLError):
        return "its certificate is not trusted, or TLS fails in another way"
    return "the connection to it broke"
