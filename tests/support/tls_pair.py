"""Two connected TLS sockets in one process, without a network."""

import socket
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec


def tls_pair(directory: Path) -> tuple[ssl.SSLSocket, ssl.SSLSocket]:
    """Return the client's and the server's end after the handshake. They do not block.

    The key and its certificate are written to the directory.
    """
    certificate = make_certificate(directory)
    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_context.load_cert_chain(certificate)
    client_context = ssl.create_default_context(cafile=str(certificate))
    ends = socket.socketpair()
    for each in ends:
        each.setblocking(False)
    client = client_context.wrap_socket(ends[0], server_hostname="localhost", do_handshake_on_connect=False)
    server = server_context.wrap_socket(ends[1], server_side=True, do_handshake_on_connect=False)
    while sum(map(_shakes_hands, (client, server))) < 2:  # both, in turns
        pass
    return client, server


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
