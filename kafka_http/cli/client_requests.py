"""Requests of the client commands to the server, and the exit status that their errors lead to."""

import http.client
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Self
from urllib.parse import quote, urlencode

import msgspec

from kafka_http.cli.client_address import ServerAddress
from kafka_http.http_client import HttpNotConnected, HttpRequestFailed, HttpResponse, HttpTarget, send

FAILED, USAGE, NOT_FOUND, NOT_ALLOWED = 1, 2, 3, 4
"""Exit statuses. 1 is for a server that fails or is not reachable."""

_EXIT_STATUSES = {400: USAGE, 401: NOT_ALLOWED, 403: NOT_ALLOWED, 404: NOT_FOUND, 413: USAGE, 415: USAGE}
_EXIT_STATUSES |= {416: USAGE, 422: USAGE}
_TOPIC_NOT_FOUND = 40401
_MAY_CREATE = "Create it: "
"""What the server's message has if the client may create the topic."""
_HINTS = {401: " Set KAFKA_HTTP_API_KEY, or api_key in a profile."}
_TIMEOUT_SECONDS = 75.0
"""More than the maximum of the server's `timeout`."""
_CONNECT_SECONDS = 10.0
_SLOWEST_RATE = 64 * 1024
"""Bytes per second of a slow upload, for which a request has more time."""
_RETRIED = (0, 408, 429, 502, 503, 504)
_UNKNOWN = (0, 500, 502, 504)


class RequestError(Exception):
    """A request that failed. `str(error)` is a sentence for the user, without credentials."""

    def __init__(self, message: str, status: int = 0, code: int = 0, *, is_sent: bool = True) -> None:
        """`status` is 0 without a response; `code` determines it. `is_sent`: the server may have the request."""
        super().__init__(message)
        self.status = status or (code if code < 1000 else code // 100)
        self.code = code
        self.details: Mapping[str, Any] = {}
        """The object `error` of the response."""
        self.records: Sequence[Mapping[str, Any]] = ()
        """The results of the records in the response."""
        self.leases: Sequence[Mapping[str, Any]] = ()
        """The results of the leases in the response."""
        self.retry_after: float | None = None
        self.is_replayed = False
        """Whether this is the kept response of an Idempotency-Key, which another request does not change."""
        self._is_sent = is_sent

    def extended(self, sentence: str) -> Self:
        """Add a sentence to the message."""
        self.args = (f"{self} {sentence}",)
        return self

    @property
    def may_pass(self) -> bool:
        """Whether the same request can succeed later."""
        return self.status in _RETRIED or self.retry_after is not None

    @property
    def is_unknown(self) -> bool:
        """Whether the server may have done what was asked for."""
        return self._is_sent and (self.status in _UNKNOWN or (self.status == 409 and self.may_pass))

    @property
    def exit_status(self) -> int:
        return _EXIT_STATUSES.get(self.status, FAILED)


def path_of(*names: str) -> str:
    """Return a path of these names, percent-encoded. Raises `RequestError` if one is empty."""
    for name in names:
        if name in ("", ".", ".."):  # a variable of the shell may be empty
            raise RequestError(f"A topic, consumer or position must not be {name!r}.", 400)
    return "".join(f"/{quote(name, safe=':@,*', errors='surrogateescape')}" for name in names)


class ApiClient:
    """Sends requests to one server. Each request has its own connection. Every call raises `RequestError`."""

    def __init__(self, address: ServerAddress) -> None:
        self.url = address.url
        self._address = address

    def call(
        self,
        method: str,
        path: str,
        field: str = "",
        *,
        query: Mapping[str, str] | None = None,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        """Send a request. Return the JSON object of the response, which has this field.

        Without a field, any response will do, and None is returned.
        """
        with self.open(method, path, query, body, {"Accept": "application/json", **(headers or {})}) as response:
            answer = _as_object(self._read(response))
        if not field:
            return None
        if field not in answer:
            raise RequestError(f"{self.url} did not answer as kafka_http does. Check the URL.", response.status)
        return answer

    @contextmanager
    def open(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Iterator[HttpResponse]:
        """Send a request, and yield the response whose status is 2xx and whose body is not read yet."""
        parameters = f"?{urlencode(query, errors='surrogateescape')}" if query else ""
        target = HttpTarget.from_url(f"{self.url}{path}{parameters}")
        sent = send(
            *(method, target, {**self._address.credentials, **(headers or {})}, body),
            timeout=_TIMEOUT_SECONDS + len(body or b"") / _SLOWEST_RATE,
            connect_timeout=_CONNECT_SECONDS,
            max_bytes=sys.maxsize,
            tls=self._address.tls,
        )
        with self._errors_named(), sent as response:
            if not 200 <= response.status < 300:
                raise self._error_of(response)
            yield response

    @contextmanager
    def _errors_named(self) -> Iterator[None]:
        try:
            yield
        except HttpRequestFailed as error:
            is_sent = not isinstance(error, HttpNotConnected)
            hint = "" if is_sent else " Check the URL: --url, KAFKA_HTTP_URL or the profile."
            raise RequestError(f"{self.url} {error}.{hint}", is_sent=is_sent) from None

    def _read(self, response: HttpResponse) -> bytes:
        with self._errors_named():
            return response.read()

    def _error_of(self, response: HttpResponse) -> RequestError:
        """Return the error that a response describes."""
        status, headers = response.status, response.headers
        answer = _as_object(self._read(response))
        details = _as_object(answer.get("error"))
        message = details.get("message") or self._unexpected(status, headers.get("Location"))
        if details.get("code") == _TOPIC_NOT_FOUND and _MAY_CREATE in message:
            message = _topic_not_found(str(details.get("topic")))
        error = RequestError(f"{message}{_HINTS.get(status, '')}", status, details.get("code", status))
        error.details, error.records, error.leases = details, answer.get("records", ()), answer.get("leases", ())
        after = headers.get("Retry-After", "")
        error.retry_after = float(after) if after.isdecimal() else None
        error.is_replayed = "Idempotency-Replayed" in headers
        return error

    def _unexpected(self, status: int, location: str | None) -> str:
        """Return the message for a response that is not of kafka_http, such as a proxy's."""
        instead = f" and names {location}. Use that URL" if location and 300 <= status < 400 else ""
        return f"{self.url} answered {status} {http.client.responses.get(status, '')}".rstrip() + f"{instead}."


def _topic_not_found(topic: str) -> str:
    """Return the message with commands in place of the server's calls."""
    create = f"kafka-http topics --create {shlex.quote(topic)}"
    return f"Topic not found: {topic}. `kafka-http topics` lists the topics, and `{create}` creates this one."


def _as_object(value: Any) -> Mapping[str, Any]:
    """Return a JSON object, or the one in the bytes of a body; an empty one if there is none."""
    if isinstance(value, bytes):
        with suppress(msgspec.DecodeError):
            return _as_object(msgspec.json.decode(value))
    return value if isinstance(value, dict) else {}
