"""One attempt at a callback: a signed POST.

The signature has Stripe's form: `Kafka-Http-Signature: t=<unix seconds>,v1=<hex>`, with HMAC-SHA256 over `<t>.<body>`.
There is one `v1` for each secret, so that a receiver that knows either of them accepts it during a rotation.
"""

import hmac
import os
import secrets
import ssl
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal, Self

from msgspec import Struct

from kafka_http import http_client
from kafka_http.config import Config
from kafka_http.errors import InvalidCallback, Unavailable
from kafka_http.http_client import HttpRequestFailed
from kafka_http.node.callbacks.callback_guard import CallbackGuard
from kafka_http.tasks import DueCallback

SECRET_FILE = "callback-secret"  # noqa: S105  a name
_MIN_SECRET_LENGTH = 16
_MAX_RESPONSE_BYTES = 16 * 1024
_BODY_SECONDS = 1.0


class CallbackResult(Struct, frozen=True):
    """The result of one attempt.

    `gone`: the receiver wants no more attempts. `refused`: the guard does not allow the URL. `failed`: another attempt
    may succeed. `reason` is a sentence for users.
    """

    status: Literal["delivered", "gone", "refused", "failed"]
    reason: str = ""


class CallbackDelivery:
    """Posts callbacks. Any thread may call."""

    def __init__(
        self,
        guard: CallbackGuard,
        secrets: Callable[[], Sequence[str]],
        timeout: float,
        *,
        clock: Callable[[], float] = time.time,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """`timeout` in seconds is for an attempt, from the resolver's query to the status of the response."""
        self._guard = guard
        self._secrets = secrets
        self._timeout = timeout
        self._clock = clock
        self._tls = tls

    @classmethod
    def from_config(cls, config: Config) -> Self:
        return cls(CallbackGuard.from_config(config), lambda: signing_secrets(config), config.callback_timeout)

    def post(self, callback: DueCallback) -> CallbackResult:
        """Make one attempt. Blocks for at most the timeout and a second for the response's body. Raises nothing."""
        try:
            status = self._post(callback)
        except InvalidCallback as error:
            return CallbackResult("refused", error.message)
        except Unavailable as error:
            return CallbackResult("failed", error.message)
        except HttpRequestFailed as error:
            return CallbackResult("failed", f"The receiver {error}.")
        return _result_of(status)

    def _post(self, callback: DueCallback) -> int:
        """Return the status of the response."""
        headers = self._headers(callback)
        target = self._guard.check_url(callback.url)
        with http_client.send(
            "POST",
            target,
            headers,
            callback.body,
            timeout=self._timeout,
            max_bytes=_MAX_RESPONSE_BYTES,
            resolve=lambda *_: self._guard.addresses(target),
            tls=self._tls,
        ) as response:
            with suppress(HttpRequestFailed):  # a receiver gets no error while it sends, but the status is known
                response.read(_BODY_SECONDS)
            return response.status

    def _headers(self, callback: DueCallback) -> dict[str, str]:
        return {
            "Content-Type": "application/json",
            "Kafka-Http-Task": callback.task_id,
            "Kafka-Http-Attempt": str(callback.attempts + 1),
            "Kafka-Http-Signature": sign(callback.body, int(self._clock()), self._secrets()),
        }


def _result_of(status: int) -> CallbackResult:
    if 200 <= status < 300:
        return CallbackResult("delivered")
    if status == 410:
        return CallbackResult("gone", "The receiver answered with status 410 and wants no more attempts.")
    redirected = " Redirects are not followed." if 300 <= status < 400 else ""
    return CallbackResult("failed", f"The receiver answered with status {status}.{redirected}")


def sign(body: bytes, timestamp: int, secrets: Sequence[str]) -> str:
    """Return the value of the signature header. `timestamp` is in seconds since 1970."""
    signed = b"%d.%s" % (timestamp, body)
    signatures = [hmac.digest(secret.encode(), signed, "sha256").hex() for secret in secrets]
    return ",".join([f"t={timestamp}", *(f"v1={signature}" for signature in signatures)])


def signing_secrets(config: Config) -> Sequence[str]:
    """Return the secrets of the settings, or else the secret of the data directory, which is created if it is missing.

    Processes that call this at the same time get the same secret. Raises `Unavailable` if the file cannot be read or
    created.
    """
    if config.callback_secret:
        return config.callback_secret
    try:
        return [_read_or_create_secret(config.data_dir / SECRET_FILE)]
    except OSError as error:
        raise Unavailable(
            f"The secret of the callbacks cannot be stored in the data directory: {error.strerror}. "
            "Set the setting callback_secret instead."
        ) from None


def _read_or_create_secret(file: Path) -> str:
    if not file.exists():
        _create_secret(file)
    secret = file.read_text("utf-8", errors="replace").strip()
    if len(secret) < _MIN_SECRET_LENGTH:
        raise Unavailable(
            f"The file {SECRET_FILE} in the data directory must contain a secret of at least {_MIN_SECRET_LENGTH} "
            "characters. Remove the file, and a new one is created."
        )
    return secret


def _create_secret(file: Path) -> None:
    """Write the file whole or not at all, and never replace one that another process may have read already."""
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(prefix=f"{SECRET_FILE}.", dir=file.parent)  # with mode 0600
    try:
        with os.fdopen(descriptor, "w") as opened:
            opened.write(f"{secrets.token_urlsafe(32)}\n")
            opened.flush()
            os.fsync(descriptor)
        with suppress(FileExistsError):
            os.link(temporary, file)
    finally:
        Path(temporary).unlink()
