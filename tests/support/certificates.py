"""Certificates for tests: an authority of their own, servers and clients. Nothing is committed."""

import ssl
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from tests.support.planted_secrets import plant

_DAY = timedelta(days=1)
_SIGNS_CERTIFICATES = x509.KeyUsage(
    digital_signature=False,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=True,
    crl_sign=True,
    encipher_only=False,
    decipher_only=False,
)


class Issued(NamedTuple):
    """The files of a certificate and of its private key, in the form PEM."""

    certificate: Path
    key: Path

    @property
    def serial(self) -> int:
        return x509.load_pem_x509_certificate(self.certificate.read_bytes()).serial_number


class Authority:
    """A certificate authority. `file` has its certificate."""

    def __init__(self, directory: Path, name: str = "authority") -> None:
        self._directory = directory
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name(name)
        self._count = 0
        certificate = _certificate(self._name, self._name, self._key, self._key, is_authority=True)
        self.file = directory / f"{name}.pem"
        self.file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    def server(self, password: str = "", *, is_rsa: bool = False) -> Issued:
        """Issue a certificate for localhost and 127.0.0.1."""
        key: Any = rsa.generate_private_key(65537, 2048) if is_rsa else ec.generate_private_key(ec.SECP256R1())
        return self._issue("localhost", key, password=password)

    def client(self, name: str, *, is_expired: bool = False) -> Issued:
        """Issue a certificate for a client."""
        return self._issue(name, ec.generate_private_key(ec.SECP256R1()), is_expired=is_expired)

    def client_context(self, issued: Issued | None = None) -> ssl.SSLContext:
        """Return the context of a client that trusts this authority and has this certificate."""
        context = ssl.create_default_context(cafile=str(self.file))
        if issued is not None:
            context.load_cert_chain(*issued)
        return context

    def _issue(self, name: str, key: Any, *, password: str = "", is_expired: bool = False) -> Issued:
        self._count += 1
        files = Issued(*(self._directory / f"{name}-{self._count}.{kind}" for kind in ("pem", "key")))
        certificate = _certificate(_name(name), self._name, key, self._key, is_expired=is_expired)
        files.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        encryption = (
            serialization.BestAvailableEncryption(password.encode()) if password else serialization.NoEncryption()
        )
        form = serialization.PrivateFormat.PKCS8
        files.key.write_text(plant(key.private_bytes(serialization.Encoding.PEM, form, encryption).decode()))
        return files


def settings_of(issued: Issued) -> Mapping[str, str]:
    """Return the settings of a server with this certificate."""
    return {"tls_cert": str(issued.certificate), "tls_key": str(issued.key)}


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])


def _certificate(
    subject: x509.Name,
    issuer: x509.Name,
    key: Any,
    issuer_key: ec.EllipticCurvePrivateKey,
    *,
    is_authority: bool = False,
    is_expired: bool = False,
) -> x509.Certificate:
    now = datetime.now(UTC)
    names = [x509.DNSName("localhost"), x509.IPAddress(ip_address("127.0.0.1"))]
    builder = (
        x509.CertificateBuilder(issuer, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - 3 * _DAY)
        .not_valid_after(now - _DAY if is_expired else now + _DAY)
        .add_extension(x509.BasicConstraints(is_authority, None), critical=True)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    authority_key = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key())
    builder = builder.add_extension(authority_key, critical=False)  # Python 3.13 is strict about these
    if is_authority:
        builder = builder.add_extension(_SIGNS_CERTIFICATES, critical=True)
    return builder.sign(issuer_key, hashes.SHA256())
