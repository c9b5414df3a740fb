"""The principal that a client's certificate or a trusted proxy names."""

from typing import Any, Literal

import pytest

from kafka_http.errors import Unauthenticated
from kafka_http.security.certificates import ClientCertificates
from kafka_http.security.principal import Credentials, Principal
from kafka_http.security.proxy_header import ProxyHeader
from kafka_http.security.trusted_networks import TrustedNetworks

Kind = Literal["cn", "dns", "email", "uri"]
END = "Jan  1 00:00:00 2100 GMT"


def certificate(*names: str, end: str = END, alternatives: tuple[tuple[str, str], ...] = ()) -> dict[str, Any]:
    """Return a certificate as `ssl.SSLSocket.getpeercert` does, with these common names."""
    subject = ((("countryName", "DE"),), *((("commonName", each),) for each in names))
    return {"subject": subject, "notAfter": end, **({"subjectAltName": alternatives} if alternatives else {})}


def authenticate(found: dict[str, Any] | None, kind: Kind = "cn") -> Principal | None:
    credentials = Credentials({}, "192.0.2.1", "192.0.2.1", certificate=found)
    return ClientCertificates(kind).authenticate(credentials, blocking=False)


@pytest.mark.parametrize(("kind", "name"), [("cn", "web-1"), ("dns", "a.org"), ("email", "a@b.org"), ("uri", "x://a")])
def test_certificate_names_the_principal(kind: Kind, name: str) -> None:
    alternatives = (("DNS", "a.org"), ("DNS", "b.org"), ("email", "a@b.org"), ("URI", "x://a"))

    found = authenticate(certificate("web-1", alternatives=alternatives), kind)

    assert found is not None
    assert (found.name, found.scheme, found.expires) == (name, "certificate", 4102444800)
    assert [each for each in ("cn", "dns", "email", "uri") if ClientCertificates(each).is_current(found)] == [kind]


def test_request_without_a_certificate_returns_none() -> None:
    assert authenticate(None) is None
    assert authenticate({}) is None


@pytest.mark.parametrize(
    ("found", "kind"),
    [
        (certificate(), "cn"),
        (certificate("a", "b"), "cn"),
        (certificate(""), "cn"),
        (certificate("a\0b"), "cn"),
        (certificate("a\nb"), "cn"),
        (certificate("anonymous"), "cn"),
        (certificate("a" * 256), "cn"),
        (certificate("a", end="Jan  1 00:00:00 2020 GMT"), "cn"),
        ({"subject": ((("commonName", "a"),),)}, "cn"),
        (certificate("a"), "dns"),
        (certificate("a", alternatives=(("DNS", "a.org"),)), "email"),
        (certificate("a", alternatives=(("DNS", "a\0.org"),)), "dns"),
    ],
    ids=range(12),
)
def test_certificate_without_a_clear_name_is_refused(found: dict[str, Any], kind: Kind) -> None:
    with pytest.raises(Unauthenticated, match="client certificate"):
        authenticate(found, kind)


HEADER = ProxyHeader("X-Remote-User", TrustedNetworks(["10.0.0.0/8"]))


def named(name: str, peer: str = "10.0.0.1") -> Credentials:
    return Credentials({"x-remote-user": name}, peer, "192.0.2.1")


@pytest.mark.parametrize(
    ("sent", "name"), [("ann", "ann"), ("Ann Lee", "Ann Lee"), ("Ã¤nn", "änn"), ("a@b.org", "a@b.org")]
)
def test_trusted_proxy_names_the_principal(sent: str, name: str) -> None:
    assert HEADER.authenticate(named(sent), blocking=False) == Principal(name, "proxy")


@pytest.mark.parametrize("peer", ["192.0.2.1", "11.0.0.1", "::1", "unknown"])
def test_header_from_another_address_is_ignored(peer: str) -> None:
    assert HEADER.authenticate(named("admin", peer), blocking=False) is None


def test_forwarded_address_of_a_proxy_is_not_trusted() -> None:
    credentials = Credentials({"x-remote-user": "admin"}, peer="192.0.2.1", address="10.0.0.1")

    assert HEADER.authenticate(credentials, blocking=False) is None


def test_missing_or_empty_header_returns_none() -> None:
    assert HEADER.authenticate(named(""), blocking=False) is None
    assert HEADER.authenticate(Credentials({}, "10.0.0.1", ""), blocking=False) is None


@pytest.mark.parametrize("sent", ["admin,ann", "a\x00b", "a\x85b", "\xff", "anonymous", "a" * 256, " a", "ä\u20ac"])
def test_name_that_is_not_allowed_is_refused(sent: str) -> None:
    with pytest.raises(Unauthenticated, match="X-Remote-User has a name that is not allowed"):
        HEADER.authenticate(named(sent), blocking=False)
