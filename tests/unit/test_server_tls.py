"""The TLS context of the server from the settings, and faulty files."""

import ssl
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from kafka_http import create_app
from kafka_http.config import Config, ConfigError
from kafka_http.security.server_tls import load_server_tls
from tests.support.certificates import Authority, settings_of

PASSWORD = "a password of a key"  # noqa: S105


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def context_of(**settings: Any) -> ssl.SSLContext:
    tls = load_server_tls(Config(**settings))
    assert tls is not None
    return tls.context


def error_of(**settings: Any) -> str:
    with pytest.raises(ConfigError) as error:
        load_server_tls(Config(**settings))
    assert PASSWORD not in str(error.value)
    return str(error.value)


def test_tls_without_settings_is_off() -> None:
    assert load_server_tls(Config()) is None


def test_tls_by_default_needs_version_1_2_and_asks_for_no_certificate(authority: Authority) -> None:
    context = context_of(**settings_of(authority.server()))
    assert (context.minimum_version, context.verify_mode) == (ssl.TLSVersion.TLSv1_2, ssl.CERT_NONE)


def test_tls_min_version_is_used(authority: Authority) -> None:
    context = context_of(tls_min_version="1.3", **settings_of(authority.server()))
    assert context.minimum_version == ssl.TLSVersion.TLSv1_3


def test_certificate_and_key_in_one_file_are_accepted(authority: Authority, tmp_path: Path) -> None:
    certificate, key = authority.server()
    both = tmp_path / "both.pem"
    both.write_bytes(key.read_bytes() + certificate.read_bytes())
    context_of(tls_cert=str(both))


def test_encrypted_key_with_password_is_accepted(authority: Authority) -> None:
    context_of(tls_key_password=PASSWORD, **settings_of(authority.server(PASSWORD)))


@pytest.mark.parametrize(
    ("password", "reason"),
    [("", "is encrypted. Set tls_key_password."), ("wrong", "whose private key tls_key_password does not open.")],
)
def test_encrypted_key_without_its_password_is_an_error(authority: Authority, password: str, reason: str) -> None:
    """Without a password, OpenSSL asks for one on the terminal."""
    server = authority.server(PASSWORD)
    message = error_of(tls_key_password=password, **settings_of(server))
    assert message.startswith(f"The setting tls_key (default) names {server.key}, ")
    assert message.endswith(reason)


@pytest.mark.parametrize("name", ["tls_cert", "tls_key", "tls_client_ca"])
@pytest.mark.parametrize("content", [None, "", "no PEM", b"\xff\x00" * 100], ids=["missing", "empty", "text", "binary"])
def test_file_without_its_content_is_an_error_that_names_it(
    authority: Authority, tmp_path: Path, name: str, content: Any
) -> None:
    faulty = tmp_path / "faulty"
    if content is not None:
        faulty.write_bytes(content if isinstance(content, bytes) else content.encode())
    message = error_of(**{**settings_of(authority.server()), name: str(faulty)})
    expected = "which cannot be read: no such file or directory" if content is None else "which has not a"
    assert message.startswith(f"The setting {name} (default) names {faulty}, {expected}")


@pytest.mark.parametrize(("name", "kind"), [("tls_cert", "CERTIFICATE"), ("tls_client_ca", "CERTIFICATE")])
def test_damaged_certificate_is_an_error_that_names_its_file(
    authority: Authority, tmp_path: Path, name: str, kind: str
) -> None:
    damaged = tmp_path / "damaged"
    damaged.write_text(f"-----BEGIN {kind}-----\nAAAA\n-----END {kind}-----\n")
    message = error_of(**{**settings_of(authority.server()), name: str(damaged)})
    assert message.startswith(f"The setting {name} (default) names {damaged}, which cannot be used")


def test_damaged_key_is_an_error_without_its_text(authority: Authority, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged"
    damaged.write_text("-----BEGIN PRIVATE KEY-----\nSECRETSECRET\n-----END PRIVATE KEY-----\n")
    message = error_of(tls_cert=str(authority.server().certificate), tls_key=str(damaged))
    assert str(damaged) in message
    assert "SECRETSECRET" not in message


def test_key_of_another_certificate_is_an_error(authority: Authority) -> None:
    message = error_of(tls_cert=str(authority.server().certificate), tls_key=str(authority.server().key))
    assert message.endswith("which does not belong to the private key of tls_key.")


def test_key_of_another_type_than_the_certificate_is_an_error_that_says_so(
    authority: Authority, tmp_path: Path
) -> None:
    """OpenSSL's reason is NO_CERTIFICATE_ASSIGNED, which says nothing about the key."""
    key = tmp_path / "rsa.key"
    private = rsa.generate_private_key(65537, 2048)
    key.write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    message = error_of(tls_cert=str(authority.server().certificate), tls_key=str(key))
    assert message.endswith("which does not belong to the private key of tls_key.")


def test_directory_in_place_of_a_file_is_an_error(authority: Authority, tmp_path: Path) -> None:
    assert "cannot be read: is a directory" in error_of(tls_cert=str(tmp_path))


@pytest.mark.parametrize(
    "settings",
    [{"tls_key": "k"}, {"tls_client_ca": "c"}, {"tls_client_required": True}, {"tls_key_password": PASSWORD}],
)
def test_setting_of_tls_without_certificate_is_an_error(settings: dict[str, Any]) -> None:
    assert error_of(**settings).endswith("needs tls_cert, which is empty.")


def test_required_client_certificate_without_authority_is_an_error(authority: Authority) -> None:
    message = error_of(tls_client_required=True, **settings_of(authority.server()))
    assert message == "The setting tls_client_required (default) needs tls_client_ca, which is empty."


def test_application_with_faulty_certificate_does_not_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="tls_cert"):
        create_app(Config(tls_cert=str(tmp_path / "missing"), daemon="inline"))


def test_load_reads_renewed_files_and_keeps_the_context_after_an_error(authority: Authority) -> None:
    server = authority.server()
    tls = load_server_tls(Config(**settings_of(server)))
    assert tls is not None
    before = tls.context
    server.certificate.write_text("damaged")
    with pytest.raises(ConfigError):
        tls.load()
    assert tls.context is before
    renewed = authority.server()
    server.certificate.write_bytes(renewed.certificate.read_bytes())
    server.key.write_bytes(renewed.key.read_bytes())
    assert tls.load() is not before
