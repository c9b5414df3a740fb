"""The signature of a callback, and the secret it is made with.

`Kafka-Http-Signature: t=<unix seconds>,v1=<hex>`, with HMAC-SHA256 over `<t>.<body>`; one `v1` for each secret, so that
while secrets are exchanged a receiver that knows one of them is content. The form is Stripe's.
"""

import hmac
import os
import secrets
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from kafka_http.config import Config
from kafka_http.errors import Unavailable

SECRET_FILE = "callback-secret"  # noqa: S105  a name
_SHORTEST = 16


def sign(body: bytes, timestamp: int, secrets: Sequence[str]) -> str:
    """The value of the header."""
    signed = b"%d.%s" % (timestamp, body)
    signatures = [hmac.digest(secret.encode(), signed, "sha256").hex() for secret in secrets]
    return ",".join([f"t={timestamp}", *(f"v1={signature}" for signature in signatures)])


def signing_secrets(config: Config) -> Sequence[str]:
    """Those of the settings; where there are none that of the data directory, which is made where it is not there yet.

    Several processes that ask at once get the same. Raises `Unavailable` where it cannot be read or made.
    """
    if config.callback_secret:
        return config.callback_secret
    try:
        return [_kept(config.data_dir / SECRET_FILE)]
    except OSError as error:
        raise Unavailable(
            f"The secret of the callbacks cannot be kept in the data directory: {error.strerror}. "
            "Let the setting callback_secret name one."
        ) from None


def _kept(file: Path) -> str:
    if not file.exists():
        _make(file)
    secret = file.read_text("utf-8", errors="replace").strip()
    if len(secret) < _SHORTEST:
        raise Unavailable(
            f"The file {SECRET_FILE} in the data directory holds no secret of at least {_SHORTEST} characters: remove "
            "it, and a new one is made."
        )
    return secret


def _make(file: Path) -> None:
    """Whole or not at all, and never over one that somebody may have read already."""
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor, made = tempfile.mkstemp(prefix=f"{SECRET_FILE}.", dir=file.parent)  # with mode 0600
    try:
        with os.fdopen(descriptor, "w") as opened:
            opened.write(f"{secrets.token_urlsafe(32)}\n")
            opened.flush()
            os.fsync(descriptor)
        with suppress(FileExistsError):
            os.link(made, file)
    finally:
        Path(made).unlink()
