"""TLS of this server: its certificate, and the certificates of clients and of other nodes that it trusts.

A faulty file is an error at start that names the setting and the file. No error text has a key or a password.
"""

import ssl
from collections.abc import Callable
from pathlib import Path

from kafka_http.config import Config, ConfigError

_WRONG_KEY = {
    "KEY_VALUES_MISMATCH",  # a key of the same type as the certificate's
    "KEY_TYPE_MISMATCH",
    "NO_CERTIFICATE_ASSIGNED",  # a key of another type, such as RSA for an ECDSA certificate
}
"""OpenSSL's errors if the private key is not the certificate's."""
_VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}


class ServerTls:
    """The TLS context of new connections. Open connections keep the context that they began with.

    The application creates it before the fork, so that the workers share the keys of session tickets.
    """

    def __init__(self, load: Callable[[], ssl.SSLContext]) -> None:
        """`load` reads the files. Raises `ConfigError`."""
        self._load = load
        self.context = load()

    def load(self) -> ssl.SSLContext:
        """Read the files again and return a new context, which the caller sets. Raises `ConfigError`."""
        return self._load()


def load_server_tls(config: Config) -> ServerTls | None:
    """Return the TLS of the server, or None if it has no `tls_cert`. Raises `ConfigError`."""
    if config.tls_cert:
        return ServerTls(lambda: new_server_context(config))
    for name in ("tls_key", "tls_key_password", "tls_client_ca", "tls_client_required"):
        if getattr(config, name):
            raise ConfigError(f"The setting {name} ({_source(config, name)}) needs tls_cert, which is empty.")
    return None


def new_server_context(config: Config) -> ssl.SSLContext:
    """Return a context with the files that the settings name. Raises `ConfigError`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = _VERSIONS[config.tls_min_version]
    context.options |= ssl.OP_NO_RENEGOTIATION  # so that no write waits for a read
    context.set_alpn_protocols(["http/1.1"])
    _load_certificate(context, config)
    if config.tls_client_ca:
        _load_client_ca(context, config)
    elif config.tls_client_required:
        source = _source(config, "tls_client_required")
        raise ConfigError(f"The setting tls_client_required ({source}) needs tls_client_ca, which is empty.")
    return context


def load_node_tls(config: Config) -> ServerTls | None:
    """Return the TLS of calls to other nodes. None: it trusts the certificates of the system. Raises `ConfigError`."""
    return ServerTls(lambda: _new_node_context(config)) if config.node_tls_ca or config.tls_client_required else None


def _new_node_context(config: Config) -> ssl.SSLContext:
    if config.node_tls_ca:
        _read_pem(config, "node_tls_ca", "CERTIFICATE-----", "a certificate")
    try:
        context = ssl.create_default_context(cafile=config.node_tls_ca or None)
    except ssl.SSLError as error:
        raise _faulty(config, "node_tls_ca", f"which cannot be used{_words(error.reason)}") from None
    if config.tls_client_required:  # the other nodes require certificates, too
        _load_certificate(context, config)
    return context


def _load_certificate(context: ssl.SSLContext, config: Config) -> None:
    _load_trusted(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), config, "tls_cert")  # only to find out which file is damaged
    key_setting = "tls_key" if config.tls_key else "tls_cert"
    key = _read_pem(config, key_setting, "PRIVATE KEY-----", "a private key")
    is_encrypted = "ENCRYPTED" in key
    if is_encrypted and not config.tls_key_password:
        raise _faulty(config, key_setting, "whose private key is encrypted. Set tls_key_password")
    try:
        # Always with a password: without one, OpenSSL asks the terminal.
        context.load_cert_chain(config.tls_cert, config.tls_key or None, config.tls_key_password)
    except (ssl.SSLError, ValueError) as error:
        reason = getattr(error, "reason", None)
        if reason in _WRONG_KEY:
            raise _faulty(config, "tls_cert", f"which does not belong to the private key of {key_setting}") from None
        if is_encrypted:
            raise _faulty(config, key_setting, "whose private key tls_key_password does not open") from None
        if reason:
            raise _faulty(config, "tls_cert", f"which cannot be used{_words(reason)}") from None
        raise _faulty(config, key_setting, "whose private key is damaged") from None


def _load_client_ca(context: ssl.SSLContext, config: Config) -> None:
    _load_trusted(context, config, "tls_client_ca")
    context.verify_mode = ssl.CERT_REQUIRED if config.tls_client_required else ssl.CERT_OPTIONAL
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # an intermediate CA may be trusted without its root
    # A resumed session is not verified again, so its certificate could have expired, or its CA be removed.
    context.options |= ssl.OP_NO_TICKET
    context.num_tickets = 0


def _load_trusted(context: ssl.SSLContext, config: Config, name: str) -> None:
    """Let a context trust the certificates in the file of a setting."""
    _read_pem(config, name, "CERTIFICATE-----", "a certificate")
    try:
        context.load_verify_locations(getattr(config, name))
    except ssl.SSLError as error:
        raise _faulty(config, name, f"which cannot be used{_words(error.reason)}") from None


def _read_pem(config: Config, name: str, marker: str, content: str) -> str:
    try:
        text = Path(getattr(config, name)).read_text("latin-1")
    except OSError as error:
        raise _faulty(config, name, f"which cannot be read: {(error.strerror or str(error)).lower()}") from None
    if marker not in text:
        raise _faulty(config, name, f"which has not {content} in the form PEM")
    return text


def _faulty(config: Config, name: str, reason: str) -> ConfigError:
    return ConfigError(f"The setting {name} ({_source(config, name)}) names {getattr(config, name)}, {reason}.")


def _source(config: Config, name: str) -> str:
    return config.sources.get(name, "default")


def _words(reason: str | None) -> str:
    """Return OpenSSL's name of an error as words: `EE_KEY_TOO_SMALL`."""
    return f": {reason.replace('_', ' ').lower()}" if reason else ""
