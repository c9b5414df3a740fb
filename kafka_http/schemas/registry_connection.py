"""Requests to the schema registry: several addresses, retries within one timeout, and no credentials in errors."""

import ssl
import time
from collections.abc import Iterator
from threading import Lock
from typing import Any

import msgspec
from msgspec import Struct

from kafka_http import http_client
from kafka_http.config import ConfigError
from kafka_http.encoding import encode_base64
from kafka_http.errors import InvalidSchema, RegistryUnavailable
from kafka_http.http_client import HttpRequestFailed, HttpResponseTooLarge, HttpTarget
from kafka_http.metrics import REGISTRY_REQUESTS, REGISTRY_SECONDS
from kafka_http.schemas.registry_settings import RegistrySettings

_CONTENT_TYPE = "application/vnd.schemaregistry.v1+json"
_ROUNDS = 2
_PAUSE = 0.1
"""Each address is tried `_ROUNDS` times, with `_PAUSE` seconds between the rounds."""
_HUNG_SHARE = 0.9
"""A request that failed after this share of the timeout was not refused but left without an answer."""
_HEADER_BYTES = 1 << 16
_RETRIABLE = {408, 429}


class _Problem(Struct):
    error_code: int | None = None
    message: str = ""


class RegistryResponse(Struct, frozen=True):
    """A response of the registry: a status below 500, and the JSON of its body."""

    status: int
    body: bytes

    @property
    def is_missing(self) -> bool:
        return self.status == 404

    @property
    def problem(self) -> str:
        """The registry's own error message, or its status if there is none."""
        return self.message or f"status {self.status}"

    @property
    def message(self) -> str:
        """The message of an error of the registry's API, or an empty text."""
        return self._problem().message[:500].rstrip(".")

    @property
    def is_registry_error(self) -> bool:
        """Whether the body is an error of the registry's API, and not of some other server."""
        return self._problem().error_code is not None

    def _problem(self) -> _Problem:
        try:
            return msgspec.json.decode(self.body, type=_Problem)
        except msgspec.MsgspecError:
            return _Problem()


class _AttemptFailed(Exception):
    """One attempt at one address failed. The text is a predicate whose subject is the registry."""


class RegistryConnection:
    """Sends each request to one address after another until one answers. Any thread may call.

    After a request that got no answer in time, the other requests fail at once, except one at a time, until one is
    answered: a registry that hangs does not keep all threads waiting.
    """

    def __init__(self, settings: RegistrySettings) -> None:
        """Raises `ConfigError` if a certificate file cannot be used."""
        self._urls = [url.rstrip("/") for url in settings.url]
        self._timeout = settings.timeout
        self._max_schema_bytes = settings.max_schema_bytes
        self._headers = {
            "Accept": f"{_CONTENT_TYPE}, application/json",
            "Content-Type": _CONTENT_TYPE,
            **_authorization(settings),
        }
        self._tls = _tls_context(settings) if any(url.startswith("https:") for url in self._urls) else None
        self._first = 0
        self._is_hung = False
        self._probe = Lock()
        password = settings.basic_auth.partition(":")[2]
        sent = self._headers.get("Authorization", "").partition(" ")[2]
        self._secrets = [each for each in (settings.basic_auth, sent, password) if each]

    @property
    def name(self) -> str:
        """The registry as errors call it."""
        return f"The schema registry ({', '.join(self._urls)})"

    def ask(self, method: str, path: str, body: Any = None) -> RegistryResponse:
        """Send a request and return its response, within the timeout of the settings.

        Raises `RegistryUnavailable`, and `InvalidSchema` for a response that is larger than a schema may be.
        """
        if not self._is_hung:
            return self._ask(method, path, body)
        if not self._probe.acquire(blocking=False):
            raise self._unavailable("does not respond")
        try:
            return self._ask(method, path, body)
        finally:
            self._probe.release()

    def _ask(self, method: str, path: str, body: Any) -> RegistryResponse:
        started = time.monotonic()
        problem = f"did not answer within {self._timeout:.3g} s"
        for index, seconds in self._attempts():
            try:
                response = self._attempt(method, self._urls[index] + path, body, seconds)
            except _AttemptFailed as failed:
                problem = str(failed)
            else:
                self._first = index
                self._is_hung = False
                return response
        self._is_hung = time.monotonic() - started > _HUNG_SHARE * self._timeout
        raise self._unavailable(problem)

    def _unavailable(self, problem: str) -> RegistryUnavailable:
        return RegistryUnavailable(f"{self.name} is needed for a schema that is not cached, and {problem}.")

    def _attempts(self) -> Iterator[tuple[int, float]]:
        """Yield the address to try next and its timeout in seconds. The last address that answered comes first."""
        deadline = time.monotonic() + self._timeout
        count = len(self._urls)
        first = self._first
        for number in range(_ROUNDS * count):
            if number and number % count == 0:
                time.sleep(_PAUSE)
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                return
            # An address that does not answer leaves an equal share of the time to the others of the round.
            yield (first + number) % count, remaining / (count - number % count)

    def _attempt(self, method: str, url: str, body: Any, seconds: float) -> RegistryResponse:
        began, status = time.monotonic(), "none"
        try:
            response = self._send(method, url, body, seconds)
            status = str(response.status)
        finally:
            REGISTRY_REQUESTS.add(1, status)
            REGISTRY_SECONDS.observe(time.monotonic() - began)
        self._check(response)
        return response

    def _send(self, method: str, url: str, body: Any, seconds: float) -> RegistryResponse:
        data = None if body is None else msgspec.json.encode(body)
        try:
            with http_client.send(
                method,
                HttpTarget.from_url(url),
                self._headers,
                data,
                timeout=seconds,
                max_bytes=4 * self._max_schema_bytes + _HEADER_BYTES,  # JSON escapes take room
                tls=self._tls,
            ) as sent:
                return RegistryResponse(sent.status, sent.read())
        except HttpResponseTooLarge:
            raise InvalidSchema(f"it is larger than {self._max_schema_bytes} bytes (max_schema_bytes).") from None
        except HttpRequestFailed as error:
            raise _AttemptFailed(str(error)) from None

    def _check(self, response: RegistryResponse) -> None:
        status = response.status
        message = f": {self._without_secrets(response.message)}" if response.message else ""
        if status in {401, 403, 407}:
            raise _AttemptFailed(f"rejected this server's credentials (status {status}){message}")
        if status >= 500 or status in _RETRIABLE:
            raise _AttemptFailed(f"answered with status {status}{message}")
        if status >= 300 and not response.is_registry_error:
            raise _AttemptFailed(f"did not answer like a schema registry (status {status})")

    def _without_secrets(self, message: str) -> str:
        for secret in self._secrets:
            message = message.replace(secret, "(hidden)")
        return message


def _authorization(settings: RegistrySettings) -> dict[str, str]:
    if settings.bearer_token:
        return {"Authorization": f"Bearer {settings.bearer_token}"}
    if settings.basic_auth:
        return {"Authorization": f"Basic {encode_base64(settings.basic_auth.encode())}"}
    return {}


def _tls_context(settings: RegistrySettings) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=settings.ca_file or None)
        if settings.certificate_file:
            key = settings.key_file or None
            context.load_cert_chain(settings.certificate_file, key, settings.key_password or None)
    except OSError as error:  # ssl.SSLError is one
        raise ConfigError(f"A certificate or key of [schema_registry] cannot be used: {error.strerror}.") from None
    return context
