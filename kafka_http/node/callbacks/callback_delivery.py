"""One attempt at a callback: the signed POST, and what became of it."""

import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from functools import cached_property
from http.client import HTTPException
from importlib.metadata import version
from socket import gaierror
from typing import Literal, Self

from msgspec import Struct

from kafka_http.config import Config
from kafka_http.errors import InvalidCallback, Unavailable
from kafka_http.node.callbacks.callback_connection import CheckedConnection, Deadline, in_time
from kafka_http.node.callbacks.callback_guard import CallbackGuard
from kafka_http.node.callbacks.callback_signature import sign, signing_secrets
from kafka_http.tasks import DueCallback

_USER_AGENT = f"kafka_http/{version('kafka_http')}"
_ANSWER_BYTES = 4096
_ANSWER_SECONDS = 1.0
_WORDS: Mapping[type[Exception], str] = {
    gaierror: "The receiver's host cannot be resolved.",
    ssl.SSLError: "TLS with the receiver fails.",
    ConnectionResetError: "The receiver closed the connection.",  # to http.client also one closed without an answer
    BrokenPipeError: "The receiver closed the connection.",
    OSError: "No connection to the receiver can be made.",
    HTTPException: "The receiver does not answer in HTTP.",
}
"""The first that fits."""


class CallbackResult(Struct, frozen=True):
    """`gone`: the receiver wants no more of it; `refused`: it may not go there; `failed`: it may go well next time."""

    status: Literal["delivered", "gone", "refused", "failed"]
    reason: str = ""


class CallbackDelivery:
    """Makes callbacks. Any thread may call."""

    def __init__(
        self,
        guard: CallbackGuard,
        secrets: Callable[[], Sequence[str]],
        timeout: float,
        *,
        clock: Callable[[], float] = time.time,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """`timeout` is for an attempt from the resolver's question to the status of the answer, in seconds."""
        self._guard = guard
        self._secrets = secrets
        self._timeout = timeout
        self._clock = clock
        self._given_tls = tls

    @classmethod
    def of(cls, config: Config) -> Self:
        return cls(CallbackGuard.of(config), lambda: signing_secrets(config), config.callback_timeout)

    def post(self, callback: DueCallback) -> CallbackResult:
        """Blocks for the time-out at most, and a second for the rest of an answer. Raises nothing."""
        try:
            status = self._status(callback)
        except InvalidCallback as error:
            return CallbackResult("refused", error.message)
        except Unavailable as error:
            return CallbackResult("failed", error.message)
        except (OSError, HTTPException) as error:
            return CallbackResult("failed", self._in_words(error))
        return _outcome(status)

    def _status(self, callback: DueCallback) -> int:
        headers = self._headers(callback)
        deadline = Deadline(self._timeout)
        target = self._guard.check_url(callback.url)
        addresses = in_time(lambda: self._guard.addresses(target), deadline)
        with closing(CheckedConnection(target, addresses, deadline, lambda: self._tls)) as connection:
            connection.request("POST", target.path, callback.body, headers)
            with connection.getresponse() as answer:
                deadline.end_within(_ANSWER_SECONDS)
                with suppress(OSError, HTTPException):  # what it says is known, the rest is politeness
                    answer.read(_ANSWER_BYTES)
                return answer.status

    def _headers(self, callback: DueCallback) -> dict[str, str]:
        return {
            "Content-Type": "application/json",
            "User-Agent": _USER_AGENT,
            "Connection": "close",
            "Kafka-Http-Task": callback.task_id,
            "Kafka-Http-Attempt": str(callback.attempts + 1),
            "Kafka-Http-Signature": sign(callback.body, int(self._clock()), self._secrets()),
        }

    @cached_property
    def _tls(self) -> ssl.SSLContext:
        return self._given_tls or ssl.create_default_context()

    def _in_words(self, error: OSError | HTTPException) -> str:
        if isinstance(error, TimeoutError):
            return f"The receiver did not answer within {self._timeout:g} s."
        if isinstance(error, ssl.SSLCertVerificationError):
            return f"The receiver's certificate is not trusted: {error.verify_message.rstrip('.')}."
        return next(words for kind, words in _WORDS.items() if isinstance(error, kind))


def _outcome(status: int) -> CallbackResult:
    if 200 <= status < 300:
        return CallbackResult("delivered")
    if status == 410:
        return CallbackResult("gone", "The receiver answered with status 410: it wants no more of it.")
    redirected = " Redirects are not followed." if 300 <= status < 400 else ""
    return CallbackResult("failed", f"The receiver answered with status {status}.{redirected}")
