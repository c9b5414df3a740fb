"""Two connected TLS sockets in one process, without a network."""

import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from kafka_http.config import Config
from kafka_http.security.server_tls import new_server_context
from tests.support.certificates import Authority, Issued, settings_of


@dataclass
class TlsEnds:
    """The contexts of a server and of its clients."""

    context: ssl.SSLContext
    client_context: ssl.SSLContext

    @classmethod
    def issued_by(cls, authority: Authority, client: Issued | None = None, **settings: object) -> Self:
        """Return the contexts of this server's TLS with these settings and of a client with this certificate."""
        config = Config(**settings_of(authority.server()), **settings)  # type: ignore[arg-type]
        return cls(new_server_context(config), authority.client_context(client))

    def connect(self, client: socket.socket, serve: Callable[[], None]) -> ssl.SSLSocket:
        """Let a client shake hands while `serve` runs the server, round by round."""
        client.setblocking(False)
        connected = self.client_context.wrap_socket(client, server_hostname="localhost", do_handshake_on_connect=False)
        while not _shakes_hands(connected):
            serve()
        serve()
        connected.settimeout(5)
        return connected


def tls_pair(directory: Path) -> tuple[ssl.SSLSocket, ssl.SSLSocket]:
    """Return the client's and the server's end after the handshake. They do not block.

    The key and its certificate are written to the directory.
    """
    ends = TlsEnds.issued_by(Authority(directory))
    client_end, server_end = socket.socketpair()
    server_end.setblocking(False)
    server = ends.context.wrap_socket(server_end, server_side=True, do_handshake_on_connect=False)
    client = ends.connect(client_end, lambda: _shake_hands(server))
    client.setblocking(False)
    return client, server


def _shake_hands(server: ssl.SSLSocket) -> None:
    _shakes_hands(server)


def _shakes_hands(sock: ssl.SSLSocket) -> bool:
    """Continue a handshake. Return whether it is complete."""
    try:
        sock.do_handshake()
    except ssl.SSLWantReadError:
        return False
    return True


def make_certificate(directory: Path) -> Path:
    """Write a key and its certificate for localhost, and return the file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = directory / "certificate.pem"
    encoding = serialization.Encoding.PEM
    private = key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path.write_bytes(private + certificate.public_bytes(encoding))
    return path
